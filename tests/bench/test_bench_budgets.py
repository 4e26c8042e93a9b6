"""The bench of positions drawn together and of shared budgets runs, and the pages say what it found."""

from __future__ import annotations

import json
from pathlib import Path

import benches

RESULT = benches.ROOT / "results" / "bench" / "budgets.json"


def test_quick_run_and_the_committed_result(tmp_path: Path) -> None:
    bench = benches.load("budgets")
    _, ran = benches.quick("budgets", tmp_path / "out.json")
    committed = json.loads(RESULT.read_text("utf-8"))
    assert ran["quick"] and not committed["quick"] and committed.keys() == ran.keys()
    assert "dirty" not in committed["environment"]["commit"]
    assert committed["configuration"]["clips_a_list"] == bench.CLIPS
    for result in (ran, committed):
        assert [row["scale"] for row in result["fit"]] == list(bench.SCALES)
        assert result["fit"][1]["strings"]["difference"] == 0
        assert [row["method"] for row in result["shared"]] == list(bench.SHARED)
        alone, shared = result["shared"][1:]
        assert abs(shared["hz"] / alone["hz"] - 1) < 0.02


def test_the_pages_figures_are_those_of_the_file() -> None:
    result = json.loads(RESULT.read_text("utf-8"))
    page = " ".join((RESULT.parents[2] / "docs" / "methods.md").read_text("utf-8").split()).replace("−", "-")
    figures = []
    for row in result["fit"]:
        if row["scale"] == 1.0:
            continue
        cells = [
            f"{row[name]['difference']:+.1f} [{row[name]['interval'][0]:.1f}, {row[name]['interval'][1]:.1f}]"
            for name in ("strings", "far-new-voices")
        ]
        scale = "packed" if row["scale"] == "packed" else f"× {row['scale']:g}"
        figures.append(f"| {scale} | {' | '.join(cells)} |")
    whole, alone, shared = result["shared"]
    for name in ("strings", "far-new-voices"):
        figures += [f"{row[name]['wer']:.1f} %" for row in (whole, alone, shared)]
    figures.append(
        f"sentences take {shared['far-new-voices']['hz']:.1f} Hz of it, strings {shared['strings']['hz']:.1f}"
    )
    assert [one for one in figures if one not in page] == []
