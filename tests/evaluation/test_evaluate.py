"""Evaluation: what a run's file says, and that nothing of it depends on how the run went."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import test_cli
from test_cli import SCRIPT, fewhertz_

import fewhertz
import fewhertz.tasks  # noqa: F401  (fills TASKS)
from fewhertz import audio, files
from fewhertz.evaluation import progress, results
from fewhertz.evaluation import runner as evaluate
from fewhertz.evaluation.bootstrap import interval, paired
from fewhertz.evaluation.metrics import METRICS
from fewhertz.evaluation.results import BASELINE, read, read_samples, run_files
from fewhertz.files import Journal, safe_name
from fewhertz.method import METHODS
from fewhertz.pocket import path
from fewhertz.tasks.base import TASKS

SAMPLES = path() / "samples" / "samples.jsonl"
TIMES = {"encode", "prefill", "decode"}
tiny = test_cli.tiny  # a fixture


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve short clips of three speakers, two of equal length, one that is asked something of its own."""
    folder = tmp_path_factory.mktemp("data")
    wave = audio.load(SAMPLES.with_name("01.flac"))
    rows = []
    for i in range(12):
        start, length = 1600 * i, 8_000 if i % 4 == 0 else 8_000 + 997 * i
        soundfile.write(folder / f"{i}.wav", wave[start : start + length], 16_000)
        rows.append({"audio": f"{i}.wav", "text": f"word {i} of many", "speaker": f"s{i % 3}", "id": f"clip-{i}"})
    rows[5]["prompt"] = "What is said?"
    file = folder / "short.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def run(model: Path, manifest: Path, out: Path, *more: object) -> object:
    return fewhertz_("eval", model, "--task", manifest, "--out", out, "--max-new-tokens", 6, "--device", "cpu", *more)


def same(file: Path) -> tuple[object, object]:
    """All of a run that must not depend on how it was run."""
    result = read(file)
    kept = ("identity", "n", "groups", "scores", "audio_tokens", "rate_hz", "new_tokens", "failed", "audio_seconds")
    samples = [{k: v for k, v in line.items() if k not in TIMES} for line in read_samples(file)]
    return {key: json.dumps(result[key]) for key in kept}, samples


