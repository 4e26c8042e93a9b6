"""docs/research/tolerance.md and its picture: one price for all lists, from the results alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewhertz.evaluation.results import BASELINE
from fewhertz.method import DEFAULT

from .grids import BOTH
from .grids.tolerance import AFFINITY, CHOSEN, FIXED, LISTS, MEL, SILENCE, TOLERANCES, affinity, fixed, mel, priced
from .measured import Measured
from .panels import losses
from .tables import listed, table
from .tasks import ANSWERS, GERMAN, PARAMETERS, RESULTS, SENTENCES, SOUNDS, STRINGS, TASKS, TOLERANCE
from .training_free.targets import lost

MOST_HERTZ = 8.3
# what a loss may be at most, in units of the metric; of captions and answers in % of the score with all tokens
LIMITS = {STRINGS: 1.0, SENTENCES: 1.0, GERMAN: 2.0, SOUNDS: 3.0, ANSWERS: 1.0}
SHARES = (SOUNDS, ANSWERS)

HEAD = """# Tokens where the sound is: a tolerance instead of a count

{summary}

Made by `make reproduce` from `results/`; do not edit. `make tolerance` measures the runs anew.

**The question.** A fixed share asks the same of a pause, of a dog and of fast speech. `ward@tolerance=λ` merges
neighbours as long as a merge costs at most λ (s·t/(s+t)·‖ū−v̄‖² of segments of s and t tokens of unit length), so it
spends tokens where the sound changes. Is one λ good for all tasks, without training?

**What was measured.** *pocket*, a model of {parameters} million parameters that we trained ourselves (its third
version; the shipped one is in [fourth.md](fourth.md)), greedy,
on {device}: {lists}. λ = {chosen}, the default of `fewhertz.compress`, was chosen on dev: there it is the largest that
costs sentences less than a point of WER. Nothing was chosen on these lists. Gains are paired, above 0 better, with 95 %
bootstrap intervals over groups; ✓: above 0, ✗: below. The sentences are near to what pocket was trained on, and 14
speakers said the words.
"""

TARGETS = f"""## Targets

Mean rate at most {MOST_HERTZ} Hz, and of each task a loss of at most 1 point of WER, 2 of BLEU, 3 % of CIDEr-D, 1 % of
the accuracy.

