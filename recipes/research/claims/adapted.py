"""The claims on LoRA adapters: what they recover, what they are trained on and with, and corrections beside them."""

from __future__ import annotations

from ..grids import BOTH
from ..grids.recovery import (
    COMBINED,
    CORRECTED,
    DISTILLED,
    DIVISORS,
    FRENCH_THIRD,
    LEARNED,
    LONG,
    RANGE,
    SETTINGS,
    SHAPES,
    SHORT,
    THIRD,
    TRIALS,
    WITHOUT,
    keep,
    named,
    stem,
)
from ..measured import Measured, With
from ..tables import Claim, Gain, at_most, counts, verdict
from ..tasks import ANSWERS, FRENCH, GERMAN, SOUNDS, SPEECH
from .adapters import ADAPTED, AVERAGING, CONTROLLED, OURS, adapted, both, over, points, shown


def recovered(measured: Measured) -> Claim:
    said, held = [], {task: dict[str, list[str]]() for task in SPEECH}
    for k, limit in ((2, 1.0), (3, 1.5)):
        gains = over(measured, adapted(named(f"pool-{k}")), CONTROLLED)
        said.append(f"at 1/{k} {'; '.join(map(points, gains))}")
        for task, gain in zip(SPEECH, gains, strict=True):
            held[task].setdefault(at_most(-gain.high, -gain.low, limit), []).append(f"1/{k}")
    ratios = []
    for task in SPEECH:
        last, whole = measured.score(task, adapted(named("pool-6"))), measured.value(task, CONTROLLED)
        value, low, high = (end / whole for end in last)
        ratios.append(f"{value:.1f} [{low:.1f}, {high:.1f}]")
        held[task].setdefault(at_most(low, high, 2), []).append("1/6")
    return Claim(
        "After LoRA 1/2 costs under 1 point of WER, 1/3 at most 1.5, 1/6 doubles it",
        AVERAGING,
        f"`pool`, points above the control: {', '.join(said)}; at 1/6 times it: {'; '.join(ratios)}",
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
        trial.name: over(measured, adapted(trial), adapted(named(f"pool-{trial.name.rpartition('-')[2]}")))
        for trial in (*CORRECTED, *LEARNED, *COMBINED)
    }
    every = [gain for some in gains.values() for gain in some]
    return Claim(
        "After LoRA, corrections and a learned compressor still help",
        OURS,
        f"over plain `pool`, 1/2 and 1/3: {counts(every)}; at 1/3 `conv` {shown(gains['conv-3'])}",
        verdict(every),
    )


def shapes(measured: Measured) -> Claim:
    base = adapted(named("pool-3"))
    gains = [gain for trial in SHAPES for gain in over(measured, adapted(trial), base)]
    return Claim(
        "Another LoRA is better than r = 16, α = 32 on queries and keys",
        OURS,
        f"{len(SHAPES)} others, `pool` at 1/3: {counts(gains)}; all linear layers "
        f"{both(measured, adapted(named('pool-3-all')), base)}",
        verdict(gains),
    )


def languages(measured: Measured) -> Claim:
    french = adapted(FRENCH_THIRD)
    to_french, to_english = measured.gain(FRENCH, ADAPTED, THIRD), over(measured, french, THIRD)
    return Claim(
        "An adapter trained on one language serves another",
        f"asked by {AVERAGING}",
        f"over none, `pool` at 1/3: English adapter on French {to_french.plain} (WER "
        f"{measured.value(FRENCH, THIRD):.1f} % without); French adapter on English {shown(to_english)}",
        verdict([to_french, *to_english]),
    )


def tasks(measured: Measured) -> Claim:
    gains = {task: measured.gain(task, ADAPTED, THIRD) for task in (GERMAN, SOUNDS, ANSWERS)}
    some = [one.sign > 0 for one in gains.values()]
    return Claim(
        "An adapter of speech recognition does not transfer to other tasks",
        AVERAGING,
        "over none, `pool` at 1/3: " + ", ".join(f"{task.name} {gain.plain}" for task, gain in gains.items()),
        "**does not hold**: it helps there" if all(some) else "**holds in part**" if any(some) else "**holds**",
    )


def objectives(measured: Measured) -> Claim:
    base, distilled = adapted(named("pool-3")), adapted(DISTILLED)
    return Claim(
        "Adapters need no labels: matching the uncompressed model does as well",
        OURS,
        f"`pool` at 1/3, over labels: {both(measured, distilled, base)}",
        f"better: {verdict(over(measured, distilled, base))}",
    )


def ranges(measured: Measured) -> Claim:
    gains = [
        gain for k in DIVISORS for gain in over(measured, adapted(RANGE, keep("pool", k)), adapted(named(f"pool-{k}")))
    ]
    return Claim(
        "One adapter for 1/2 to 1/6 does as well as one each",
        OURS,
        f"`pool`, equal steps: {counts(gains)}",
        verdict(gains),
    )


def _after(method: str, steps: int) -> With | None:
    """The run of a method at ×3 after so many steps, where there is one."""
    name = stem(method) if steps == SETTINGS["steps"] else f"{stem(method)}-{steps}"
    return next((adapted(trial) for trial in TRIALS if trial.name == name), None)


def fewer(measured: Measured) -> Claim:
    usual = SETTINGS["steps"]

    def gains(one: str, other: str, *pairs: tuple[int, int]) -> list[Gain]:
        runs = [(_after(f"{one}{BOTH}", steps), _after(other, others)) for steps, others in pairs]
        return [gain for a, b in runs if a and b for gain in over(measured, a, b)]

    methods = ("pool", "ward")
    equally = [gain for one in methods for gain in gains(one, one, *((n, n) for n in (*SHORT, usual, LONG)))]
    early = [gain for one in methods for gain in gains(one, one, *((SHORT[0], n) for n in (SHORT[1], usual)))]
    floor = [gain for one in methods for gain in gains(one, "pool", (LONG, LONG))]
    return Claim(
        "With corrections LoRA needs fewer steps, and ends lower",
        OURS,
        f"`pool`, `ward` at 1/3, over as published, equal steps: {counts(equally)}; {SHORT[0]} over {SHORT[1]} or "
        f"{usual}: {counts(early)}; {LONG}, over `pool`: {counts(floor)}",
        f"equal steps: {verdict(equally)}; fewer: {verdict(early)}; lower: {verdict(floor)}",
    )


def without(measured: Measured) -> Claim:
    pairs = [
        (keep("ward", k), keep(f"ward{BOTH}", k), adapted(trial)) for k, trial in zip((2, 3), WITHOUT, strict=True)
    ]
    as_well = [over(measured, trained, teacher) for _, teacher, trained in pairs]
    back = [gain for plain, _, trained in pairs for gain in over(measured, trained, plain)]
    half, third = (shown(some) for some in as_well)
    return Claim(
        "An adapter can learn to do without corrections, taught by them",
        OURS,
        f"`ward` over its teacher `ward{BOTH}`: at 1/2 {half}, at 1/3 {third}",
        f"better than none: {verdict(back)}; than the teacher: {verdict([one for some in as_well for one in some])}",
    )


ADAPTED_CLAIMS = (recovered, corrected, shapes, languages, tasks, objectives, ranges, fewer, without)
