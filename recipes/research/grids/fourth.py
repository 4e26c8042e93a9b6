"""The runs of docs/research/fourth.md: pocket's fourth version on the lists that were made for it."""

from __future__ import annotations

from dataclasses import replace

from fewhertz.evaluation.runner import specs

from ..tasks import ANSWERS, GERMAN, SOUNDS, STRINGS, Asked
from . import BOTH

FAR = Asked("far-new-voices-test", 100, "wer", "far sentences, new voices", "WER, %")
PASSAGES = Asked("passages-test", 30, "wer", "passages of 20–30 s", "WER, %")
PAUSES = Asked("pauses-test", 30, "wer", "passages, half of them silence", "WER, %")
DIGITS = Asked("digits-test", 100, "wer", "digit strings", "WER, %")
GERMAN_4, SOUNDS_4, ANSWERS_4, STRINGS_4 = (
    replace(task, rows=rows) for task, rows in ((GERMAN, 100), (SOUNDS, 100), (ANSWERS, 100), (STRINGS, 100))
)
LISTS = (FAR, PASSAGES, PAUSES, STRINGS_4, DIGITS, GERMAN_4, SOUNDS_4, ANSWERS_4)
LONGEST = {PASSAGES: 192, PAUSES: 192}  # new tokens; 64 of other lists
METHODS = ("pool", "segment", "ltbm", "segmentwise", "a-tome", "fastadasp", "ward")
KEEPS = ("1/2", "1/3")
TOLERANCES = ("0.2", "0.3", "0.4", "0.5")
CHOSEN = "0.3"
ENCODER = "ward(site=encoder.3)"  # before layer 3 of 5, by frames


def priced(tolerance: str) -> str:
    """A run under a tolerance."""
    return f"ward@tolerance={tolerance}{BOTH}"


def grid() -> list[str]:
    """The runs of a list, as specs."""
    runs = specs([f"{method}{corrections}" for method in METHODS for corrections in ("", BOTH)], KEEPS)
    runs += [*map(priced, TOLERANCES), *specs(["random", f"{ENCODER}{BOTH}"], KEEPS)]
    runs += [*specs([f"ward{BOTH}"], ("2/3", "1/4")), f"affinity(threshold=0.9){BOTH}", f"unseg{BOTH}"]
    return list(dict.fromkeys(runs))
