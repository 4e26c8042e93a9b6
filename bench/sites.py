"""From the log-mel to the first token: the stock model, no padding, and merging behind the encoder or inside it.

    python -m bench.sites --out results/bench/sites.json      # 4 minutes on one idle core; or on a GPU
    python -m bench.sites --out out/quick.json --quick        # seconds: tiny shapes, for the tests, no figures

Three systems: Whisper-large's encoder with the LLM of Qwen2-Audio-7B, the same encoder with one of Qwen3-0.6B's shapes,
and pocket. Of the two large ones one layer of each kind is timed, with random weights, at all lengths that it meets,
and counted as often as the model has it; pocket is timed so too, and its whole calls beside, which says what that is
worth. A round times everything once, and ratios are of sums of the same round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import DynamicCache

import fewhertz
from bench.clock import in_turns, processor
from bench.encoder import DEPTH, KEEPS, flops, request
from bench.options import ANY_DEVICE, OUT, THREADS, TINY, start
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
    build,
    configuration,
)
from fewhertz.corrections import HIDDEN
from fewhertz.cost import prefill_flops
from fewhertz.families.base import MEL_HZ
from fewhertz.families.whisper import before, cut_of, shortened
from fewhertz.method import Clip, Method

CLIPS = (5, 30)  # seconds
ANSWER = 20  # tokens that are decoded
TEXT = TEXT_BEFORE + TEXT_PER_CLIP + TEXT_AFTER
PARTS = ("encoder", "compression", "prefill", "decode")
FIRST_TOKEN = PARTS[:3]
CORRECTIONS = "+time+sizes"
TARGET = 1.3  # LLM's site over the encoder's, of the small LLM at 30 s and keep=1/2
REACHED = 0.85  # of what operations predict
ROUNDS = {"cpu": 3, "cuda": 20}

Run = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    """A system: a model with one layer of each kind at least, and how many it is counted as having."""

    model: Any
    encoder_layers: int
    llm_layers: int

    @property
    def layer(self) -> int:
        """Before which frames are merged."""
        return round(DEPTH * self.encoder_layers)


@dataclass(frozen=True)
class Way:
    """One way to read a clip.

    Args:
        name: `"stock"`, `"trim"`, `"llm"` or `"encoder"`.
        method: its spec; `None`: all tokens.
        frames: that the encoder reads.
        merged: frames that its later layers read; `None`: all layers read all.
        tokens: audio tokens that the LLM reads.
        parts: of each part, the measured pieces and how often they count.
    """

    name: str
    method: str | None
    frames: int
    merged: int | None
    tokens: int
    parts: dict[str, list[tuple[str, int]]]


def ways(shape: Shape, seconds: float) -> list[Way]:
    """How a clip is read, and what that is made of."""
    full = shape.model.config.audio_config.max_source_positions
    mel = min(2 * full, round(seconds * MEL_HZ))
    tokens = ((mel - 1) // 2 + 1) // 2
    cut = cut_of(torch.tensor([mel]), 2 * full) // 2
    last, first = shape.encoder_layers, shape.layer

    def whole(frames: int) -> list[tuple[str, int]]:
        return [(f"front {frames}", 1), (f"layer {frames} of {mel}", last), (f"project {frames // 2}", 1)]

    def llm(count: int, sized: str) -> dict[str, list[tuple[str, int]]]:
        prompt = TEXT + count
        return {part: [(f"{part} {prompt}{sized}", shape.llm_layers)] for part in ("prefill", "decode")}

    found = [
        Way(name, None, frames, None, tokens, {"encoder": whole(frames), "compression": []} | llm(tokens, ""))
        for name, frames in (("stock", full), ("trim", cut))
    ]
    for keep in KEEPS:
        m = at(keep).num_tokens(tokens)
        there = {"encoder": whole(cut), "compression": [(f"plan {tokens} {m} llm", 1)]} | llm(m, " sized")
        found.append(Way("llm", f"ward@keep={keep}{CORRECTIONS}", cut, None, m, there))
        inside = [(f"front {cut}", 1), (f"layer {cut} of {mel}", first), (f"layer {m} sized", last - first)]
        spec = f"ward(site=encoder.{first})@keep={keep}{CORRECTIONS}"
        frames = (mel - 1) // 2 + 1
        there = {"encoder": [*inside, (f"project {m}", 1)], "compression": [(f"plan {frames} {m} encoder", 1)]}
        found.append(Way("encoder", spec, cut, m, m, there | llm(m, " sized")))
    return found


def at(keep: str) -> Method:
    return fewhertz.parse("ward", Fraction(keep))


def piece(model: Any, name: str) -> Run:
    """A piece by its name: of the model's own modules, on random numbers."""
    core = model.base_model
    tower, llm = core.audio_tower, core.language_model
    like = {"device": tower.conv1.weight.device, "dtype": tower.conv1.weight.dtype}
    kind, *words = name.split()
    n = int(words[0])
    wide, deep = tower.config.d_model, llm.config.hidden_size
    if kind == "front":
        features = torch.randn(1, tower.config.num_mel_bins, 2 * n, **like)
        part = before(tower if n == tower.config.max_source_positions else shortened(tower, n), 0)
        return lambda: part(features)
    if kind == "layer":
        x = torch.randn(1, n, wide, **like)
        valid = n if words[1] == "sized" else (int(words[2]) - 1) // 2 + 1
        mask = torch.full((1, 1, n, n), 0.1 if words[1] == "sized" else 0.0, **like)  # any log s costs the same
        mask[..., valid:] = HIDDEN
        layer = tower.layers[0]
        return lambda: layer(x, None if valid == n and words[1] != "sized" else mask)
    if kind == "project":
        x = torch.randn(1, n, wide, **like)
        return lambda: core.multi_modal_projector(tower.layer_norm(x))
    if kind == "plan":
        m, method = int(words[1]), fewhertz.parse(f"ward@keep={words[1]}/{n}")
        x = torch.randn(1, n, wide if words[2] == "encoder" else deep, **like)
        clip = Clip(50.0 if words[2] == "encoder" else 25.0)
        return lambda: method.assign(x, m, clip).apply(x)
    block, rotary = llm.layers[0], llm.rotary_emb
    x = torch.randn(1, n, deep, **like)
    angles = rotary(x, torch.arange(n, device=x.device)[None])
    if kind == "prefill":
        mask = torch.full((1, 1, n, n), HIDDEN, **like).triu(1) + 0.1 if "sized" in words else None
        return lambda: block(x, attention_mask=mask, position_embeddings=angles)
    one, turned = x[:, :1], rotary(x[:, :1], torch.full((1, 1), n, device=x.device))
    masks = [torch.full((1, 1, 1, n + i + 1), 0.1, **like) if "sized" in words else None for i in range(ANSWER)]
    cache = DynamicCache()
    block(x, position_embeddings=angles, past_key_values=cache, use_cache=True)

    def decode() -> None:
        for mask in masks:
            block(one, attention_mask=mask, position_embeddings=turned, past_key_values=cache, use_cache=True)
        cache.crop(-ANSWER)

    return decode


