"""The runs of docs/research/tolerance.md: one price for all tasks, against fixed shares."""

from __future__ import annotations

from dataclasses import replace

from ..tasks import SENTENCES, TASKS, Asked
from . import BOTH

TOLERANCES = ("0.2", "0.3", "0.4", "0.5", "0.6")
CHOSEN = "0.3"  # on dev
MEL = ("0.2", "0.3", "0.45")
FIXED = ("1/2", "1/3", "1/4")
AFFINITY = ("0.95", "0.9", "0.8")
SILENCE = replace(SENTENCES, label="silence-test", name="sentences with as much silence")
LISTS = (*TASKS, SILENCE)


def priced(tolerance: str, method: str = "ward") -> str:
    """A run under a tolerance."""
    return f"{method}@tolerance={tolerance}{BOTH}"


def mel(tolerance: str) -> str:
    """A run whose count is decided on the log-mel."""
    return priced(tolerance, "ward(count=mel)")


def fixed(keep: str, method: str = "ward") -> str:
    """A run of fixed length."""
    return f"{method}@keep={keep}{BOTH}"


def affinity(threshold: str) -> str:
    """A run of the published method of variable length, with corrections."""
    return f"affinity{'' if threshold == '0.8' else f'(threshold={threshold})'}{BOTH}"


def grid(task: Asked) -> list[str]:
    """All runs of a list."""
    if task == SILENCE:  # what it is there for, and no more
        return [priced(CHOSEN), *map(fixed, FIXED[:2])]
    runs = [*map(priced, TOLERANCES), priced(CHOSEN, "optimal"), *map(mel, MEL), *map(fixed, FIXED)]
    return [*runs, *map(affinity, AFFINITY), f"unseg{BOTH}", fixed("1/2", "pool"), fixed("1/3", "pool")]
