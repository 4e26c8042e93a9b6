"""docs/claims.md: made of the committed result files, and verdicts that follow from intervals."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fewhertz.evaluation.results import BASELINE
from fewhertz.method import parse
from recipes import claims, recovery
from recipes.claims import DOCS, RESULTS, SPEECH, TASKS, Gain, Measured, With, at, word

PAGE = (DOCS / "results.md").read_text("utf-8")


@pytest.fixture(scope="module")
def measured() -> Measured:
    return Measured(RESULTS)


def test_the_page_is_made_of_the_committed_results(measured: Measured) -> None:
    assert claims.page(measured) == (DOCS / "claims.md").read_text("utf-8"), "run: make reproduce"


def test_the_table_is_made_of_the_committed_results(measured: Measured) -> None:
    assert claims.rates_table(measured) in PAGE, (
        "run: python -m recipes.claims table, and paste it into docs/results.md"
    )


def test_figures_of_the_readme_are_those_of_the_files(measured: Measured) -> None:
    readme = (claims.REPO / "README.md").read_text("utf-8").replace("*", "")
    for method in ("pool", "ward", "ward+time+sizes"):
        row = next(line for line in readme.splitlines() if line.startswith(f"| `{method}`"))
        cells = [cell.strip() for cell in row.split("|")]
        for keep, cell in zip(("1/2", "1/3"), cells[3:5], strict=True):
            scores = [measured.score(task, at(method, keep))["score"] for task in SPEECH]
            assert cell == " / ".join(f"{score:.1f}" for score in scores)
    whole = " / ".join(f"{measured.score(task, BASELINE)['score']:.1f}" for task in SPEECH)
    assert f"| no compression | {whole} |" in readme


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label)
def test_every_cell_of_the_grid_is_there_and_of_the_shipped_weights(task: claims.Asked, measured: Measured) -> None:
    cells = claims.grid(task)
    assert cells[0] == BASELINE
    shas = {measured.result(task, spec)["weights_sha256"] for spec in cells}
    assert len(shas) == 1 and shas == {measured.result(TASKS[0], BASELINE)["weights_sha256"]}
    for spec in cells:
        result = measured.result(task, spec)
        assert result["n"] == task.rows and not result["failed"]
        if spec != BASELINE and parse(spec).keep is not None:
            rate = result["rate_hz"]
            assert rate["after"] / rate["before"] == pytest.approx(float(parse(spec).keep), rel=0.05)


@pytest.mark.parametrize("trial", recovery.TRIALS, ids=lambda trial: trial.name)
def test_every_adapter_is_told_of_and_measured(trial: recovery.Trial, measured: Measured) -> None:
    told = recovery.summary(RESULTS, trial.name)
    shipped = measured.result(TASKS[0], BASELINE)["weights_sha256"]
    assert told["base_sha256"] == shipped and told["trial"]["method"] == trial.method
    chosen = recovery.SETTINGS | trial.settings
    assert {name: told[name] for name in ("steps", "batch_size", "lr")} == {
        name: chosen[name] for name in ("steps", "batch_size", "lr")
    }
    assert told["best_step"] > 0  # training made it better on dev
    for task in (*TASKS, recovery.FRENCH):
        if trial.name in recovery.measured_on(task):
            spec = BASELINE if trial.method == "none" else told["methods"][0]
            result = measured.result(task, With(trial.name, spec))
            assert result["n"] == task.rows and not result["failed"] and result["weights_sha256"] == shipped
            assert result["adapter"]["trained_with"] == ([] if trial.method == "none" else told["methods"])


def test_figures_of_the_page_are_those_of_the_files(measured: Measured) -> None:
    """One figure, found by another way than the page's own."""
    task, keep = TASKS[0], "1/3"
    cell = measured.result(task, f"pool@keep={keep}")["scores"]["wer"]
    row = next(line for line in PAGE.splitlines() if line.startswith("| `pool` |") and " / " in line)
    assert re.split(r" *\| *", row)[3].split(" / ")[0] == f"{cell['score']:.1f}"
    gain = measured.gain(task, f"pool@keep={keep}", BASELINE)
    assert gain.value == pytest.approx(-cell["difference"], abs=1e-4)
    assert [-gain.high, -gain.low] == pytest.approx(cell["difference_interval"], abs=1e-4)


BETTER, WORSE, OPEN = Gain(2, 1, 3), Gain(-2, -3, -1), Gain(1, -1, 3)


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([BETTER, BETTER], "**holds**"),
        ([BETTER, OPEN], "**holds in part**"),
        ([BETTER, WORSE, OPEN], "**mixed**"),
        ([OPEN, OPEN], "**cannot be told**"),
        ([BETTER, OPEN, OPEN], "**cannot be told** in most comparisons"),
        ([WORSE, OPEN], "**does not hold**"),
        ([WORSE, WORSE], "**does not hold**: the contrary"),
    ],
)
def test_a_verdict_follows_from_the_intervals(gains: list[Gain], verdict: str) -> None:
    assert word(gains) == verdict


def test_results_of_other_samples_are_refused(tmp_path: Path, measured: Measured) -> None:
    """A cell that was run with --limit must not be compared with whole ones."""
    import json

    from fewhertz.evaluation import results

    task = TASKS[0]
    for spec, cut in ((BASELINE, 0), ("pool@keep=1/2", 5)):
        source = measured.cell(task, spec)
        place = results.run_files(tmp_path, task.label, claims.MODEL, spec)
        result = json.loads(source.read_text("utf-8"))
        result |= {"n": result["n"] - cut, "identity": result["identity"] | {"rows": result["n"] - cut}}
        results.write(place, result, results.read_samples(source)[cut:])
    with pytest.raises(ValueError, match="not of the same samples"):
        Measured(tmp_path).gain(task, BASELINE, "pool@keep=1/2")
