"""docs/research/fourth.md and its picture: pocket's fourth version on the lists that were made for it."""

from __future__ import annotations

from pathlib import Path

from fewhertz.evaluation.results import BASELINE
from fewhertz.palette import LINES, MARKERS

from .grids import BOTH, at
from .grids.fourth import CHOSEN, ENCODER, FAR, KEEPS, LISTS, METHODS, STRINGS_4, TOLERANCES, grid, priced
from .measured import Measured
from .tables import Gain, counts, folded, listed, table
from .tasks import FOURTH, Asked

OURS = f"ward{BOTH}"
HEAD = """# The fourth version of pocket: what fewer tokens cost

{summary}

Made by `make reproduce` from `results/`; do not edit. `make fourth` measures the runs anew.

**What was measured.** The fourth version of *pocket* ({parameters:.1f} million parameters, weights `{sha}`), which is
shipped, greedy, {dtype}, on {device}. The lists are of test: speech of {voices} new voices whose sentences are far
from all that this version was trained on, passages of such sentences, words and digits of people who are in no
training clip, German, sounds and questions. The weights that it began from had heard sentences near to some of them
(`src/fewhertz/pocket/MODEL_CARD.md` says how many). Nothing was chosen
here: λ = {chosen} was chosen on dev with the third version. Intervals are paired bootstraps of 95 % over voices,
speakers or items, not corrected for their number; under 30 groups they are too narrow.
"""


def heads(first: str) -> list[str]:
    return [first, *(f"{task.name} ({task.unit})" for task in LISTS)]


def mean(measured: Measured, run: str) -> float:
    """Audio tokens per second, lists counting alike."""
    return sum(measured.hertz(task, run) for task in LISTS) / len(LISTS)


def cell(measured: Measured, task: Asked, run: str) -> str:
    """A score, and whether it differs from that of all tokens."""
    if not measured.there(task, run):
        return "–"
    mark = {1: " ✓", 0: "", -1: " ✗"}[measured.gain(task, run, BASELINE).sign] if run != BASELINE else ""
    return f"{measured.number(task, run)}{mark}"


def scores(measured: Measured) -> str:
    runs = [BASELINE, *(run for run in grid() if run != BASELINE)]
    rows = [
        [
            f"`{run}`" if run != BASELINE else "all tokens",
            f"{mean(measured, run):.1f}",
            *(cell(measured, t, run) for t in LISTS),
        ]
        for run in runs
        if all(measured.there(task, run) for task in LISTS)
    ]
    head, *others = heads("")
    return table([head, "mean Hz", *others], rows)


def spent(measured: Measured) -> str:
    """Rate and loss of each tolerance, list by list."""
    rows = []
    for run in map(priced, TOLERANCES):
        gains = [f"{measured.hertz(t, run):.1f} Hz, {measured.gain(t, run, BASELINE)}" for t in LISTS]
        rows.append([f"`{run}`", f"{mean(measured, run):.1f}", *gains])
    head, *others = heads("")
    return table([head, "mean Hz", *others], rows)


def duels(measured: Measured) -> str:
    """`ward` with corrections against the others with theirs, at equal budgets."""
    rows = []
    for method in METHODS:
        other = f"{method}{BOTH}"
        if other != OURS:
            gains: list[Gain] = [
                measured.gain(task, at(OURS, keep), at(other, keep)) for task in LISTS for keep in KEEPS
            ]
            published = [measured.gain(task, at(OURS, keep), at(method, keep)) for task in LISTS for keep in KEEPS]
            rows.append([f"`{method}`", counts(published), counts(gains)])
    encoder = [measured.gain(t, at(f"{ENCODER}{BOTH}", keep), at(OURS, keep)) for t in LISTS for keep in KEEPS]
    text = table(["against", "as published", f"with `{BOTH}`"], rows)
    return f"{text}\n\nBefore layer 3 of the encoder instead of after it (`{ENCODER}`): {counts(encoder)}."


