"""docs/research/encoder.md and its picture: merging before a layer of the encoder, from the results alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fewhertz.evaluation.results import BASELINE
from fewhertz.palette import LINES

from .grids import BOTH
from .grids.encoder import DEEP, LAYERS, LISTS, SEVERAL, TOLERANCE, inside
from .measured import Measured, held
from .tables import listed, table
from .tasks import ENCODER, LARGER, RESULTS

# what the encoder's site may lose over the LLM's at most, as `held` has it
LIMITS = dict(zip(LISTS, (0.5, 0.5, 0.5, 1.0, 1.0), strict=True))
PARTS = ("encoder", "compression", "prefill", "decode")

WAYS = {"trim": "no padding", "llm": "LLM's site, 1/2", "encoder": "encoder's site, 1/2"}

PAGE = """# Merging inside the encoder, measured

{summary}

## What was measured

`ward(site=encoder.k)` merges frames before layer k of the encoder, counted from 0. **Quality** is that of *pocket*,
{parameters} million parameters (fourth version, weights `{sha}`), six encoder layers on 50 frames a second, trained
without any of this; greedy: {lists}. Nothing was chosen on these lists. **Times** are of one core of {cpu}, {dtype}; of
the large models one layer of each kind, with random weights, is timed and counted.

![Time by part, of the stock model's: stock, no padding, merged behind and inside the encoder](encoder.png)

## Quality

Gain over all tokens, with paired 95 % bootstrap intervals over groups; all with `{both}`. `ward` alone is behind the
encoder; {several} merges a part before each.

{table}

## Time

How many times sooner than stock the first token is there, from the log-mel on (what operations predict).

{times}

{targets}

Made by `make reproduce`; `make encoder` measures anew, `python -m bench.sites` the times (`results/bench/sites.json`).
"""


def row(measured: Measured, run: str) -> list[str]:
    """Gain on each list."""
    gains = [measured.gained(task, run, BASELINE) for task in LISTS]
    return [f"`{run.removesuffix(BOTH)}`", *(gain.plain if gain else "–" for gain in gains)]


def times(bench: dict[str, Any]) -> str:
    """From the log-mel to the first token, at half of the tokens."""
    rows: dict[str, dict[str, str]] = {}
    for one in bench["rows"]:
        if one["way"] in WAYS and (one["method"] is None or "keep=1/2" in one["method"]):
            shown = f"{one['stock_over_this']:.2f} ({one['predicted']:.2f})"
            rows.setdefault(f"{one['system']}, {one['clip_seconds']:g} s", {})[one["way"]] = shown
    return table(["", *WAYS.values()], [[what, *(row[way] for way in WAYS)] for what, row in rows.items()])


def page(measured: Measured, bench: dict[str, Any]) -> str:
    """The page in Markdown."""
    half, priced = (inside(DEEP, budget) for budget in ("keep=1/2", f"tolerance={TOLERANCE}"))
    behind, free = (inside("", budget) for budget in ("keep=1/2", f"tolerance={TOLERANCE}"))

    def gains(run: str, over: str) -> str:
        return ", ".join(f"{task.name} {measured.gain(task, run, over).plain}" for task in LISTS)

    def rates(run: str) -> str:
        return ", ".join(f"{measured.hertz(task, run):.1f}" for task in LISTS)

    summary = [
        f"Half of the tokens before layer {DEEP} of 6, over as many behind the encoder: {gains(half, behind)}.",
        f"Asked: at most 0.5 points of WER or BLEU, 1 % of CIDEr-D or accuracy: "
        f"{held(measured, half, LIMITS, behind)}.",
        f"λ = {TOLERANCE} takes {rates(priced)} Hz there, {rates(free)} behind the encoder; gain over it: "
        f"{gains(priced, free)}.",
    ]
    shown = [inside(layers, "keep=1/2") for layers in ("", *LAYERS[2:], SEVERAL)]
    shown += [inside(layers, "keep=1/3") for layers in ("", DEEP)]
    made = bench["environment"]
    return PAGE.format(
        summary=listed(summary),
        parameters=LARGER,
        sha=measured.run(LISTS[0], BASELINE).record["weights_sha256"][:8],
        lists=", ".join(f"{task.rows} {task.name}" for task in LISTS),
        cpu=made["gpu"] or made["cpu"],
        dtype=bench["configuration"]["dtype"],
        both=BOTH,
        several=SEVERAL,
        table=table(
            ["", *(f"{t.name} ({t.unit.split(',')[0]})" for t in LISTS)], [row(measured, one) for one in shown]
        ),
        times=times(bench),
        targets=" ".join(
            f"{one['what']}: {one['value']:.2f}, asked {one['target']}: **{'met' if one['met'] else 'missed'}**."
            for one in bench["targets"]
        ),
    )


def draw(bench: dict[str, Any], file: Path) -> Path:
    """Time by part as a share of the stock model's, a panel a system and clip."""
    from matplotlib.figure import Figure

    shown = {"stock": "stock", **WAYS}
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
    """The page and its picture."""
    found = json.loads((RESULTS / "bench" / "sites.json").read_text("utf-8"))
    file = docs / "encoder.md"
    file.write_text(page(measured.of(ENCODER), found), "utf-8")
    return [file, draw(found, docs / "encoder.png")]
