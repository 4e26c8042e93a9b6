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
