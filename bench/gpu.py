"""Price and gain on a GPU, at true size, within a budget of seconds: whole models, and ways to attend with log s.

    python -m bench.gpu --out results/bench/gpu.json --seconds 140             # one GPU of 80 GB, bfloat16
    python -m bench.gpu --out results/bench/gpu.json --picture docs/research/gpu.png    # draws it, measures nothing
    python -m bench.gpu --out out/quick.json --quick --device cpu              # seconds: tiny shapes, no figures

1. ceilings: what a large copy and a large matrix product reach here.
2. Qwen2-Audio-7B's shapes, random weights: the parts of a call (bench/parts.py has them), a step of decoding and peak
   memory, without a method and with some.
3. ways: how log s can enter attention (bench/proportional.py has them), at a 7B layer's shape.
4. The same encoder before an LLM of Qwen3-0.6B's shapes, as in 2.
5. flex: FlexAttention as in 3; last, since it compiles.

The result is written after each part, and a part that fails is named in it and does not end the others. What the budget
leaves no time for is named.
"""

from __future__ import annotations

import gc
import json
import math
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import pad

import fewhertz
from bench import prefill, proportional
from bench.clock import elapsed
from bench.parts import LLM_SIDE, read_prompt, reset_peak
from bench.record import environment, progress, save
from bench.shapes import (
    AUDIO_7B,
    QWEN3_06B,
    TEXT_7B,
    TEXT_AFTER,
    TEXT_BEFORE,
    TEXT_PER_CLIP,
    TINY_AUDIO,
    TINY_TEXT,
    Case,
    build,
    configuration,
    layer_of,
    request,
)
from fewhertz.cost import prefill_flops
from fewhertz.errors import squeezed
from fewhertz.once import encode_once

NONE = "none"  # the stock model, without a method
KEEPS = ("1/2", "1/3", "1/4")
METHODS = ("pool@keep={}", "ward@keep={}+time+sizes")
SPECS = (NONE, *(method.format(keep) for method in METHODS for keep in KEEPS))
EAGER_STEPS = 4
REPEATS = 15
COLD_BYTES = 2**27  # written before each timing: more than the L2 cache of an H200 holds
FLEX_SECONDS = 15.0  # compiling it for one shape takes about so long

SEVEN, SMALL = "Qwen2-Audio-7B", "its encoder before a 0.6B LLM"
CASES = [Case(1, 1), Case(10, 1), Case(1, 16), Case(1, 64), Case(10, 16)]
FULL: dict[str, Any] = {
    "models": {
        SEVEN: {"text": TEXT_7B, "audio": AUDIO_7B, "cases": CASES},
        SMALL: {"text": QWEN3_06B, "audio": AUDIO_7B, "cases": CASES},
    },
    "rounds": 5,
    "share": {SEVEN: 0.07, SMALL: 0.03},  # of the budget, after which a case begins no further round
    "copy_bytes": 2**32,
    "product": 8192,
    "layer": layer_of(TEXT_7B),
    "ways": [
        ("prefill", 790, 1),
        ("prefill", 790, 16),
        ("prefill", 7540, 1),
        ("decode", 790, 1),
        ("decode", 790, 16),
        ("decode", 7540, 1),
        ("decode", 7540, 16),
    ],
    "flex": [("prefill", 7540, 1), ("decode", 7540, 1), ("prefill", 790, 1), ("decode", 790, 1)],
    "exact_tokens": 290,
}
QUICK: dict[str, Any] = FULL | {
    "models": {
        SEVEN: {"text": TINY_TEXT, "audio": TINY_AUDIO, "cases": [Case(1, 1), Case(2, 2)]},
        SMALL: {
            "text": TINY_TEXT | {"num_key_value_heads": 2, "head_dim": 32},
            "audio": TINY_AUDIO,
            "cases": [Case(1, 2)],
        },
    },
    "rounds": 1,
    "copy_bytes": 2**12,
    "product": 64,
    "layer": layer_of(TINY_TEXT),
    "ways": [("prefill", 60, 2), ("decode", 60, 2)],
    "flex": [("prefill", 60, 2), ("decode", 60, 2)],
    "exact_tokens": 60,
}
NOTES = [
    "weights and audio are random: times of these shapes, no quality",
    f"{NONE}: the stock model; merge is then all between encoder and LLM",
    "the LLM makes logits of the last position alone, as servers do; transformers' Qwen2-Audio makes them at every one",
    "seconds: medians of rounds in which each method is measured once, synchronised at the borders of the parts; the "
    "round before warms up, and counts only where the budget ended it there (warmed_up: false)",
    "encoder: once a case, from the calls that encode; first_token: encoder, compression, merge, prefill",
    "decode: one step, its key and value written in place behind the prompt's, so that it repeats. eager: as "
    "transformers calls it, mostly Python's time at small batches; device: replays of a CUDA graph of it, caches cold",
    "peak bytes: torch.cuda.max_memory_allocated in the round that warms up, weights included, the larger of encoder's "
    "and LLM's; with a method also the encoder's output, kept for the other methods",
    "fits: false where memory ran out",
    "speedup: over none in the same case, medians; predicted: ratio of fewhertz.cost.prefill_flops",
    "ways: as in bench/proportional.py, which says what they are; each a CUDA graph of one call, caches cold; a mask "
    "is made before, as once for all layers",
]


