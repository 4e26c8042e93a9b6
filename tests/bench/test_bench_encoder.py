"""`bench/encoder.py` runs, and its figures mean what they say."""

from pathlib import Path

import benches
import pytest


def test_quick_run_writes_the_whole_result(tmp_path: Path) -> None:
    run, result = benches.quick("encoder", tmp_path / "encoder.json")
    assert result["quick"] is True and "commit" in result["environment"]
    assert [(row["model"], row["batch"]) for row in result["rows"]] == [("tiny", batch) for batch in [1] * 4 + [4] * 4]
    for row in result["rows"]:
        mel = round(row["clip_seconds"] * 100)
        assert row["mel_frames"]["stock"] == 240 and mel <= row["mel_frames"]["ours"] <= min(240, mel + 18)
        assert row["predicted"] >= 1 and row["seconds"]["stock"] > 0 < row["seconds"]["ours"]
        assert row["measured_over_predicted"] == pytest.approx(row["stock_over_ours"] / row["predicted"])
        assert row["largest_difference"] < 1e-5 < row["largest_value"]
        assert row["met"] is (None if row["target"] is None else row["stock_over_ours"] >= row["target"])
    assert len(result["inside"]) == 4
    for row in result["inside"]:
        assert row["method"].startswith("ward(site=encoder.") and row["seconds"]["llm"] > 0 < row["seconds"]["encoder"]
        assert row["audio_tokens"]["merged"] < row["audio_tokens"]["all"] and row["predicted"] >= 1
        assert row["measured_over_predicted"] == pytest.approx(row["llm_over_encoder"] / row["predicted"])
    assert "stock over ours" in run.stdout and "merged inside" in run.stdout


def test_operations_by_hand() -> None:
    class Shape:
        d_model, encoder_ffn_dim, encoder_layers, num_mel_bins = 2, 8, 3, 5

    # convolutions: 14 mel frames × 3 × 5 × 2, and 7 × 3 × 2 × 2; a layer: four 2 × 2, two 2 × 8, two 7 × 7 × 2
    by_hand = 2 * (14 * 30 + 7 * 12) + 3 * 2 * (7 * (16 + 32) + 2 * 49 * 2)
    flops = benches.load("encoder").flops
    assert flops(Shape, 7) == flops(Shape, 7, 7, 1) == by_hand
    # two of the three layers over 3 frames
    assert by_hand - flops(Shape, 7, 3, 1) == 2 * 2 * (4 * (16 + 32) + 2 * (49 - 9) * 2)
