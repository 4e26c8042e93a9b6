"""One clip under several methods: the tokens, the answers and what they cost, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fewhertz
from fewhertz.attach import encode_once
from fewhertz.checkpoint import locate
from fewhertz.cost import kv_bytes, prefill_flops
from fewhertz.loading import load_learned
from fewhertz.method import NONE, parse
from fewhertz.plan import Plan
from fewhertz.run import Wave, answer, request
from fewhertz.words import differences, word_errors


@dataclass(frozen=True)
class Lane:
    """What one method makes of a clip.

    Attributes:
        spec: of the method; `"none"`: all tokens.
        before: audio tokens that the encoder made.
        tokens: audio tokens that the LLM read.
        plan: who joins whom, of one clip; `None` of a learned method.
        text: the answer.
        differences: of the answer to that with all tokens (`fewhertz.words.differences`).
        errors: wrong words of the answer, and words of the reference; `None` without one.
        kv: bytes of the KV cache after prefill; `None` where the LLM's are not counted.
        flops: floating-point operations of the LLM's prefill; likewise.
    """

    spec: str
    before: int
    tokens: int
    plan: Plan | None
    text: str
    differences: list[tuple[str, str]]
    errors: tuple[int, int] | None
    kv: int | None
    flops: int | None


def load(model: str | Path, methods: Sequence[str], **how: Any) -> tuple[Any, Any]:
    """A model that all the methods fit, with the weights that it carries for those that are learned.

    Args:
        model: a hub id, a directory, or `pocket`.
        methods: specs.
        how: `device` and `dtype` of `fewhertz.load`.

    Raises:
        ValueError: as `fewhertz.load`, for each method.
    """
    net, processor = fewhertz.load(model, NONE, **how)
    for spec in methods:
        with fewhertz.compress(net, spec) as handle:
            load_learned(handle, [locate(model)], carried=False)
    return net, processor


def compare(
    model: Any,
    processor: Any,
    wave: Wave,
    methods: Sequence[str],
    prompt: str | None = None,
    *,
    reference: str | None = None,
    max_new_tokens: int = 256,
) -> list[Lane]:
    """Ask the same of a clip with all tokens and under each method, greedily; it is encoded once.

    Args:
        model: an audio language model of a known family. A method that is attached is taken off.
        processor: the model's own.
        wave: mono audio at the processor's rate, within the model's window.
        methods: specs.
        prompt: what to ask; `None`: transcribe.
        reference: what the answer should be.
        max_new_tokens: longest answer, in tokens.

    Returns:
        A lane for all tokens, then one for each other method, in their order.

    Raises:
        ValueError: where the audio gives no token, or a method does not fit the model.
    """
    inputs = request(processor, [wave], prompt).to(model.device, model.dtype)
    specs = dict.fromkeys([NONE, *(spec for spec in methods if spec.strip() != NONE)])
    lanes: list[Lane] = []
    with encode_once(model, scores=any("scores" in parse(spec).needs for spec in specs)):
        for spec in specs:
            with fewhertz.compress(model, spec) as handle:
                (reply,) = answer(model, processor, inputs, transcript=prompt is None, max_new_tokens=max_new_tokens)
                (plan,) = handle.last.plans
            length = inputs["input_ids"].numel() - reply.before + reply.after
            kv, flops = _cost(model, length)
            whole = lanes[0].text if lanes else reply.text
            lanes.append(
                Lane(
                    spec if spec == NONE else handle.asked.spec,
                    reply.before,
                    reply.after,
                    plan,
                    reply.text,
                    differences(whole, reply.text),
                    None if reference is None else word_errors(reference, reply.text),
                    kv,
                    flops,
                )
            )
    return lanes


def _cost(model: Any, length: int) -> tuple[int | None, int | None]:
    text = model.config.get_text_config()
    try:
        return kv_bytes(text, length, model.dtype), prefill_flops(text, length)
    except NotImplementedError:  # attention of other kinds is not counted
        return None, None
