"""What decides how few tokens are enough for speech: the letters that each carries.

Samples of both lists of speech, at every keep that was run, are sorted by the letters of their reference over the audio
tokens that are left of them, silence included.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from fewhertz import palette
from fewhertz.evaluation.metrics import METRICS, paired
from fewhertz.evaluation.results import BASELINE

from ..grids import at
from ..measured import Measured
from ..tables import signed
from ..tasks import DRAWS, SPEECH, Asked

EDGES = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, np.inf)
KEEPS = ("1/2", "1/3", "1/4", "1/6", "1/10")
LEAST = 20  # samples of a bin: fewer are not shown
DRAWN = ("ward+time+sizes", "pool+time+sizes", "ward", "pool")
COLOURS = dict(zip(DRAWN, (palette.LINES[i] for i in (0, 1, 5, 3)), strict=True))
STYLES = dict(zip(SPEECH, ("--", "-"), strict=True))


@functools.cache
def pooled(measured: Measured, task: Asked, method: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Of all samples at all keeps: letters a token, statistics, those with all tokens, and groups."""
    base, groups = measured.run(task, BASELINE).stats(task.metric)
    runs = [run for keep in KEEPS if (run := measured.found(task, at(method, keep)))]
    load = [
        sum(map(str.isalpha, references[0])) / after
        for run in runs
        for references, after in zip(run.column("references"), run.column("after"), strict=True)
    ]
    stats = [run.stats(task.metric)[0] for run in runs]
    return np.array(load), np.concatenate(stats), np.tile(base, (len(runs), 1)), groups * len(runs)


@functools.cache
def lost(
    measured: Measured, task: Asked, method: str, low: float, high: float
) -> tuple[float, float, float, float] | None:
    """Points of WER lost by samples of so many letters a token, with the interval's ends, and their mean letters."""
    load, stats, base, groups = pooled(measured, task, method)
    chosen = np.flatnonzero((low <= load) & (load < high))
    if len(chosen) < LEAST:
        return None
    several = [groups[i] for i in chosen]
    value, one_end, other_end = paired(METRICS["wer"], stats[chosen], base[chosen], several, DRAWS)
    return value, one_end, other_end, float(load[chosen].mean())


def bins() -> list[tuple[float, float]]:
    return list(itertools.pairwise(EDGES))


def section(measured: Measured) -> str:
    """What is lost where a token carries few letters, and many."""

    def loses(task: Asked, low: float, high: float) -> str:
        found = lost(measured, task, DRAWN[0], low, high)
        return f"{signed(*found[:3], 1)} ({task.name})" if found else "–"

    strings, sentences = SPEECH
    return (
        f"Sentences are spoken faster than word strings. Points of WER lost by `{DRAWN[0]}`, by the letters of the "
        f"reference for each token left: 0.5 to 0.75 {loses(strings, 0.5, 0.75)}; 1 to 1.25 "
        f"{loses(strings, 1, 1.25)}, {loses(sentences, 1, 1.25)}. Looked for on these "
        "lists."
    )


def draw(measured: Measured, file: Path) -> Path:
    """Points of WER lost against letters a token; each list a line of each method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.4), layout="constrained", dpi=200)
    axis = figure.subplots()
    for method, colour in COLOURS.items():
        for task, style in STYLES.items():
            found = [one for edges in bins() if (one := lost(measured, task, method, *edges))]
            if not found:
                continue
            value, low, high, load = np.array(found).T
            ends = [value - low, high - value]
            marks: dict[str, Any] = {
                "color": colour,
                "linestyle": style,
                "marker": "o" if "+" in method else "x",
                "capsize": 2,
            }
            axis.errorbar(load, value, ends, label=f"{method}, {task.name}", linewidth=1.2, markersize=4, **marks)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(xscale="log", xlabel="letters for each audio token", ylabel="points of WER lost against all tokens")
    ticks = [0.25, 0.5, 1, 2, 4]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=len(DRAWN), fontsize=7, frameon=False)
    figure.savefig(file, metadata={})
    return file
