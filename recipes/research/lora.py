"""docs/research/lora.md and its picture: what is lost after LoRA, from the results alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewhertz.evaluation.results import BASELINE
from fewhertz.palette import DASHES, LINES, MARKERS

from .grids import at
from .grids.lora import (
    ALPHAS,
    CONTROLS,
    DIVISORS,
    GRID,
    GRIDS,
    LADDER,
    LEARNED,
    LONG,
    LONG_CONTROL,
    LONG_DIVISORS,
    LONGER,
    MAIN,
    MORE,
    POOL_SEEDS,
    PRICED,
    RANKS,
    ROWS,
    SETTINGS,
    TARGETS,
    WARD,
    WARD_SEEDS,
    Trial,
    keep,
)
from .grids.training_free import FAR, SPEECH, STRINGS
from .measured import Measured, adapter_run, lost
from .tables import listed, table
from .tasks import LARGER, LORA, Asked

TARGET = {2: 0.5, 3: 1.5}  # points of WER over the control, far sentences
PAGE = """# After LoRA: what fewer tokens cost a model that learned to live with them

{summary}

## What was measured

The shipped *pocket* ({parameters} million parameters, weights `{sha}`) under adapters on queries and keys of its LLM
(r = {rank}, α = {alpha}), each trained with its method on labels: {steps} steps of {batch} on {rows:,} clips, or {long}
steps on {more:,}. The control is an adapter that was trained likewise with all tokens. Lists and intervals:
[training-free.md](training-free.md). A learning rate for all, chosen with the third version.

![WER against Hz without training and after LoRA, and WER of the grid against parameters](lora.png)

## {long} steps

WER, %, and the gain over the control; its own is over no adapter.

{longer}

{best}

## {steps} steps: other seeds and compressors

WER, %, {far}; {strings}.

{seeds}

## {steps} steps: rank, alpha and what is adapted

WER of far sentences, %, `pool`.

{grid}

{spread}

All weights trained at random rates: [flex.md](flex.md). Claims on adapters: [claims.md](claims.md).

