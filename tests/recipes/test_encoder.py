"""The runs of docs/research/encoder.md: of one model, and a grid that pocket can run."""

from __future__ import annotations

import json

import pytest

from fewhertz.checkpoint import open_checkpoint
from fewhertz.evaluation.results import BASELINE
from recipes.research.grids.encoder import DEEP, KEEPS, LISTS, grid, inside
from recipes.research.measured import Measured
from recipes.research.tasks import ENCODER, RESULTS


@pytest.fixture(scope="module")
def measured() -> Measured:
    return Measured(RESULTS).of(ENCODER)


def test_times_are_measured_in_full() -> None:
    assert not json.loads((RESULTS / "bench" / "sites.json").read_text("utf-8"))["quick"]


def test_runs_are_of_one_model_and_of_equal_rates(measured: Measured) -> None:
    weights = set()
    for task in LISTS:
        for run in (BASELINE, *grid(task)):
            record = measured.run(task, run).record
            assert record["n"] == task.rows and not record["failed"] and record["trim"]
            weights.add(record["weights_sha256"])
        for keep in KEEPS:
            rates = {measured.hertz(task, inside(layers, f"keep={keep}")) for layers in ("", DEEP)}
            assert len(rates) == 1
    assert len(weights) == 1


def test_the_grid_fits_pocket() -> None:
    checkpoint = open_checkpoint("pocket", weights=False)
    for task in LISTS:
        assert len(set(grid(task))) == len(grid(task))
        for run in grid(task):
            assert checkpoint.fit(run).spec == run
    assert round(0.6 * checkpoint.config.audio_config.num_hidden_layers) == int(DEEP)
