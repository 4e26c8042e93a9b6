"""The runs of docs/research/claims.md without training."""

from __future__ import annotations

from fewhertz.evaluation.runner import specs

from ..tasks import ANSWERS, GERMAN, SENTENCES, SOUNDS, STRINGS, Asked
from . import BOTH

FACTORS = ("1/2", "1/3", "1/4", "1/5", "1/6")
FEW = ("1/2", "1/3", "1/4", "1/6")
MERGING = ("pool", "stride", "segment", "ltbm", "global-merge")
SHARES = ("1/2", "1/4", "1/10")
SCORED = ("segmentwise", "topk", "visionzip", "random", "bottomk")
SEGMENTS = (2, 5, 10, 15)
SITES = ("pool", "segment", "ltbm")
ENCODER_KEEPS = ("1/2", "1/3", "1/4")
CORRECTED = tuple(f"{name}{BOTH}" for name in ("pool", "segment", "ltbm", "segmentwise", "ward"))
# what unseg keeps depends on the content: the fixed budgets are the rates that it had on dev, in Hz
UNSEG_HZ = {
    "unseg": {STRINGS: 6.58, SENTENCES: 8.29, GERMAN: 8.67, SOUNDS: 6.9, ANSWERS: 7.05},
    "unseg(prominence=0.1)": {STRINGS: 2.68, SENTENCES: 7.6, GERMAN: 7.9, SOUNDS: 1.03, ANSWERS: 2.31},
}


def segments(count: int) -> str:
    """`segmentwise` with a number of segments; ten are its default."""
    return "segmentwise" if count == 10 else f"segmentwise(segments={count})"


def grid(task: Asked) -> list[str]:
    """The runs of a task, as specs."""
    runs = specs(MERGING, FACTORS)
    runs += specs(SCORED, SHARES)
    runs += specs(["random"], FEW)
    runs += specs([segments(s) for s in SEGMENTS], ["1/4"])
    runs += specs([f"{name}(site=encoder)" for name in SITES], ENCODER_KEEPS)
    runs += specs(["ward", *CORRECTED], FEW)
    for spec, rates in UNSEG_HZ.items():
        runs += specs([spec, *(f"{name}@{rates[task]:g}Hz" for name in ("pool", "segment"))])
    return list(dict.fromkeys(runs))
