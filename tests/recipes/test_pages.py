"""docs/research: made of the committed results, and short enough that a stranger reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.research.measured import Measured
from recipes.research.reproduce import PAGES
from recipes.research.tasks import DOCS, REPO, RESULTS

WORDS = {  # at most, as `wc -w` counts; tables count
    "claims.md": 1020,
    "training-free.md": 1250,
    "tolerance.md": 530,
    "lora.md": 700,
    "encoder.md": 700,
    "depth.md": 480,
    "serving.md": 390,
    "gpu.md": 300,
    "flex.md": 370,
    "omni.md": 425,
}


def words(name: str) -> int:
    return len((DOCS / name).read_text("utf-8").split())


@pytest.mark.parametrize("write", PAGES, ids=lambda write: write.__module__)
def test_a_page_is_made_of_the_committed_results(write: Callable[[Measured, Path], list[Path]], tmp_path: Path) -> None:
    page, *pictures = write(Measured(RESULTS), tmp_path)
    assert page.read_text("utf-8") == (DOCS / page.name).read_text("utf-8"), "run: make reproduce"
    assert all(picture.stat().st_size > 10_000 and (DOCS / picture.name).exists() for picture in pictures)


def test_every_picture_is_shown() -> None:
    pages = "".join(page.read_text("utf-8") for page in DOCS.parent.rglob("*.md"))
    assert all(f"{picture.name})" in pages for picture in DOCS.glob("*.png"))


@pytest.mark.parametrize("name", WORDS)
def test_a_page_is_short_and_begins_with_its_summary(name: str) -> None:
    title, gap, *lines = (DOCS / name).read_text("utf-8").splitlines()
    items = [line for line in lines[: lines.index("")] if line.startswith("- ")]
    assert title.startswith("# ") and not gap and 3 <= len(items) <= 6
    assert words(name) <= WORDS[name]


def test_all_of_them_together_are_short() -> None:
    assert sum(words(file.name) for file in DOCS.glob("*.md")) <= 6000


def test_what_a_page_asks_one_to_run_is_there() -> None:
    made = (REPO / "Makefile").read_text("utf-8")
    for target in ("reproduce", "claims", "training-free", "lora", "encoder", "depth", "flex", "omni"):
        assert f"\n{target}: " in made
