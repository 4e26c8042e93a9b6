"""Merging inside the encoder under vLLM: per request, beside other methods, as transformers does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from checkpoints import LAYOUTS
from engines import STEPS, answers, distance, engine, logprobs, rows
from test_parity import NEAR, clips_of, request, runs

from fewhertz.method import parse
from fewhertz.vllm.choice import Choice, family_named

INSIDE = [
    "ward(site=encoder.1)@keep=1/2+time+sizes",
    "ward(site=encoder.0+1)@keep=1/3+time+sizes",
    "ward(site=encoder.1)@keep=1/3",
    "segment(site=encoder.0)@8Hz+sizes",
]
ATTACHED = "ward@keep=1/3+time+sizes"
BESIDE = [ATTACHED, "segmentwise@keep=1/2", "ward(site=encoder.1)@keep=1"]


@pytest.mark.parametrize("family", ["qwen2-audio", "audio-flamingo-3"])
def test_family(family: str, tmp_path: Path, parity: list[dict[str, Any]]) -> None:
    """One clip, two, one beyond a window, and one whose last window is dropped; all in one batch."""
    layout = LAYOUTS[family]
    model = checkpoints.write(family, tmp_path)
    processor = checkpoints.processor_of(family)
    clips = clips_of(layout)
    if layout.longest:
        clips.append([checkpoints.wave(30.04, 5)])
    specs = INSIDE + BESIDE
    cases = [(waves, spec) for waves in clips for spec in specs]
    with engine(tmp_path, ATTACHED, limit_mm_per_prompt={"audio": layout.clips}) as llm:
        got = answers(llm, [request(family, processor, waves, spec) for waves, spec in cases])
        alone = [answers(llm, [request(family, processor, clips[0], spec)])[0] for spec in INSIDE[:1]]
    far: dict[str, list[float]] = {spec: [] for spec in specs}
    for (waves, spec), answer in zip(cases, got, strict=True):
        inputs = checkpoints.inputs_of(family, processor, waves)
        tokens, wanted = checkpoints.reference(model, inputs, spec, STEPS)
        method = parse(spec).at(25)
        dropped = sum(n - method.num_tokens(n) for n in runs(inputs))
        assert len(answer.prompt_token_ids) == inputs["input_ids"].shape[1] - dropped, spec
        far[spec].append(distance(answer, tokens, wanted))
    parity += rows(family, far)
    assert max(map(max, far.values())) < NEAR, far
    for one in range(len(INSIDE)):  # what is compared depends on site and corrections
        assert (logprobs(got[one]) - logprobs(got[len(INSIDE)])).abs().max() > 10 * NEAR
    assert (logprobs(alone[0]) - logprobs(got[0])).abs().max() < NEAR


def test_an_engine_is_attached_to_a_layer(tmp_path: Path) -> None:
    """By its checkpoint's own method, for requests that ask for nothing."""
    spec = INSIDE[0]
    model = checkpoints.write("qwen2-audio", tmp_path)
    processor = checkpoints.processor_of("qwen2-audio")
    waves = [np.concatenate([checkpoints.wave(2.0, 7), np.zeros(16_000, dtype=np.float32)])]
    with engine(tmp_path, spec) as llm:
        (answer,) = answers(llm, [request("qwen2-audio", processor, waves, None)])
    inputs = checkpoints.inputs_of("qwen2-audio", processor, waves)
    assert distance(answer, *checkpoints.reference(model, inputs, spec, STEPS)) < NEAR


def test_what_is_refused(tmp_path: Path) -> None:
    model = checkpoints.write("qwen2-audio", tmp_path)
    for spec, scores, words in [
        ("ward(site=encoder.1)@tolerance=0.3", True, "of variable length"),
        ("ward(site=encoder.2)@keep=1/2", True, "layers 0 to 1"),
        ("ward(site=encoder.1)@keep=1/2", False, r"site=encoder\.1: vLLM"),
        ("ward(site=encoder)@keep=1/2", True, "site=encoder: vLLM"),
    ]:
        with pytest.raises(ValueError, match=words):
            Choice(family_named("qwen2-audio"), model.config, scores).method(spec)
