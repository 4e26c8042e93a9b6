"""`bench/peers.py` times what it finds in checkouts, and finds nothing where there is nothing.

The checkouts are made up: files with the name and the signature of the published function, and code of our own.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import benches
import pytest
import typer

RESULT = benches.ROOT / "results" / "bench" / "peers.json"

TOME = """
from fewhertz.method import Clip
from fewhertz.methods.global_merge import GlobalMerge


def bipartite_soft_matching(metric, r, class_token=False, distill_token=False):
    plan = GlobalMerge(keep=1).assign(metric, metric.shape[1] - r, Clip(25.0))
    return plan.apply, None


def merge_wavg(merge, x, size=None):
    return merge(x).flip(1), None
"""

EVS = """
import torch


def compute_retention_mask(video_embeds, video_size_thw, spatial_merge_size, q):
    n = video_size_thw[0]
    return torch.arange(n) < int(n * (1 - q))
"""


def checkout(folder: Path, file: str, text: str) -> Path:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(text, encoding="utf-8")
    return folder


def test_quick_run_on_made_up_checkouts(tmp_path: Path) -> None:
    tome = checkout(tmp_path / "ToMe", "tome/merge.py", TOME)
    checkout(tome, "tome/__init__.py", "raise SystemExit('the package is not what is asked for')\n")
    evs = checkout(tmp_path / "vllm", "vllm/multimodal/evs.py", EVS)
    run, result = benches.quick("peers", tmp_path / "peers.json", f"--tome={tome}", f"--evs={evs}")
    assert [(row["peer"], row["method"], row["clips"]) for row in result["rows"]] == [
        ("tome", "global-merge", 1),
        ("tome", "global-merge", 2),
        ("evs", "evs", 1),
        ("evs", "evs", 2),
    ]
    for row in result["rows"]:
        assert row["kept"] == [20, 20] and row["same_count"]
        assert 0 < row["range"][0] <= row["theirs_over_ours"] <= row["range"][1]  # of two rounds
        assert not [name for name in row if "seconds" in name]
    # the same tokens in another order, and those of a rule that looks at none of them
    assert [row["found_again"] for row in result["rows"][:2]] == [1.0, 1.0]
    assert all(0 < row["found_again"] < 1 for row in result["rows"][2:])
    blob = subprocess.run(
        ["git", "hash-object", tome / "tome" / "merge.py"], capture_output=True, text=True, check=True
    )
    assert result["peers"]["tome"]["git_blob"] == blob.stdout.strip()
    assert result["quick"] and "commit" in result["environment"] and "theirs over ours" in run.stdout


@pytest.mark.parametrize("text", [None, "import no_such_module_anywhere\n", "def something_else(): ...\n"])
def test_a_folder_that_is_no_checkout_is_refused(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = benches.load("peers")
    if text is not None:
        checkout(tmp_path, "tome/merge.py", text)
    with pytest.raises(typer.Exit) as refused:
        bench.main(tmp_path / "out.json", tome=tmp_path)
    said = capsys.readouterr().err
    assert refused.value.exit_code == 2 and not (tmp_path / "out.json").exists()
    assert said.count("\n") == 1 and "git clone https://github.com/facebookresearch/ToMe" in said


def test_one_checkout_at_least(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as refused:
        benches.load("peers").main(tmp_path / "out.json")
    assert refused.value.exit_code == 2 and "--visionzip" in capsys.readouterr().err


NAMES = {
    "tome": "ToMe",
    "fastadasp": "FastAdaSP",
    "visionzip": "VisionZip",
    "cdpruner": "CDPruner",
    "vispruner": "VisPruner",
    "divprune": "DivPrune",
    "evs": "EVS",
}


def test_the_pages_figures_are_those_of_the_committed_result() -> None:
    bench, result = benches.load("peers"), json.loads(RESULT.read_text("utf-8"))
    assert not result["quick"] and "dirty" not in result["environment"]["commit"]
    assert {name: result["configuration"][name] for name in bench.FULL} == bench.FULL
    assert list(result["peers"]) == list(bench.PEERS) == list(NAMES)
    page = " ".join((benches.ROOT / "docs" / "methods.md").read_text("utf-8").split())
    for name, word in NAMES.items():
        rows = [row for row in result["rows"] if row["peer"] == name]
        over = [row["theirs_over_ours"] for row in rows]
        assert len(rows) == 4 and min(row["rounds"] for row in rows) >= 5
        called = f"{word} (`{rows[0]['method']}`)" if rows[0]["method"] != name else word
        assert f"{called} {min(over):.1f} to {max(over):.1f}" in page
        assert all(row["same_count"] for row in rows)
        assert result["peers"][name]["differs"] == (bench.PEERS[name].differs or None)


def test_tokens_are_the_same_where_definitions_are() -> None:
    result = json.loads(RESULT.read_text("utf-8"))
    for row in result["rows"]:
        if result["peers"][row["peer"]]["differs"] is None:
            assert row["found_again"] > 0.999
        if row["peer"] == "visionzip":  # all dominant tokens, no contextual one
            m = row["kept"][0]
            assert row["found_again"] == pytest.approx(1 - int(0.18 * m + 0.5) / m)
    others = [name for name, peer in result["peers"].items() if peer["differs"]]
    page = " ".join((benches.ROOT / "docs" / "methods.md").read_text("utf-8").split())
    assert f"defined otherwise ({', '.join(NAMES[name] for name in others)})" in page
