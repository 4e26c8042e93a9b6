"""The page on voices and depth: made of committed results, of runs that the model can do; and the LoRA grid."""

from __future__ import annotations

from fewhertz.checkpoint import open_checkpoint, weights_sha256
from fewhertz.evaluation.results import BASELINE
from fewhertz.training.settings import Settings
from recipes.research.grids import lora
from recipes.research.grids.depth import LAYERS, VOICES, grid, inside, main, voices, within
from recipes.research.measured import Measured
from recipes.research.tasks import DEPTH, RESULTS, SENTENCES


def test_every_run_is_one_that_pocket_can_do() -> None:
    checkpoint = open_checkpoint("pocket", weights=False)
    for task in (VOICES, SENTENCES):
        assert len(set(grid(task))) == len(grid(task))
        for spec in grid(task):
            checkpoint.fit(spec)
    assert {*main()} < {*voices()} and len(voices()) == 21 and len(inside()) == 15
    assert within(0) == "ward@keep=1/3+time+sizes" and within(3) == "ward(site=llm.3)@keep=1/3+time+sizes"
    assert len(LAYERS) == checkpoint.config.get_text_config().num_hidden_layers


def test_all_runs_are_there_and_of_the_shipped_weights() -> None:
    measured = Measured(RESULTS).of(DEPTH)
    records = [measured.run(task, spec).record for task in (VOICES, SENTENCES) for spec in (BASELINE, *grid(task))]
    assert {one["weights_sha256"] for one in records} == {weights_sha256(open_checkpoint("pocket"))}
    assert not any(one["failed"] for one in records)


def test_the_lora_grid_is_whole() -> None:
    names = [trial.name for trial in lora.TRIALS]
    assert len(lora.GRID) == 2 * 3 * 3 * 3 and len(set(names)) == len(names)
    for trial in lora.TRIALS:
        Settings(**lora.SETTINGS | trial.settings)
    for seeds in (lora.CONTROLS, *lora.POOL_SEEDS.values(), *lora.WARD_SEEDS.values()):
        assert {trial.settings.get("seed", 0) for trial in seeds} == {0, 1, 2}
        assert len({trial.method for trial in seeds}) == 1 and all(trial in lora.TRIALS for trial in seeds)
