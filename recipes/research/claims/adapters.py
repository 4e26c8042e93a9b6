"""What the claims share: names of runs with an adapter, and how gains and word error rates are shown."""

from __future__ import annotations

from collections.abc import Iterable

from fewhertz.evaluation.results import BASELINE

from ..grids.recovery import CONTROL, THIRD, Trial
from ..measured import Measured, With
from ..tables import Gain, arxiv, signed
from ..tasks import SPEECH

OURS = "ours"
AVERAGING, MERGING, PRUNING = (arxiv(number) for number in ("2511.20973", "2605.25179", "2511.14293"))
CONTROLLED, ADAPTED = With(CONTROL.name, BASELINE), With("pool-3", THIRD)


def adapted(trial: Trial, spec: str | None = None) -> With:
    """The run of an adapter, under what it was trained with or another spec."""
    return With(trial.name, spec or trial.method)


def over(measured: Measured, one: str | With, other: str | With) -> list[Gain]:
    """Gains on word strings and sentences."""
    return [measured.gain(task, one, other) for task in SPEECH]


def shown(gains: Iterable[Gain]) -> str:
    """Gains without their marks."""
    return "; ".join(gain.plain for gain in gains)


def both(measured: Measured, one: str | With, other: str | With) -> str:
    """Gains on word strings and sentences, in words."""
    return shown(over(measured, one, other))


def points(gain: Gain) -> str:
    """How many points of WER more, with the interval."""
    return signed(-gain.value, -gain.high, -gain.low, 1)


def wer(measured: Measured, spec: str | With) -> str:
    return " / ".join(f"{measured.value(task, spec):.1f}" for task in SPEECH)
