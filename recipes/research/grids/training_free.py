"""The grid: methods × budgets × corrections, on which training-free.md, claims.md and tolerance.md rest."""

from __future__ import annotations

from dataclasses import replace

from fewhertz.evaluation.results import BASELINE
from fewhertz.evaluation.runner import specs
from fewhertz.method import RECOMMENDED

from ..tasks import ANSWERS, GERMAN, SOUNDS, STRINGS, Asked
from . import AS_PUBLISHED, BOTH, SIZES, TIME

FAR = Asked("far-new-voices-test", 100, "wer", "far sentences", "WER, %")
PASSAGES = Asked("passages-test", 30, "wer", "passages", "WER, %")
PAUSES = Asked("pauses-test", 30, "wer", "passages, half silence", "WER, %")
DIGITS = Asked("digits-test", 100, "wer", "digit strings", "WER, %")
LISTS = (FAR, PASSAGES, PAUSES, STRINGS, DIGITS, GERMAN, SOUNDS, ANSWERS)
FIVE = (FAR, STRINGS, GERMAN, SOUNDS, ANSWERS)  # under every method and keep
SPEECH, SPOKEN = (FAR, STRINGS), (FAR, STRINGS, GERMAN)
LONGEST = {PASSAGES: 192, PAUSES: 192}  # new tokens; 64 of other lists
OURS_BEST = RECOMMENDED.partition("+")[0]
OURS = f"{OURS_BEST}{BOTH}"
PUBLISHED = (
    *("pool", "stride", "segment", "ltbm", "global-merge", "segmentwise", "topk", "random", "visionzip"),
    *("a-tome", "fastadasp", "sa-map", "cdpruner"),
)
METHODS = (*PUBLISHED, "optimal", OURS_BEST)
KEEPS = ("1/2", "1/3")
ALL_KEEPS = ("2/3", *KEEPS, "1/4", "1/6")  # of `FIVE`
CHOSEN = "0.3"
TOLERANCES = ("0.2", CHOSEN, "0.4", "0.5", "0.6")
MEL = ("0.2", CHOSEN, "0.45")  # of a count that is decided on the log-mel
AFFINITY = ("0.95", "0.9", "0.8")
ENCODER = "ward(site=encoder.3)"  # before layer 3 of 6, by frames
HALVES = ("pool", "ward")  # with `+time` alone and `+sizes` alone

# of the claims alone
SEGMENTS, A_QUARTER = (2, 5, 10, 15), "1/4"
SITES = ("pool", "segment", "ltbm")
WORST = "bottomk"
UNSEG = "unseg"  # what it keeps depends on the sound: others are measured at the rate that it has

# what explains the loss: the same sentences by the same voices at three paces, and with as much silence inside
PACES = tuple(Asked(f"pace-{n}-test", 100, "wer", f"{n} words a minute", "WER, %") for n in (110, 150, 190))
SILENT = {replace(one, label=f"silent-{one.label}", name=f"{one.name}, half silence"): one for one in PACES}
TRIED = (*PACES, *SILENT)
SENTENCES = (FAR, PASSAGES, PAUSES, *TRIED)
COMPARED = ("pool", "ward", OURS)
SHARES = ALL_KEEPS[:3]


def priced(tolerance: str, method: str = OURS_BEST) -> str:
    """A run under a tolerance, with corrections."""
    return f"{method}@tolerance={tolerance}{BOTH}"


def mel(tolerance: str) -> str:
    """A run whose count is decided on the log-mel."""
    return priced(tolerance, "ward(count=mel)")


def affinity(threshold: str) -> str:
    """A run of the published method of variable length, with corrections."""
    return f"affinity{'' if threshold == '0.8' else f'(threshold={threshold})'}{BOTH}"


def segments(count: int) -> str:
    """`segmentwise` with a number of segments; ten are its default."""
    return "segmentwise" if count == 10 else f"segmentwise(segments={count})"


# runs of variable length, and the method that is measured at the rate that each was found to have
MATCHED = {UNSEG: "pool", f"{UNSEG}{BOTH}": f"pool{BOTH}"} | {affinity(one): OURS for one in AFFINITY}


def at_its_rate(run: str, hertz: float) -> str:
    """What is measured beside a run of variable length, at the rate that it was found to have."""
    name, plus, corrections = MATCHED[run].partition("+")
    return f"{name}@{round(hertz, 2):g}Hz{plus}{corrections}"


def keeps(task: Asked) -> tuple[str, ...]:
    """At which the methods are measured on a list."""
    return ALL_KEEPS if task in FIVE else KEEPS


def of_others() -> list[str]:
    """The runs of paces and silence by models that are not the shipped one."""
    return [*specs([OURS], KEEPS), priced(CHOSEN)]


def grid(task: Asked) -> list[str]:
    """The runs of a list, as specs, the baseline first; those of `MATCHED` come behind them."""
    if task in TRIED:
        return [*specs(COMPARED, SHARES if task in PACES else KEEPS), priced(CHOSEN)]
    every = [f"{method}{corrections}" for method in METHODS for corrections in (AS_PUBLISHED, BOTH)]
    runs = specs(every, keeps(task))
    runs += [*map(priced, TOLERANCES), *specs([f"{ENCODER}{BOTH}"], KEEPS), *specs([OURS], ("2/3", "1/4"))]
    runs += [priced(CHOSEN, "optimal"), *map(mel, MEL), *map(affinity, AFFINITY)]
    if task in FIVE:
        runs += [UNSEG, f"{UNSEG}{BOTH}", *specs([WORST], ("1/2", A_QUARTER))]
        runs += specs([segments(count) for count in SEGMENTS], [A_QUARTER])
        runs += specs([f"{name}(site=encoder)" for name in SITES], KEEPS)
    if task in SPEECH:
        runs += specs([f"{method}{half}" for method in HALVES for half in (TIME, SIZES)], KEEPS)
    return list(dict.fromkeys([BASELINE, *runs]))
