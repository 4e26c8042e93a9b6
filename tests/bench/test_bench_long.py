"""The bench of long recordings runs, and counts what it says."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import benches
import pytest

from fewhertz.segments import Segment

RESULT = benches.ROOT / "results" / "bench" / "long-audio.json"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return benches.load("long_audio")


def test_quick_run_and_the_committed_result(bench: ModuleType, tmp_path: Path) -> None:
    _, ran = benches.quick("long_audio", tmp_path / "out.json")
    committed = json.loads(RESULT.read_text("utf-8"))
    assert ran["quick"] and not committed["quick"] and committed.keys() == ran.keys()
    assert {name: committed["configuration"][name] for name in bench.LONG} == bench.LONG
    assert "dirty" not in committed["environment"]["commit"]
    for result, asked in ((ran, bench.QUICK), (committed, bench.LONG)):
        assert [row["method"] for row in result["recordings"]] == [spec for _, spec in asked["recordings"]]
        assert result["recordings"][0].keys() == committed["recordings"][0].keys()
        for row in result["recordings"]:
            assert row["wer_joined"] - row["wer_alone"] == pytest.approx(row["difference"])
            assert row["seams"] == row["windows"] - 1
        assert [row["batch_size"] for row in result["speed"]] == 2 * [1, asked["batch_size"]]
        assert result["hours"][0].keys() == committed["hours"][0].keys()
        for row, (minutes, _pause, spec) in zip(result["hours"], asked["hours"], strict=True):
            assert row["minutes"] == pytest.approx(minutes, abs=1e-3) and row["method"] == spec
            if "shared" in spec:  # or all that there are, where long silences lend so much
                assert row["audio_tokens"] <= round(8 * 60 * minutes)
            assert 0 <= round(minutes / asked["mark_minutes"]) - len(row["peaks_mib"]) <= 1
    for row in committed["hours"]:
        assert max(row["peaks_mib"]) < 1000


def test_the_guides_figures_are_those_of_the_file() -> None:
    result = json.loads(RESULT.read_text("utf-8"))
    guide = " ".join((RESULT.parents[2] / "docs" / "long.md").read_text("utf-8").split())
    whole, method = (row for row in result["recordings"] if row["minutes"] > 10)
    figures = [
        f"{whole['clips']} synthetic dev sentences",
        f"WER {whole['wer_joined']:.1f} % joined, {whole['wer_alone']:.1f} % alone",
        f"`{method['method']}` {method['wer_joined']:.1f} % and {method['wer_alone']:.1f} %",
        f"Words lost at {whole['seams']} seams: {whole['words_lost']} ({method['words_lost']} with the method), "
        f"doubled: {whole['words_doubled']} ({method['words_doubled']})",
        f"within {whole['median_error_s']:.3f} s",
        f"{whole['beyond_1_s']} of {whole['edges']} were off by more than 1 s",
        f"{1 / result['speed'][3]['over_one']:.2f} times the processor time of one by one with the method, and "
        f"{1 / result['speed'][1]['over_one']:.2f} times with all tokens",
        *(
            f"`{row['method']}` | {row['hz']:.2f} | {row['windows']} | {min(row['peaks_mib']):.0f} to "
            f"{max(row['peaks_mib']):.0f} | {row['audio_s_per_cpu_s']:.0f} |"
            for row in result["hours"]
        ),
    ]
    assert [one for one in figures if one not in guide] == []
    assert not whole["new_tokens_in_loops"] and not method["new_tokens_in_loops"]


def test_words_are_aligned_by_the_fewest_errors(bench: ModuleType) -> None:
    for truth, said, wrong in (("a b c d", "a c d", 1), ("a b", "a x b y", 2), ("", "a", 1), ("a b c", "b", 2)):
        pairs = bench.align(truth.split(), said.split())
        assert bench.errors(pairs, truth.split(), said.split()) == wrong
        assert [i for i, _ in pairs if i is not None] == list(range(len(truth.split())))
        assert [j for _, j in pairs if j is not None] == list(range(len(said.split())))


REPLY = {"reply": object()}  # not a silence


@pytest.mark.parametrize(
    ("texts", "lost", "doubled"),
    [
        (("a b c", "d e f"), 0, 0),
        (("a b", "d e f"), 1, 0),
        (("a b c", "e f"), 1, 0),
        (("a c", "d e f"), 0, 0),  # not at a seam
        (("a b c d", "d e f"), 0, 1),
        (("a b c", "c d e f"), 0, 1),
        (("a b b c", "d e f"), 0, 0),
    ],
)
def test_seams_are_counted(texts: tuple[str, ...], lost: int, doubled: int, bench: ModuleType) -> None:
    placed = [bench.Placed(0.0, 1.0, ["a", "b", "c", "d", "e", "f"])]
    segments = [Segment(i, i + 1, text, **REPLY) for i, text in enumerate(texts)]
    found = bench.seams(placed, [["a", "b", "c", "d", "e", "f"]], segments)
    assert found == {"seams": 1, "words_lost": lost, "words_doubled": doubled}


def test_times_are_of_the_clips_that_a_window_holds(bench: ModuleType) -> None:
    placed = [bench.Placed(1.0, 2.0, ["a"]), bench.Placed(3.0, 4.0, ["b"])]
    found = bench.times(placed, [Segment(1.1, 4.0, "a b", **REPLY), Segment(5.0, 6.0, "")])
    assert found["edges"] == 2 and found["largest_error_s"] == pytest.approx(0.1) and not found["within_a_clip"]
    cut = bench.times(placed, [Segment(1.0, 3.2, "a", **REPLY), Segment(3.2, 4.0, "b", **REPLY)])
    assert cut["edges"] == cut["within_a_clip"] == 2 and cut["largest_error_s"] == 0
    assert bench.times(placed, [Segment(1.0, 3.2, "a", **REPLY)])["largest_error_s"] == pytest.approx(0.8)
