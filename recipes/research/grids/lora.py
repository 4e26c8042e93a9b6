"""The adapters that are trained: what each is trained under, and with which settings.

    python -m recipes.research.train lora
    python -m recipes.research.run lora

Ninety trainings: four hours on 2 cores. docs/research/lora.md and the later claims of claims.md tell of them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from ..tasks import Asked
from . import BOTH, at
from .training_free import ANSWERS, CHOSEN, GERMAN, SOUNDS, SPEECH, priced

ROWS = {"strings": 1000, "synthetic": 1500}  # of a training list, its first ones
# learning rate by the loss on dev, of pool at 1/3 on the third version
SETTINGS: dict[str, Any] = {"steps": 300, "batch_size": 16, "lr": 3e-3, "every": 100}
LONG, MORE = 900, ROWS | {"synthetic": 3000}  # steps, and rows for them


@dataclass(frozen=True)
class Trial:
    """An adapter: the method that is attached, what differs from `SETTINGS`, and rows of each training list.

    In names, `told` is with corrections, `untold` an adapter that is to make up for their absence.
    """

    name: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=lambda: ROWS)


def keep(method: str, divisor: int) -> str:
    return at(method, f"1/{divisor}")


def _stem(method: str, divisor: int) -> str:
    """Of the names of a method's trials, but for those of the grid."""
    return f"{method.replace(BOTH, '-told')}-{divisor}"


CONTROL = Trial("none", "none")

# --- rank, alpha and what is adapted, at ×2 and ×3
RANKS, ALPHAS, TARGETS, DIVISORS, SEEDS = (8, 16, 32), (16, 32, 64), ("q,k", "k", "q,k,v,o"), (2, 3), (1, 2)
MAIN = (16, 32, "q,k")


def _shaped(divisor: int, rank: int, alpha: int, targets: str, seed: int = 0) -> Trial:
    name = f"pool-{divisor}-r{rank}-a{alpha}-{targets.replace(',', '')}" + (f"-seed{seed}" if seed else "")
    return Trial(name, keep("pool", divisor), {"rank": rank, "alpha": alpha, "targets": targets, "seed": seed})


def _plain(method: str, divisor: int, steps: int = 0, **settings: Any) -> Trial:
    """A method at a divisor; `steps`: other than those of `SETTINGS`."""
    settings |= {"steps": steps, "every": min(steps, SETTINGS["every"])} if steps else {}
    ends = [str(steps)] if steps else [f"seed{settings['seed']}"] if settings else []
    return Trial("-".join([_stem(method, divisor), *ends]), keep(method, divisor), settings)


GRIDS = {k: [_shaped(k, *one) for one in itertools.product(RANKS, ALPHAS, TARGETS)] for k in DIVISORS}
GRID = [*itertools.chain(*GRIDS.values())]
HALF, THIRD = (_shaped(divisor, *MAIN) for divisor in DIVISORS)
WARD = f"ward{BOTH}"
CORRECTED = [_plain(WARD, divisor) for divisor in DIVISORS]
# seeds of the main ones, the first of them that of the trials above
POOL_SEEDS = {k: [_shaped(k, *MAIN, seed) for seed in (0, *SEEDS)] for k in DIVISORS}
WARD_SEEDS = {
    k: [first, *(_plain(WARD, k, seed=seed) for seed in SEEDS)] for k, first in zip(DIVISORS, CORRECTED, strict=True)
}
CONTROLS = [CONTROL, *(Trial(f"none-seed{seed}", "none", {"seed": seed}) for seed in SEEDS)]

# --- three times the steps on twice the sentences: what ×2 to ×6 and a tolerance come to
LONG_CONTROL = Trial(f"none-{LONG}", "none", {"steps": LONG}, MORE)
LONG_DIVISORS = (2, 3, 4, 6)
LADDER = {
    method: [Trial(f"{_stem(method, k)}-{LONG}", keep(method, k), {"steps": LONG}, MORE) for k in LONG_DIVISORS]
    for method in ("pool", WARD)
}
PRICED = Trial(f"tolerance-{LONG}", priced(CHOSEN), {"steps": LONG}, MORE)
LONGER = [LONG_CONTROL, *itertools.chain(*LADDER.values()), PRICED]

# --- the claims
SAMPLED = [_plain("stride", k) for k in DIVISORS]
LEARNED = [_plain("conv", k) for k in DIVISORS]
POOLED = [_plain(f"pool{BOTH}", k) for k in DIVISORS]
UNCORRECTED = _plain("ward", 3)
SHORT = (25, 100)
EARLY = {m: [_plain(m, 3, steps) for steps in SHORT] for m in ("pool", f"pool{BOTH}", "ward", WARD)}
# `ward` as published after the steps of `SETTINGS` is `UNCORRECTED`, `pool` is `THIRD`
DISTILL: dict[str, Any] = {"objective": "distill", "max_new_tokens": 64}
DISTILLED = Trial("pool-3-distill", THIRD.method, DISTILL | {"teacher": None})
WITHOUT = Trial("ward-untold-3", keep("ward", 3), DISTILL | {"teacher": keep(WARD, 3)})
RANGE = Trial("pool-range", "pool", {"keeps": tuple(Fraction(1, k) for k in DIVISORS)})

OF_CLAIMS = [*SAMPLED, *LEARNED, *POOLED, UNCORRECTED, *itertools.chain(*EARLY.values()), DISTILLED, RANGE, WITHOUT]
SEVERAL = [*CONTROLS, *itertools.chain(*POOL_SEEDS.values(), *WARD_SEEDS.values())]
TRIALS = [*{trial.name: trial for trial in (*SEVERAL, *GRID, *LONGER, *OF_CLAIMS)}.values()]
ELSEWHERE = (GERMAN, SOUNDS, ANSWERS)  # whether what one task teaches serves another
LISTS = (*SPEECH, *ELSEWHERE)


def measured_on(task: Asked) -> list[Trial]:
    """The adapters that a list measures."""
    return TRIALS if task in SPEECH else [CONTROL, THIRD]
