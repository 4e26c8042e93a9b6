"""The picture of docs/long.md: every token is counted once, where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recipes.research.rate import main, rates

ROOT = Path(__file__).resolve().parents[2]


def test_tokens_are_spread_over_what_they_stand_for() -> None:
    found = [(1.0, np.array([[0.0, 0.5], [0.5, 1.5]])), (4.25, np.array([[0.0, 0.25]]))]
    edges, hertz = rates(found, 5.0)
    assert len(hertz) == len(edges) - 1 and edges[-1] >= 5
    assert hertz.sum() * 0.5 == pytest.approx(3)
    assert hertz[2] == pytest.approx(2) and hertz[3] == hertz[4] == pytest.approx(1) and hertz[8] == pytest.approx(2)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    main(tmp_path / "long.svg", "ward@tolerance=0.3+time+sizes")
    drawn, committed = (file.read_text("utf-8") for file in (tmp_path / "long.svg", ROOT / "docs" / "long.svg"))
    for text in (drawn, committed):
        assert text.startswith("<?xml") and "loudness (dBFS)" in text and "ward@tolerance=0.3+time+sizes: " in text
