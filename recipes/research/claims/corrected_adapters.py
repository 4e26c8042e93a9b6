"""Corrections when the LLM is trained: what they gain, in how many steps, and whether an adapter can do without."""

from __future__ import annotations

from fewhertz.evaluation.results import BASELINE

from ..grids import BOTH
from ..grids.recovery import (
    BY_ALL_TOKENS,
    COMBINED,
    CORRECTED,
    LADDER,
    LEARNED,
    LONG,
    LONGER,
    SETTINGS,
    SHORT,
    TRIALS,
    WARD,
    WITHOUT,
    keep,
    named,
    stem,
)
from ..measured import Measured, With
from ..tables import Claim, Gain, table, tally, verdict
from ..tasks import SPEECH, Asked
from .adapters import CONTROLLED, adapted, points, wer


def corrected(measured: Measured) -> Claim:
    rows, gains = [], []
    for trial in (*CORRECTED, *LEARNED, *COMBINED):
        plain = adapted(named(f"pool-{trial.name.rpartition('-')[2]}"))
        better = [measured.gain(task, adapted(trial), plain) for task in SPEECH]
        gains += better
        free = wer(measured, trial.method) if trial in CORRECTED else "–"
        above = (points(measured.gain(task, adapted(trial), CONTROLLED)) for task in SPEECH)
        rows.append([f"`{trial.method}`", free, wer(measured, adapted(trial)), *better, *above])
    heads = ["strings / sentences", "training-free", "after LoRA"]
    heads += [f"over `pool` after LoRA, {task.name}" for task in SPEECH]
    heads += [f"WER points above the control, {task.name}" for task in SPEECH]
    return Claim(
        "Once the LLM is trained, corrections still help, and so does a learned compressor",
        f"our own (`{BOTH}`; `conv`, a learned strided convolution)",
        f"over plain `pool` after LoRA, at ×2 and ×3: {tally(gains)}",
        verdict(gains),
        table(heads, rows) + "\n\n`conv` untrained is `pool`. The last two rows put together what did best alone: "
        "`conv`, with corrections, all linear layers, distilled (`combined`). That choice was made when the test "
        "figures of the parts were known; dev losses speak for `conv` and for all layers too. The control had fewer "
        "numbers to train.",
    )


def _after(method: str, steps: int) -> str | With | None:
    """The run of a method at ×3 after so many steps, where there is one."""
    if steps == 0:
        return keep(method, 3)
    name = stem(method) if steps == SETTINGS["steps"] else f"{stem(method)}-{steps}"
    return next((adapted(trial) for trial in TRIALS if trial.name == name), None)


def fewer(measured: Measured) -> Claim:
    usual = SETTINGS["steps"]
    steps = (0, *SHORT, usual, LONG)
    whole: dict[int, str | With] = {0: BASELINE, usual: CONTROLLED, LONG: adapted(LONGER[0], BASELINE)}
    rows = [["all tokens", *(wer(measured, whole[n]) if n in whole else "–" for n in steps)]]
    for method in LADDER:
        rows.append([f"`{method}`", *(wer(measured, one) if (one := _after(method, n)) else "–" for n in steps)])

    def gain(task: Asked, one: str, other: str, steps: int, others: int) -> Gain | str:
        a, b = _after(one, steps), _after(other, others)
        return measured.gain(task, a, b) if a and b else "–"

    over, sooner = [], []
    equally: list[Gain | str] = []
    early: list[Gain | str] = []
    floor: list[Gain | str] = []
    for one, other in ((f"pool{BOTH}", "pool"), (f"ward{BOTH}", "ward"), (f"ward{BOTH}", "pool")):
        for task in SPEECH:
            gains = [gain(task, one, other, n, n) for n in steps]
            over.append([f"`{one}` over `{other}`, {task.name}", *gains])
            if one.startswith(other):
                equally += gains[1:]
                soon = [gain(task, one, other, SHORT[0], n) for n in (SHORT[1], usual)]
                sooner.append([f"`{one}` after {SHORT[0]} steps over `{other}`, {task.name}", *soon])
                early += soon
            floor.append(gains[-1])
    alike, sooner_all, low = ([one for one in some if isinstance(one, Gain)] for some in (equally, early, floor))
    heads = ["steps", *(str(n) for n in steps)]
    return Claim(
        "With corrections LoRA recovers in fewer steps, and to a lower floor",
        "our own question",
        f"`pool` and `ward` at ×3, with corrections over as published, after equally many steps: {tally(alike)}; "
        f"with them after {SHORT[0]} over as published after {SHORT[1]} and {usual}: {tally(sooner_all)}; "
        f"either, with them, over `pool` as published after {LONG}: {tally(low)}",
        f"better after equally many: {verdict(alike)}; better after fewer: {verdict(sooner_all)}; a lower floor: "
        f"{verdict(low)}",
        "WER, strings / sentences, at keep=1/3; each number of steps is a training with a schedule of its own.\n\n"
        f"{table(heads, rows)}\n\n{table(['gain after steps', *heads[1:]], over)}\n\n"
        + table(["gain", f"after {SHORT[1]}", f"after {usual}"], sooner),
    )


def without(measured: Measured) -> Claim:
    rows, as_well, back = [], [], []
    for k, trial in zip((2, 3), WITHOUT, strict=True):
        plain, teacher = keep("ward", k), keep(f"ward{BOTH}", k)
        as_well += [measured.gain(task, adapted(trial), teacher) for task in SPEECH]
        back += [measured.gain(task, adapted(trial), plain) for task in SPEECH]
        several: list[tuple[str, str | With]] = [
            (f"`{plain}`, no adapter", plain),
            (f"`{teacher}`, no adapter: the teacher", teacher),
            (f"`{plain}`, taught by it", adapted(trial)),
        ]
        if k == 3:
            several.append((f"`{plain}`, taught by all tokens", adapted(BY_ALL_TOKENS)))
            several.append((f"`{plain}`, from labels", adapted(WARD)))
        for label, spec in several:
            one = [measured.gain(task, spec, teacher) if spec != teacher else "–" for task in SPEECH]
            rows.append([label, wer(measured, spec), *one])
    both = [measured.gain(task, adapted(WITHOUT[1]), adapted(BY_ALL_TOKENS)) for task in SPEECH]
    return Claim(
        "Corrections can be distilled into an adapter, so that packed, unweighted tokens do as well",
        "our own question, for engines that have no corrections",
        f"`ward` packed, its adapter taught by `ward{BOTH}`, over that teacher, ×2 and ×3: "
        f"{tally(as_well)}; over no adapter: {tally(back)}; over an adapter that all tokens taught, ×3: "
        f"{tally(both)}",
        f"better than the teacher: {verdict(as_well)}; than no adapter: {verdict(back)}; than one that all "
        f"tokens taught: {verdict(both)}",
        table(["", "strings / sentences", *(f"over the teacher, {t.name}" for t in SPEECH)], rows)
        + "\n\nLabels are read for the last row alone. All were trained for as many steps as the other adapters.",
    )
