"""Embeddings on the disk: what the LLM would have read, each clip once, whatever happens on the way."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from test_families import PROCESSOR, SPECIAL, processor_of
from typer.testing import CliRunner

import fewhertz
from fewhertz import audio, embed, run
from fewhertz.checkpoint import open_checkpoint, weights_sha256
from fewhertz.cli import app
from fewhertz.pocket import path

SAMPLES = sorted((path() / "samples").glob("*.flac"))
SCRIPT = Path(sys.executable).with_name("fewhertz")


def fewhertz_(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="fewhertz")


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return fewhertz.load("pocket", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six short clips."""
    folder = tmp_path_factory.mktemp("clips")
    for i, sample in enumerate(SAMPLES[:6]):
        soundfile.write(folder / f"{i}.wav", audio.load(sample)[: 16_000 + 800 * i], 16_000, subtype="FLOAT")
    return sorted(folder.iterdir())


@contextmanager
def read_by_llm(model: Any) -> Iterator[list[torch.Tensor]]:
    """The embeddings that the LLM reads at its first step."""
    seen: list[torch.Tensor] = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    try:
        yield seen
    finally:
        hook.remove()


def written(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The first line of a folder's journal, and the embeddings of each of its clips in order."""
    head, *lines = map(json.loads, (folder / embed.JOURNAL).read_text().splitlines())
    tensors = {}
    for line in lines:
        with safe_open(folder / line["file"], "pt") as file:
            assert file.keys() == [embed.TENSOR]
            tensors[f"{line['audio']} {line['window']}"] = file.get_tensor(embed.TENSOR)
            assert json.loads(file.metadata()["made"]) == head["identity"] | line
        assert tensors[f"{line['audio']} {line['window']}"].shape == (
            line["audio_tokens"],
            head["identity"]["hidden_size"],
        )
    return head["identity"], tensors


@pytest.mark.parametrize(
    "spec", ["pool@keep=1", "pool@keep=1/3", "pool(site=encoder)@keep=1/2", "segmentwise@6Hz", "unseg", "affinity"]
)
def test_a_file_holds_what_the_llm_reads(loaded: tuple[Any, Any], clips: list[Path], tmp_path: Path, spec: str) -> None:
    model, processor = loaded
    waves = [audio.load(clip) for clip in clips[:2]]
    with fewhertz.compress(model, spec):
        made = embed.identity(model, open_checkpoint("pocket"), "pocket", None)
        done = list(embed.embed(model, processor, clips[:2], tmp_path, made))
        with read_by_llm(model) as seen:
            replies = [run.reply(model, processor, [wave], max_new_tokens=1)[0] for wave in waves]
    said, tensors = written(tmp_path)
    assert said == made and said["method"] == spec
    assert said["weights_sha256"] == weights_sha256(open_checkpoint("pocket"))
    for one, tokens, whole, reply in zip(done, tensors.values(), seen, replies, strict=True):
        assert one.record is not None and one.last
        assert (one.record["audio_tokens_before"], one.record["audio_tokens"]) == (reply.before, reply.after)
        # the audio stands in one run: its place is where its first token is
        at = int((whole[0] == tokens[0]).all(-1).nonzero()[0])
        assert torch.equal(whole[0, at : at + len(tokens)], tokens)
    if spec == "pool@keep=1":
        with read_by_llm(model) as stock:
            for wave in waves:
                run.reply(model, processor, [wave], max_new_tokens=1)
        for mine, own in zip(seen, stock, strict=True):
            assert torch.equal(mine, own)


@pytest.mark.parametrize("family", PROCESSOR, indirect=True)
@pytest.mark.parametrize("spec", ["none", "segment@keep=1/3"])
def test_every_family_that_a_processor_can_be_built_for(family: str, model: Any, spec: str) -> None:
    token, bos, eos = SPECIAL[family]
    marks = (" ", " ") if family == "music-flamingo" else (f" {bos} ", f" {eos} ")
    long = 3.2 if family == "qwen2-audio" else 31.3
    wave = np.random.default_rng(0).standard_normal(int(long * 16_000), dtype=np.float32)
    inputs = processor_of(family)(
        text=[f"w1{marks[0]}{token}{marks[1]}w2"], audio=[wave], sampling_rate=16_000, return_tensors="pt"
    )
    with fewhertz.compress(model, spec) as handle:
        ((before, tokens),) = embed.clips(model, inputs)
        with read_by_llm(model) as seen, torch.no_grad():
            model(**inputs)
        assert [before, len(tokens)] == [*handle.last.before, *handle.last.after]
    at = int((seen[0][0] == tokens[0]).all(-1).nonzero()[0])
    assert torch.equal(seen[0][0, at : at + len(tokens)], tokens)


def test_inputs_of_one_name_and_names_that_lead_elsewhere(
    loaded: tuple[Any, Any], clips: list[Path], tmp_path: Path
) -> None:
    model, processor = loaded
    names = ["a/x.wav", "b/x.wav", "b/...wav", "b/%2e%2e.wav", "b/" + "ä" * 100 + ".wav"]
    for name, clip in zip(names, clips, strict=False):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(clip, tmp_path / name)
    shutil.copy(clips[0], tmp_path / "b/again.wav")
    files = [tmp_path / name for name in [*names, "b/again.wav"]]
    with fewhertz.compress(model, "pool@keep=1/3"):
        made = embed.identity(model, open_checkpoint("pocket"), "pocket", None)
        done = list(embed.embed(model, processor, files, tmp_path / "out", made, batch_size=2))
        alone = [embed.clips(model, run.request(processor, [audio.load(file)]))[0][1] for file in files]
    assert [one.audio for one in done] == files and all(one.error is None for one in done)
    assert len(list((tmp_path / "out").iterdir())) == len(files) + 1  # nothing collided, nothing is elsewhere
    for tokens, own in zip(written(tmp_path / "out")[1].values(), alone, strict=True):
        assert torch.allclose(tokens, own, atol=1e-4)


def test_long_audio_in_windows(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = loaded
    wave = np.concatenate([audio.load(sample) for sample in SAMPLES])
    soundfile.write(tmp_path / "talk.wav", wave, 16_000, subtype="FLOAT")
    assert len(wave) > 30 * 16_000
    with fewhertz.compress(model, "pool@keep=1/2"):
        checkpoint = open_checkpoint("pocket")
        made = embed.identity(model, checkpoint, "pocket", None)
        (refused,) = embed.embed(model, processor, [tmp_path / "talk.wav"], tmp_path / "whole", made)
        assert refused.record is None and "--chunk 30" in str(refused.error)
        made = embed.identity(model, checkpoint, "pocket", 10.0)
        done = list(embed.embed(model, processor, [tmp_path / "talk.wav"], tmp_path / "cut", made, chunk=10.0))
        assert [one.last for one in done] == [False] * (len(done) - 1) + [True]
        cuts = list(audio.chunks(tmp_path / "talk.wav", 10.0))
        for cut, tokens in zip(cuts, written(tmp_path / "cut")[1].values(), strict=True):
            assert torch.equal(tokens, embed.clips(model, run.request(processor, [cut]))[0][1])
        # the last window is lost: it alone is made again
        assert done[-1].record is not None
        lost = tmp_path / "cut" / done[-1].record["file"]
        content = lost.read_bytes()
        lost.unlink()
        again = list(embed.embed(model, processor, [tmp_path / "talk.wav"], tmp_path / "cut", made, chunk=10.0))
        assert lost.read_bytes() == content and [one.record for one in again] == [one.record for one in done]
    with pytest.raises(ValueError, match="--chunk 31 is more than the 30 s"), fewhertz.compress(model, "pool@keep=1/2"):
        embed.embed(model, processor, [], tmp_path / "out", made, chunk=31.0)


def test_kill_9_and_the_same_command(clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["embed", "pocket", *map(str, clips), "--method", "segment@keep=1/3", "--device", "cpu", "--out"]
    with subprocess.Popen([SCRIPT, *command, str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert Path(first).is_file()
    stamp = Path(first).stat().st_mtime_ns
    with (tmp_path / "killed" / embed.JOURNAL).open("ab") as torn:
        torn.write(b'{"audio": "half a li')  # as a kill in the middle of a write leaves it
    for folder in ("killed", "whole"):
        done = fewhertz_(*command, tmp_path / folder)
        assert done.exit_code == 0, done.output
    assert Path(first).stat().st_mtime_ns == stamp, "what was written is done again"
    names = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "killed").iterdir())
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert written(tmp_path / "whole")[1].keys() == {f"{clip} 0" for clip in clips}

    def never(*_: object) -> None:
        raise AssertionError("a clip that is there was encoded again")

    monkeypatch.setattr(embed, "clips", never)
    again = fewhertz_(*command, tmp_path / "whole")
    assert again.exit_code == 0 and again.stdout == done.stdout


def test_a_bad_file_does_not_take_the_others_with_it(clips: list[Path], tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(b"not audio")
    files = [clips[0], tmp_path / "noise.wav", tmp_path / "none.wav", clips[1]]
    done = fewhertz_("embed", "pocket", *files, "--method", "unseg", "--out", tmp_path / "out", "--batch-size", "4")
    assert done.exit_code == 2
    assert len(done.stdout.splitlines()) == 2 and len(written(tmp_path / "out")[1]) == 2
    complaints = [line for line in done.stderr.splitlines() if line.startswith("fewhertz: ")]
    assert ["noise.wav is not audio" in complaints[0], "none.wav: no such file" in complaints[1]] == [True, True]


def test_bad_usage(clips: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert fewhertz_("embed", "pocket", clips[0], "--method", "pool@keep=1/2", "--out", out).exit_code == 0
    bad = {
        "has no method": [],
        "leave +time and +sizes out": ["--method", "pool@keep=1/2+time"],
        "another method (pool@keep=1/2, now pool@keep=1/3)": ["--method", "pool@keep=1/3"],
        "no method named": ["--method", "nope"],
        "at least 0.2": ["--method", "pool@keep=1/2", "--chunk", "0"],
        "reads at once": ["--method", "pool@keep=1/2", "--chunk", "40"],
    }
    for text, options in bad.items():
        done = fewhertz_("embed", "pocket", clips[0], "--out", out, *options)
        assert done.exit_code == 2 and done.stdout == "" and text in done.stderr, done.output
        assert len(done.stderr.splitlines()) <= 2
    assert "fewhertz embed" in fewhertz_("embed", "--help").stdout.split("Show this message", 1)[1]
