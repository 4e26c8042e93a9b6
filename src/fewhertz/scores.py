"""Attention received: how much the encoder's own last layer looks at each frame, without eager attention.

Under SDPA `output_attentions=True` gives nothing, and eager attention keeps an n×n matrix per head. Here the layer
runs its own kernel, bit for bit, and the columns of the softmax are summed beside it in chunks of queries: extra
memory is O(n).
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

_IMPLEMENTATION = "fewhertz_received"  # name in transformers' AttentionInterface
_CHUNK_ELEMENTS = 1 << 22  # logits held at once, over batch, heads, queries of the chunk and keys


@dataclass
class Received:
    """Filled while the marked attention layer runs."""

    valid: Bool[Tensor, "b t"]
    attend: Callable[..., Any]
    scores: Float[Tensor, "b t"] | None = None


def column_means(
    query: Float[Tensor, "b h t e"],
    key: Float[Tensor, "b h t e"],
    mask: Tensor | None,
    scaling: float,
    valid: Bool[Tensor, "b t"],
) -> Float[Tensor, "b t"]:
    """Attention that each key receives: the softmax's columns, mean over heads and valid queries (2511.14293, §3).

    The papers do not say how heads are reduced; the mean is our choice. Rows of padding count for nothing.
    """
    b, heads, n, _ = query.shape
    total = query.new_zeros(b, key.shape[2], dtype=torch.float32)
    step = max(1, _CHUNK_ELEMENTS // (b * heads * key.shape[2]))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        logits = (query[:, :, rows] @ key.transpose(2, 3)).float() * scaling
        if mask is not None:
            part = mask[:, :, rows] if mask.shape[2] > 1 else mask
            logits = logits.masked_fill(~part, float("-inf")) if part.dtype == torch.bool else logits + part
        # a row of padding may have no key at all: its softmax is NaN, and it is not a valid query
        probabilities = logits.softmax(-1).mean(1).masked_fill(~valid[:, rows, None], 0.0)
        total += probabilities.sum(1)
    return total / valid.sum(1, keepdim=True).clamp_min(1)


def _attend_and_record(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> Any:
    received: Received = module.__dict__["_fewhertz_received"]
    with torch.no_grad():
        scaling = kwargs.get("scaling")
        received.scores = column_means(
            query, key, attention_mask, query.shape[-1] ** -0.5 if scaling is None else scaling, received.valid
        )
    return received.attend(module, query, key, value, attention_mask, **kwargs)


@contextmanager
def attention_received(attention: nn.Module, valid: Bool[Tensor, "b t"]) -> Iterator[Received]:
    """Record what each frame receives while `attention`, one layer's self-attention module, runs once.

    Args:
        attention: a module that picks its kernel by `config._attn_implementation`, as transformers' do.
        valid: frames that are audio, not padding.

    Yields:
        An object whose `scores` (b, t) are there after the encoder has run.
    """
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    AttentionInterface.register(_IMPLEMENTATION, _attend_and_record)
    config: Any = attention.config
    eager = getattr(sys.modules[type(attention).__module__], "eager_attention_forward", None)
    received = Received(valid, ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager))
    own = copy.copy(config)  # the mask is made from the encoder's config, which stays as it is
    own._attn_implementation_internal = _IMPLEMENTATION
    attention.config = own
    attention.__dict__["_fewhertz_received"] = received
    try:
        yield received
    finally:
        attention.config = config
        del attention.__dict__["_fewhertz_received"]