Made by `make reproduce`; `make claims` trains and measures anew.
"""


def parameters(measured: Measured, trial: Trial) -> int:
    """How many a trial trains."""
    return int(measured.packed.trainings(LORA)[trial.name]["parameters"])


def wer(measured: Measured, task: Asked, trial: Trial) -> str:
    """Of an adapter under what it was trained with."""
    return measured.number(task, adapter_run(trial))


def longer(measured: Measured) -> str:
    """The adapters of most steps."""

    def cells(trial: Trial) -> list[str]:
        found = []
        for task in SPEECH:
            own, over = adapter_run(trial), BASELINE if trial is LONG_CONTROL else adapter_run(LONG_CONTROL)
            found.append(f"{measured.number(task, own)} ({measured.gain(task, own, over).plain})")
        return found

    names = ["all tokens", *(f"`{one.method}`" for one in LONGER[1:])]
    return table(["", FAR.name, STRINGS.name], [[name, *cells(one)] for name, one in zip(names, LONGER, strict=True)])


def best_steps(measured: Measured) -> str:
    """Where dev was best, of each of the adapters of most steps."""
    notes = measured.packed.trainings(LORA)
    best = [notes[one.name]["best_step"] for one in LONGER]
    earlier = sorted({step for step in best if step < LONG})
    rest = f"; of the others at {earlier[0]} to {earlier[-1]}." if earlier else "."
    return f"Dev was best at step {LONG} of {best.count(LONG)} of them{rest}"


def seeds(measured: Measured) -> str:
    """Of the main ones; and other compressors beside them."""
    rows = {"all tokens": CONTROLS}
    rows |= {f"`{keep('pool', k)}`": some for k, some in POOL_SEEDS.items()}
    rows |= {f"`{keep(WARD, k)}`": some for k, some in WARD_SEEDS.items()}
    rows |= {f"`{one.method}`": [one] for one in LEARNED}
    lines = [
        [name, *(", ".join(wer(measured, task, t) for t in some) for task in SPEECH)] for name, some in rows.items()
    ]
    return table(["", *(task.name for task in SPEECH)], lines)


def grid(measured: Measured) -> str:
    """Rank and alpha by what is adapted, at both shares."""
    columns = [(k, targets) for k in DIVISORS for targets in TARGETS]
    by = {
        k: {tuple(one.settings[key] for key in ("rank", "alpha", "targets")): one for one in GRIDS[k]} for k in DIVISORS
    }
    heads = ["r, α", *(f"1/{k}: {targets}" for k, targets in columns)]
    rows = [
        [f"{r}, {a}", *(wer(measured, FAR, by[k][r, a, targets]) for k, targets in columns)]
        for r in RANKS
        for a in ALPHAS
    ]
    return table(heads, rows)


def spread(measured: Measured) -> str:
    """How far the grid reaches; in brackets gains over the main setting."""
    found = []
    for k, seeds in POOL_SEEDS.items():
        ordered = sorted(GRIDS[k], key=lambda one: _score(measured, one))
        ends = [
            "{} (r = {rank}, α = {alpha}, {targets}; {})".format(
                wer(measured, FAR, one),
                measured.gain(FAR, adapter_run(one), adapter_run(seeds[0])).plain,
                **one.settings,
            )
            for one in (ordered[0], ordered[-1])
        ]
        found.append(f"At 1/{k} from {ends[0]} to {ends[1]}.")
    return " ".join(found)


def summary(measured: Measured) -> str:
    """What it comes to."""
    lines = []
    for method, trials in LADDER.items():
        by = dict(zip(LONG_DIVISORS, trials, strict=True))
        said = [
            f"1/{k} {(one := lost(measured, FAR, adapter_run(by[k]), '', over=adapter_run(LONG_CONTROL)))} "
            f"(asked {target:g}: {one.verdict(target)})"
            for k, target in TARGET.items()
        ]
        lines.append(f"`{method}` after LoRA, points of WER lost over the control, {FAR.name}: {'; '.join(said)}.")
    gains = [f"{measured.gain(task, adapter_run(PRICED), adapter_run(LONG_CONTROL)).plain}" for task in SPEECH]
    rates = " and ".join(f"{measured.hertz(task, adapter_run(PRICED)):.1f} Hz" for task in SPEECH)
    lines.append(f"The default tolerance, {rates}, over the control: {'; '.join(gains)} (far sentences; word strings).")
    return listed(lines)


def page(measured: Measured) -> str:
    """The page in Markdown."""
    return PAGE.format(
        summary=summary(measured),
        parameters=LARGER,
        sha=measured.run(FAR, BASELINE).record["weights_sha256"][:8],
        rank=MAIN[0],
        alpha=MAIN[1],
        steps=SETTINGS["steps"],
        batch=SETTINGS["batch_size"],
        rows=sum(ROWS.values()),
        long=LONG,
        more=sum(MORE.values()),
        longer=longer(measured),
        best=best_steps(measured),
        far=FAR.name,
        strings=STRINGS.name,
        seeds=seeds(measured),
        grid=grid(measured),
        spread=spread(measured),
    )


def draw(measured: Measured, file: Path) -> Path:
    """WER against Hz, without training and after LoRA, on two lists; WER of the grid against parameters."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained", dpi=130)
    *panels, shapes = figure.subplots(1, 3)
    for axis, task in zip(panels, SPEECH, strict=True):
        for number, (method, trials) in enumerate(LADDER.items()):
            bare = [BASELINE, *(at(method, f"1/{k}") for k in LONG_DIVISORS)]
            taught = [adapter_run(one) for one in (LONG_CONTROL, *trials)]
            for runs, dash, what in ((bare, DASHES[1], "without training"), (taught, DASHES[0], "after LoRA")):
                look: dict[str, Any] = {
                    "color": LINES[number],
                    "marker": MARKERS[number],
                    "ls": dash,
                    "ms": 5,
                    "lw": 1.3,
                }
                points = [(measured.hertz(task, run), measured.value(task, run)) for run in runs]
                axis.plot(*zip(*points, strict=True), label=f"{method} {what}", **look)
        axis.set(title=task.name, xlabel="audio tokens per second (Hz)", ylabel="WER, %", ylim=(0, 60))
        axis.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    for number, k in enumerate(DIVISORS):
        for targets, mark in zip(TARGETS, MARKERS, strict=False):
            some = [one for one in GRIDS[k] if one.settings["targets"] == targets]
            points = ([f(measured, one) for one in some] for f in (parameters, _score))
            shapes.scatter(*points, s=30, color=LINES[number], marker=mark, label=f"1/{k}, {targets}")
    shapes.set(title=f"pool, {FAR.name}: the grid", xlabel="trained parameters", ylabel="WER, %", xscale="log")
    sizes = sorted({parameters(measured, one) for one in GRID})
    shapes.set_xticks(sizes, [f"{size / 1000:.0f}k" for size in sizes])
    shapes.set_xticks([], minor=True)
    shapes.grid(alpha=0.3)
    shapes.legend(fontsize=8)
    figure.savefig(file)
    return file


def _score(measured: Measured, trial: Trial) -> float:
    return measured.value(FAR, adapter_run(trial))


def write(measured: Measured, docs: Path) -> list[Path]:
    """The page and its picture."""
    file = docs / "lora.md"
    file.write_text(page(measured), "utf-8")
    return [file, draw(measured, docs / "lora.png")]
