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
from fewhertz.evaluation.bootstrap import interval
from fewhertz.evaluation.metrics import METRICS
from fewhertz.evaluation.results import BASELINE

from .grids import BOTH, at
from .grids.depth import (
    LAYERS,
    METHODS,
    PRICED,
    ROWS,
    SCHEDULES,
    TENTH,
    THIRD,
    VOICES,
    WITHIN,
    within,
)
from .measured import Measured, between
from .tables import Gain, listed, table
from .tasks import DEPTH, DRAWS, LARGER, SENTENCES

CHANCE, OF_ACCENTS = 50.0, 25.0  # of two answers, and of four
TOKENS, AROUND = 750, 43

PAGE = """# What is not words, and merging at depth

{summary}

## What was measured

*pocket*, a model of {parameters} million parameters (fourth version, weights `{weights}`), greedy:
{questions} questions of voices, {sentences} sentences. Nothing was chosen on them. Gains are paired, above 0 better,
with 95 % bootstrap intervals over groups.

## What of a voice is kept

A third of the tokens: points of accuracy over all tokens.

{voices}

{known}

## Inside the LLM

Sentences, a third of the tokens from layer k of {layers} on; layers below k read all. Points of WER over all tokens
({whole}):

{depth}

{saved}

Made by `make reproduce`; `make depth` measures anew.
"""


def kinds(measured: Measured) -> dict[str, list[int]]:
    """Rows of each kind of question."""
    found: dict[str, list[int]] = defaultdict(list)
    for i, sample in enumerate(measured.run(VOICES, BASELINE).samples()):
        found[sample["id"].removeprefix("voice-test-").rpartition("-")[0]].append(i)
    return dict(found)


def gain(measured: Measured, spec: str, rows: list[int]) -> Gain:
    """Of some rows, over all tokens."""
    return between(VOICES, measured.run(VOICES, spec), measured.run(VOICES, BASELINE), rows)


def above_chance(measured: Measured, by_kind: dict[str, list[int]]) -> tuple[list[str], list[str]]:
    """Kinds that all tokens answer better than by chance, by the whole interval, and the others."""
    stats, groups = measured.run(VOICES, BASELINE).stats(VOICES.metric)
    lows = {
        kind: interval(METRICS[VOICES.metric], np.asarray(stats)[rows], [groups[i] for i in rows], DRAWS)[0]
        for kind, rows in by_kind.items()
    }
    known = sorted(kind for kind, low in lows.items() if low > (OF_ACCENTS if kind == "accent" else CHANCE))
    return known, sorted(by_kind.keys() - known)


def summary(measured: Measured) -> str:
    """What it comes to."""
    gains = {method: measured.gain(VOICES, at(f"{method}{BOTH}", THIRD), BASELINE) for method in METHODS}
    sure = [f"`{method}`" for method, one in gains.items() if one.low >= -WITHIN]
    base = measured.value(VOICES, BASELINE)
    last = within(LAYERS[-1], TENTH)
    return listed(
        [
            f"Questions of pace, pitch, speakers and the like, all tokens: {base:.1f} % right. With a third of them "
            f"and corrections {', '.join(sure) or 'no method'} surely lose at most {WITHIN:g} points; as published "
            f"`ward` {measured.gain(VOICES, at('ward', THIRD), BASELINE).plain}.",
            f"`{PRICED}` takes {measured.hertz(VOICES, PRICED):.1f} Hz: "
            f"{measured.gain(VOICES, PRICED, BASELINE).plain}.",
            f"Sentences, a tenth of the tokens in the LLM's last layer: "
            f"{measured.gain(SENTENCES, last, BASELINE).plain} points of WER; a third in all layers: "
            f"{measured.gain(SENTENCES, within(0), BASELINE).plain}.",
        ]
    )


def heard(measured: Measured, by_kind: dict[str, list[int]], known: list[str]) -> str:
    """Gains of each method, on all questions and on those kinds that pocket knows about."""
    shown = {"all": list(range(VOICES.rows))} | {kind: by_kind[kind] for kind in known}
    stats = np.asarray(measured.run(VOICES, BASELINE).stats(VOICES.metric)[0])
    heads = [
        f"{kind} ({len(rows)}; {METRICS[VOICES.metric].score(stats[rows]):.0f} % right)" for kind, rows in shown.items()
    ]
    lines = [
        [f"`{name}`", *(gain(measured, at(name, THIRD), rows).plain for rows in shown.values())]
        for name in ("pool", "ward", f"pool{BOTH}", f"segmentwise{BOTH}", f"ward{BOTH}")
    ]
    return table(["", *heads], lines)


def deep(measured: Measured) -> str:
    """Merging inside the LLM, before each layer and by schedules."""
    rows = []
    for method, corrections in ROWS:
        specs = [within(k, method=method, corrections=corrections) for k in LAYERS]
        rows.append([f"`{method}{corrections}`", *(measured.gain(SENTENCES, s, BASELINE).plain for s in specs)])
    parts = [f"{one} {measured.gain(SENTENCES, within(one), BASELINE).plain}" for one in SCHEDULES]
    text = f"By a schedule (`ward{BOTH}`, a part before each of the layers, a third behind the last): "
    return f"{table(['', *(f'k = {k}' for k in LAYERS)], rows)}\n\n{text}{'; '.join(parts)}."


def saved() -> str:
    """Operations and bytes at the shape of a large model's LLM, from its configuration alone."""
    text = Qwen2Config(**TEXT_7B)
    whole, short = AROUND + TOKENS, AROUND + round(TOKENS / 3)
    flops, held = prefill_flops(text, whole), kv_bytes(text, whole, torch.bfloat16)
    left = []
    for k in (LARGE * i // 4 for i in range(3)):
        read = [(k, short)]
        operations, cache = prefill_flops(text, whole, read), kv_bytes(text, whole, torch.bfloat16, read)
        left.append(f"{operations / flops:.2f}, {cache / held:.2f} (k = {k})")
    return (
        f"Left are of the operations, and of the cache, of Qwen2-Audio-7B's LLM ({LARGE} layers, 30 s of audio): "
        f"{'; '.join(left)}."
    )


def page(measured: Measured) -> str:
    """The page in Markdown."""
    by_kind = kinds(measured)
    known, unknown = above_chance(measured, by_kind)
    return PAGE.format(
        summary=summary(measured),
        parameters=LARGER,
        weights=measured.run(VOICES, BASELINE).record["weights_sha256"][:8],
        questions=VOICES.rows,
        sentences=SENTENCES.rows,
        voices=heard(measured, by_kind, known),
        known=f"Chance is {CHANCE:g} %, of accents {OF_ACCENTS:g} %: pocket is surely above it on {', '.join(known)} "
        f"alone, and has next to nothing to lose of {', '.join(unknown)}.",
        layers=len(LAYERS),
        whole=f"{measured.value(SENTENCES, BASELINE):.1f}",
        depth=deep(measured),
        saved=saved(),
    )


def write(measured: Measured, docs: Path) -> list[Path]:
    """The page."""
    file = docs / "depth.md"
    file.write_text(page(measured.of(DEPTH)), "utf-8")
    return [file]
