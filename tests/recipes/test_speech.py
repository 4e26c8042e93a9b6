"""The synthesisers of the recipes: what is said depends on the request alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recipes.pocket import config, corpus, manifests, prepare, speech

TEXTS = ("The coffee is too hot.", "I lost my red hat. Can you see it?", "He reads old books.")
VOICES = ("espeak:en-us", "espeak:en-us+f2", "espeak:fr+m3")


def hashes(requests: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    return {(text, voice): corpus.sha256(speech.synthesise(text, voice)) for text, voice in requests}


def test_an_utterance_is_the_same_whatever_was_said_before() -> None:
    requests = [(text, voice) for voice in VOICES for text in TEXTS]
    first = hashes(requests)
    assert len(set(first.values())) == len(requests)
    speech.phonemes(TEXTS[0], "fr")
    assert hashes(requests[::-1]) == first
    assert hashes(requests[4:5]) == {requests[4]: first[requests[4]]}


def test_another_process_says_the_same() -> None:
    asked = (TEXTS[0], VOICES[0])
    code = f"from recipes.pocket import corpus, speech; print(corpus.sha256(speech.synthesise(*{asked})))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == hashes([asked])[asked]


def test_an_unknown_voice_is_named_and_the_next_utterance_is_fine() -> None:
    with pytest.raises(ValueError, match="by 'xx-nobody'"):
        speech.synthesise("Hello.", "espeak:xx-nobody")
    assert len(speech.synthesise("Hello.", VOICES[0])) > config.SAMPLE_RATE // 4


def few(tmp_path: Path, limit: int) -> dict[str, bytes]:
    manifest = manifests.write("german-dev", config.DATA, tmp_path / str(limit), limit)
    rows = corpus.read_jsonl(manifest)
    return {row["id"]: (manifest.parent / row["audio"]).read_bytes() for row in rows}


def test_a_lists_audio_does_not_depend_on_its_limit(tmp_path: Path) -> None:
    some, more = few(tmp_path, 4), few(tmp_path, 8)
    assert some and all(more[name] == audio for name, audio in some.items())


def test_other_audio_than_the_lists_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = corpus.read_jsonl(config.SPLITS / "german-dev.jsonl")[:3]
    for row in rows:
        row["sha256"] = corpus.sha256(speech.synthesise(**row["say"]))  # as this machine's espeak-ng says it
    monkeypatch.setattr(manifests, "SPLITS", tmp_path)
    monkeypatch.setattr(prepare, "SPLITS", tmp_path)
    (tmp_path / "cache").mkdir()
    corpus.write_jsonl(tmp_path / "own-dev.jsonl", rows)
    manifests.write("own-dev", config.DATA, tmp_path / "out")
    assert capsys.readouterr().err == ""
    assert "not what" not in prepare.list_part(tmp_path / "cache" / "own-dev", config.DATA, few=False)
    rows[1]["sha256"] = "0" * 16
    corpus.write_jsonl(tmp_path / "own-dev.jsonl", rows)
    manifests.write("own-dev", config.DATA, tmp_path / "out")
    said = capsys.readouterr().err
    assert "own-dev: the audio of 1 of 3 items is not what the list was made of (1 of espeak)" in said
    assert speech.version() in said
    for line in said.splitlines():
        assert line in prepare.list_part(tmp_path / "cache" / "own-dev", config.DATA, few=False)


def test_the_lists_sha256_are_of_stateless_speech() -> None:
    if speech.version() != manifests.LISTED_BY:
        pytest.skip(f"espeak-ng {speech.version()}, not {manifests.LISTED_BY}")
    for name in ("synthetic-dev", "german-test", "french-synthetic-dev"):
        for row in corpus.read_jsonl(config.SPLITS / f"{name}.jsonl")[5:100:30]:
            if row["say"]["voice"].startswith("espeak"):
                assert corpus.sha256(speech.synthesise(**row["say"])) == row["sha256"]


def test_every_training_list_can_be_made(tmp_path: Path) -> None:
    for name in manifests.TRAINING:
        rows = manifests.training(name, tmp_path)  # no recordings there: sentences of our own alone
        assert bool(rows) == (name == "synthetic")
        assert all(row["task"] == "transcribe" for row in rows)
