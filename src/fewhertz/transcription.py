"""Recordings of any length to segments with times, by windows that run together in batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

from fewhertz import run
from fewhertz.attach import attached, compress
from fewhertz.audio import MIN_SECONDS, AudioError, Source
from fewhertz.errors import one_line, or_singly
from fewhertz.families import family_of
from fewhertz.families.base import Config, Family
from fewhertz.method import Method, parse
from fewhertz.run import Reply, Wave, read_whole, sample_rate
from fewhertz.segments import Kept, Piece, Segment, join, repeats
from fewhertz.sharing import shared_out
from fewhertz.steps import one_recording
from fewhertz.windows import Window, halves, windows

Chunk: TypeAlias = float | Literal["auto"] | None
# the replies to windows, or why there are none: of so many new tokens at most, and audio tokens of a shared budget
Ask: TypeAlias = Callable[[list[Wave], int, list[int] | None], list[Reply | str]]
Share: TypeAlias = Callable[[Iterator[Window]], list[int]]  # audio tokens of each window of a file

LONGEST = 256  # new tokens, and for transcripts of long windows
TOKENS_A_SECOND = 12
CHARACTERS_A_SECOND, CHARACTERS = 35, 20  # more than that is no speech, whatever the length
AHEAD = 4  # batches of windows that are sorted by length: the encoder pads less, and answers end together


def transcribe(
    model: Any,
    processor: Any,
    audio: Source,
    *,
    method: str | Method | None = None,
    prompt: str | None = None,
    chunk: Chunk = None,
    batch_size: int = 1,
    max_new_tokens: int | None = None,
    source_rate: int | None = None,
) -> Iterator[Segment]:
    """Transcribe a recording of any length, segment by segment as they are done.

    Four batches of windows are in memory at a time, whatever the length; those of like length run together.

    Args:
        model: an audio language model of a known family, with or without a method.
        processor: the model's own.
        audio: as for `audio.load`.
        method: attached while the segments are taken; `None`: what is attached already, if anything. A shared budget
            (`ward(shared=true)@8Hz`) is one of the whole recording.
        prompt: what to ask instead of a transcript.
        chunk: seconds of the longest window. `"auto"`: the model's comfortable length (`comfortable_seconds` of its
            config, else what the family reads at once). `None`: that for transcripts; what is asked otherwise is asked
            of the whole.
        batch_size: windows that run together.
        max_new_tokens: longest answer to a window, in tokens; `None`: by the window's length.
        source_rate: samples per second of an array, in Hz.

    Raises:
        AudioError: for audio that cannot be read, when it is reached.
        RuntimeError: where the model fails on a window.
        ValueError: where a chunk is longer than what the model reads, the method is none or another is attached.

    Example:
        >>> for segment in fewhertz.transcribe(model, processor, "talk.flac", method="pool@keep=1/2"):
        ...     print(f"{segment.start:.1f} {segment.text}")
    """
    if method is not None:
        family_of(model).fit(parse(method), model.config)
        there = attached(model)
        if there is not None:
            raise ValueError(f"{there.asked.spec} is attached to the model: remove it, or leave method out")
    stream = pieces(
        model,
        processor,
        [audio],
        prompt,
        chunk=chunk,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        source_rate=source_rate,
    )

    def segments() -> Iterator[Segment]:
        for piece in stream:
            if piece.error is not None:
                raise (RuntimeError if piece.readable else AudioError)(piece.error)
            if piece.segment is not None:
                yield piece.segment

    def compressed() -> Iterator[Segment]:
        assert method is not None
        with compress(model, method):
            yield from segments()

    return segments() if method is None else compressed()


def longest_window(model: Any, prompt: str | None, chunk: Chunk) -> float | None:
    """Seconds of the longest window; `None`: audio is one piece.

    Raises:
        ValueError: where a chunk, or what the model's config says, is longer than what it reads, or no length.
    """
    return None if chunk is None and prompt is not None else comfortable(family_of(model), model.config, chunk)


def comfortable(family: Family, config: Config, chunk: Chunk = None) -> float | None:
    """`longest_window` of a transcript, by what is known without weights."""
    limit = family.max_seconds
    seconds: Any = chunk
    if chunk is None or chunk == "auto":
        seconds = getattr(config, "comfortable_seconds", None)
        if seconds is None:
            return limit
        if not isinstance(seconds, int | float) or not 2 * MIN_SECONDS <= seconds <= (limit or math.inf):
            raise ValueError(f"comfortable_seconds of the model's config.json is no length for it: {seconds!r:.40}")
    if limit is not None and seconds > limit:
        raise ValueError(f"--chunk {seconds:g} is more than the {limit:g} s that {family.name} reads at once")
    return float(seconds)


def pieces(
    model: Any,
    processor: Any,
    files: Iterable[Source],
    prompt: str | None = None,
    *,
    chunk: Chunk = None,
    batch_size: int = 1,
    max_new_tokens: int | None = None,
    source_rate: int | None = None,
    kept: Kept | None = None,
) -> Iterator[Piece]:
    """The segments of files, in order; a file that fails is reported and the others go on.

    Args:
        model: as `transcribe`; so are those that are not named here.
        processor: the model's own.
        files: audio files, each to be read when its turn comes.
        prompt: what to ask; `None`: transcribe.
        chunk: as `transcribe`.
        batch_size: windows that run together, of several files too.
        max_new_tokens: as `transcribe`.
        source_rate: as `transcribe`.
        kept: what is done already; what is done now is added.

    Raises:
        ValueError: where a chunk is longer than what the model reads.
    """
    seconds = longest_window(model, prompt, chunk)
    family, rate = family_of(model), sample_rate(processor)

    def ask(waves: list[Wave], longest: int, tokens: list[int] | None) -> list[Reply | str]:
        def work(some: list[int]) -> list[Reply]:
            with one_recording(None if tokens is None else sum(tokens[i] for i in some)):
                asked = [waves[i] for i in some]
                return run.reply(model, processor, asked, prompt, max_new_tokens=longest, stop_loops=True)

        return or_singly(work, [*range(len(waves))])

    def stream() -> Iterator[Piece]:
        handle, share = attached(model), None  # as it is once the first piece is asked for
        if handle is not None and handle.method.together and seconds is not None:
            native = float(family.rate(model.config))
            share = partial(shared_out, handle.method, handle.asked.rate, native=native, rate=rate)
        yield from answered(
            ((file, source_rate) for file in files),
            ask,
            family,
            rate,
            seconds,
            transcript=prompt is None,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            kept=kept,
            share=share,
        )

    return stream()


def answered(
    files: Iterable[tuple[Source, int | None]],
    ask: Ask,
    family: Family,
    rate: int,
    seconds: float | None,
    *,
    transcript: bool,
    batch_size: int,
    max_new_tokens: int | None = None,
    kept: Kept | None = None,
    share: Share | None = None,
    ahead: int = AHEAD,
) -> Iterator[Piece]:
    """`pieces`, whatever answers.

    Args:
        files: each with the rate of its samples where it is an array.
        ask: what answers.
        family: of the model.
        rate: of samples that the model reads, in Hz.
        seconds: of the longest window; `None`: audio is one piece.
        transcript: whether transcripts are asked for.
        batch_size: as `pieces`.
        max_new_tokens: likewise.
        kept: likewise.
        share: how a budget of a whole file is shared among its windows; `None`: each has its own.
        ahead: batches of windows that are sorted by length before they run.
    """
    items = _items(files, family, rate, seconds, transcript, share)
    runner = _Runner(ask, rate, transcript, batch_size, max_new_tokens, kept, share is not None, ahead)
    return _joined(runner.run(items))


@dataclass(frozen=True)
class _Item:
    """A window of a file on its way, or the file's end."""

    index: int
    number: int
    file: Source
    window: Window | None
    seconds: float
    error: str | None = None
    tokens: int | None = None  # that it keeps of a shared budget

    @property
    def wave(self) -> Wave | None:
        return None if self.window is None else self.window.wave


