"""vLLM says what transformers says: log probabilities of all tokens, to 1e-4, for every family that both run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import tiny
import torch
from checkpoints import LAYOUTS
from engines import STEPS, answers, distance, engine, logprobs, rows
from PIL import Image
from torch.nn.functional import pad

from fewhertz.method import parse

METHODS = ["pool", "stride", "segment", "ltbm", "segmentwise"]
KEEPS = ["1", "1/2", "1/4"]
NEAR = 1e-4


@pytest.mark.parametrize("family", LAYOUTS)
def test_family(family: str, tmp_path: Path, parity: list[dict[str, Any]]) -> None:
    layout = LAYOUTS[family]
    model = checkpoints.write(family, tmp_path)
    processor = checkpoints.processor_of(family)
    clips = clips_of(layout)
    specs = [f"{name}@keep={keep}" for name in METHODS for keep in KEEPS if layout.scores or name != "segmentwise"]
    cases = [(waves, spec) for waves in clips for spec in specs]
    # all in one batch: methods, keeps and lengths side by side, and the same clips under many of them
    limits = {"audio": layout.clips} | ({"image": 0, "video": 0} if family.endswith("omni") else {})
    with engine(tmp_path, "pool@keep=1/3", limit_mm_per_prompt=limits) as llm:
        got = answers(llm, [request(family, processor, waves, spec) for waves, spec in cases])
        (default,) = answers(llm, [request(family, processor, clips[0], None)])
    far: dict[str, list[float]] = {spec: [] for spec in specs}
    for (waves, spec), answer in zip(cases, got, strict=True):
        inputs = checkpoints.inputs_of(family, processor, waves)
        tokens, wanted = checkpoints.reference(model, inputs, spec, STEPS)
        dropped = sum(n - parse(spec).num_tokens(n) for n in runs(inputs))
        assert len(answer.prompt_token_ids) == inputs["input_ids"].shape[1] - dropped, spec
        far[spec].append(distance(answer, tokens, wanted))
    parity += rows(family, far)
    assert max(map(max, far.values())) < NEAR
    # what is compared depends on the method
    assert (logprobs(got[0]) - logprobs(got[2])).abs().max() > 100 * NEAR
    assert (logprobs(got[2]) - logprobs(got[5])).abs().max() > 100 * NEAR
    inputs = checkpoints.inputs_of(family, processor, clips[0])
    assert distance(default, *checkpoints.reference(model, inputs, "pool@keep=1/3", STEPS)) < NEAR


@pytest.mark.parametrize("family", ["qwen2.5-omni", "qwen3-omni"])
def test_positions_beside_an_image(family: str, tmp_path: Path) -> None:
    """M-RoPE: the spans of two compressed clips follow, and that of an image before them stays."""
    model = checkpoints.write(family, tmp_path)
    processor = checkpoints.processor_of(family)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 24, 3), dtype=np.uint8))
    waves = [checkpoints.wave(3.2, 1), checkpoints.wave(2.1, 2)]
    specs = ["pool@keep=1", "pool@keep=1/3", "ltbm@keep=1/4"]
    ids = processor.tokenizer(checkpoints.text_of(family, len(waves), image=True))["input_ids"]
    prompts = [
        {
            "prompt_token_ids": ids,
            "multi_modal_data": {"audio": [(w, 16000) for w in waves], "image": image},
            "mm_processor_kwargs": {"audio_compression": spec},
        }
        for spec in specs
    ]
    with engine(tmp_path, "pool@keep=1/3", limit_mm_per_prompt={"audio": 2, "image": 1, "video": 0}) as llm:
        got = answers(llm, prompts)
    inputs = checkpoints.inputs_of(family, processor, waves, image)
    for spec, answer in zip(specs, got, strict=True):
        assert distance(answer, *checkpoints.reference(model, inputs, spec, STEPS)) < NEAR, spec


def request(family: str, processor: Any, waves: list[Any], spec: str | None) -> dict[str, Any]:
    """A prompt of tokens, one audio token a clip, as vLLM takes it."""
    ids = processor.tokenizer(checkpoints.text_of(family, len(waves)))["input_ids"]
    asked = {"mm_processor_kwargs": {"audio_compression": spec}} if spec else {}
    return {"prompt_token_ids": ids, "multi_modal_data": {"audio": [(w, 16000) for w in waves]}} | asked


def clips_of(layout: checkpoints.Layout) -> list[list[Any]]:
    """One clip; two, where vLLM takes so many; and one beyond a window, where the family reads it."""
    clips = [[checkpoints.wave(3.2, 0)]]
    if layout.clips > 1:
        clips.append([checkpoints.wave(3.2, 1), checkpoints.wave(2.1, 2)])
    if layout.longest:
        clips.append([checkpoints.wave(layout.longest, 3)])
    return clips


def runs(inputs: dict[str, Any]) -> list[int]:
    """Lengths of the runs of audio tokens."""
    here = (inputs["input_ids"][0] == tiny.AUDIO).long()
    edges = pad(here, (1, 1)).diff()
    return ((edges == -1).nonzero() - (edges == 1).nonzero()).flatten().tolist()


TWO = """
import json, sys
sys.path[:0] = sys.argv[1].split(":")
import conftest, checkpoints
from engines import answers, engine, logprobs
from test_parity import CLIPS, TWO_SPECS, ATTACHED, request