def operations(shape: Shape, way: Way) -> int:
    """Those of encoder and prefill, projector and vocabulary left out."""
    config, text = shape.model.config.audio_config, shape.model.config.text_config
    held = config.encoder_layers, text.num_hidden_layers, text.vocab_size
    try:
        config.encoder_layers, text.num_hidden_layers, text.vocab_size = shape.encoder_layers, shape.llm_layers, 0
        encoder = flops(config, way.frames, way.merged or 0, None if way.merged is None else shape.layer)
        return encoder + prefill_flops(text, TEXT + way.tokens)
    finally:
        config.encoder_layers, text.num_hidden_layers, text.vocab_size = held


def total(way: Way, parts: tuple[str, ...], times: Mapping[str, list[float]], turn: int) -> float:
    """Seconds of some parts in one round."""
    return sum(count * times[name][turn] for part in parts for name, count in way.parts[part])


def measured(name: str, shape: Shape, seconds: float, rounds: int, device: str) -> list[dict[str, Any]]:
    """A row for each way."""
    several = ways(shape, seconds)
    names = sorted({piece for way in several for some in way.parts.values() for piece, _ in some})
    runs = {one: piece(shape.model, one) for one in names}
    for run in runs.values():  # warm-up
        run()
    times = in_turns(runs, rounds, device, processor)
    turns = range(rounds)
    stock, behind = several[0], {way.tokens: way for way in several if way.name == "llm"}

    def ratios(above: Way, below: Way) -> list[float]:
        return [total(above, FIRST_TOKEN, times, t) / total(below, FIRST_TOKEN, times, t) for t in turns]

    rows = []
    for way in several:
        over = ratios(stock, way)
        predicted = operations(shape, stock) / operations(shape, way)
        row = {
            "system": name,
            "clip_seconds": seconds,
            "way": way.name,
            "method": way.method,
            "audio_tokens": way.tokens,
            "frames": [way.frames, way.merged],
            "seconds": {part: statistics.median(total(way, (part,), times, t) for t in turns) for part in PARTS},
            "stock_over_this": statistics.median(over),
            "range": [min(over), max(over)],
            "predicted": predicted,
            "measured_over_predicted": statistics.median(over) / predicted,
        }
        if way.name == "encoder":
            llm = behind[way.tokens]
            row["llm_over_this"] = statistics.median(ratios(llm, way))
            row["llm_over_this_predicted"] = operations(shape, llm) / operations(shape, way)
        rows.append(row)
    return rows


