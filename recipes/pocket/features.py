"""Log-mel features of a batch of clips, on any device.

`log_mel` gives what `WhisperFeatureExtractor` gives for each clip of the batch, its frames of padding included: they
all hold one value, the clip's maximum minus 2 (its clamp at 8 below the maximum, divided by 4).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from .config import HOP, N_MELS, SAMPLE_RATE

CLAMP = 8.0  # decades kept below the clip's maximum
WINDOW = 400  # samples
TAIL = 3  # frames after the clip into which its last samples still reach (window 400, hop 160), rounded up


def extractor(n_mels: int = N_MELS) -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(
        feature_size=n_mels, sampling_rate=SAMPLE_RATE, hop_length=HOP, chunk_length=30, n_fft=WINDOW,
        padding_value=0.0, return_attention_mask=True,
    )  # fmt: skip


@cache
def _filters(device: torch.device) -> tuple[Tensor, Tensor]:
    return (
        torch.from_numpy(extractor().mel_filters).float().T.contiguous().to(device),
        torch.hann_window(WINDOW, device=device),
    )


@cache
def _fourier(device: torch.device) -> Tensor:
    """``[WINDOW, 2 * 201]``: a windowed stretch times this is its spectrum, real parts before imaginary ones."""
    whole = torch.fft.rfft(torch.eye(WINDOW, dtype=torch.double))
    return torch.cat([whole.real, whole.imag], 1).float().to(device)


def _power(padded: Tensor, window: Tensor, frames: int) -> Tensor:
    """``[b, 201, frames]`` of waves ``[b, samples]``, as `torch.stft` counts."""
    if not padded.is_cuda:
        return torch.stft(padded, WINDOW, HOP, window=window, return_complex=True)[:, :, :frames].abs() ** 2
    # cuFFT plans anew for each shape, and the shapes of batches differ: a product of matrices does not
    mirrored = torch.nn.functional.pad(padded[:, None], (WINDOW // 2, 0), mode="reflect")[:, 0]
    parts = (mirrored.unfold(1, WINDOW, HOP)[:, :frames] * window) @ _fourier(padded.device)
    return parts.square().unflatten(2, (2, -1)).sum(2).mT


def frames_of(samples: int) -> int:
    """Mel frames at 100 Hz of so many samples."""
    return -(-samples // HOP)


def padded_frames(samples: int) -> int:
    """Frames of a batch whose longest clip has so many samples: a multiple of 4, with what follows the clip."""
    return -(-(frames_of(samples) + TAIL) // 4) * 4


def log_mel(waves: Tensor, warp: Tensor | None = None) -> Tensor:
    """``[b, t, N_MELS]`` of clips ``[b, samples]``, zero after their ends; t = ``padded_frames(samples)``.

    ``warp [b]``: factors by which the mel axis of each is stretched, as another vocal tract would.
    """
    filters, window = _filters(waves.device)
    frames = padded_frames(waves.shape[1])
    # the extractor pads with zeros to 30 s before its transform: zeros after the clip, a mirror before it
    padded = torch.nn.functional.pad(waves.float(), (0, frames * HOP + WINDOW - waves.shape[1]))
    mel = filters @ _power(padded, window, frames)
    if warp is not None:
        place = (torch.arange(N_MELS, device=mel.device) / warp[:, None]).clamp(max=N_MELS - 1.001)
        low = place.long()
        part = (place - low)[..., None]
        low = low[..., None].expand(-1, -1, mel.shape[2])
        mel = mel.gather(1, low) * (1 - part) + mel.gather(1, low + 1) * part
    raw = mel.clamp(min=1e-10).log10().mT
    return (torch.maximum(raw, raw.amax((1, 2), keepdim=True) - CLAMP) + 4.0) / 4.0
