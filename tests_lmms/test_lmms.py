"""The plugin in the real lmms-eval: pocket answers a local task, and tiny models what pocket cannot be asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from lmms_eval.models import get_model, list_available_models

import fewhertz
from fewhertz import demo, run
from fewhertz.lmms.model import Fewhertz

PROMPT = "Transcribe the speech."
TASK = """
dataset_path: json
dataset_kwargs:
  data_files: {data}
  cache_dir: {cache}
task: local_words
test_split: train
output_type: generate_until
doc_to_visual: !function utils.sounds
doc_to_text: !function utils.question
doc_to_target: text
generation_kwargs:
  max_new_tokens: 64
  until: ["<never>"]
process_results: !function utils.results
metric_list:
  - metric: words
    aggregation: !function utils.mean
    higher_is_better: true
"""
UTILS = """
import soundfile

def sounds(doc):
    if doc["as_path"]:
        return [doc["file"]]
    array, rate = soundfile.read(doc["file"])
    return [{"array": array, "sampling_rate": rate, "path": None}]

def question(doc, lmms_eval_specific_kwargs=None):
    return "Transcribe the speech."

def results(doc, answers):
    said, heard = doc["text"].split(), answers[0].split()
    return {"words": sum(word in heard for word in said) / len(said)}

def mean(values):
    return sum(values) / len(values)
"""


@pytest.fixture(scope="module")
def clips() -> list[demo.Clip]:
    return demo.bundled(3)


@pytest.fixture
def task(tmp_path: Path, clips: list[demo.Clip]) -> Path:
    """A folder with a task of local files: the first is handed over as a path, the others as samples."""
    folder = tmp_path / "task"
    folder.mkdir()
    lines = []
    for i, clip in enumerate(clips):
        file = folder / f"{i}.wav"
        soundfile.write(file, clip.wave, 16_000)
        lines.append(json.dumps({"file": str(file), "text": clip.text, "as_path": i == 0}))
    (folder / "data.jsonl").write_text("\n".join(lines))
    (folder / "local_words.yaml").write_text(TASK.format(data=folder / "data.jsonl", cache=tmp_path / "cache"))
    (folder / "utils.py").write_text(UTILS)
    return folder


def evaluate(task: Path, model_args: str, *options: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    """`lmms-eval` on the command line."""
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launch, "-m", "lmms_eval", "--model", "fewhertz", "--model_args", model_args]
    command += ["--include_path", str(task), "--tasks", "local_words", "--output_path", str(task / "out")]
    env = os.environ | {"ACCELERATE_USE_CPU": "true"}
    return subprocess.run([*command, "--log_samples", *options], capture_output=True, text=True, check=False, env=env)


def outcome(task: Path) -> tuple[float, list[str]]:
    """The score and the answers, in the order of the documents."""
    (results,) = (task / "out").rglob("*_results.json")
    (samples,) = (task / "out").rglob("*_samples_local_words.jsonl")
    rows = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda row: row["doc_id"])
    answers = [row["filtered_resps"] for row in rows]
    return json.loads(results.read_text())["results"]["local_words"]["words,none"], answers


def test_lmms_eval_knows_it() -> None:
    assert "fewhertz" in list_available_models()
    assert get_model("fewhertz") is Fewhertz


@pytest.mark.parametrize(
    ("spec", "batch", "processes"), [("none", "1", 1), ("pool@keep=1/2+time+sizes", "2", 1), ("pool@keep=1/2", "1", 2)]
)
def test_answers_are_those_of_fewhertz(
    task: Path, clips: list[demo.Clip], spec: str, batch: str, processes: int
) -> None:
    done = evaluate(task, f"pretrained=pocket,method={spec}", "--batch_size", batch, processes=processes)
    assert done.returncode == 0, done.stderr[-2000:]
    score, answers = outcome(task)
    model, processor = fewhertz.load("pocket", spec)
    for clip, answer in zip(clips, answers, strict=True):
        (reply,) = run.reply(model, processor, [clip.wave], PROMPT, max_new_tokens=64)
        assert answer == reply.text
    assert score > (0.3 if spec == "pool@keep=1/2" else 0.7)


def test_a_malformed_method_is_told(task: Path) -> None:
    done = evaluate(task, "pretrained=pocket,method=poll@keep=1/2")  # lmms-eval's status is 0 all the same
    assert "no method named 'poll'" in done.stdout + done.stderr
    assert not (task / "out").exists()


# --- what the command line does not reach


def instance(model: Fewhertz, sounds: list[Any], options: dict[str, Any], context: str = PROMPT) -> Any:
    """A request as lmms-eval makes it."""
    model.task_dict.setdefault("t", {"test": []})["test"].append(sounds)
    index = len(model.task_dict["t"]["test"]) - 1
    return SimpleNamespace(args=(context, options, lambda doc: doc, index, "t", "test"))


@pytest.fixture(scope="module")
def pocket() -> Fewhertz:
    return Fewhertz("pocket", "'pool@keep=1/2'", batch_size=4)


def test_options_are_kept_apart(pocket: Fewhertz, clips: list[demo.Clip]) -> None:
    sound = {"array": clips[0].wave, "sampling_rate": 16_000}
    long, short = {"max_new_tokens": 40}, {"max_new_tokens": 2}
    asked = [instance(pocket, [sound], one) for one in (long, short, long | {"until": "e"}, long)]
    whole, cut, until, again = pocket.generate_until(asked)
    assert whole == again and len(cut) < len(whole) and whole.startswith(cut)
    assert until == whole.split("e")[0]
    assert 0 < pocket.after <= pocket.before / 2 + 4


def test_a_clip_beyond_the_window_becomes_several(pocket: Fewhertz) -> None:
    noise = np.random.default_rng(0).standard_normal(16_000 * 40).astype(np.float32) * 0.1
    documents, text = pocket._document(instance(pocket, [{"array": noise, "sampling_rate": 16_000}], {}))
    assert text == PROMPT
    assert len(documents) == 2 and sum(map(len, documents)) == len(noise)
    before = pocket.before
    (answer,) = pocket.generate_until([instance(pocket, [{"array": noise, "sampling_rate": 16_000}], {})])
    assert isinstance(answer, str)
    assert pocket.before - before == 1000


def test_decoders_of_datasets_and_bytes(pocket: Fewhertz, clips: list[demo.Clip], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    wave = clips[0].wave
    samples = SimpleNamespace(data=torch.from_numpy(wave)[None], sample_rate=16_000)
    decoder = SimpleNamespace(get_all_samples=lambda: samples)
    soundfile.write(tmp_path / "a.flac", wave, 16_000)
    data = (tmp_path / "a.flac").read_bytes()
    sounds = [{"array": wave, "sampling_rate": 16_000}, decoder, {"bytes": data, "path": "x"}, str(tmp_path / "a.flac")]
    answers = pocket.generate_until([instance(pocket, [sound], {"max_new_tokens": 30}) for sound in sounds])
    assert len(set(answers)) == 1


def test_what_is_not_heard_is_an_error(pocket: Fewhertz) -> None:
    with pytest.raises(ValueError, match=r"t, document \d+: no audio in it"):
        pocket.generate_until([instance(pocket, [], {})])
    with pytest.raises(ValueError, match="hears audio alone, this is int"):
        pocket.generate_until([instance(pocket, [3], {})])
    with pytest.raises(NotImplementedError, match="loglikelihood"):
        pocket.loglikelihood([])
    with pytest.raises(ValueError, match="--batch_size is a number"):
        Fewhertz("pocket", batch_size="auto")