def whole_calls(model: Any, seconds: float, rounds: int, device: str) -> dict[str, Any]:
    """Ratios over stock of whole calls of a model, its vocabulary included."""
    layer = round(DEPTH * model.config.audio_config.encoder_layers)
    audio, audio_ids = request(model, seconds, 1)
    text = torch.randint(5, 90, (1, TEXT), device=audio_ids.device)
    ids = torch.cat([text[:, :TEXT_BEFORE], audio_ids, text[:, TEXT_BEFORE:]], dim=1)
    inputs: dict[str, Tensor] = audio | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    specs = {"stock": ("none", False), "trim": ("none", True)}
    for keep in KEEPS:
        specs[f"llm {keep}"] = f"ward@keep={keep}{CORRECTIONS}", True
        specs[f"encoder {keep}"] = f"ward(site=encoder.{layer})@keep={keep}{CORRECTIONS}", True

    def call(spec: str, trim: bool) -> Run:
        def run() -> None:
            with fewhertz.compress(model, spec, trim=trim):
                model(**inputs)

        return run

    runs = {name: call(*one) for name, one in specs.items()}
    for run in runs.values():  # warm-up
        run()
    times = in_turns(runs, rounds, device, processor)
    over = {
        name: statistics.median(a / b for a, b in zip(times["stock"], took, strict=True))
        for name, took in times.items()
    }
    return {"clip_seconds": seconds, "stock_over_this": over, "seconds": statistics.median(times["stock"])}


