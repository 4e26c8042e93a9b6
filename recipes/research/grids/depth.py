"""The runs of docs/research/depth.md: what is not words, and compression inside the LLM."""

from __future__ import annotations

from ..tasks import SENTENCES, Asked
from . import AS_PUBLISHED, BOTH, at

VOICES = Asked("voice-test", 600, "accuracy", "questions of voices", "accuracy, %")
LISTS = (VOICES, SENTENCES)
METHODS = ("pool", "segment", "ltbm", "segmentwise", "ward")
KEEPS = ("1/2", "1/3")
PRICED = f"ward@tolerance=0.3{BOTH}"
LAYERS = range(4)  # of pocket's LLM
SCHEDULES = ("0+1+2", "1+2+3")
THIRD, TENTH = "1/3", "1/10"
ROWS = (("ward", BOTH), ("pool", BOTH), ("pool", AS_PUBLISHED))
WITHIN = 3.0  # points of accuracy that a loss at 1/3 may have


def voices() -> list[str]:
    """Methods at both keeps, as published and with corrections, and the default."""
    runs = [
        at(f"{method}{corrections}", keep)
        for method in METHODS
        for corrections in (AS_PUBLISHED, BOTH)
        for keep in KEEPS
    ]
    return [*runs, PRICED]


def main() -> list[str]:
    """Those of them without which the page says nothing: a third by `ward` and `pool`, and the default."""
    return [*(at(spec, THIRD) for spec in (f"ward{BOTH}", f"pool{BOTH}", "pool")), PRICED]


def within(layer: int | str, keep: str = THIRD, method: str = "ward", corrections: str = BOTH) -> str:
    """A run that compresses before a layer of the LLM, or a part before each of several (`1+2`)."""
    return at(f"{method}{f'(site=llm.{layer})' if layer else ''}{corrections}", keep)


def inside() -> list[str]:
    """A third from each layer on, with corrections and as published, by schedules too, and a tenth in the last one."""
    thirds = [within(layer, method=method, corrections=corrections) for method, corrections in ROWS for layer in LAYERS]
    return [*thirds, *map(within, SCHEDULES), within(LAYERS[-1], TENTH)]


def grid(task: Asked) -> list[str]:
    """All runs of a list."""
    return {VOICES: voices(), SENTENCES: inside()}[task]
