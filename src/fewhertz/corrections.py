"""Corrections: time positions (`+time`) and proportional attention (`+sizes`) for compressed tokens.

When (`positions="time"`): a compressed token stands at the mean position of its members, and whatever follows it where
it stood before, in the prompt and while decoding. Positions are fractions: the LLMs of all families turn them into
angles in float32, so nothing is rounded.

Where that would end beyond the positions that the LLM was made for, or beyond so many (`fit`), the distances within
clips are drawn together, all by one factor, until the prompt ends at the last of them. Distances between text tokens,
and from text to a clip, stay those of training. They are never drawn together further than packed positions are: a
prompt of more tokens than positions does not fit at all.

How much (`sizes=True`): log s is added to the attention logits of a token that stands for s, for every query and in
every layer. exp(q·k + log s) = s·exp(q·k), so for s equal keys and values it is exactly the attention over all of them
(proportional attention of token merging, arXiv 2210.09461, section 3). In the second layer and above the copies would
differ a little, since each of them had another past.

The LLM's own code makes its mask by transformers' `AttentionMaskInterface`. Around its functions stands one of ours,
which makes an additive mask for a call with sizes, once a forward and shared by all layers; the attention kernel stays
the model's own, and gradient checkpointing sees the mask as it sees any other. What a call adds is in a context
variable and nothing of the model is changed, so threads may call one model at a time.

On a CPU the mask costs a layer of 7B shape 1 % at prompts of up to 790 tokens, 7.5 % at 2,540 and nothing at decoding,
no more than a padded batch's mask does (bench/corrections.py); on a GPU nothing at decoding, and in the prefill of long
prompts what the flash kernel would have saved (docs/research/gpu.md). A key with one more dimension, log s, against a
query with a constant there, gives the same without a mask, but it has to enter the attention of every layer, and a
padded batch needs a mask all the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.functional import pad

from fewhertz.layout import ClipSpan, Trim
from fewhertz.method import Method
from fewhertz.plan import Plan

_LAYOUT = "_fewhertz_layout"  # attribute of a cache
# The least float16: any autocast keeps it finite, and rows of padding free of NaN.
HIDDEN = -65504.0


@dataclass(frozen=True, eq=False)
class PromptLayout:
    """A batch of compressed prompts as the LLM reads them. It stays with the cache that holds them.

    Args:
        mask: 1 where a token is, 0 at padding, in the compressed layout.
        width: tokens of the uncompressed prompts, padding included.
        positions: of each token; three axes with M-RoPE. `None`: one after the other, as the model counts.
        log_sizes: log of the number of tokens that each one stands for; `None`: all stand for themselves.
        packed: whether positions are those of the compressed prompts, not of the uncompressed ones.
    """

    mask: Int[Tensor, "b w"]
    width: int
    positions: Shaped[Tensor, "b w"] | Shaped[Tensor, "3 b w"] | None = None
    log_sizes: Float[Tensor, "b w"] | None = None
    packed: bool = True

    def on(self, model: nn.Module) -> AbstractContextManager[None]:
        """What holds while the LLM reads these prompts."""
        return sized(model, self.log_sizes)

    def attention_mask(self, given: Tensor | None, batch: int, past: int, count: int) -> Tensor | None:
        """The mask of a decoding step over a cache of `past` tokens, `count` of them new.

        Args:
            given: the caller's, which may go on from the uncompressed prompt; `None`: none.
            batch: rows, a multiple of the prompts.
            past: tokens in the cache.
            count: new tokens.

        Raises:
            ValueError: for a mask of any other width.
        """
        after = past + count - self.mask.shape[1]  # tokens behind the prompt
        prompt = self.mask.repeat_interleave(batch // len(self.mask), dim=0)
        if given is None:
            if bool(prompt.all()):
                return None
            return torch.cat([prompt, prompt.new_ones(batch, after)], 1)
        # first: a batch may keep its width, and yet have rows whose padding has grown
        if given.dim() == 2 and given.shape[1] == self.width + after:
            return torch.cat([prompt.to(given), given[:, self.width :]], 1)
        if given.dim() != 2 or given.shape[1] == past + count:
            return given
        raise ValueError(
            f"attention_mask is {given.shape[1]} wide: pass one over the {self.width + after} tokens of the "
            f"uncompressed prompt and what follows, or over the {past + count} that the cache will hold"
        )

    def following(self, batch: int, past: int, count: int) -> Tensor | None:
        """Positions of `count` new tokens after a cache of `past`; `batch` may be a multiple of the prompts."""
        if self.positions is None:
            return None
        ahead = self.positions[..., -1:] + 1 - self.positions.shape[-1]
        ahead = ahead.repeat_interleave(batch // ahead.shape[-2], dim=-2)
        return torch.arange(past, past + count, device=ahead.device) + ahead


def lay_out(
    method: Method,
    positions: Tensor,
    clips: list[ClipSpan],
    plans: Iterable[Plan | None],
    trim: Trim,
    mask: Tensor,
    reach: int | None = None,
) -> PromptLayout:
    """Lay out a batch of compressed prompts.

    Args:
        method: says which corrections apply.
        positions: of each token of the uncompressed prompts, (b, l) or (3, b, l), rising by 1 within a clip.
        clips: where the clips stand in the uncompressed prompts.
        plans: the plan of each.
        trim: the compressed layout.
        mask: 1 where a token is in the uncompressed prompts, (b, l).
        reach: positions that prompts are to end within; `None`: any.

    Raises:
        ValueError: for a method without a plan.
    """
    laid_out = trim.apply(mask.long(), 0)
    if method.positions == "packed" and not method.sizes:
        return PromptLayout(laid_out, mask.shape[1])
    when = positions.to(torch.float32, copy=True)
    much = torch.zeros(positions.shape[-2:], device=positions.device)
    along = torch.zeros(positions.shape[-2:], dtype=torch.double, device=positions.device)
    packed = torch.zeros_like(along[:, 0])  # steps within clips where nothing lies between tokens
    for clip in clips:
        along[clip.row, clip.start + 1 : clip.start + clip.n] = 1
    along = along.cumsum(-1)  # steps within clips before each token: what a fit draws together
    steps = along[:, -1].clone()
    for clip, plan in zip(clips, plans, strict=True):
        if plan is None:
            raise no_plan(method)
        places = slice(clip.start, clip.start + plan.m)
        centres = plan.centres()[0].to(when)
        when[..., clip.row, places] = positions[..., clip.row, clip.start, None] + centres
        along[clip.row, places] = along[clip.row, clip.start] + centres
        if clip.start + clip.n == positions.shape[-1]:
            # decoding goes on from the last token: where that is audio, from the end of what it stands for
            when[..., clip.row, places.stop - 1] = positions[..., clip.row, -1]
            along[clip.row, places.stop - 1] = steps[clip.row]
        packed[clip.row] += plan.m - 1
        much[clip.row, places] = (plan.sizes()[0] / plan.per).log().to(much)
    if reach is not None:
        last = positions.masked_fill(mask == 0, 0).amax(-1).view(-1, len(steps)).amax(0)
        excess = torch.minimum((last + 1 - reach).clamp_min(0), (steps - packed).clamp_min(0))
        when = (when - (excess / steps.clamp_min(1))[:, None] * along).float()
    much = trim.apply(much, 0)
    axes = when if when.dim() == 3 else when[None]
    when = torch.stack([trim.apply(axis, 0) for axis in axes]).view(*when.shape[:-1], -1)
    return PromptLayout(
        laid_out,
        mask.shape[1],
        when if method.positions == "time" else None,
        much if method.sizes and bool(much.any()) else None,
        packed=method.positions == "packed",
    )


def reach_of(method: Method, config: Any) -> int | None:
    """Positions that a method's prompts are to end within; `None`: any.

    Args:
        method: says whether, and perhaps how many.
        config: of the model; its LLM's says how many it was made for.

    Raises:
        ValueError: where neither says how many.
    """
    if method.fit is not True:
        return method.fit or None
    made_for = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(made_for, int):
        raise ValueError("+time(fit): the model's config says no max_position_embeddings: write +time(fit=4096)")
    return made_for


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


@dataclass(frozen=True, eq=False)
class _Sizes:
    """What the LLM of one call adds to its attention logits."""

    configs: tuple[Any, ...]  # those that its masks are made from; other modules have others
    log_sizes: Float[Tensor, "b w"]


# Of the call that runs in this thread: nothing of the model is changed, so that calls of several threads don't meet.
_SIZES: ContextVar[_Sizes | None] = ContextVar("fewhertz_sizes", default=None)
_WRAPPED = threading.Lock()
_calls = 0  # that need `_Mask`


def _sized_mask(log_sizes: Tensor, dtype: torch.dtype, **kwargs: Any) -> Float[Tensor, "b 1 q k"]:
    """The causal and padding mask, with log s in place of its zeros."""
    from transformers.masking_utils import sdpa_mask

    allowed: Bool[Tensor, "b 1 q k"] = sdpa_mask(**kwargs | {"allow_is_causal_skip": False})
    first, past_end = kwargs["kv_offset"], kwargs["kv_offset"] + kwargs["kv_length"]
    # what was generated stands for itself, and so does the empty end of a static cache
    log_sizes = pad(log_sizes, (0, max(0, past_end - log_sizes.shape[1])))[:, first:past_end]
    log_sizes = log_sizes.repeat_interleave(kwargs["batch_size"] // len(log_sizes), dim=0)  # beams
    return torch.where(allowed, log_sizes[:, None, None].to(allowed.device, dtype), HIDDEN)


class _Mask:
    """A kernel's own mask function, and ours where the mask is for the LLM of a call with sizes."""

    def __init__(self, stock: Callable[..., Any]) -> None:
        self.stock = stock

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        sizes = _SIZES.get()
        config = kwargs.get("config")
        if sizes is None or not any(config is one for one in sizes.configs):
            return self.stock(*args, **kwargs)
        return _sized_mask(sizes.log_sizes, **{name: value for name, value in kwargs.items() if name != "config"})


