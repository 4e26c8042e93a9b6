"""`make bench` runs, and its figures mean what they say. The figures themselves are measured on an idle machine."""

import json
from pathlib import Path
from types import ModuleType

import benches
import pytest
import torch

from fewhertz.method import METHODS


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return benches.load("methods")


def test_quick_run_writes_the_whole_result(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "bench" / "methods.json"
    bench.main(out=out, quick=True, device="cpu", threads=0)
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["quick"] is True
    assert result["configuration"]["device"] == "cpu" and result["configuration"]["dtype"] == "float32"
    assert result["environment"]["threads"] == torch.get_num_threads()
    assert {"cpu", "cores", "torch", "transformers", "fewhertz", "commit"} <= set(result["environment"])

    names = {name for name in METHODS if METHODS[name].__module__.startswith("fewhertz.")}
    layer = {row["method"].split("@")[0].split("(")[0]: row for row in result["layer"]}
    growth = {row["method"].split("@")[0].split("(")[0]: row for row in result["growth"]}
    assert names <= set(layer) and names <= set(growth)
    assert layer["pool"]["tokens_saved"] == 2 * (60 - 20)
    for name, row in layer.items():
        assert row["seconds"] > 0 and row["layer_seconds"] > 0
        assert row["share_of_one_layer"] == pytest.approx(row["seconds"] / row["layer_seconds"])
        assert row["share_of_prefill_saved"] == pytest.approx(row["share_of_one_layer"] / 28)
        assert row["bar"] == bench.CPU_BARS.get(name)
        assert row["met"] is (None if row["bar"] is None else row["share_of_one_layer"] <= row["bar"])
    for row in growth.values():
        assert [n for n, _ in row["seconds"]] == result["configuration"]["growth_tokens"]
        assert isinstance(row["exponent"], float)
    scores = result["scores"]
    assert scores["captured_seconds"] > 0 and scores["layer_seconds"] > 0
    assert scores["captured_peak_bytes"] > 0 and scores["plain_peak_bytes"] > 0
    assert [row["frames"] for row in scores["memory"]] == result["configuration"]["scores_frames"]
    assert "visionzip" in capsys.readouterr().out


def test_every_bar_names_a_method(bench: ModuleType) -> None:
    assert set(bench.CPU_BARS) | set(bench.LINEAR) <= set(METHODS)


def test_exponent_is_the_slope_in_logarithms(bench: ModuleType) -> None:
    assert bench.exponent([(n, 3e-9 * n**2) for n in (10, 100, 1000)]) == pytest.approx(2)
    assert bench.exponent([(n, 5.0) for n in (10, 100, 1000)]) == pytest.approx(0)
    assert bench.exponent([(10, 1.0)]) is None


def test_peak_bytes_are_of_what_is_alive_at_once(bench: ModuleType) -> None:
    def run() -> None:
        for _ in range(3):
            torch.empty(1_000_000)  # freed before the next
        first, second = torch.empty(1_000_000), torch.empty(500_000)
        del first, second

    assert bench.peak_bytes(run, "cpu") == pytest.approx(6e6, rel=0.01)


def test_a_score_capture_at_true_size_never_holds_the_matrix(bench: ModuleType) -> None:
    query = torch.randn(1, 20, 1500, 8)  # the width of a head does not matter here
    with torch.inference_mode():
        peak = bench.peak_bytes(lambda: bench.column_sums(query, query, 0.125), "cpu")
    assert peak < 20 * 1500 * 1500 * 4 / 2
