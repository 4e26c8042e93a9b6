"""The default against every published method, each with the corrections that suit it best."""

from __future__ import annotations

from collections.abc import Iterator

from fewhertz.evaluation.metrics import METRICS
from fewhertz.method import RECOMMENDED

from ..grids import BOTH, CORRECTIONS, at
from ..grids.training_free import AFFINITY, KEEPS, PUBLISHED, at_rate, run_of, short
from ..measured import Measured
from ..tables import Gain, counts
from ..tasks import TASKS, Asked


def rivals(measured: Measured, task: Asked, keep: str) -> list[str]:
    """Each published method's run with the corrections that score best."""
    sign = 1 if METRICS[task.metric].higher_is_better else -1
    runs = [dict.fromkeys(run_of(method, corrections, keep) for corrections in CORRECTIONS) for method in PUBLISHED]
    return [max(some, key=lambda run: sign * measured.value(task, run)) for some in runs]


def contests(measured: Measured) -> Iterator[tuple[Asked, str, str, Gain]]:
    """The default against every rival, at every task and keep."""
    for task in TASKS:
        for keep in KEEPS:
            for rival in rivals(measured, task, keep):
                yield task, keep, rival, measured.gain(task, at(RECOMMENDED, keep), rival)


def front(measured: Measured) -> tuple[str, str]:
    """The verdict on the target that none is better, and what it rests on."""
    gains = [one for *_, one in contests(measured)]
    return "**missed**" if any(one.sign < 0 for one in gains) else "**met**", counts(gains)


def variable(measured: Measured) -> list[Gain]:
    """Gains over affinity pooling, whose count depends on the content, at the rate that it took."""
    return [
        measured.gain(task, at_rate(measured.hertz(task, f"{one}{BOTH}")), f"{one}{BOTH}")
        for task in TASKS
        for one in AFFINITY
    ]


def section(measured: Measured) -> str:
    """Who is ahead."""
    ahead = [
        f"`{short(rival)}` on {task.name} at {keep} ({one.plain})"
        for task, keep, rival, one in contests(measured)
        if one.sign < 0
    ]
    return (
        f"Clearly ahead of `{RECOMMENDED}`: "
        f"{', '.join(ahead) or 'none'}. Over `affinity` at its rates: {counts(variable(measured))}."
    )
