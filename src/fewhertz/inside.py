"""Compression inside the LLM: the site `llm.k`, before layer k, or `llm.k+l`, a part before each of these layers.

The layers below k read every audio token. Before layer k the hidden states of the audio tokens are compressed as audio
tokens are at the site `llm`, by the method's plan, and the layers from k on read the shorter prompt: their keys and
values are fewer, and the cache is of another length there. Its corrections hold from layer k on. `llm.0` is `llm`.

Before each of several layers the plan is made on what the one before left, whose tokens count for as many as they stand
for, and corrections are those of the plans' composition. Where the first of them is 0, its part is done before the LLM
reads anything, as at the site `llm`.

Hooks on the layers from k on change what each of them is given (hidden states, mask, rotary angles) while a call lasts,
in its thread; the model's own forward and `generate` go on as if nothing were compressed, and prompts keep their width
but for the logits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fewhertz.corrections import HIDDEN, PromptLayout, check_kernel
from fewhertz.families.base import Windows
from fewhertz.layout import ClipSpan, Trim
from fewhertz.plan import Plan
from fewhertz.steps import Call, Steps, compress, merged


def cache_in(call: dict[str, Any]) -> Any:
    """The cache of a call; transformers 5.24 renamed it."""
    return call.get("past_key_values") if call.get("past_key_values") is not None else call.get("cache")


@dataclass(eq=False)
class Inside:
    """A batch of prompts of which the layers from some on read fewer tokens. It stays with the cache that holds it.

    Args:
        site: `llm.k` or `llm.k+l`.
        layers: those that read fewer tokens than the layer before them.
        steps: how hidden states are compressed and laid out.
        outer: how prompts are laid out that were compressed before layer 0; `None`: they were not.
    """

    site: str
    layers: list[int]
    steps: Steps
    outer: PromptLayout | None = None
    call: Call = field(init=False)
    windows: Windows = field(init=False)
    clips: list[ClipSpan] = field(init=False)
    plans: list[Any] = field(init=False)  # of the report: filled before layer k, composed before each that follows
    layouts: dict[int, PromptLayout] = field(init=False)  # from each layer on

    def first(self, call: Call, windows: Windows, clips: list[ClipSpan]) -> tuple[list[Tensor], list[Plan | None]]:
        """In place of the step `compress`: audio tokens go into the LLM, all but for what is done before layer 0.

        Raises:
            NotImplementedError: for several layers where that step is another one than the usual.
        """
        if self.layers[1:] and self.steps.compress is not compress:
            raise NotImplementedError(f"a step compress of one's own acts once: site={self.site} has several layers")
        lengths = [clip.n for clip in clips]
        self.call, self.clips = call, [replace(clip, first=i, last=i + 1) for i, clip in enumerate(clips)]
        self.windows = replace(windows, lengths=lengths, full=None)
        self.plans, self.layouts = [], {}
        tokens = [*windows.tokens.split(lengths)]
        return self._formed(0, tokens) if self.layers[0] == 0 else tokens, self.plans

    def _formed(self, turn: int, heard: list[Tensor]) -> list[Tensor]:
        """What is left of each clip behind one of the layers; writes the plans."""
        if self.layers[1:]:
            done = dict(enumerate(self.plans))
            left = dict(enumerate(heard))
            limits = {i: (m, m) for i, m in enumerate(self._counts(turn))}
            found = merged(self.call, left, done, limits, 1, per=1)
            self.plans[:] = [done[i].then(plan) if done else plan for i, plan in found.items()]
            return [plan.apply(left[i][None])[0] for i, plan in found.items()]
        scores = None if self.windows.scores is None else self.windows.scores.to(heard[0].device)
        windows = replace(self.windows, tokens=torch.cat(heard), scores=scores)
        tokens, self.plans[:] = self.steps.compress(replace(self.call, site="llm"), windows, self.clips)
        return tokens

    def _counts(self, turn: int) -> list[int]:
        """Tokens of each clip behind one of the layers."""
        return [self.call.method.counts_inside(clip.n)[turn] for clip in self.clips]

    def expect(self, prompt: dict[str, Any], positions: Tensor, reach: int | None) -> Trim:
        """How the prompts are to be trimmed before the last of the layers.

        Args:
            prompt: arguments of the call, uncompressed.
            positions: of each token of the prompts, (b, l) or (3, b, l).
            reach: as in `lay_out`.

        Raises:
            NotImplementedError: for images, and while gradients are checkpointed.
        """
        if any(prompt.get(name) is not None for name in ("pixel_values", "pixel_values_videos")):
            raise NotImplementedError(f"site={self.site} is for audio and text: leave images out, or use site=llm")
        first = self.call.model.get_decoder().layers[self.layers[0]]
        if first.training and getattr(first, "gradient_checkpointing", False):
            raise NotImplementedError(f"site={self.site} does not train with gradient checkpointing: switch it off")
        check_kernel(self.call.model)
        ids, mask = prompt["input_ids"], prompt.get("attention_mask")
        self._mask = torch.ones_like(ids) if mask is None else mask
        self._whole = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)  # column of each token
        self._positions, self._reach = positions, reach
        axes = positions[None] if positions.dim() == 2 else positions
        self._trims, self._packed = [], []
        for turn in range(len(self.layers)):
            dropped = torch.zeros_like(ids, dtype=torch.bool)
            for clip, m in zip(self.clips, self._counts(turn), strict=True):
                dropped[clip.row, clip.start + m : clip.start + clip.n] = True
            trim = Trim.plan(dropped, mask)
            packed = torch.stack([trim.apply(axis - dropped.long().cumsum(1), 0) for axis in axes])
            self._trims.append(trim)
            self._packed.append(packed.view(*positions.shape[:-1], -1))
        return trim

    @contextmanager
    def on(self, model: Any) -> Iterator[None]:
        """While it lasts, the layers from k on read the compressed prompt, in this thread."""
        decoder, here = model.get_decoder(), threading.get_ident()
        turns = {decoder.layers[k]: turn for turn, k in enumerate(self.layers) if k}
        shared: dict[str, Any] = {}  # what all layers from k on are given, once a forward, up to the next that merges

        def before(layer: nn.Module, args: tuple[Any, ...], given: dict[str, Any] | None = None) -> Any:
            # another thread's call, which may find a hook that has just been removed and hand it no keywords
            if threading.get_ident() != here or given is None:
                return None
            hidden = args[0] if args else given["hidden_states"]
            if layer in turns:
                hidden = self._enter(decoder, turns[layer], hidden, cache_in(given), shared)
            given = given | shared
            return ((hidden, *args[1:]), given) if args else (args, given | {"hidden_states": hidden})

        later = decoder.layers[next(k for k in self.layers if k) :]
        hooks = [one.register_forward_pre_hook(before, with_kwargs=True) for one in later]
        try:
            with nullcontext() if self.outer is None else self.outer.on(model):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, decoder: Any, turn: int, hidden: Tensor, cache: Any, shared: dict[str, Any]) -> Tensor:
        """Hidden states as a layer that merges is to have them, and what goes with them."""
        past = 0 if cache is None else int(cache.get_seq_length(self.layers[turn]))
        if not past:
            hidden = self._compressed(turn, hidden, cache)
        layout = self.layouts[turn]
        (batch, count), width = hidden.shape[:2], layout.mask.shape[1]
        copies = batch // len(layout.mask)
        positions = layout.following(batch, past, count) if past else layout.positions
        assert positions is not None
        positions = positions if past else positions.repeat_interleave(copies, dim=-2)
        there = hidden.device  # of layer k, where a model is spread over several
        real = pad(layout.mask.bool().to(there), (0, past + count - width), value=True)
        real = real.repeat_interleave(copies, 0)
        sizes = layout.log_sizes
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

    def _compressed(self, turn: int, hidden: Tensor, cache: Any) -> Tensor:
        """The prompt's hidden states before a layer that merges, (b, l, d), as (b, w, d)."""
        before = self._trims[turn - 1].source if turn else self._whole
        if hidden.shape[1] != before.shape[1]:
            raise NotImplementedError(f"site={self.site} reads the prompt at once, and goes on from a cache")
        if getattr(cache, "is_compileable", False):
            raise NotImplementedError(f"site={self.site} needs a cache that grows: leave cache_implementation out")
        copies = len(hidden) // len(self._mask)  # beams, or several answers to one prompt: all alike before the first
        # each token where it, or the first of what it stands for, was in the whole prompt
        place = before.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1])
        out = hidden.new_zeros(*self._mask.shape, hidden.shape[-1]).scatter(1, place, hidden[::copies])
        method, clips = self.call.method, self.clips
        counts = self._counts(turn - 1) if turn else [clip.n for clip in clips]
        heard = [
            out[clip.row, clip.start : clip.start + n].clone()  # written to below, and read by the backward pass
            for clip, n in zip(clips, counts, strict=True)
        ]
        for clip, kept in zip(clips, self._formed(turn, heard), strict=True):
            out[clip.row, clip.start : clip.start + len(kept)] = kept
        trim = self._trims[turn]
        layout = self.steps.lay_out(method, self._positions, clips, self.plans, trim, self._mask, self._reach)
        packed = self._packed[turn]
        self.layouts[turn] = layout if layout.positions is not None else replace(layout, positions=packed)
        out = out.gather(1, trim.source.to(out.device)[..., None].expand(-1, -1, out.shape[-1]))
        if turn == len(self.layers) - 1:
            del self.call, self.windows  # what is kept with a cache needs them no more
        return out.repeat_interleave(copies, 0)
