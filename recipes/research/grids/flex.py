"""The runs of docs/research/flex.md: a smaller pocket, and a model that was trained for any rate in its last steps."""

from __future__ import annotations

from fewhertz.evaluation.results import BASELINE
from fewhertz.evaluation.runner import specs

from ..tasks import MODEL as POCKET
from ..tasks import SMALLER, WEIGHTS
from . import BOTH
from .training_free import ANSWERS, FAR, GERMAN, STRINGS, priced

NAME = "flex"
MODEL, BEFORE = WEIGHTS / NAME, WEIGHTS / SMALLER / POCKET
LISTS = (FAR, STRINGS, GERMAN, ANSWERS)
KEEPS = ("1/2", "1/3", "1/4", "1/6")
TOLERANCES = ("0.3", "0.6")


def grid() -> list[str]:
    """The runs of a list, as specs."""
    return [BASELINE, *specs(["pool", f"pool{BOTH}", f"ward{BOTH}"], KEEPS)[1:], *map(priced, TOLERANCES)]
