"""docs/research/training-free.md and its pictures, from the results alone."""

from __future__ import annotations

from pathlib import Path

from fewhertz.evaluation.results import BASELINE
from fewhertz.method import RECOMMENDED

from ..grids import AS_PUBLISHED, CORRECTIONS, SIZES, TIME
from ..grids.training_free import KEEPS, METHODS, OURS_BEST, PUBLISHED, default, spec
from ..measured import Measured
from ..tables import listed
from ..tasks import DEV, PARAMETERS, SPEECH, STRINGS, TASKS
from . import choice, other_models, rivals, scores, targets

PAGE = """# Training-free: compression with corrections

{summary}

## What was measured

By `+time` a token stands at the mean position of what it stands for, by `+sizes` log s is added to the attention
logits of one that stands for s. Our `optimal` and `ward` cut the tokens into contiguous segments of least squared
distance to their means.

*Pocket*, {parameters} million parameters (third version, weights `{sha}`; the shipped one: [fourth.md](fourth.md)),
greedy: {tasks}. {methods} methods × {corrections} sets of corrections × keep {keeps}. Nothing was chosen on these
lists. Gains are paired, above 0 better, with 95 % bootstrap intervals over groups, not corrected for their number. A
large model may lean less on positions.

![Quality against audio tokens per second, as published and with corrections](training-free.png)

## Main targets, set before: points lost, or % of the score

{targets}

## Scores, as published → with corrections

{scores}

{rivals}

## How the default was chosen

{choice}

## Two more models

{models}

Made by `make reproduce`; `make training-free` and `make other-models` measure anew. After LoRA: [claims.md](claims.md).
"""


def summary(measured: Measured) -> str:
    """What it comes to."""

    def loses(run: str) -> str:
        return "; ".join(str(targets.lost(measured, task, run, "")) for task in SPEECH)

    whole = " / ".join(measured.number(task, BASELINE) for task in SPEECH)
    plain = spec(OURS_BEST, AS_PUBLISHED, "1/3")
    time, sizes = (
        "; ".join(measured.gain(task, spec(OURS_BEST, one, "1/3"), plain).plain for task in SPEECH)
        for one in (TIME, SIZES)
    )
    return listed(
        [
            f"At half of the tokens `{RECOMMENDED}` loses {loses(default('1/2'))} points of WER (word strings; "
            f"sentences; {whole} with all tokens), `pool` as published {loses(spec('pool', AS_PUBLISHED, '1/2'))}.",
            f"At a third {loses(default('1/3'))}: too few for sentences.",
            f"There `{OURS_BEST}` gains {time} by `+time`, {sizes} by `+sizes`.",
            f"Against {len(PUBLISHED)} published methods, each with its best corrections on the list itself, five "
            f"tasks and budgets: better/tied/worse {rivals.front(measured)[1]}.",
        ]
    )


def page(measured: Measured) -> str:
    """The text of docs/research/training-free.md."""
    tasks = [f"{task.rows} {task.name} ({task.unit.split(',')[0]} {measured.number(task, BASELINE)})" for task in TASKS]
    return PAGE.format(
        summary=summary(measured),
        parameters=PARAMETERS,
        sha=measured.run(STRINGS, BASELINE).record["weights_sha256"][:8],
        tasks=", ".join(tasks),
        methods=len(METHODS),
        corrections=len(CORRECTIONS),
        keeps=", ".join(KEEPS),
        targets=targets.section(measured),
        scores=scores.section(measured),
        rivals=rivals.section(measured),
        choice=choice.section(measured.of(DEV)),
        models=other_models.section(measured),
    )


def write(measured: Measured, docs: Path) -> list[Path]:
    """Write the page and its pictures; returns their files."""
    text = docs / "training-free.md"
    text.write_text(page(measured), "utf-8")
    return [text, scores.draw(measured, docs / "training-free.png")]
