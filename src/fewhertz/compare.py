"""One clip under several methods: the tokens, the answers and what they cost, side by side."""

from __future__ import annotations

import contextvars
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import fewhertz
from fewhertz.checkpoint import locate
from fewhertz.cost import Reads, kv_bytes, prefill_flops, reads
from fewhertz.loading import load_learned
from fewhertz.method import NONE, parse
from fewhertz.once import encode_once
from fewhertz.plan import Plan
from fewhertz.run import Wave, answer, request
from fewhertz.words import differences, word_errors


@dataclass(frozen=True)
class Lane:
    """What one method makes of a clip.

    Attributes:
        spec: of the method; `"none"`: all tokens.
        before: audio tokens that the encoder made.
        tokens: audio tokens that the LLM reads.
        plan: who joins whom, of one clip; `None` of a learned method.
        text: the answer; `None`: not asked for.
        kv: bytes of the KV cache after prefill; `None` where the LLM's are not counted.
        flops: floating-point operations of the LLM's prefill; likewise.
        differences: of the answer to that with all tokens (`fewhertz.words.differences`).
        errors: wrong words of the answer, and words of the reference; `None` without one.
    """

    spec: str
    before: int
    tokens: int
    plan: Plan | None
    text: str | None
    kv: int | None
    flops: int | None
    differences: tuple[tuple[str, str], ...] = ()
    errors: tuple[int, int] | None = None

    def judged(self, whole: str | None, reference: str | None) -> Lane:
        """The same with its differences to the answer with all tokens, and its errors against a reference."""
        if self.text is None or whole is None:
            return self
        errors = word_errors(reference, self.text) if reference else None
        return replace(self, differences=tuple(differences(whole, self.text)), errors=errors)


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


class Heard:
    """A clip and what is asked of it, encoded once, whatever methods come.

    Args:
        model: an audio language model of a known family. A method that is attached is taken off.
        processor: the model's own.
        wave: mono audio at the processor's rate, within the model's window.
        prompt: what to ask; `None`: transcribe.
        methods: specs that are to come; where another one needs attention scores, it is encoded once more.
    """

    def __init__(
        self, model: Any, processor: Any, wave: Wave, prompt: str | None = None, methods: Sequence[str] = ()
    ) -> None:
        self.model, self.processor, self.prompt = model, processor, prompt
        self.inputs = request(processor, [wave], prompt).to(model.device, model.dtype)
        self._context = contextvars.copy_context()  # `encode_once` holds in it, from one call to the next
        once = encode_once(model, scores=any("scores" in parse(spec).needs for spec in methods))
        self._context.run(once.__enter__)
        weakref.finalize(self, self._context.run, once.__exit__, None, None, None)

    def draw(self, spec: str) -> Lane:
        """A lane without an answer.

        Raises:
            ValueError: where the audio gives no token, or the method does not fit the model.
        """
        return self._context.run(self._lane, spec, None)

    def answer(self, spec: str, max_new_tokens: int = 256) -> Lane:
        """A lane with its answer, of at most `max_new_tokens`, greedily.

        Raises:
            ValueError: as `draw`.
        """
        return self._context.run(self._lane, spec, max_new_tokens)

    @torch.no_grad()
    def _lane(self, spec: str, max_new_tokens: int | None) -> Lane:
        model, ids, text = self.model, self.inputs["input_ids"], None
        with fewhertz.compress(model, spec) as handle:
            if max_new_tokens is None and not handle.method.llm_layers:
                audio = {name: self.inputs[name] for name in handle.family.audio_inputs}
                handle.audio_tokens(audio, ids, ids == handle.family.placeholder(model.config))
            else:
                # inside the LLM tokens are there once it has read the prompt
                longest = max_new_tokens or 1
                (reply,) = answer(
                    model, self.processor, self.inputs, transcript=self.prompt is None, max_new_tokens=longest
                )
                text = None if max_new_tokens is None else reply.text
            last = handle.last
        before, after, whole = sum(last.before), sum(last.after), ids.numel()
        name = spec.strip() if spec.strip() == NONE else handle.asked.spec
        return Lane(
            name,
            before,
            after,
            last.plans[0],
            text,
            *_cost(model, whole, reads(handle.method, whole - before, last.before, after)),
        )


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
    heard = Heard(model, processor, wave, prompt, methods)
    lanes: list[Lane] = []
    for spec in with_all_tokens(methods):
        lane = heard.answer(spec, max_new_tokens)
        lanes.append(lane.judged((lanes or [lane])[0].text, reference))
    return lanes


def with_all_tokens(methods: Sequence[str]) -> list[str]:
    """The specs, each once, after that of the uncompressed model."""
    return list(dict.fromkeys([NONE, *(spec.strip() for spec in methods)]))


def _cost(model: Any, whole: int, later: Reads) -> tuple[int | None, int | None]:
    text = model.config.get_text_config()
    try:
        return kv_bytes(text, whole, model.dtype, later), prefill_flops(text, whole, later)
    except NotImplementedError:  # attention of other kinds is not counted
        return None, None
