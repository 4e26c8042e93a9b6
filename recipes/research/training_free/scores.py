"""All scores, a table a task, and the picture of some."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fewhertz import palette
from fewhertz.evaluation import curves
from fewhertz.evaluation.metrics import METRICS
from fewhertz.evaluation.results import BASELINE

from ..grids import AS_PUBLISHED, BOTH, CORRECTIONS
from ..grids.training_free import KEEPS, METHODS, OURS_BEST, run_of, spec
from ..measured import Measured
from ..tables import folded, table
from ..tasks import MAIN, MODEL, TASKS

DRAWN = (OURS_BEST, "pool", "ltbm", "segmentwise")


def section(measured: Measured) -> str:
    """A section in Markdown."""
    parts = [
        "Each run: as published / `+time` / `+sizes` / `+time+sizes`. Intervals of every score and its paired "
        "difference to all tokens: `results/summary.jsonl`."
    ]
    for task in TASKS:
        rows = [
            [
                f"`{method}`",
                *(" / ".join(measured.number(task, run_of(method, one, k)) for one in CORRECTIONS) for k in KEEPS),
            ]
            for method in METHODS
        ]
        better = "higher" if METRICS[task.metric].higher_is_better else "lower"
        title = f"{task.name}: {task.unit}, {better} is better; all tokens {measured.number(task, BASELINE)}"
        parts.append(folded(title, table(["", *KEEPS], rows)))
    return "\n\n".join(parts)


def draw(measured: Measured, file: Path) -> Path:
    """Quality against Hz of the default and of three methods, as published (dashed) and with corrections."""
    numbers = {f"{method}{BOTH}": i for i, method in enumerate(DRAWN)}
    numbers |= {method: i + len(palette.LINES) for i, method in enumerate(DRAWN)}  # the same colours, dashed
    runs = {spec(method, one, keep) for method in DRAWN for one in (AS_PUBLISHED, BOTH) for keep in KEEPS}
    groups = measured.groups(MAIN, tasks=TASKS)
    found = [groups[task.label, MODEL] for task in TASKS]
    drawn = [dataclasses.replace(group, runs=[one for one in group.runs if one.spec in runs]) for group in found]
    lines = [line for line in numbers if any(line in group.lines for group in drawn)]
    curves.plot(curves.choose(drawn), numbers, file, lines)
    return file
