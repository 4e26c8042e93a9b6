"""Speed of the real thing: a Qwen2-Audio-7B of random weights, and what it gains from fewer audio tokens.

    python -m bench.prefill --out results/bench/prefill.json        # 10 minutes on 2 idle cores at most; or on a GPU
    python -m bench.prefill --out out/quick.json --quick            # seconds: tiny shapes, for the tests, no figures

On a GPU the model is whole, in bfloat16. On a CPU its layers have their true shapes and there is one of each kind, and
a short vocabulary; the result says so. Sizes are those of huggingface.co/Qwen/Qwen2-Audio-7B/blob/main/config.json; the
text_config leaves out hidden_size, layers and heads, which are then the defaults of transformers' Qwen2AudioConfig.

One call of the model with a method attached is timed in its parts, at the borders of the model's own modules:

1. encoder: audio tower and projector. It does not depend on keep, so a round encodes once.
2. compression: plan and apply, finding the clips, trimming their placeholders. (For a method at site=encoder also the
   projector on what it made; for one that needs scores their capture is in the encoder's time.)
3. merge: embeddings of the text and audio tokens into their places, as the stock model does too.
4. prefill: the LLM reads the prompt, vocabulary included.
5. decode: one token each, with the KV cache.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import Qwen2AudioConfig

import fewhertz
from bench.clock import elapsed
from bench.parts import LLM_SIDE, free_bytes, read_prompt
from bench.record import environment, progress, save
from bench.shapes import (
    AUDIO_7B,
    LAYERS,
    TEXT_7B,
    TEXT_AFTER,
    TEXT_BEFORE,
    TEXT_PER_CLIP,
    TINY_AUDIO,
    TINY_TEXT,
    Case,
    build,
    configuration,
    request,
    tokens_of_clip,
)
from fewhertz.cost import kv_bytes, prefill_flops
from fewhertz.method import Method
from fewhertz.once import encode_once

KEEPS = ("1", "1/2", "1/3", "1/4", "1/6", "1/10")
BAR_KEEP = "1/3"
COMPRESSION_BAR = 0.01  # largest share of the prefill time that it saves
SPEEDUP_BAR = 0.85  # least share of the speed-up that FLOPs predict
PAPER_MS = {"1": 162.5, "1/2": 34.4}  # prefill at two keeps on an A100, arXiv 2511.14293
MIN_ROUNDS = 2
DECODE_STEPS = 4

SCALED = f"compression_over_saved_{LAYERS}_layers"
WHOLE: dict[str, Any] = {"text": TEXT_7B, "audio": AUDIO_7B, "clips": [1, 10], "batches": [1, 16], "rounds": 5}
ON_CPU: dict[str, Any] = WHOLE | {
    "text": TEXT_7B | {"num_hidden_layers": 1, "vocab_size": 1024},
    "audio": AUDIO_7B | {"encoder_layers": 1},
}
QUICK: dict[str, Any] = {
    "text": TINY_TEXT,
    "audio": TINY_AUDIO,
    "clips": [1, 2],
    "batches": [1, 2],
    "rounds": MIN_ROUNDS,
}


def flops(text: Any, n: int) -> int:
    """Floating-point operations in which transformers' Qwen2-Audio reads a prompt of `n` tokens.

    With d the width, f the MLP's, L layers, V tokens in the vocabulary and as many key heads as query heads::

        L · (2n·(4d² + 3d·f) + 2d·n(n + 1)) + 2n·d·V

    A multiply and an add are two. Attention is 4d for each pair of a token and one before it or itself, since torch's
    kernels skip the rest where they know no more than that it is causal; the whole square would be 4d·n². This
    model's `forward` makes logits at every position: `fewhertz.cost.prefill_flops` counts those of the last alone,
    which would do.

    Args:
        text: the LLM's configuration.
        n: tokens of the prompt, audio and text.
    """
    return prefill_flops(text, n) + 2 * (n - 1) * text.hidden_size * text.vocab_size


@dataclass(frozen=True)
class Work:
    """What of a case is measured."""

    case: Case
    methods: Sequence[Method]
    keeps: Sequence[str]
    rounds: int


def at_keep(method: Method, keep: str) -> Method:
    return replace(method, keep=Fraction(keep), rate=None)


def needed_bytes(config: Qwen2AudioConfig, case: Case, dtype: torch.dtype) -> int:
    """Estimate of what a case takes at keep=1 beside the weights: KV cache, and the widest step of LLM or encoder."""
    text, audio = config.text_config, config.audio_config
    tokens = case.batch * case.prompt(tokens_of_clip(config))
    frames = case.batch * case.clips * audio.max_source_positions
    encoder = frames * (2 * audio.encoder_ffn_dim + 4 * audio.d_model)
    # three tensors of the MLP's width, or logits; beside them about six of the model's
    llm = tokens * (max(3 * text.intermediate_size, text.vocab_size) + 6 * text.hidden_size)
    return kv_bytes(text, tokens, dtype) + max(encoder, llm) * dtype.itemsize


def sample(model: Any, inputs: dict[str, Tensor], method: Method, device: str) -> dict[str, Any]:
    """One call of the model with the method attached, and some tokens more: seconds of each part, tokens and bytes."""
    with fewhertz.compress(model, method) as handle:
        reading = read_prompt(model, inputs, device)
        cache = reading.out.past_key_values
        del reading.out  # logits at every position: gigabytes
        held = [t for layer in cache.layers for t in (layer.keys, layer.values)]
        one = {
            "seconds": reading.seconds,
            "peaks": reading.peaks,
            "audio_tokens": sum(handle.last.after),
            "prompt_tokens": cache.get_seq_length(),
            "kv_bytes": sum(t.numel() * t.element_size() for t in held),
        }
        del held
        ids = inputs["input_ids"][:, :1]
        one["decode"] = [
            elapsed(lambda: model(input_ids=ids, past_key_values=cache, use_cache=True), device)
            for _ in range(DECODE_STEPS)
        ]
    return one


Samples: TypeAlias = dict[tuple[Method, str], list[dict[str, Any]]]


def measure(model: Any, work: Work, device: str, dtype: torch.dtype) -> Samples:
    """Every method at every keep once a round, so that a busy moment of the machine falls on all alike."""
    inputs = request(model.config, work.case, device, dtype)
    samples: Samples = defaultdict(list)
    for i in range(work.rounds):
        with encode_once(model):
            for method in work.methods:
                for keep in work.keeps:
                    samples[method, keep].append(sample(model, inputs, at_keep(method, keep), device))
        progress(f"{work.case}: round {i + 1} of {work.rounds}")
    return samples


def encoder_of(work: Work, samples: Samples) -> dict[str, Any]:
    """The encoder's time and peak in the first call of each round, the one that encodes."""
    first = samples[work.methods[0], work.keeps[0]]
    return {
        "case": str(work.case),
        "rounds": work.rounds,
        "encoder_seconds": statistics.median(one["seconds"]["encoder"] for one in first),
        "encoder_peak_bytes": max((one["peaks"]["encoder"] for one in first if one["peaks"]), default=None),
    }


