"""docs/research/flex.md: what a model gains that is trained at random rates, from the results alone."""

from __future__ import annotations

from pathlib import Path

from fewhertz.evaluation.metrics import METRICS, paired
from fewhertz.evaluation.results import BASELINE

from .grids import BOTH, at
from .grids.flex import KEEPS, LISTS, NAME, grid
from .measured import Measured
from .tables import Gain, listed, table
from .tasks import DRAWS, FLEX, FOURTH, Asked

HEAD = """# A model trained for any rate

{summary}

Made by `make reproduce` from `results/`; do not edit. `make flex` measures the runs anew.

Two models of pocket's shape that are the same up to a training step. One went on as before: pocket (`{shipped}`), which
is shipped. The other (`{flexible}`) had the audio tokens of every batch merged, by `pool` at a keep from 1/6 to 1 or
by `ward` at such a keep or a tolerance, half of them with corrections (`recipes/pocket/flex.py`): the same data for as
many steps. One training each. Test lists of [the fourth version](fourth.md), greedy. In brackets: gain over pocket
under the same method, paired, 95 % bootstrap over groups, above 0 better; ✓: above 0, ✗: below.
"""


def over(one: Measured, other: Measured, task: Asked, spec: str) -> Gain:
    """How much better one model is than another under the same method, on the same samples."""
    (a, groups), (b, same) = (model.run(task, spec).stats(task.metric) for model in (one, other))
    if groups != same:
        raise ValueError(f"{task.label}: {spec} is not of the same samples for both models: measure it again")
    metric = METRICS[task.metric]
    value, low, high = paired(metric, a, b, groups, DRAWS)
    return Gain(value, low, high) if metric.higher_is_better else Gain(-value, -high, -low)


def page(pocket: Measured, flexible: Measured) -> str:
    """The page in Markdown."""
    rows = [
        [
            f"`{run}`" if run != BASELINE else "all tokens",
            *(f"{flexible.number(task, run)} ({over(flexible, pocket, task, run)})" for task in LISTS),
        ]
        for run in grid()
    ]

    def gains(run: str) -> str:
        return ", ".join(f"{task.name} {over(flexible, pocket, task, run)}" for task in LISTS)

    summary = [f"With all tokens, trained at random rates: {gains(BASELINE)}."]
    summary += [
        f"`{run}`: {gains(run)}." for run in (at(f"ward{BOTH}", KEEPS[1]), at("pool", KEEPS[1]), at("pool", KEEPS[-1]))
    ]
    head = HEAD.format(
        summary=listed(summary),
        shipped=pocket.run(LISTS[0], BASELINE).record["weights_sha256"][:8],
        flexible=flexible.run(LISTS[0], BASELINE).record["weights_sha256"][:8],
    )
    return f"{head}\n{table(['', *(f'{task.name} ({task.unit})' for task in LISTS)], rows)}\n"


def write(measured: Measured, docs: Path) -> list[Path]:
    """The page; nothing where runs are missing."""
    pocket, flexible = measured.of(FOURTH), measured.of(FLEX, NAME)
    if not all(one.there(task, *grid()) for one in (pocket, flexible) for task in LISTS):
        return []
    file = docs / "flex.md"
    file.write_text(page(pocket, flexible), "utf-8")
    return [file]
