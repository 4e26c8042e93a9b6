"""docs/research/training-free.md and its pictures: what fewer tokens cost the shipped pocket."""

from __future__ import annotations

from pathlib import Path

from fewhertz.evaluation.metrics import METRICS
from fewhertz.evaluation.results import BASELINE

from . import choice, loss
from .grids import AS_PUBLISHED, BOTH, SIZES, TIME, at
from .grids.training_free import (
    ALL_KEEPS,
    CHOSEN,
    ENCODER,
    FAR,
    FIVE,
    KEEPS,
    LISTS,
    METHODS,
    OURS,
    OURS_BEST,
    PUBLISHED,
    SPEECH,
    STRINGS,
    TOLERANCES,
    keeps,
    priced,
)
from .measured import Measured, worse
from .panels import losses
from .tables import Gain, counts, listed, table
from .tasks import DEV, LARGER, PARAMETERS, SMALLER, Asked

SHOWN = [BASELINE, at("pool", KEEPS[0]), *(at(f"{one}{BOTH}", k) for one in ("pool", "ward") for k in KEEPS)]
MAIN_RUNS = (BASELINE, priced(CHOSEN), *(at(OURS, k) for k in KEEPS))  # of the smaller model
BUDGETS = [(task, keep) for task in LISTS for keep in keeps(task)]
HEAD = """# Training-free: what fewer audio tokens cost

{summary}

Made by `make reproduce`; `make training-free` measures anew.

**What was measured.** *Pocket* as it is shipped (fourth version, {parameters} million parameters, weights `{sha}`),
greedy, {dtype}, on {device}. The lists are of test: speech of {voices} new voices whose sentences are far from all that
it was trained on, passages of them (20–30 s), words and digits of people who are in no training clip, German (the
English of 12 of 1,000 sentences, of which these are some, had been heard), sounds and questions. Nothing was chosen
here. Intervals are paired bootstraps of 95 % over voices, speakers or items, not corrected for their number; under 30
groups they are too narrow.
"""


HEADS = ["", "mean Hz", *(f"{task.name} ({task.unit})" for task in LISTS)]


def cell(measured: Measured, task: Asked, run: str) -> str:
    """A score, and whether it differs from that of all tokens."""
    mark = {1: " ✓", 0: "", -1: " ✗"}[measured.gain(task, run, BASELINE).sign]
    return f"{measured.number(task, run)}{mark}"


def scores(measured: Measured) -> str:
    """Of the main runs."""
    rows = [
        [
            f"`{run}`" if run != BASELINE else "all tokens",
            f"{measured.mean_hertz(LISTS, run):.1f}",
            *(cell(measured, task, run) for task in LISTS),
        ]
        for run in (*SHOWN, priced(CHOSEN))
    ]
    return table(HEADS, rows)


def against(measured: Measured, other: str) -> list[Gain]:
    """Gains of `ward` with corrections over another method, on all lists at all their keeps."""
    return [measured.gain(task, at(OURS, keep), at(other, keep)) for task, keep in BUDGETS]


def at_its_best(measured: Measured, method: str) -> list[Gain]:
    """The same over the better presentation of a method: as published or with corrections, by its score there."""
    found = []
    for task, keep in BUDGETS:
        sign = 1 if METRICS[task.metric].higher_is_better else -1
        runs = [at(f"{method}{corrections}", keep) for corrections in (AS_PUBLISHED, BOTH)]
        best = max(runs, key=lambda run: sign * measured.value(task, run))
        found.append(measured.gain(task, at(OURS, keep), best))
    return found


def duels(measured: Measured) -> str:
    """`ward` with corrections against the others, at equal budgets."""
    rows = [
        [f"`{method}`", *(counts(against(measured, one)) for one in (method, f"{method}{BOTH}"))]
        for method in METHODS
        if method != OURS_BEST
    ]
    best = [gain for method in PUBLISHED for gain in at_its_best(measured, method)]
    share = sum(gain.sign > 0 for gain in best) / len(best)
    encoder = [measured.gain(task, at(f"{ENCODER}{BOTH}", k), at(OURS, k)) for task in LISTS for k in KEEPS]
    halves = [
        f"`{half}` "
        + ", ".join(measured.gain(task, at(f"ward{half}", "1/3"), at("ward", "1/3")).plain for task in SPEECH)
        for half in (TIME, SIZES)
    ]
    return (
        f"{table(['against', 'as published', f'with `{BOTH}`'], rows)}\n\nWith whichever presentation of each "
        f"published method scores better on the list itself: {counts(best)}, better in {100 * share:.0f} %. Before "
        f"layer 3 of the encoder instead of after it (`{ENCODER}`): {counts(encoder)}. Each half of the corrections "
        f"alone, `ward` at a third over as published, {' and '.join(task.name for task in SPEECH)}: "
        f"{'; '.join(halves)}."
    )