@pytest.fixture(scope="module")
def done(tiny: Path, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, one sample at a time, never interrupted."""
    out = tmp_path_factory.mktemp("done")
    ended = run(tiny, manifest, out, "--method", "pool", "--method", "random(seed=3)@8Hz+sizes", "--keep", "1", "1/2")
    assert ended.exit_code == 0, ended.stderr
    assert ended.stdout.splitlines()[1].split()[:3] == ["method", "n", "Hz"]
    return out


def files_of(out: Path) -> dict[str, Path]:
    found, wrong = results.gather(out)
    assert not wrong
    return {result["method"]: file for file, result in found}


def test_a_result_says_all_there_is_to_say(done: Path, tiny: Path) -> None:
    found = files_of(done)
    assert set(found) == {BASELINE, "pool@keep=1/2", "random(seed=3)@8Hz+sizes"}
    file = found["pool@keep=1/2"]
    assert file == done / "short" / safe_name(tiny.name) / "pool@keep=1%2F2.json"
    assert not [f for f in file.parent.iterdir() if f.suffix not in (".json", ".gz") and f.name != ".lock"]
    result, lines = read(file), read_samples(file)

    assert result["n"] == len(lines) == 12 and result["groups"] == 3 and result["failed"] == []
    assert [line["id"] for line in lines] == [f"clip-{i}" for i in range(12)]
    assert result["weights_sha256"] == hashlib.sha256((tiny / "model.safetensors").read_bytes()).hexdigest()
    for key in ("task_version", "prompt", "decoding", "seed", "attention", "hardware", "versions", "citation", "date"):
        assert key in result, key
    assert result["attention"] == "sdpa" and result["peak_memory"]["bytes"] > 1e7
    assert all(result["seconds"][key] > 0 for key in TIMES)
    before = sum(line["before"] for line in lines)
    assert result["audio_tokens"] == {"before": before, "after": sum(line["after"] for line in lines)}
    assert result["rate_hz"]["after"] == pytest.approx(result["audio_tokens"]["after"] / result["audio_seconds"], 1e-4)
    assert 11 < result["rate_hz"]["after"] < 14 and 23 < result["rate_hz"]["before"] < 27

    wer, base = METRICS["wer"], read_samples(found[BASELINE])
    texts = [line["references"] for line in lines]
    stats = wer.measure(texts, [line["output"] for line in lines])
    assert [line["stats"]["wer"] for line in lines] == stats.tolist()
    assert [line["scores"]["wer"] for line in lines] == [round(wer.score(row[None]), 6) for row in stats]
    groups = [line["group"] for line in lines]
    score = result["scores"]["wer"]
    assert score["score"] == round(wer.score(stats), 6) and "normaliser:plain" in score["signature"]
    assert score["interval"] == [round(end, 6) for end in interval(wer, stats, groups)]
    difference = paired(wer, stats, wer.measure(texts, [line["output"] for line in base]), groups)
    assert [score["difference"], *score["difference_interval"]] == [round(value, 6) for value in difference]
    assert read(found[BASELINE])["scores"]["wer"]["difference"] == 0


def test_outputs_are_those_of_run(done: Path, tiny: Path, manifest: Path) -> None:
    lines = read_samples(files_of(done)["random(seed=3)@8Hz+sizes"])
    ran = fewhertz_(
        "run", tiny, manifest.parent / "0.wav", manifest.parent / "7.wav",
        "--method", "random(seed=3)@8Hz+sizes", "--max-new-tokens", 6, "--json", "--device", "cpu",
    )  # fmt: skip
    said = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["text"] for line in said] == [lines[0]["output"], lines[7]["output"]]
    assert [line["audio_tokens"] for line in said] == [lines[0]["after"], lines[7]["after"]]
    asked = fewhertz_(
        "run", tiny, manifest.parent / "5.wav", "--prompt", "What is said?",
        "--method", "random(seed=3)@8Hz+sizes", "--max-new-tokens", 6, "--device", "cpu",
    )  # fmt: skip
    assert asked.stdout.rstrip("\n") == lines[5]["output"]


def test_cells_that_exist_are_skipped(done: Path, tiny: Path, manifest: Path) -> None:
    found = files_of(done)
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in found.values()}
    again = run(tiny, manifest, done, "--method", "pool@keep=1/2")
    assert again.exit_code == 0 and " left" not in again.stderr  # nothing was run
    assert before == {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in found.values()}
    other = run(tiny, manifest, done, "--method", "pool@keep=1/2", "--limit", 5)
    assert other.exit_code == 2 and "rows (12, now 5)" in other.stderr and "keep=1.json is there with" in other.stderr
    assert len(other.stderr.splitlines()) <= 2
    prompted = run(tiny, manifest, done, "--method", "pool@keep=1/2", "--prompt", "Say it.")
    assert prompted.exit_code == 2 and "prompt (None, now Say it.)" in prompted.stderr


def test_a_trimmed_baseline_says_what_the_stock_model_says(
    done: Path, tiny: Path, manifest: Path, tmp_path: Path
) -> None:
    ended = run(tiny, manifest, tmp_path, "--method", "pool@keep=1/2", "--trim")
    assert ended.exit_code == 0, ended.stderr
    for spec in (BASELINE, "pool@keep=1/2"):
        assert same(files_of(tmp_path)[spec]) == same(files_of(done)[spec])
        assert read(files_of(tmp_path)[spec])["trim"] is True and read(files_of(done)[spec])["trim"] is False


def lists_of_one_name(folder: Path, manifest: Path) -> list[Path]:
    """The same ids and texts twice, `clean/mine.jsonl` and `noisy/mine.jsonl`, of clips that differ at their end."""
    found = []
    for name in ("clean", "noisy"):
        (folder / name).mkdir()
        wave, rate = soundfile.read(manifest.parent / "3.wav", dtype="float32")
        wave[-500:] += 0.1 * (name == "noisy")
        soundfile.write(folder / name / "a.wav", wave, rate)
        found.append(folder / name / "mine.jsonl")
        found[-1].write_text('{"audio": "a.wav", "text": "a b"}\n')
    return found


def test_a_list_of_the_same_name_and_other_audio_is_refused(tiny: Path, manifest: Path, tmp_path: Path) -> None:
    clean, noisy = lists_of_one_name(tmp_path, manifest)
    out = tmp_path / "out"
    assert run(tiny, clean, out).exit_code == 0
    (file,) = files_of(out).values()
    before = file.read_bytes()
    other = run(tiny, noisy, out)
    assert other.exit_code == 2 and "another audio_sha256" in other.stderr and len(other.stderr.splitlines()) <= 2
    assert str(clean) in other.stderr and str(noisy) in other.stderr and file.read_bytes() == before
    # the same list elsewhere is the same
    moved = tmp_path / "moved"
    clean.parent.rename(moved)
    assert run(tiny, moved / "mine.jsonl", out).exit_code == 0 and file.read_bytes() == before
    # and a broken-off run is told apart as a whole one is
    result = read(file)
    place = run_files(out, "mine", tiny.name, BASELINE)
    file.unlink()
    Journal(place.partial(0), result["identity"]).close()
    broken = run(tiny, noisy, out)
    assert broken.exit_code == 2 and "of a broken-off run with another audio_sha256" in broken.stderr
    assert str(clean) in broken.stderr and str(noisy) in broken.stderr


def test_results_from_before_audio_was_compared_are_taken_and_told(tiny: Path, manifest: Path, tmp_path: Path) -> None:
    assert run(tiny, manifest, tmp_path, "--limit", 1).exit_code == 0
    (file,) = files_of(tmp_path).values()
    old = json.loads(file.read_text())
    del old["identity"]["audio_sha256"], old["identity"]["path"]
    file.write_text(json.dumps(old))
    again = run(tiny, manifest, tmp_path, "--limit", 1)
    assert again.exit_code == 0 and "from before audio was compared" in again.stderr
    assert json.loads(file.read_text()) == old


def test_results_of_a_method_that_has_changed_are_told_or_refused(tiny: Path, manifest: Path, tmp_path: Path) -> None:
    asked = ("--limit", 1, "--method", "ward@keep=1/2")
    assert run(tiny, manifest, tmp_path, *asked).exit_code == 0
    file = files_of(tmp_path)["ward@keep=1/2"]
    new = json.loads(file.read_text())
    assert new["identity"]["revision"] == METHODS["ward"].revision == 2
    old = new | {"identity": {k: v for k, v in new["identity"].items() if k != "revision"}}
    file.write_text(json.dumps(old))
    again = run(tiny, manifest, tmp_path, *asked)
    assert again.exit_code == 0 and "before ward@keep=1/2 changed what it decides" in again.stderr
    file.write_text(json.dumps(new | {"identity": new["identity"] | {"revision": 1}}))
    refused = run(tiny, manifest, tmp_path, *asked)
    assert refused.exit_code == 2 and "revision (1, now 2)" in refused.stderr


@pytest.mark.parametrize("batch_size", [4, 7])
def test_batches_change_nothing(done: Path, tiny: Path, manifest: Path, tmp_path: Path, batch_size: int) -> None:
    ended = run(tiny, manifest, tmp_path, "--method", "pool@keep=1/2", "--batch-size", batch_size)
    assert ended.exit_code == 0, ended.stderr
    for spec in (BASELINE, "pool@keep=1/2"):
        assert same(files_of(tmp_path)[spec]) == same(files_of(done)[spec])
        assert read(files_of(tmp_path)[spec])["batch_size"] == batch_size


def test_kill_9_and_the_same_command_give_the_same_file(
    done: Path,
    tiny: Path,
    manifest: Path,
    tmp_path: Path,
) -> None:
    """Killed while it works on its third batch of six, as a real process."""
    options = ["--method", "pool@keep=1/2", "--batch-size", "2"]
    command = [SCRIPT, "eval", tiny, "--task", manifest, "--out", tmp_path, "--max-new-tokens", "6", "--device", "cpu"]
    place = run_files(tmp_path, "short", tiny.name, "pool@keep=1/2")
    process = subprocess.Popen([*map(str, command), *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while not (place.partial(0).exists() and place.partial(0).read_bytes().count(b"\n") >= 4):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()  # type: ignore[union-attr]
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()  # type: ignore[union-attr]
    assert not files_of(tmp_path)
    baseline = run_files(tmp_path, "short", tiny.name, BASELINE)
    kept = {
        one: [json.loads(line) for line in one.partial(0).read_text().splitlines()[1:4]] for one in (baseline, place)
    }
    with place.partial(0).open("ab") as torn:
        torn.write(b'{"row": 11, "output": "half a li')  # as a kill in the middle of a write leaves it

    ended = run(tiny, manifest, tmp_path, *options)
    assert ended.exit_code == 0, ended.stderr
    for one, records in kept.items():
        lines = read_samples(one.file)
        assert [line["row"] for line in lines] == list(range(12))  # no sample twice
        for record in records:  # nor run again: its times are those of the first run
            assert {key: lines[record["row"]][key] for key in TIMES} == {key: round(record[key], 6) for key in TIMES}
    for spec, file in files_of(tmp_path).items():
        assert same(file) == same(files_of(done)[spec])
    assert not place.partials() and not baseline.partials()


def test_two_processes_give_what_one_gives(done: Path, tiny: Path, manifest: Path, tmp_path: Path) -> None:
    # on a CPU accelerate starts a single process unless it is told of several GPUs, which nothing here uses
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", str(SCRIPT)]
    command = [*launch, "eval", tiny, "--task", manifest, "--out", tmp_path, "--max-new-tokens", "6", "--device", "cpu"]
    command += ["--method", "pool@keep=1/2", "--method", "random(seed=3)@8Hz+sizes"]
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=400, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("pool@keep=1/2") == 1  # one of them prints
    for spec, file in files_of(done).items():
        assert read(files_of(tmp_path)[spec])["processes"] == 2
        assert same(files_of(tmp_path)[spec]) == same(file)


def test_bad_rows_are_listed_and_the_rest_goes_on(tiny: Path, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.wav").write_bytes((manifest.parent / "1.wav").read_bytes()[:5000])
    soundfile.write(tmp_path / "long.wav", np.zeros(31 * 16_000, np.float32), 16_000)
    good = {"audio": str(manifest.parent / "0.wav"), "text": "a b"}
    rows = [good, {**good, "text": ""}, {**good, "audio": "cut.wav"}, {**good, "audio": "long.wav"}, {"x": 1}]
    rows += [{**good, "audio": "gone.wav"}, {**good, "audio": "x" * 5000}, {**good, "audio": "\ud800.wav"}]
    rows += [{**good, "text": "c d", "id": "last"}]
    file = tmp_path / "bad.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{half\n")
    ended = run(tiny, file, tmp_path / "out", "--method", "pool@keep=1/2", "--batch-size", 3)
    assert ended.exit_code == 1
    wanted = {
        2: "its reference is empty",
        3: "cut.wav is cut off or damaged",
        4: "31.0 s of audio, qwen2-audio reads 30 s at once",
        5: "no column 'audio'; it has x",
        6: "gone.wav: no such file",
        7: "…: File name too long",
        8: ".wav: no such file",
        10: "is not JSON",
    }
    found = files_of(tmp_path / "out")
    for spec in (BASELINE, "pool@keep=1/2"):
        result = read(found[spec])
        assert result["n"] == 2 and [line["id"] for line in read_samples(found[spec])] == ["0", "last"]
        listed = {int(error.split("row ")[1].split(":")[0]): error for error in result["failed"]}
        assert listed.keys() == wanted.keys()
        assert all(f"{file}, row {row}: " in listed[row] and words in listed[row] for row, words in wanted.items())
    assert all(any(f"row {row}: " in line for line in ended.stderr.splitlines()) for row in wanted)
    assert "pool@keep=1/2" in ended.stdout


def test_nothing_to_run_is_an_error(tiny: Path, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.jsonl").write_text('{"audio": "a.wav", "text": "x"}\n{"audio": "b.wav", "text": "y"}\n')
    none = run(tiny, tmp_path / "wrong.jsonl", tmp_path / "out")
    assert none.exit_code == 2 and "row 1: " in none.stderr and "all 2 rows" in none.stderr
    (tmp_path / "cut.wav").write_bytes((manifest.parent / "1.wav").read_bytes()[:5000])
    (tmp_path / "cut.jsonl").write_text('{"audio": "cut.wav", "text": "x"}\n')
    cut = run(tiny, tmp_path / "cut.jsonl", tmp_path / "out")
    assert cut.exit_code == 1 and "keep=1: no sample could be run, so there is no result" in cut.stderr
    assert not list((tmp_path / "out").rglob("*.json*"))
    for args, words in [
        (["--method", "pool"], "pool has no budget: write pool@keep=1/2 or pool@8Hz, or give eval its --keep"),
        (["--method", "nope", "--keep", "1/2"], "no method named 'nope'"),
        (["--method", "pool", "--keep", "2"], "in (0, 1]"),
        (["--method", "pool@100Hz"], "nothing to compress"),
        (["--normaliser", "x"], "no normaliser 'x'"),
    ]:
        bad = run(tiny, manifest, tmp_path / "out", *args)
        assert bad.exit_code == 2 and words in bad.stderr, bad.stderr
    unknown = fewhertz_("eval", tiny, "--task", "nope")
    assert unknown.exit_code == 2 and "no task 'nope'; known: audiocaps, audioset, clotho" in unknown.stderr


def test_a_metric_that_cannot_be_had_is_absent_by_name(
    tiny: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEWHERTZ_MINILM", str(tmp_path / "nowhere"))
    file, out = tmp_path / "english.jsonl", tmp_path / "out"
    file.write_text(json.dumps({"audio": str(manifest.parent / "0.wav"), "text": "a b", "lang": "en"}), "utf-8")
    ended = run(tiny, file, out)
    assert ended.exit_code == 0 and "meaning is not measured: " in ended.stderr and "FEWHERTZ_MINILM" in ended.stderr
    (found,) = files_of(out).values()
    result = read(found)
    assert list(result["scores"]) == ["wer"] and "nowhere has no model" in result["absent"]["meaning"]
    page = tmp_path / "page.html"
    assert fewhertz_("report", out, "--out", page).exit_code == 0
    assert "meaning is not measured everywhere: " in page.read_text("utf-8")
    # a result that has it is taken where it cannot be measured
    result["scores"]["meaning"] = result["scores"]["wer"]
    result["identity"]["metrics"].append("Meaning(normaliser='plain')")
    found.write_text(json.dumps(result), "utf-8")
    assert run(tiny, file, out).exit_code == 0 and json.loads(found.read_text("utf-8")) == result
    result["identity"]["metrics"].append("Other()")
    found.write_text(json.dumps(result), "utf-8")
    assert run(tiny, file, out).exit_code == 2


def test_a_missing_extra_is_told_before_any_work(
    tiny: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    ended = run(tiny, manifest, tmp_path / "out")
    assert ended.exit_code == 2 and "jiwer is not installed: pip install 'fewhertz[eval]'" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_scores_are_printed_whatever_the_terminal_can_write(done: Path, tiny: Path, manifest: Path) -> None:
    """Their real minus signs too."""
    command = [SCRIPT, "eval", tiny, "--task", manifest, "--out", done, "--max-new-tokens", "6", "--device", "cpu"]
    own = os.environ | {"PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([*map(str, command)], env=own, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "keep=1" in ended.stdout and "\\u2212" in ended.stdout, ended.stderr


def damage(file: Path, how: str) -> None:
    beside = file.with_name(read(file)["samples"]["file"])
    if how == "half a result":
        file.write_bytes(file.read_bytes()[:200])
    elif how == "another format":
        file.write_text('{"format": 99}')
    elif how == "half its samples":
        beside.write_bytes(beside.read_bytes()[:-40])
    elif how == "no samples":
        beside.unlink()
    elif how == "a bad row":
        lines = gzip.decompress(beside.read_bytes()).splitlines(keepends=True)
        beside.write_bytes(gzip.compress(b"".join([*lines[:2], b"{\n", *lines[3:]])))
    else:
        lines = gzip.decompress(beside.read_bytes()).splitlines(keepends=True)
        beside.write_bytes(gzip.compress(b"".join(lines[:-1])))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("half a result", "pool@keep=1%2F2.json is damaged"),
        ("another format", "pool@keep=1%2F2.json is no result file of format 1"),
        ("half its samples", "samples.jsonl.gz is damaged"),
        ("no samples", "samples.jsonl.gz is missing"),
        ("a bad row", "samples.jsonl.gz, row 3 is damaged"),
        ("a row less", "is not what pool@keep=1%2F2.json was made from"),
    ],
)
def test_damaged_results_are_named_kept_and_made_again(
    tiny: Path,
    manifest: Path,
    tmp_path: Path,
    how: str,
    words: str,
) -> None:
    ended = run(tiny, manifest, tmp_path, "--method", "pool@keep=1/2", "--limit", 2)
    assert ended.exit_code == 0, ended.stderr
    file = files_of(tmp_path)["pool@keep=1/2"]
    whole = same(file)
    damage(file, how)
    with pytest.raises(ValueError) as error:
        read_samples(file)
    assert words in str(error.value) and "run" in str(error.value) and "\n" not in str(error.value)
    again = run(tiny, manifest, tmp_path, "--method", "pool@keep=1/2", "--limit", 2)
    assert again.exit_code == 1 and words in again.stderr and "it is measured again" in again.stderr
    assert same(file) == whole and file.with_name(f"{file.name}.damaged").exists()
    assert run(tiny, manifest, tmp_path, "--method", "pool@keep=1/2", "--limit", 2).exit_code == 0


def swap_samples(file: Path, packed: bytes) -> None:
    """Give a result other samples, and their hash."""
    result = read(file)
    file.with_name(result["samples"]["file"]).write_bytes(packed)
    result["samples"]["sha256"] = hashlib.sha256(packed).hexdigest()
    file.write_text(json.dumps(result), "utf-8")


READ = """
import resource, sys
from pathlib import Path
from fewhertz.evaluation import results
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    results.read_samples(Path(sys.argv[1]))
except ValueError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    ("line", "times", "words"),
    [(b"{}\n", 80_000_000, "row 1 is damaged"), (None, 1000, "unpacks to more than 64 MB")],
    ids=["240 MB of nothing", "samples without end"],
)
def test_samples_that_unpack_without_end_are_refused(
    done: Path, tmp_path: Path, line: bytes | None, times: int, words: str
) -> None:
    """In a process of its own, whose memory is looked at."""
    source = files_of(done)[BASELINE]
    file = Path(shutil.copytree(source.parent, tmp_path / "copy")) / source.name
    if line is None:
        line = json.dumps(read_samples(file)[0] | {"output": "x" * 80_000}).encode() + b"\n"
    swap_samples(file, gzip.compress(line * times, 1))
    ended = subprocess.run([sys.executable, "-c", READ, file], capture_output=True, text=True, check=True)
    said, megabytes = ended.stdout.splitlines()
    assert words in said and str(file.parent) in said and int(megabytes) < 400


