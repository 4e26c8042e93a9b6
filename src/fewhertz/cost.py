"""What audio costs an LLM: tokens, prefill FLOPs and bytes, from configurations alone (no weights)."""

from __future__ import annotations

import math
import re
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import torch

from fewhertz.checkpoint import Checkpoint, dtype_of, meta, undamaged
from fewhertz.corrections import reach_of
from fewhertz.families.base import Config
from fewhertz.method import Method

Reads: TypeAlias = Sequence[tuple[int, int]]  # from which of the LLM's layers on how many tokens are read, in order
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class Cost:
    """What one prompt with one piece of audio costs.

    Attributes:
        seconds: length of the audio.
        prompt: tokens around the audio.
        before: audio tokens without a method.
        after: audio tokens that the LLM reads; `None` for a method of variable length.
        flops: floating-point operations of the LLM's prefill, without and with the method.
        kv: bytes of the KV cache after prefill, without and with the method.
        positions: how far positions go in the prompt, without and with the method: its tokens, or under `+time` as far
            as without the method, under `+time(fit)` as far as fits; `None` where that is variable.
        read: audio tokens that the LLM's first layer reads with the method: `after`, but inside the LLM.
        scale: what `+time(fit)` multiplies distances within the audio by; 1 where all fits and under other methods,
            `None` where that is variable.
    """

    seconds: float
    prompt: int
    before: int
    after: int | None
    flops: tuple[int, int | None]
    kv: tuple[int, int | None]
    positions: tuple[int, int | None]
    scale: float | None
    read: int | None

    @property
    def rate(self) -> tuple[float, float | None]:
        """Audio tokens per second, in Hz, without and with the method."""
        return self.before / self.seconds, None if self.after is None else self.after / self.seconds

    @property
    def context(self) -> tuple[int, int | None]:
        """Tokens of the whole prompt, without and with the method."""
        return self.prompt + self.before, None if self.read is None else self.prompt + self.read

    def fits(self, tokens: int | None, positions: int | None) -> list[tuple[bool | None, str | None]]:
        """Whether the prompt fits, and if not what binds, `"tokens"` or `"positions"`; without and with the method.

        Args:
            tokens: most tokens of a prompt; `None`: any.
            positions: the positions that the model was trained on; `None`: any.
        """
        found: list[tuple[bool | None, str | None]] = []
        for count, reach in zip(self.context, self.positions, strict=True):
            if count is not None and tokens is not None and count > tokens:
                found.append((False, "tokens"))
            elif reach is not None and positions is not None and reach > positions:
                found.append((False, "positions"))
            elif (tokens is None and positions is None) or None in (count, reach):
                found.append((None, None))
            else:
                found.append((True, None))
        return found


def _shape(text: Config) -> tuple[int, int, int, int]:
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    for kind in getattr(text, "layer_types", None) or ():
        if kind != "full_attention":
            raise NotImplementedError(f"fewhertz counts full attention only, this LLM has {kind}")
    return text.num_hidden_layers, heads, getattr(text, "num_key_value_heads", None) or heads, head_dim


def reads(method: Method | None, around: int, clips: list[int], after: int) -> Reads:
    """What the LLM's layers read of a prompt with clips of so many audio tokens.

    Args:
        method: bound to the model's rate; `None`: without one.
        around: tokens around the audio.
        clips: audio tokens of each clip, without the method.
        after: of all of them, with it.
    """
    if method is None or not method.llm_layers:
        return [(0, around + after)]
    counts = zip(*map(method.counts_inside, clips), strict=True)
    return [(k, around + sum(some)) for k, some in zip(method.llm_layers, counts, strict=True)]


def _each(layers: int, n: int, later: Reads) -> list[int]:
    """Tokens that each layer reads."""
    return [next((m for k, m in reversed(later) if k <= i), n) for i in range(layers)]


def prefill_flops(text: Config, n: int, later: Reads = ()) -> int:
    """Floating-point operations in which an LLM reads a prompt of `n` tokens; a multiply and an add are two.

    Matrix products only: projections, attention as a causal kernel does it (half the square), a gated MLP or the active
    experts of a mixture, and the vocabulary for the last token alone.

    Args:
        text: the LLM's configuration (`config.get_text_config()`).
        n: tokens of the prompt.
        later: what layers read otherwise (`reads`).
    """
    layers, heads, kv_heads, head_dim = _shape(text)
    width = text.hidden_size
    attention = 2 * width * head_dim * (heads + kv_heads)  # weights of q and o, k and v
    experts = getattr(text, "num_experts", None)
    total = 0
    for i, m in enumerate(_each(layers, n, later)):
        step = getattr(text, "decoder_sparse_step", 1)
        sparse = experts and i not in (getattr(text, "mlp_only_layers", None) or ()) and (i + 1) % step == 0
        if sparse:
            mlp = 3 * width * text.moe_intermediate_size * text.num_experts_per_tok + width * experts
        else:
            mlp = 3 * width * text.intermediate_size
        total += 2 * m * (attention + mlp) + 2 * heads * head_dim * m * (m + 1)
    return total + 2 * width * text.vocab_size


