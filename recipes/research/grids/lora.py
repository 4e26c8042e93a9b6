"""The adapters of the whole LoRA grid: rank, alpha and what is adapted at ×2 and ×3, and seeds of the main one.

    python -m recipes.research.train lora
    python -m recipes.research.run lora

Beside `recovery`, whose trials are about methods and an earlier model. Sixty trainings: two hours on 2 cores.
docs/research/fourth.md tells of `FIRST`, the seeds and `STAR`.
"""

from __future__ import annotations

import itertools

from . import BOTH
from .fourth import FAR, STRINGS_4
from .recovery import CONTROL, Trial, keep

RANKS, ALPHAS, TARGETS, DIVISORS, SEEDS = (8, 16, 32), (16, 32, 64), ("q,k", "k", "q,k,v,o"), (2, 3), (1, 2)
MAIN = (16, 32, "q,k")
LISTS = (FAR, STRINGS_4)


def _trial(divisor: int, rank: int, alpha: int, targets: str, seed: int = 0) -> Trial:
    name = f"pool-{divisor}-r{rank}-a{alpha}-{targets.replace(',', '')}" + (f"-seed{seed}" if seed else "")
    return Trial(name, keep("pool", divisor), settings={"rank": rank, "alpha": alpha, "targets": targets, "seed": seed})


GRID = [_trial(*one) for one in itertools.product(DIVISORS, RANKS, ALPHAS, TARGETS)]
REPEATED = [_trial(divisor, *MAIN, seed) for divisor in DIVISORS for seed in SEEDS]
CONTROLS = [CONTROL, *(Trial(f"none-seed{seed}", "none", settings={"seed": seed}) for seed in SEEDS)]
CORRECTED = [Trial(f"ward-told-{divisor}", keep(f"ward{BOTH}", divisor)) for divisor in DIVISORS]
HALF, THIRD = (_trial(divisor, *MAIN) for divisor in DIVISORS)
FIRST = [CONTROL, HALF, THIRD, *CORRECTED]
# of the grid at a third, those that differ from the main one in at most one setting
STAR = [
    trial
    for trial in GRID
    if trial.method == THIRD.method
    and sum(trial.settings[key] != value for key, value in zip(("rank", "alpha", "targets"), MAIN, strict=True)) <= 1
]
TRIALS = [*{trial.name: trial for trial in (*FIRST, *STAR, *CONTROLS, *REPEATED, *GRID)}.values()]