def systems(quick: bool, device: str, dtype: torch.dtype) -> dict[str, Callable[[], Shape]]:
    """What is measured, each made when its turn comes."""

    def made(audio: dict[str, int], text: dict[str, int]) -> Shape:
        short = {"text": text | {"num_hidden_layers": 1, "vocab_size": 128}, "audio": audio | {"encoder_layers": 1}}
        model = build(configuration(short), device, dtype)
        return Shape(model, audio["encoder_layers"], text["num_hidden_layers"])

    def pocket() -> Shape:
        model = fewhertz.load("pocket", device=device, dtype=dtype)[0]
        return Shape(model, model.config.audio_config.encoder_layers, model.config.text_config.num_hidden_layers)

    if quick:
        return {"tiny": lambda: made(TINY_AUDIO | {"encoder_layers": 5}, TINY_TEXT), "pocket": pocket}
    return {
        "Whisper large + 7B": lambda: made(AUDIO_7B, TEXT_7B),
        "Whisper large + 0.6B": lambda: made(AUDIO_7B, QWEN3_06B),
        "pocket": pocket,
    }


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was asked of the figures; `met` is None where no row tells."""
    small = [row for row in rows if "0.6B" in row["system"] and row["clip_seconds"] == 30 and row["way"] == "encoder"]
    half = next((row["llm_over_this"] for row in small if "keep=1/2" in row["method"]), None)
    slowest = min((row for row in rows if row["way"] == "encoder"), key=lambda row: row["measured_over_predicted"])
    least = slowest["measured_over_predicted"]
    where = f"{slowest['system']}, {slowest['clip_seconds']:g} s, {slowest['method']}"
    return [
        {"what": "LLM's site over the encoder's, 0.6B, 30 s, keep=1/2", "target": TARGET, "value": half}
        | {"met": None if half is None else half >= TARGET},
        {"what": f"stock over the encoder's site, over what operations predict: {where}", "target": REACHED}
        | {"value": least, "met": least >= REACHED},
    ]


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("system", "clip", "", *PARTS, "stock over this", "by operations", box=box.SIMPLE)
    for row in result["rows"]:
        parts = [f"{1000 * row['seconds'][part]:.1f} ms" for part in PARTS]
        ratio = f"{row['stock_over_this']:.2f} [{row['range'][0]:.2f}, {row['range'][1]:.2f}]"
        what = row["method"] or row["way"]
        table.add_row(row["system"], f"{row['clip_seconds']:g} s", what, *parts, ratio, f"{row['predicted']:.2f}")
    Console(width=190).print(table)
    for one in [*result["targets"], *result["whole_calls"]]:
        Console(width=190).print(one)


def main(out: OUT, quick: TINY = False, device: ANY_DEVICE = "", threads: THREADS = 1) -> None:
    """Measure, write the result file, print the table."""
    device, dtype = start(device, threads)
    before_all = environment(device)
    rounds = 2 if quick else ROUNDS[device]
    rows, whole, counted = [], [], {}
    with torch.inference_mode():
        for name, make in systems(quick, device, dtype).items():
            shape = make()
            shape.model.eval()
            counted[name] = {"encoder_layers": shape.encoder_layers, "llm_layers": shape.llm_layers}
            for clip in [clip / 25 for clip in CLIPS] if name == "tiny" else CLIPS:
                rows += measured(name, shape, clip, rounds, device)
                if name == "pocket":
                    whole.append(whole_calls(shape.model, clip, rounds, device))
                progress(f"{name}, {clip:g} s")
            del shape
    result = {
        "what": "encoder, compression and prefill of a clip: stock, without padding, merged behind and in the encoder",
        "notes": [
            "one layer of each kind is timed at every length that it meets, and counted as often as the model has it; "
            "weights and audio are random, but for pocket's weights: times of these shapes, no quality",
            "encoder: convolutions, layers, norm and projector; compression: plan and apply; prefill and decode: the "
            f"LLM's layers, its vocabulary left out; decode: {ANSWER} tokens",
            f"prompts: {TEXT} tokens of text and the clip's; compressed ones with {CORRECTIONS}: log s in the mask",
            "seconds are medians of rounds in which every piece runs once; ratios are of encoder, compression and "
            "prefill, medians of each round's",
            "predicted: operations of encoder and LLM, flops() of bench/encoder.py and fewhertz.cost",
            "whole_calls: forward of pocket itself, all that it does included, over the same under stock",
            "0.6B: one of Qwen3-0.6B's shapes in a Qwen2 layer, so without its norms of queries and keys",
        ],
        "reduced": [] if quick or device == "cuda" else ["float32 for bfloat16"],
        "quick": quick,
        "configuration": {
            "systems": counted,
            "shapes": {"Whisper large": AUDIO_7B, "7B": TEXT_7B, "0.6B": QWEN3_06B},
            "clips": list(CLIPS),
            "rounds": rounds,
            "device": device,
            "dtype": str(dtype).removeprefix("torch."),
            "clock": "wall" if device == "cuda" else "process",
        },
        "environment": before_all,
        "rows": rows,
        "whole_calls": whole,
        "targets": targets(rows),
    }
    save(result, out)
    show(result)
    Console().print(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
