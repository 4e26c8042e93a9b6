"""A recording that is longer than a model's window: each window a clip of its own, and the line that they are on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewhertz import audio
from fewhertz.compare import Lane, compare
from fewhertz.families import family_of
from fewhertz.families.base import Family
from fewhertz.files import Record
from fewhertz.run import PROMPTS, read_whole, sample_rate
from fewhertz.segments import Segment, join
from fewhertz.studio import page
from fewhertz.transcription import longest_window
from fewhertz.windows import Window, windows
from fewhertz.words import word_errors

MAX_SECONDS = 600.0  # of a recording in a page: 27 MB of it


def at_once(family: Family) -> float:
    """Seconds that a family hears, and a page shows, as one clip."""
    return min(family.max_seconds or page.MAX_SECONDS, page.MAX_SECONDS)


def cut(model: Any, processor: Any, file: str | Path, prompt: str | None) -> list[Window]:
    """The windows of a file as `fewhertz run` reads it; what the model reads at once is one.

    Args:
        model: an audio language model of a known family.
        processor: the model's own.
        file: an audio file.
        prompt: what is asked of each window; `None`: transcribe.

    Raises:
        ValueError: where it cannot be read, or is longer than a page holds.
    """
    rate, family, seconds = sample_rate(processor), family_of(model), audio.duration(file)
    if seconds <= at_once(family):
        wave = read_whole(file, rate, family)
        return [Window(0.0, len(wave) / rate, wave, 0.0, len(wave) / rate)]
    page.check_length(seconds, MAX_SECONDS)
    longest = min(longest_window(model, None, "auto") or page.MAX_SECONDS, page.MAX_SECONDS)
    return list(windows(file, longest, rate, overlap=prompt is None))


def timeline(
    found: Sequence[Window], lanes: Sequence[Sequence[Lane]], rate: int, shown: int, reference: str | None = None
) -> Record | None:
    """What the page shows of all windows, as JSON; `None`: there is only one.

    Args:
        found: the windows.
        lanes: of each window, as far as they are known; none of a silence.
        rate: samples per second of the windows, in Hz.
        shown: which window the clip is.
        reference: what all of it should say.
    """
    if len(found) == 1:
        return None
    places = [
        {
            "start": window.start,
            "end": window.end,
            "silent": window.wave is None,
            "hz": [] if window.wave is None else [round(lane.tokens * rate / len(window.wave), 3) for lane in some],
        }
        for window, some in zip(found, lanes, strict=True)
    ]
    return {"windows": places, "shown": shown, "lanes": _whole(found, lanes, reference)}


def _whole(found: Sequence[Window], lanes: Sequence[Sequence[Lane]], reference: str | None) -> list[Record] | None:
    """Of each method what all windows say, once they all have; words that two windows share are there once."""
    heard = [(window, some) for window, some in zip(found, lanes, strict=True) if window.wave is not None]
    if not heard or any(lane.text is None for _, some in heard for lane in some):
        return None
    if len({len(some) for _, some in heard}) > 1:
        return None
    whole = []
    for one in range(len(heard[0][1])):
        text = _joined([window for window, _ in heard], [some[one].text or "" for _, some in heard])
        whole.append({"text": text, "errors": word_errors(reference, text) if reference else None})
    return whole


def _joined(found: Sequence[Window], texts: Sequence[str]) -> str:
    segments: list[Segment] = []
    for window, text in zip(found, texts, strict=True):
        segment = Segment(window.start, window.end, text)
        if window.blind and segments:
            segments[-1], segment = join(segments[-1], segment, window.shared)
        segments.append(segment)
    return " ".join(text for segment in segments if (text := segment.text.strip()))


def clips(
    model: Any,
    processor: Any,
    file: Path,
    methods: Sequence[str],
    prompt: str | None = None,
    *,
    name: str,
    reference: str | None = None,
    max_new_tokens: int = 256,
) -> list[Record]:
    """What a page shows of a file: a clip, or one for each window of a recording that is no silence.

    Args:
        model: an audio language model of a known family. A method that is attached is taken off.
        processor: the model's own.
        file: an audio file.
        methods: specs.
        prompt: what to ask, of each window; `None`: transcribe.
        name: of the model.
        reference: what the answer should be; of a recording, of all of it.
        max_new_tokens: longest answer to a window, in tokens.

    Raises:
        ValueError: where it cannot be read, is too long, is silent all through, or a method does not fit the model.
    """
    found = cut(model, processor, file, prompt)
    own = reference if len(found) == 1 else None
    lanes = [
        []
        if window.wave is None
        else compare(model, processor, window.wave, methods, prompt, reference=own, max_new_tokens=max_new_tokens)
        for window in found
    ]
    if not any(lanes):
        raise ValueError("nothing is to be heard in it")
    return [
        page.record(
            file.name,
            window.wave,
            sample_rate(processor),
            float(family_of(model).rate(model.config)),
            some,
            model=name,
            prompt=prompt or PROMPTS["transcribe"],
            reference=reference,
            start=window.offset,
            timeline=timeline(found, lanes, sample_rate(processor), i, reference),
        )
        for i, (window, some) in enumerate(zip(found, lanes, strict=True))
        if window.wave is not None
    ]
