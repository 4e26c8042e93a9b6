"""The section on models other than pocket: made of committed results, with a command that runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fewhertz import pocket
from fewhertz.cli import app
from fewhertz.evaluation.metrics import METRICS
from fewhertz.evaluation.results import BASELINE
from recipes.research.grids import BOTH
from recipes.research.grids.other_models import KEEPS, METHODS, OTHERS, TASKS, Other, grid
from recipes.research.measured import Measured
from recipes.research.tasks import OTHER_MODELS, RESULTS, Asked
from recipes.research.training_free import other_models
from recipes.research.training_free.other_models import of, section

POCKET = Measured(RESULTS)
SEEN = [(other, task) for other in OTHERS for task in TASKS if of(POCKET, other.name).there(task, BASELINE)]
NAMES = [f"{other.name}, {task.label}" for other, task in SEEN]


def test_nothing_is_said_of_what_was_not_measured(tmp_path: Path) -> None:
    said = section(Measured(tmp_path))
    assert said.startswith("The other models have not been measured yet.")
    assert "%" not in said and other_models.SEVEN_BILLION in said


@pytest.mark.parametrize(("other", "task"), SEEN, ids=NAMES)
def test_every_run_is_there_and_of_the_weights_that_were_noted(other: Other, task: Asked) -> None:
    note = POCKET.packed.trainings(OTHER_MODELS)[other.name]
    assert note["command"][3:] == other.training[1:]
    measured = of(POCKET, other.name)
    assert len(grid()) == 1 + len(METHODS) * 4 * len(KEEPS)
    for spec in grid():
        result = measured.run(task, spec).record
        assert result["n"] == task.rows and not result["failed"]
        assert result["weights_sha256"] == note["weights_sha256"]


@pytest.mark.parametrize(("other", "task"), SEEN, ids=NAMES)
def test_figures_are_those_of_the_results(other: Other, task: Asked) -> None:
    """Scores and a gain of the section, from the samples by another way than its own."""
    measured, metric = of(POCKET, other.name), METRICS[task.metric]
    scored = {
        spec: metric.score(measured.run(task, spec).stats(task.metric)[0])
        for spec in (BASELINE, "ward@keep=1/3", f"ward@keep=1/3{BOTH}")
    }
    _, _, rest = section(POCKET).partition(f"`{other.name}`, {task.name} ({task.unit}; ")
    assert rest.startswith(f"{scored[BASELINE]:.1f} with all tokens)")
    row = next(line for line in rest.splitlines() if line.startswith("| `ward` |"))
    scores = re.split(r" *\| *", row)[2:]
    assert scores[0] == f"{scored['ward@keep=1/3']:.1f}" and scores[3] == f"{scored[f'ward@keep=1/3{BOTH}']:.1f}"
    gain = scored["ward@keep=1/3"] - scored[f"ward@keep=1/3{BOTH}"]
    assert float(scores[5].split(" ")[0]) == pytest.approx(gain, abs=0.06)


def test_the_commands_for_the_large_model_run_on_pocket(tmp_path: Path) -> None:
    sample = json.loads((pocket.path() / "samples" / "samples.jsonl").read_text("utf-8").splitlines()[0])
    audio = pocket.path() / "samples" / sample["audio"]
    (tmp_path / "one.jsonl").write_text(json.dumps({"id": "one", "audio": str(audio), "text": sample["text"]}))
    other = {
        "Qwen/Qwen2-Audio-7B-Instruct": "pocket",
        "librispeech --subset other": str(tmp_path / "one.jsonl"),
        "bfloat16": "float32",
        f" --keep {' '.join(KEEPS)}": " --keep 1/3 --max-new-tokens 8",  # all of it takes minutes
        "qwen2-audio": str(tmp_path / "done"),
    }
    for command in (other_models.SEVEN_BILLION, other_models.DRAWN):
        for large, small in other.items():
            command = command.replace(large, small)
        ended = CliRunner().invoke(
            app, shlex.split(command)[1:] + ["--out", str(tmp_path / "curve.png")] * ("plot" in command)
        )
        assert ended.exit_code == 0, ended.output
    assert len(list((tmp_path / "done").rglob("*.json"))) == 1 + len(METHODS) * 4
    assert (tmp_path / "curve.png").stat().st_size > 10_000