def _items(
    files: Iterable[tuple[Source, int | None]],
    family: Family,
    rate: int,
    seconds: float | None,
    overlap: bool,
    share: Share | None,
) -> Iterator[_Item]:
    for index, (file, source_rate) in enumerate(files):
        number, done, error = 0, 0.0, None
        cut = partial(_cut, file, source_rate, family, rate, seconds, overlap)
        try:
            tokens = None if share is None else share(cut())
            for window in cut():
                done = window.until
                yield _Item(index, number, file, window, done, tokens=None if tokens is None else tokens[number])
                number += 1
        except (OSError, ValueError) as problem:
            error = one_line(problem)
        yield _Item(index, number, file, None, done, error)


def _cut(
    file: Source, source_rate: int | None, family: Family, rate: int, seconds: float | None, overlap: bool
) -> Iterator[Window]:
    if seconds is not None:
        return windows(file, seconds, rate, overlap=overlap, source_rate=source_rate)
    wave = read_whole(file, rate, family, source_rate=source_rate)
    length = len(wave) / rate
    return iter([Window(0.0, length, wave, 0.0, length)])


@dataclass
class _Runner:
    """Runs windows in batches and gives each its segments, or says why there are none."""

    ask: Ask
    rate: int
    transcript: bool
    batch_size: int
    max_new_tokens: int | None
    kept: Kept | None
    shares: bool  # whether windows that run together share a budget, so that they have to be the same ones again
    ahead: int

    def run(self, items: Iterator[_Item]) -> Iterator[tuple[_Item, list[Segment] | str]]:
        pool: list[_Item] = []
        sounds, most = 0, self.batch_size * (self.ahead if self.batch_size > 1 else 1)
        for item in items:
            pool.append(item)
            sounds += item.wave is not None
            if sounds == most or not sounds or (self.shares and item.window is None):
                yield from self._pool(pool)
                pool, sounds = [], 0
        yield from self._pool(pool)

    def _pool(self, pool: list[_Item]) -> Iterator[tuple[_Item, list[Segment] | str]]:
        """Run windows in batches of like length; what is done has its place there, so that the others are as before."""
        made: dict[tuple[int, int], list[Segment] | str] = {}
        heard = sorted((one for one in pool if one.wave is not None), key=_samples)
        for start in range(0, len(heard), self.batch_size):
            batch = [one for one in heard[start : start + self.batch_size] if not self._done(one)]
            found = dict(zip([(one.index, one.number) for one in batch], self._segments(batch), strict=True))
            if self.kept is not None and batch:
                self.kept.add([(*place, new) for place, new in found.items() if not isinstance(new, str)])
            made |= found
        for item in pool:
            window, place = item.window, (item.index, item.number)
            if window is None:
                yield item, item.error or []
            elif window.wave is None:
                yield item, [Segment(window.start, window.end, "", flags=("silence",))]
            elif place in made:
                yield item, made[place]
            else:
                assert self.kept is not None
                yield item, self.kept.find(*place) or []

    def _done(self, item: _Item) -> bool:
        return self.kept is not None and (item.index, item.number) in self.kept.done

    def _segments(self, batch: list[_Item]) -> list[list[Segment] | str]:
        found: list[list[Segment] | str] = []
        waves = [item.wave for item in batch if item.wave is not None]
        for item, wave, reply in zip(batch, waves, self._ask(waves, [one.tokens or 0 for one in batch]), strict=True):
            window = item.window
            assert window is not None
            if isinstance(reply, str):
                found.append(reply)
                continue
            wrong = self._wrong(reply, len(wave) / self.rate)
            cut = halves(wave, self.rate)
            again = wrong and self.transcript and min(cut, len(wave) - cut) >= MIN_SECONDS * self.rate
            # a longest answer that was asked for is no sign of trouble
            if not again or (wrong == "length" and self.max_new_tokens is not None):
                found.append([_of(reply, window.start, window.end, [wrong] if wrong else [])])
            else:
                found.append(self._halved(window, wave, cut, reply))
        return found

    def _halved(self, window: Window, wave: Wave, cut: int, spent: Reply) -> list[Segment] | str:
        parts = [wave[:cut], wave[cut:]]
        middle = min(max(window.offset + cut / self.rate, window.start), window.end)
        spans = [(window.start, middle), (middle, window.end)]
        share = round(spent.after * cut / len(wave))  # of a shared budget: both halves spend what the window had
        replies = self._ask(parts, [share, spent.after - share])
        found = []
        for part, (start, end), reply in zip(parts, spans, replies, strict=True):
            if isinstance(reply, str):
                return reply
            wrong = self._wrong(reply, len(part) / self.rate)
            found.append(_of(reply, start, end, ["halved", wrong] if wrong else ["halved"]))
        # what the answer took that is not used is counted with the first half's
        took = {key: getattr(spent, key) for key in ("new_tokens", "encode", "prefill", "decode")}
        one = found[0].reply
        assert one is not None
        together = {key: value + getattr(one, key) for key, value in took.items()}
        return [replace(found[0], reply=replace(one, **together)), *found[1:]]

    def _wrong(self, reply: Reply, seconds: float) -> str:
        """What is wrong with an answer, as a flag; empty: nothing."""
        if repeats(reply.text) or (self.transcript and len(reply.text) > CHARACTERS_A_SECOND * seconds + CHARACTERS):
            return "loop"
        if reply.ended:
            return ""
        return "length" if reply.new_tokens >= self._longest(seconds) else "loop"

    def _longest(self, seconds: float) -> int:
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        return max(LONGEST, math.ceil(TOKENS_A_SECOND * seconds)) if self.transcript else LONGEST

    def _ask(self, waves: list[Wave], tokens: list[int]) -> list[Reply | str]:
        """The reply to each window, or why there is none."""
        if not waves:
            return []
        longest = self._longest(max(map(len, waves)) / self.rate)
        return self.ask(waves, longest, tokens if self.shares else None)


