"""docs/research/tolerance.md and its picture: one price for all lists, from the results alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fewhertz.evaluation.results import BASELINE
from fewhertz.method import DEFAULT

from .grids import BOTH, at
from .grids.training_free import (
    AFFINITY,
    ALL_KEEPS,
    CHOSEN,
    FIVE,
    GERMAN,
    LISTS,
    OURS,
    PASSAGES,
    PAUSES,
    SOUNDS,
    TOLERANCES,
    affinity,
    at_its_rate,
    mel,
    priced,
)
from .measured import Measured, held, worse
from .panels import losses
from .tables import counts, listed, table
from .tasks import RESULTS

MOST_HERTZ = 8.3
# what a loss may be at most, as `held` has it
LIMITS = {task: 1.0 for task in LISTS} | {GERMAN: 2.0, SOUNDS: 3.0}
SHOWN = (priced(CHOSEN), mel(CHOSEN))

PAGE = """# Tokens where the sound is: a tolerance instead of a count

{summary}

## What was measured

`ward@tolerance=λ` merges neighbours as long as a merge costs at most λ (s·t/(s+t)·‖ū−v̄‖² of segments of s and t unit
tokens). λ = {chosen} is the default. Model, lists and intervals: [training-free.md](training-free.md).

![Loss against audio tokens per second, a panel a list: λ, fixed shares, affinity](tolerance.png)

## Hz, and gain

All with `{both}`; `count=mel` decides the count on the log-mel, as in vLLM.

{table}

At the rates that `affinity` takes at thresholds {thresholds}, `{ours}` over it, {five} lists: {affinity}. {cost}

## Does agreement say what a method loses?

{agreement}

Made by `make reproduce`; `make training-free` measures anew.
"""


def row(measured: Measured, run: str) -> list[str]:
    """Rate and gain on each list."""
    found = [f"{measured.hertz(task, run):.1f}: {measured.gain(task, run, BASELINE).plain}" for task in LISTS]
    return [f"`{run.removesuffix(BOTH)}`", f"{measured.mean_hertz(LISTS, run):.1f}", *found]


def over_affinity(measured: Measured) -> str:
    """`ward` with corrections over affinity pooling, at the rate that it took."""
    runs = [affinity(one) for one in AFFINITY]
    pairs = [(task, at_its_rate(one, measured.hertz(task, one)), one) for task in FIVE for one in runs]
    return counts([measured.gain(*pair) for pair in pairs])


def summary(measured: Measured) -> str:
    """What it comes to."""
    ours, third = priced(CHOSEN), at(OURS, "1/3")
    hertz = {task: measured.hertz(task, ours) for task in LISTS}
    least, most = (pick(LISTS, key=hertz.__getitem__) for pick in (min, max))
    return listed(
        [
            f"At λ = {CHOSEN} the lists take {measured.mean_hertz(LISTS, ours):.1f} Hz on average, of 25: "
            f"{least.name} {hertz[least]:.1f}, {most.name} {hertz[most]:.1f}; passages {hertz[PASSAGES]:.1f}, and "
            f"{hertz[PAUSES]:.1f} where they are half silence.",
            f"Clearly worse than with all: {', '.join(worse(measured, LISTS, ours)) or 'nowhere'}. A fixed third, "
            f"{measured.mean_hertz(LISTS, third):.1f} Hz: {', '.join(worse(measured, LISTS, third)) or 'nowhere'}.",
            f"Targets, {MOST_HERTZ} Hz and losses up to 1 WER, 2 BLEU, 3 % CIDEr-D, 1 % accuracy, by the whole "
            f"interval: rate {'**met**' if measured.mean_hertz(LISTS, ours) <= MOST_HERTZ else '**missed**'}; "
            f"{held(measured, ours, LIMITS)}.",
        ]
    )


def page(measured: Measured, bench: Path = RESULTS / "bench") -> str:
    """The page in Markdown."""
    assert priced(CHOSEN) == DEFAULT
    return PAGE.format(
        summary=summary(measured),
        chosen=CHOSEN,
        both=BOTH,
        table=table(
            ["", "mean Hz", *(f"{task.name} ({task.unit.split(',')[0]})" for task in LISTS)],
            [row(measured, run) for run in SHOWN],
        ),
        thresholds=", ".join(AFFINITY),
        ours=OURS,
        five=len(FIVE),
        affinity=over_affinity(measured),
        cost=price(json.loads((bench / "tolerance.json").read_text("utf-8"))),
        agreement=agreed(json.loads((bench / "agreement.json").read_text("utf-8"))),
    )


def price(found: dict[str, Any]) -> str:
    """What finding the count costs."""
    times = [one["over_the_same_count"] for one in found["tolerance"]]
    shares = ", ".join(
        f"{100 * one['of_making_the_mel']:.0f} % at {one['clip_seconds']} s" for one in found["count_on_mel"]
    )
    return (
        f"Finding the count takes {min(times):.2f} to {max(times):.2f} of `ward`'s time at that count, on the log-mel "
        f"{shares} of making it (`bench.tolerance`)."
    )


def agreed(found: dict[str, Any]) -> str:
    """Whether agreement says what a method loses."""
    shown = []
    for one in found["lists"]:
        low, high = one["chosen"]["interval"]
        shown.append(
            f"{one['list']} {one['rank_correlation_agreement']:.2f}, {one['chosen']['loss']:+.2f} "
            f"[{low:+.2f}, {high:+.2f}] {one['metric'].upper()}"
        )
    return (
        "`fewhertz tune` counts the tokens of the uncompressed model's answers that a method would change: no labels. "
        f"Rank correlation with true losses over {len(found['lists'][0]['candidates'])} "
        f"candidates (weights `{found['weights_sha256'][:8]}`), and its choice's true loss at "
        f"{100 * found['agree']:g} %: {'; '.join(shown)}."
    )


def draw(measured: Measured, file: Path) -> Path:
    """Points lost against audio tokens per second, a panel each list."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained", dpi=120)
    axes = figure.subplots(2, 4).flat
    kinds = {"tolerance": [*map(priced, TOLERANCES)], "fixed share": [at(OURS, keep) for keep in ALL_KEEPS]}
    kinds["affinity"] = [*map(affinity, AFFINITY)]
    for axis, task in zip(axes, LISTS, strict=True):
        losses(axis, measured, task, kinds)
    axes[0].legend(fontsize=8)
    figure.savefig(file)
    return file


def write(measured: Measured, docs: Path) -> list[Path]:
    """The page and its picture."""
    file = docs / "tolerance.md"
    file.write_text(page(measured), "utf-8")
    return [file, draw(measured, docs / "tolerance.png")]
