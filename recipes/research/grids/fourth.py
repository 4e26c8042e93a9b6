"""The runs of docs/research/fourth.md: pocket's fourth version on the lists that were made for it."""

from __future__ import annotations

from dataclasses import replace

from fewhertz.evaluation.results import BASELINE
from fewhertz.evaluation.runner import specs

from ..tasks import ANSWERS, GERMAN, SOUNDS, STRINGS, Asked
from . import BOTH

FAR = Asked("far-new-voices-test", 100, "wer", "far sentences", "WER, %")
PASSAGES = Asked("passages-test", 30, "wer", "passages", "WER, %")
PAUSES = Asked("pauses-test", 30, "wer", "passages, half silence", "WER, %")
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
ENCODER = "ward(site=encoder.3)"  # before layer 3 of 6, by frames
OURS = f"ward{BOTH}"

# what explains the loss: the same sentences by the same voices at three paces, and with as much silence inside
PACES = tuple(Asked(f"pace-{n}-test", 100, "wer", f"{n} words a minute", "WER, %") for n in (110, 150, 190))
SILENT = {replace(one, label=f"silent-{one.label}", name=f"{one.name}, half silence"): one for one in PACES}
TRIED = (*PACES, *SILENT)
SENTENCES = (FAR, PASSAGES, PAUSES, *TRIED)
COMPARED = ("pool", "ward", OURS)
SHARES = ("2/3", *KEEPS)


def priced(tolerance: str) -> str:
    """A run under a tolerance."""
    return f"ward@tolerance={tolerance}{BOTH}"


def grid(task: Asked) -> list[str]:
    """The runs of a list, as specs, the baseline first."""
    if task in TRIED:
        return [*specs(COMPARED, SHARES if task in PACES else ("1/2",)), priced(CHOSEN)]
    runs = specs([f"{method}{corrections}" for method in METHODS for corrections in ("", BOTH)], KEEPS)
    runs += [*map(priced, TOLERANCES), *specs([f"{ENCODER}{BOTH}"], KEEPS), *specs([OURS], ("2/3", "1/4"))]
    return list(dict.fromkeys([BASELINE, *runs]))
