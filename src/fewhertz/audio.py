"""Audio: any file or array to mono float32 at the model's rate, whole or in windows.

Three rules hold everywhere: nothing is cut silently (a file that is cut off, or longer than asked for, is an error),
memory follows what was asked for and never what a header declares, and every failure is an `AudioError` of one or two
lines that names the file, what is wrong and what to do.

Some containers cannot tell that they were cut. What is missing passes where it was cut off, or taken out, in whole
frames of an MP3 without a Xing, Info or VBRI header (with one: a single frame), in whole frames of a FLAC or pages of
an Ogg stream that say no length, or from a WAV that says "until the end" (sizes from 0x7FFF0000 on), as streaming
recorders write them. Of MPEG layers I and II and of free-format MP3 the decoder's word is taken.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import soundfile
import soxr
import torch
from jaxtyping import Float32

Source: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray | torch.Tensor
Samples: TypeAlias = Float32[np.ndarray, "samples"]

MIN_SECONDS = 0.1  # shorter than one audio token of most models
RATES = range(1_000, 768_001)  # Hz
MAX_CHANNELS = 64
MAX_AMPLITUDE = 256.0  # 48 dB above full scale: beyond it floats are integers that nobody scaled

_FORMATS = {"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3"}
_READS = "wav, flac, ogg, opus and mp3"
_CONVERT = "convert it first: ffmpeg -i IN OUT.wav"
_BLOCK = 1 << 18  # samples decoded at once, over all channels
_UNKNOWN = 1 << 62  # frames: libsndfile's "no length in the header" is the largest int64
_STREAMED = 0x7FFF0000  # bytes: recorders that write WAV into a pipe put a size from here to 2³²−1 for "until the end"


class AudioError(ValueError):
    """Audio that cannot be read as asked. The text names it, what is wrong, and what to do."""


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


@dataclass
class _Audio:
    name: str
    rate: int
    frames: int | None  # as declared; None: not declared
    pieces: Iterator[Float32[np.ndarray, "n channels"]]
    decoded: int = 0  # frames read so far


def _resampled(audio: _Audio, rate: int) -> Iterator[Samples]:
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


def _too_long(audio: _Audio, length: str, limit: float) -> AudioError:
    return AudioError(
        f"{audio.name} lasts {length}, the limit is {limit:g} s, and audio is never cut silently: "
        f"give --chunk {limit:g}, or in Python use fewhertz.audio.chunks(…, {limit:g})"
    )


def _cut_off(name: str, what: str) -> AudioError:
    return AudioError(
        f"{name} is cut off or damaged: {what}. Fetch it again, or keep what is left: ffmpeg -i IN OUT.wav"
    )


@contextmanager
def _opened(source: Source, source_rate: int | None) -> Iterator[_Audio]:
    if isinstance(source, torch.Tensor):
        tensor = source.detach().cpu()
        source = (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()
    if isinstance(source, np.ndarray):
        yield _of_array(source, source_rate)
        return
    if source_rate is not None:
        raise AudioError("source_rate is for arrays: a file says its own rate")
    with _binary(source) as (name, file, size), _of_file(name, file, size) as audio:
        yield audio


def _of_array(samples: np.ndarray, rate: int | None) -> _Audio:
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
        step = _BLOCK // columns.shape[1]
        for start in range(0, len(columns), step):
            with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is refused as that
                piece = columns[start : start + step].astype(np.float32)
            if samples.dtype.kind == "u":
                piece -= np.float32(full_scale)
            yield piece if full_scale is None else piece / np.float32(full_scale)

    return _Audio("the array", _exact(rate), len(columns), pieces())


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


class _Decoder(soundfile.SoundFile):
    """libsndfile, strictly from start to end: soundfile's own seek after each read fails where lengths are unknown."""

    def seekable(self) -> bool:
        return False


class _Virtual:
    """A file as libsndfile reads it, without its name: soundfile would take one called .raw for headerless samples.

    A FLAC's length is hidden, because libsndfile stops there and hides what follows; so are the tags after its end,
    which it would take for damage.

    Attributes:
        frames: the length that a FLAC declares; 0: none.
        noisy: whether libmpg123 may read it, which writes its own lines to standard error.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.end, self.hidden, self.frames = file, size, -1, 0
        start = file.read(10)
        self.noisy = start[:4] not in (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS")
        at = _id3(start)
        file.seek(at)
        head = file.read(26)
        if head[:4] == b"fLaC" and len(head) == 26 and head[4] & 0x7F == 0:
            self.hidden = at + 21  # 36 bits: the low four of this byte, and four bytes more
            self.frames = int.from_bytes(head[21:26], "big") & 0xFFFFFFFFF
            file.seek(max(size - 128, 0))
            if size > at + 128 + 42 and file.read(3) == b"TAG":
                self.end -= 128
        file.seek(0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.file.seek(self.end + offset) if whence == io.SEEK_END else self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def read(self, count: int) -> bytes:
        at = self.file.tell()
        data = self.file.read(max(0, min(count, self.end - at)))
        if self.hidden >= 0 and at < self.hidden + 5 and at + len(data) > self.hidden:
            whole = bytearray(data)
            for place in range(max(at, self.hidden), min(at + len(data), self.hidden + 5)):
                whole[place - at] &= 0xF0 if place == self.hidden else 0
            data = bytes(whole)
        return data


def _id3(head: bytes) -> int:
    """Bytes of the ID3v2 tag that begins with `head`; 0 where none does."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))


