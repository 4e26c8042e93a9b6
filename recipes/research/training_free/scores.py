"""Scores of the main methods, and the picture of some."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fewhertz import palette
from fewhertz.evaluation import curves

from ..grids import AS_PUBLISHED, BOTH
from ..grids.training_free import KEEPS, OURS_BEST, run_of, spec
from ..measured import Measured
from ..tables import table
from ..tasks import MAIN, MODEL, TASKS

MIDDLE = "1/2"
SHOWN = ("pool", "a-tome", OURS_BEST)
DRAWN = (OURS_BEST, "pool", "ltbm", "segmentwise")


def section(measured: Measured) -> str:
    """The main methods, as published and with corrections."""
    rows = [
        [f"`{method}`"]
        + [
            " → ".join(measured.number(task, run_of(method, one, MIDDLE)) for one in (AS_PUBLISHED, BOTH))
            for task in TASKS
        ]
        for method in SHOWN
    ]
    heads = [f"keep={MIDDLE}", *(f"{task.name}, {task.unit.split(',')[0]}" for task in TASKS)]
    return table(heads, rows)


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
