"""docs/research/encoder.md and its picture: merging before a layer of the encoder, from the results alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fewhertz.evaluation.results import BASELINE
from fewhertz.palette import LINES

from .grids import AS_PUBLISHED
from .grids.encoder import DEEP, KEEPS, LAYERS, LISTS, SEVERAL, TOLERANCE, grid, inside
from .measured import Measured
from .tables import fold, listed, signed, table
from .tasks import ANSWERS, ENCODER, GERMAN, PARAMETERS, RESULTS, SENTENCES, SOUNDS, STRINGS
from .training_free.targets import lost

# what the encoder's site may lose over the LLM's at most, in units of the metric; of captions and answers in %
LIMITS = {STRINGS.label: 0.5, SENTENCES.label: 0.5, GERMAN.label: 0.5, SOUNDS.label: 1.0, ANSWERS.label: 1.0}
SHARES = (SOUNDS.label, ANSWERS.label)
PARTS = ("encoder", "compression", "prefill", "decode")

HEAD = """# Merging inside the encoder, measured

{summary}

Made by `make reproduce` from `results/`; do not edit. `make encoder` measures the runs anew, `python -m bench.sites`
the times.

**Quality** is that of *pocket*, {parameters} million parameters, five encoder layers on 50 frames a second, trained
without any of this: greedy, on {device}, {lists}. Gains are paired, above 0 better, with 95 % bootstrap intervals over
groups; ✓: above 0, ✗: below. **Times** are of {systems}, on one core of {cpu} in {dtype}; weights of the large ones are
random, one layer of each kind is timed and counted as often as the model has it.
"""


def row(measured: Measured, run: str, over: str = BASELINE) -> list[str]:
    """Rate and gain on each list."""
    return [f"`{run}`", *(measured.spent(task, run, over) for task in LISTS)]


def versus(measured: Measured, layers: str, budget: str) -> list[str]:
    """Verdicts on a site against the LLM's at the same budget, a list each."""
    run, behind = inside(layers, budget), inside("", budget)
    found = []
    for task in LISTS:
        one = lost(measured, task, run, task.unit, relative=task.label in SHARES, over=behind)
        found.append(
            "–" if one is None else f"{signed(one.value, one.low, one.high, 1)}: {one.verdict(LIMITS[task.label])}"
        )
    return [f"`{run}`", *found]


def times(bench: dict[str, Any]) -> str:
    """From the log-mel to the first token."""
    rows = []
    for one in bench["rows"]:
        seconds = [one["seconds"][part] for part in PARTS[:3]]
        rows.append(
            [f"{one['system']}, {one['clip_seconds']:g} s", f"`{one['method']}`" if one["method"] else one["way"]]
            + [f"{each:.1f} s" if each >= 1 else f"{1000 * each:.1f} ms" for each in seconds]
            + [f"{one['stock_over_this']:.2f}", f"{one['predicted']:.2f}"]
            + [f"{one['llm_over_this']:.2f} ({one['llm_over_this_predicted']:.2f})" if "llm_over_this" in one else ""]
        )
    heads = ["", "", *PARTS[:3], "stock over this", "by operations", "LLM's site over this (by operations)"]
    met = [
        f"{one['what']}: {one['value']:.2f}, asked {one['target']}: **{'met' if one['met'] else 'missed'}**."
        for one in bench["targets"]
    ]
    calls = []
    for one in bench["whole_calls"]:
        ratios = ", ".join(f"{way} {ratio:.2f}" for way, ratio in one["stock_over_this"].items() if way != "stock")
        calls.append(f"Whole calls of pocket, {one['clip_seconds']:g} s, stock over: {ratios}.")
    return fold(table(heads, rows)) + "\n\n" + listed([*met, *calls])


