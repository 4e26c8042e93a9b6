"""What `+time` alone, `+sizes` alone and both gain over the methods as published."""

from __future__ import annotations

import statistics

from fewhertz.evaluation.metrics import METRICS

from ..grids import AS_PUBLISHED, BOTH, CORRECTIONS
from ..grids.training_free import DEV_KEEPS, KEEPS, MERGING, OURS_BEST, spec
from ..measured import Measured
from ..tables import counts, table
from ..tasks import TASKS


def section(measured: Measured) -> str:
    """A section in Markdown."""
    runs = [spec(method, corrections, keep) for method in MERGING for corrections in CORRECTIONS for keep in KEEPS]
    tasks = [task for task in TASKS if measured.there(task, *runs)]
    if not tasks:
        return "`+time` alone and `+sizes` alone have not been run yet."
    rows, counted = [], []
    for task in tasks:
        for method in (OURS_BEST, "pool"):
            plain = spec(method, AS_PUBLISHED, "1/3")
            gains = [measured.gain(task, spec(method, one, "1/3"), plain) for one in CORRECTIONS[1:]]
            rows.append([f"`{method}`, {task.name} ({task.unit})", *gains])
        grid = [(method, keep) for method in MERGING for keep in DEV_KEEPS]
        over = [[measured.gain(task, spec(m, BOTH, k), spec(m, less, k)) for m, k in grid] for less in CORRECTIONS[:-1]]
        sign = 1 if METRICS[task.metric].higher_is_better else -1
        scores = {one: [sign * measured.value(task, spec(m, one, "1/3")) for m in MERGING] for one in CORRECTIONS}
        medians = [
            statistics.median(a - b for a, b in zip(scores[one], scores[AS_PUBLISHED], strict=True))
            for one in CORRECTIONS[1:]
        ]
        rows.append([f"median of {len(MERGING)} methods, {task.name}", *(f"{value:+.2f}" for value in medians)])
        counted.append([task.name, *map(counts, over)])
    return (
        "At keep=1/3, gain over the method as published.\n\n"
        + table(["gain", "`+time`", "`+sizes`", "`+time+sizes`"], rows)
        + f"\n\n`+time+sizes` over less, {len(MERGING)} methods that merge × keep {', '.join(DEV_KEEPS)}: "
        "better / tied / worse.\n\n" + table(["", "over as published", "over `+time`", "over `+sizes`"], counted)
    )
