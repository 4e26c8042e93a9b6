"""The picture of what LoRA recovers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fewhertz import palette
from fewhertz.evaluation import curves

from ..grids.recovery import CONTROL, DIVISORS, METHODS, keep
from ..measured import Measured
from ..tasks import MAIN, MODEL, RECOVERY, SPEECH


def draw(measured: Measured, file: Path) -> Path:
    """The WER against Hz, training-free and after LoRA; each line from its own model at all tokens."""
    groups = measured.groups(RECOVERY, MAIN, tasks=SPEECH)
    panels, after = [], "after LoRA"
    for task in SPEECH:
        free = groups[task.label, MODEL]
        panel = curves.Group(task.label, MODEL)
        for method in METHODS:
            chosen = {keep(method, k) for k in DIVISORS}
            panel.runs += [one for one in free.runs if one.spec in chosen]
            panel.runs.append(dataclasses.replace(free.whole[0], spec=f"{method}@keep=1"))
            whole = groups[task.label, f"{MODEL}+{CONTROL.name}"].whole[0]
            panel.runs.append(dataclasses.replace(whole, spec=f"{method}@keep=1 {after}"))
            for k in DIVISORS:
                trained = groups[task.label, f"{MODEL}+{method}-{k}"]
                (one,) = [one for one in trained.runs if one.spec == keep(method, k)]
                panel.runs.append(dataclasses.replace(one, spec=f"{one.spec} {after}"))
        panel.runs.sort(key=lambda one: -one.rate)
        panels += curves.choose([panel])
    numbers = {f"{method} {after}": i for i, method in enumerate(METHODS)}
    numbers |= {method: i + len(palette.LINES) for i, method in enumerate(METHODS)}  # the same colours, dashed
    curves.plot(panels, numbers, file)
    return file
