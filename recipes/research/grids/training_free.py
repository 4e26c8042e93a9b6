"""The runs of docs/research/training-free.md: methods as published and with corrections, and what dev was asked."""

from __future__ import annotations

import re

from fewhertz.method import RECOMMENDED, parse

from ..tasks import SOUNDS, SPEECH
from . import AS_PUBLISHED, BOTH, SIZES, TIME, at

OURS = ("optimal", "ward")
OURS_BEST = RECOMMENDED.partition("+")[0]
PUBLISHED = (
    *("pool", "stride", "segment", "ltbm", "global-merge", "segmentwise", "visionzip", "random"),
    *("a-tome", "fastadasp", "sa-map", "vispruner", "cdpruner", "divprune", "dart", "evs"),
)
METHODS = (*PUBLISHED, *OURS)
# the others drop tokens: what stays stands for itself, so that `+sizes` changes nothing (`same`)
MERGING = ("pool", "segment", "ltbm", "global-merge", "visionzip", "a-tome", "fastadasp", "sa-map", *OURS)
KEEPS = ("1/2", "1/3", "1/4", "1/6", "1/10")
AFFINITY = tuple(parse(f"affinity(threshold={t})").spec for t in (0.95, 0.9, 0.8, 0.7))  # one of them is its default

# on dev: what the default was chosen from and tuned on
CANDIDATES, DEV_KEEPS = ("ward", "optimal", "pool", "segment", "ltbm"), ("1/2", "1/3", "1/4")
NARROW = ("1/3", "1/4")
ALPHAS, PLACES = (0.5, 0.75, 1.25, 1.5), ("first", "last")
TUNED = tuple(f"ward-told({value})" for value in (*(f"alpha={a}" for a in ALPHAS), *(f"place={p}" for p in PLACES)))
TUNED_ON = SPEECH
IDEAS = {
    "ward-by-attention": "means inside a segment weighted by the attention received",
    "ward(site=encoder)": "the objective on the encoder's output instead of the LLM's input",
    "optimal": "the exact objective, to compare the next rows with",
    "optimal-cut(weighted=True)": "tokens weigh in the objective what attention they received",
    "optimal-cut(shortest=0.5)": "no segment shorter than half the mean one",
    "optimal-cut(shortest=0.75)": "nor than three quarters of it",
    "optimal(longest=2.0)": "no segment longer than two mean ones",
    "optimal(longest=1.5)": "nor than one and a half",
    "optimal(longest=1.25)": "nor than one and a quarter",
    "ward-silence": "a tenth more segments, of which those like the longest one share its token",
}
BY_CONTENT = tuple(f"ward-by-content(loss={loss})" for loss in (0.02, 0.05))
TRIED_ON = (*SPEECH, SOUNDS)


def spec(method: str, corrections: str, keep: str) -> str:
    """The spec of a run; written and not parsed, since pages name methods of `ideas` that they do not register."""
    return f"{method}@keep={keep}{corrections}"


def same(method: str, corrections: str) -> str:
    """The corrections whose runs are those of these too: where log s is 0, `+sizes` does nothing."""
    if method in MERGING or corrections not in (TIME, SIZES):
        return corrections
    return BOTH if corrections == TIME else AS_PUBLISHED


def run_of(method: str, corrections: str, keep: str) -> str:
    """The spec that is run for a method with some corrections."""
    return spec(method, same(method, corrections), keep)


def own(corrections: str) -> list[str]:
    """The methods that have runs of their own with some corrections."""
    return [method for method in METHODS if same(method, corrections) == corrections]


def default(keep: str) -> str:
    """The recommended default at a budget."""
    return at(RECOMMENDED, keep)


def at_rate(hertz: float) -> str:
    """The recommended default at a rate."""
    return f"{OURS_BEST}@{round(hertz, 2):g}Hz{RECOMMENDED.removeprefix(OURS_BEST)}"


def short(run: str) -> str:
    """A spec without its budget."""
    return re.sub(r"@[^+]*", "", run)