def test_a_result_with_a_row_twice_or_another_n_is_neither_written_nor_read(done: Path, tmp_path: Path) -> None:
    source = files_of(done)[BASELINE]
    file = Path(shutil.copytree(source.parent, tmp_path / "copy")) / source.name
    place, result, lines = results.RunFiles(file.parent, BASELINE), read(file), read_samples(file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"keep=1\.json is not written: row 3 is there twice"):
        results.write(place, result | {"n": 13}, [*lines, lines[3]])
    with pytest.raises(ValueError, match="is not written: n is 12, its samples are 11"):
        results.write(place, result, lines[1:])
    assert file.read_bytes() == before
    for kept, words in [
        ([*lines[:-1], lines[0]], "row 0 is there twice"),
        (lines[1:], "n is 12, its samples are 11"),
        ([*lines[:-1], lines[0] | {"row": [3]}], r"row \[3\] is no number"),
    ]:
        swap_samples(file, gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in kept)))
        with pytest.raises(ValueError, match=rf"samples\.jsonl\.gz is damaged \({words}\)"):
            read_samples(file)
    file.write_text(json.dumps(result | {"n": 39}), "utf-8")
    with pytest.raises(ValueError, match=r"keep=1\.json is damaged \(n is 39, of 12 rows 0 failed\)"):
        read(file)


