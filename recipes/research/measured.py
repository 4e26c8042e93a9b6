"""What has been measured, and what follows from it: scores, and gains of one run over another on the same samples."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewhertz.evaluation.bootstrap import paired
from fewhertz.evaluation.metrics import METRICS
from fewhertz.evaluation.results import BASELINE

from .grids import at
from .grids.lora import CONTROL, Trial
from .packed import Packed, Stored
from .tables import Gain, Loss
from .tasks import DRAWS, LORA, MAIN, MODEL, Asked


@dataclass(frozen=True)
class With:
    """A run of a model with an adapter on it, by their names, and the part of the results that it is in."""

    adapter: str
    spec: str
    part: str = LORA


def adapter_run(trial: Trial, part: str = LORA, spec: str | None = None) -> With:
    """An adapter's run, under what it was trained with or another spec."""
    return With(trial.name, spec or (BASELINE if trial.method == CONTROL.method else trial.method), part)


def between(task: Asked, one: Stored, other: Stored, rows: Sequence[int] | None = None) -> Gain:
    """How much better a run of a task is than another, on the same samples: all of them, or some rows.

    Raises:
        ValueError: where they are of other samples.
    """
    (a, groups), (b, same) = (run.stats(task.metric) for run in (one, other))
    if groups != same:
        names = " and ".join(f"{run.record['model']}, {run.record['method']}" for run in (one, other))
        raise ValueError(f"{task.label}: {names} are not of the same samples: measure them again")
    chosen = range(len(groups)) if rows is None else rows
    metric = METRICS[task.metric]
    value, low, high = paired(metric, a[chosen], b[chosen], [groups[i] for i in chosen], DRAWS)
    return Gain(value, low, high) if metric.higher_is_better else Gain(-value, -high, -low)


class Measured:
    """The results of a model. A run is named by a spec, or by `With` an adapter."""

    def __init__(self, root: Path | Packed, part: str = MAIN, model: str = MODEL) -> None:
        self.packed = root if isinstance(root, Packed) else Packed(root)
        self.part, self.model = part, model

    def of(self, part: str, model: str = MODEL) -> Measured:
        """Another part of the same results."""
        return Measured(self.packed, part, model)

    def found(self, task: Asked, spec: str | With) -> Stored | None:
        if isinstance(spec, With):
            runs = self.packed.runs(spec.part, task.label, self.model)
            return runs.get((f"{self.model}+{spec.adapter}", spec.spec))
        return self.packed.runs(self.part, task.label, self.model).get((self.model, spec))

    def run(self, task: Asked, spec: str | With) -> Stored:
        """A run.

        Raises:
            ValueError: where it has not been measured.
        """
        if (found := self.found(task, spec)) is None:
            raise ValueError(
                f"{task.label}, {self.model}, {spec} has not been measured (`make training-free` and the like)"
            )
        return found

    def there(self, task: Asked, *specs: str | With) -> bool:
        """Whether all of some runs have been measured."""
        return all(self.found(task, spec) for spec in specs)

    def score(self, task: Asked, spec: str | With) -> tuple[float, float, float]:
        """A score and the ends of its interval.

        Raises:
            ValueError: where there are no such numbers.
        """
        score = self.run(task, spec).run.scores[task.metric]
        value, (low, high) = score.value, score.ends
        if value is None or low is None or high is None:
            raise ValueError(f"{task.label}, {self.model}, {spec} has no score")
        return value, low, high

    def value(self, task: Asked, spec: str | With) -> float:
        """A score without its interval."""
        return self.score(task, spec)[0]

    def hertz(self, task: Asked, spec: str | With) -> float:
        return self.run(task, spec).run.rate

    def mean_hertz(self, tasks: Sequence[Asked], spec: str | With) -> float:
        """Audio tokens per second over some tasks, each counting alike."""
        return sum(self.hertz(task, spec) for task in tasks) / len(tasks)

    @functools.cache  # noqa: B019 (lives as long as the page is written)
    def gain(self, task: Asked, one: str | With, other: str | With) -> Gain:
        """How much better `one` is than `other`, on the same samples."""
        return between(task, self.run(task, one), self.run(task, other))

    def gained(self, task: Asked, one: str | With, other: str | With) -> Gain | None:
        """`gain`, where both have been measured."""
        return self.gain(task, one, other) if self.there(task, one, other) else None

    def gains(self, tasks: Sequence[Asked], keeps: Sequence[str], one: str, other: str) -> list[Gain]:
        """`gain` of one method over another, tasks × keeps."""
        return [self.gain(task, at(one, keep), at(other, keep)) for task in tasks for keep in keeps]

    def number(self, task: Asked, spec: str | With) -> str:
        """A score; a dash where its run is missing."""
        if not self.there(task, spec):
            return "–"
        return f"{self.value(task, spec):.{2 if task.metric == 'cider' else 1}f}"


def lost(
    measured: Measured,
    task: Asked,
    run: str | With,
    unit: str,
    relative: bool = False,
    over: str | With = BASELINE,
) -> Loss:
    """What a run loses against another, all tokens mostly: in units of the metric, or in % of that one's score."""
    one = measured.gain(task, run, over)
    scale = 100 / measured.value(task, over) if relative else 1.0
    return Loss(-one.value * scale, -one.high * scale, -one.low * scale, unit)


def held(measured: Measured, run: str, limits: Mapping[Asked, float], over: str | With = BASELINE) -> str:
    """Lists by whether a run loses at most what it may: units of the metric, of captions and answers % of the score."""
    found: dict[str, list[str]] = {}
    for task, limit in limits.items():
        one = lost(measured, task, run, task.unit, relative=task.metric in ("cider", "accuracy"), over=over)
        found.setdefault(one.verdict(limit), []).append(task.name)
    return "; ".join(f"{what} {', '.join(names)}" for what, names in found.items())


def worse(measured: Measured, tasks: Sequence[Asked], run: str) -> list[str]:
    """Where a run is surely worse than all tokens, and by how much."""
    gains = {task: measured.gain(task, run, BASELINE) for task in tasks}
    return [f"{task.name} {gain.plain}" for task, gain in gains.items() if gain.sign < 0]
