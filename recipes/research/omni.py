"""docs/research/omni.md and its picture: the same curve at an encoder of 50 Hz, from the results alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fewhertz.evaluation.bootstrap import paired
from fewhertz.evaluation.metrics import METRICS
from fewhertz.evaluation.results import BASELINE
from fewhertz.method import parse
from fewhertz.palette import DASHES, LINES, MARKERS

from .grids import BOTH, at
from .grids.lora import CONTROL, SETTINGS, Trial
from .grids.omni import BESIDE, KEEPS, LISTS, METHODS, NAME, PARAMETERS, PRICED, TRIALS, grid
from .measured import Measured, With, adapter_run, lost
from .tables import Loss, listed, table
from .tasks import DRAWS, OMNI, Asked

FAR, STRINGS, _ = LISTS
THIRD, SIXTH = "1/3", "1/6"  # pocket's third of 25 Hz is a sixth of 50 Hz
COMPARED = (f"pool{BOTH}", f"ward{BOTH}")
SHOWN = (
    *(at(COMPARED[0], keep) for keep in (THIRD, SIXTH)),
    *(at(COMPARED[1], keep) for keep in ("1/2", THIRD, SIXTH)),
    PRICED,
)
MOST, ALL_TOKENS = 1.0, 20.0  # asked: points of WER that a third may cost after LoRA, WER with all tokens

PAGE = """# Fewer tokens of an encoder at 50 Hz

{summary}

A model of the OmniASR class (Wav2Vec2 encoder, {hertz:.0f} Hz, {parameters} million parameters, weights `{sha}`),
trained once, by us, in minutes of one GPU (`recipes/pocket/LOG.md`), beside the *pocket* of its size
(`{pocket}`, [flex.md](flex.md)), which differs in more than its rate. [Lists](training-free.md) of test, greedy. Gains
in points of WER over all tokens, paired, 95 % bootstrap over groups:

{gains}

![Points of WER lost on far sentences against the share of tokens kept, and against Hz](omni.png)
{adapted}
Made by `make reproduce`; `make omni` measures anew.
"""
ADAPTED = """
After LoRA ({steps} steps of {batch}), over an adapter trained with all tokens; that over no adapter:

{table}
"""


adapted = partial(adapter_run, part=OMNI)
CONTROLLED = adapted(CONTROL)


def gains(own: Measured, lists: Sequence[Asked], rows: Sequence[tuple[str, str | With, str | With]]) -> str:
    """A table of gains, of each run by its name over another; of the score where that is itself."""

    def cell(task: Asked, run: str | With, other: str | With) -> str:
        return own.number(task, run) if run == other else own.gain(task, run, other).plain

    lines = [[name, *(cell(task, run, other) for task in lists)] for name, run, other in rows]
    return table(["", *(task.name for task in lists)], lines)


def points(own: Measured, run: str) -> str:
    """Of WER that far sentences lose."""
    return f"{lost(own, FAR, run, '').value:+.1f}"


def added(own: Measured, run: str) -> tuple[np.ndarray, list[str]]:
    """Word errors of each far sentence beyond those with all tokens, and its words; and groups."""
    (stats, groups), (base, _) = (own.run(FAR, spec).stats(FAR.metric) for spec in (run, BASELINE))
    return np.column_stack([stats[:, 0] - base[:, 0], stats[:, 1]]), groups


def apart(one: Measured, run: str, other: Measured, its: str) -> Loss:
    """How many points of WER more far sentences lose in one model than in another, each under a run of its own.

    Raises:
        ValueError: where they are of other samples.
    """
    (a, groups), (b, same) = added(one, run), added(other, its)
    if groups != same:
        raise ValueError(f"{FAR.label}: {one.model} and {other.model} are not of the same samples: measure them again")
    return Loss(*paired(METRICS[FAR.metric], a, b, groups, DRAWS), "")


def compared(own: Measured, pocket: Measured, method: str) -> str:
    """Whether what is lost is nearer to pocket's at the same share of the tokens or at the same rate."""
    share, hertz = (apart(own, at(method, keep), pocket, at(method, THIRD)) for keep in (THIRD, SIXTH))
    nearer = "rate" if abs(hertz.value) < abs(share.value) else "share"
    return (
        f"`{method}`: pocket's third loses {points(pocket, at(method, THIRD))}; here a third "
        f"{points(own, at(method, THIRD))} ({share} more), a sixth {points(own, at(method, SIXTH))} ({hertz} more): "
        f"nearer by **{nearer}**."
    )


def costs(own: Measured, trial: Trial) -> str:
    """What an adapter loses over the control, list by list, against the target."""
    found = []
    for task in (FAR, STRINGS):
        loss = lost(own, task, adapted(trial), "", over=CONTROLLED)
        found.append(f"{loss.value:+.1f} {loss.verdict(MOST)}")
    return f"`{trial.method}` {', '.join(found)}"


