"""What the pictures of several pages are drawn of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewhertz.evaluation.results import BASELINE
from fewhertz.palette import LINES, MARKERS

from .measured import Measured
from .tasks import Asked


def losses(axis: Any, measured: Measured, task: Asked, kinds: Mapping[str, Sequence[str]]) -> None:
    """Draw what a list loses against audio tokens per second: a line for each kind of runs, of those that are there."""
    for number, (kind, runs) in enumerate(kinds.items()):
        there = [run for run in runs if measured.there(task, run)]
        rates = [measured.hertz(task, run) for run in there]
        lost = [-measured.gain(task, run, BASELINE).value for run in there]
        axis.plot(rates, lost, color=LINES[number], marker=MARKERS[number], ms=5, lw=1.2, label=kind)
    axis.axhline(0, color="0.5", lw=0.8)
    axis.set_title(task.name, fontsize=10)
    axis.set_xlabel("audio tokens per second (Hz)")
    axis.set_ylabel(f"{task.unit.split(',')[0]}, lost")
    axis.grid(alpha=0.3)
    axis.set_xlim(0, 22)
