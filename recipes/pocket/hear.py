"""From what is to be heard to waves or log-mel features, on the device that trains: stretches of the bank are laid out
as clips, then heard in rooms, through telephones, in noise, at another pace. Everything is drawn when a batch is
planned, so a batch is a function of its plan alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .config import HOP, SAMPLE_RATE
from .features import log_mel

NOISE_SECONDS = 40
COLOURS = 6  # of noise: from white to brown
BANDS, STRETCHES = 2, 8  # of SpecAugment: mel bands and stretches of time at most


@dataclass
class Clips:
    """A batch of clips as planned. All tensors are on one device."""

    start: Tensor  # [s] first sample of each stretch in the bank
    count: Tensor  # [s] its samples in the clip
    step: Tensor  # [s] samples of the bank for each: its pace and pitch
    clip: Tensor  # [s] which clip it is in
    at: Tensor  # [s] where
    gain: Tensor  # [s] factor
    samples: Tensor  # [b] length of each clip
    noise: Tensor  # [b] dB below the clip's mean power; infinite for none
    colour: Tensor  # [b] of the noise
    offset: Tensor  # [b] into the noise
    room: Tensor  # [b] seconds of reverberation to −60 dB; 0 for none
    wet: Tensor  # [b] energy of the reverberation, of the sound's own
    cutoff: Tensor  # [b] Hz above which nothing is heard; half the sample rate for all
    tilt: Tensor  # [b] dB an octave, around 1 kHz
    warp: Tensor  # [b] vocal tract
    bands: Tensor  # [b, BANDS, 2] mel channels that are masked, from and to
    gaps: Tensor  # [b, STRETCHES, 2] frames that are masked, from and to


def laid_out(bank: Tensor, clips: Clips) -> Tensor:
    """Waveforms ``[b, longest]``: stretches of the bank (int16) at their places, sums where they overlap."""
    width = int(clips.samples.max())
    out = torch.zeros(len(clips.samples) * width, device=bank.device)
    first = clips.count.cumsum(0) - clips.count
    which = torch.repeat_interleave(torch.arange(len(first), device=bank.device), clips.count)
    inside = torch.arange(len(which), device=bank.device) - first[which]
    place = inside * clips.step[which]
    low = place.long()
    part = (place - low).float()
    source = clips.start[which] + low
    wave = torch.lerp(bank[source].float(), bank[(source + 1).clamp(max=len(bank) - 1)].float(), part)
    out.index_add_(0, clips.clip[which] * width + clips.at[which] + inside, wave * (clips.gain / 32768)[which])
    return out.view(-1, width)


def noises(device: torch.device) -> Tensor:
    """``[COLOURS, samples]`` of mean power 1, the same each time."""
    size = NOISE_SECONDS * SAMPLE_RATE
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.fft.rfft(torch.randn(COLOURS, size, generator=generator))
    slope = torch.linspace(0, 1, COLOURS)[:, None]  # of 1 / f: white to brown
    spectrum /= torch.arange(spectrum.shape[1]).clamp(min=200)[None] ** slope
    wave = torch.fft.irfft(spectrum, size)
    return (wave / wave.pow(2).mean(1, keepdim=True).sqrt()).to(device)


def through(waves: Tensor, clips: Clips) -> Tensor:
    """Rooms, band limits and tilts, for the clips that have one."""
    some = ((clips.room > 0) | (clips.cutoff < SAMPLE_RATE / 2) | (clips.tilt != 0)).nonzero()[:, 0]
    if not len(some):
        return waves
    if waves.is_cuda:  # cuFFT plans anew for each shape: rows by powers of two make few of them
        some = some[torch.arange(1 << (len(some) - 1).bit_length(), device=waves.device).clamp(max=len(some) - 1)]
    length = waves.shape[1] + SAMPLE_RATE // 2
    size = 1 << (length - 1).bit_length()
    hertz = torch.arange(size // 2 + 1, device=waves.device) * (SAMPLE_RATE / size)
    response = torch.sigmoid((clips.cutoff[some, None] - hertz) / 80)
    response = response * 10 ** (clips.tilt[some, None] * (hertz.clamp(min=60) / 1000).log2() / 20)
    response = response.to(torch.complex64)
    seconds = torch.arange(SAMPLE_RATE // 2, device=waves.device) / SAMPLE_RATE
    tail = torch.randn(len(some), len(seconds), device=waves.device)
    tail = tail * 10 ** (-3 * seconds / clips.room[some, None].clamp(min=0.01))
    tail[:, :40] = 0
    tail = tail * (clips.wet[some, None] / tail.pow(2).sum(1, keepdim=True)).sqrt()
    tail = torch.where(clips.room[some, None] > 0, tail, 0.0)
    tail[:, 0] = 1.0
    heard = torch.fft.irfft(torch.fft.rfft(waves[some], size) * torch.fft.rfft(tail, size) * response, size)
    return waves.index_copy(0, some, heard[:, : waves.shape[1]])


def sounded(bank: Tensor, noise: Tensor, clips: Clips) -> Tensor:
    """Waveforms ``[b, longest]`` of a batch, in rooms and noise; zeros behind each clip."""
    waves = through(laid_out(bank, clips), clips)
    inside = torch.arange(waves.shape[1], device=waves.device)[None] < clips.samples[:, None]
    power = (waves * inside).pow(2).sum(1) / clips.samples
    loud = (power * 10 ** (-clips.noise / 10)).sqrt()
    at = (clips.offset[:, None] + torch.arange(waves.shape[1], device=waves.device)) % noise.shape[1]
    return (waves + loud[:, None] * noise[clips.colour[:, None], at]) * inside


def heard(bank: Tensor, noise: Tensor, clips: Clips) -> tuple[Tensor, Tensor]:
    """Log-mel features ``[b, t, n_mels]`` of a batch, and the valid frames of each clip ``[b]``."""
    waves = sounded(bank, noise, clips)
    frames = -(-clips.samples // HOP)
    mel = log_mel(waves, clips.warp if bool((clips.warp != 1).any()) else None)
    return masked(mel, frames, clips), frames


def masked(mel: Tensor, frames: Tensor, clips: Clips) -> Tensor:
    """SpecAugment: bands and stretches at the clip's mean."""
    if not bool(clips.bands.any() or clips.gaps.any()):
        return mel
    channel = torch.arange(mel.shape[2], device=mel.device)
    frame = torch.arange(mel.shape[1], device=mel.device)
    band = _between(channel, clips.bands)
    gap = _between(frame, clips.gaps)
    inside = frame[None] < frames[:, None]
    mean = (mel * inside[..., None]).sum((1, 2)) / (frames * mel.shape[2])
    hidden = (band[:, None, :] | gap[:, :, None]) & inside[..., None]
    return torch.where(hidden, mean[:, None, None], mel)


def with_gaps(waves: Tensor, clips: Clips) -> Tensor:
    """SpecAugment of a wave: silence for stretches of time. Its bands, and `Clips.warp`, are of mel features alone."""
    if not bool(clips.gaps.any()):
        return waves
    frame = torch.arange(-(-waves.shape[1] // HOP), device=waves.device)
    gap = _between(frame, clips.gaps).repeat_interleave(HOP, 1)[:, : waves.shape[1]]
    return waves.masked_fill(gap, 0.0)


def _between(places: Tensor, spans: Tensor) -> Tensor:
    """Which places ``[n]`` are in one of the spans ``[b, k, 2]`` of a row: ``[b, n]``."""
    return ((places >= spans[..., :1]) & (places < spans[..., 1:])).any(1)