def test_what_is_no_result(done: Path, tmp_path: Path) -> None:
    source = files_of(done)[BASELINE]
    text = source.read_text("utf-8")
    file = tmp_path / "t" / "m" / "keep=1.json"
    with pytest.raises(ValueError, match=r"keep=1\.json is missing: run it"):
        read(file)
    file.parent.mkdir(parents=True)
    for changed, words in [
        (json.loads(text) | {"samples": None}, "samples is None"),
        (json.loads(text) | {"scores": [1]}, r"scores is \[1\]"),
        (json.loads(text) | {"seed": math.inf}, "Infinity is no number"),
        (json.loads(text) | {"seed": math.nan}, "NaN is no number"),
        (json.loads(text) | {"n": "12"}, "n is 12"),
    ]:
        file.write_text(json.dumps(changed), "utf-8")
        with pytest.raises(ValueError, match=words) as error:
            read(file)
        assert str(file) in str(error.value) and "\n" not in str(error.value)
        ended = fewhertz_("report", tmp_path, "--out", tmp_path / "page.html")
        assert ended.exit_code == 2 and str(file) in ended.stderr and len(ended.stderr.splitlines()) == 1


# As a user's own program has it: two of these at once, folder after folder.
AT_ONCE = """
import sys
import fewhertz.tasks
from fewhertz.evaluation import runner as evaluate
from fewhertz.tasks.base import TASKS
model, manifest = sys.argv[1:]
print("ready", flush=True)
for out in sys.stdin:
    try:
        task = TASKS["manifest"](data=manifest)
        done = evaluate.evaluate(model, task, ["pool@keep=1/2"], out.strip(), max_new_tokens=4, device="cpu")
        print("done", done.errors, flush=True)
    except ValueError as error:
        print("refused", error, flush=True)
"""


