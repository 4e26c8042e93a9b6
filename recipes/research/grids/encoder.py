"""The runs of docs/research/encoder.md: merging before a layer of the encoder, against merging behind it."""

from __future__ import annotations

from dataclasses import replace

from ..tasks import ANSWERS, GERMAN, SENTENCES, SOUNDS, STRINGS, Asked
from . import AS_PUBLISHED, BOTH

LISTS = (
    STRINGS, replace(SENTENCES, rows=100), replace(GERMAN, rows=60), replace(SOUNDS, rows=40),
    replace(ANSWERS, rows=108),
)  # fmt: skip
KEEPS = ("1/2", "1/3")
LAYERS = ("2", "3", "4", "5")  # of pocket's six, from 0
DEEP = "4"  # at 60 % of the depth, rounded
SEVERAL = "3+4+5"
TOLERANCE = "0.3"


def inside(layers: str, budget: str, corrections: str = BOTH) -> str:
    """A run that merges before layers; `""`: behind the encoder."""
    site = f"(site=encoder.{layers})" if layers else ""
    return f"ward{site}@{budget}{corrections}"


def grid(task: Asked) -> list[str]:
    """All runs of a list: of sounds what the sites cost, of speech each layer and what corrections do."""
    if task.label in (SOUNDS.label, ANSWERS.label):
        sites = ("", DEEP, SEVERAL)
        runs = [inside(layers, f"keep={keep}") for layers in sites for keep in KEEPS]
        return runs + [inside(layers, f"tolerance={TOLERANCE}") for layers in sites[:2]]
    runs = [inside(layers, f"keep={keep}") for layers in ("", *LAYERS, SEVERAL) for keep in KEEPS]
    runs += [inside(layers, f"keep={keep}", AS_PUBLISHED) for layers in ("", DEEP) for keep in KEEPS]
    return runs + [inside(layers, f"tolerance={TOLERANCE}") for layers in ("", DEEP, SEVERAL)]