def age() -> float:
    """Seconds since this process began, imports included; 0 where the system does not say."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return 0.0


class Budget:
    """Seconds of the wall clock, from the begin of the process."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() - age() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def device_seconds(run: Callable[[], object], device: str) -> float:
    """Median time that the device takes for a call, without the gaps in which Python prepares the next kernel.

    On a CPU, of the call itself.

    Raises:
        RuntimeError: where the call waits for the device within, so that no graph can be made of it.
    """
    if device == "cpu":
        return statistics.median(elapsed(run, device) for _ in range(REPEATS))
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
        # found here, it costs nothing
        torch.cuda.set_sync_debug_mode("error")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    try:
        with torch.cuda.graph(graph, stream=stream):
            run()
    except Exception:
        # a capture that fails leaves the device's generator as if it went on
        fresh = torch.Generator(device).graphsafe_get_state()
        torch.cuda.default_generators[torch.cuda.current_device()].graphsafe_set_state(fresh)
        raise
    cold = torch.empty(COLD_BYTES, dtype=torch.uint8, device=device)
    graph.replay()
    times = []
    for i in range(REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        cold.fill_(i)
        begin.record()
        graph.replay()
        end.record()
        times.append((begin, end))
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) / 1e3 for begin, end in times)


def free_memory(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def ceilings(size: dict[str, Any], device: str, dtype: torch.dtype) -> dict[str, float]:
    """Bytes a second of a copy, read and written, and operations a second of a matrix product."""
    n = size["product"]
    source = torch.randn(size["copy_bytes"] // dtype.itemsize, device=device).to(dtype)
    target = torch.empty_like(source)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    for _ in range(3):
        target.copy_(source), a @ b
    copy = statistics.median(elapsed(lambda: target.copy_(source), device) for _ in range(REPEATS))
    product = statistics.median(elapsed(lambda: a @ b, device) for _ in range(REPEATS))
    return {"copy_bytes_per_second": 2 * source.nbytes / copy, "product_flops_per_second": 2 * n**3 / product}


@contextmanager
def last_logits(model: Any) -> Iterator[None]:
    """While it lasts, the model makes logits of the last position alone."""
    hook = model.lm_head.register_forward_pre_hook(lambda _, args: (args[0][:, -1:],))
    try:
        yield
    finally:
        hook.remove()


def in_place(cache: Any) -> None:
    """Let the cache hold its tokens and one more, which each further step writes anew.

    It then says at every step that it holds what it held before, so a step can be repeated, and nothing is copied.
    """
    for layer in cache.layers:
        keys, values = pad(layer.keys, (0, 0, 0, 1)), pad(layer.values, (0, 0, 0, 1))
        layer.keys, layer.values = keys[:, :, :-1], values[:, :, :-1]

        def update(key: Tensor, value: Tensor, *_: Any, into: tuple[Tensor, Tensor] = (keys, values), **__: Any) -> Any:
            into[0][:, :, -1:], into[1][:, :, -1:] = key, value
            return into

        layer.update = update


def sample(model: Any, inputs: dict[str, Tensor], spec: str, device: str, by_graph: bool) -> dict[str, Any]:
    """One call of the model, and a step of decoding: seconds of each part, tokens and bytes.

    Args:
        model: the model, without a method.
        inputs: as its processor makes them.
        spec: a method, or `NONE`.
        device: where the model is.
        by_graph: also time the step on the device alone.
    """
    with nullcontext() if spec == NONE else fewhertz.compress(model, spec) as handle:
        reset_peak(device)
        reading = read_prompt(model, inputs, device)
        seconds, cache = reading.seconds, reading.out.past_key_values
        if handle is None:  # it embeds the text first, and encodes then
            seconds["merge"] += seconds["compression"]
            seconds["compression"] = 0.0
        held = [t for layer in cache.layers for t in (layer.keys, layer.values)]
        one: dict[str, Any] = {
            "seconds": dict(seconds),
            "encoded": handle is None or handle.last.spared == 0,
            "peaks": reading.peaks,
            "prompt_tokens": cache.get_seq_length(),
            "kv_bytes": sum(t.numel() * t.element_size() for t in held),
        }
        del reading, held
        in_place(cache)
        ids = inputs["input_ids"][:, :1]

        def step() -> object:
            return model(input_ids=ids, past_key_values=cache, use_cache=True)

        step()
        one["decode_eager"] = [elapsed(step, device) for _ in range(EAGER_STEPS)]
        if by_graph:
            try:
                one["decode_device"] = device_seconds(step, device)
            except Exception as error:
                one["no_graph"] = said(error)
    return one


def said(error: BaseException) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {squeezed(error, 300)}"


def measure(
    model: Any, case: Case, rounds: int, seconds: float, budget: Budget, device: str, dtype: torch.dtype
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str], list[str]]:
    """Each method once a round; the first round warms up.

    Returns:
        Samples of each method, in the order of rounds; methods that failed and why; and tracebacks of failures other
        than of memory.
    """
    begun = time.monotonic()
    inputs = request(model.config, case, device, dtype)
    samples: dict[str, list[dict[str, Any]]] = {spec: [] for spec in SPECS}
    failed: dict[str, str] = {}
    traces = []
    with torch.inference_mode(), encode_once(model), last_logits(model):
        for i in range(rounds + 1):
            for spec in SPECS:
                if budget.left <= 0:
                    failed |= {name: "no time was left" for name, ones in samples.items() if not ones}
                    return samples, failed, traces
                if spec in failed:
                    continue
                try:
                    samples[spec].append(sample(model, inputs, spec, device, by_graph=i == 0))
                except torch.OutOfMemoryError as error:
                    failed[spec] = said(error)
                except Exception as error:
                    failed[spec] = said(error)
                    traces.append(traceback.format_exc())
                if spec in failed:
                    samples[spec].clear()
                    free_memory(device)
            # at least one after the one that warms up
            if i and time.monotonic() - begun > seconds:
                break
    return samples, failed, traces


def rows_of(
    config: Any, case: Case, samples: dict[str, list[dict[str, Any]]], failed: dict[str, str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What is said of the case as a whole, and a row for each method."""
    text = config.text_config
    kept = {spec: ones[1:] or ones for spec, ones in samples.items() if ones}
    encoders = [one["seconds"]["encoder"] for ones in kept.values() for one in ones if one["encoded"]]
    if not encoders:  # the stock model did not fit, so the first method's first round encoded
        encoders = [one["seconds"]["encoder"] for ones in samples.values() for one in ones if one["encoded"]]
    encoder = statistics.median(encoders) if encoders else None
    peaks = [one["peaks"].get("encoder") for ones in samples.values() for one in ones if one["encoded"]]
    whole = {
        "case": str(case),
        "clips": case.clips,
        "batch": case.batch,
        "rounds": max((len(ones) - 1 for ones in samples.values() if ones), default=0),
        "encoder_seconds": encoder,
        "encoder_peak_bytes": max((peak for peak in peaks if peak is not None), default=None),
    }
    rows: list[dict[str, Any]] = []
    for spec in SPECS:
        row: dict[str, Any] = {"case": str(case), "clips": case.clips, "batch": case.batch, "method": spec}
        row["keep"] = "1" if spec == NONE else spec.partition("=")[2].partition("+")[0]
        rows.append(row)
        if spec not in kept:
            row |= {"fits": not failed.get(spec, "").startswith("OutOfMemory"), "failed": failed.get(spec)}
            continue
        ones, first = kept[spec], samples[spec][0]
        seconds = {part: statistics.median(one["seconds"][part] for one in ones) for part in LLM_SIDE}
        seconds["decode_eager"] = statistics.median(s for one in ones for s in one["decode_eager"])
        seconds["decode_device"] = first.get("decode_device")
        n = first["prompt_tokens"]
        work = case.batch * prefill_flops(text, n)
        row |= {
            "fits": True,
            "warmed_up": len(samples[spec]) > 1,
            "prompt_tokens": n,
            "flops": work,
            "seconds": seconds,
            "first_token_seconds": None if encoder is None else encoder + sum(seconds[part] for part in LLM_SIDE),
            "prefill_range": [f(one["seconds"]["prefill"] for one in ones) for f in (min, max)],
            "prefill_flops_per_second": work / seconds["prefill"],
            "decode_tokens_per_second": {
                how: case.batch / seconds[f"decode_{how}"] if seconds[f"decode_{how}"] else None
                for how in ("eager", "device")
            },
            "no_graph": first.get("no_graph"),
            "kv_bytes": first["kv_bytes"],
            "peak_bytes": max(first["peaks"].values(), default=None),
        }
    base = rows[0]
    for row in rows:
        if "seconds" in row and "seconds" in base:
            row["speedup"] = {
                "prefill": base["seconds"]["prefill"] / row["seconds"]["prefill"],
                "prefill_predicted": base["flops"] / row["flops"],
                "first_token": base["first_token_seconds"] / row["first_token_seconds"],
            }
            for how in ("decode_eager", "decode_device"):
                before, now = base["seconds"][how], row["seconds"][how]
                row["speedup"][how] = before / now if before and now else None
            saved = base["seconds"]["prefill"] - row["seconds"]["prefill"]
            row["compression_over_saved"] = row["seconds"]["compression"] / saved if saved > 0 else None
    return whole, rows


def times_of_ways(
    size: dict[str, Any], phase: str, tokens: int, batch: int, like: dict[str, Any], flex: Callable[..., Any] | None
) -> list[dict[str, Any]]:
    """A row for each way at one shape; `flex`: that one alone."""
    source = torch.Generator(like["device"]).manual_seed(7)
    log_sizes = torch.full((batch, tokens), math.log(3.0))
    p = proportional.problem(size["layer"], phase, log_sizes, like, source)
    runs = proportional.ways(p, flex, by_name=flex is None)
    # the last one holds all of a square of logits
    names = ["flex"] if flex is not None else [name for name in runs if not name.endswith(", math")]
    right = runs["mask"]()
    rows = []
    for name in names:
        row: dict[str, Any] = {"phase": phase, "tokens": tokens, "batch": batch, "way": name}
        row["told"] = name.split(",")[0] not in proportional.UNWEIGHTED
        try:
            off = (runs[name]().float() - right.float()).norm() / right.float().norm()
            row["difference"] = off.item() if row["told"] else None
            row["seconds"] = device_seconds(runs[name], like["device"])
        except Exception as error:  # a kernel that is not for this shape says so in many ways
            row |= {"seconds": None, "refused": said(error)}
        rows.append(row)
    return rows


def paper(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Prefill at all and half of the tokens beside arXiv 2511.14293's; bench/prefill.py says what can explain those."""
    here = {}
    for row in rows:
        if row["batch"] == 1 and row["keep"] in prefill.PAPER_MS and "seconds" in row:
            times = {"prefill_ms": row["seconds"]["prefill"] * 1e3}
            if row["first_token_seconds"] is not None:
                times["first_token_ms"] = row["first_token_seconds"] * 1e3
            here[f"{row['case']}, {row['method']}"] = times | {"speedup": row.get("speedup")}
    reported = prefill.PAPER_MS["1"] / prefill.PAPER_MS["1/2"]
    return {
        "source": "arXiv 2511.14293, on an A100",
        "reported_ms": prefill.PAPER_MS,
        "reported_speedup": reported,
        "here": here,
    }


def draw(result: dict[str, Any], out: Path) -> None:
    """Speed-up against the share of tokens kept, a panel for each model.

    Solid: prefill; dashed: up to the first token, encoder included; dotted: decoding on the device. All with `pool`.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    # others had no time left
    names = [name for name, model in result["models"].items() if model["rows"]] or list(result["models"])
    figure = Figure(figsize=(1.5 + 4.5 * len(names), 4.6), layout="constrained", dpi=150)
    axes = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    styles = {"prefill": "-", "first_token": "--", "decode_device": ":"}
    for axis, name in zip(axes, names, strict=True):
        rows = [row for row in result["models"][name]["rows"] if row.get("speedup")]
        rows = [row for row in rows if row["method"] == NONE or row["method"].startswith("pool")]
        cases = list(dict.fromkeys(row["case"] for row in rows))
        for i, case in enumerate(cases):
            line = [row for row in rows if row["case"] == case]
            for what, style in styles.items():
                known = [row for row in line if row["speedup"][what]]
                keeps = [float(Fraction(row["keep"])) for row in known]
                axis.plot(
                    keeps, [row["speedup"][what] for row in known], style, color=f"C{i}", marker="o", ms=3, lw=1.4
                )
        handles = [Line2D([], [], color=f"C{i}", label=case) for i, case in enumerate(cases)]
        said_of = {"prefill": "prefill", "first_token": "first token, with encoder", "decode_device": "decoding"}
        handles += [Line2D([], [], color="0.3", ls=style, label=said_of[what]) for what, style in styles.items()]
        if name == SEVEN:
            reported = result["paper"]["reported_speedup"]
            axis.plot([0.5], [reported], "*", color="0.3", ms=10)
            handles.append(Line2D([], [], color="0.3", marker="*", ls="", label="arXiv 2511.14293, A100"))
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, 1 / 2, 1 / 3, 1 / 4], ["1", "1/2", "1/3", "1/4"])
        axis.set_xticks([], minor=True)
        axis.invert_xaxis()
        axis.set_xlabel("audio tokens kept")
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(handles=handles, fontsize=7, loc="upper left")
    axes[0].set_ylabel("times as fast as with all tokens")
    figure.suptitle(f"pool on {result['environment']['gpu'] or 'a CPU'}, random weights", fontsize=11)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def number(value: float | None, by: float = 1.0, places: int = 1) -> str:
    return "–" if value is None else f"{value * by:.{places}f}"


def show_ways(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        where = f"{row['phase']:7} {row['tokens']:5} x {row['batch']:2} {row['way']:30}"
        print(where, row.get("refused", "")[:50] or f"{number(row['seconds'], 1e6):>8} us")


def show(result: dict[str, Any]) -> None:
    """The result as short lines."""
    for name, model in result["models"].items():
        print(
            f"\n{name}: times in ms; encoder: "
            + ", ".join(
                f"{case['case']} {number(case['encoder_seconds'], 1e3)} ({case['rounds']} rounds)"
                for case in model["cases"]
            )
        )
        print(
            "clips batch method                  tokens compr. prefill  x    first x  decode eager device tok/s peak GB"
        )
        for row in model["rows"]:
            head = f"{row['clips']:5} {row['batch']:5} {row['method']:24}"
            if "seconds" not in row:
                print(f"{head} {str(row['failed'])[:60]}")
                continue
            seconds, faster = row["seconds"], row.get("speedup", {})
            line = [f"{row['prompt_tokens']:7}", f"{number(seconds['compression'], 1e3):>6}"]
            line += [f"{number(seconds['prefill'], 1e3):>8}", f"{number(faster.get('prefill'), 1, 2):>5}"]
            line += [
                f"{number(row['first_token_seconds'], 1e3):>8}",
                f"{number(faster.get('first_token'), 1, 2):>5}",
            ]
            line += [f"{number(seconds['decode_eager'], 1e3):>6}", f"{number(seconds['decode_device'], 1e3, 2):>6}"]
            rates = row["decode_tokens_per_second"]
            line += [f"{rates['device'] or rates['eager']:7.0f}", f"{number(row['peak_bytes'], 1e-9):>6}"]
            print(head, *line, "" if row["warmed_up"] else "not warmed up")
    show_ways(result["ways"])
    for part, why in result["left_out"].items():
        print(f"left out: {part}: {why}")
    print(f"parts, seconds: {result['part_seconds']}; {result['ceilings']}")


class Parts:
    """Runs parts one after the other, writes the result after each, and keeps what goes wrong from the next ones."""

    def __init__(self, result: dict[str, Any], out: Path, budget: Budget, device: str) -> None:
        self.result, self.out, self.budget, self.device = result, out, budget, device

    def run(self, name: str, part: Callable[[], None], needs: float = 1.0) -> None:
        """Run `part` if `needs` seconds are left."""
        if self.budget.left < needs:
            self.result["left_out"][name] = f"{max(0.0, self.budget.left):.0f} s were left, {needs:.0f} needed"
            return
        begun = time.monotonic()
        try:
            part()
        except Exception:
            self.fail(name, traceback.format_exc())
        self.result["part_seconds"][name] = round(time.monotonic() - begun, 2)
        free_memory(self.device)
        self.save()
        progress(f"{name}: {self.result['part_seconds'][name]:.1f} s, {self.budget.left:.0f} s left")

    def fail(self, name: str, trace: str) -> None:
        self.result["errors"].append({"part": name, "traceback": trace})
        progress(f"{name}: {trace}")

    def save(self) -> None:
        """Write the result such that a kill leaves the one before."""
        half = self.out.with_name(self.out.name + ".part")
        save(self.result, half)
        half.replace(self.out)


def measure_model(parts: Parts, name: str, size: dict[str, Any], dtype: torch.dtype) -> None:
    """A model at all of its cases."""
    result, device, shape = parts.result, parts.device, size["models"][name]
    held: dict[str, Any] = {}
    found: dict[str, Any] = {"cases": [], "rows": []}
    result["models"][name] = found

    def make() -> None:
        held["model"] = build(configuration(shape), device, dtype)
        found["parameters"] = sum(p.numel() for p in held["model"].parameters())
        found["weight_bytes"] = sum(p.nbytes for p in held["model"].parameters())
        found["attention"] = held["model"].config._attn_implementation

    def measure_case(case: Case) -> None:
        seconds = size["share"][name] * result["configuration"]["seconds"]
        model = held["model"]
        samples, failed, traces = measure(model, case, size["rounds"], seconds, parts.budget, device, dtype)
        for trace in traces:
            parts.fail(f"{name}, {case}", trace)
        whole, rows = rows_of(model.config, case, samples, failed)
        found["cases"].append(whole)
        found["rows"] += rows
        if name == SEVEN:
            result["paper"] = paper(found["rows"])

    parts.run(f"{name}, build", make, needs=5.0)
    for case in shape["cases"] if held else ():
        parts.run(f"{name}, {case}", lambda case=case: measure_case(case), needs=3.0)
    held.clear()
    free_memory(device)


def main(
    out: Annotated[Path, typer.Option(help="Result file (JSON).")],
    seconds: Annotated[float, typer.Option(help="Seconds of the wall clock, from the begin of the process.")] = 140.0,
    quick: Annotated[bool, typer.Option(help="Tiny shapes: shows that the bench runs, measures nothing.")] = False,
    device: Annotated[str, typer.Option(help="cuda; cpu with --quick.")] = "cuda",
    commit: Annotated[str, typer.Option(help="Commit, where the code is no git checkout.")] = "",
    picture: Annotated[Path | None, typer.Option(help="Measure nothing: draw the result file's picture here.")] = None,
) -> None:
    """Measure, write the result file, print it."""
    if picture is not None:
        draw(json.loads(out.read_text(encoding="utf-8")), picture)
        return
    if device not in ("cpu", "cuda") or (device == "cpu" and not quick):
        raise typer.BadParameter(f"--device is cuda, or cpu with --quick; got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("no GPU here: --quick --device cpu shows that the bench runs")
    size, budget = QUICK if quick else FULL, Budget(seconds)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    like: dict[str, Any] = {"device": device, "dtype": dtype}
    torch.manual_seed(0)
    result: dict[str, Any] = {
        "what": "whole audio language models of random weights on a GPU: seconds and bytes with fewer audio tokens",
        "notes": NOTES,
        "quick": quick,
        "configuration": {
            "models": {name: {"text": m["text"], "audio": m["audio"]} for name, m in size["models"].items()},
            "methods": SPECS,
            "rounds": size["rounds"],
            "layer": size["layer"],
            "prompt": {
                "before": TEXT_BEFORE,
                "per_clip": TEXT_PER_CLIP,
                "after": TEXT_AFTER,
            },
            "device": device,
            "dtype": str(dtype).split(".")[1],
            "seconds": seconds,
        },
        "environment": environment(device),
        "ceilings": None,
        "models": {},
        "paper": paper([]),
        "exact": [],
        "ways": [],
        "flex": [],
        "errors": [],
        "left_out": {},
        "part_seconds": {"loading": round(seconds - budget.left, 2)},
    }
    if commit:
        result["environment"]["commit"] = commit
    parts = Parts(result, out, budget, device)

    def exact() -> None:
        asked = {"exact_tokens": size["exact_tokens"], "shapes": {SEVEN: size["layer"]}}
        result["exact"] = list(proportional.exactness(asked, None, True, like))

    def at(into: str, shape: tuple[str, int, int], flex: Callable[..., Any] | None) -> None:
        with torch.no_grad():
            result[into] += times_of_ways(size, *shape, like, flex)

    parts.run("ceilings", lambda: result.update(ceilings=ceilings(size, device, dtype)))
    measure_model(parts, SEVEN, size, dtype)
    parts.run("ways: exactness", exact)
    for shape in size["ways"]:
        parts.run(f"ways: {shape}", lambda shape=shape: at("ways", shape, None))
    measure_model(parts, SMALL, size, dtype)
    show(result)  # before what compiles, since a kill would take it
    compiled: Any = flex_attention if quick else torch.compile(flex_attention)
    for shape in size["flex"]:
        parts.run(f"flex: {shape}", lambda shape=shape: at("flex", shape, compiled), needs=0 if quick else FLEX_SECONDS)
    parts.save()
    show_ways(result["flex"])
    for error in result["errors"]:
        print(f"failed: {error['part']}: {error['traceback'].strip().splitlines()[-1]}")


if __name__ == "__main__":
    typer.run(main)
