"""What audio costs an LLM: tokens, prefill FLOPs and bytes, from configurations alone (no weights)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fewhertz.checkpoint import Checkpoint, dtype_of, meta, undamaged
from fewhertz.corrections import reach_of
from fewhertz.families.base import Config
from fewhertz.method import Method

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
        layer: the LLM's layer before which the method acts; 0: before the LLM. The layers below read all tokens.
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
    layer: int = 0

    @property
    def rate(self) -> tuple[float, float | None]:
        """Audio tokens per second, in Hz, without and with the method."""
        return self.before / self.seconds, None if self.after is None else self.after / self.seconds

    @property
    def context(self) -> tuple[int, int | None]:
        """Tokens of the whole prompt, without and with the method."""
        after = self.before if self.layer else self.after
        return self.prompt + self.before, None if after is None else self.prompt + after

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


def prefill_flops(text: Config, n: int, later: int | None = None, layer: int = 0) -> int:
    """Floating-point operations in which an LLM reads a prompt of `n` tokens; a multiply and an add are two.

    Matrix products only: projections, attention as a causal kernel does it (half the square), a gated MLP or the active
    experts of a mixture, and the vocabulary for the last token alone.

    Args:
        text: the LLM's configuration (`config.get_text_config()`).
        n: tokens of the prompt.
        later: tokens that the layers from `layer` on read; `None`: all.
        layer: of a site `llm.k`.
    """
    layers, heads, kv_heads, head_dim = _shape(text)
    width = text.hidden_size
    attention = 2 * width * head_dim * (heads + kv_heads)  # weights of q and o, k and v
    experts = getattr(text, "num_experts", None)
    total = 0
    for i in range(layers):
        m = n if later is None or i < layer else later
        step = getattr(text, "decoder_sparse_step", 1)
        sparse = experts and i not in (getattr(text, "mlp_only_layers", None) or ()) and (i + 1) % step == 0
        if sparse:
            mlp = 3 * width * text.moe_intermediate_size * text.num_experts_per_tok + width * experts
        else:
            mlp = 3 * width * text.intermediate_size
        total += 2 * m * (attention + mlp) + 2 * heads * head_dim * m * (m + 1)
    return total + 2 * width * text.vocab_size


def kv_bytes(text: Config, n: int, dtype: torch.dtype, later: int | None = None, layer: int = 0) -> int:
    """Bytes of the keys and values of `n` tokens, or of `later` in the layers from `layer` on."""
    layers, _, kv_heads, head_dim = _shape(text)
    tokens = layers * n if later is None else layer * n + (layers - layer) * later
    return 2 * tokens * kv_heads * head_dim * dtype.itemsize


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
    from fewhertz.run import request, sample_rate, too_long

    limit = checkpoint.family.max_seconds
    if limit is not None and seconds > limit:
        raise ValueError(too_long(seconds, checkpoint.family, chunks=True))
    silence = np.zeros(round(seconds * sample_rate(processor)), np.float32)
    with undamaged(checkpoint.directory, "the processor or tokenizer"):
        ids = request(processor, [silence], prompt)["input_ids"]
    before = int((ids == checkpoint.family.placeholder(checkpoint.config)).sum())
    around = ids.numel() - before
    if method is None:
        after: int | None = before
    else:
        after = method.num_tokens(before) if method.fixed_budget or method.together else None
    text, dtype = checkpoint.config.get_text_config(), dtype_of(checkpoint.config)
    long = around + before
    far: int | None = long
    short = None if after is None else around + after
    reach = None if method is None else reach_of(method, checkpoint.config)
    layer = 0 if method is None else method.llm_layer or 0
    if method is None or (method.positions != "time" and not layer):
        far = short
    elif reach is not None and long > reach:  # packed tokens may reach further: they are drawn together no more
        far = None if short is None else max(short, reach)
    scale = 1.0 if reach is None else None if far is None else 1 - (long - far) / max(1, before - 1)
    return Cost(
        seconds,
        around,
        before,
        after,
        (prefill_flops(text, long), None if short is None else prefill_flops(text, long, short, layer)),
        (kv_bytes(text, long, dtype), None if short is None else kv_bytes(text, long, dtype, short, layer)),
        (long, far),
        scale,
        layer,
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
