"""Embeddings that `fewhertz embed` writes, read by a vLLM that knows nothing of fewhertz."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import checkpoints
import pytest
import torch
import transformers
from engines import STEPS as ENGINE_STEPS
from engines import answers, distance, engine
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import fewhertz
from fewhertz import audio, embed, run
from fewhertz.cli import app
from fewhertz.pocket import path

SAMPLES = sorted((path() / "samples").glob("*.flac"))[:6]
STEPS = 12
NEAR = 1e-4

# what the example in the module's docstring does, then the same with log probabilities
ASK = """
answers = {}
for clip in clips:
    embeds = load_file(f"embeddings/{clip['file']}")["audio_embeds"]
    request = {"prompt": prompt, "multi_modal_data": {"audio": [embeds]}}
    greedy = SamplingParams(temperature=0, max_tokens=STEPS, logprobs=-1, ignore_eos=True)
    one = llm.generate(request, greedy, use_tqdm=False)[0].outputs[0]
    rows = [[row[i].logprob for i in range(len(row))] for row in one.logprobs]
    answers[clip["audio"]] = {"tokens": list(one.token_ids), "logprobs": rows}
from vllm import ModelRegistry
module = ModelRegistry.models["Qwen2AudioForConditionalGeneration"].module_name
json.dump({"module": module, "answers": answers}, open("answers.json", "w"))
"""


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pocket with its weights under the names of checkpoints on the Hub: vLLM's own class reads no others."""
    folder = tmp_path_factory.mktemp("stock")
    shutil.copytree(path(), folder, ignore=shutil.ignore_patterns("samples", "*.py", "__pycache__"), dirs_exist_ok=True)
    names = {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head.", "model.": ""}
    weights = {}
    for name, weight in load_file(path() / "model.safetensors").items():
        new = next(prefix for prefix in names if name.startswith(prefix))
        weights[names[new] + name.removeprefix(new)] = weight
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("spec", ["unseg", "segment@keep=1/3"])
def test_the_documented_client_gets_what_transformers_says(stock: Path, tmp_path: Path, spec: str) -> None:
    done = CliRunner().invoke(
        app, ["embed", "pocket", *map(str, SAMPLES), "--method", spec, "--out", str(tmp_path / "embeddings")]
    )
    assert done.exit_code == 0, done.output
    example = embed.__doc__.split("    import json", 1)[1].replace("\n    ", "\n")
    options = "dtype='float32', enforce_eager=True, max_model_len=1024, kv_cache_memory_bytes=100_000_000"
    example = example.replace("enable_mm_embeds=True", f"enable_mm_embeds=True, {options}, max_logprobs=-1")
    example = example.replace("Qwen/Qwen2-Audio-7B-Instruct", str(stock))
    (tmp_path / "client.py").write_text(f"STEPS = {STEPS}\nimport json{example}{ASK}")
    client = subprocess.run(
        [sys.executable, "client.py"],
        cwd=tmp_path,
        env=os.environ | {"VLLM_PLUGINS": ""},
        capture_output=True,
        text=True,
    )
    assert client.returncode == 0, client.stderr[-2000:]
    said = json.loads((tmp_path / "answers.json").read_text())
    assert said["module"].startswith("vllm."), "it is not the stock model that answers"

    model, processor = fewhertz.load("pocket", spec, device="cpu", dtype="float32")
    waves = [audio.load(sample) for sample in SAMPLES]
    for sample, wave in zip(SAMPLES, waves, strict=True):
        assert f"{sample} {run.reply(model, processor, [wave])[0].text}\n" in client.stdout
    worst = 0.0
    for sample, wave in zip(SAMPLES, waves, strict=True):
        got = said["answers"][str(sample)]
        tokens, wanted = checkpoints.reference(model, run.request(processor, [wave]), None, STEPS)
        assert got["tokens"] == tokens
        worst = max(worst, float((torch.tensor(got["logprobs"]) - wanted).abs().max()))
    print(f"\n{spec}: worst difference {worst:.1e}")
    assert worst < NEAR


@pytest.mark.parametrize("family", ["audio-flamingo-3", "glm-asr"])
def test_embeddings_stay_what_they_are_where_the_plugin_compresses(family: str, tmp_path: Path) -> None:
    model = checkpoints.write(family, tmp_path)
    processor = checkpoints.processor_of(family)
    ids = processor.tokenizer(checkpoints.text_of(family, 1))["input_ids"]
    waves = [[checkpoints.wave(seconds, 0)] for seconds in (3.2, checkpoints.LAYOUTS[family].longest)]
    prompts = []
    for wave in waves:
        with fewhertz.compress(model, "unseg"):
            inputs = transformers.BatchFeature(checkpoints.inputs_of(family, processor, wave))
            ((_, tokens),) = embed.clips(model, inputs)
        prompts.append({"prompt_token_ids": ids, "multi_modal_data": {"audio": [tokens]}})
    with engine(tmp_path, "pool@keep=1/3", enable_mm_embeds=True, limit_mm_per_prompt={"audio": 1}) as llm:
        got = answers(llm, prompts)
    for wave, answer in zip(waves, got, strict=True):
        wanted = checkpoints.reference(model, checkpoints.inputs_of(family, processor, wave), "unseg", ENGINE_STEPS)
        assert distance(answer, *wanted) < NEAR
