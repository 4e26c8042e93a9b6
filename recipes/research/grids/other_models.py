"""Two more models of pocket's kind: how they are trained, and the runs that they are measured under."""

from __future__ import annotations

from dataclasses import dataclass

from fewhertz.evaluation.runner import specs

from ..tasks import LISTS, MODEL, SENTENCES, STRINGS
from . import CORRECTIONS

WEIGHTS = LISTS / "models"
TASKS = (STRINGS, SENTENCES)
MERGING = ("pool", "segment", "ltbm", "ward", "optimal")
METHODS = (*MERGING, "segmentwise")  # which drops tokens: `+sizes` does nothing to those that stay
KEEPS = ("1/2", "1/3", "1/4")
MIDDLE = "1/3"


@dataclass(frozen=True)
class Other:
    """A model, what it is there to show, and the arguments of its training."""

    name: str
    what: str
    size: str
    arguments: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Of its training, among those of `recipes.pocket`."""
        return self.name.replace(MODEL, "other")

    @property
    def training(self) -> list[str]:
        """Arguments of `recipes.pocket`."""
        return ["train", "--name", self.folder, "--size", self.size, *self.arguments]


LEARNT = (
    *("--shares", "words=0.6", "english=0.4", "--lengthen", "800"),
    *("--threads", "1", "--batch-seconds", "24", "--lr", "2e-3", "--save-every", "50"),
)
OTHERS = (
    Other(
        "pocket-wide",
        "another seed and another shape",
        "wide",
        ("--seed", "2", "--mix-from", "855", "--steps", "2800", *LEARNT),
    ),
    Other(
        "pocket-shifted",
        "another seed, and positions shifted at random in half of its examples",
        "small",
        ("--seed", "3", "--shift", "0.5", "--mix-from", "746", "--steps", "2600", *LEARNT),
    ),
)


def grid() -> list[str]:
    """The runs of a task, as specs."""
    return specs([f"{method}{corrections}" for method in METHODS for corrections in CORRECTIONS], KEEPS)
