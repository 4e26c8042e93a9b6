"""The papers' tables, whole, on a small random model and local files in the data sets' formats."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import test_cli
import torch

from fewhertz.checkpoint import open_checkpoint
from fewhertz.evaluation.results import BASELINE
from recipes.papers import estimate
from recipes.papers.__main__ import main
from recipes.papers.page import lost
from recipes.papers.papers import PAPERS

tiny = test_cli.tiny  # a fixture
NAMES = ["a.wav", "b.wav"]


def table(file: Path, rows: list[dict[str, str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each task, with two clips and the fields of its data set."""
    root = tmp_path_factory.mktemp("data")
    captions = {f"caption_{i}": f"a tone number {i}" for i in range(1, 6)}
    table(root / "clotho" / "clotho_captions_evaluation.csv", [{"file_name": name, **captions} for name in NAMES])
    table(
        root / "audiocaps" / "test.csv",
        [{"youtube_id": name[0], "start_time": "0", "caption": "a tone"} for name in NAMES],
    )
    asked = [
        {"id": name, "audio_id": name, "question": "What?", "choices": ["a tone", "a dog"], "answer": "a tone"}
        for name in NAMES
    ]
    (root / "mmau").mkdir()
    (root / "mmau" / "mmau-test-mini.json").write_text(json.dumps(asked), "utf-8")
    rows = [
        {"audio": name, "text": "A TONE", "id": name, "speaker_id": i, "chapter_id": i} for i, name in enumerate(NAMES)
    ]
    (root / "librispeech").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "librispeech" / "test.jsonl").write_text(lines, "utf-8")
    table(
        root / "commonvoice" / "test.tsv",
        [{"client_id": name, "path": name, "sentence": "A tone, no more."} for name in NAMES],
    )
    table(
        root / "covost2" / "covost_v2.de_en.test.tsv",
        [{"path": name, "sentence": "Ein Ton", "translation": "a tone", "client_id": name} for name in NAMES],
    )
    for task in ("clotho", "audiocaps", "mmau", "librispeech", "commonvoice", "covost2"):
        folder = root / task / "audio"
        folder.mkdir()
        for i, name in enumerate(NAMES):
            wave = 0.1 * np.sin(np.arange(6000 + 997 * i) / 20)
            soundfile.write(folder / name, wave.astype(np.float32), 16_000)
    return root


def run(paper: str, model: Path, data: Path, out: Path, *more: str) -> int:
    common = ["--max-new-tokens", "3", "--device", "cpu", "--batch-size", "2"]
    return main([paper, "--model", str(model), "--data", str(data), "--out", str(out), *common, *more])


@pytest.mark.parametrize("paper", PAPERS)
def test_a_papers_table(paper: str, tiny: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(paper, tiny, data, tmp_path) == 0
    said = capsys.readouterr().out
    assert "h here" in said and "in all about" in said
    content = json.loads((tmp_path / f"{paper}.json").read_text("utf-8"))
    page = (tmp_path / f"{paper}.md").read_text("utf-8")
    one = PAPERS[paper]
    assert one.link in page and one.ours in page
    for asked in one.asked:
        assert asked.label in content["estimated"] and f"## {asked.label}, {tiny.name}" in page
        mine = [row for row in content["rows"] if row["task"] == asked.label]
        assert {row["method"].partition("@")[0].partition("(")[0] for row in mine} >= {
            method.partition("(")[0] for method in one.methods
        }
        assert BASELINE in {row["method"] for row in mine} and all(row["n"] == 2 for row in mine)
        assert {*asked.also} <= {row["metric"] for row in mine}
    shown = [row for row in content["rows"] if row["published"] is not None]
    assert len(shown) == len(one.published) and all(row["where"] for row in shown)
    # called anew it runs nothing, and writes the same
    assert run(paper, tiny, data, tmp_path) == 0
    assert (tmp_path / f"{paper}.md").read_text("utf-8") == page
    assert " of " not in capsys.readouterr().out.partition("in all")[2].partition("\n")[2]


def test_what_lacks_is_left_out_and_said(tiny: Path, data: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    (part / "clotho").symlink_to(data / "clotho")
    assert run("C", tiny, part, tmp_path / "out", "--limit", "1", "--more", "ward+time+sizes") == 0
    content = json.loads((tmp_path / "out" / "C.json").read_text("utf-8"))
    assert any("mmau: no folder" in note for note in content["notes"])
    assert {row["task"] for row in content["rows"]} == {"clotho"} and all(row["n"] == 1 for row in content["rows"])
    assert "ward@keep=1/4+time+sizes" in {row["method"] for row in content["rows"]}


def test_an_estimate_alone_measures_nothing(
    tiny: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("C", tiny, data, tmp_path, "--estimate") == 0
    assert not list(tmp_path.iterdir()) and "without activations" in capsys.readouterr().out


def test_an_estimate_grows_with_what_is_asked(tiny: Path, data: Path) -> None:
    from fewhertz.tasks import named

    checkpoint, speed = open_checkpoint(tiny), estimate.Speed(1e9, 1e9)
    task = named(
        "clotho", data=str(data / "clotho" / "clotho_captions_evaluation.csv"), audio=data / "clotho" / "audio"
    )
    samples = task.samples()
    how = {"batch_size": 1, "max_new_tokens": 8}
    one = estimate.estimate(checkpoint, samples, [BASELINE], speed, **how)
    half = estimate.estimate(checkpoint, samples, [BASELINE, "pool@keep=1/2"], speed, **how)
    assert one.samples == 2 and one.audio_hours == pytest.approx((6000 + 6997) / 16_000 / 3600)
    assert one.operations < half.operations < 2 * one.operations
    weights = sum(p.numel() for p in torch.nn.ModuleList([estimate.meta(checkpoint)]).parameters())
    assert one.memory > 4 * weights


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["A", "--model", "nowhere/at-all", "--data", "."], "nowhere"),
        (["C", "--model", "pocket", "--data", "/nowhere"], "no data for any task of C"),
    ],
)
def test_what_cannot_be_used(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert why in capsys.readouterr().err


def test_losses() -> None:
    assert lost({"score": 0.9, "higher_is_better": True}, 1.0) == 10
    assert lost({"score": 11.0, "higher_is_better": False}, 10.0) == 10
    assert lost({"score": 1.0, "higher_is_better": True}, 0.0) is None
