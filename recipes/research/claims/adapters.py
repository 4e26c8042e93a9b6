"""What the claims on adapters share: names of runs with one, and how word error rates are shown."""

from __future__ import annotations

from fewhertz.evaluation.results import BASELINE

from ..grids.recovery import CONTROL, THIRD, Trial
from ..measured import Measured, With
from ..tables import Gain, at_most, signed
from ..tasks import SPEECH

CONTROLLED, ADAPTED = With(CONTROL.name, BASELINE), With("pool-3", THIRD)


def adapted(trial: Trial, spec: str | None = None) -> With:
    """The run of an adapter, under what it was trained with or another spec."""
    return With(trial.name, spec or trial.method)


def points(gain: Gain) -> str:
    """How many points of WER more, with the interval."""
    return signed(-gain.value, -gain.high, -gain.low, 1)


def within(gain: Gain, limit: float) -> str:
    """Whether a loss is at most so much."""
    return at_most(-gain.high, -gain.low, limit)


def wer(measured: Measured, spec: str | With) -> str:
    return " / ".join(f"{measured.value(task, spec):.1f}" for task in SPEECH)
