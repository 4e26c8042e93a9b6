"""What corrections gain without training."""

from __future__ import annotations

from ..grids import BOTH, at
from ..grids.claims import CORRECTED, FEW, SCORED
from ..measured import Measured
from ..tables import Claim, Gain, table, tally, verdict
from ..tasks import TASKS


def corrections(measured: Measured) -> Claim:
    rows = []
    every: list[Gain] = []
    for name in CORRECTED:
        bare = name.removesuffix(BOTH)
        keeps = ("1/2", "1/4") if bare in SCORED else FEW  # at which it was run as published too
        for task in TASKS:
            gains = {keep: measured.gain(task, at(name, keep), at(bare, keep)) for keep in keeps}
            every += gains.values()
            rows.append([f"`{name}`, {task.name} ({task.unit})", *(gains.get(k, "–") for k in FEW)])
    return Claim(
        "Corrections, when a token was and how much it stands for, give back what merging seemed to cost",
        "our own",
        f"`{BOTH}` over the same method as published: {tally(every)}",
        verdict(every),
        f"Gain of `{BOTH}` over the method as published.\n\n{table(['gain', *FEW], rows)}",
    )