def kv_bytes(text: Config, n: int, dtype: torch.dtype, later: Reads = ()) -> int:
    """Bytes of the keys and values of `n` tokens, where layers don't read others (`later`, as `reads` has them)."""
    layers, _, kv_heads, head_dim = _shape(text)
    return 2 * sum(_each(layers, n, later)) * kv_heads * head_dim * dtype.itemsize


def weight_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the weights in the configuration's dtype; the model is laid out on the meta device, without memory."""
    return sum(p.numel() for p in meta(checkpoint).parameters()) * dtype_of(checkpoint.config).itemsize


def cost(
    checkpoint: Checkpoint, processor: Any, method: Method | None, seconds: float, prompt: str | None = None
) -> Cost:
    """What audio of a given length costs; the processor counts, as it does for the model itself.

    Args:
        checkpoint: the model.
        processor: the model's own.
        method: bound to the model's rate (`Checkpoint.fit`); `None`: without one.
        seconds: length of the audio.
        prompt: what is asked; `None`: transcribe.

    Raises:
        ValueError: for audio beyond the model's window.
    """
    # here, since counting alone needs no library that reads audio
    from fewhertz.run import too_long

    limit = checkpoint.family.max_seconds
    if limit is not None and seconds > limit:
        raise ValueError(too_long(seconds, checkpoint.family, chunks=True))
    around, before = _counted(checkpoint, processor, seconds, prompt)
    return _cost(checkpoint, method, seconds, around, [before])


def _counted(
    checkpoint: Checkpoint, processor: Any, seconds: float, prompt: str | None = None, clips: int = 1
) -> tuple[int, int]:
    """Tokens around the audio of a prompt, and of the audio: of `clips` pieces of `seconds` each."""
    from fewhertz.run import request, sample_rate

    silence = np.zeros(round(seconds * sample_rate(processor)), np.float32)
    with undamaged(checkpoint.directory, "the processor or tokenizer"):
        ids = request(processor, [silence] if clips == 1 else [[silence] * clips], prompt)["input_ids"]
    before = int((ids == checkpoint.family.placeholder(checkpoint.config)).sum())
    return ids.numel() - before, before


def _after(method: Method | None, clips: list[int]) -> int | None:
    """Audio tokens that the LLM reads of clips of so many in one prompt; `None`: variable."""
    if method is None:
        return sum(clips)
    if method.together:
        return max(method.num_tokens(sum(clips)), len(clips))
    return sum(map(method.num_tokens, clips)) if method.fixed_budget else None


def _cost(checkpoint: Checkpoint, method: Method | None, seconds: float, around: int, clips: list[int]) -> Cost:
    """What a prompt with clips of so many audio tokens costs, and `around` tokens around them."""
    before, after = sum(clips), _after(method, clips)
    text, dtype = checkpoint.config.get_text_config(), dtype_of(checkpoint.config)
    long = around + before
    far: int | None = long
    short = None if after is None else around + after
    later = None if after is None else reads(method, around, clips, after)
    read = None if later is None else before if later[0][0] else later[0][1] - around
    reach = None if method is None else reach_of(method, checkpoint.config)
    if method is None or method.positions != "time":
        far = None if read is None else around + read
    elif reach is not None and long > reach:  # packed tokens may reach further: they are drawn together no more
        far = None if short is None else max(short, reach)
    scale = 1.0 if reach is None else None if far is None else 1 - (long - far) / max(1, before - len(clips))
    return Cost(
        seconds,
        around,
        before,
        after,
        (prefill_flops(text, long), None if later is None else prefill_flops(text, long, later)),
        (kv_bytes(text, long, dtype), None if later is None else kv_bytes(text, long, dtype, later)),
        (long, far),
        scale,
        read,
    )


def _several(checkpoint: Checkpoint, processor: Any) -> Callable[[int], int] | None:
    """Tokens around so many clips of a prompt; `None` where the processor takes one.

    By the template alone: the features of many clips would fill the memory.
    """
    from fewhertz.run import PROMPTS, conversation

    asked, placeholder = PROMPTS["transcribe"], checkpoint.family.placeholder(checkpoint.config)

    def around(clips: int) -> int:
        talk = conversation([{"type": "audio", "audio": ""}] * clips, asked)
        text = processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        ids = processor.tokenizer(text)["input_ids"]
        return len(ids) - ids.count(placeholder)

    try:
        return around if around(2) == _counted(checkpoint, processor, 1.0, asked, clips=2)[0] else None
    except Exception:  # of any kind: a processor's own ways to say that it takes one
        return None


