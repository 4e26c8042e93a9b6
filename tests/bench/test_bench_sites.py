"""`bench/sites.py` runs, and its sums are of the pieces that a system is made of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import benches
import pytest


def test_quick_run_writes_the_whole_result(tmp_path: Path) -> None:
    run, result = benches.quick("sites", tmp_path / "sites.json")
    assert result["quick"] is True and "commit" in result["environment"]
    assert [row["way"] for row in result["rows"]] == ["stock", "trim", "llm", "encoder", "llm", "encoder"] * 4
    for row in result["rows"]:
        seconds = row["seconds"]
        assert min(seconds["encoder"], seconds["prefill"], seconds["decode"]) > 0 <= seconds["compression"]
        assert (row["method"] is None) == (row["way"] in ("stock", "trim")) == (seconds["compression"] == 0)
        assert row["range"][0] <= row["stock_over_this"] <= row["range"][1] and row["predicted"] >= 1
        assert row["measured_over_predicted"] == pytest.approx(row["stock_over_this"] / row["predicted"])
        assert (row["way"] == "encoder") == ("llm_over_this" in row) and row.get("llm_over_this_predicted", 2) > 1
    assert [set(one["stock_over_this"]) for one in result["whole_calls"]] == [
        {"stock", "trim", "llm 1/2", "encoder 1/2", "llm 1/3", "encoder 1/3"}
    ] * 2
    assert result["targets"][0]["met"] is None and "stock over this" in run.stdout


def test_pieces_of_a_clip() -> None:
    """5 s of a Whisper window: 250 frames, 256 with what the cut rounds up to, 125 tokens, 63 of them at 1/2."""
    sites = benches.load("sites")
    model = SimpleNamespace(config=SimpleNamespace(audio_config=SimpleNamespace(max_source_positions=1500)))
    stock, trim, llm, encoder, *_ = sites.ways(sites.Shape(model, 32, 28), 5)
    assert stock.parts["encoder"] == [("front 1500", 1), ("layer 1500 of 500", 32), ("project 750", 1)]
    assert trim.parts["encoder"] == llm.parts["encoder"] and (trim.frames, trim.tokens, llm.tokens) == (256, 125, 63)
    assert encoder.parts == {
        "encoder": [("front 256", 1), ("layer 256 of 500", 19), ("layer 63 sized", 13), ("project 63", 1)],
        "compression": [("plan 250 63 encoder", 1)],
        "prefill": [("prefill 106 sized", 28)],
        "decode": [("decode 106 sized", 28)],
    }