if __name__ == "__main__":  # its workers import this file too
    processor = checkpoints.processor_of("qwen2-audio")
    made = [request("qwen2-audio", processor, CLIPS, spec) for spec in TWO_SPECS]
    with engine(sys.argv[2], ATTACHED, tensor_parallel_size=2, limit_mm_per_prompt={"audio": 2}) as llm:
        for answer in answers(llm, made):
            print("ANSWER", json.dumps([list(answer.outputs[0].token_ids), logprobs(answer).tolist()]))
"""
ATTACHED = "ward@keep=1/3+time+sizes"
TWO_SPECS = [None, "segmentwise@keep=1/2+time", "ltbm@keep=1/4"]
CLIPS = [checkpoints.wave(3.2, 1), checkpoints.wave(2.1, 2)]


def test_two_ranks(tmp_path: Path) -> None:
    """tensor_parallel_size=2: each rank forms the same tokens."""
    model = checkpoints.write("qwen2-audio", tmp_path / "model")
    script = tmp_path / "two.py"
    script.write_text(TWO)
    here = Path(__file__).parent
    places = f"{here}:{here.parent / 'tests'}"
    command = [sys.executable, str(script), places, str(tmp_path / "model")]
    cores = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}  # one a rank: by itself vLLM wants a NUMA node for each
    done = subprocess.run(command, env=os.environ | cores, capture_output=True, text=True, timeout=400)
    said = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert len(said) == len(TWO_SPECS), done.stdout[-2000:] + done.stderr[-3000:]
    inputs = checkpoints.inputs_of("qwen2-audio", checkpoints.processor_of("qwen2-audio"), CLIPS)
    for spec, (tokens, logs) in zip(TWO_SPECS, said, strict=True):
        ours, wanted = checkpoints.reference(model, inputs, spec or ATTACHED, STEPS)
        assert tokens == ours
        assert float((torch.tensor(logs) - wanted).abs().max()) < NEAR, spec


MEL_SPECS = ["ward(count=mel)@tolerance=0.5+time+sizes", "ward(count=mel)@tolerance=0.2+time+sizes", "ward@keep=1/2"]


@pytest.mark.parametrize("family", ["qwen2-audio", "audio-flamingo-3"])
def test_counts_from_the_mel(family: str, tmp_path: Path) -> None:
    """A tolerance whose count is decided on the log-mel: laid out as transformers compresses, and the same answer."""
    layout = LAYOUTS[family]
    model = checkpoints.write(family, tmp_path)
    processor = checkpoints.processor_of(family)
    silent = np.zeros(4 * 16_000, dtype=np.float32)
    half = np.concatenate([checkpoints.wave(3.2, 5), silent])
    clips = [*clips_of(layout), [half], [silent]]
    cases = [(waves, spec) for waves in clips for spec in MEL_SPECS]
    with engine(tmp_path, MEL_SPECS[0], limit_mm_per_prompt={"audio": layout.clips}) as llm:
        got = answers(llm, [request(family, processor, waves, spec) for waves, spec in cases])
    lengths = set()
    for (waves, spec), answer in zip(cases, got, strict=True):
        inputs = checkpoints.inputs_of(family, processor, waves)
        tokens, wanted = checkpoints.reference(model, inputs, spec, STEPS)
        assert distance(answer, tokens, wanted) < NEAR, spec
        lengths.add(len(answer.prompt_token_ids))
    assert len(lengths) > 4
