"""The claims on LoRA adapters: what they recover, what they are trained on and with, and corrections beside them."""

from __future__ import annotations

from ..grids import BOTH
from ..grids.lora import (
    CORRECTED,
    DISTILLED,
    DIVISORS,
    EARLY,
    ELSEWHERE,
    GRID,
    HALF,
    LADDER,
    LEARNED,
    LONG,
    LONG_CONTROL,
    LONG_DIVISORS,
    POOLED,
    RANGE,
    SETTINGS,
    SHORT,
    THIRD,
    UNCORRECTED,
    WARD,
    WITHOUT,
    keep,
)
from ..grids.training_free import SPEECH
from ..measured import Measured, adapter_run
from ..tables import Claim, Gain, at_most, counts, verdict
from .shared import AVERAGING, OURS, over, points, shown

PLAIN = dict(zip(DIVISORS, (HALF, THIRD), strict=True))  # `pool`, after the steps of `SETTINGS`
ADAPTED = adapter_run(THIRD)


def recovered(measured: Measured) -> Claim:
    said, held = [], {task: dict[str, list[str]]() for task in SPEECH}
    after, control = dict(zip(LONG_DIVISORS, map(adapter_run, LADDER["pool"]), strict=True)), adapter_run(LONG_CONTROL)
    for k, limit in ((2, 1.0), (3, 1.5)):
        gains = over(measured, after[k], control)
        said.append(f"at 1/{k} {'; '.join(map(points, gains))}")
        for task, gain in zip(SPEECH, gains, strict=True):
            held[task].setdefault(at_most(-gain.high, -gain.low, limit), []).append(f"1/{k}")
    ratios = []
    for task in SPEECH:
        last, whole = measured.score(task, after[6]), measured.value(task, control)
        value, low, high = (end / whole for end in last)
        ratios.append(f"{value:.1f} [{low:.1f}, {high:.1f}]")
        held[task].setdefault(at_most(low, high, 2), []).append("1/6")
    return Claim(
        "After LoRA 1/2 costs under 1 point of WER, 1/3 at most 1.5, 1/6 doubles it",
        AVERAGING,
        f"`pool`, {LONG} steps, points above the control: {', '.join(said)}; at 1/6 times it: {'; '.join(ratios)}",
        "; ".join(
            f"{task.name} "
            + ", ".join(
                f"**{what}**" + (f" at {', '.join(keeps)}" if len(held[task]) > 1 else "")
                for what, keeps in held[task].items()
            )
            for task in SPEECH
        ),
    )


def corrected(measured: Measured) -> Claim:
    gains = {
        trial.name: over(measured, adapter_run(trial), adapter_run(PLAIN[k]))
        for trials in (POOLED, CORRECTED, LEARNED)
        for k, trial in zip(DIVISORS, trials, strict=True)
    }
    every = [gain for some in gains.values() for gain in some]
    return Claim(
        "After LoRA, corrections and a learned compressor still help",
        OURS,
        f"over plain `pool`, 1/2 and 1/3: {counts(every)}; at 1/3 `{WARD}` {shown(gains[CORRECTED[1].name])}, `conv` "
        f"{shown(gains[LEARNED[1].name])}",
        verdict(every),
    )


def shapes(measured: Measured) -> Claim:
    others = [trial for trial in GRID if trial not in PLAIN.values()]
    base = {trial.method: adapter_run(trial) for trial in PLAIN.values()}
    gains = [gain for trial in others for gain in over(measured, adapter_run(trial), base[trial.method])]
    return Claim(
        "Another LoRA is better than r = 16, α = 32 on queries and keys",
        OURS,
        f"{len(others)} others, `pool` at 1/2 and 1/3: {counts(gains)} ([lora.md](lora.md))",
        verdict(gains),
    )


def languages(_: Measured) -> Claim:
    return Claim(
        "An adapter trained on one language serves another",
        f"asked by {AVERAGING}",
        "this pocket writes 1 language (translation: claim 15)",
        "**not measured**",
    )


def tasks(measured: Measured) -> Claim:
    gains = {task: measured.gain(task, ADAPTED, THIRD.method) for task in ELSEWHERE}
    better = sum(one.sign > 0 for one in gains.values())
    return Claim(
        "An adapter of speech recognition does not transfer to other tasks",
        AVERAGING,
        "over none, `pool` at 1/3: " + ", ".join(f"{task.name} {gain.plain}" for task, gain in gains.items()),
        "**does not hold**: it helps there"
        if better == len(gains)
        else "**holds in part**"
        if better
        else "**holds**: it helps none",
    )


def objectives(measured: Measured) -> Claim:
    gains = over(measured, adapter_run(DISTILLED), ADAPTED)
    return Claim(
        "Adapters need no labels: matching the uncompressed model does as well",
        OURS,
        f"`pool` at 1/3, over labels: {shown(gains)}",
        f"better: {verdict(gains)}",
    )


def ranges(measured: Measured) -> Claim:
    gains = [
        gain
        for k, trial in PLAIN.items()
        for gain in over(measured, adapter_run(RANGE, spec=keep("pool", k)), adapter_run(trial))
    ]
    return Claim(
        "One adapter for 1/2 and 1/3 does as well as one each",
        OURS,
        f"`pool`, equal steps: {counts(gains)}",
        verdict(gains),
    )


def fewer(measured: Measured) -> Claim:
    usual = SETTINGS["steps"]
    ended = {"pool": THIRD, f"pool{BOTH}": POOLED[1], "ward": UNCORRECTED, WARD: CORRECTED[1]}
    after = {one: dict(zip((*SHORT, usual), [*EARLY[one], ended[one]], strict=True)) for one in EARLY}

    def gains(method: str, *pairs: tuple[int, int]) -> list[Gain]:
        trials = [(after[f"{method}{BOTH}"][steps], after[method][others]) for steps, others in pairs]
        return [gain for a, b in trials for gain in over(measured, adapter_run(a), adapter_run(b))]

    methods = ("pool", "ward")
    equally = [gain for one in methods for gain in gains(one, *((n, n) for n in (*SHORT, usual)))]
    early = [gain for one in methods for gain in gains(one, *((SHORT[0], n) for n in (SHORT[1], usual)))]
    third = LONG_DIVISORS.index(3)
    floor = over(measured, adapter_run(LADDER[WARD][third]), adapter_run(LADDER["pool"][third]))
    return Claim(
        "With corrections LoRA needs fewer steps, and ends lower",
        OURS,
        f"`pool`, `ward` at 1/3, over as published, equal steps: {counts(equally)}; {SHORT[0]} over {SHORT[1]} or "
        f"{usual}: {counts(early)}; {LONG}, `{WARD}` over `pool`: {shown(floor)}",
        f"equal steps: {verdict(equally)}; fewer: {verdict(early)}; lower: {verdict(floor)}",
    )


def without(measured: Measured) -> Claim:
    trained = adapter_run(WITHOUT)
    as_well, back = (over(measured, trained, other) for other in (keep(WARD, 3), keep("ward", 3)))
    return Claim(
        "An adapter can learn to do without corrections, taught by them",
        OURS,
        f"`ward` at 1/3 over its teacher `{WARD}`: {shown(as_well)}",
        f"better than none: {verdict(back)}; than the teacher: {verdict(as_well)}",
    )


ADAPTED_CLAIMS = (recovered, corrected, shapes, languages, tasks, objectives, ranges, fewer, without)