def cost(measured: Measured, run: str) -> str:
    """The lists on which a run is surely worse than all tokens, and how many others there are."""
    found = worse(measured, LISTS, run)
    rest = f"no difference shows on {'the other ' if found else ''}{len(LISTS) - len(found)} lists"
    return f"surely worse on {', '.join(found)}; {rest}" if found else rest


def third(measured: Measured) -> str:
    """What a third of the tokens costs sentences and word strings."""
    run = at(OURS, KEEPS[1])
    far, strings = (measured.gain(task, run, BASELINE).plain for task in (FAR, STRINGS))
    return f"A third: far sentences {far}, word strings {strings}"


def smaller(measured: Measured) -> str:
    """The main findings again, on the model that was shipped before."""
    sha, ours, half = measured.run(FAR, BASELINE).record["weights_sha256"][:8], priced(CHOSEN), at(OURS, KEEPS[0])
    return (
        f"## The same on a smaller pocket\n\nThe one shipped before (`{sha}`, {PARAMETERS} million parameters) has "
        f"another shape, seed and course. λ = {CHOSEN}, {measured.mean_hertz(LISTS, ours):.1f} Hz: "
        f"{cost(measured, ours)}. Half of the tokens: {cost(measured, half)}. {third(measured)}."
    )


def page(measured: Measured) -> str:
    """The page in Markdown."""
    base = measured.run(FAR, BASELINE).record
    ours = priced(CHOSEN)
    half = at(OURS, KEEPS[0])
    summary = listed(
        [
            f"`{ours}`, the default, takes {measured.mean_hertz(LISTS, ours):.1f} Hz of 25: {cost(measured, ours)}.",
            f"Half of the tokens (`{half}`): {cost(measured, half)}.",
            f"{third(measured)}; `pool` as published "
            f"{measured.gain(FAR, at('pool', '1/3'), BASELINE).plain} and "
            f"{measured.gain(STRINGS, at('pool', '1/3'), BASELINE).plain}.",
        ]
    )
    head = HEAD.format(
        summary=summary,
        parameters=LARGER,
        sha=base["weights_sha256"][:8],
        dtype=base["dtype"],
        device=base["hardware"]["device"],
        voices=base["groups"],
    )
    bases = [measured.run(task, BASELINE).record for task in LISTS]
    lists = ", ".join(f"{one['n']} / {one['groups']}" for one in bases)
    every, some = ", ".join(KEEPS), ", ".join(keep for keep in ALL_KEEPS if keep not in KEEPS)
    parts = [
        head.rstrip(),
        "![Points lost against audio tokens per second, a panel a list](training-free.png)",
        f"## Scores\n\n✗: worse than all tokens, ✓: better. Samples / groups, by column: {lists}.\n\n"
        + scores(measured),
        "## `ward` with corrections against the others, at equal budgets\n\n"
        f"Better / tied / worse over {len(LISTS)} lists at {every} and {len(FIVE)} of them at {some}; by chance one "
        f"in forty each way.\n\n{duels(measured)}",
        f"## How the default was chosen\n\n{choice.section(measured.of(DEV))}",
    ]
    if loss.ready(measured):
        parts.append(loss.section(measured))
    if all(measured.of(SMALLER).there(task, *MAIN_RUNS) for task in LISTS):
        parts.append(smaller(measured.of(SMALLER)))
    return "\n\n".join(parts) + "\n"


def draw(measured: Measured, file: Path) -> Path:
    """Points lost against audio tokens per second, a panel each list."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.6), layout="constrained", dpi=150)
    axes = figure.subplots(3, 3).flat
    kinds = {
        "ward, a tolerance": [*map(priced, TOLERANCES)],
        "ward, fixed share": [at(OURS, keep) for keep in ALL_KEEPS],
        "pool with corrections": [at(f"pool{BOTH}", keep) for keep in ALL_KEEPS],
        "pool as published": [at("pool", keep) for keep in ALL_KEEPS],
    }
    for axis, task in zip(axes, LISTS, strict=False):
        losses(axis, measured, task, kinds)
    handles, labels = axes[0].get_legend_handles_labels()
    axes[-1].axis("off")
    axes[-1].legend(handles, labels, loc="center", fontsize=9)
    figure.savefig(file)
    return file


def write(measured: Measured, docs: Path) -> list[Path]:
    """The page and its pictures."""
    file = docs / "training-free.md"
    file.write_text(page(measured), "utf-8")
    files = [file, draw(measured, docs / "training-free.png")]
    if loss.ready(measured):
        files.append(loss.draw(measured, docs / "loss.png"))
    return files
