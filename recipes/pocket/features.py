"""Log-mel features, cut in two: a raw part that is cached, and a normalisation that depends on the whole clip.

`normalise(raw_log_mel(wave))` equals what `WhisperFeatureExtractor` gives for the frames of the clip. Its frames of
padding all hold one value, the clip's maximum minus 2 (its clamp at 8 below the maximum, divided by 4).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from .config import HOP, N_MELS, SAMPLE_RATE

FLOOR = -10.0  # log10 of the extractor's clamp: the raw value of digital silence
CLAMP = 8.0  # decades kept below the clip's maximum
TAIL = 3  # frames after the clip into which its last samples still reach (window 400, hop 160), rounded up


def extractor(n_mels: int = N_MELS) -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(
        feature_size=n_mels, sampling_rate=SAMPLE_RATE, hop_length=HOP, chunk_length=30, n_fft=400, padding_value=0.0,
        return_attention_mask=True,
    )  # fmt: skip


@cache
def _filters(n_mels: int) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(extractor(n_mels).mel_filters).float().T.contiguous(), torch.hann_window(400)


def raw_log_mel(wave: np.ndarray, n_mels: int = N_MELS) -> Tensor:
    """``[frames + TAIL, n_mels]`` log10 mel power of a 16 kHz waveform; frames = ceil(samples / 160)."""
    filters, window = _filters(n_mels)
    frames = -(-len(wave) // HOP) + TAIL
    # The extractor pads to 30 s with zeros before its transform: zeros after the clip, a mirror before it.
    padded = torch.nn.functional.pad(torch.from_numpy(np.ascontiguousarray(wave, np.float32)), (0, TAIL * HOP + 400))
    power = torch.stft(padded, 400, HOP, window=window, return_complex=True)[:, :frames].abs() ** 2
    return (filters @ power).clamp(min=1e-10).log10().T


def normalise(raw: Tensor) -> Tensor:
    """The extractor's clamp and scale, over one clip ``[frames + TAIL, n_mels]``."""
    return (torch.maximum(raw, raw.max() - CLAMP) + 4.0) / 4.0


def silence(normalised: Tensor) -> float:
    """The value of the extractor's padding frames for this clip."""
    return max(float(normalised.max()) - CLAMP / 4.0, (FLOOR + 4.0) / 4.0)