"""


def verdicts(measured: Measured, run: str) -> list[str]:
    """Of each task, whether the loss is at most what it may be."""
    found = []
    for task in TASKS:
        one = lost(measured, task, run, task.unit, relative=task in SHARES)
        found.append("–" if one is None else f"{one.verdict(LIMITS[task])}: {one.value:+.1f}")
    return found


def row(measured: Measured, run: str) -> list[str]:
    """Rate and gain on each list."""
    found = [measured.spent(task, run, BASELINE) for task in LISTS]
    return [f"`{run}`", f"{measured.mean_hertz(TASKS, run):.1f}", *found]


def rows(measured: Measured, runs: Sequence[str]) -> list[list[str]]:
    return [row(measured, run) for run in runs if all(measured.there(task, run) for task in TASKS)]


def page(measured: Measured) -> str:
    """The page in Markdown."""
    ours = priced(CHOSEN)
    assert ours == DEFAULT
    heads = ["", "mean Hz of five", *(f"{task.name} ({task.unit})" for task in LISTS)]
    quiet, loud = measured.hertz(SILENCE, ours), measured.hertz(SENTENCES, ours)
    gains = {task: measured.gain(task, ours, BASELINE) for task in LISTS}
    summary = listed(
        [
            f"At λ = {CHOSEN} the five tasks take {measured.mean_hertz(TASKS, ours):.1f} Hz on average, of 25: "
            + ", ".join(f"{task.name} {measured.hertz(task, ours):.1f}" for task in TASKS)
            + ".",
            "Against all tokens: " + ", ".join(f"{task.name} {gains[task]}" for task in TASKS) + ".",
            f"A fixed third ({measured.hertz(SENTENCES, fixed('1/3')):.1f} Hz everywhere): "
            + ", ".join(f"{task.name} {measured.gain(task, fixed('1/3'), BASELINE)}" for task in TASKS)
            + ".",
            f"Sentences with as much silence as speech take {quiet:.1f} Hz, {100 * quiet / loud:.0f} % of {loud:.1f}: "
            f"{gains[SILENCE]}.",
            "What other λ take and lose is in the first table.",
        ]
    )
    targets = []
    for run in [*map(priced, TOLERANCES), *map(fixed, FIXED)]:
        if measured.there(SOUNDS, run):
            targets.append([f"`{run}`", f"{measured.mean_hertz(TASKS, run):.1f}", *verdicts(measured, run)])
    device = measured.run(STRINGS, BASELINE).record["hardware"]["device"]
    lists = ", ".join(f"{task.rows} {task.name}" for task in LISTS)
    parts = [
        HEAD.format(summary=summary, parameters=PARAMETERS, device=device, lists=lists, chosen=CHOSEN),
        "![Loss against audio tokens per second, a panel a task: λ, fixed shares, affinity](tolerance.png)",
        "## One λ for all lists\n\n"
        + table(heads, rows(measured, [*map(priced, TOLERANCES), priced(CHOSEN, "optimal")])),
        "## Fixed shares\n\n"
        + table(heads, rows(measured, [*map(fixed, FIXED), fixed("1/2", "pool"), fixed("1/3", "pool")])),
        "## The published methods of variable length, with corrections\n\n"
        + table(heads, rows(measured, [*map(affinity, AFFINITY), f"unseg{BOTH}"])),
        "## The count decided on the log-mel, as vLLM needs it\n\nThe prices are those of log-mel, so λ is another.\n\n"
        + table(heads, rows(measured, [*map(mel, MEL)])),
        TARGETS + table(["", "mean Hz of five", *(task.name for task in TASKS)], targets),
    ]
    parts += [price(RESULTS / "bench"), agreed(RESULTS / "bench")]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def price(bench: Path) -> str:
    """What finding the count costs."""
    if not (bench / "tolerance.json").exists():
        return ""
    found = json.loads((bench / "tolerance.json").read_text("utf-8"))
    rows = [
        [
            f"{one['tokens']} tokens, batch {one['batch']}",
            f"{one['over_the_same_count']:.2f} times `ward` at that count",
        ]
        for one in found["tolerance"]
    ]
    rows += [
        [f"count on log-mel, {one['clip_seconds']} s", f"{100 * one['of_making_the_mel']:.0f} % of making the log-mel"]
        for one in found["count_on_mel"]
    ]
    what = f"On one core of {found['environment']['cpu']} (`python -m bench.tolerance`), 54 % of the tokens kept.\n\n"
    return "## What it costs to find the count\n\n" + what + table(["", "processor time"], rows)


def agreed(bench: Path) -> str:
    """Whether agreement says what a method loses."""
    if not (bench / "agreement.json").exists():
        return ""
    found = json.loads((bench / "agreement.json").read_text("utf-8"))
    rows = []
    for one in found["lists"]:
        chosen = one["chosen"]
        low, high = chosen["interval"] if chosen else (0, 0)
        rows.append(
            [
                f"{one['list']} ({one['metric']})",
                str(len(one["candidates"])),
                f"{one['rank_correlation_agreement']:.2f}",
                f"{one['rank_correlation_kl']:.2f}",
                f"`{chosen['method']}`, {chosen['hertz']:.1f} Hz: {chosen['loss']:+.2f} [{low:+.2f}, {high:+.2f}]"
                if chosen
                else "none",
                tested(chosen) if chosen else "–",
            ]
        )
    heads = ["dev list", "candidates", "rank correlation of disagreement", "of divergence"]
    return (
        "## Does agreement say what a method loses?\n\n`fewhertz tune` reads no label: it counts the tokens of the "
        "uncompressed model's own answers at which a method would choose otherwise. Here its ranks are held against "
        f"true losses on the same clips, with weights `{found.get('weights_sha256', '2b4d5eb5')[:8]}` "
        "(`python -m recipes.research.agreement`).\n\n"
        + table([*heads, f"its choice at {100 * found['agree']:g} %: true loss", "on test"], rows)
    )


def tested(chosen: dict[str, Any]) -> str:
    """The true loss of a choice on the test list of the same kind."""
    if "test" not in chosen:
        return "–"
    one = chosen["test"]
    low, high = one["interval"]
    return f"{one['rate_hz']:.1f} Hz: {one['loss']:+.2f} [{low:+.2f}, {high:+.2f}], n={one['n']}"


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
    """The page and its picture; nothing where the runs are missing."""
    own = measured.of(TOLERANCE)
    if not own.there(SILENCE, priced(CHOSEN)):
        return []
    file = docs / "tolerance.md"
    file.write_text(page(own), "utf-8")
    return [file, draw(own, docs / "tolerance.png")]
