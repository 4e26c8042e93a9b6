"""Mean ranks of the methods over keeps."""

from __future__ import annotations

import statistics

from fewhertz.evaluation.metrics import METRICS

from ..grids import AS_PUBLISHED, BOTH
from ..grids.training_free import KEEPS, METHODS, spec
from ..measured import Measured
from ..tables import table
from ..tasks import TASKS, Asked


def section(measured: Measured) -> str:
    """A section in Markdown, of the tasks that have all of their runs."""
    rows, tasks = [], []
    mean: dict[tuple[str, str, Asked], float] = {}
    for task in TASKS:
        if not measured.there(task, *(spec(m, c, k) for m in METHODS for c in (AS_PUBLISHED, BOTH) for k in KEEPS)):
            continue
        tasks.append(task)
        sign = -1 if METRICS[task.metric].higher_is_better else 1
        for corrections in (AS_PUBLISHED, BOTH):
            ranked = []
            for keep in KEEPS:
                scores = [sign * measured.value(task, spec(method, corrections, keep)) for method in METHODS]
                # equals share the mean of their ranks
                ranked.append([sum(b < a for b in scores) + (sum(b == a for b in scores) + 1) / 2 for a in scores])
            for i, method in enumerate(METHODS):
                mean[method, corrections, task] = statistics.mean(row[i] for row in ranked)
    if not tasks:
        return "No task has all of its runs yet."
    for method in METHODS:
        plain, corrected = ([mean[method, one, task] for task in tasks] for one in (AS_PUBLISHED, BOTH))
        shown = [f"{a:.1f} → {b:.1f}" for a, b in zip(plain, corrected, strict=True)]
        means = [statistics.mean(several) for several in (plain, corrected)]
        rows.append((means[1], [f"`{method}`", *shown, *(f"{value:.1f}" for value in means)]))
    rows.sort(key=lambda row: row[0])
    heads = ["", *(task.name for task in tasks), "mean, as published", "mean, `+time+sizes`"]
    return (
        f"Mean rank over keeps {', '.join(KEEPS)} among the {len(METHODS)} methods, all as published → all with "
        "`+time+sizes`; 1 is best. A rank says nothing of how far apart two methods are.\n\n"
        + table(heads, [row for _, row in rows])
    )
