"""The runs of docs/research/encoder.md: merging before a layer of the encoder, against merging behind it."""

from __future__ import annotations

from dataclasses import replace

from ..tasks import ANSWERS, GERMAN, SENTENCES, SOUNDS, STRINGS
from . import AS_PUBLISHED, BOTH

LISTS = (
    replace(STRINGS, rows=100), SENTENCES, replace(GERMAN, rows=100), replace(SOUNDS, rows=60), ANSWERS,
)  # fmt: skip
KEEPS = ("1/2", "1/3")
LAYERS = ("1", "2", "3", "4")  # of pocket's five, from 0
DEEP = "3"  # at 60 % of the depth
SEVERAL = "2+3+4"
TOLERANCE = "0.3"


def inside(layers: str, budget: str, corrections: str = BOTH) -> str:
    """A run that merges before layers; `""`: behind the encoder."""
    site = f"(site=encoder.{layers})" if layers else ""
    return f"ward{site}@{budget}{corrections}"


def grid() -> list[str]:
    """All runs of a list."""
    runs = [inside(layers, f"keep={keep}") for layers in ("", *LAYERS, SEVERAL) for keep in KEEPS]
    runs += [inside(layers, f"keep={keep}", AS_PUBLISHED) for layers in ("", DEEP) for keep in KEEPS]
    return runs + [inside(layers, f"tolerance={TOLERANCE}") for layers in ("", DEEP, SEVERAL)]