def _samples(item: _Item) -> int:
    return 0 if item.wave is None else len(item.wave)


def _of(reply: Reply, start: float, end: float, flags: list[str]) -> Segment:
    hz = reply.after / (end - start) if end > start else 0.0
    return Segment(round(start, 3), round(end, 3), reply.text, reply.after, round(hz, 3), tuple(flags), reply)


def _joined(found: Iterator[tuple[_Item, list[Segment] | str]]) -> Iterator[Piece]:
    """Segments in order; where windows overlap, their texts are joined. One is held back until the next is there."""
    failed, held, done = -1, None, 0.0

    for item, segments in found:
        if item.index == failed:
            continue  # an earlier window of this file failed: it is reported, the rest would read as the whole
        if isinstance(segments, list) and segments and item.window is not None and item.window.blind:
            first, *others = segments
            if held is None:
                segments = [replace(first, flags=("cut", *first.flags)), *others]
            else:
                held, first = join(held, first, item.window.shared)
                segments = [first, *others]
        for segment in segments if isinstance(segments, list) else []:
            if held is not None:
                yield Piece(item.file, done, held)
            held, done = segment, item.seconds
        ends = item.window is None or isinstance(segments, str)
        if not ends:
            continue
        if held is not None:
            yield Piece(item.file, done, held)
        error = segments if isinstance(segments, str) else None
        if error is not None:
            failed = item.index
        yield Piece(item.file, done, None, True, error, readable=item.window is not None or error is None)
        held, done = None, 0.0
