"""The adapters that are trained: what each is trained under, on what, and what it is measured on."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from ..tasks import FRENCH, SPEECH, Asked
from . import BOTH, at

ROWS = {"strings": 1000, "synthetic": 1500, "french-synthetic": 400}  # of a training list, its first ones
LANGUAGES = {"en": ("strings", "synthetic"), "fr": ("french-synthetic",)}
# learning rate by the loss on dev, of pool at 1/3 (the trials `lr-…`)
SETTINGS: dict[str, Any] = {"steps": 300, "batch_size": 16, "lr": 3e-3, "every": 100}

METHODS, DIVISORS = ("pool", "stride", "segment", "ltbm"), (2, 3, 4, 5, 6)


@dataclass(frozen=True)
class Trial:
    """An adapter: the method that is attached, what it is trained on, and what differs from `SETTINGS`.

    In names, `told` is with corrections, `untold` an adapter that is to make up for their absence.
    """

    name: str
    method: str
    language: str = "en"
    settings: dict[str, Any] = field(default_factory=dict)


def keep(method: str, divisor: int) -> str:
    return at(method, f"1/{divisor}")


DISTILL: dict[str, Any] = {"objective": "distill", "max_new_tokens": 64}


def _taught(teacher: str | None) -> dict[str, Any]:
    return DISTILL | {"teacher": teacher}


def stem(method: str) -> str:
    """Of the names of a method's trials at ×3."""
    return f"{method.replace(BOTH, '-told')}-3"


def _for(steps: int, method: str) -> Trial:
    return Trial(f"{stem(method)}-{steps}", keep(method, 3), settings={"steps": steps, "every": min(steps, 100)})


GRID = [Trial(f"{method}-{k}", keep(method, k)) for method in METHODS for k in DIVISORS]
CONTROL, CONTROL_FR = Trial("none", "none"), Trial("none-fr", "none", "fr")
UNSEG = Trial("unseg", "unseg")
THIRD = "pool@keep=1/3"
SHAPES = [
    Trial("pool-3-k", THIRD, settings={"targets": "k"}),
    Trial("pool-3-all", THIRD, settings={"targets": "all"}),
    Trial("pool-3-r8", THIRD, settings={"rank": 8}),
    Trial("pool-3-r32", THIRD, settings={"rank": 32}),
    Trial("pool-3-a16", THIRD, settings={"alpha": 16}),
    Trial("pool-3-a64", THIRD, settings={"alpha": 64}),
]
CORRECTED = [Trial(f"{method}-told-{k}", keep(f"{method}{BOTH}", k)) for method in ("pool", "ward") for k in (2, 3)]
LEARNED = [Trial("conv-2", keep("conv", 2)), Trial("conv-3", keep("conv", 3))]
# what a shorter and a longer training leave; 300 steps are among the trials above, but for `ward` as published
SHORT, LONG = (25, 100), 600
LADDER = ("pool", f"pool{BOTH}", "ward", f"ward{BOTH}")
WARD = Trial("ward-3", keep("ward", 3))
# what did best alone, together
ALL_OF_IT = DISTILL | {"targets": "all"}
COMBINED = [Trial(f"combined-{k}", keep(f"conv{BOTH}", k), settings=ALL_OF_IT) for k in (2, 3)]
FRENCH_THIRD = Trial("pool-3-fr", THIRD, "fr")
DISTILLED = Trial("pool-3-distill", THIRD, settings=DISTILL)
WITHOUT = [Trial(f"ward-untold-{k}", keep("ward", k), settings=_taught(keep(f"ward{BOTH}", k))) for k in (2, 3)]
BY_ALL_TOKENS = Trial("ward-distill-3", keep("ward", 3), settings=_taught(None))
RANGE = Trial("pool-range", "pool", settings={"keeps": tuple(Fraction(1, k) for k in DIVISORS)})
FEWER = [WARD, *(_for(steps, method) for method in LADDER for steps in SHORT)]
LONGER = [Trial(f"none-{LONG}", "none", settings={"steps": LONG}), *(_for(LONG, m) for m in LADDER if m != "ward")]
RATES = [Trial(f"lr-{lr:g}", THIRD, settings={"lr": lr}) for lr in (1e-3, 1e-2)]
TRIALS = [
    *RATES,
    CONTROL,
    *GRID,
    *CORRECTED,
    *LEARNED,
    *COMBINED,
    RANGE,
    DISTILLED,
    *SHAPES,
    CONTROL_FR,
    FRENCH_THIRD,
    UNSEG,
    *FEWER,
    *WITHOUT,
    BY_ALL_TOKENS,
    *LONGER,
]


def named(name: str) -> Trial:
    return next(trial for trial in TRIALS if trial.name == name)


def measured_on(task: Asked) -> list[str]:
    """Names of the adapters that a task measures."""
    if task in SPEECH:
        return [trial.name for trial in TRIALS if trial not in RATES]
    ours = [CONTROL.name, "pool-3"]
    return [*ours, CONTROL_FR.name, FRENCH_THIRD.name] if task == FRENCH else ours
