"""The section of docs/research/fourth.md on what is lost after LoRA."""

from __future__ import annotations

from functools import partial

from fewhertz.evaluation.results import BASELINE

from .grids.fourth import FAR
from .grids.lora import CONTROLS, FIRST, LISTS, MAIN, REPEATED, STAR, THIRD
from .grids.recovery import CONTROL, SETTINGS, Trial
from .measured import Measured, adapter_run
from .tables import table
from .tasks import LORA, Asked

SEEDS = [trial for trial in REPEATED if trial.method == THIRD.method]
adapted = partial(adapter_run, part=LORA)


def ready(measured: Measured) -> bool:
    """Whether all that the section tells of has been measured."""
    trials = (*FIRST, *STAR, *REPEATED, *CONTROLS)
    return all(measured.there(task, adapted(trial)) for task in LISTS for trial in trials)


def parameters(measured: Measured, trial: Trial) -> int:
    """How many a trial trains."""
    return int(measured.packed.trainings(LORA)[trial.name]["parameters"])


def section(measured: Measured) -> str:
    """What is lost after LoRA, over an adapter that was trained with all tokens."""

    def cell(task: Asked, trial: Trial) -> str:
        other = BASELINE if trial is CONTROL else adapted(CONTROL)
        return f"{measured.number(task, adapted(trial))} ({measured.gain(task, adapted(trial), other).plain})"

    rows = [
        [f"`{trial.method}`" if trial is not CONTROL else "all tokens", *(cell(task, trial) for task in LISTS)]
        for trial in FIRST
    ]
    by_wer = sorted(STAR, key=lambda trial: measured.value(FAR, adapted(trial)))
    named = [
        f"{measured.number(FAR, adapted(one))} ({setting(one)}, {parameters(measured, one):,} parameters)"
        for one in (by_wer[0], by_wer[-1])
    ]
    seeds = ", ".join(measured.number(FAR, adapted(one)) for one in (THIRD, *SEEDS))
    controls = ", ".join(measured.number(FAR, adapted(one)) for one in CONTROLS)
    return "\n\n".join(
        [
            f"## After LoRA\n\n{SETTINGS['steps']} steps of {SETTINGS['batch_size']} (dev loss still fell), "
            f"r = {MAIN[0]}, α = {MAIN[1]}, queries and keys. In brackets the gain over the adapter "
            "of all tokens; its own, over none.",
            table(["", *(f"{task.name} ({task.unit})" for task in LISTS)], rows),
            f"`{THIRD.method}`, far sentences, over {len(STAR)} settings, one changed at a time: {named[0]} to "
            f"{named[1]}; seeds of the main one {seeds}, of all tokens {controls}.",
        ]
    )


def setting(trial: Trial) -> str:
    """Rank, alpha and what is adapted."""
    return "r = {rank}, α = {alpha}, {targets}".format(**trial.settings)
