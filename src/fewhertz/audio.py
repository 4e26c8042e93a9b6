"""Audio: any file or array to mono float32 at the model's rate, whole or in windows."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import soxr
import torch
from jaxtyping import Float32

from fewhertz.containers import BLOCK, MAX_CHANNELS, RATES, Audio, of_file
from fewhertz.errors import AudioError

# Three rules hold everywhere: nothing is cut silently (a file that is cut off, or longer than asked for, is an error),
# memory follows what was asked for and never what a header declares, and every failure is an `AudioError` of one or
# two lines that names the file, what is wrong and what to do.

Source: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | torch.Tensor
Samples: TypeAlias = Float32[np.ndarray, "samples"]

MIN_SECONDS = 0.1  # shorter than one audio token of most models
MAX_AMPLITUDE = 256.0  # 48 dB above full scale: beyond it floats are integers that nobody scaled


def load(source: Source, rate: int = 16_000, *, source_rate: int | None = None, max_seconds: float = 3600.0) -> Samples:
    """Read audio whole, as mono float32 at `rate`.

    Channels are averaged; the resampler is soxr's HQ.

    Args:
        source: a path, the bytes of a file, a seekable binary file object (read from its start), or samples: a numpy
            array or torch tensor, (samples,) or (samples, channels), float in [−1, 1] or int16, int32 or uint8.
        rate: samples per second wanted, in Hz.
        source_rate: samples per second of an array, in Hz. Files say theirs.
        max_seconds: longest audio that is accepted.

    Raises:
        AudioError: for everything that is not between `MIN_SECONDS` and `max_seconds` of undamaged audio.
        TypeError: where `source` is none of the above.
    """
    with _opened(source, source_rate) as audio:
        if audio.frames is not None and audio.frames > max_seconds * audio.rate:
            raise _too_long(audio, f"{audio.frames / audio.rate:.1f} s", max_seconds)
        pieces = []
        for piece in _resampled(audio, rate):
            if audio.decoded > max_seconds * audio.rate:
                raise _too_long(audio, f"more than {audio.decoded / audio.rate:.1f} s", max_seconds)
            pieces.append(piece)
        return np.concatenate(pieces)


def blocks(source: Source, seconds: float, rate: int = 16_000, *, source_rate: int | None = None) -> Iterator[Samples]:
    """Read audio of any length window by window, as mono float32 at `rate`; one window is in memory at a time.

    Every window has `seconds`, the last one what is left. Where less than `MIN_SECONDS` would be left, the window
    before gives it the missing part. Joined, the windows are what `load` returns.

    Args:
        source: as for `load`; opened when the first window is asked for.
        seconds: length of a window, at least twice `MIN_SECONDS`.
        rate: samples per second wanted, in Hz.
        source_rate: samples per second of an array, in Hz.

    Raises:
        AudioError: as `load`; damage is found when its window is reached.
        TypeError: as `load`.
    """
    return _windows(source, seconds, rate, source_rate, len)


def chunks(source: Source, seconds: float, rate: int = 16_000, *, source_rate: int | None = None) -> Iterator[Samples]:
    """As `blocks`, but each cut is at the quietest tenth of a second of the window's last fifth, to spare words.

    A chunk has between 0.8 and 1 times `seconds`, the last one what is left.
    """

    def quietest(window: Samples) -> int:
        tail = window[-(len(window) // 5) :]
        width = min(max(1, _exact(rate) // 10), len(tail))
        frames = tail[len(tail) % width :].reshape(-1, width)
        back = int(np.square(frames).sum(1)[::-1].argmin())  # from the end: in silence the longest chunk
        return len(window) - back * width - width // 2

    return _windows(source, seconds, rate, source_rate, quietest)


def check(source: Source) -> None:
    """Read the header alone: whether this is audio at all.

    Raises:
        AudioError: as `load`, for what the header or the size tells.
        TypeError: as `load`.
    """
    with _opened(source, None):
        pass


def duration(source: Source, *, source_rate: int | None = None) -> float:
    """Length of the audio in seconds.

    From the header where it has one, unchecked against the samples beyond what their number of bytes tells (so of FLAC
    and Ogg a wrong one is believed, which `load` refuses); decoded block by block where it has none.

    Raises:
        AudioError: for what is not audio, is shorter than `MIN_SECONDS`, or is seen to be cut off.
        TypeError: as `load`.
    """
    with _opened(source, source_rate) as audio:
        frames = sum(map(len, audio.pieces)) if audio.frames is None else audio.frames
        _check_shortest(audio.name, frames, audio.rate)
        return frames / audio.rate


def _windows(
    source: Source, seconds: float, rate: int, source_rate: int | None, cut: Callable[[Samples], int]
) -> Iterator[Samples]:
    if not 2 * MIN_SECONDS <= seconds < float("inf"):
        raise AudioError(f"a window lasts at least {2 * MIN_SECONDS:g} s, got {seconds!r}")
    size, least = round(seconds * _exact(rate)), int(np.ceil(MIN_SECONDS * rate))

    def windows() -> Iterator[Samples]:
        held: list[np.ndarray] = []
        length = 0
        with _opened(source, source_rate) as audio:
            for piece in _resampled(audio, rate):
                held.append(piece)
                length += len(piece)
                if length < size + least:
                    continue
                ready = np.concatenate(held)
                while len(ready) >= size + least:
                    at = cut(ready[:size])
                    yield ready[:at]
                    ready = ready[at:]
                held, length = [ready], len(ready)
        rest = np.concatenate(held)
        if len(rest) > size:
            yield rest[:-least]
            rest = rest[-least:]
        yield rest

    return windows()


def _resampled(audio: Audio, rate: int) -> Iterator[Samples]:
    """Mono pieces at `rate`; checks every sample, and at the end the length."""
    rate = _exact(rate)
    stream = None if audio.rate == rate else soxr.ResampleStream(audio.rate, rate, 1, dtype="float32", quality="HQ")
    for piece in audio.pieces:
        with np.errstate(all="ignore"):  # NaN and infinity are refused below, by name
            mono = np.ascontiguousarray(piece[:, 0]) if piece.shape[1] == 1 else piece.mean(axis=1)
        wrong = ~(np.abs(mono) <= MAX_AMPLITUDE)  # NaN is not
        if wrong.any():
            first = int(wrong.argmax())
            raise AudioError(
                f"{audio.name}: the sample at {(audio.decoded + first) / audio.rate:.3f} s is {mono[first]:g}; "
                "float samples are numbers in [−1, 1]: scale or repair them"
            )
        audio.decoded += len(mono)
        yield mono if stream is None else stream.resample_chunk(mono)
    _check_shortest(audio.name, audio.decoded, audio.rate)
    if stream is not None:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _exact(rate: Any) -> int:
    if rate not in RATES:
        raise AudioError(f"a sample rate is a whole number of Hz from {RATES[0]:,} to {RATES[-1]:,}, got {rate!r}")
    return int(rate)


def _check_shortest(name: str, frames: int, rate: int) -> None:
    if frames == 0:
        raise AudioError(f"{name} holds no audio: 0 samples")
    if frames < MIN_SECONDS * rate:
        raise AudioError(
            f"{name} is too short: {frames} samples at {rate:,} Hz, {frames / rate * 1000:.4g} ms; "
            f"a model needs at least {MIN_SECONDS * 1000:g} ms"
        )


def _too_long(audio: Audio, length: str, limit: float) -> AudioError:
    return AudioError(
        f"{audio.name} lasts {length}, the limit is {limit:g} s, and audio is never cut silently: "
        f"give --chunk {limit:g}, or in Python use fewhertz.audio.chunks(…, {limit:g})"
    )


@contextmanager
def _opened(source: Source, source_rate: int | None) -> Iterator[Audio]:
    if isinstance(source, torch.Tensor):
        tensor = source.detach().cpu()
        source = (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()
    if isinstance(source, np.ndarray):
        yield _of_array(source, source_rate)
        return
    if source_rate is not None:
        raise AudioError("source_rate is for arrays: a file says its own rate")
    with _binary(source) as (name, file, size), of_file(name, file, size) as audio:
        yield audio


def _of_array(samples: np.ndarray, rate: int | None) -> Audio:
    if rate is None:
        raise AudioError("an array does not say its sample rate: give source_rate=…, in Hz")
    if samples.ndim not in (1, 2):
        raise AudioError(f"an array is (samples,) or (samples, channels), got shape {samples.shape}")
    columns = samples.reshape(len(samples), -1) if samples.size else np.zeros((0, 1), np.float32)
    if columns.shape[1] > MAX_CHANNELS:
        raise AudioError(
            f"an array is (samples, channels), so shape {samples.shape} means {columns.shape[1]} channels "
            f"(at most {MAX_CHANNELS}): transpose it"
        )
    full_scale = {"i2": 1 << 15, "i4": 1 << 31, "u1": 1 << 7}.get(samples.dtype.str[1:])
    if samples.dtype.kind != "f" and full_scale is None:
        raise AudioError(f"samples are float in [−1, 1] or int16, int32 or uint8; {samples.dtype} has no known scale")

    def pieces() -> Iterator[np.ndarray]:
        step = BLOCK // columns.shape[1]
        for start in range(0, len(columns), step):
            with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is refused as that
                piece = columns[start : start + step].astype(np.float32)
            if samples.dtype.kind == "u":
                piece -= np.float32(full_scale)
            yield piece if full_scale is None else piece / np.float32(full_scale)

    return Audio("the array", _exact(rate), len(columns), pieces())


@contextmanager
def _binary(source: Any) -> Iterator[tuple[str, BinaryIO, int]]:
    """The source as a seekable binary file at its start: what to call it, the file, its size in bytes."""
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        try:
            mode = os.stat(name).st_mode
            opened = open(name, "rb") if stat.S_ISREG(mode) else None  # noqa: SIM115  (closed below)
        except FileNotFoundError:
            raise AudioError(f"{name}: no such file") from None
        except (OSError, ValueError) as error:
            raise AudioError(f"{name!r} cannot be read: {getattr(error, 'strerror', error)}") from None
        if stat.S_ISDIR(mode):
            raise AudioError(f"{name} is a directory: name the files in it")
        if opened is None:  # opening a pipe would wait for its writer, and a device may never end
            raise AudioError(f"{name} is a pipe or a device: write the audio to a file first")
        with opened as file:
            yield name, file, _size(name, file)
    elif isinstance(source, bytes | bytearray | memoryview):
        held = io.BytesIO(source)
        yield "audio in memory", held, _size("audio in memory", held)
    elif hasattr(source, "read"):
        name = getattr(source, "name", None)
        name = name if isinstance(name, str) else "the file object"  # a pipe's name is a number
        yield name, source, _size(name, source)
    else:
        raise TypeError(
            "audio is a path, bytes, a binary file object, a numpy array or a torch tensor, "
            f"got {type(source).__name__}"
        )


def _size(name: str, file: BinaryIO) -> int:
    try:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        binary = isinstance(file.read(0), bytes)
    except (AttributeError, OSError, ValueError) as error:
        raise AudioError(
            f"{name} cannot be rewound ({error}): read it first and pass the bytes, load(file.read())"
        ) from None
    if not binary:
        raise AudioError(f"{name} is open as text: open it with mode 'rb'")
    if size == 0:
        raise AudioError(f"{name} is empty: 0 bytes")
    return size
