"""The adapters of the whole LoRA grid: rank, alpha and what is adapted at ×2 and ×3, and seeds of the main one.

    python -m recipes.research.train lora
    python -m recipes.research.run lora

Beside `recovery`, whose trials are about methods and an earlier model. Sixty-odd trainings: many hours on 2 cores;
`FIRST` and `STAR` (`--only`) are those that docs/research/fourth.md tells of.
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


def changed(trial: Trial) -> str:
    """In what a trial differs from the main one."""
    names = {"rank": "r = {}", "alpha": "α = {}", "targets": "{}", "seed": "seed {}"}
    main = dict(zip(names, (*MAIN, 0), strict=True))
    return ", ".join(names[key].format(value) for key, value in trial.settings.items() if value != main[key])


# one setting changed at a time, at a third; the seeds of it and of the control
STAR = [
    *(_trial(3, rank, MAIN[1], MAIN[2]) for rank in RANKS if rank != MAIN[0]),
    *(_trial(3, MAIN[0], alpha, MAIN[2]) for alpha in ALPHAS if alpha != MAIN[1]),
    *(_trial(3, MAIN[0], MAIN[1], targets) for targets in TARGETS if targets != MAIN[2]),
    *(_trial(3, *MAIN, seed) for seed in SEEDS),
]
GRID = [_trial(*one) for one in itertools.product(DIVISORS, RANKS, ALPHAS, TARGETS)]
REPEATED = [_trial(divisor, *MAIN, seed) for divisor in DIVISORS for seed in SEEDS]
CONTROLS = [CONTROL, *(Trial(f"none-seed{seed}", "none", settings={"seed": seed}) for seed in SEEDS)]
CORRECTED = [Trial(f"ward-told-{divisor}", keep(f"ward{BOTH}", divisor)) for divisor in DIVISORS]
FIRST = [CONTROL, *(_trial(divisor, *MAIN) for divisor in DIVISORS), *CORRECTED]
TRIALS = [*{trial.name: trial for trial in (*FIRST, *STAR, *CONTROLS, *REPEATED, *GRID)}.values()]
