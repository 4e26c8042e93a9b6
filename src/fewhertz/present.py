"""What the LLM is told about compressed tokens: when they were, and how many tokens each of them stands for.

When (`positions="time"`): a compressed token stands at the mean position of its members, and whatever follows it where
it stood before, in the prompt and while decoding. Positions are fractions: the LLMs of all families turn them into
angles in float32, so nothing is rounded.

How much (`sizes=True`): log s is added to the attention logits of a token that stands for s, for every query and in
every layer. exp(q·k + log s) = s·exp(q·k), so for s equal keys and values it is exactly the attention over all of them
(proportional attention of token merging, arXiv 2210.09461, section 3). In the second layer and above the copies would
differ a little, since each of them had another past.

The LLM's own code makes its mask by transformers' `AttentionMaskInterface`. Here it makes an additive one, once a
forward and shared by all layers; the attention kernel stays the model's own, and gradient checkpointing sees the mask
as it sees any other. On a CPU that costs a layer of 7B shape 1 % at prompts of up to 790 tokens, 7.5 % at 2,540 and
nothing at decoding, no more than a padded batch's mask does (bench/told.py). A key with one more dimension, log s,
against a query with a constant there, gives the same without a mask, and may pay on a GPU, where nothing was measured;
but it has to enter the attention of every layer, and a padded batch needs a mask all the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad

from fewhertz.layout import ClipSpan, Trim
from fewhertz.method import Method
from fewhertz.plan import Plan

_MASK = "fewhertz_sizes"  # name in transformers' AttentionMaskInterface
_TOLD = "_fewhertz_told"  # attribute of a cache
# The least float16: any autocast keeps it finite, and rows of padding free of NaN.
_HIDDEN = -65504.0


@dataclass(frozen=True, eq=False)
class Told:
    """A batch of compressed prompts as the LLM is told of them.

    Args:
        positions: of each token; three axes with M-RoPE. `None`: one after the other, as the model counts.
        log_sizes: log of the number of tokens that each one stands for; `None`: all stand for themselves.
    """

    positions: Float[Tensor, "b w"] | Float[Tensor, "3 b w"] | None = None
    log_sizes: Float[Tensor, "b w"] | None = None

    def following(self, batch: int, past: int, count: int) -> Tensor | None:
        """Positions of `count` new tokens after a cache of `past`; `batch` may be a multiple of the prompts."""
        if self.positions is None:
            return None
        ahead = self.positions[..., -1:] + 1 - self.positions.shape[-1]
        ahead = ahead.repeat_interleave(batch // ahead.shape[-2], dim=-2)
        return torch.arange(past, past + count, device=ahead.device) + ahead


def tell(
    method: Method,
    positions: Tensor,
    clips: list[ClipSpan],
    plans: Iterable[Plan | None],
    trim: Trim,
) -> Told:
    """Lay out what the LLM is told of a batch.

    Args:
        method: says which of the two it is told.
        positions: of each token of the uncompressed prompts, (b, l) or (3, b, l), rising by 1 within a clip.
        clips: where the clips stand in the uncompressed prompts.
        plans: the plan of each.
        trim: the compressed layout.

    Raises:
        ValueError: for a method without a plan.
    """
    when = positions.to(torch.float32, copy=True)
    much = torch.zeros(positions.shape[-2:], device=positions.device)
    for clip, plan in zip(clips, plans, strict=True):
        if plan is None:
            raise no_plan(method)
        places = slice(clip.start, clip.start + plan.m)
        when[..., clip.row, places] = positions[..., clip.row, clip.start, None] + plan.centres()[0].to(when)
        if clip.start + clip.n == positions.shape[-1]:
            # decoding goes on from the last token: where that is audio, from the end of what it stands for
            when[..., clip.row, places.stop - 1] = positions[..., clip.row, -1]
        much[clip.row, places] = plan.sizes()[0].log().to(much)
    much = trim.apply(much, 0)
    axes = when if when.dim() == 3 else when[None]
    when = torch.stack([trim.apply(axis, 0) for axis in axes]).view(*when.shape[:-1], -1)
    return Told(
        when if method.positions == "time" else None,
        much if method.sizes and bool(much.any()) else None,
    )


def no_plan(method: Method) -> ValueError:
    """The error for a learned method that is to be presented."""
    return ValueError(f"{method.name} is learned and has no plan to read times and sizes off: leave +time, +sizes out")


def check_kernel(model: nn.Module) -> None:
    """Raise `NotImplementedError` where the LLM runs another kernel than sdpa or eager."""
    llm: Any = model
    kernel = llm.get_decoder().config._attn_implementation
    if kernel not in ("sdpa", "eager"):
        raise NotImplementedError(
            f"+time and +sizes run on sdpa or eager attention, the LLM runs {kernel!r}: "
            "load the model with attn_implementation='sdpa'"
        )


def _sized_mask(*, config: Any, dtype: torch.dtype, **kwargs: Any) -> Float[Tensor, "b 1 q k"]:
    """The causal and padding mask, with log s in place of its zeros."""
    from transformers.masking_utils import sdpa_mask

    allowed: Bool[Tensor, "b 1 q k"] = sdpa_mask(**kwargs | {"allow_is_causal_skip": False})
    log_sizes = config.__dict__[_MASK]
    first, past_end = kwargs["kv_offset"], kwargs["kv_offset"] + kwargs["kv_length"]
    # what was generated stands for itself, and so does the empty end of a static cache
    log_sizes = pad(log_sizes, (0, max(0, past_end - log_sizes.shape[1])))[:, first:past_end]
    log_sizes = log_sizes.repeat_interleave(kwargs["batch_size"] // len(log_sizes), dim=0)  # beams
    return torch.where(allowed, log_sizes[:, None, None].to(allowed.device, dtype), _HIDDEN)


@contextmanager
def sized(model: nn.Module, log_sizes: Float[Tensor, "b w"] | None) -> Iterator[None]:
    """While it lasts, the LLM adds `log_sizes` to the attention logits of its first `w` keys.

    Args:
        model: the whole model.
        log_sizes: one row a prompt; prompts may be repeated (beams). `None`: nothing is done.
    """
    if log_sizes is None:
        yield
        return
    from transformers import AttentionMaskInterface

    AttentionMaskInterface.register(_MASK, _sized_mask)
    whole: Any = model
    decoder = whole.get_decoder()
    held, stated = decoder.config, vars(whole.config)
    text = stated["text_config"]
    # Masks are made from the config of the LLM, or by `generate` (static caches) from that of the whole model; layers
    # pick their kernel by their own reference to the original, which stays as it is.
    own = copy.copy(held)
    own._attn_implementation_internal = _MASK
    own.__dict__[_MASK] = log_sizes
    # not by `setattr`, which validates a configuration anew and takes longer than all of this
    decoder.config = stated["text_config"] = own
    try:
        yield
    finally:
        decoder.config, stated["text_config"] = held, text


def remember(out: Any, told: Told) -> None:
    """Leave with the cache in a model's output how the prompt in it was told."""
    from transformers import Cache

    for value in out.values() if isinstance(out, dict) else out:
        if isinstance(value, Cache):
            setattr(value, _TOLD, told)


def recall(cache: Any) -> Told | None:
    """How the prompt in a cache was told, where it was compressed and told in another way than packed."""
    told = getattr(cache, _TOLD, None)
    if told is not None and not cache.get_seq_length():  # emptied, to be used anew
        delattr(cache, _TOLD)
        return None
    return told