@contextmanager
def _wrapped_masks() -> Iterator[None]:
    """Have `_Mask` around the mask functions of the kernels that `check_kernel` admits, while any call needs it.

    No longer: torch.compile(fullgraph=True) and torch.export, of any model, stop at a context variable.
    """
    from transformers import AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    global _calls
    with _WRAPPED:
        for kernel in ("sdpa", "eager") if not _calls else ():
            AttentionMaskInterface.register(kernel, _Mask(ALL_MASK_ATTENTION_FUNCTIONS[kernel]))
        _calls += 1
    try:
        yield
    finally:
        with _WRAPPED:
            _calls -= 1
            for kernel in ("sdpa", "eager") if not _calls else ():
                ours = ALL_MASK_ATTENTION_FUNCTIONS[kernel]
                if isinstance(ours, _Mask):  # else another library has put its own there
                    AttentionMaskInterface.register(kernel, ours.stock)


@contextmanager
def sized(model: nn.Module, log_sizes: Float[Tensor, "b w"] | None) -> Iterator[None]:
    """While it lasts, the LLM adds `log_sizes` to the attention logits of its first `w` keys, in this thread.

    Args:
        model: the whole model.
        log_sizes: one row a prompt; prompts may be repeated (beams). `None`: nothing is done.
    """
    if log_sizes is None:
        yield
        return
    whole: Any = model
    # `generate` makes masks from the config of the whole model where the cache is static
    configs = (whole.get_decoder().config, whole.config.get_text_config(), vars(whole.config)["text_config"])
    with _wrapped_masks():
        token = _SIZES.set(_Sizes(configs, log_sizes))
        try:
            yield
        finally:
            _SIZES.reset(token)


def remember(out: Any, layout: Any) -> None:
    """Leave with the cache in a model's output how the prompt in it is laid out."""
    from transformers import Cache

    for value in out.values() if isinstance(out, dict) else out:
        if isinstance(value, Cache):
            setattr(value, _LAYOUT, layout)


def recall(cache: Any) -> Any:
    """How the prompt in a cache was laid out (a `PromptLayout`, or `fewhertz.inside.Inside`); `None`: as it was."""
    layout = getattr(cache, _LAYOUT, None)
    if layout is not None and not cache.get_seq_length():  # emptied, to be used anew
        delattr(cache, _LAYOUT)
        return None
    return layout
