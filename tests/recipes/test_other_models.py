"""What is said of models other than pocket: made of committed results."""

from __future__ import annotations

import re

import pytest

from fewhertz.evaluation.metrics import METRICS
from fewhertz.evaluation.results import BASELINE
from recipes.research.grids import BOTH
from recipes.research.grids.other_models import KEEPS, METHODS, OTHERS, TASKS, Other, grid
from recipes.research.measured import Measured
from recipes.research.tasks import OTHER_MODELS, RESULTS, Asked
from recipes.research.training_free.other_models import section

POCKET = Measured(RESULTS)
SEEN = [(other, task) for other in OTHERS for task in TASKS]
NAMES = [f"{other.name}, {task.label}" for other, task in SEEN]


@pytest.mark.parametrize(("other", "task"), SEEN, ids=NAMES)
def test_every_run_is_there_and_of_the_weights_that_were_noted(other: Other, task: Asked) -> None:
    note = POCKET.packed.trainings(OTHER_MODELS)[other.name]
    assert note["command"][3:] == other.training[1:]
    measured = POCKET.of(OTHER_MODELS, other.name)
    assert len(grid()) == 1 + len(METHODS) * 4 * len(KEEPS)
    for spec in grid():
        result = measured.run(task, spec).record
        assert result["n"] == task.rows and not result["failed"]
        assert result["weights_sha256"] == note["weights_sha256"]


@pytest.mark.parametrize(("other", "task"), SEEN, ids=NAMES)
def test_figures_are_those_of_the_results(other: Other, task: Asked) -> None:
    """Scores and differences of the section, from the samples by another way than its own."""
    measured, metric = POCKET.of(OTHER_MODELS, other.name), METRICS[task.metric]
    base, plain, time, both = (
        metric.score(measured.run(task, spec).stats(task.metric)[0])
        for spec in (BASELINE, "ward@keep=1/3", "ward@keep=1/3+time", f"ward@keep=1/3{BOTH}")
    )
    row = next(line for line in section(POCKET).splitlines() if line.startswith(f"| `{other.name}`, {task.name} |"))
    whole, _, lost, gained, _ = re.split(r" *\| *", row)[2:-1]
    assert whole == f"{base:.1f}"
    assert float(lost.split(" ")[0]) == pytest.approx(both - base, abs=0.06)
    assert float(gained.split(" ")[0]) == pytest.approx(plain - time, abs=0.06)
