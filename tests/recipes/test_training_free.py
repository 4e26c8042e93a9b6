"""docs/research/training-free.md and the README's table: made of the committed results."""

from __future__ import annotations

import pytest

from fewhertz.evaluation.results import BASELINE
from recipes.research.grids import BOTH, at
from recipes.research.grids.training_free import (
    ALL_KEEPS,
    CHOSEN,
    FAR,
    FIVE,
    LISTS,
    MATCHED,
    METHODS,
    OURS,
    STRINGS,
    grid,
    priced,
)
from recipes.research.measured import Measured
from recipes.research.tables import Loss
from recipes.research.tasks import REPO, RESULTS, Asked
from recipes.research.training_free import at_its_best


@pytest.fixture(scope="module")
def measured() -> Measured:
    return Measured(RESULTS)


def test_all_runs_are_of_the_same_weights_and_whole(measured: Measured) -> None:
    runs = [measured.run(task, spec) for task in LISTS for spec in grid(task)]
    assert len({run.record["weights_sha256"] for run in runs}) == 1
    assert all("dirty" not in run.commit and not run.run.failed for run in runs)
    assert {run.run.n for run in runs} == {task.rows for task in LISTS}


def test_figures_of_the_readme_are_those_of_the_results(measured: Measured) -> None:
    readme = (REPO / "README.md").read_text("utf-8").replace("*", "")
    both = (STRINGS, FAR)
    for method in ("pool", "ward", "ward+time+sizes"):
        row = next(line for line in readme.splitlines() if line.startswith(f"| `{method}`"))
        shown = [one.strip() for one in row.split("|")]
        for keep, figures in zip(("1/2", "1/3"), shown[3:5], strict=True):
            assert figures == " / ".join(f"{measured.value(task, at(method, keep)):.1f}" for task in both)
    whole = " / ".join(f"{measured.value(task, BASELINE):.1f}" for task in both)
    assert f"| no compression | {whole} |" in readme
    text = " ".join(readme.split())
    strings, far = (f"{measured.hertz(task, priced(CHOSEN)):.1f}" for task in both)
    assert f"takes {strings} Hz for word strings ({measured.value(STRINGS, priced(CHOSEN)):.1f} % WER)" in text
    assert f"{far} for sentences ({measured.value(FAR, priced(CHOSEN)):.1f})" in text


def test_the_grid_is_whole() -> None:
    for task in FIVE:
        runs = grid(task)
        assert len(set(runs)) == len(runs) and {*MATCHED} <= {*runs}
        assert {at(f"{m}{corrections}", k) for m in METHODS for corrections in ("", BOTH) for k in ALL_KEEPS} <= {*runs}


@pytest.mark.parametrize("task", FIVE, ids=lambda task: task.label)
def test_a_rival_stands_at_its_better_presentation(task: Asked, measured: Measured) -> None:
    budgets = [(one, keep) for one in LISTS for keep in (ALL_KEEPS if one in FIVE else ("1/2", "1/3"))]
    gains = dict(zip(budgets, at_its_best(measured, "pool"), strict=True))
    for keep in ALL_KEEPS:
        gain = min(
            (measured.gain(task, at(OURS, keep), at(f"pool{both}", keep)) for both in ("", BOTH)), key=lambda g: g.value
        )
        assert gains[task, keep].value == gain.value


@pytest.mark.parametrize(("target", "verdict"), [(2.0, "**met**"), (0.5, "**missed**"), (1.5, "inconclusive")])
def test_a_target_is_met_by_the_whole_interval(target: float, verdict: str) -> None:
    assert Loss(1.3, 1.0, 1.8, "WER").verdict(target) == verdict
