"""What the default loses, against targets that were set before it was measured."""

from __future__ import annotations

from dataclasses import dataclass

from fewhertz.evaluation.metrics import METRICS, paired
from fewhertz.evaluation.results import BASELINE
from fewhertz.method import RECOMMENDED

from ..grids import AS_PUBLISHED
from ..grids.training_free import default, spec
from ..measured import Measured
from ..tables import Claim, signed, table
from ..tasks import ANSWERS, DRAWS, GERMAN, SOUNDS, SPEECH, Asked
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
        return f"{signed(self.value, self.low, self.high, digits)} {self.unit}"


def lost(
    measured: Measured, task: Asked, run: str, unit: str, relative: bool = False, over: str = BASELINE
) -> Loss | None:
    """What a run loses against another, all tokens mostly: in units of the metric, or in % of that one's score."""
    if not measured.there(task, run, over):
        return None
    one, scale = measured.gain(task, run, over), 1.0
    if relative:
        scale = 100 / measured.value(task, over)
    return Loss(-one.value * scale, -one.high * scale, -one.low * scale, unit)


def quarter(measured: Measured, task: Asked, keep: str) -> Loss | None:
    """What the default loses over a quarter of what `pool` as published loses; at most 0 meets the target.

    The reference words of a sample are the same in all runs, so a quarter of one rate and three quarters of another
    are the rate of errors mixed alike, and one paired bootstrap redraws all three.
    """
    ours, pool = default(keep), spec("pool", AS_PUBLISHED, keep)
    if not measured.there(task, ours, pool):
        return None
    (one, groups), (base, _), (other, _) = (
        measured.run(task, run).stats(task.metric) for run in (ours, BASELINE, pool)
    )
    return Loss(*paired(METRICS[task.metric], one, 0.25 * other + 0.75 * base, groups, DRAWS), "WER")


def section(measured: Measured) -> str:
    """A section in Markdown."""
    rows = []

    def row(what: str, loss: Loss | None, target: float, stretch: float, text: str) -> None:
        verdicts = ["–", "–"] if loss is None else [loss.verdict(target), loss.verdict(stretch)]
        rows.append([what, text, "not run yet" if loss is None else loss, *verdicts])

    for keep, target, stretch in (("1/3", 2.0, 0.5), ("1/2", 1.0, 0.2)):
        for task in SPEECH:
            loss = lost(measured, task, default(keep), "WER")
            row(f"{task.name}, keep={keep}: lost", loss, target, stretch, f"≤ +{target} (+{stretch})")
            if keep == "1/3":
                loss = quarter(measured, task, keep)
                held = "–" if loss is None else loss.verdict(0)
                what = f"{task.name}, keep={keep}: lost over ¼ of what `pool` as published loses"
                rows.append([what, "≤ 0", loss or "not run yet", held, ""])
    loss = lost(measured, GERMAN, default("1/3"), "BLEU")
    row(f"{GERMAN.name}, keep=1/3: lost", loss, 1, 0, "≤ 1 (no loss)")
    for task, target in ((SOUNDS, 1.0), (ANSWERS, 2.0)):
        loss = lost(measured, task, default("1/4"), "%", relative=True)
        row(f"{task.name}, keep=1/4: lost of the score", loss, target, 0, f"≤ {target:g} % (no loss)")
    held, short = front(measured)
    rows.append(["every published method at its best, every keep", "best or tied", short, held, ""])
    return table(["", "target (stretch)", "measured [95 %]", "target", "stretch"], rows)


def claim(measured: Measured) -> Claim:
    """The last claim of docs/research/claims.md."""
    losses = [
        (f"{task.name} at {keep}", loss, target)
        for keep, target in (("1/2", 1.0), ("1/3", 2.0))
        for task in SPEECH
        if (loss := lost(measured, task, default(keep), "WER"))
    ]
    return Claim(
        "Audio tokens can be compressed without any training, at next to no cost",
        "the open question of arXiv 2511.20973; the answer is our own",
        f"`{RECOMMENDED}` loses " + ", ".join(f"{loss} ({what})" for what, loss, _ in losses),
        "our targets of +1 and +2: " + ", ".join(f"{what} {loss.verdict(target)}" for what, loss, target in losses),
        "All targets. [training-free.md](training-free.md) has the grid, and how many letters a token can carry.\n\n"
        + section(measured),
    )
