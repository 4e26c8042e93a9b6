"""docs/research/fourth.md and its picture: pocket's fourth version on the lists that were made for it."""

from __future__ import annotations

from pathlib import Path

from fewhertz.evaluation.results import BASELINE

from . import lora, loss
from .grids import BOTH, at
from .grids.fourth import CHOSEN, ENCODER, FAR, KEEPS, LISTS, METHODS, OURS, STRINGS_4, TOLERANCES, grid, priced
from .measured import Measured
from .panels import losses
from .tables import Gain, counts, listed, table
from .tasks import FOURTH, LARGER, PARAMETERS, SMALLER, Asked

SHOWN = [BASELINE, *(at(f"{one}{told}", k) for one in ("pool", "ward") for told in ("", BOTH) for k in KEEPS)]
TOLD = (BASELINE, priced(CHOSEN), *(at(OURS, k) for k in KEEPS))  # of the smaller model
HEAD = """# The fourth version of pocket: what fewer tokens cost

{summary}

Made by `make reproduce`; `make fourth` measures anew.

**What was measured.** The fourth version of *pocket* ({parameters} million parameters, weights `{sha}`), which is
shipped, greedy, {dtype}, on {device}. The lists are of test: speech of {voices} new voices whose sentences are far
from all that it was trained on, passages of them (20–30 s), words and digits of people who are in no training clip,
German (of 12 of the 1,000 sentences that these are drawn from, the English had been heard), sounds and questions.
Nothing was chosen here: λ = {chosen} was chosen on dev with the third version. Intervals are paired bootstraps of 95 %
over voices, speakers or items, not corrected for their number; under 30 groups they are too narrow.
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


def against(measured: Measured, one: str, other: str) -> list[Gain]:
    """Gains of one method over another, on all lists at all keeps."""
    return [measured.gain(task, at(one, keep), at(other, keep)) for task in LISTS for keep in KEEPS]


def duels(measured: Measured) -> str:
    """`ward` with corrections against the others with theirs, at equal budgets."""
    rows = []
    for method in METHODS:
        other = f"{method}{BOTH}"
        if other != OURS:
            rows.append([f"`{method}`", *(counts(against(measured, OURS, one)) for one in (method, other))])
    encoder = against(measured, f"{ENCODER}{BOTH}", OURS)
    text = table(["against", "as published", f"with `{BOTH}`"], rows)
    return f"{text}\n\nBefore layer 3 of the encoder instead of after it (`{ENCODER}`): {counts(encoder)}."


def lost(measured: Measured, run: str) -> str:
    """The lists on which a run is surely worse than all tokens."""
    gains = {task.name: measured.gain(task, run, BASELINE) for task in LISTS}
    worse = [f"{name} {gain.plain}" for name, gain in gains.items() if gain.sign < 0]
    rest = f"no difference shows on {'the other ' if worse else ''}{len(LISTS) - len(worse)} lists"
    return f"surely worse on {', '.join(worse)}; {rest}" if worse else rest


def third(measured: Measured) -> str:
    """What a third of the tokens costs sentences and word strings."""
    run = at(OURS, KEEPS[1])
    far, strings = (measured.gain(task, run, BASELINE).plain for task in (FAR, STRINGS_4))
    return f"A third: far sentences {far}, word strings {strings}"


def smaller(measured: Measured) -> str:
    """The main findings again, on the model that was shipped before."""
    sha, ours, half = measured.run(FAR, BASELINE).record["weights_sha256"][:8], priced(CHOSEN), at(OURS, KEEPS[0])
    lines = [
        f"λ = {CHOSEN}, {measured.mean_hertz(LISTS, ours):.1f} Hz: {lost(measured, ours)}.",
        f"Half of the tokens: {lost(measured, half)}.",
        f"{third(measured)}.",
    ]
    return (
        f"## The same on a smaller pocket\n\nThe one shipped before (`{sha}`, {PARAMETERS} million parameters) has "
        f"another shape, seed and course.\n\n{listed(lines)}"
    )


def page(measured: Measured) -> str:
    """The page in Markdown."""
    base = measured.run(FAR, BASELINE).record
    ours = priced(CHOSEN)
    half = at(OURS, KEEPS[0])
    summary = listed(
        [
            f"`{ours}`, the default, takes {measured.mean_hertz(LISTS, ours):.1f} Hz of 25: {lost(measured, ours)}.",
            f"Half of the tokens (`{half}`): {lost(measured, half)}.",
            f"{third(measured)}; `pool` as published "
            f"{measured.gain(FAR, at('pool', '1/3'), BASELINE).plain} and "
            f"{measured.gain(STRINGS_4, at('pool', '1/3'), BASELINE).plain}.",
        ]
    )
    head = HEAD.format(
        summary=summary,
        parameters=LARGER,
        sha=base["weights_sha256"][:8],
        dtype=base["dtype"],
        device=base["hardware"]["device"],
        voices=base["groups"],
        chosen=CHOSEN,
    )
    bases = [measured.run(task, BASELINE).record for task in LISTS]
    lists = ", ".join(f"{one['n']} / {one['groups']}" for one in bases)
    parts = [
        head.rstrip(),
        "![Points lost against audio tokens per second, a panel a list](fourth.png)",
        f"## Scores\n\n✗: worse than all tokens, ✓: better. Samples / groups, by column: {lists}.\n\n"
        + scores(measured),
        "## `ward` with corrections against the others, at equal budgets\n\n"
        f"Better / tied / worse over {len(LISTS)} lists at {' and '.join(KEEPS)}.\n\n" + duels(measured),
    ]
    if loss.ready(measured):
        parts.append(loss.section(measured))
    if lora.ready(measured):
        parts.append(lora.section(measured))
    if all(measured.of(SMALLER).there(task, *TOLD) for task in LISTS):
        parts.append(smaller(measured.of(SMALLER)))
    return "\n\n".join(parts) + "\n"


def draw(measured: Measured, file: Path) -> Path:
    """Points lost against audio tokens per second, a panel each list."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.6), layout="constrained", dpi=150)
    axes = figure.subplots(3, 3).flat
    kinds = {
        "ward, a tolerance": [*map(priced, TOLERANCES)],
        "ward, fixed share": [at(OURS, keep) for keep in ("2/3", *KEEPS, "1/4")],
        "pool with corrections": [at(f"pool{BOTH}", keep) for keep in KEEPS],
        "pool as published": [at("pool", keep) for keep in KEEPS],
    }
    for axis, task in zip(axes, LISTS, strict=False):
        losses(axis, measured, task, kinds)
    handles, labels = axes[0].get_legend_handles_labels()
    axes[-1].axis("off")
    axes[-1].legend(handles, labels, loc="center", fontsize=9)
    figure.savefig(file)
    return file


def write(measured: Measured, docs: Path) -> list[Path]:
    """The page and its picture; nothing where the runs are missing."""
    own = measured.of(FOURTH)
    if not all(own.there(task, *grid(task)) for task in LISTS):
        return []
    file = docs / "fourth.md"
    file.write_text(page(own), "utf-8")
    files = [file, draw(own, docs / "fourth.png")]
    if loss.ready(own):
        files.append(loss.draw(own, docs / "fourth-loss.png"))
    return files