_HUSH = threading.Lock()


@contextmanager
def _hushed(noisy: bool) -> Iterator[None]:
    """Hold back what libmpg123 writes to standard error by itself; what else comes in that time is written after."""
    if not noisy:
        yield
        return
    with _HUSH, tempfile.TemporaryFile() as held:
        try:
            ours = os.dup(2)
        except OSError:  # standard error is closed
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(ours, 2)
            held.seek(0)
            for line in held:
                if not _MPG123.match(line):
                    os.write(ours, line)
            os.close(ours)


# its lines: a place in its source, or one of these two words
_MPG123 = re.compile(rb"\s*$|\[src/libmpg123|Note: |Warning: |.*libmpg123")


@contextmanager
def _of_file(name: str, file: BinaryIO, size: int) -> Iterator[_Audio]:
    virtual = _Virtual(file, size)
    try:
        with _hushed(virtual.noisy):
            opened = _Decoder(virtual)
    except soundfile.SoundFileError as error:
        raise AudioError(f"{name} is not audio that can be read ({_READS}): {_reason(error)}; {_CONVERT}") from None
    with opened as decoder:
        if decoder.format not in _FORMATS:
            raise AudioError(f"{name} is {decoder.format} audio; fewhertz reads {_READS}: {_CONVERT}")
        rate, channels, frames = decoder.samplerate, decoder.channels, decoder.frames
        if rate not in RATES:
            raise AudioError(
                f"{name} says {rate:,} samples per second; audio has {RATES[0]:,} to {RATES[-1]:,}: repair its header"
            )
        if channels > MAX_CHANNELS:
            raise AudioError(f"{name} has {channels} channels, at most {MAX_CHANNELS} are mixed down: select some")

        at = file.tell()
        if decoder.format == "FLAC":
            frames = virtual.frames or _UNKNOWN
        slack = 0  # frames that the decoder may leave out
        if decoder.format == "OGG":
            _check_ogg(name, file, size)
        elif decoder.format == "MP3":
            frames, slack = _check_mp3(name, file, size, frames)
        elif decoder.format != "FLAC":
            _check_wav(name, file, size)
        file.seek(at)
        declared = None if frames >= _UNKNOWN else frames

        def pieces() -> Iterator[np.ndarray]:
            done, step = 0, _BLOCK // channels
            of = "" if declared is None else f" of {declared / rate:.2f} s"
            while True:
                try:
                    with _hushed(virtual.noisy):
                        piece = decoder.read(step, dtype="float32", always_2d=True)
                except soundfile.SoundFileError as error:  # sound parts of this block are lost with it
                    raise _cut_off(
                        name, f"the decoder stops after {done / rate:.2f} s or more{of}: {_reason(error)}"
                    ) from None
                if not len(piece):
                    break
                done += len(piece)
                if decoder.format == "FLAC" and declared is not None and done > declared:
                    raise _cut_off(name, f"its header says {declared / rate:.2f} s, but audio goes on after that")
                yield piece
            if declared is not None and done < declared - slack:
                raise _cut_off(name, f"only {done / rate:.2f} s{of} are there")

        yield _Audio(name, rate, declared, pieces())


def _reason(error: soundfile.SoundFileError) -> str:
    return getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".") or "no reason given"


def _check_wav(name: str, file: BinaryIO, size: int) -> None:
    """Compare the sizes: libsndfile shortens the length to what is there, or leaves the rest, without a word.

    Fewer than eight bytes after the last chunk are padding.
    """
    file.seek(0)
    endian = ">" if file.read(4) == b"RIFX" else "<"
    at, wide, end = 12, None, None  # end: of the samples
    while at + 8 <= size:
        file.seek(at)
        kind, length = struct.unpack(f"{endian}4sI", file.read(8))
        if kind == b"ds64":  # RF64: 64-bit sizes of the file and of its data
            wide = int.from_bytes(file.read(16)[8:], "little")
        if kind == b"data" and end is None:
            there = size - at - 8
            length = wide if wide is not None and length == 0xFFFFFFFF else length
            if _STREAMED <= length <= 0xFFFFFFFF and there < length:
                return
            said = f"its header says {length:,} bytes of samples"
            if there < length:
                raise _cut_off(name, f"{said}, {there:,} are there")
            end = at + 8 + length
        elif end is not None and (at + 8 + length > size or kind in _NO_CHUNK or not kind.isascii() or min(kind) < 32):
            if at == end + 1:  # some write no byte to make an odd number even
                at = end
                end -= 1
                continue
            raise _cut_off(name, f"{said}, but something follows that is no part of a WAV ({size - at:,} bytes)")
        at += 8 + length + length % 2


