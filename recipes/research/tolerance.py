"""docs/research/tolerance.md and its picture: one price for all lists, from the results alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fewhertz.evaluation.results import BASELINE
from fewhertz.method import DEFAULT

from .grids import BOTH
from .grids.tolerance import AFFINITY, CHOSEN, FIXED, SILENCE, TOLERANCES, affinity, fixed, mel, priced
from .measured import Measured
from .panels import losses
from .tables import listed, table
from .tasks import ANSWERS, GERMAN, PARAMETERS, RESULTS, SENTENCES, SOUNDS, STRINGS, TASKS, TOLERANCE
from .training_free.targets import lost

MOST_HERTZ = 8.3
# what a loss may be at most, in units of the metric; of captions and answers in % of the score with all tokens
LIMITS = {STRINGS: 1.0, SENTENCES: 1.0, GERMAN: 2.0, SOUNDS: 3.0, ANSWERS: 1.0}
SHARES = (SOUNDS, ANSWERS)
SHOWN = (priced(CHOSEN), fixed("1/2"), fixed("1/3"), affinity("0.9"), mel(CHOSEN))

PAGE = """# Tokens where the sound is: a tolerance instead of a count

{summary}

## What was measured

`ward@tolerance=λ` merges neighbours as long as a merge costs at most λ (s·t/(s+t)·‖ū−v̄‖² of segments of s and t unit
tokens).

*Pocket*, {parameters} million parameters (third version, weights `{sha}`; the shipped one: [fourth.md](fourth.md)),
greedy. λ = {chosen}, the default, was chosen on dev: the largest that costs sentences under a point of WER. Gains are
over all tokens, above 0 better, with paired 95 % bootstrap intervals over groups. The sentences are near to what
pocket was trained on; 14 speakers said the words.

![Loss against audio tokens per second, a panel a task: λ, fixed shares, affinity](tolerance.png)

## Hz, and gain

All with `{both}`; `count=mel` decides the count on the log-mel, as in vLLM.

{table}

{cost}

## Does agreement say what a method loses?

{agreement}

Made by `make reproduce`; `make tolerance` measures anew.
"""


def verdicts(measured: Measured, run: str) -> dict[str, list[str]]:
    """Tasks by whether the loss is at most what it may be."""
    found: dict[str, list[str]] = {}
    for task in TASKS:
        one = lost(measured, task, run, task.unit, relative=task in SHARES)
        found.setdefault(one.verdict(LIMITS[task]), []).append(task.name)
    return found


def row(measured: Measured, run: str) -> list[str]:
    """Rate and gain on each list."""
    found = [f"{measured.hertz(task, run):.1f}: {measured.gain(task, run, BASELINE).plain}" for task in TASKS]
    return [f"`{run.removesuffix(BOTH)}`", f"{measured.mean_hertz(TASKS, run):.1f}", *found]


def summary(measured: Measured) -> str:
    """What it comes to."""
    ours, third = priced(CHOSEN), fixed("1/3")
    hertz = {task: measured.hertz(task, ours) for task in TASKS}
    least, most = (pick(TASKS, key=hertz.__getitem__) for pick in (min, max))
    clear = {run: _clear(measured, run) for run in (ours, third)}
    quiet, loud = measured.hertz(SILENCE, ours), measured.hertz(SENTENCES, ours)
    held = "; ".join(f"{what} {', '.join(names)}" for what, names in verdicts(measured, ours).items())
    return listed(
        [
            f"At λ = {CHOSEN} the five tasks take {measured.mean_hertz(TASKS, ours):.1f} Hz on average, of 25: "
            f"{least.name} {hertz[least]:.1f}, {most.name} {hertz[most]:.1f}.",
            f"Clearly worse than with all: {clear[ours]}. A fixed third, {measured.mean_hertz(TASKS, third):.1f} Hz: "
            f"{clear[third]}.",
            f"Sentences with as much silence as speech take {quiet:.1f} Hz, {100 * quiet / loud:.0f} % of {loud:.1f}: "
            f"{measured.gain(SILENCE, ours, BASELINE).plain}.",
            f"Targets, {MOST_HERTZ} Hz and losses up to 1 WER, 2 BLEU, 3 % CIDEr-D, 1 % accuracy: "
            f"rate {'**met**' if measured.mean_hertz(TASKS, ours) <= MOST_HERTZ else '**missed**'}; {held}.",
        ]
    )


def _clear(measured: Measured, run: str) -> str:
    """Where a run is worse than all tokens."""
    gains = {task: measured.gain(task, run, BASELINE) for task in TASKS}
    return ", ".join(f"{task.name} {gain.plain}" for task, gain in gains.items() if gain.sign < 0) or "nowhere"


def page(measured: Measured, bench: Path = RESULTS / "bench") -> str:
    """The page in Markdown."""
    assert priced(CHOSEN) == DEFAULT
    return PAGE.format(
        summary=summary(measured),
        parameters=PARAMETERS,
        sha=measured.run(STRINGS, BASELINE).record["weights_sha256"][:8],
        chosen=CHOSEN,
        both=BOTH,
        table=table(
            ["", "mean Hz", *(f"{task.rows} {task.name} ({task.unit.split(',')[0]})" for task in TASKS)],
            [row(measured, run) for run in SHOWN],
        ),
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
    """Points lost against audio tokens per second, a panel each task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.4), layout="constrained", dpi=150)
    axes = figure.subplots(1, len(TASKS))
    kinds = {"tolerance": [*map(priced, TOLERANCES)], "fixed share": [*map(fixed, FIXED)]}
    kinds["affinity"] = [*map(affinity, AFFINITY)]
    for axis, task in zip(axes, TASKS, strict=True):
        losses(axis, measured, task, kinds)
    axes[0].legend(fontsize=8)
    figure.savefig(file)
    return file


def write(measured: Measured, docs: Path) -> list[Path]:
    """The page and its picture."""
    own = measured.of(TOLERANCE)
    file = docs / "tolerance.md"
    file.write_text(page(own), "utf-8")
    return [file, draw(own, docs / "tolerance.png")]
