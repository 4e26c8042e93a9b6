"""Speed and memory of the methods and of score capture: ratios, all measured side by side in one run.

    python -m bench.methods --out results/bench/methods.json        # some minutes on 2 idle cores
    python -m bench.methods --out out/quick.json --quick             # seconds: small shapes, for the tests, no figures

1. layer: a method's time (plan and apply) over the time of one decoder layer of Qwen2-7B on the tokens that it saves.
2. growth: a method's time against the number of tokens, one clip.
3. scores: capturing attention in the encoder's last layer: extra time and extra memory.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2AudioEncoderConfig
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

from bench.clock import side_by_side
from bench.record import environment, save
from bench.shapes import AUDIO_7B, LAYERS_QWEN2_7B, QWEN2_7B, RATE, TINY_AUDIO, TINY_TEXT, decoder_layer, layer_of
from fewhertz import methods as _registered  # noqa: F401
from fewhertz.method import METHODS, Clip, Method
from fewhertz.scores import attention_received, column_sums

KEEP = "1/3"
LAYERS_ENCODER = AUDIO_7B["encoder_layers"]
ENCODER = ("d_model", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins")
# largest share of ONE decoder layer's time on the tokens saved, on a CPU
CPU_BARS = {name: 0.01 for name in ("pool", "stride", "segment", "segmentwise", "topk")} | {
    name: 0.05 for name in ("ltbm", "global-merge", "visionzip")
}
CPU_BARS["ward"] = 0.02 * LAYERS_QWEN2_7B  # its bar is set on all layers
GPU_BAR = 0.01  # largest share of the prefill time saved: all 28 layers
LINEAR = ("pool", "stride", "segment", "segmentwise", "topk", "ltbm", "ward", "a-tome", "evs", "fastadasp")
LOOSE = {"affinity": {"threshold": 0.0}}  # at its own threshold it would join no random tokens
EXPONENT_BAR = 1.15  # our reading of "linear": room for a sort and for leaving the caches
EXTRA_TIME_BAR = 0.05
CALL_LIMIT = 10.0  # seconds: a method whose call takes longer is not asked for more tokens

FULL: dict[str, Any] = {
    "clips": 32,
    "tokens": 750,
    "dims": [1280, 3584],
    "repeats": 5,
    "layer": layer_of(QWEN2_7B),
    "layer_sequences": {"cpu": 2, "cuda": 32},
    "growth_tokens": [750, 1500, 3000, 6000, 12_000, 24_000],
    "growth_fitted_from": 3000,
    "growth_dim": 1280,
    "encoder": {name: AUDIO_7B[name] for name in ENCODER},
    "encoder_layers": {"cpu": 4, "cuda": 32},
    "encoder_frames": 1500,
    "scores_frames": [750, 1500, 3000, 6000],
}
QUICK: dict[str, Any] = FULL | {
    "clips": 2,
    "tokens": 60,
    "dims": [16],
    "repeats": 2,
    "layer": layer_of(TINY_TEXT) | {"num_key_value_heads": 2},
    "growth_tokens": [60, 120, 240],
    "growth_fitted_from": 60,
    "growth_dim": 16,
    "encoder": {name: TINY_AUDIO[name] for name in ENCODER},
    "encoder_layers": {"cpu": 1, "cuda": 1},
    "encoder_frames": 100,
    "scores_frames": [50, 100],
}


def verdict(value: float | None, bar: float | None) -> dict[str, Any]:
    """A bar and whether it is met; None where there is none."""
    return {"bar": bar, "met": None if bar is None or value is None else value <= bar}


def budget(name: str) -> Method:
    """The method at `KEEP`; where its count follows content, at a parameter with which random tokens merge."""
    return METHODS[name](keep=KEEP) if METHODS[name].fixed_budget else METHODS[name](**LOOSE.get(name, {}))


def application(method: Method, x: Tensor) -> Callable[[], int]:
    """A call that compresses `x` (b n d) as the driver does, and returns how many tokens that saves."""
    scores = torch.rand(x.shape[:2], device=x.device)
    groups = [slice(None)] if method.fixed_budget else [slice(i, i + 1) for i in range(len(x))]

    def run() -> int:
        kept = sum(method.forward(x[g], Clip(RATE, scores[g]))[0].shape[:2].numel() for g in groups)
        return x.shape[0] * x.shape[1] - kept

    return run


def against_a_layer(size: dict[str, Any], device: str, like: dict[str, Any]) -> list[dict[str, Any]]:
    clips, n = size["clips"], size["tokens"]
    saved_each = n - budget("pool").num_tokens(n)
    sequences = size["layer_sequences"][device]
    layer = decoder_layer(size["layer"], sequences, saved_each, like)
    rows = []
    for dim in size["dims"]:
        x = torch.randn(clips, n, dim, **like)
        runs: dict[str, Any] = {name: application(budget(name), x) for name in METHODS}
        saved = {name: run() for name, run in runs.items()}
        times = side_by_side({"": layer} | runs, size["repeats"], device)
        # linear in the number of sequences: each attends to itself alone
        layer_seconds_per_token = statistics.median(times.pop("")) / (sequences * saved_each)
        for name, seconds in times.items():
            one_layer = layer_seconds_per_token * saved[name]
            ratio = statistics.median(seconds) / one_layer
            row = {
                "method": budget(name).spec,
                "dim": dim,
                "tokens_saved": saved[name],
                "seconds": statistics.median(seconds),
                "seconds_range": [min(seconds), max(seconds)],
                "layer_seconds": one_layer,
                "share_of_one_layer": ratio,
                "share_of_prefill_saved": ratio / LAYERS_QWEN2_7B,
            }
            judged = "share_of_one_layer" if device == "cpu" else "share_of_prefill_saved"
            bar = CPU_BARS.get(name) if device == "cpu" else GPU_BAR
            rows.append(row | {"judged": judged, **verdict(row[judged], bar)})
    return rows


def exponent(pairs: list[tuple[int, float]]) -> float | None:
    """Slope of log y on log x, least squares."""
    if len(pairs) < 2 or any(y <= 0 for _, y in pairs):
        return None
    xs, ys = zip(*((math.log(x), math.log(y)) for x, y in pairs), strict=True)
    return statistics.linear_regression(xs, ys).slope


def growth(size: dict[str, Any], device: str, like: dict[str, Any]) -> list[dict[str, Any]]:
    times: dict[str, list[tuple[int, float]]] = {name: [] for name in METHODS}
    for n in size["growth_tokens"]:
        x = torch.randn(1, n, size["growth_dim"], **like)
        quick_enough = [name for name, before in times.items() if not before or before[-1][1] < CALL_LIMIT]
        runs = {name: application(budget(name), x) for name in quick_enough}
        for name, seconds in side_by_side(runs, size["repeats"], device).items():
            times[name].append((n, statistics.median(seconds)))
    rows = []
    for name, pairs in times.items():
        slope = exponent([pair for pair in pairs if pair[0] >= size["growth_fitted_from"]])
        bar = EXPONENT_BAR if name in LINEAR else None
        rows.append({"method": budget(name).spec, "seconds": pairs, "exponent": slope, **verdict(slope, bar)})
    return rows


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """Most bytes of tensors alive at once that were made while `run` ran."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def capture(size: dict[str, Any], device: str, like: dict[str, Any]) -> dict[str, Any]:
    frames, layers, shape = size["encoder_frames"], size["encoder_layers"][device], size["encoder"]
    config = Qwen2AudioEncoderConfig(
        **shape, encoder_layers=layers, max_source_positions=frames, attn_implementation="sdpa"
    )
    encoder = Qwen2AudioEncoder(config).to(**like).eval()
    mel = torch.randn(1, shape["num_mel_bins"], 2 * frames, **like)
    hidden = torch.randn(1, frames, shape["d_model"], **like)
    valid = torch.ones(1, frames, dtype=torch.bool, device=hidden.device)

    def plain() -> Tensor:
        return encoder(mel, attention_mask=None).last_hidden_state

    def captured() -> tuple[Tensor, Tensor]:
        with attention_received(encoder.layers[-1].self_attn, valid) as received:
            return plain(), received.scores

    assert torch.equal(plain(), captured()[0]), "capture changed the encoder's output"
    times = side_by_side(
        {"plain": plain, "captured": captured, "layer": lambda: encoder.layers[0](hidden, None)},
        max(3, size["repeats"]),
        device,
    )
    middle = {name: statistics.median(seconds) for name, seconds in times.items()}
    extra = statistics.median(c - p for c, p in zip(times["captured"], times["plain"], strict=True))
    of_all = extra / (LAYERS_ENCODER * middle["layer"])

    heads = shape["encoder_attention_heads"]
    memory = []
    for n in size["scores_frames"]:
        query, key = torch.randn(2, 1, heads, n, shape["d_model"] // heads, **like)
        mask = torch.ones(1, n, dtype=torch.bool, device=query.device)
        peak = peak_bytes(partial(column_sums, query, key, 0.125, queries=mask, keys=mask), device)
        matrix = heads * n * n * 4  # bytes of the attention matrix in float32, which is never held
        memory.append({"frames": n, "peak_bytes": peak, "matrix_bytes": matrix})
    return {
        "frames": frames,
        "encoder_layers_measured": layers,
        "plain_seconds": middle["plain"],
        "captured_seconds": middle["captured"],
        "layer_seconds": middle["layer"],
        "extra_seconds": extra,
        "extra_time_as_measured": extra / middle["plain"],
        f"extra_time_of_{LAYERS_ENCODER}_layers": of_all,
        **verdict(of_all, EXTRA_TIME_BAR),
        "plain_peak_bytes": peak_bytes(plain, device),
        "captured_peak_bytes": peak_bytes(captured, device),
        "memory": memory,
        "memory_exponent": exponent([(row["frames"], row["peak_bytes"]) for row in memory]),
    }


def show(result: dict[str, Any]) -> None:
    """The result as tables."""

    def met(row: dict[str, Any]) -> str:
        return {True: "met", False: "[red]missed[/red]", None: "–"}[row["met"]]

    console = Console()
    if result["quick"]:
        console.print("quick: tiny shapes, so the figures say nothing about the bars")
    device, n = result["configuration"]["device"], result["configuration"]["tokens"]
    table = Table(title=f"{result['configuration']['clips']} clips × {n} tokens, keep={KEEP}, {device}")
    for column in ("method", "dim", "ms", "of one layer", "of prefill saved", "bar", ""):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in result["layer"]:
        bar = "–" if row["bar"] is None else f"{row['bar']:.0%}"
        shares = f"{row['share_of_one_layer']:.3%}", f"{row['share_of_prefill_saved']:.4%}"
        table.add_row(
            row["method"].split("@")[0], str(row["dim"]), f"{row['seconds'] * 1e3:.1f}", *shares, bar, met(row)
        )
    console.print(table)

    ns = result["configuration"]["growth_tokens"]
    table = Table(title=f"ms against tokens, one clip × {result['configuration']['growth_dim']}")
    for column in ("method", *(f"{n:,}" for n in ns), "exponent", "bar", ""):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in result["growth"]:
        seconds = dict(row["seconds"])
        times = (f"{seconds[n] * 1e3:.1f}" if n in seconds else "–" for n in ns)
        slope = "–" if row["exponent"] is None else f"{row['exponent']:.2f}"
        table.add_row(
            row["method"].split("@")[0], *times, slope, "–" if row["bar"] is None else str(row["bar"]), met(row)
        )
    console.print(table)

    scores = result["scores"]
    console.print(
        f"score capture: {scores['extra_seconds'] * 1e3:.1f} ms a clip of {scores['frames']:,} frames, "
        f"{scores[f'extra_time_of_{LAYERS_ENCODER}_layers']:.2%} of {LAYERS_ENCODER} encoder layers "
        f"(bar {EXTRA_TIME_BAR:.0%}: {met(scores)}); measured with {scores['encoder_layers_measured']}: "
        f"{scores['extra_time_as_measured']:.2%}"
    )
    peaks = ", ".join(
        f"{row['peak_bytes'] / 1e6:.0f} MB at {row['frames']:,} (matrix: {row['matrix_bytes'] / 1e6:.0f})"
        for row in scores["memory"]
    )
    console.print(f"its peak memory: {peaks}")


def main(
    out: Annotated[Path, typer.Option(help="Result file (JSON).")],
    quick: Annotated[bool, typer.Option(help="Small shapes: shows that the bench runs, measures nothing.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda; by default cuda where there is one.")] = "",
    threads: Annotated[int, typer.Option(help="Threads on the CPU; by default torch's choice.")] = 0,
) -> None:
    """Measure, write the result file, print the tables."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if threads:
        torch.set_num_threads(threads)
    size = QUICK if quick else FULL
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    like: dict[str, Any] = {"device": device, "dtype": dtype}
    torch.manual_seed(0)
    result: dict[str, Any] = {
        "what": "share of a decoder layer's time on the tokens saved; growth with the tokens; cost of score capture",
        "notes": [
            "seconds are medians of rounds in which everything is measured once, after a warm-up",
            "method: plan and apply on random tokens (and random scores); a count that follows content: clip by clip",
            "layer: Qwen2DecoderLayer, random weights, SDPA, on the tokens saved as sequences of their own, which "
            "leaves out what they cost the tokens that stay; timed on fewer sequences on a CPU and scaled linearly",
            f"scores: the extra time is set against {LAYERS_ENCODER} times one encoder layer's time, without the "
            "convolutions; the encoder that ran had encoder_layers_measured layers; memory is of live tensors",
            f"exponents are of the points from growth_fitted_from on; {EXPONENT_BAR} is our reading of linear",
        ],
        "quick": quick,
        "configuration": {**size, "keep": KEEP, "rate": RATE, "device": device, "dtype": str(dtype).split(".")[1]},
        "environment": environment(device),
    }
    with torch.inference_mode():
        result["layer"] = against_a_layer(size, device, like)
        result["growth"] = growth(size, device, like)
        result["scores"] = capture(size, device, like)
    save(result, out)
    show(result)
    Console().print(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