def rows_of(config: Qwen2AudioConfig, work: Work, samples: Samples, encoder: float) -> list[dict[str, Any]]:
    """A row for each method and keep: medians of the rounds; what is a ratio is the median of each round's ratio."""
    text, case = config.text_config, work.case
    scale = LAYERS / text.num_hidden_layers
    rows = []
    for (method, keep), ones in samples.items():
        whole, shorter = samples[method, "1"], at_keep(method, keep)
        n, n_whole = ones[0]["prompt_tokens"], whole[0]["prompt_tokens"]
        expected = case.prompt(shorter.num_tokens(tokens_of_clip(config)))
        assert n == expected, f"the LLM read {n} tokens, not {expected}"
        parts = {part: statistics.median(one["seconds"][part] for one in ones) for part in LLM_SIDE}
        prefill = [(w["seconds"]["prefill"], one["seconds"]["prefill"]) for w, one in zip(whole, ones, strict=True)]
        saved = statistics.median(long - short for long, short in prefill)
        measured = statistics.median(long / short for long, short in prefill)
        predicted = flops(text, n_whole) / flops(text, n)
        share = parts["compression"] / saved if saved > 0 else None
        rows.append(
            {
                "case": str(case),
                "clips": case.clips,
                "batch": case.batch,
                "method": shorter.spec,
                "keep": keep,
                "audio_tokens": ones[0]["audio_tokens"] // case.batch,
                "prompt_tokens": n,
                "flops": case.batch * flops(text, n),
                "seconds": parts | {"decode": statistics.median(s for one in ones for s in one["decode"])},
                "first_token_seconds": encoder + sum(parts.values()),
                "prefill_range": [min(s for _, s in prefill), max(s for _, s in prefill)],
                "kv_bytes": ones[0]["kv_bytes"],
                "peak_bytes": max((one["peaks"]["llm"] for one in ones if one["peaks"]), default=None),
                "speedup": measured,
                "speedup_predicted": predicted,
                "measured_over_predicted": measured / predicted,
                "prefill_saved": saved,
                "compression_over_saved": share,
                SCALED: None if share is None else share / scale,
            }
        )
    return rows


