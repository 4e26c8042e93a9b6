"""Attention received: how much the encoder's own last layer looks at each frame, without eager attention.

Under SDPA `output_attentions=True` gives nothing, and eager attention keeps an n×n matrix per head. Here the layer
runs its own kernel, bit for bit, and the columns of the softmax are summed beside it in chunks of queries: extra
memory is O(n).
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

_IMPLEMENTATION = "fewhertz_received"  # name in transformers' AttentionInterface
_CHUNK_ELEMENTS = 1 << 22  # logits held at once, over batch, heads, queries of the chunk and keys


@dataclass
class Received:
    """Filled while the marked attention layer runs."""

    valid: Bool[Tensor, "b t"] | None
    masked: bool
    calls: list[Float[Tensor, "b t"]] = field(default_factory=list)

    @property
    def scores(self) -> Float[Tensor, "b t"]:
        """Attention received by each frame; b = 1 where the encoder packs its clips and attends block by block."""
        return torch.cat(self.calls, dim=1)


def column_sums(
    query: Float[Tensor, "b h t e"],
    key: Float[Tensor, "b g t e"],
    scaling: float,
    queries: Bool[Tensor, "b t"] | None = None,
    keys: Bool[Tensor, "b t"] | None = None,
) -> Float[Tensor, "b t"]:
    """Attention that each key receives: the softmax's columns, summed over valid queries, mean over heads.

    2511.14293 scores a frame by the mean over queries. The sum is that mean times the number of queries: the same
    factor for all frames of one attention matrix, so ranks are the same, and, unlike the mean, on one scale over the
    windows of a clip, a short last window among them: where all frames are valid it is 1 on average in each. The paper
    does not say how heads are reduced; the mean is our choice.

    Args:
        query: queries, as the attention function gets them.
        key: keys, with g ≤ h heads.
        scaling: factor of the logits.
        queries: which queries count; None: all.
        keys: which keys may be looked at; None: all.
    """
    b, heads, n, _ = query.shape
    key = key.repeat_interleave(heads // key.shape[1], dim=1).transpose(2, 3)
    counts = query.new_ones(b, n, dtype=torch.float32) if queries is None else queries.to(query.device).float()
    hidden = None if keys is None else ~keys.to(query.device)[:, None, None, :]
    total = query.new_zeros(b, key.shape[3], dtype=torch.float32)
    step = max(1, _CHUNK_ELEMENTS // (b * heads * key.shape[3]))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        logits = (query[:, :, rows] * scaling @ key).float()
        if hidden is not None:
            logits.masked_fill_(hidden, torch.finfo(logits.dtype).min)  # finite: an empty window is no NaN
        # a row of ones and zeros times the probabilities of each head: no copy of them is made
        total += (counts[:, None, None, rows] @ logits.softmax(-1)).sum((1, 2))
    return total / heads


def token_means(scores: Float[Tensor, "... t"], frames: int) -> Float[Tensor, "... n"]:
    """Average each `frames` consecutive encoder frames that form one audio token; a rest forms none."""
    n = scores.shape[-1] // frames
    return scores[..., : n * frames].unflatten(-1, (n, frames)).mean(-1)


# Of the encoder pass that runs in this thread, by the id of the attention module: threads don't meet.
_RECEIVED: ContextVar[dict[int, Received]] = ContextVar("fewhertz_received", default={})  # noqa: B039 (never changed)
_CAPTURE = threading.Lock()
_USERS: dict[int, tuple[int, Any]] = {}  # captures that run on a module in all threads, and its own config
_KERNELS: WeakKeyDictionary[nn.Module, Callable[..., Any]] = WeakKeyDictionary()  # what a module attends by


def _attend_and_record(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> Any:
    received = _RECEIVED.get().get(id(module))
    if received is not None:
        with torch.no_grad():
            scaling = kwargs.get("scaling")
            received.calls.append(
                column_sums(
                    query,
                    key,
                    query.shape[-1] ** -0.5 if scaling is None else scaling,
                    queries=received.valid,
                    keys=received.valid if received.masked else None,
                )
            )
    return _KERNELS[module](module, query, key, value, attention_mask, **kwargs)


@contextmanager
def attention_received(
    attention: nn.Module, valid: Bool[Tensor, "b t"] | None = None, masked: bool = True
) -> Iterator[Received]:
    """Record what each frame receives while `attention`, one layer's self-attention module, runs once in this thread.

    Args:
        attention: a module that picks its kernel by `config._attn_implementation`, as transformers' do. A module that
            attends block by block (packed clips) calls the kernel once a block.
        valid: frames that are audio, not padding; None: all.
        masked: whether the encoder hides padding from attention too.

    Yields:
        An object whose `scores` are there after the encoder has run.

    Raises:
        NotImplementedError: where the encoder runs another kernel than sdpa or eager.
    """
    received = Received(valid, masked)
    _mark(attention)
    token = _RECEIVED.set({**_RECEIVED.get(), id(attention): received})
    try:
        yield received
    finally:
        _RECEIVED.reset(token)
        _unmark(attention)


def _mark(attention: Any) -> None:
    """Let a module attend by `_attend_and_record`, until as many have called `_unmark`."""
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    with _CAPTURE:
        users, config = _USERS.get(id(attention), (0, attention.config))
        if not users:
            if config._attn_implementation not in ("sdpa", "eager"):
                raise NotImplementedError(
                    f"attention scores are captured from sdpa or eager attention, the audio encoder runs "
                    f"{config._attn_implementation!r}: load the model with "
                    "attn_implementation={'audio_config': 'sdpa'}"
                )
            AttentionInterface.register(_IMPLEMENTATION, _attend_and_record)
            eager = getattr(sys.modules[type(attention).__module__], "eager_attention_forward", None)
            _KERNELS[attention] = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager)
            own = copy.copy(config)  # the mask is made from the encoder's config, which stays as it is
            own._attn_implementation_internal = _IMPLEMENTATION
            attention.config = own
        _USERS[id(attention)] = users + 1, config


def _unmark(attention: Any) -> None:
    with _CAPTURE:
        users, config = _USERS.pop(id(attention))
        if users > 1:
            _USERS[id(attention)] = users - 1, config
        else:
            attention.config = config
