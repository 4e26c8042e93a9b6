"""docs/research/omni.md: made of results alone, and only of whole ones.

Pocket's runs stand for the model's, at other rates and under another name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from packing import store
from test_pages import WORDS

from fewhertz.evaluation.results import BASELINE
from fewhertz.files import Record
from fewhertz.method import parse
from fewhertz.training.settings import Settings
from recipes.pocket.config import SIZES
from recipes.research import omni
from recipes.research.grids import BOTH, at
from recipes.research.grids.lora import CONTROL, SETTINGS
from recipes.research.grids.omni import BESIDE, LISTS, NAME, TRIALS, grid
from recipes.research.measured import Measured
from recipes.research.tasks import OMNI, RESULTS, Asked

POCKET = Measured(RESULTS, BESIDE)


def like(spec: str) -> str:
    """A run of pocket's that stands for one of the grid: at twice the share, so at the same rate."""
    twice = {"1/6": "1/3", "1/4": "1/2", "1/3": "2/3", "1/2": "1"}
    keep = spec.partition("keep=")[2].partition("+")[0]
    if keep not in twice:
        return spec
    return at(f"ward{BOTH}", twice[keep]) if twice[keep] != "1" else BASELINE


def made(root: Path, adapters: bool, missing: str = "", stands: Callable[[str], str] = like) -> Measured:
    """Results of the model, and pocket's."""
    runs: list[tuple[Record, list[Record]]] = []

    def add(task: Asked, name: str, spec: str) -> None:
        one = POCKET.run(task, stands(spec))
        share = 1.0 if spec == BASELINE else float(parse(spec).keep or 0.3)
        hertz = one.record["rate_hz"] | {"before": 50.0, "after": 50.0 * share}
        adapter = {"name": name} if name else None
        model = f"{NAME}+{name}" if name else NAME
        own = {"model": model, "adapter": adapter, "method": spec, "rate_hz": hertz}
        runs.append((one.record | own, one.samples()))

    for task in LISTS:
        for spec in grid():
            if spec != missing:
                add(task, "", spec)
        for trial in TRIALS if adapters else ():
            add(task, trial.name, BASELINE if trial is CONTROL else trial.method)
    store(root / OMNI, runs)
    there = [POCKET.run(task, spec) for task in LISTS for spec in grid() if POCKET.there(task, spec)]
    store(root / BESIDE, [(one.record, one.samples()) for one in there])
    return Measured(root)


def test_the_grid_and_its_trainings_are_whole() -> None:
    runs = grid()
    assert runs[0] == BASELINE and len(set(runs)) == len(runs) == 1 + 3 * 4 + 1
    assert {*omni.SHOWN} < {*runs} and len({trial.name for trial in TRIALS}) == len(TRIALS) == 5
    for trial in TRIALS:
        Settings(**SETTINGS | trial.settings)
        assert trial is CONTROL or trial.method in runs
    assert SIZES["omni"].llm_layers == SIZES["fourth"].llm_layers


def test_the_page_says_what_agrees(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    page, picture = omni.write(made(tmp_path, adapters=True), tmp_path / "docs")
    text, size = page.read_text("utf-8"), picture.stat().st_size
    ward = next(line for line in text.splitlines() if line.startswith(f"- `ward{BOTH}`"))
    # a sixth of it stands for pocket's third: the same loss, sample by sample
    assert "nearer by **rate**" in ward and "(+0.0 [+0.0, +0.0] more): nearer" in ward
    assert len(text.split()) <= WORDS["omni.md"] and size > 10_000
    assert "After LoRA" in text and "A third after LoRA, asked +1" in text
    row = next(line for line in text.splitlines() if line.startswith(f"| `{at(f'ward{BOTH}', '1/6')}`"))
    far = LISTS[0]
    run = at(f"ward{BOTH}", "1/3")
    assert f"| {POCKET.gain(far, run, BASELINE).plain} |" in row


def test_models_that_lose_alike_at_a_share_agree_by_share(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    measured = made(tmp_path, adapters=False, stands=lambda spec: spec if "1/3" in spec else BASELINE)
    page, _ = omni.write(measured, tmp_path / "docs")
    text = page.read_text("utf-8")
    assert text.count("nearer by **share**") == 2 and "LoRA" not in text.replace("adapters", "")


@pytest.mark.parametrize("missing", [BASELINE, at("pool", "1/6")])
def test_nothing_is_written_before_all_runs_are_there(tmp_path: Path, missing: str) -> None:
    assert omni.write(made(tmp_path, adapters=True, missing=missing), tmp_path) == []
    assert not (tmp_path / "omni.md").exists()
