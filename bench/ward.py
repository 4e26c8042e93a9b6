"""Time of `ward` over the prefill time that it saves, and the distance to its segments that it has more than the best.

Part of `python -m bench.corrections`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

import fewhertz
from bench.clock import in_turns, processor, ratio
from bench.methods import application
from bench.record import progress
from bench.shapes import LAYERS, LAYERS_QWEN2_7B, RATE, decoder_layer
from fewhertz.families import family_of
from fewhertz.method import Clip
from fewhertz.plan import Plan

WARD_BAR = 0.02  # largest share of the prefill time saved
OBJECTIVE_BAR = 1.05  # ward's squared distances over optimal's


def cost(size: dict[str, Any], device: str, like: dict[str, Any]) -> list[dict[str, Any]]:
    """Time of `ward` and `optimal` on random tokens, over the prefill time that they save in a whole LLM."""
    rows = []
    for name, keep in size["cost"]:
        shape, n = size["shapes"][name], size["cost_tokens"]
        all_layers = LAYERS if name == "Qwen2-Audio-7B" else LAYERS_QWEN2_7B
        saved = n - fewhertz.parse(f"pool@keep={keep}").num_tokens(n)
        runs: dict[str, Callable[[], object]] = {"layer": decoder_layer(shape, 1, saved, like)}
        specs = {f"{method}@keep={keep}": method for method in ("ward", "optimal")}
        for batch in size["cost_batches"]:
            x = torch.randn(batch, n, shape["hidden_size"], **like)
            runs |= {f"{spec}, {batch}": application(fewhertz.parse(spec), x) for spec in specs}
        for way, run in runs.items():
            if way == "layer" or way.endswith(", 1"):  # the large ones have nothing left to find made
                run()
        times = in_turns(runs, size["cost_rounds"], device, processor)
        for spec, method in specs.items():
            for batch in size["cost_batches"]:
                # a layer's time is linear in the number of sequences: each attends to itself alone
                share = ratio(times[f"{spec}, {batch}"], times["layer"]) / (batch * all_layers)
                rows.append(
                    {
                        "method": spec,
                        "shape": name,
                        "batch": batch,
                        "tokens": n,
                        "tokens_saved": batch * saved,
                        "layers": all_layers,
                        "seconds": statistics.median(times[f"{spec}, {batch}"]),
                        "layer_seconds_of_one": statistics.median(times["layer"]),
                        "share_of_prefill_saved": share,
                        "bar": WARD_BAR if method == "ward" else None,
                        "met": share <= WARD_BAR if method == "ward" else None,
                    }
                )
        progress(f"cost: {name}, keep={keep}")
    return rows


def distance(x: Tensor, plan: Plan) -> float:
    """Squared distance of a clip's tokens of length 1 to the mean of their group, by the definition."""
    unit = normalize(x.double(), dim=-1, eps=1e-30)
    means = plan.apply(unit)
    return (unit - means.gather(1, plan.group[..., None].expand_as(unit))).square().sum().item()


def objective(size: dict[str, Any], model: Any, asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The distances of ward's segments over those of the best, on what the LLM of pocket reads of recordings."""
    family = family_of(model)
    clips = []
    for inputs in asked:
        features = {name: inputs[name] for name in family.audio_inputs}
        windows = family.encode(model, features, inputs["input_ids"], "llm", False)
        clips += [clip[None] for clip in windows.tokens.split(windows.lengths)]
    rows = []
    for keep in size["keeps"]:
        # no limit to a segment: the best of all ways
        near, best, pool = (
            [distance(x, fewhertz.parse(f"{name}@keep={keep}").plan(x, Clip(RATE))) for x in clips]
            for name in ("ward", "optimal(longest=100)", "pool")
        )
        each = [a / b for a, b in zip(near, best, strict=True)]
        together = sum(near) / sum(best)
        rows.append(
            {
                "keep": keep,
                "clips": len(clips),
                "ward_over_optimal": together,
                "ward_over_optimal_mean_of_clips": statistics.mean(each),
                "ward_over_optimal_largest_of_clips": max(each),
                "clips_within_bar": sum(one <= OBJECTIVE_BAR for one in each),
                "pool_over_optimal": sum(pool) / sum(best),
                "bar": OBJECTIVE_BAR,
                "met": together <= OBJECTIVE_BAR,
            }
        )
    return rows
