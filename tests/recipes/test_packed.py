"""Packed results: nothing of a run is lost, few files, and figures that stay."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packing import store

from fewhertz.evaluation import results
from fewhertz.files import Record
from recipes.research import pack
from recipes.research.grids.lora import THIRD
from recipes.research.grids.training_free import GERMAN
from recipes.research.packed import SUMMARY, Column, Packed, file_of, flat, nested, unpack
from recipes.research.packed import pack as columns
from recipes.research.tasks import LORA, MAIN, MODEL, REPO, RESULTS, STRINGS

ONE, TWO = "1" * 40, "2" * 40


def files(root: Path) -> dict[str, bytes]:
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Some of what is committed of German: runs of the model and of adapters on it."""
    root = tmp_path / "packed"
    wanted = (results.BASELINE, "pool@keep=1/2", "pool@keep=1/3", "ward@tolerance=0.3+time+sizes")
    for part in (MAIN, LORA):
        runs = Packed(RESULTS).runs(part, GERMAN.label, MODEL)
        some = [one for (_, spec), one in runs.items() if spec in wanted]
        target = file_of(root / part, MODEL)
        target.parent.mkdir(parents=True)
        target.write_bytes(columns([(one.commit, one.record, one.samples()) for one in some]))
    shutil.copy(RESULTS / LORA / "trainings.jsonl", root / LORA)
    return root


def test_loose_files_are_packed_and_come_back_byte_by_byte(packed: Path, tmp_path: Path) -> None:
    loose, again, back = tmp_path / "loose", tmp_path / "again", tmp_path / "back"
    assert pack.unpack_all(packed, loose) == 7
    assert pack.pack(loose, again, lambda _: ONE) == 7
    assert pack.unpack_all(again, back) == 7
    assert files(back) == files(loose)
    assert len(list(loose.rglob("*.samples.jsonl.gz"))) == 7 and (loose / LORA / f"{THIRD.name}.json").exists()
    result = results.read(results.run_files(loose, GERMAN.label, MODEL, results.BASELINE).file)
    kept = Packed(packed).runs(MAIN, GERMAN.label, MODEL)[MODEL, results.BASELINE]
    assert result["scores"] == kept.record["scores"]
    commits = {json.loads(line)["commit"] for line in (again / SUMMARY).read_text("utf-8").splitlines()}
    assert commits == {ONE}