def trained(own: Measured) -> bool:
    """Whether all adapters have been measured."""
    return all(own.there(task, *map(adapted, TRIALS)) for task in LISTS)


def page(own: Measured, pocket: Measured) -> str:
    """The page in Markdown."""
    whole = own.value(STRINGS, BASELINE)
    good = "**met**" if whole <= ALL_TOKENS else "**missed**"
    rate = at(COMPARED[0], THIRD)
    lines = [
        f"A third of pocket's tokens is {pocket.hertz(FAR, rate):.1f} Hz; here a third is {own.hertz(FAR, rate):.1f}, "
        f"a sixth {own.hertz(FAR, at(COMPARED[0], SIXTH)):.1f}. WER lost on far sentences:",
        *(compared(own, pocket, method) for method in COMPARED),
    ]
    lines.append(
        f"As published, pocket's own rate (`{at('pool', '1/2')}`) loses {points(own, at('pool', '1/2'))}. With all "
        f"tokens {STRINGS.name} have {whole:.1f} % (asked {ALL_TOKENS:g}: {good})."
    )
    section = ""
    if trained(own):
        thirds = [trial for trial in TRIALS if f"={THIRD}" in trial.method]
        lines.append(
            f"A third after LoRA, asked {MOST:+g} (far sentences, words): "
            f"{'; '.join(costs(own, one) for one in thirds)}."
        )
        rows = [(f"`{one.method}`", adapted(one), CONTROLLED) for one in TRIALS if one is not CONTROL]
        first = ("all tokens", CONTROLLED, BASELINE)
        section = ADAPTED.format(
            steps=SETTINGS["steps"], batch=SETTINGS["batch_size"], table=gains(own, (FAR, STRINGS), [first, *rows])
        )
    shown = [("all tokens", BASELINE, BASELINE), *((f"`{run}`", run, BASELINE) for run in SHOWN)]
    return PAGE.format(
        summary=listed(lines),
        hertz=own.hertz(FAR, BASELINE),
        parameters=PARAMETERS,
        sha=own.run(FAR, BASELINE).record["weights_sha256"][:8],
        pocket=pocket.run(FAR, BASELINE).record["weights_sha256"][:8],
        gains=gains(own, LISTS, shown),
        adapted=section,
    )


def draw(own: Measured, pocket: Measured, file: Path) -> Path:
    """Points lost on far sentences against the share of tokens kept, and against Hz: two panels of the same lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained", dpi=150)
    shares, rates = figure.subplots(1, 2, sharey=True)
    for model, name, dash in ((pocket, "pocket", DASHES[1]), (own, "OmniASR class", DASHES[0])):
        for number, method in enumerate(METHODS):
            runs = [run for run in (BASELINE, *(at(method, keep) for keep in KEEPS)) if model.there(FAR, run)]
            points = [-model.gain(FAR, run, BASELINE).value for run in runs]
            kept = [1.0 if run == BASELINE else float(parse(run).keep or 1) for run in runs]
            whole = model.hertz(FAR, BASELINE)
            label = f"{name} ({whole:.0f} Hz), {method if BOTH in method else f'{method} as published'}"
            look: dict[str, Any] = {"color": LINES[number], "marker": MARKERS[number], "ls": dash, "ms": 5, "lw": 1.3}
            look["mfc"] = LINES[number] if model is own else "white"
            shares.plot(kept, points, **look)
            rates.plot([model.hertz(FAR, run) for run in runs], points, label=label, **look)
    for axis, ticks, what in (
        (shares, {1 / k: f"1/{k}" for k in (6, 4, 3, 2)} | {1: "1"}, "share of the audio tokens kept"),
        (rates, {hz: f"{hz:g}" for hz in (4, 6, 8, 12.5, 25, 50)}, "audio tokens per second (Hz)"),
    ):
        axis.set_xscale("log")
        axis.set_xticks([*ticks], [*ticks.values()])
        axis.set_xticks([], minor=True)
        axis.set_xlabel(what)
        axis.grid(alpha=0.3)
        axis.axhline(0, color="0.5", lw=0.8)
    shares.set_ylabel(f"{FAR.name}: points of WER lost")
    figure.legend(*rates.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    figure.savefig(file)
    return file


def write(measured: Measured, docs: Path) -> list[Path]:
    """The page and its picture; nothing where runs without training are missing."""
    own, pocket = measured.of(OMNI, NAME), measured.of(BESIDE)
    thirds = [BASELINE, *(at(method, THIRD) for method in COMPARED)]
    if not all(own.there(task, *grid()) for task in LISTS) or not pocket.there(FAR, *thirds):
        return []
    file = docs / "omni.md"
    file.write_text(page(own, pocket), "utf-8")
    return [file, draw(own, pocket, docs / "omni.png")]