def _most(around: Callable[[int], int], each: float, limit: int) -> int:
    """Clips of so many tokens that a prompt of at most `limit` holds."""
    return max(0, bisect(range(limit), limit, key=lambda clips: around(clips) + math.ceil(clips * each)) - 1)


@dataclass(frozen=True)
class RecordingCost:
    """What a recording costs in windows, without and with a method: one by one, and in one prompt.

    Attributes:
        seconds: length of the recording.
        windows: how many; silences that are left out are none.
        before: audio tokens of all without a method.
        after: audio tokens that the LLM reads; `None` for a method of variable length.
        flops: of the LLM's prefills, where each window has a prompt of its own.
        longest: the prompt of the longest window alone.
        one_prompt: all windows in one prompt; `None` where the processor takes one piece of audio a prompt.
        most: most windows of the longest kind in one prompt, and what binds there: `"tokens"`, `"positions"` or
            `"memory"` (`None`: nothing does); without and with the method. `None` for variable length.
    """

    seconds: float
    windows: int
    before: int
    after: int | None
    flops: tuple[int, int | None]
    longest: Cost
    one_prompt: Cost | None
    most: list[tuple[int | None, str | None]]

    @property
    def rate(self) -> tuple[float, float | None]:
        """Audio tokens per second of the recording, in Hz, without and with the method."""
        return self.before / self.seconds, None if self.after is None else self.after / self.seconds


def recording_cost(
    checkpoint: Checkpoint,
    processor: Any,
    method: Method | None,
    seconds: float,
    lengths: list[float],
    *,
    hertz: Fraction | None = None,
    tokens: int | None = None,
    positions: int | None = None,
    memory: int | None = None,
) -> RecordingCost:
    """What a recording costs in windows.

    Args:
        checkpoint: as `cost`.
        processor: likewise.
        method: likewise.
        seconds: length of the recording, silences included.
        lengths: of its windows, in seconds, one or more.
        hertz: tokens a second that a shared budget asks for; `None`: its `keep`.
        tokens: most tokens of a prompt; `None`: any.
        positions: the positions that the model was trained on; `None`: any.
        memory: bytes for the KV cache of a prompt; `None`: any.
    """
    counts: dict[float, int] = {}
    for one in dict.fromkeys(lengths):
        around, counts[one] = _counted(checkpoint, processor, one)  # the same around all
    clips = [counts[one] for one in lengths]
    alone = [_cost(checkpoint, method, lengths[0], around, [n]) for n in dict.fromkeys(clips)]
    price = {one.before: one for one in alone}
    after = [price[n].after for n in clips]
    flops = [price[n].flops[1] for n in clips]
    total = None if None in after else sum(one or 0 for one in after)
    if method is not None and method.together:
        from fewhertz.sharing import total_of  # here, as it reads audio

        total = total_of(method, hertz, seconds, clips)
    longest = max(alone, key=lambda one: one.before)
    several = _several(checkpoint, processor)
    together = None if several is None else _cost(checkpoint, method, seconds, several(len(clips)), clips)
    text, dtype = checkpoint.config.get_text_config(), dtype_of(checkpoint.config)
    room = None if memory is None else max(0, memory) // kv_bytes(text, 1, dtype)
    reach = None if method is None else reach_of(method, checkpoint.config)
    most: list[tuple[int | None, str | None]] = []
    for compressed, (count, held) in enumerate(zip((longest.before, longest.read), longest.kv, strict=True)):
        if count is None or held is None or several is None:
            most.append((None, None))
            continue
        cached = held / kv_bytes(text, 1, dtype) - longest.prompt  # of all layers, on average
        timed = compressed and method is not None and method.positions == "time"
        fits = reach is not None and positions is not None and reach <= positions
        far = longest.before if timed and not fits else count
        limits = {"tokens": (tokens, count), "positions": (positions, far), "memory": (room, cached)}
        found = {name: _most(several, each, limit) for name, (limit, each) in limits.items() if limit is not None}
        binds = min(found, key=lambda name: found[name], default=None)
        most.append((None if binds is None else found[binds], binds))
    return RecordingCost(
        seconds,
        len(clips),
        sum(clips),
        total,
        (sum(price[n].flops[0] for n in clips), None if None in flops else sum(one or 0 for one in flops)),
        longest,
        together,
        most,
    )


def parse_bytes(text: str) -> int:
    """`"24GB"` (10⁹) or `"24GiB"` (2³⁰) as bytes.

    Raises:
        ValueError: for anything else.
    """
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([KMGT]?I?B)", text.strip().upper())
    if match is None or match[2] not in _BYTES:
        raise ValueError(f"memory is a number with its unit such as 24GB or 80GiB, got {text!r}")
    return int(float(match[1]) * _BYTES[match[2]])
