"""The default against every published method, each with the corrections that suit it best."""

from __future__ import annotations

from collections.abc import Iterator

from fewhertz.evaluation.metrics import METRICS
from fewhertz.method import RECOMMENDED

from ..grids import BOTH, CORRECTIONS, at
from ..grids.training_free import KEEPS, OURS, PUBLISHED, own, run_of, short, spec
from ..measured import Measured
from ..tables import Gain, counts, table
from ..tasks import TASKS, Asked


def missing(measured: Measured) -> list[str]:
    """How many runs of the grid have not been measured, by corrections, in words."""
    lacking = []
    for corrections in CORRECTIONS:
        runs = [
            (task, spec(method, corrections, keep)) for task in TASKS for method in own(corrections) for keep in KEEPS
        ]
        if count := sum(not measured.there(task, run) for task, run in runs):
            how = f"with `{corrections}`" if corrections else "as published"
            lacking.append(f"{count} of {len(runs)} runs {how}")
    return lacking


def rivals(measured: Measured, task: Asked, keep: str) -> list[str]:
    """Each published method's run with the corrections that score best, of those that have been measured."""
    sign = 1 if METRICS[task.metric].higher_is_better else -1
    best = []
    for method in PUBLISHED:
        runs = list(dict.fromkeys(run_of(method, corrections, keep) for corrections in CORRECTIONS))
        if some := [run for run in runs if measured.there(task, run)]:
            best.append(max(some, key=lambda run: sign * measured.value(task, run)))
    return best


def contests(measured: Measured, ours: str = RECOMMENDED) -> Iterator[tuple[Asked, str, str, Gain]]:
    """A method of ours against every rival, at every task and keep."""
    for task in TASKS:
        for keep in KEEPS:
            run = at(ours, keep)
            if measured.there(task, run):
                for rival in rivals(measured, task, keep):
                    yield task, keep, rival, measured.gain(task, run, rival)


def front(measured: Measured) -> tuple[str, str]:
    """The verdict on the target that none is better, and what it rests on."""
    gains = [one for *_, one in contests(measured)]
    worse = any(one.sign < 0 for one in gains)
    held = "**missed**" if worse else "met so far" if missing(measured) else "**met**"
    return held, f"better / tied / worse {counts(gains)}"


def section(measured: Measured) -> str:
    """Who comes nearest, or is ahead."""
    found: dict[tuple[Asked, str], list[tuple[str, Gain]]] = {}
    for task, keep, rival, one in contests(measured):
        found.setdefault((task, keep), []).append((rival, one))
    rows, ahead = [], []
    for task in TASKS:
        row = [f"{task.name} ({task.unit})"]
        for keep in KEEPS:
            several = found.get((task, keep), [])
            if not several:
                row.append("–")
                continue
            rival, least = min(several, key=lambda one: one[1].value)
            row.append(f"`{short(rival)}` {least}")
            ahead += [f"`{short(r)}` on {task.name} at {keep} ({one})" for r, one in several if one.sign < 0]
        rows.append(row)
    also = "; ".join(
        f"`{one}{BOTH}` {counts([gain for *_, gain in contests(measured, f'{one}{BOTH}')])}" for one in OURS
    )
    return (
        f"Better / tied / worse, over all tasks and keeps: {also}.\n\n"
        f"Gain of `{RECOMMENDED}` over the published method that comes nearest to it or is furthest ahead, each with "
        "the corrections that score best on this very list, which favours it. Equal keep, so equal Hz.\n\n"
        + table(["gain", *KEEPS], rows)
        + f"\n\nAhead of it, with an interval without 0: {'; '.join(ahead) or 'none'}."
    )
