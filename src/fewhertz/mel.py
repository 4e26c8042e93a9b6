"""The log-mel of audio tokens: what is known of a clip before it is encoded."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d

FRAMES = 100  # mel frames a second of Whisper's feature extractor


def mel_tokens(
    features: Float[Tensor, "windows bins frames"], lengths: list[int], rate: float
) -> Float[Tensor, "n bins"]:
    """Mean log-mel of the frames that each audio token stands for, window after window.

    Args:
        features: log-mel of each window, padded on the right.
        lengths: audio tokens of each window, n in all.
        rate: audio tokens per second, in Hz.

    Raises:
        NotImplementedError: where the features are not windows of log-mel frames.
    """
    if features.dim() != 3 or len(features) != len(lengths):
        raise NotImplementedError("count=mel needs windows of log-mel, and this model has other features")
    parts = []
    for window, n in zip(features, lengths, strict=True):
        if n:
            frames = min(window.shape[-1], max(n, round(n * FRAMES / rate)))
            parts.append(adaptive_avg_pool1d(window[None, :, :frames].float(), n)[0].T)
    return torch.cat(parts) if parts else features.new_zeros(0, features.shape[1])


def log_mel(wave: Float[np.ndarray, " samples"], rate: int) -> Float[np.ndarray, "80 frames"]:
    """Whisper's log-mel spectrogram, 100 frames a second, whatever model reads the audio.

    Args:
        wave: mono audio, at least 0.1 s.
        rate: samples per second, in Hz.
    """
    out = _extractor(rate)(wave, sampling_rate=rate, padding="longest", truncation=False, return_tensors="np")
    return out["input_features"][0]


@cache
def _extractor(rate: int) -> Any:
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(sampling_rate=rate, hop_length=rate // FRAMES, n_fft=rate // 40)
