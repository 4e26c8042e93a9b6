"""The steps between audio and LLM can be replaced: for a model by argument, or while a context lasts, in a thread."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import TINY, prompts

import fewhertz
from fewhertz import steps
from fewhertz.steps import Call, Steps, changed


@pytest.fixture(scope="module")
def model() -> Any:
    return TINY["qwen2-audio"].build()


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    return prompts("qwen2-audio", [[800], [301]])


@torch.no_grad()
def test_each_step_is_replaced_by_argument(model: Any, batch: dict[str, torch.Tensor]) -> None:
    spec = "pool@keep=1/3+time"
    with fewhertz.compress(model, spec):
        plain = model(**batch).logits
    calls: list[str] = []

    def noting(name: str) -> Any:
        def step(*args: Any) -> Any:
            calls.append(name)
            return getattr(Steps(), name)(*args)

        return step

    names = ("encode", "compress", "lay_out", "embed")
    with fewhertz.compress(model, spec, steps=Steps(**{name: noting(name) for name in names})):
        assert torch.equal(model(**batch).logits, plain)
    assert calls == list(names)

    def silent(call: Call) -> Any:
        windows, spared = steps.encode(call)
        return replace(windows, tokens=torch.zeros_like(windows.tokens)), spared

    with fewhertz.compress(model, spec, steps=Steps(encode=silent)):
        assert not torch.equal(model(**batch).logits, plain)


@torch.no_grad()
def test_a_change_holds_in_its_thread_and_for_its_model(model: Any, batch: dict[str, torch.Tensor]) -> None:
    other = TINY["qwen2-audio"].build()
    with fewhertz.compress(model, "pool@keep=1/2") as handle, fewhertz.compress(other, "pool@keep=1/2") as theirs:
        third = handle.family.fit(fewhertz.parse("pool@keep=1/3"), model.config)
        elsewhere: list[int] = []

        def call() -> None:
            with torch.no_grad():
                ids = batch["input_ids"]
                audio = {name: batch[name] for name in handle.family.audio_inputs}
                tokens, _ = handle.audio_tokens(audio, ids, ids == model.config.audio_token_id)
                elsewhere.extend(map(len, tokens))

        with changed(lambda now: replace(now, method=third), model):
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
            model(**batch)
            inside = handle.last.after
            other(**batch)
        model(**batch)
    halves = [handle.method.num_tokens(n) for n in handle.last.before]
    assert inside == [third.num_tokens(n) for n in handle.last.before]
    assert elsewhere == halves == handle.last.after == theirs.last.after
