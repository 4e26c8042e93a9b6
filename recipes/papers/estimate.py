"""How long a grid will take and what it needs, before it starts."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from fewhertz import audio
from fewhertz.audio import AudioError
from fewhertz.checkpoint import Checkpoint, dtype_of, meta
from fewhertz.cost import kv_bytes, prefill_flops, reads
from fewhertz.method import parse
from fewhertz.tasks.base import Sample

AROUND = 40  # tokens of a prompt beside its audio: about what chat templates and a question have
WINDOW = 30.0  # seconds that a Whisper encoder computes whatever the clip's length; at most that much is trimmed
HALF = 0.5  # of a large matrix product's speed, that layers reach
LOOKED_AT = 200  # clips whose length is read; the others are like them


@dataclass(frozen=True)
class Speed:
    """What a device does: multiply-adds count two, and memory is read once."""

    flops: float
    bytes: float

    @classmethod
    def of(cls, device: str, dtype: torch.dtype) -> Speed:
        """Measured now, by a matrix product and a copy: a second."""
        size = 4096 if device.startswith("cuda") else 768
        a, copied = torch.ones(size, size, dtype=dtype, device=device), torch.ones(1 << 24, device=device)

        def seconds(work: Any) -> float:
            best = math.inf
            for _ in range(4):
                start = time.perf_counter()
                work()
                if device.startswith("cuda"):
                    torch.cuda.synchronize()
                best = min(best, time.perf_counter() - start)
            return best

        return cls(2 * size**3 / seconds(lambda: a @ a), 2 * copied.nbytes / seconds(copied.clone))


@dataclass(frozen=True)
class Estimate:
    """Of one task under all its runs.

    Attributes:
        samples: how many.
        audio_hours: of all samples.
        operations: of encoder and prefill.
        hours: on this device.
        memory: bytes of weights and of a batch's KV cache, with all tokens at the longest clip; no activations.
    """

    samples: int
    audio_hours: float
    operations: float
    hours: float
    memory: int


def estimate(
    checkpoint: Checkpoint,
    samples: list[Sample],
    specs: list[str],
    speed: Speed,
    *,
    batch_size: int,
    max_new_tokens: int,
    dtype: torch.dtype | None = None,
) -> Estimate:
    """What a task takes: encoding once a sample, prefill once a run, and decoding bound by reading the weights.

    Raises:
        ValueError: where no clip can be read.
    """
    text, kind = checkpoint.config.get_text_config(), dtype or dtype_of(checkpoint.config)
    net = meta(checkpoint)
    everything = sum(p.numel() for p in net.parameters())
    llm = sum(p.numel() for p in net.get_decoder().parameters())
    head = net.get_output_embeddings()
    llm += 0 if head is None else head.weight.numel()
    seconds, answers = [], []
    for sample in samples[:: math.ceil(len(samples) / LOOKED_AT)]:
        try:
            length = audio.duration(sample.source())
        except (AudioError, OSError):
            continue
        limit = checkpoint.family.max_seconds
        seconds.append(length if limit is None else min(length, limit))
        # a word is a token and a half; a caption or an answer is about as long as its reference
        answers.append(min(max_new_tokens, 5 + 1.5 * max(len(one.split()) for one in sample.references)))
    if not seconds:
        raise ValueError("no clip of the task can be read")
    rate = float(checkpoint.family.rate(checkpoint.config))
    encoder, prefill = 0.0, 0.0
    for length in seconds:
        frames = 2 * rate * WINDOW * math.ceil(length / WINDOW)  # pairs of frames make a token
        encoder += 2 * max(0, everything - llm) * frames
        for spec in specs:
            method = checkpoint.fit("none" if spec == "keep=1" else spec)
            n = max(1, round(rate * length))
            short = method.num_tokens(n) if method.fixed_budget else n  # at most: variable lengths are not known
            prefill += prefill_flops(text, AROUND + n, reads(parse(method), AROUND, [n], short))
    scale = len(samples) / len(seconds)
    operations = (encoder + prefill) * scale
    steps = sum(answers) * scale * len(specs) / batch_size
    decoding = steps * llm * kind.itemsize / speed.bytes
    longest = AROUND + round(rate * max(seconds)) + max_new_tokens
    return Estimate(
        len(samples),
        sum(seconds) * scale / 3600,
        operations,
        (operations / (HALF * speed.flops) + decoding) / 3600,
        everything * kind.itemsize + batch_size * kv_bytes(text, longest, kind),
    )