_NO_CHUNK = {b"data", b"RIFF", b"RIFX", b"RF64"}  # after the samples: more of them


def _check_ogg(name: str, file: BinaryIO, size: int) -> None:
    """Walk the pages: libsndfile takes the last whole one for the end, and the first of several streams for all.

    A stream without its end mark passes: recorders that were stopped leave it out.
    """
    at, ended, begun = 0, False, False
    while at < size:
        file.seek(at)
        page = file.read(27)
        if page[:4] != b"OggS"[: len(page)]:
            if ended:
                return  # tags or padding
            raise _cut_off(name, f"there is no Ogg page at byte {at:,}")
        if begun and len(page) > 5 and page[5] & 2:
            raise AudioError(f"{name} holds several recordings one after the other; {_CONVERT}")
        table = file.read(page[26]) if len(page) == 27 else b""
        at += 27 + sum(table) + len(table)
        if len(page) < 27 or len(table) < page[26] or at > size:
            raise _cut_off(name, "the last Ogg page is incomplete")
        begun, ended = begun or not page[5] & 2, bool(page[5] & 4)


_MP3_KBPS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1, layer III
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG 2 and 2.5
}
_MP3_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


def _mp3_frame(head: bytes) -> tuple[int, int] | None:
    """Bytes and samples of the MP3 frame that begins with `head`; None where none does."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:  # eleven bits of sync, layer III
        return None
    version, kbps, hz, padding = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or kbps in (0, 15) or hz == 3:
        return None
    samples = 1152 if version == 3 else 576
    return samples * 125 * _MP3_KBPS[version == 3][kbps] // _MP3_HZ[version][hz] + padding, samples


def _check_mp3(name: str, file: BinaryIO, size: int, frames: int) -> tuple[int, int]:
    """The length, and how far the decoder may stay below it, in samples.

    libsndfile believes the header or, without one, guesses from the first frame's bitrate, and stops there: a file of
    varying bitrate, or two files joined, would lose its end; and it steps over what is damaged. So the MP3 frames are
    counted, and held against the number in the header.
    """
    at, count, samples, said, spare = 0, 0, 0, None, 8 * 1152  # spare: header frame, encoder delay, padding
    while at < size:
        file.seek(at)
        head = file.read(200)
        if tag := _id3(head) or (128 if head[:3] == b"TAG" else 0):
            at += tag
            continue
        frame = _mp3_frame(head)
        if frame is None:
            more = _next_mp3(file, at, size)
            if more is None:  # tags of other kinds, or padding
                break
            if count:
                raise _cut_off(name, f"there is no MP3 frame at byte {at:,}, and audio goes on after that")
            at = more
            continue
        if count == 0:
            said = _mp3_count(head)
        at, count, samples = at + frame[0], count + 1, samples + frame[1]
        if at > size:
            raise _cut_off(name, "the last MP3 frame is incomplete")
    if count == 0:
        return frames, spare
    if frames < samples - spare:
        raise AudioError(f"{name} has no length in its header, or a wrong one, and would lose its end; {_CONVERT}")
    if said is None:
        return samples, spare
    if count - 1 not in (said, said - 1):  # some count the header itself
        raise _cut_off(name, f"its header says {said:,} MP3 frames, {count - 1:,} are there")
    return frames, spare


def _mp3_count(head: bytes) -> int | None:
    """How many MP3 frames a file has, as its first frame says; None where it does not."""
    for tag, where in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        at = head.find(tag)
        if at >= 0 and (tag == b"VBRI" or int.from_bytes(head[at + 7 : at + 8]) & 1):
            return int.from_bytes(head[at + where : at + where + 4], "big") or None
    return None


def _next_mp3(file: BinaryIO, at: int, size: int) -> int | None:
    """Where, from `at` on, two MP3 frames of one kind begin one after the other."""
    while at < size:
        file.seek(at)
        block = file.read(_BLOCK)
        for found in re.finditer(rb"\xff[\xe2-\xff]", block):
            head = block[found.start() : found.start() + 4]
            frame = _mp3_frame(head)
            if frame is None:
                continue
            file.seek(at + found.start() + frame[0])
            after = file.read(4)
            if _mp3_frame(after) and after[1] == head[1] and (after[2] ^ head[2]) & 0x0C == 0:
                return at + found.start()
        at += max(len(block) - 3, 1)
    return None
