"""What the default loses, against targets that were set before it was measured."""

from __future__ import annotations

from dataclasses import dataclass

from fewhertz.evaluation.results import BASELINE
from fewhertz.method import RECOMMENDED

from ..grids.training_free import default
from ..measured import Measured, With
from ..tables import Claim, arxiv, listed, signed
from ..tasks import ANSWERS, GERMAN, SOUNDS, SPEECH, Asked
from .rivals import front


@dataclass(frozen=True)
class Loss:
    """What is lost, with its 95 % interval."""

    value: float
    low: float
    high: float
    unit: str

    def verdict(self, target: float) -> str:
        return "**met**" if self.high <= target else "**missed**" if self.low > target else "inconclusive"

    def __str__(self) -> str:
        digits = 2 if self.unit == "BLEU" else 1
        return f"{signed(self.value, self.low, self.high, digits)} {self.unit}".rstrip()


def lost(
    measured: Measured,
    task: Asked,
    run: str | With,
    unit: str,
    relative: bool = False,
    over: str | With = BASELINE,
) -> Loss:
    """What a run loses against another, all tokens mostly: in units of the metric, or in % of that one's score."""
    one = measured.gain(task, run, over)
    scale = 100 / measured.value(task, over) if relative else 1.0
    return Loss(-one.value * scale, -one.high * scale, -one.low * scale, unit)


def section(measured: Measured) -> str:
    """Each target, what was measured, and the verdict; those of speech are a claim."""
    found = [(f"{GERMAN.name} at 1/3", 1.0, lost(measured, GERMAN, default("1/3"), "BLEU"))]
    found += [
        (f"{task.name} at 1/4", target, lost(measured, task, default("1/4"), "%", relative=True))
        for task, target in ((SOUNDS, 1.0), (ANSWERS, 2.0))
    ]
    rows = [f"{what}, at most {target:g}: {loss}, {loss.verdict(target)}" for what, target, loss in found]
    speech = f"{' and '.join(task.name for task in SPEECH)} at 1/2 and 1/3: the last of [the claims](claims.md)"
    return listed([speech, *rows, f"no published method clearly better at any keep: {front(measured)[0]}"])


def claim(measured: Measured) -> Claim:
    """The last claim of docs/research/claims.md."""
    shown, verdicts = [], []
    for keep, target in (("1/2", 1.0), ("1/3", 2.0)):
        some = [lost(measured, task, default(keep), "WER") for task in SPEECH]
        shown.append(f"at {keep} {'; '.join(str(loss).removesuffix(' WER') for loss in some)} (target +{target:g})")
        verdicts.append(f"at {keep} {'; '.join(loss.verdict(target) for loss in some)}")
    return Claim(
        "Without training, compression costs next to nothing",
        f"asked by {arxiv('2511.20973')}",
        f"WER lost by `{RECOMMENDED}`: {', '.join(shown)}",
        ", ".join(verdicts),
    )
