"""What the claims share: who made them, and how gains and word error rates on speech are shown."""

from __future__ import annotations

from collections.abc import Iterable

from ..grids.training_free import SPEECH
from ..measured import Measured, With
from ..tables import Gain, arxiv, signed

OURS = "ours"
AVERAGING, MERGING, PRUNING = (arxiv(number) for number in ("2511.20973", "2605.25179", "2511.14293"))


def over(measured: Measured, one: str | With, other: str | With) -> list[Gain]:
    """Gains on far sentences and word strings."""
    return [measured.gain(task, one, other) for task in SPEECH]


def shown(gains: Iterable[Gain]) -> str:
    """Gains without their marks."""
    return "; ".join(gain.plain for gain in gains)


def both(measured: Measured, one: str | With, other: str | With) -> str:
    """Gains on far sentences and word strings, in words."""
    return shown(over(measured, one, other))


def points(gain: Gain) -> str:
    """How many points of WER more, with the interval."""
    return signed(-gain.value, -gain.high, -gain.low, 1)


def wer(measured: Measured, spec: str | With) -> str:
    return " / ".join(f"{measured.value(task, spec):.1f}" for task in SPEECH)
