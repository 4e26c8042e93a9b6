"""The section of docs/research/training-free.md on what explains the loss, and its picture."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewhertz.evaluation.results import BASELINE
from fewhertz.files import Record

from . import speech
from .grids import BOTH, at
from .grids.omni import NAME
from .grids.training_free import (
    CHOSEN,
    COMPARED,
    KEEPS,
    OURS,
    PACES,
    SENTENCES,
    SHARES,
    SILENT,
    TRIED,
    grid,
    priced,
)
from .measured import Measured, lost
from .regression import explained, fit
from .tables import signed, table
from .tasks import DRAWS, OMNI, REPO, SMALLER, Asked

# predictors, and how much more of each the coefficients are of
STEPS = {"letters per kept token of speech, +1": 1.0, "pace, +40 words a minute": 40.0, "silence, +50 %": 0.5}
SPLITS = REPO / "recipes" / "pocket" / "splits"


@dataclass(frozen=True)
class Samples:
    """Samples of a list under a run: points of WER added, predictors in `STEPS`, voices, and what was said."""

    added: np.ndarray
    predictors: np.ndarray
    voices: list[str]
    texts: list[str]


def pace(row: Record) -> int:
    """Words a minute that the synthesiser was asked for."""
    return int((row["say"] if "say" in row else row["says"][0])["speed"])


@functools.cache
def _paces(label: str) -> dict[str, int]:
    lines = (SPLITS / f"{label}.jsonl").read_text("utf-8").splitlines()
    return {row["id"]: pace(row) for row in map(json.loads, lines)}


def samples(measured: Measured, counts: speech.Counted, task: Asked, run: str) -> Samples:
    """Of a list under a run.

    Raises:
        ValueError: where tokens were counted of other samples.
    """
    (stats, voices), (base, _) = (measured.run(task, one).stats(task.metric) for one in (run, BASELINE))
    stored = measured.run(task, run)
    if stored.column("id") != counts.id or stored.column("before") != counts.tokens:
        raise ValueError(f"{task.label}: tokens of speech were counted of other samples: `make training-free`")
    paces = _paces(SILENT.get(task, task).label)
    texts = [references[0] for references in stored.column("references")]
    letters = np.array([sum(map(str.isalpha, text)) for text in texts])
    silence = 1 - np.array(counts.speech[BASELINE]) / counts.tokens
    kept = np.array(counts.speech[run.removesuffix(BOTH)])
    predictors = np.column_stack([letters / kept, [paces[one] for one in counts.id], silence])
    return Samples(100 * (stats[:, 0] - base[:, 0]) / stats[:, 1], predictors, voices, texts)


def ready(measured: Measured) -> bool:
    """Whether all has been measured that the section needs."""
    runs = all(measured.there(task, *grid(task)) for task in SENTENCES)
    return runs and {task.label for task in SENTENCES} <= speech.read(measured).keys()


def section(measured: Measured) -> str:
    """The section in Markdown."""
    counts = speech.read(measured)
    pairs = [(task, at(OURS, keep)) for task in SENTENCES for keep in SHARES if measured.there(task, at(OURS, keep))]
    found = [samples(measured, counts[task.label], task, run) for task, run in pairs]
    added = np.concatenate([one.added for one in found])
    predictors = np.concatenate([one.predictors for one in found]) / [*STEPS.values()]
    predictors -= predictors.mean(0)
    # the loss bends: of a straight line alone, what it misses at few letters would be said to be silence's
    bent = np.column_stack([predictors[:, :1], predictors[:, :1] ** 2, predictors[:, 1:]])
    voices, texts = ([name for one in found for name in getattr(one, kind)] for kind in ("voices", "texts"))
    ours = fit(added, bent, (voices, texts), DRAWS)
    alone = [explained(added, bent[:, columns]) for columns in (slice(2), slice(2, 3), slice(3, 4))]
    labels = np.repeat([task.label for task, _ in pairs], [len(one.added) for one in found])
    lists = labels[:, None] == np.unique(labels)[1:]
    letters, *others = STEPS
    shares = [f"{alone[0]:.2f}", "", *(f"{share:.2f}" for share in alone[1:])]
    rows = [
        [name, signed(*ends, 1), share]
        for name, share, *ends in zip(
            (letters, "squared", *others), shares, ours.value, ours.low, ours.high, strict=True
        )
    ]
    listed = explained(added, np.column_stack([bent, lists]))
    rows.append(["all (and list)", "", f"{ours.explained:.2f} ({listed:.2f})"])
    most = [*STEPS][int(np.argmax(alone))].partition(",")[0]
    return (
        f"## What explains the loss\n\nThe best predictor is {most}. Least squares on word errors added per word by "
        f"`{OURS}` at {', '.join(SHARES)}: {len(SENTENCES)} lists, {len(added)} rows, {len({*voices})} voices and "
        f"texts drawn. Silence: audio tokens {speech.QUIETER:.0f} dB below the clip's loudest; merged ones count in "
        "part.\n\n"
        + table(["", "points of WER", "R² (alone)"], rows)
        + "\n\n![Points lost against letters per token](loss.png)\n\n"
        + paces(measured)
    )


def paces(measured: Measured) -> str:
    """What a third of the tokens costs at each pace, with and without silence, on each model that was asked."""
    models = {
        "shipped": measured,
        "smaller, shipped before": measured.of(SMALLER),
        "OmniASR class, 50 Hz": measured.of(OMNI, NAME),
    }
    run = at(OURS, KEEPS[1])
    rows = [
        [name, *(f"{lost(one, task, run, '')}" for task in TRIED)]
        for name, one in models.items()
        if all(one.there(task, BASELINE, run) for task in TRIED)
    ]
    voices = measured.run(PACES[0], BASELINE).record["groups"]
    return (
        f"Points of WER that `{run}` loses on the same sentences by {voices} voices, by words a minute; in the last "
        "three columns with as much silence between:\n\n" + table(["", *(task.name.split()[0] for task in TRIED)], rows)
    )


def draw(measured: Measured, file: Path) -> Path:
    """Points lost against letters per kept token of speech, a panel a method, a mark a list and budget."""
    from matplotlib.figure import Figure

    counts = speech.read(measured)
    figure = Figure(figsize=(9, 3.2), layout="constrained", dpi=150)
    axes = figure.subplots(1, len(COMPARED), sharex=True, sharey=True)
    for axis, method in zip(axes, COMPARED, strict=True):
        runs = [at(method, keep) for keep in SHARES] + [priced(CHOSEN)] * (method == OURS)
        for task in SENTENCES:
            for run in runs:
                if not measured.there(task, run):
                    continue
                gain = measured.gain(task, run, BASELINE)
                letters, words, silence = samples(measured, counts[task.label], task, run).predictors.mean(0)
                ends = [[max(0, gain.high - gain.value)], [max(0, gain.value - gain.low)]]
                axis.errorbar(letters, -gain.value, ends, color="0.7", lw=0.8, zorder=1)
                mark = "D" if silence > 0.3 else "o"
                kind = {"marker": mark, "cmap": "cividis", "vmin": 100, "vmax": 200, "edgecolors": "0.3", "lw": 0.6}
                points = axis.scatter(letters, -gain.value, 28, words, zorder=2, **kind)
        axis.axhline(0, color="0.5", lw=0.8)
        axis.set_title(method if BOTH in method else f"{method}, as published", fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("points of WER lost")
    axes[len(axes) // 2].set_xlabel("letters per kept token of speech (diamonds: half silence)")
    figure.colorbar(points, ax=axes, label="words a minute")
    figure.savefig(file)
    return file