def page(measured: Measured, bench: dict[str, Any]) -> str:
    """The page in Markdown."""
    heads = ["", *(f"{task.name} ({task.unit})" for task in LISTS)]
    half, priced = inside(DEEP, "keep=1/2"), inside(DEEP, f"tolerance={TOLERANCE}")

    def gains(run: str, over: str) -> str:
        return ", ".join(f"{task.name} {measured.gain(task, run, over)}" for task in LISTS)

    def rates(run: str) -> str:
        return ", ".join(f"{measured.hertz(task, run):.1f}" for task in LISTS)

    summary = listed(
        [
            f"Before layer {DEEP} of 5, half of the audio tokens, over the same count behind the encoder: "
            f"{gains(half, inside('', 'keep=1/2'))}.",
            f"Over all tokens: {gains(half, BASELINE)}.",
            f"Under λ = {TOLERANCE} the tokens before layer {DEEP} are {rates(priced)} Hz, behind the encoder "
            f"{rates(inside('', f'tolerance={TOLERANCE}'))}; over those: "
            f"{gains(priced, inside('', f'tolerance={TOLERANCE}'))}.",
        ]
    )
    sites = ("", *LAYERS, SEVERAL)
    budgets = [f"keep={keep}" for keep in KEEPS]
    asked = [(layers, budget) for layers in (*LAYERS[1:], SEVERAL) for budget in budgets]
    made = bench["environment"]
    parts = [
        HEAD.format(
            summary=summary,
            parameters=PARAMETERS,
            device=measured.run(LISTS[0], BASELINE).record["hardware"]["device"],
            lists=", ".join(f"{task.rows} {task.name}" for task in LISTS),
            systems=", ".join(bench["configuration"]["systems"]),
            cpu=made["gpu"] or made["cpu"],
            dtype=bench["configuration"]["dtype"],
        ),
        "![Time by part, of the stock model's: stock, no padding, merged behind and inside the encoder](encoder.png)",
        "## Over all tokens\n\n"
        + table(heads, [row(measured, inside(layers, budget)) for budget in budgets for layers in sites]),
        "## Under a tolerance\n\nThe price of frames is that of audio tokens, of which they are halves.\n\n"
        + table(heads, [row(measured, inside(one, f"tolerance={TOLERANCE}")) for one in ("", DEEP, SEVERAL)]),
        "## Without corrections in the LLM\n\nThe encoder's later layers have log s in any case.\n\n"
        + table(heads, [row(measured, inside(one, budget, AS_PUBLISHED)) for budget in budgets for one in ("", DEEP)]),
        "## Against the LLM's site\n\nWhat is lost over `ward` behind the encoder at the same count, against what may "
        "be: 0.5 points of WER or BLEU, 1 % of CIDEr-D or accuracy, asked of layer 3 at keep=1/2.\n\n"
        + table(["", *(task.name for task in LISTS)], [versus(measured, *one) for one in asked]),
        f"## Time\n\nFrom the log-mel to the first token ({bench['notes'][2]}).\n\n" + times(bench),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def draw(bench: dict[str, Any], file: Path) -> Path:
    """Time by part as a share of the stock model's, a panel a system and clip."""
    from matplotlib.figure import Figure

    shown = {"stock": "stock", "trim": "no padding", "llm": "LLM's site, 1/2", "encoder": "encoder's site, 1/2"}
    systems = list(bench["configuration"]["systems"])
    clips = bench["configuration"]["clips"]
    figure = Figure(figsize=(11, 4.2), layout="constrained", dpi=150)
    axes = figure.subplots(len(clips), len(systems), sharex=True, sharey=True, squeeze=False)
    for line, clip in zip(axes, clips, strict=True):
        for axis, system in zip(line, systems, strict=True):
            rows = [one for one in bench["rows"] if (one["system"], one["clip_seconds"]) == (system, clip)]
            rows = [one for one in rows if one["method"] is None or "keep=1/2" in one["method"]]
            whole = sum(rows[0]["seconds"].values())
            for place, one in enumerate(rows):
                start = 0.0
                for part, colour in zip(PARTS, LINES, strict=False):
                    share = 100 * one["seconds"][part] / whole
                    label = part if place == 0 else None
                    axis.barh(shown[one["way"]], share, left=start, color=colour, label=label)
                    start += share
                axis.text(start + 1, place, f"{start:.0f}", va="center", fontsize=8)
            axis.set_title(f"{system}, {clip:g} s", fontsize=10)
            axis.set_xlim(0, 112)
            axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    for axis in axes[-1]:
        axis.set_xlabel("time, % of the stock model's")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(PARTS), fontsize=9)
    figure.savefig(file)
    return file


def write(measured: Measured, docs: Path) -> list[Path]:
    """The page and its picture; nothing where the runs are missing."""
    own, bench = measured.of(ENCODER), RESULTS / "bench" / "sites.json"
    if not bench.exists() or not all(own.there(task, *grid(task)) for task in LISTS):
        return []
    found = json.loads(bench.read_text("utf-8"))
    file = docs / "encoder.md"
    file.write_text(page(own, found), "utf-8")
    return [file, draw(found, docs / "encoder.png")]
