"""What time positions and proportional attention cost in the layers of a Qwen2-Audio-7B of random weights.

Part of `python -m bench.corrections`.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from functools import partial
from typing import Any

from torch import Tensor

import fewhertz
from bench.clock import now, processor, ratio
from bench.record import progress
from bench.shapes import LAYERS, Case, build, configuration, request, tokens_of_clip
from fewhertz.once import encode_once

SUFFIXES = ("", "+time", "+sizes", "+time+sizes")
DECODE_STEPS = 4


def sample(model: Any, inputs: dict[str, Tensor], spec: str, device: str) -> dict[str, dict[str, float]]:
    """One call with a method attached and some tokens more: seconds before the LLM, in its layers, else."""
    core = model.base_model
    llm = core.language_model
    spans: dict[str, float] = defaultdict(float)
    begun: dict[str, float] = {}

    def begin(name: str, *_: object) -> None:
        begun[name] = now(device, processor)

    def end(name: str, *_: object) -> None:
        spans[name] += now(device, processor) - begun[name]

    parts = {"llm": (llm, llm), "layers": (llm.layers[0], llm.layers[-1])}
    parts |= {"encoder": (core.audio_tower, core.audio_tower)}
    parts |= {"projector": (core.multi_modal_projector, core.multi_modal_projector)}
    hooks = []
    for name, (first, last) in parts.items():
        hooks.append(first.register_forward_pre_hook(partial(begin, name)))
        hooks.append(last.register_forward_hook(partial(end, name)))

    def call(**some: Any) -> tuple[Any, dict[str, float]]:
        spans.clear()
        start = now(device, processor)
        out = model(**some, use_cache=True)
        before = begun["llm"] - start - spans["encoder"] - spans["projector"]
        return out.past_key_values, {
            "before": before,
            "layers": spans["layers"],
            "else": spans["llm"] - spans["layers"],
        }

    try:
        with fewhertz.compress(model, spec):
            cache, read = call(**inputs)
            ids = inputs["input_ids"][:, :1]
            steps = [call(input_ids=ids, past_key_values=cache)[1] for _ in range(DECODE_STEPS)]
    finally:
        for hook in hooks:
            hook.remove()
    return {"prefill": read, "decode": {part: statistics.median(step[part] for step in steps) for part in read}}


def layers(size: dict[str, Any], shape: dict[str, Any], device: str, like: dict[str, Any]) -> list[dict[str, Any]]:
    """The LLM's time with corrections, over that as published."""
    model = build(configuration(shape), device, like["dtype"])
    depth = shape["text"]["num_hidden_layers"]
    rows = []
    for clips in size["clips"][device]:
        inputs = request(model.config, Case(clips, 1), device, like["dtype"])
        samples: dict[str, list[dict[str, dict[str, float]]]] = defaultdict(list)
        with encode_once(model):
            sample(model, inputs, "pool@keep=1/3+time+sizes", device)
            for _ in range(size["layer_rounds"]):
                for suffix in SUFFIXES:
                    samples[suffix].append(sample(model, inputs, f"pool@keep=1/3{suffix}", device))
        tokens = Case(clips, 1).prompt(fewhertz.parse("pool@keep=1/3").num_tokens(tokens_of_clip(model.config)))
        for phase in ("prefill", "decode"):
            for suffix, ones in samples.items():
                own, base = ([one[phase] for one in some] for some in (ones, samples[""]))
                rows.append(
                    {
                        "method": f"pool@keep=1/3{suffix}",
                        "phase": phase,
                        "clips": clips,
                        "tokens": tokens,
                        "layers": depth,
                        "seconds": {part: statistics.median(one[part] for one in own) for part in own[0]},
                        "layers_over_packed": ratio([o["layers"] for o in own], [b["layers"] for b in base]),
                        f"over_packed_{LAYERS}_layers": ratio(
                            [_whole(o, depth) for o in own], [_whole(b, depth) for b in base]
                        ),
                    }
                )
        progress(f"layer: {clips} × 30 s")
    return rows


def _whole(parts: dict[str, float], depth: int) -> float:
    """What the layers of a 7B take by what `depth` of them took, and what is done once for all of them."""
    return parts["before"] + parts["else"] + parts["layers"] * LAYERS / depth
