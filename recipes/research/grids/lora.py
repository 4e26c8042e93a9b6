"""The adapters of the whole LoRA grid: rank, alpha and what is adapted at ×2 and ×3, and seeds of the main one.

    python -m recipes.research.train lora
    python -m recipes.research.run lora --tasks strings-test synthetic-test

Beside `recovery`, whose trials are about methods. Sixty trainings: about six hours on 2 cores.
"""

from __future__ import annotations

import itertools

from .recovery import CONTROL, Trial, keep

RANKS, ALPHAS, TARGETS, DIVISORS, SEEDS = (8, 16, 32), (16, 32, 64), ("q,k", "k", "q,k,v,o"), (2, 3), (1, 2)
MAIN = (16, 32, "q,k")


def _trial(divisor: int, rank: int, alpha: int, targets: str, seed: int = 0) -> Trial:
    name = f"pool-{divisor}-r{rank}-a{alpha}-{targets.replace(',', '')}" + (f"-seed{seed}" if seed else "")
    return Trial(name, keep("pool", divisor), settings={"rank": rank, "alpha": alpha, "targets": targets, "seed": seed})


GRID = [_trial(*one) for one in itertools.product(DIVISORS, RANKS, ALPHAS, TARGETS)]
REPEATED = [_trial(divisor, *MAIN, seed) for divisor in DIVISORS for seed in SEEDS]
CONTROLS = [CONTROL, *(Trial(f"none-seed{seed}", "none", settings={"seed": seed}) for seed in SEEDS)]
TRIALS = [*CONTROLS, *REPEATED, *GRID]