def plan(
    cases: Sequence[Case],
    methods: Sequence[Method],
    round_seconds: Callable[[Case, Sequence[Method], Sequence[str]], float],
    budget: float,
    most: int,
) -> tuple[list[Work], list[dict[str, str]]]:
    """What fits into `budget` seconds, and what is left out and why.

    A case is measured with all methods; else with the first alone; else with the first at keep=1 and the bar's keep;
    else not. It gets `MIN_ROUNDS` at first; what time is left then goes to more rounds, in the order of the cases.

    Args:
        cases: in order of importance.
        methods: likewise.
        round_seconds: estimate for one round.
        budget: seconds for all.
        most: rounds that a case gets at most.
    """
    others = ", ".join(method.name for method in methods[1:])
    few = f"keeps but 1 and {BAR_KEEP}"
    left = budget
    works, left_out = [], []
    for case in cases:
        scopes = [
            ("", methods, KEEPS),
            (others, methods[:1], KEEPS),
            ("; ".join(filter(None, [others, few])), methods[:1], ("1", BAR_KEEP)),
            ("everything", (), ()),
        ]
        missing, some, keeps = next(scope for scope in scopes if MIN_ROUNDS * round_seconds(case, *scope[1:]) <= left)
        if missing:
            whole = MIN_ROUNDS * round_seconds(case, methods, KEEPS)
            why = f"{MIN_ROUNDS} rounds of all take about {whole:.0f} s; of {budget:.0f} s, {left:.0f} were left"
            left_out.append({"case": str(case), "what": missing, "why": why})
        if some:
            works.append(Work(case, some, keeps, MIN_ROUNDS))
            left -= MIN_ROUNDS * round_seconds(case, some, keeps)
    for i, work in enumerate(works):
        each = round_seconds(work.case, work.methods, work.keeps)
        more = min(most - MIN_ROUNDS, int(left // each))
        left -= more * each
        works[i] = replace(work, rounds=MIN_ROUNDS + more)
    return works, left_out


def warm_up(model: Any, method: Method, device: str, dtype: torch.dtype) -> tuple[float, float, float]:
    """Seconds of an operation of the LLM, of an encoder window, and of a decoded token, for the estimate."""
    case, config = Case(1, 1), model.config
    inputs = request(config, case, device, dtype)
    for _ in range(2):  # the first call also makes what later ones find made
        one = sample(model, inputs, at_keep(method, "1/2"), device)
    seconds = one["seconds"]
    return (
        seconds["prefill"] / flops(config.text_config, one["prompt_tokens"]),
        seconds["encoder"],
        statistics.median(one["decode"]),
    )


def notes(device: str) -> list[str]:
    """How the figures came about."""
    peak = "torch.cuda.max_memory_allocated" if device == "cuda" else "the resident set of the process (Linux VmHWM)"
    return [
        "weights and audio are random: times of these shapes, no quality",
        "seconds are medians of rounds in which every method and keep is measured once; speed-ups and what is saved "
        "are medians over the rounds, keep=1 against the keep in the same round, method by method",
        "compression: from the call's begin to the embedding of the trimmed prompt, without encoder and projector; at "
        "keep=1 it is bookkeeping that the stock model has too",
        "first_token_seconds: encoder, compression, merge and prefill",
        "speedup_predicted: ratio of flops() in bench/prefill.py, logits at every position, as this model makes them",
        f"peak bytes: {peak}; the most while the LLM read the prompt, or while the encoder ran; weights included",
        f"{SCALED}: {LAYERS} times the prefill time saved by one layer, vocabulary included",
    ]


def reductions(size: dict[str, Any], device: str, dtype: torch.dtype) -> list[str]:
    """Where what ran is not the whole model."""
    said = []
    for part, field in (("text", "num_hidden_layers"), ("text", "vocab_size"), ("audio", "encoder_layers")):
        if size[part][field] != WHOLE[part][field]:
            said.append(f"{part} {field}: {size[part][field]:,} for {WHOLE[part][field]:,}")
    if device == "cpu" and dtype == torch.float32:
        said.append("float32 for bfloat16" + ("" if has_bfloat16() else ": this CPU has no arithmetic for it"))
    return said


def bars(rows: list[dict[str, Any]], kv_bytes_per_token: int) -> list[dict[str, Any]]:
    """The three bars; `met` is None where no row tells."""
    ratio = "measured_over_predicted"
    shortened = [row for row in rows if row["keep"] != "1"]
    at_bar = [row for row in rows if row["keep"] == BAR_KEEP]
    # a row that saved no time has no share, and is the worst
    dearest = max(shortened, key=lambda row: float("inf") if row[SCALED] is None else row[SCALED], default=None)
    slowest = min(at_bar, key=lambda row: row[ratio], default=None)
    inexact = [row for row in rows if row["kv_bytes"] != kv_bytes_per_token * row["batch"] * row["prompt_tokens"]]
    return [
        {
            "what": "compression over the prefill time that it saves",
            "bar": f"at most {COMPRESSION_BAR}",
            **worst(dearest, SCALED),
            "met": dearest and dearest[SCALED] is not None and dearest[SCALED] <= COMPRESSION_BAR,
        },
        {
            "what": f"prefill's speed-up at keep={BAR_KEEP} over what FLOPs predict",
            "bar": f"at least {SPEEDUP_BAR}",
            **worst(slowest, ratio),
            "met": slowest and slowest[ratio] >= SPEEDUP_BAR,
        },
        {
            "what": f"bytes of the KV cache: {kv_bytes_per_token} for each token of the prompt",
            "bar": "exactly, in every row",
            **worst(inexact[0] if inexact else None, "kv_bytes"),
            "met": not inexact if rows else None,
        },
    ]


def worst(row: dict[str, Any] | None, field: str) -> dict[str, Any]:
    return {"worst": row and row[field], "worst_row": row and f"{row['case']}, {row['method']}"}


def paper(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether fewer FLOPs alone can make prefill as much faster as arXiv 2511.14293 reports of half the tokens.

    What is predicted is of the whole 7B, whatever ran here. The limit holds for any model of full attention, any length
    and any text around: operations are a + b·n + c·n² with nothing negative, so half of n leaves a quarter at least.
    """
    config = configuration(WHOLE)
    n = tokens_of_clip(config)
    one = Case(1, 1)
    long, short = one.prompt(n), one.prompt(round(n / 2))
    predicted = flops(config.text_config, long) / flops(config.text_config, short)
    ten = Case(10, 1)
    predicted_ten = flops(config.text_config, ten.prompt(n)) / flops(config.text_config, ten.prompt(round(n / 2)))
    reported = PAPER_MS["1"] / PAPER_MS["1/2"]
    saved = PAPER_MS["1"] - PAPER_MS["1/2"]
    explained = PAPER_MS["1"] * (1 - 1 / predicted)
    limit = 0.5**-2
    here = {f"{row['case']}, {row['method']}": row["speedup"] for row in rows if row["keep"] == "1/2"}
    return {
        "source": "arXiv 2511.14293, on an A100",
        "reported_ms": PAPER_MS,
        "reported_speedup": reported,
        "limit_at_any_length": limit,
        "predicted_speedup_30s": predicted,
        "predicted_speedup_10x30s": predicted_ten,
        "measured_speedup_here": here,
        "fewer_flops_can_explain_it": reported <= limit,
        "ms_saved": saved,
        "ms_saved_explained_30s": explained,
        "share_of_other_effects_30s": 1 - explained / saved,
        "factor_of_other_effects_30s": reported / predicted,
    }


def show(result: dict[str, Any]) -> None:
    """The result as tables."""
    console = Console(width=max(100, Console().width))
    if result["quick"]:
        console.print("quick: tiny shapes, so the times say nothing about the bars")
    for text in result["reduced"]:
        console.print(f"reduced: {text}", highlight=False)
    columns = ("tokens", "compr.", "prefill", "decode", "KV MB", "peak GB", "faster", "of FLOPs'", "compr./saved")
    for case in result["cases"]:
        encoder = f"encoder {case['encoder_seconds'] * 1e3:.1f} ms"
        title = f"{case['case']}: {encoder}, {case['rounds']} rounds, times in ms"
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
        table.add_column("method", no_wrap=True)
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
        for row in (row for row in result["rows"] if row["case"] == case["case"]):
            parts = (f"{row['seconds'][part] * 1e3:.1f}" for part in ("compression", "prefill", "decode"))
            peak = "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.2f}"
            share = "–" if row["keep"] == "1" or row[SCALED] is None else f"{row[SCALED]:.3%}"
            table.add_row(
                row["method"].replace("@keep=", " "),
                f"{row['prompt_tokens']:,}",
                *parts,
                f"{row['kv_bytes'] / 1e6:.1f}",
                peak,
                f"{row['speedup']:.2f}×",
                f"{row['measured_over_predicted']:.2f}",
                share,
            )
        console.print(table)
    console.print(f"compr./saved: compression over the prefill time that it saves in {LAYERS} layers", highlight=False)
    for left in result["left_out"]:
        console.print(f"left out of {left['case']}: {left['what']}: {left['why']}", highlight=False)
    for bar in result["bars"]:
        verdict = {True: "met", False: "[red]missed[/red]", None: "inconclusive"}[bar["met"]]
        value = "none saved" if bar["worst"] is None else f"{bar['worst']:.4g}"
        where = "" if bar["worst_row"] is None else f"; worst: {value} ({bar['worst_row']})"
        console.print(f"{bar['what']}: {bar['bar']}: {verdict}{where}", highlight=False)
    found = result["paper"]
    console.print(
        f"{found['source']}: half the tokens, {found['reported_speedup']:.1f} times faster. Fewer FLOPs make prefill "
        f"{found['limit_at_any_length']:.0f} times faster at most, whatever the length, and "
        f"{found['predicted_speedup_30s']:.2f} times for 30 s in Qwen2-Audio-7B: "
        f"{found['share_of_other_effects_30s']:.0%} of the {found['ms_saved']:.0f} ms saved would be something else.",
        highlight=False,
    )


def has_bfloat16(info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU multiplies bfloat16 numbers itself; elsewhere torch makes up for it, slowly."""
    words = set(info.read_text().split()) if info.exists() else set()
    return bool(words & {"amx_bf16", "avx512_bf16", "bf16"})


def checked(methods: list[str], device: str) -> list[Method]:
    """The methods asked for; an error of one line for what cannot be measured."""
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise typer.BadParameter(f"--device is cpu, or cuda where there is a GPU; got {device!r}")
    try:
        asked = [fewhertz.parse(method, "1") for method in methods]
        if free := [method.name for method in asked if not method.fixed_budget]:
            raise ValueError(f"{free[0]} takes no budget: its count follows the content of the audio")
        return asked
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(f"--method is one of fixed budget, without it: {error}") from error


def main(
    out: Annotated[Path, typer.Option(help="Result file (JSON).")],
    method: Annotated[
        list[str] | None, typer.Option(help="A method without its budget; several times for more.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Tiny shapes: shows that the bench runs, measures nothing.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda; by default cuda where there is one.")] = "",
    threads: Annotated[int, typer.Option(help="Threads on the CPU; by default torch's choice.")] = 0,
    budget: Annotated[float, typer.Option(help="Seconds that the rounds may take, by estimate.")] = 540.0,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32; by default bfloat16 where the device has it.")] = "",
) -> None:
    """Measure, write the result file, print the tables."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    methods = checked(method or ["pool", "segment", "ltbm", "ward"], device)
    if threads:
        torch.set_num_threads(threads)
    size = QUICK if quick else WHOLE if device == "cuda" else ON_CPU
    if dtype not in ("", "bfloat16", "float32"):
        raise typer.BadParameter(f"--dtype is bfloat16 or float32; got {dtype!r}")
    dtype = dtype or ("bfloat16" if device == "cuda" or has_bfloat16() else "float32")
    weights = getattr(torch, dtype)
    torch.manual_seed(0)
    config = configuration(size)
    text, audio = config.text_config, config.audio_config
    before = environment(device)

    progress(f"building a model of {text.num_hidden_layers} + {audio.encoder_layers} layers in {dtype} on {device}")
    model = build(config, device, weights)
    with torch.inference_mode():
        per_flop, per_window, per_token = warm_up(model, methods[0], device, weights)

        def round_seconds(case: Case, some: Sequence[Method], keeps: Sequence[str]) -> float:
            if not some:
                return 0.0
            lengths = [case.prompt(at_keep(m, keep).num_tokens(tokens_of_clip(config))) for m in some for keep in keeps]
            reading = case.batch * sum(flops(text, n) for n in lengths) * per_flop
            return case.clips * case.batch * per_window + reading + len(lengths) * DECODE_STEPS * per_token

        cases, too_large = [], []
        for case in (Case(clips, batch) for batch in size["batches"] for clips in size["clips"]):
            needed, free = needed_bytes(config, case, weights), free_bytes(device)
            if free is None or needed <= free:
                cases.append(case)
            else:
                why = f"about {needed / 1e9:.0f} GB beside the weights at keep=1, {free / 1e9:.0f} GB free"
                too_large.append({"case": str(case), "what": "everything", "why": why})
        works, left_out = plan(cases, methods, round_seconds, budget, size["rounds"])
        took = sum(work.rounds * round_seconds(work.case, work.methods, work.keeps) for work in works)
        progress(f"{sum(work.rounds for work in works)} rounds of {len(works)} cases, about {took:.0f} s")

        rows, encoders = [], []
        for work in works:
            samples = measure(model, work, device, weights)
            encoders.append(encoder_of(work, samples))
            rows += rows_of(config, work, samples, encoders[-1]["encoder_seconds"])

    result = {
        "what": "Qwen2-Audio-7B's shapes with random weights: seconds of each part of a call, KV bytes, peak memory",
        "notes": notes(device),
        "reduced": reductions(size, device, weights),
        "quick": quick,
        "configuration": {
            "text": size["text"],
            "audio": size["audio"],
            "whole": {"text": TEXT_7B, "audio": AUDIO_7B},
            "methods": [m.spec.split("@")[0] for m in methods],
            "keeps": KEEPS,
            "prompt": {"before": TEXT_BEFORE, "per_clip": TEXT_PER_CLIP, "after": TEXT_AFTER},
            "decode_steps": DECODE_STEPS,
            "parameters": sum(p.numel() for p in model.parameters()),
            "device": device,
            "dtype": dtype,
            "attention": config._attn_implementation,
            "budget_seconds": budget,
        },
        "environment": before,
        "cases": encoders,
        "rows": rows,
        "left_out": left_out + too_large,
        "bars": bars(rows, kv_bytes(text, 1, weights)),
        "paper": paper(rows),
    }
    save(result, out)
    show(result)
    Console().print(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
