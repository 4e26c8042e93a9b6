"""docs/research/fourth.md and the README's table: made of the committed results."""

from __future__ import annotations

import pytest

from fewhertz.evaluation.results import BASELINE
from recipes.research import fourth
from recipes.research.grids import at
from recipes.research.grids.fourth import CHOSEN, FAR, LISTS, STRINGS_4, grid, priced
from recipes.research.measured import Measured
from recipes.research.tasks import DOCS, FOURTH, REPO, RESULTS


@pytest.fixture(scope="module")
def measured() -> Measured:
    return Measured(RESULTS, FOURTH)


def test_the_page_is_made_of_the_committed_results(measured: Measured) -> None:
    assert fourth.page(measured) == (DOCS / "fourth.md").read_text("utf-8"), "run: make reproduce"


def test_all_runs_are_of_the_same_weights_and_whole(measured: Measured) -> None:
    runs = [measured.run(task, spec) for task in LISTS for spec in grid(task)]
    assert len({run.record["weights_sha256"] for run in runs}) == 1
    assert all("dirty" not in run.commit and not run.run.failed for run in runs)
    assert {run.run.n for run in runs} == {task.rows for task in LISTS}


def test_figures_of_the_readme_are_those_of_the_results(measured: Measured) -> None:
    readme = (REPO / "README.md").read_text("utf-8").replace("*", "")
    both = (STRINGS_4, FAR)
    for method in ("pool", "ward", "ward+time+sizes"):
        row = next(line for line in readme.splitlines() if line.startswith(f"| `{method}`"))
        shown = [one.strip() for one in row.split("|")]
        for keep, figures in zip(("1/2", "1/3"), shown[3:5], strict=True):
            assert figures == " / ".join(f"{measured.value(task, at(method, keep)):.1f}" for task in both)
    whole = " / ".join(f"{measured.value(task, BASELINE):.1f}" for task in both)
    assert f"| no compression | {whole} |" in readme
    text = " ".join(readme.split())
    strings, far = (f"{measured.hertz(task, priced(CHOSEN)):.1f}" for task in both)
    assert f"takes {strings} Hz for word strings ({measured.value(STRINGS_4, priced(CHOSEN)):.1f} % WER)" in text
    assert f"{far} for sentences ({measured.value(FAR, priced(CHOSEN)):.1f})" in text
