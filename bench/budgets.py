"""What it costs to draw time positions together (`+time(fit)`), and what a shared budget gains, on pocket.

python -m recipes.pocket.manifests --lists strings far-new-voices --out out/dev
python -m bench.budgets --lists out/dev --out results/bench/budgets.json

Fit: each clip's prompt is to end where distances within it are a given share of what they were. Shared: strings and
sentences in turns, as windows of one recording that run together, at the same count in all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console

import fewhertz
from bench.options import DEVICE, LISTS_FOLDER, OUT, QUICK_RUN, THREADS, begin
from bench.record import environment, save
from fewhertz import audio, run
from fewhertz.steps import one_recording
from fewhertz.words import distance

LISTS = ("strings", "far-new-voices")
METHOD = "ward@keep=1/2"
SCALES = ("packed", 1.0, 0.9, 0.8, 0.7, 0.5)
SHARED = ("none", "ward@8Hz+time+sizes", "ward(shared=true)@8Hz+time+sizes")
BATCH = 8  # windows that run together
DRAWS = 2000
CLIPS, QUICK_CLIPS = 48, 2  # of each list
console = Console(width=120)


def clips_of(folder: Path | None, count: int) -> list[list[tuple[np.ndarray, list[str]]]]:
    """Clips of each list, evenly spaced, with their words; without a folder those that are shipped."""
    if folder is None:
        from fewhertz import demo

        found = [(clip.wave, clip.text.lower().split()) for clip in demo.bundled(2 * count)]
        return [found[::2], found[1::2]]
    lists = []
    for name in LISTS:
        rows = [json.loads(line) for line in (folder / f"{name}-dev.jsonl").read_text("utf-8").splitlines()]
        chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, count).astype(int)]
        lists.append([(audio.load(folder / row["audio"]), row["text"].lower().split()) for row in chosen])
    return lists


def wrong(words: list[str], text: str) -> int:
    """Words of a clip that are wrong, missing or too many."""
    return distance(words, text.lower().split())


def fit(loaded: tuple[Any, Any], lists: list[list[tuple[np.ndarray, list[str]]]]) -> list[dict[str, Any]]:
    """WER of each list at each scale, and its difference to `+time` with a paired bootstrap interval over clips."""
    model, processor = loaded
    placeholder = fewhertz.families.family_of(model).placeholder(model.config)
    rows = []
    for scale in SCALES:
        made: list[list[int]] = [[], []]
        for found, clips in zip(made, lists, strict=True):
            for wave, words in clips:
                inputs = run.request(processor, [wave])
                ids = inputs["input_ids"][0]
                steps = int((ids == placeholder).sum()) - 1
                suffix = "+sizes"
                if scale != "packed":
                    suffix = f"+time(fit={round(len(ids) - (1 - float(scale)) * steps)})+sizes"
                with fewhertz.compress(model, METHOD + suffix):
                    (reply,) = run.answer(model, processor, inputs, transcript=True, max_new_tokens=64)
                found.append(wrong(words, reply.text))
        rows.append({"scale": scale, "wrong": made})
    base = next(row for row in rows if row["scale"] == 1.0)["wrong"]
    for row in rows:
        for place, (name, clips) in enumerate(zip(LISTS, lists, strict=True)):
            count = np.array([len(words) for _, words in clips])
            mine, other = np.array(row["wrong"][place]), np.array(base[place])
            drawn = np.random.default_rng(0).integers(len(clips), size=(DRAWS, len(clips)))
            spread = 100 * (mine - other)[drawn].sum(1) / count[drawn].sum(1)
            row[name] = {
                "wer": 100 * mine.sum() / count.sum(),
                "difference": 100 * (mine - other).sum() / count.sum(),
                "interval": np.percentile(spread, [2.5, 97.5]).tolist(),
            }
        del row["wrong"]
    return rows


def shared(loaded: tuple[Any, Any], lists: list[list[tuple[np.ndarray, list[str]]]]) -> list[dict[str, Any]]:
    """WER and Hz of each list where their clips run together, in turns."""
    model, processor = loaded
    mixed = [(place, *clip) for pair in zip(*lists, strict=True) for place, clip in enumerate(pair)]
    rows = []
    for spec in SHARED:
        total = np.zeros((len(lists), 4))  # wrong words, words, tokens, seconds
        for start in range(0, len(mixed), BATCH):
            part = mixed[start : start + BATCH]
            inputs = run.request(processor, [wave for _, wave, _ in part])
            with fewhertz.compress(model, spec), one_recording():
                replies = run.answer(model, processor, inputs, transcript=True, max_new_tokens=64)
            for (place, wave, words), reply in zip(part, replies, strict=True):
                total[place] += wrong(words, reply.text), len(words), reply.after, len(wave) / 16_000
        row: dict[str, Any] = {"method": spec, "hz": total[:, 2].sum() / total[:, 3].sum()}
        for name, (errs, words, tokens, seconds) in zip(LISTS, total, strict=True):
            row[name] = {"wer": 100 * errs / words, "hz": tokens / seconds}
        rows.append(row)
    return rows


def main(
    out: OUT,
    lists: LISTS_FOLDER = None,
    quick: QUICK_RUN = False,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """Measure, write the result file, print the figures."""
    begin(lists, quick, threads)
    count = QUICK_CLIPS if quick else CLIPS
    clips = clips_of(lists, count)
    loaded = fewhertz.load("pocket", device=device, dtype="float32")
    result: dict[str, Any] = {
        "what": "WER (%) where positions within clips are drawn together, and where windows share a budget",
        "quick": quick,
        "configuration": {"clips_a_list": count, "lists": list(LISTS), "method": METHOD, "batch": BATCH},
        "environment": environment(device),
        "fit": fit(loaded, clips),
    }
    save(result, out)  # what is there stays where it is broken off
    result["shared"] = shared(loaded, clips)
    save(result, out)
    for row in (*result["fit"], *result["shared"]):
        console.print_json(json.dumps(row))
    console.print(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
