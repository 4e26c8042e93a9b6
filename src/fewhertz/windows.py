"""Long recordings in windows: cut where it is quiet, long silences left out.

Loudness is the plain energy of frames of 20 ms. A frame is quiet below −65 dBFS, or within 6 dB of what is nearly the
quietest around it and 15 dB below what was nearly the loudest so far. One window is in memory at a time, and what is
heard beyond it to find its cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float32

from fewhertz import audio
from fewhertz.audio import MIN_SECONDS, Samples

FRAME = 0.02  # seconds
FLOOR, ABOVE_FLOOR, BELOW_LOUD = -65.0, 6.0, 15.0  # dB
LOUD = -40.0  # dBFS, before anything louder came
PLACE = 0.1  # seconds: shortest quiet place that is cut in without an overlap
MARGIN = 0.1  # seconds of quiet that a window keeps around its sound
SILENCE = 3.0  # seconds: a silence of this length, or of an eighth of a window, ends a window and is left out
OVERLAP = 2.0  # seconds that windows share where there is no quiet place, or a fifth of a window

Levels: TypeAlias = Float32[np.ndarray, " frames"]


@dataclass(frozen=True)
class Window:
    """A stretch of a recording, of at most the length asked for; a silence has any length.

    Attributes:
        start: where its sound begins, in seconds from the beginning of the recording.
        end: where its sound ends.
        wave: its audio with a little quiet around; `None`: a silence.
        offset: where `wave` begins, in seconds.
        until: seconds of the recording that are done with it.
        shared: seconds at its beginning that the window before holds too.
        blind: whether it begins where no quiet place was found.
    """

    start: float
    end: float
    wave: Samples | None
    offset: float
    until: float
    shared: float = 0.0
    blind: bool = False


def windows(
    source: audio.Source,
    seconds: float,
    rate: int = 16_000,
    *,
    overlap: bool = True,
    source_rate: int | None = None,
) -> Iterator[Window]:
    """Cut a recording of any length; what is no longer than a window stays whole.

    A window ends at the beginning of a long silence, else in the middle of the longest quiet place of its last third,
    or of the third before. Where there is none, windows overlap around the quietest tenth of a second there.

    Args:
        source: as for `audio.load`; opened when the first window is asked for.
        seconds: longest window, at least twice `audio.MIN_SECONDS`.
        rate: samples per second wanted, in Hz.
        overlap: whether windows overlap where no quiet place is found; otherwise they are cut there.
        source_rate: samples per second of an array, in Hz.

    Raises:
        AudioError: as `audio.load`; damage is found when it is reached.
        TypeError: as `audio.load`.
    """
    cutter = _Cutter(rate, seconds, overlap)
    blocks = audio.blocks(source, max(seconds / 2, 2 * MIN_SECONDS), rate, source_rate=source_rate)

    def cut() -> Iterator[Window]:
        for block in blocks:
            cutter.held = np.concatenate([cutter.held, block])
            yield from cutter.ready()
        yield from cutter.rest()

    return cut()


@dataclass
class _Cutter:
    rate: int
    seconds: float
    overlap: bool
    held: Samples = field(default_factory=lambda: np.zeros(0, np.float32))
    at: int = 0  # where `held` begins, in samples from the beginning
    silent_from: int | None = None  # where the silence began that `held` may go on with
    shared: int = 0  # samples at the beginning of `held` that were in the window before
    blind: bool = False
    loud: float = LOUD

    def __post_init__(self) -> None:
        self.frame = max(1, round(FRAME * self.rate))
        self.size = round(self.seconds * self.rate)
        self.least = int(np.ceil(MIN_SECONDS * self.rate))
        self.silence = max(2, round(min(SILENCE, self.seconds / 8) * self.rate) // self.frame)  # frames
        self.margin = min(round(MARGIN * self.rate) // self.frame, self.silence // 4)  # frames
        self.ahead = self.size + max(self.least, (self.silence + 1) * self.frame)

    def ready(self) -> Iterator[Window]:
        """Windows that what follows cannot change."""
        while len(self.held) >= self.ahead:
            yield from self._next(last=False)

    def rest(self) -> Iterator[Window]:
        """What is left at the end."""
        if self.at == 0 and len(self.held) <= self.size:
            seconds = len(self.held) / self.rate
            yield Window(0.0, seconds, self.held, 0.0, seconds)
            return
        while len(self.held):
            yield from self._next(last=True)

    def _next(self, last: bool) -> Iterator[Window]:
        quiet, levels = self._quiet()
        sound = int(quiet.argmin()) if not quiet.all() else len(quiet)
        if self.silent_from is None and sound >= (1 if sound == len(quiet) else self.silence):
            self.silent_from = self.at
        if self.silent_from is not None:
            over = sound < len(quiet)
            # a sound may begin softly: the silence ends a little before it
            done = len(self.held)
            if over or not last:
                done = min(done, max(0, sound - self.margin) * self.frame)
            start, end = self.silent_from / self.rate, (self.at + done) / self.rate
            if (over or last) and end > start:
                yield Window(start, end, None, start, end)
            self._drop(done)
            if over or last:
                self.silent_from = None
            if not over:
                return
            quiet, levels = quiet[done // self.frame :], levels[done // self.frame :]
        limit = min(self.size, len(self.held))
        first = next((start for start, end in _runs(quiet) if end - start >= self.silence and start > 0), len(quiet))
        first *= self.frame
        if first <= min(limit, len(self.held) - self.frame):
            yield self._window(quiet, min(first + self.margin * self.frame, len(self.held)))
            self._drop(first)
            self.silent_from = self.at
        elif last and len(self.held) <= self.size:
            yield self._window(quiet, len(self.held))
            self._drop(len(self.held))
        elif len(self.held) > limit:
            yield from self._cut(quiet, levels, min(limit, len(self.held) - self.least))

    def _cut(self, quiet: Bool[np.ndarray, " frames"], levels: Levels, limit: int) -> Iterator[Window]:
        """A window that ends in its last third, where the longest quiet place is, else in the third before."""
        low, high = max(1, 2 * limit // 3 // self.frame), max(2, limit // self.frame)
        for first, last in ((low, high), (max(1, limit // 3 // self.frame), low)):
            places = [(end - start, start, end) for start, end in _runs(quiet[first:last])]
            length, start, end = max(places, default=(0, 0, 0))
            if length * FRAME >= PLACE:
                cut = (first + (start + end) // 2) * self.frame
                yield self._window(quiet, cut)
                self._drop(cut)
                return
        cut = (low + _quietest(levels[low:high])) * self.frame
        half = min(round(OVERLAP * self.rate), self.size // 5) // 2 if self.overlap else 0
        end = min(cut + half, limit)
        yield self._window(quiet, end)
        back = max(cut - half, self.frame)
        self._drop(back)
        self.shared, self.blind = end - back, True

    def _window(self, quiet: Bool[np.ndarray, " frames"], end: int) -> Window:
        """The sound of the first `end` samples, with a little quiet around."""
        frames = -(-end // self.frame)
        loud = np.flatnonzero(~quiet[:frames])
        begin, stop = (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, frames)
        low = max(0, begin - self.margin) * self.frame
        high = min(end, (stop + self.margin) * self.frame)
        if high - low < self.least:
            low = max(0, high - self.least)
            high = min(len(self.held), low + self.least)
        window = Window(
            (self.at + begin * self.frame) / self.rate,
            (self.at + min(stop * self.frame, end)) / self.rate,
            self.held[low:high].copy(),  # a view would keep all that is held
            (self.at + low) / self.rate,
            (self.at + end) / self.rate,
            max(0, self.shared - low) / self.rate,
            self.blind,
        )
        self.shared, self.blind = 0, False
        return window

    def _drop(self, samples: int) -> None:
        self.held = self.held[samples:]
        self.at += samples

    def _quiet(self) -> tuple[Bool[np.ndarray, " frames"], Levels]:
        levels = levels_of(self.held, self.frame)
        self.loud = max(self.loud, float(np.percentile(levels, 95)))
        floor = float(np.percentile(levels, 10))
        return levels < max(FLOOR, min(floor + ABOVE_FLOOR, self.loud - BELOW_LOUD)), levels


def levels_of(wave: Samples, frame: int) -> Levels:
    """Loudness of each frame in dB of full scale, at least −100; the last frame may be shorter."""
    power = np.add.reduceat(np.square(wave, dtype=np.float64), np.arange(0, len(wave), frame))
    sizes = np.full(len(power), frame)
    sizes[-1] = len(wave) - (len(power) - 1) * frame
    return (10 * np.log10(np.maximum(power / sizes, 1e-10))).astype(np.float32)


def halves(wave: Samples, rate: int) -> int:
    """Where to cut a wave in two: at the quietest tenth of a second of its middle third."""
    frame = max(1, round(FRAME * rate))
    levels = levels_of(wave, frame)
    low, high = len(levels) // 3, -(-2 * len(levels) // 3)
    return (low + _quietest(levels[low:high])) * frame


def _quietest(levels: Levels) -> int:
    """The middle frame of the quietest tenth of a second."""
    width = min(round(PLACE / FRAME), len(levels))
    energy = np.convolve(10 ** (levels.astype(np.float64) / 10), np.ones(width), "valid")
    return int(energy.argmin()) + width // 2


def _runs(mask: Bool[np.ndarray, " frames"]) -> list[tuple[int, int]]:
    """Where runs of true begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