def page(measured: Measured) -> str:
    """The page in Markdown."""
    base = measured.run(FAR, BASELINE).record
    ours = priced(CHOSEN)
    half, third = (at(OURS, keep) for keep in KEEPS)
    summary = listed(
        [
            "All tokens (25 Hz): " + ", ".join(f"{t.name} {measured.number(t, BASELINE)}" for t in LISTS) + ".",
            f"`{ours}`, the default, takes {mean(measured, ours):.1f} Hz: "
            + ", ".join(f"{t.name} {measured.gain(t, ours, BASELINE)}" for t in LISTS)
            + ".",
            f"Half of the tokens (`{half}`): "
            + ", ".join(f"{t.name} {measured.gain(t, half, BASELINE)}" for t in LISTS)
            + ".",
            f"A third: far sentences {measured.gain(FAR, third, BASELINE)}, word strings "
            f"{measured.gain(STRINGS_4, third, BASELINE)}; `pool` as published "
            f"{measured.gain(FAR, at('pool', '1/3'), BASELINE)} and "
            f"{measured.gain(STRINGS_4, at('pool', '1/3'), BASELINE)}.",
        ]
    )
    head = HEAD.format(
        summary=summary,
        parameters=base["parameters"] / 1e6 if "parameters" in base else 4.9,
        sha=base["weights_sha256"][:8],
        dtype=base["dtype"],
        device=base["hardware"]["device"],
        voices=base["groups"],
        chosen=CHOSEN,
    )
    data = [
        [task.name, f"`{task.label}`", one["n"], one["groups"]]
        for task in LISTS
        for one in [measured.run(task, BASELINE).record]
    ]
    return (
        "\n\n".join(
            [
                head.rstrip(),
                "![Points lost against audio tokens per second, a panel a list](fourth.png)",
                "## Scores\n\n✗: worse than all tokens, ✓: better.\n\n" + scores(measured),
                "## A tolerance, list by list\n\nGain over all tokens, above 0 better.\n\n"
                + folded("rates and gains", spent(measured)),
                "## `ward` with corrections against the others, at equal budgets\n\n"
                f"Better / tied / worse over {len(LISTS)} lists at {' and '.join(KEEPS)}.\n\n" + duels(measured),
                "## Data\n\n" + table(["list", "of `recipes/pocket/splits`", "samples", "groups"], data),
            ]
        )
        + "\n"
    )


def draw(measured: Measured, file: Path) -> Path:
    """Points lost against audio tokens per second, a panel each list."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.4), layout="constrained", dpi=150)
    axes = figure.subplots(2, 5).flat
    kinds = {
        "ward, a tolerance": [*map(priced, TOLERANCES)],
        "ward, fixed share": [at(OURS, keep) for keep in ("2/3", *KEEPS, "1/4")],
        "pool with corrections": [at(f"pool{BOTH}", keep) for keep in KEEPS],
        "pool as published": [at("pool", keep) for keep in KEEPS],
    }
    for axis, task in zip(axes, LISTS, strict=False):
        for number, (kind, runs) in enumerate(kinds.items()):
            rates = [measured.hertz(task, run) for run in runs]
            losses = [-measured.gain(task, run, BASELINE).value for run in runs]
            axis.plot(rates, losses, color=LINES[number], marker=MARKERS[number], ms=5, lw=1.2, label=kind)
        axis.axhline(0, color="0.5", lw=0.8)
        axis.set_title(task.name, fontsize=10)
        axis.set_xlabel("audio tokens per second (Hz)")
        axis.set_ylabel(f"{task.unit.split(',')[0]}, lost")
        axis.grid(alpha=0.3)
        axis.set_xlim(0, 22)
    handles, labels = axes[0].get_legend_handles_labels()
    axes[-1].axis("off")
    axes[-1].legend(handles, labels, loc="center", fontsize=9)
    figure.savefig(file)
    return file


def write(measured: Measured, docs: Path) -> list[Path]:
    """The page and its picture; nothing where the runs are missing."""
    own = measured.of(FOURTH)
    if not all(own.there(task, *grid()) for task in LISTS):
        return []
    file = docs / "fourth.md"
    file.write_text(page(own), "utf-8")
    return [file, draw(own, docs / "fourth.png")]
