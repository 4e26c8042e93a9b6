"""`fewhertz batch`: every clip once, whatever happens on the way, and the texts that transformers gives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import fewhertz
from fewhertz import audio, run
from fewhertz.cli import app
from fewhertz.pocket import path
from fewhertz.segments import written
from fewhertz.transcription import transcribe

SAMPLES = sorted((path() / "samples").glob("*.flac"))
METHOD = "pool@keep=1/2"
OPTIONS = ["--dtype=float32", "--enforce-eager", "--max-model-len=1024", "--max-num-seqs=8"]
OPTIONS += ["--kv-cache-memory-bytes=100000000"]
ASKED = "What can be heard?"
START = 300.0  # seconds that Ray and an engine may take to come up


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen clips of one to two seconds, and five rows that cannot be answered."""
    folder = tmp_path_factory.mktemp("manifest")
    rows: list[dict[str, Any]] = []
    for i in range(16):
        start = 4_000 * (i // len(SAMPLES))
        wave = audio.load(SAMPLES[i % len(SAMPLES)])[start : start + 16_000 + 1_000 * i]
        soundfile.write(folder / f"{i}.wav", wave, 16_000, subtype="FLOAT")
        rows.append({"id": f"clip {i}", "audio": f"{i}.wav"})
    rows[5]["prompt"] = ASKED
    (folder / "noise.wav").write_bytes(b"not audio")
    soundfile.write(folder / "long.wav", audio.load(SAMPLES[0]).repeat(12), 16_000)
    rows[3:3] = [{"id": "bad", "audio": "noise.wav"}, {"audio": "none.wav"}]
    rows[9:9] = [{"id": "long", "audio": "long.wav", "prompt": ASKED}]
    rows.append({"id": "wordy", "audio": "1.wav", "prompt": "word " * 2000})  # beyond --max-model-len
    lines = [json.dumps(row) for row in rows]
    (folder / "clips.jsonl").write_text("\n".join([*lines[:12], "no JSON", *lines[12:]]) + "\n")
    return folder / "clips.jsonl"


def command(manifest: Path, out: Path, *more: str, method: str = METHOD) -> list[str]:
    return ["batch", str(manifest), "--model", "pocket", "--method", method, "--out", str(out), *OPTIONS, *more]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_kill_9_and_the_same_command(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = [sys.executable, "-c", "from fewhertz.cli import main; main()"]
    process = subprocess.Popen([*script, *command(manifest, out, "--batch-size", "4")], stderr=subprocess.PIPE)
    journal, until = out / "journal.jsonl", time.monotonic() + START
    while not journal.exists() or journal.read_bytes().count(b'"text"') < 3:
        assert process.poll() is None and time.monotonic() < until, process.communicate()[1].decode()[-2000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (out / "outputs.jsonl").exists()
    killed = journal.read_bytes()
    before = killed[: killed.rfind(b"\n") + 1]
    with journal.open("ab") as torn:
        torn.write(b'{"row": 19, "te')  # as a kill in the middle of a write leaves it

    done = subprocess.run([*script, *command(manifest, out, "--batch-size", "4")], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr[-2000:]  # some rows have failed
    assert "16 rows done, 5 failed" in done.stderr and "hours of audio per hour" in done.stderr
    assert journal.read_bytes().startswith(before), "what was written was done again"
    answered = Counter(one["row"] for one in lines(journal)[1:] if "text" in one)
    assert sorted(answered) == [i for i in range(20) if i not in (3, 4, 9, 12)] and set(answered.values()) == {1}

    outputs, errors = lines(out / "outputs.jsonl"), lines(out / "errors.jsonl")
    assert [one["row"] for one in outputs] == sorted(answered)
    assert [(one["row"], one["id"]) for one in errors] == [
        (3, "bad"),
        (4, None),
        (9, "long"),
        (12, None),
        (20, "wordy"),
    ]
    wanted = ("not audio that can be read", "no such file", "reads 30 s at once", "is not JSON", "1024")
    for one, text in zip(errors, wanted, strict=True):
        assert text in one["error"]

    model, processor = fewhertz.load("pocket", METHOD, device="cpu", dtype="float32")
    for i, one in enumerate(outputs):
        wave = audio.load(manifest.parent / f"{i}.wav")
        reply = run.reply(model, processor, [wave], ASKED if i == 5 else None)[0]
        if i != 5:
            (segment,) = one.pop("segments")
            assert segment["text"] == reply.text and segment["tokens"] == reply.after and segment["start"] == 0
            assert segment["end"] == one["seconds"] and "silence" not in segment["flags"]
        assert one == {
            "row": one["row"],
            "id": f"clip {i}",
            "audio": str(manifest.parent / f"{i}.wav"),
            "text": reply.text,
            "seconds": round(len(wave) / 16_000, 3),
            "audio_tokens_before": reply.before,
            "audio_tokens": reply.after,
            "new_tokens": reply.new_tokens + 1,  # the end of the turn is one
        }


def test_segments_of_long_audio_and_a_kill_between_windows(tmp_path: Path) -> None:
    """A made recording: speech with pauses, hiss without a quiet place, a long silence; short rows beside it."""
    waves = [audio.load(file) for file in SAMPLES[:6]]
    pauses = np.random.default_rng(0).uniform(0.2, 2.0, len(waves))
    parts = [part for wave, s in zip(waves, pauses, strict=True) for part in (wave, np.zeros(round(16_000 * s)))]
    hiss = np.random.default_rng(0).normal(0, 0.15, 16_000 * 9)
    long = np.concatenate([*parts, hiss, np.zeros(16_000 * 60), *parts[:4]]).astype(np.float32)
    soundfile.write(tmp_path / "long.flac", long, 16_000)
    soundfile.write(tmp_path / "short.wav", waves[1][:24_000], 16_000, subtype="FLOAT")
    rows = [{"id": name, "audio": name} for name in ("long.flac", "short.wav", "long.flac")]
    rows[2]["id"] = "again"
    manifest, out = tmp_path / "clips.jsonl", tmp_path / "out"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = [sys.executable, "-c", "from fewhertz.cli import main; main()"]
    asked = [*script, *command(manifest, out, "--batch-size", "3", "--chunk", "4")]

    process = subprocess.Popen(asked, stderr=subprocess.PIPE)
    journal, until = out / "journal.jsonl", time.monotonic() + START
    while not journal.exists() or journal.read_bytes().count(b'"window"') < 5:
        assert process.poll() is None and time.monotonic() < until, process.communicate()[1].decode()[-2000:]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed = journal.read_bytes()
    assert not (out / "outputs.jsonl").exists()
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert journal.read_bytes().startswith(killed[: killed.rfind(b"\n") + 1]), "what was written was done again"
    windows = Counter((one["row"], one["window"]) for one in lines(journal)[1:] if "window" in one)
    assert {row for row, _ in windows} == {0, 2} and set(windows.values()) == {1}

    outputs = lines(out / "outputs.jsonl")
    assert [one["id"] for one in outputs] == ["long.flac", "short.wav", "again"]
    model, processor = fewhertz.load("pocket", METHOD, device="cpu", dtype="float32")
    for one in outputs[:2]:
        segments = [*transcribe(model, processor, one["audio"], chunk=4.0, batch_size=3)]
        assert one["segments"] == [*map(written, segments)]
        assert one["text"] == " ".join(segment.text for segment in segments if segment.text)
        assert one["audio_tokens"] == sum(segment.tokens for segment in segments)
        assert one["seconds"] == pytest.approx(audio.duration(one["audio"]), abs=1e-3)
    assert outputs[0]["segments"] == outputs[2]["segments"]  # whatever was broken off
    flags = {flag for one in outputs[0]["segments"] for flag in one["flags"]}
    assert "silence" in flags and flags & {"overlap", "seam"}


def test_a_count_from_the_mel(tmp_path: Path) -> None:
    method = "ward(count=mel)@tolerance=0.3+time+sizes"
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("".join(json.dumps({"audio": str(file)}) + "\n" for file in SAMPLES[:2]))
    script = [sys.executable, "-c", "from fewhertz.cli import main; main()"]
    done = subprocess.run(
        [*script, *command(manifest, tmp_path / "out", method=method)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    model, processor = fewhertz.load("pocket", method, device="cpu", dtype="float32")
    for one, file in zip(lines(tmp_path / "out" / "outputs.jsonl"), SAMPLES, strict=False):
        (reply,) = run.reply(model, processor, [audio.load(file)])
        assert (one["text"], one["audio_tokens"]) == (reply.text, reply.after)


def test_bad_usage(manifest: Path, tmp_path: Path) -> None:
    def refused(*args: str) -> str:
        done = CliRunner().invoke(app, list(args), prog_name="fewhertz")
        assert done.exit_code == 2 and done.stdout == "", done.output
        return done.stderr

    out = tmp_path / "out"
    assert "unseg cannot be served" in refused(*command(manifest, out, method="unseg"))
    assert "leave shared=true out" in refused(*command(manifest, out, method="ward(shared=true)@8Hz"))
    assert "leave (fit) out" in refused(*command(manifest, out, method="pool@8Hz+time(fit)"))
    assert "site=encoder" in refused(*command(manifest, out, method="pool(site=encoder)@keep=1/2"))
    assert "unrecognized arguments: --bogus" in refused(*command(manifest, out, "--bogus", "3"))
    assert "no such file" in refused(*command(tmp_path / "none.jsonl", out))
    assert "no model" in refused("batch", str(manifest), "--model", "nomodel", "--out", str(out))
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "journal.jsonl").write_text('{"identity": {"format": 1, "model": "another"}}\n')
    assert "another" in refused(*command(manifest, tmp_path / "there"))
    assert not out.exists()


def test_an_engine_that_does_not_start_says_why(manifest: Path, tmp_path: Path) -> None:
    script = [sys.executable, "-c", "from fewhertz.cli import main; main()"]
    # beyond what pocket was made for
    done = subprocess.run(
        [*script, *command(manifest, tmp_path / "out", "--max-model-len", "1000000")],
        capture_output=True,
        text=True,
        env=os.environ | {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "0"},
    )
    assert done.returncode == 2 and "vLLM does not start with pocket" in done.stderr, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
