"""What corrections cost, how exact they are, and what `ward` costs: of `bench/corrections.py`."""

from __future__ import annotations

import json
from pathlib import Path

from fewhertz.files import Record

from ..tables import table

FILE = Path("bench", "told.json")  # in the folder of all results
WAYS = ("boolean", "mask", "mask in parts", "dims", "dims in the cache", "flex")
HOW = ("told", "untold")  # as the file calls it: with `+sizes` or without


def section(root: Path) -> str:
    """A section in Markdown."""
    if not (root / FILE).exists():
        return "Not run yet."
    found = json.loads((root / FILE).read_text("utf-8"))
    machine = found["environment"]
    verdicts = "; ".join(
        f"{one['what']}: {one['worst']:.3g}, target {one['bar']:g}, {'**met**' if one['met'] else '**missed**'}"
        for one in found["bars"]
    )
    slower = next(one for one in found["bars"] if one["what"] == "a layer by the mask over one by the fastest way")
    return (
        f"`python -m bench.corrections`, one thread of {machine['cpu']}, torch {machine['torch']}, layers of the "
        f"shapes of 7B models with random weights, and pocket; no GPU. Worst of each: {verdicts}.\n\n"
        "**The price of log s.** Time of one decoder layer over that with plain causal attention, without "
        "corrections: `boolean`, the mask that a padded batch needs anyway, without them too; `mask`, an additive one, "
        "which the library uses; `mask in parts`, for 256 queries at a time; `dims`, log s in more dimensions of the "
        "keys (while decoding in the cache); `flex`, compiled FlexAttention. On this CPU a layer by the mask takes at "
        f"most {100 * (slower['worst'] - 1):.1f} % more than by the fastest way, so the mask stays. On a GPU: "
        f"[gpu.md](gpu.md).\n\n{_attention(found['attention'])}\n\n"
        "**Exact in one layer, and how near above it.** s copies of a token against the one token that they merge into "
        "with `+time`, with `+sizes` or without: relative difference of what the LLM makes of the text behind the "
        "audio, largest in the first layer and mean in the last; and how often the likeliest next token is the same."
        f"\n\n{_depth(found['depth'])}\n\n"
        "**`ward`**: plan and apply of 750 tokens over the prefill time of 32 layers that it saves, and its squared "
        f"distances over those of the best segments of all, on {found['objective'][0]['clips']} recordings.\n\n"
        f"{_ward(found)}"
    )


def _attention(rows: list[Record]) -> str:
    cases = dict.fromkeys((row["shape"], row["phase"], row["tokens"], row["batch"]) for row in rows)
    lines = []
    for case in cases:
        here = {r["way"]: r for r in rows if (r["shape"], r["phase"], r["tokens"], r["batch"]) == case}
        shape, phase, tokens, batch = case
        shown = [f"{here[way]['of_layer']:.3f}" if way in here and here[way]["of_layer"] else "–" for way in WAYS]
        lines.append([f"{shape}, {phase}, {tokens:,} tokens, batch {batch}", *shown])
    return table(["of a layer", *(f"`{way}`" for way in WAYS)], lines)


def _depth(rows: list[Record]) -> str:
    lines = []
    for row in rows:
        first, last, said = row["by_layer"][0], row["by_layer"][-1], row["next_token"]
        with_sizes, without = HOW
        lines.append(
            [
                f"{row['weights']}, {row['tokens']}",
                f"{first[with_sizes]['largest']:.1e} / {first[without]['largest']:.2f}",
                f"{last['layer']}: {last[with_sizes]['mean']:.3f} / {last[without]['mean']:.3f}",
                " / ".join(f"{100 * said[how]['same_token']:.1f} %" for how in HOW),
            ]
        )
    return table(["with / without `+sizes`", "layer 1, largest", "last layer, mean", "same next token"], lines)


def _ward(found: Record) -> str:
    lines = [
        [f"`{row['method']}`, {row['shape']}, batch {row['batch']}", f"{100 * row['share_of_prefill_saved']:.2f} %"]
        for row in found["cost"]
    ]
    other = [
        [
            row["keep"],
            f"{row['ward_over_optimal']:.4f}",
            f"{row['ward_over_optimal_largest_of_clips']:.3f}",
            f"{row['clips_within_bar']} of {row['clips']}",
        ]
        for row in found["objective"]
    ]
    heads = ["keep", "`ward` over the best", "largest of a clip", "clips within 5 %"]
    return f"{table(['', 'of the prefill time saved'], lines)}\n\n{table(heads, other)}"
