"""Affinity pooling, whose count depends on the content, against the default at its rate."""

from __future__ import annotations

from fewhertz.method import RECOMMENDED

from ..grids import BOTH
from ..grids.training_free import AFFINITY, at_rate
from ..measured import Measured
from ..tables import Gain, counts, table
from ..tasks import TASKS


def section(measured: Measured) -> str:
    """A section in Markdown."""
    rows, gains = [], []
    for task in TASKS:
        for one in AFFINITY:
            corrected = f"{one}{BOTH}"
            if not measured.there(task, one, corrected):
                continue
            hertz = measured.hertz(task, corrected)
            ours = at_rate(hertz)
            over = measured.gained(task, ours, corrected) or "–"
            gains += [over] if isinstance(over, Gain) else []
            scores = [measured.number(task, run) for run in (one, corrected, ours)]
            rows.append([f"`{one}`, {task.name} ({task.unit})", f"{hertz:.1f}", *scores, over])
    if not rows:
        return "`affinity` (variable length) has not been run yet."
    heads = ["", "Hz", "as published", "`+time+sizes`", f"`{RECOMMENDED}`", f"`{RECOMMENDED}` over it, both corrected"]
    return (
        f"`affinity` has no budget; `{RECOMMENDED}` ran at the rate that it had on the same list. Over it, both with "
        f"corrections: better / tied / worse {counts(gains)}.\n\n{table(heads, rows)}"
    )
