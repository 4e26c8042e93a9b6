"""Encoders that mask their padding read valid frames alone where all clips of a batch are compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checkpoints
import pytest
from engines import STEPS, answers, distance, engine
from test_parity import NEAR, request

SPECS = ["pool@keep=1/2", "segmentwise@keep=1/2"]  # the second captures scores


@pytest.mark.parametrize("family", ["qwen2-audio", "audio-flamingo-3"])
def test_whole_windows_and_trimmed_ones_say_the_same(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against transformers on whole windows; keep=1, and what stands beside it, is not trimmed."""
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # for apply_model
    model = checkpoints.write(family, tmp_path)
    processor = checkpoints.processor_of(family)
    seen: list[tuple[int, int]] = []

    def watch(net: Any) -> None:
        net.audio_tower.conv1.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[::2])))

    with engine(tmp_path, "pool@keep=1/3") as llm:
        llm.apply_model(watch)
        for waves, specs, expected in [
            ([checkpoints.wave(3.2, 0), checkpoints.wave(2.1, 1)], SPECS, (2, 336)),
            ([checkpoints.wave(1.4, 2)], SPECS[1:], (1, 144)),
            ([checkpoints.wave(3.2, 3), checkpoints.wave(2.1, 4)], [SPECS[0], "pool@keep=1"], (2, 3000)),
        ]:
            seen.clear()
            requests = [request(family, processor, [wave], spec) for wave, spec in zip(waves, specs, strict=True)]
            got = answers(llm, requests)
            assert seen == [expected]
            for wave, spec, answer in zip(waves, specs, got, strict=True):
                inputs = checkpoints.inputs_of(family, processor, [wave])
                tokens, wanted = checkpoints.reference(model, inputs, spec, STEPS)
                assert distance(answer, tokens, wanted) < NEAR, spec
