"""WAV, FLAC, Ogg and MP3 files, decoded by libsndfile and checked to be whole."""

from __future__ import annotations

import io
import os
import re
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soundfile
from jaxtyping import Float32

from fewhertz.errors import AudioError

RATES = range(1_000, 768_001)  # Hz
MAX_CHANNELS = 64
BLOCK = 1 << 18  # samples decoded at once, over all channels

_FORMATS = {"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3"}
_READS = "wav, flac, ogg, opus and mp3"
_CONVERT = "convert it first: ffmpeg -i IN OUT.wav"
_UNKNOWN = 1 << 62  # frames: libsndfile's "no length in the header" is the largest int64
_STREAMED = 0x7FFF0000  # bytes: recorders that write WAV into a pipe put a size from here to 2³²−1 for "until the end"


@dataclass
class Audio:
    """Audio as it is decoded, piece by piece."""

    name: str
    rate: int
    frames: int | None  # as declared; None: not declared
    pieces: Iterator[Float32[np.ndarray, "n channels"]]
    decoded: int = 0  # frames read so far


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
def of_file(name: str, file: BinaryIO, size: int) -> Iterator[Audio]:
    """Audio of a file: what its header and sizes tell is checked at once, the rest when its piece is reached.

    Some containers cannot tell that they were cut. What is missing passes where it was cut off, or taken out, in whole
    frames of an MP3 without a Xing, Info or VBRI header (with one: a single frame), in whole frames of a FLAC or pages
    of an Ogg stream that say no length, or from a WAV that says "until the end" (sizes from 0x7FFF0000 on), as
    streaming recorders write them. Of MPEG layers I and II and of free-format MP3 the decoder's word is taken.

    Args:
        name: what errors call it.
        file: at its start, seekable; it stays open.
        size: in bytes.

    Raises:
        AudioError: for what is not audio, or is cut off or damaged.
    """
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
            done, step = 0, BLOCK // channels
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

        yield Audio(name, rate, declared, pieces())


def _cut_off(name: str, what: str) -> AudioError:
    return AudioError(
        f"{name} is cut off or damaged: {what}. Fetch it again, or keep what is left: ffmpeg -i IN OUT.wav"
    )


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
        block = file.read(BLOCK)
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
