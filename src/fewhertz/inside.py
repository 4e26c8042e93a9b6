"""Compression inside the LLM: the site `llm.k`, before layer k.

The layers below k read every audio token. Before layer k the hidden states of the audio tokens are compressed as audio
tokens are at the site `llm`, by the method's plan, and the layers from k on read the shorter prompt: their keys and
values are fewer, and the cache is of another length there. Its corrections hold from layer k on. `llm.0` is `llm`.

Hooks on the layers from k on change what each of them is given (hidden states, mask, rotary angles) while a call lasts,
in its thread; the model's own forward and `generate` go on as if nothing were compressed, and prompts keep their width
but for the logits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fewhertz.corrections import HIDDEN, PromptLayout, check_kernel
from fewhertz.families.base import Windows
from fewhertz.layout import ClipSpan, Trim
from fewhertz.plan import Plan
from fewhertz.steps import Call, Steps


def cache_in(call: dict[str, Any]) -> Any:
    """The cache of a call; transformers 5.24 renamed it."""
    return call.get("past_key_values") if call.get("past_key_values") is not None else call.get("cache")


@dataclass(eq=False)
class Inside:
    """A batch of prompts of which the layers from `layer` on read fewer tokens. It stays with the cache that holds it.

    Args:
        layer: the first layer that reads the compressed prompt, 1 or more.
        steps: how hidden states are compressed and laid out.
    """

    layer: int
    steps: Steps
    call: Call = field(init=False)
    windows: Windows = field(init=False)
    clips: list[ClipSpan] = field(init=False)
    plans: list[Plan | None] = field(init=False)  # of the report: filled before layer k
    layout: PromptLayout = field(init=False)

    def keep_all(self, call: Call, windows: Windows, clips: list[ClipSpan]) -> tuple[list[Tensor], list[Plan | None]]:
        """In place of the step `compress`: all audio tokens go into the LLM."""
        lengths = [clip.n for clip in clips]
        self.call, self.clips = call, [replace(clip, first=i, last=i + 1) for i, clip in enumerate(clips)]
        self.windows = replace(windows, lengths=lengths, full=None)
        self.plans = []
        return [*windows.tokens.split(lengths)], self.plans

    def expect(self, prompt: dict[str, Any], positions: Tensor, reach: int | None) -> Trim:
        """How the prompts are to be trimmed before layer k.

        Args:
            prompt: arguments of the call, uncompressed.
            positions: of each token of the prompts, (b, l) or (3, b, l).
            reach: as in `lay_out`.

        Raises:
            NotImplementedError: for images, and while gradients are checkpointed.
        """
        if any(prompt.get(name) is not None for name in ("pixel_values", "pixel_values_videos")):
            raise NotImplementedError(f"site=llm.{self.layer} is for audio and text: leave images out, or use site=llm")
        first = self.call.model.get_decoder().layers[self.layer]
        if first.training and getattr(first, "gradient_checkpointing", False):
            raise NotImplementedError(
                f"site=llm.{self.layer} does not train with gradient checkpointing: switch it off"
            )
        check_kernel(self.call.model)
        ids, mask = prompt["input_ids"], prompt.get("attention_mask")
        dropped = torch.zeros_like(ids, dtype=torch.bool)
        for clip in self.clips:
            dropped[clip.row, clip.start + self.call.method.num_tokens(clip.n) : clip.start + clip.n] = True
        self._trim = Trim.plan(dropped, mask)
        self._mask = torch.ones_like(ids) if mask is None else mask
        self._positions, self._reach = positions, reach
        axes = positions[None] if positions.dim() == 2 else positions
        packed = torch.stack([self._trim.apply(axis - dropped.long().cumsum(1), 0) for axis in axes])
        self._packed = packed.view(*positions.shape[:-1], -1)
        return self._trim

    @contextmanager
    def on(self, model: Any) -> Iterator[None]:
        """While it lasts, the layers from k on read the compressed prompt, in this thread."""
        decoder, here = model.get_decoder(), threading.get_ident()
        shared: dict[str, Any] = {}  # what all layers from k on are given, once a forward

        def before(layer: nn.Module, args: tuple[Any, ...], given: dict[str, Any] | None = None) -> Any:
            # another thread's call, which may find a hook that has just been removed and hand it no keywords
            if threading.get_ident() != here or given is None:
                return None
            hidden = args[0] if args else given["hidden_states"]
            if layer is decoder.layers[self.layer]:
                hidden = self._enter(decoder, hidden, cache_in(given), shared)
            given = given | shared
            return ((hidden, *args[1:]), given) if args else (args, given | {"hidden_states": hidden})

        hooks = [one.register_forward_pre_hook(before, with_kwargs=True) for one in decoder.layers[self.layer :]]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, decoder: Any, hidden: Tensor, cache: Any, shared: dict[str, Any]) -> Tensor:
        """Hidden states as layer k is to have them, and what goes with them."""
        past = 0 if cache is None else int(cache.get_seq_length(self.layer))
        if not past:
            hidden = self._compressed(hidden, cache)
        (batch, count), width = hidden.shape[:2], self.layout.mask.shape[1]
        copies = batch // len(self.layout.mask)
        positions = self.layout.following(batch, past, count) if past else self.layout.positions
        assert positions is not None
        positions = positions if past else positions.repeat_interleave(copies, dim=-2)
        there = hidden.device  # of layer k, where a model is spread over several
        real = pad(self.layout.mask.bool().to(there), (0, past + count - width), value=True)
        real = real.repeat_interleave(copies, 0)
        sizes = self.layout.log_sizes
        mask = None
        plain = sizes is None and bool(real.all()) and (count == 1 or not past)
        if not plain or decoder.config._attn_implementation != "sdpa":  # which is causal where it has no mask
            columns = torch.arange(past + count, device=there)
            allowed = real[:, None, None] & (columns <= past + columns[:count, None])
            much = hidden.new_zeros(1) if sizes is None else pad(sizes, (0, past + count - width))
            much = much if sizes is None else much.repeat_interleave(copies, 0)[:, None, None]
            mask = torch.where(allowed, much.to(hidden), HIDDEN).to(hidden.dtype)
        angles = decoder.rotary_emb(hidden, position_ids=positions.to(there))
        shared |= {"attention_mask": mask, "position_embeddings": angles, "position_ids": None}
        return hidden

    def _compressed(self, hidden: Tensor, cache: Any) -> Tensor:
        """The prompt's hidden states before layer k, (b, l, d), as (b, w, d)."""
        if hidden.shape[1] != self._mask.shape[1]:
            raise NotImplementedError(f"site=llm.{self.layer} reads the prompt at once, and goes on from a cache")
        if getattr(cache, "is_compileable", False):
            raise NotImplementedError(f"site=llm.{self.layer} needs a cache that grows: leave cache_implementation out")
        copies = len(hidden) // len(self._mask)  # beams, or several answers to one prompt: all alike before the first
        first = hidden[::copies]
        method, clips = self.call.method, self.clips
        heard = torch.cat([first[clip.row, clip.start : clip.start + clip.n] for clip in clips])
        scores = None if self.windows.scores is None else self.windows.scores.to(hidden.device)
        windows = replace(self.windows, tokens=heard, scores=scores)
        tokens, plans = self.steps.compress(replace(self.call, site="llm"), windows, clips)
        self.plans[:] = plans
        out = first.clone()
        for clip, kept in zip(clips, tokens, strict=True):
            out[clip.row, clip.start : clip.start + len(kept)] = kept
        trim = self._trim
        layout = self.steps.lay_out(method, self._positions, clips, plans, trim, self._mask, self._reach)
        self.layout = layout if layout.positions is not None else replace(layout, positions=self._packed)
        out = out.gather(1, trim.source.to(out.device)[..., None].expand(-1, -1, out.shape[-1]))
        del self.call, self.windows  # what is kept with a cache needs them no more
        return out.repeat_interleave(copies, 0)
