"""`bench/tolerance.py` runs, and its committed result is of it."""

import json
from pathlib import Path

import benches
import pytest

COMMITTED = benches.ROOT / "results" / "bench" / "tolerance.json"


def test_quick_run_writes_the_whole_result(tmp_path: Path) -> None:
    run, result = benches.quick("tolerance", tmp_path / "tolerance.json")
    assert result["quick"] is True and "met:" in run.stdout
    assert [(row["tokens"], row["batch"]) for row in result["tolerance"]] == [(30, 1), (30, 8), (60, 1)]
    for row in result["tolerance"]:
        assert 1 <= row["kept"] <= row["tokens"] and row["seconds"]["count"] > 0
        assert row["met"] is (row["over_the_same_count"] <= row["target"])
    (mel,) = result["count_on_mel"]
    assert mel["met"] is (mel["of_making_the_mel"] <= mel["target"])


def test_the_committed_result_is_whole() -> None:
    result = json.loads(COMMITTED.read_text("utf-8"))
    assert result["quick"] is False and "dirty" not in result["environment"]["commit"]
    assert [(row["tokens"], row["batch"]) for row in result["tolerance"]] == [(750, 1), (750, 8), (7500, 1)]
    for row in result["tolerance"]:
        assert 0.2 < row["kept"] / row["tokens"] < 0.8
        assert row["over_the_same_count"] == pytest.approx(
            row["seconds"]["tolerance"] / row["seconds"]["count"], rel=0.3
        )
