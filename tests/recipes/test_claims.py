"""docs/research/claims.md: made of the committed results, and verdicts that follow from intervals."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packing import store

from fewhertz.checkpoint import open_checkpoint, weights_sha256
from fewhertz.evaluation.results import BASELINE
from fewhertz.method import parse
from recipes.research.claims import page
from recipes.research.grids import lora
from recipes.research.grids.training_free import LISTS, SPEECH, grid
from recipes.research.measured import Measured, adapter_run
from recipes.research.tables import Gain, verdict
from recipes.research.tasks import DOCS, LORA, REPO, RESULTS, Asked

PAGE = (REPO / "docs" / "results.md").read_text("utf-8")
SHIPPED = weights_sha256(open_checkpoint("pocket"))


@pytest.fixture(scope="module")
def measured() -> Measured:
    return Measured(RESULTS)


def test_every_claim_has_a_line_with_a_figure_and_a_verdict() -> None:
    rows = re.findall(r"^\| (\d+)\. .*$", (DOCS / "claims.md").read_text("utf-8"), re.MULTILINE)
    assert rows == [str(i) for i in range(1, 21)]
    for line in re.findall(r"^\| \d+\. .*$", (DOCS / "claims.md").read_text("utf-8"), re.MULTILINE):
        _, claim, did, said, _ = line.split("|")
        assert re.search(r"arxiv|ours|left open", claim) and re.search(r"\d", did)
        assert "**" in said or {"met", "missed", "inconclusive"} & {*re.findall(r"\w+", said)}


def test_the_table_is_made_of_the_committed_results(measured: Measured) -> None:
    assert page.rates_table(measured) in PAGE, (
        "run: python -m recipes.research.reproduce --table, and paste it into docs/results.md"
    )


@pytest.mark.parametrize("task", LISTS, ids=lambda task: task.label)
def test_every_run_of_the_grid_is_there_and_of_the_shipped_weights(task: Asked, measured: Measured) -> None:
    runs = grid(task)
    assert runs[0] == BASELINE
    for spec in runs:
        run = measured.run(task, spec)
        assert run.record["weights_sha256"] == SHIPPED and run.run.n == task.rows and not run.run.failed
        if spec != BASELINE and "site=encoder.3" not in spec and (keep := parse(spec).keep) is not None:
            assert run.run.kept == pytest.approx(float(keep), rel=0.05)


@pytest.mark.parametrize("trial", lora.TRIALS, ids=lambda trial: trial.name)
def test_every_adapter_is_noted_and_measured(trial: lora.Trial, measured: Measured) -> None:
    note = measured.packed.trainings(LORA)[trial.name]
    assert note["base_sha256"] == SHIPPED and note["trial"]["method"] == trial.method
    chosen = lora.SETTINGS | trial.settings
    assert {name: note[name] for name in ("steps", "batch_size", "lr")} == {
        name: chosen[name] for name in ("steps", "batch_size", "lr")
    }
    assert note["best_step"] > 0  # training made it better on dev
    for task in lora.LISTS:
        if trial in lora.measured_on(task):
            spec = None if trial is not lora.RANGE else note["methods"][0]
            result = measured.run(task, adapter_run(trial, spec=spec)).record
            assert result["n"] == task.rows and not result["failed"] and result["weights_sha256"] == SHIPPED
            assert result["adapter"]["trained_with"] == ([] if trial.method == "none" else note["methods"])


def test_figures_of_the_page_are_those_of_the_results(measured: Measured) -> None:
    """One figure, found by another way than the page's own."""
    task, keep = SPEECH[0], "1/3"
    score = measured.run(task, f"pool@keep={keep}").record["scores"]["wer"]
    row = next(line for line in PAGE.splitlines() if line.startswith("| `pool` |") and " / " in line)
    assert re.split(r" *\| *", row)[4].split(" / ")[0] == f"{score['score']:.1f}"
    gain = measured.gain(task, f"pool@keep={keep}", BASELINE)
    assert gain.value == pytest.approx(-score["difference"], abs=1e-4)
    assert [-gain.high, -gain.low] == pytest.approx(score["difference_interval"], abs=1e-4)


BETTER, WORSE, OPEN = Gain(2, 1, 3), Gain(-2, -3, -1), Gain(1, -1, 3)


@pytest.mark.parametrize(
    ("gains", "word"),
    [
        ([BETTER, BETTER], "**holds**"),
        ([BETTER, OPEN], "**holds in part**"),
        ([BETTER, WORSE, OPEN], "**mixed**"),
        ([OPEN, OPEN], "**inconclusive**"),
        ([BETTER, OPEN, OPEN], "mostly **inconclusive**"),
        ([WORSE, OPEN], "**does not hold**"),
        ([WORSE, WORSE], "**does not hold**: the contrary"),
    ],
)
def test_a_verdict_follows_from_the_intervals(gains: list[Gain], word: str) -> None:
    assert verdict(gains) == word


def test_results_of_other_samples_are_refused(tmp_path: Path, measured: Measured) -> None:
    """A run with --limit must not be compared with whole ones."""
    task, runs = SPEECH[0], []
    for spec, cut in ((BASELINE, 0), ("pool@keep=1/2", 5)):
        one = measured.run(task, spec)
        runs.append((one.record | {"n": one.record["n"] - cut}, one.samples()[cut:]))
    store(tmp_path, runs)
    with pytest.raises(ValueError, match="not of the same samples"):
        Measured(tmp_path).gain(task, BASELINE, "pool@keep=1/2")


def test_a_run_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"far-new-voices-test, pocket, pool@keep=1/7 has not been measured"):
        Measured(RESULTS).run(SPEECH[0], "pool@keep=1/7")
