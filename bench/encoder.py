"""What an encoder saves that leaves padding out: the stock model's whole windows against trimmed ones, side by side.

    python -m bench.encoder --out results/bench/encoder.json       # 3 minutes on one idle core; or on a GPU
    python -m bench.encoder --out out/quick.json --quick           # seconds: tiny shapes, for the tests, no figures

Beside that, what merging before a layer saves (`site=encoder.k`) over merging behind the encoder, both trimmed, at the
same count: encoder, plan, the later layers and projector.

Two encoders: pocket's, and one of Whisper-large's shapes with random weights, as Qwen2-Audio-7B has it (on a CPU with
five of its layers, which the result says). A round runs stock and ours once each; ratios are of the same round. Times
are those of `Attached.audio_tokens` at keep=1: encoder, projector and bookkeeping, from the log-mel on. On a CPU they
are seconds of the process, so that what else runs on the machine counts less.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

import fewhertz
from bench.clock import in_turns, processor
from bench.options import ANY_DEVICE, OUT, THREADS, TINY, start
from bench.record import environment, progress, save
from bench.shapes import AUDIO_7B, TINY_AUDIO, TINY_TEXT, build, configuration
from fewhertz.families import family_of
from fewhertz.families.base import MEL_HZ
from fewhertz.families.whisper import cut_of

CLIPS = (2, 5, 15, 30)  # seconds
TARGET = 4.0  # stock over ours, for clips up to `SHORT` seconds
SHORT = 5
SMALL_LLM = TINY_TEXT  # the LLM is there to be a model, and does not run
CPU_LAYERS = 5
DEPTH = 0.6  # of the encoder's layers run on all frames where frames are merged inside
KEEPS = ("1/2", "1/3")
ROUNDS = {"cpu": 3, "cuda": 20}


def flops(config: Any, frames: int, merged: int = 0, layer: int | None = None) -> int:
    """Floating-point operations of an encoder over `frames` frames of one window, projector left out.

    With d the width, f the MLP's and M mel bands: 12·frames·M·d + 6·frames·d² for the convolutions, and for a layer
    2·frames·(4d² + 2d·f) + 4·frames²·d. A multiply and an add are two. From `layer` on, frames are `merged` ones.
    """
    d, wide, bands = config.d_model, config.encoder_ffn_dim, config.num_mel_bins
    first = config.encoder_layers if layer is None else layer

    def one(n: int) -> int:
        return 2 * n * (4 * d * d + 2 * d * wide) + 4 * n * n * d

    return (
        12 * frames * bands * d
        + 6 * frames * d * d
        + first * one(frames)
        + (config.encoder_layers - first) * one(merged)
    )


def request(model: Any, seconds: float, batch: int) -> tuple[dict[str, Tensor], Tensor]:
    """Random audio of `seconds`, padded to the window, and prompts that are its placeholders alone."""
    config = model.config.audio_config
    width = 2 * config.max_source_positions
    mel = min(width, round(seconds * MEL_HZ))
    like = model.base_model.audio_tower.conv1.weight
    audio = {
        "input_features": torch.randn(batch, config.num_mel_bins, width, device=like.device, dtype=like.dtype),
        "feature_attention_mask": (torch.arange(width, device=like.device) < mel).long().expand(batch, -1),
    }
    tokens = ((mel - 1) // 2 + 1) // 2
    return audio, torch.full((batch, tokens), model.config.audio_token_id, device=like.device)


def compared(model: Any, seconds: float, batch: int, rounds: int, device: str) -> dict[str, Any]:
    """One row: seconds of both, and by how much their tokens differ."""
    config, family = model.config.audio_config, family_of(model)
    audio, ids = request(model, seconds, batch)
    made: dict[str, Tensor] = {}
    read: list[int] = []  # mel frames of a call

    def call(name: str, trim: bool) -> Callable[[], None]:
        def run() -> None:
            with fewhertz.compress(model, "none", trim=trim) as handle:
                tokens, _ = handle.audio_tokens(audio, ids, torch.ones_like(ids, dtype=torch.bool))
            made[name] = torch.cat(tokens)

        return run

    runs = {"stock": call("stock", False), "ours": call("ours", True)}
    hook = model.base_model.audio_tower.conv1.register_forward_pre_hook(lambda _, args: read.append(args[0].shape[-1]))
    for run in runs.values():  # warm-up
        run()
    hook.remove()
    times = in_turns(runs, rounds, device, processor)
    ratios = [stock / ours for stock, ours in zip(times["stock"], times["ours"], strict=True)]
    predicted = flops(config, read[0] // 2) / flops(config, read[1] // 2)
    ratio = statistics.median(ratios)
    target = TARGET if seconds <= SHORT else None
    return {
        "clip_seconds": seconds,
        "batch": batch,
        "family": family.name,
        "mel_frames": {"stock": read[0], "ours": read[1]},
        "seconds": {name: statistics.median(took) for name, took in times.items()},
        "stock_over_ours": ratio,
        "range": [min(ratios), max(ratios)],
        "predicted": predicted,
        "measured_over_predicted": ratio / predicted,
        "largest_difference": float((made["stock"] - made["ours"]).abs().max()),
        "largest_value": float(made["stock"].abs().max()),
        "target": target,
        "met": None if target is None else ratio >= target,
    }


def merged(model: Any, seconds: float, keep: str, rounds: int, device: str) -> dict[str, Any]:
    """One row: seconds of the LLM's site and of a layer's, one clip."""
    config = model.config.audio_config
    layer = round(DEPTH * config.encoder_layers)
    audio, ids = request(model, seconds, 1)
    specs = {"llm": f"ward@keep={keep}", "encoder": f"ward(site=encoder.{layer})@keep={keep}"}
    counts: dict[str, int] = {}

    def call(name: str) -> Callable[[], None]:
        def run() -> None:
            with fewhertz.compress(model, specs[name]) as handle:
                tokens, _ = handle.audio_tokens(audio, ids, torch.ones_like(ids, dtype=torch.bool))
            counts[name] = len(tokens[0])

        return run

    runs = {name: call(name) for name in specs}
    for run in runs.values():  # warm-up
        run()
    times = in_turns(runs, rounds, device, processor)
    assert counts["llm"] == counts["encoder"]
    ratios = [llm / inside for llm, inside in zip(times["llm"], times["encoder"], strict=True)]
    width = cut_of(audio["feature_attention_mask"].sum(-1), 2 * config.max_source_positions) // 2
    predicted = flops(config, width) / flops(config, width, counts["encoder"], layer)
    ratio = statistics.median(ratios)
    return {
        "clip_seconds": seconds,
        "method": specs["encoder"],
        "layers": config.encoder_layers,
        "audio_tokens": {"all": ids.shape[1], "merged": counts["encoder"]},
        "seconds": {name: statistics.median(took) for name, took in times.items()},
        "llm_over_encoder": ratio,
        "range": [min(ratios), max(ratios)],
        "predicted": predicted,
        "measured_over_predicted": ratio / predicted,
    }


def models(quick: bool, device: str, dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    """What is measured, each made when its turn comes."""
    if quick:
        tiny = {"text": TINY_TEXT, "audio": TINY_AUDIO | {"encoder_layers": 2}}
        return {"tiny": lambda: build(configuration(tiny), device, dtype)}
    layers = AUDIO_7B["encoder_layers"] if device == "cuda" else CPU_LAYERS
    large = {"text": SMALL_LLM, "audio": AUDIO_7B | {"encoder_layers": layers}}
    return {
        "pocket": lambda: fewhertz.load("pocket", device=device, dtype=dtype)[0],
        "whisper-large": lambda: build(configuration(large), device, dtype),
    }


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(
        "encoder", "clip", "batch", "stock", "ours", "stock over ours", "by operations", "differs by", box=box.SIMPLE
    )
    for row in result["rows"]:
        stock, ours = (f"{1000 * row['seconds'][name]:.1f} ms" for name in ("stock", "ours"))
        ratio = f"{row['stock_over_ours']:.2f} [{row['range'][0]:.2f}, {row['range'][1]:.2f}]"
        differs = f"{row['largest_difference']:.0e}"
        clip, predicted = f"{row['clip_seconds']:g} s", f"{row['predicted']:.2f}"
        table.add_row(row["model"], clip, str(row["batch"]), stock, ours, ratio, predicted, differs)
    Console(width=110).print(table)
    inside = Table("encoder", "clip", "keep", "LLM's site", "merged inside", "ratio", "by operations", box=box.SIMPLE)
    for row in result["inside"]:
        llm, within = (f"{1000 * row['seconds'][name]:.1f} ms" for name in ("llm", "encoder"))
        ratio = f"{row['llm_over_encoder']:.2f} [{row['range'][0]:.2f}, {row['range'][1]:.2f}]"
        clip, predicted = f"{row['clip_seconds']:g} s", f"{row['predicted']:.2f}"
        inside.add_row(row["model"], clip, row["method"].partition("keep=")[2], llm, within, ratio, predicted)
    Console(width=110).print(inside)


def main(out: OUT, quick: TINY = False, device: ANY_DEVICE = "", threads: THREADS = 1) -> None:
    """Measure, write the result file, print the table."""
    device, dtype = start(device, threads)
    before = environment(device)
    clips = [clip / 25 for clip in CLIPS] if quick else CLIPS  # the tiny window has 2.4 s
    batches = [1, 16] if device == "cuda" else [1, 4]
    rounds = 2 if quick else ROUNDS[device]
    rows, inside, shapes = [], [], {}
    with torch.inference_mode():
        for name, make in models(quick, device, dtype).items():
            model = make().eval()
            shapes[name] = {key: getattr(model.config.audio_config, key) for key in AUDIO_7B}
            slow = name == "whisper-large" and device == "cpu"
            for batch in batches[:1] if slow else batches:
                for clip in clips:
                    rows.append({"model": name} | compared(model, clip, batch, rounds, device))
                    progress(f"{name}, {clip:g} s, batch {batch}")
            for clip in (clips[1], clips[-1]):
                for keep in KEEPS:
                    inside.append({"model": name} | merged(model, clip, keep, rounds, device))
                progress(f"{name}, {clip:g} s, merged inside")
    result = {
        "what": "encoder and projector of the stock model on whole windows, and trimmed to the longest clip",
        "notes": [
            "weights of whisper-large and all audio are random: times of these shapes, no quality",
            "seconds are medians of rounds in which both run once; ratios are medians of each round's ratio",
            "predicted: ratio of flops() in bench/encoder.py",
            "largest_difference and largest_value are of audio tokens, all of a batch",
            "inside: ward before a layer at 0.6 of the depth against ward behind the encoder, both trimmed",
        ],
        "reduced": []
        if quick or device == "cuda"
        else [f"whisper-large encoder_layers: {CPU_LAYERS} for {AUDIO_7B['encoder_layers']}", "float32 for bfloat16"],
        "quick": quick,
        "configuration": {
            "shapes": shapes,
            "clips": list(clips),
            "rounds": rounds,
            "device": device,
            "dtype": str(dtype).removeprefix("torch."),
            "clock": "wall" if device == "cuda" else "process",
        },
        "environment": before,
        "rows": rows,
        "inside": inside,
    }
    save(result, out)
    show(result)
    Console().print(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