def test_two_evals_at_once(tiny: Path, manifest: Path, tmp_path: Path) -> None:
    """Whoever comes second is told who is first, or finds all done; no sample is there twice."""
    command = [sys.executable, "-c", AT_ONCE, str(tiny), str(manifest)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = []
    try:
        assert all(one.stdout.readline() == "ready\n" for one in both)
        for turn in range(4):
            for one in both:
                one.stdin.write(f"{tmp_path / str(turn)}\n")
                one.stdin.flush()
            said.append([one.stdout.readline() for one in both])
            for spec in (BASELINE, "pool@keep=1/2"):
                file = run_files(tmp_path / str(turn), "short", tiny.name, spec).file
                assert read(file)["n"] == 12 and [line["row"] for line in read_samples(file)] == list(range(12))
    finally:
        for one in both:
            one.communicate()
    for answers in said:
        assert any(answer == "done []\n" for answer in answers)
        for own, answer in zip(both, answers, strict=True):
            other = next(one for one in both if one is not own)
            assert answer == "done []\n" or f"is in use by process {other.pid} on " in answer


HOLD = """
import sys, time
from pathlib import Path
from fewhertz import files
with files.held([Path(sys.argv[1])]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_names_its_holder_and_ends_with_it(tiny: Path, manifest: Path, tmp_path: Path) -> None:
    folder = run_files(tmp_path, "short", tiny.name, BASELINE).folder
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        refused = run(tiny, manifest, tmp_path, "--limit", 1)
        assert refused.exit_code == 2 and len(refused.stderr.splitlines()) <= 2
        words = f"{folder} is in use by process {holder.pid} on {platform.node()} since 2"
        assert words in refused.stderr.replace("\n", " ") and not list(folder.glob("*.json*"))
    finally:
        holder.kill()
        holder.communicate()
    assert (folder / ".lock-holder").exists()  # as one that was killed leaves it
    (folder / f".keep=1.json.{holder.pid}").write_text("half")
    ended = run(tiny, manifest, tmp_path, "--limit", 1)
    assert ended.exit_code == 0, ended.stderr
    assert sorted(os.listdir(folder)) == [".lock", "keep=1.json", "keep=1.samples.jsonl.gz"]


def test_gather_goes_on_past_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "t" / "m").mkdir(parents=True)
    (tmp_path / "t" / "m" / "x.json").write_text("{")
    found, wrong = results.gather(tmp_path)
    assert not found and len(wrong) == 1 and "x.json is damaged" in wrong[0]


def test_differences_are_taken_on_what_both_have(tmp_path: Path, manifest: Path, tiny: Path) -> None:
    """A row that failed in one run alone leaves both sides of the pair, also where a score is over the whole set."""
    file = tmp_path / "captions.jsonl"
    texts = ["rain falls", "a dog barks", "wind blows", "rain on a roof"]
    rows = [{"audio": str(manifest.parent / f"{i}.wav"), "captions": [text]} for i, text in enumerate(texts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = TASKS["manifest"](data=str(file))
    out = tmp_path / "out"
    evaluate.evaluate(tiny, task, ["pool@keep=1/2"], out, max_new_tokens=3, device="cpu")
    base, pool = (run_files(out, "captions", tiny.name, spec) for spec in (BASELINE, "pool@keep=1/2"))
    result = read(base.file)
    lines = [{**line, "output": text} for line, text in zip(read_samples(base.file), reversed(texts), strict=True)]
    del result["samples"]
    result |= {"n": 3, "failed": ["the last row"]}
    results.write(base, result, lines[:3])  # the baseline lacks the last row, and said something
    pool.file.unlink()
    evaluate.evaluate(tiny, task, ["pool@keep=1/2"], out, max_new_tokens=3, device="cpu")
    cider = METRICS["cider"]
    said = [line["output"] for line in read_samples(pool.file)]
    references = [[text] for text in texts]
    a, b = cider.measure(references[:3], said[:3]), cider.measure(references[:3], [x["output"] for x in lines[:3]])
    wanted = paired(cider, a, b)
    score = read(pool.file)["scores"]["cider"]
    assert [score["difference"], *score["difference_interval"]] == [round(value, 6) for value in wanted]
    assert wanted[0] < 0 and score["score"] == round(cider.score(cider.measure(references, said)), 6)


def test_pocket_on_its_bundled_samples(tmp_path: Path) -> None:
    """Real speech, real words: half the tokens by optimal use of them still beats dropping every other one."""
    ended = fewhertz_(
        "eval", "pocket", "--task", SAMPLES, "--limit", 5, "--method", "segment@keep=1/2+time+sizes",
        "--method", "stride@keep=1/2", "--max-new-tokens", 24, "--out", tmp_path, "--batch-size", 5, "--device", "cpu",
    )  # fmt: skip
    assert ended.exit_code == 0, ended.stderr
    found = {spec: read(file)["scores"]["wer"] for spec, file in files_of(tmp_path).items()}
    assert found[BASELINE]["score"] < 40
    assert found["segment@keep=1/2+time+sizes"]["score"] < found["stride@keep=1/2"]["score"]
    assert math.isclose(read(files_of(tmp_path)[BASELINE])["rate_hz"]["after"], 25, abs_tol=0.3)


def test_a_checkpoint_that_wears_a_method_is_compared_with_itself_without(
    tiny: Path,
    manifest: Path,
    tmp_path: Path,
    done: Path,
) -> None:
    fewhertz_("compress", tiny, "--method", "pool@keep=1/2", "--out", tmp_path / tiny.name)
    ended = run(tmp_path / tiny.name, manifest, tmp_path / "out")
    assert ended.exit_code == 0, ended.stderr
    found = files_of(tmp_path / "out")
    assert set(found) == {BASELINE, "pool@keep=1/2"}
    for spec, file in found.items():
        assert same(file) == same(files_of(done)[spec])


def test_specs_of_a_grid() -> None:
    assert evaluate.specs([]) == [BASELINE]
    assert evaluate.specs(["pool", "ltbm(window=0.2s)+time"], ["1", "1/2"]) == [
        BASELINE,
        "pool@keep=1/2",
        "ltbm(window=0.2s)@keep=1/2+time",
    ]
    assert evaluate.specs(["pool@8Hz", "unseg", "pool@keep=0.5", "pool"], ["1/2"]) == [
        BASELINE,
        "pool@8Hz",
        "unseg",
        "pool@keep=1/2",
    ]
    assert evaluate.specs(["pool@keep=1"]) == [BASELINE]


def test_names_are_safe_and_tell_each_other_apart() -> None:
    texts = ["a/b", "a%2Fb", "..", ".", "../../etc/passwd", "a b", "A then B", "ü", "x" * 300, "x" * 301, "a\x00b"]
    texts += ["pool@keep=1/3+time+sizes", "ltbm(window=0.32s)@8Hz", "-rf", "con\nname", "C:\\x", "*", "[a]"]
    names = [safe_name(text) for text in texts]
    assert len(set(names)) == len(names)
    for name in names:
        assert name == Path(name).name and len(name) < 130 and name.isascii() and name.isprintable()
        assert not name.startswith(".") and not set(name) & set('/\\:*?"<>|[]\n\x00 ')
    assert safe_name("pool@keep=1/3+time") == "pool@keep=1%2F3+time"
    with pytest.raises(ValueError, match="needs a name"):
        safe_name("")


def test_journals(tmp_path: Path) -> None:
    file, identity = tmp_path / "a" / "x.partial-0.jsonl", {"task": "t", "rows": 3}
    journal = Journal(file, identity)
    journal.add([{"row": 0}, {"row": 1, "output": "a\u2028b\n"}])
    journal.close()
    with file.open("ab") as torn:
        torn.write('{"row": 2, "output": "ü'.encode()[:-1])
    assert [r["row"] for r in files.read_journal(file, identity)] == [0, 1]
    journal = Journal(file, identity)
    journal.add([{"row": 2}])
    journal.close()
    records = files.read_journal(file, identity)
    assert [r["row"] for r in records] == [0, 1, 2] and records[1]["output"] == "a\u2028b\n"
    with pytest.raises(ValueError, match=r"x\.partial-0\.jsonl is of a broken-off run with another rows \(3, now 4\)"):
        Journal(file, {**identity, "rows": 4})
    content = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*content[:2], b"garbage\n", *content[3:]]))
    with pytest.raises(ValueError, match=r"x\.partial-0\.jsonl, row 3 is damaged"):
        files.read_journal(file, identity)
    (tmp_path / "head.jsonl").write_bytes(b'{"identi')  # killed while the first line was written
    Journal(tmp_path / "head.jsonl", identity).close()
    assert files.read_journal(tmp_path / "head.jsonl", identity) == []


def test_writing_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    files.replace(file, b"old")

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.replace(file, b"new")
    assert file.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.json"]


def test_progress_says_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    work = progress.Progress(100, said.append)
    work.skip(20)
    for second in range(1, 41):
        now[0] = float(second)
        work.advance("t, pool", 2)
    assert said[0] == "t, pool: 40 of 100, 30 s left" and said[-1] == "t, pool: 100 of 100, 0 s left"
    assert len(said) == 4