def test_what_is_packed_stays_and_keeps_its_commit(packed: Path, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    pack.unpack_all(packed, loose)
    before = files(packed)
    for file in loose.rglob("keep=1*"):
        file.unlink()  # what is not measured again
    assert pack.pack(loose, packed, lambda _: TWO) == 4
    after = files(packed)
    assert before == {name: after[name] for name in before} and set(after) - set(before) == {SUMMARY}

    place = results.run_files(loose, GERMAN.label, MODEL, "pool@keep=1/3")
    changed, samples = results.read(place.file), results.read_samples(place.file)
    results.write(place, changed | {"seed": 7}, samples)
    pack.pack(loose, packed, lambda _: TWO)
    runs = Packed(packed).runs(MAIN, GERMAN.label, MODEL)
    assert runs[MODEL, "pool@keep=1/3"].commit == TWO and runs[MODEL, "pool@keep=1/3"].record["seed"] == 7
    assert runs[MODEL, results.BASELINE].commit != TWO
    # a file that is there is not overwritten
    assert pack.unpack_all(packed, loose) == 3


RESULT: Record = {"task": "t", "model": "m", "method": "pool@8Hz", "n": 2, "scores": {}, "adapter": None}
SAMPLES: list[Record] = [{"row": i, "id": f"ä{i}", "group": None, "stats": {"wer": [1.0, 2]}, "x": 1} for i in range(2)]


@pytest.mark.parametrize(
    "others",
    [
        [],
        [(RESULT | {"method": "b"}, SAMPLES)],
        [(RESULT | {"method": "b", "more": {"deep": {}}}, SAMPLES)],
        [(RESULT | {"method": "b", "n": 2.0}, [one | {"x": True} for one in SAMPLES])],
        [(RESULT | {"method": "b"}, [one | {"x": one["row"], "new": [one["row"], "é"]} for one in SAMPLES])],
        [(RESULT | {"method": "b", "n": 1}, SAMPLES[:1]), (RESULT | {"method": "c"}, SAMPLES[::-1])],
    ],
)
def test_any_runs_come_back_as_they_were(tmp_path: Path, others: list[tuple[Record, list[Record]]]) -> None:
    runs = [(RESULT, SAMPLES), *others]
    store(tmp_path, runs)
    (file,) = tmp_path.rglob("*.json.xz")
    found = unpack(file)["t"]
    assert len(found) == len(runs)
    for result, samples in runs:
        one = found["m", result["method"]]
        assert json.dumps([one.record, one.samples()]) == json.dumps(
            [result, samples]
        )  # order and kinds of numbers too
    assert file.read_bytes() == columns([("0" * 40, *run) for run in runs[::-1]])  # in whatever order they come


def test_a_column_says_what_it_depends_on() -> None:
    def by(values: list[list[Any]]) -> str:
        column = Column.of(("x",), values)
        assert [column.run(i, len(values), len(values[0])) for i in range(len(values))] == values
        return column.by

    assert by([[1, 1], [1, 1]]) == "" and by([[1, 2], [1, 2]]) == "row"
    assert by([[1, 1], [2, 2]]) == "run" and by([[1, 2], [2, 1]]) == by([[1, 1], [1, True]]) == "both"


def test_nested_objects_are_laid_flat_and_back() -> None:
    record = {"a": {"b": 1, "c": {"d": [1], "e": {}}}, "f": None}
    assert list(flat(record)) == [("a", "b"), ("a", "c", "d"), ("a", "c", "e"), ("f",)]
    assert json.dumps(nested(flat(record).items())) == json.dumps(record)


@pytest.mark.parametrize("content", [b"", b"no xz", columns([(ONE, RESULT, SAMPLES)])[:-20]])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.json.xz"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json\.xz is damaged"):
        unpack(file)


def test_samples_with_different_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="its samples have different keys"):
        columns([(ONE, RESULT, [SAMPLES[0], SAMPLES[1] | {"more": 1}])])


def test_a_change_that_is_not_committed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    monkeypatch.setattr(pack, "REPO", tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("1")
    for words in (["init"], ["add", "."], ["commit", "-m", "a"]):
        git(*words)
    assert re.fullmatch(r"[0-9a-f]{40}", pack.head(tmp_path))
    (tmp_path / "src" / "a.py").write_text("2")
    with pytest.raises(ValueError, match="changes that are not committed"):
        pack.head(tmp_path)


def test_the_command_unpacks(packed: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recipes.research.pack", "unpack", str(packed), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=False)
    assert done.returncode == 0 and "7 runs unpacked" in done.stdout, done.stderr


# --- what is committed


def test_results_are_few_and_small() -> None:
    """Of what is committed; a working copy may hold more."""
    listed = subprocess.run(["git", "ls-files", "results"], capture_output=True, text=True, cwd=REPO, check=False)
    names = listed.stdout.split("\n")[:-1] or [str(file) for file in RESULTS.rglob("*") if file.is_file()]
    there = [REPO / name for name in names if (REPO / name).exists()]
    assert 0 < len(there) <= 60 and sum(file.stat().st_size for file in there) <= 4_000_000


def test_the_summary_is_that_of_the_packed_runs(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (RESULTS / SUMMARY).read_text("utf-8").splitlines()]
    assert len({(one["part"], one["task"], one["model"], one["spec"]) for one in lines}) == len(lines) > 2000
    for one in lines:
        assert re.fullmatch(r"[0-9a-f]{40}", one["commit"]), one
    of = {one["spec"]: one for one in lines if (one["part"], one["task"], one["model"]) == (MAIN, STRINGS.label, MODEL)}
    for (_, spec), stored in Packed(RESULTS).runs(MAIN, STRINGS.label, MODEL).items():
        score = of[spec]["scores"]["wer"]
        assert score["score"] == stored.run.scores["wer"].value and of[spec]["hz"] == stored.run.rate
        assert (of[spec]["commit"], of[spec]["n"]) == (stored.commit, stored.run.n)
        assert "torch" in stored.record["versions"] and stored.record["hardware"]["device"]
