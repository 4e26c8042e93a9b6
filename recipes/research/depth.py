"""docs/research/depth.md: what of a voice is kept, and compression inside the LLM, from the results alone."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Config

from bench.shapes import LAYERS as LARGE
from bench.shapes import TEXT_7B
from fewhertz.cost import kv_bytes, prefill_flops
from fewhertz.evaluation.metrics import METRICS, interval, paired
from fewhertz.evaluation.results import BASELINE

from .grids import AS_PUBLISHED, BOTH, at
from .grids.depth import (
    KEEPS,
    LAYERS,
    METHODS,
    PRICED,
    ROWS,
    TENTH,
    THIRD,
    VOICES,
    WITHIN,
    inside,
    main,
    voices,
    within,
)
from .measured import Measured
from .tables import Gain, listed, table
from .tasks import DEPTH, DRAWS, SENTENCES

CHANCE, OF_ACCENTS = 50.0, 25.0  # of two answers, and of four
TOKENS, AROUND = 750, 43

HEAD = """# What is not words, and merging at depth

{summary}

Made by `make reproduce` from `results/`; do not edit. `make depth` measures the runs anew.

Measured on *pocket* (weights `{weights}`), greedy, on {device}. Gains are paired, above 0 better, with 95 % bootstrap
intervals over groups (voices; sentences); ✓: above 0, ✗: below. Test lists, nothing chosen on them.
"""


def kinds(measured: Measured) -> dict[str, list[int]]:
    """Rows of each kind of question."""
    found: dict[str, list[int]] = defaultdict(list)
    for i, sample in enumerate(measured.run(VOICES, BASELINE).samples()):
        found[sample["id"].removeprefix("voice-test-").rpartition("-")[0]].append(i)
    return dict(found)


def gain(measured: Measured, spec: str, rows: list[int]) -> Gain:
    """Of some rows, over all tokens."""
    metric = METRICS[VOICES.metric]
    (a, groups), (b, _) = (measured.run(VOICES, one).stats(VOICES.metric) for one in (spec, BASELINE))
    own = [groups[i] for i in rows]
    return Gain(*paired(metric, np.asarray(a)[rows], np.asarray(b)[rows], own, DRAWS))


def above_chance(measured: Measured, by_kind: dict[str, list[int]]) -> tuple[list[str], list[str]]:
    """Kinds that all tokens answer better than by chance, by the whole interval, and the others."""
    stats, groups = measured.run(VOICES, BASELINE).stats(VOICES.metric)
    lows = {
        kind: interval(METRICS[VOICES.metric], np.asarray(stats)[rows], [groups[i] for i in rows], DRAWS)[0]
        for kind, rows in by_kind.items()
    }
    known = sorted(kind for kind, low in lows.items() if low > (OF_ACCENTS if kind == "accent" else CHANCE))
    return known, sorted(by_kind.keys() - known)


def heard(measured: Measured) -> tuple[list[str], str]:
    """What is to be said of voices, and its tables."""
    there = [spec for spec in voices() if measured.there(VOICES, spec)]
    gains = {spec: measured.gain(VOICES, spec, BASELINE) for spec in there}
    corrected, plain = (
        {method: gains[spec] for method in METHODS if (spec := at(f"{method}{kind}", THIRD)) in gains}
        for kind in (BOTH, AS_PUBLISHED)
    )
    near = [f"`{method}` {one}" for method, one in corrected.items() if one.value >= -WITHIN]
    sure = [method for method, one in corrected.items() if one.low >= -WITHIN]
    summary = [
        f"Questions of pace, pitch, speakers and the like, all tokens: {measured.value(VOICES, BASELINE):.1f} % right. "
        f"With a third of them and corrections, of {', '.join(f'`{one}`' for one in corrected)} within {WITHIN:g} "
        f"points: {', '.join(near) or 'none'}"
        + (
            f"; the whole interval within it: {', '.join(f'`{one}`' for one in sure)}."
            if sure
            else "; no whole interval."
        ),
        "As published, a third: " + ", ".join(f"`{method}` {one}" for method, one in plain.items()) + ".",
        f"`{PRICED}` takes {measured.hertz(VOICES, PRICED):.1f} Hz: {gains[PRICED]}.",
    ]
    rows = [
        [f"`{name}`", *(gains.get(at(name, keep), "–") for keep in KEEPS)]
        for name in (f"{method}{kind}" for method in METHODS for kind in (AS_PUBLISHED, BOTH))
        if any(at(name, keep) in gains for keep in KEEPS)
    ]
    by_kind = kinds(measured)
    scored = {
        kind: METRICS[VOICES.metric].score(np.asarray(measured.run(VOICES, BASELINE).stats(VOICES.metric)[0])[rows])
        for kind, rows in by_kind.items()
    }
    shown = [s for method in METHODS for kind in (AS_PUBLISHED, BOTH) if (s := at(f"{method}{kind}", THIRD)) in gains]
    shown.append(PRICED)
    known, unknown = above_chance(measured, by_kind)
    summary.append(
        f"Chance is {CHANCE:g} %, of accents {OF_ACCENTS:g} %: pocket is surely above it on "
        f"{', '.join(known) or 'none'} alone. "
        f"Of {', '.join(unknown)} it has next to nothing to lose, and they say nothing of methods."
    )
    for kind in known:
        gains_of = [(s, gain(measured, s, by_kind[kind])) for s in (at("pool", THIRD), at(f"segmentwise{BOTH}", THIRD))]
        gains_of += [
            (s, gain(measured, s, by_kind[kind])) for s in (at(f"pool{BOTH}", THIRD), at(f"ward{BOTH}", THIRD))
        ]
        summary.append(f"Of {kind}, {scored[kind]:.0f} % right: " + ", ".join(f"`{s}` {g}" for s, g in gains_of) + ".")
    each = [
        [f"{kind} ({len(by_kind[kind])})", f"{scored[kind]:.0f}", *(gain(measured, s, by_kind[kind]) for s in shown)]
        for kind in sorted(by_kind)
    ]
    parts = [
        "## What of a voice is kept",
        f"{measured.run(VOICES, BASELINE).record['n']} questions; gain over all tokens in points of accuracy.",
        table(["gain", *KEEPS], rows),
        "By kind of question, a third of the tokens (questions of the kind in brackets):",
        table(["", "all tokens, %", *(f"`{s}`" for s in shown)], each),
    ]
    return summary, "\n\n".join(parts)


def deep(measured: Measured) -> tuple[list[str], str]:
    """What is to be said of merging inside the LLM, and its table."""
    heads = ["a third from layer k on", *(f"k = {k}" for k in LAYERS)]
    rows = []
    for method, corrections in ROWS:
        specs = [within(k, method=method, corrections=corrections) for k in LAYERS]
        rows.append(
            [
                f"`{method}{corrections}`",
                *(f"{measured.value(SENTENCES, s):.1f} ({measured.gain(SENTENCES, s, BASELINE)})" for s in specs),
            ]
        )
    last = within(LAYERS[-1], TENTH)
    summary = [
        f"Sentences, WER, all tokens {measured.value(SENTENCES, BASELINE):.1f} %; a third of them by "
        f"`ward{BOTH}` from layer k of four on: "
        + ", ".join(f"k = {k} {measured.value(SENTENCES, within(k)):.1f}" for k in LAYERS)
        + f"; a tenth in the last layer {measured.value(SENTENCES, last):.1f}.",
    ]
    return summary, (
        "## Inside the LLM\n\nWER in %, and gain over all tokens. k = 0 is the LLM's input, where merging is usual; "
        f"layers below k read all tokens.\n\n{table(heads, rows)}\n\n`{last}`: {measured.value(SENTENCES, last):.1f} % "
        f"({measured.gain(SENTENCES, last, BASELINE)}).\n\n{saved()}"
    )


def saved() -> str:
    """Operations and bytes at the shape of a large model's LLM, from its configuration alone."""
    text = Qwen2Config(**TEXT_7B)
    whole, short = AROUND + TOKENS, AROUND + round(TOKENS / 3)
    flops, held = prefill_flops(text, whole), kv_bytes(text, whole, torch.bfloat16)
    rows = []
    for k in (LARGE * i // 8 for i in range(8)):
        rows.append(
            [
                f"{k} of {LARGE}",
                f"{prefill_flops(text, whole, [(k, short)]) / flops:.2f}",
                f"{kv_bytes(text, whole, torch.bfloat16, [(k, short)]) / held:.2f}",
            ]
        )
    return (
        "What it leaves of the prefill's operations and of the cache, counted at the shape of Qwen2-Audio-7B's LLM for "
        f"30 s of audio ({TOKENS} tokens, {AROUND} around them), a third from layer k on:\n\n"
        + table(["k", "operations", "cache"], rows)
    )


def page(measured: Measured) -> str:
    """The page in Markdown."""
    record = measured.run(VOICES if measured.there(VOICES, BASELINE) else SENTENCES, BASELINE).record
    summary, parts = [], []
    if measured.there(VOICES, BASELINE, *main()):
        said, body = heard(measured)
        summary, parts = [*summary, *said], [*parts, body]
    if measured.there(SENTENCES, *inside()):
        said, body = deep(measured)
        summary, parts = [*summary, *said], [*parts, body]
    weights, device = record["weights_sha256"][:8], record["hardware"]["device"]
    return "\n\n".join([HEAD.format(summary=listed(summary), weights=weights, device=device).rstrip(), *parts]) + "\n"


def write(measured: Measured, docs: Path) -> list[Path]:
    """The page; nothing where the runs are missing."""
    own = measured.of(DEPTH)
    if not (own.there(VOICES, BASELINE, *main()) or own.there(SENTENCES, *inside())):
        return []
    file = docs / "depth.md"
    file.write_text(page(own), "utf-8")
    return [file]
