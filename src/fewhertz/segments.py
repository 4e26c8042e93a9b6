"""Segments of recordings: what was said when, kept in a journal, and joined where two overlap."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fewhertz.audio import Source
from fewhertz.files import Journal, Record, read_journal
from fewhertz.run import Reply

WORDS, REPEATED = 12, 0.5  # a text of so many words goes round in circles where so many of its trigrams are not new
SHARED_WORDS_A_SECOND, SHARED_WORDS = 6, 2  # at most in what two windows share
# scripts without spaces are joined by their characters
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


@dataclass(frozen=True)
class Segment:
    """What was said in a stretch of a recording.

    Attributes:
        start: where its sound begins, in seconds from the beginning of the recording.
        end: where its sound ends.
        text: empty in a silence.
        tokens: audio tokens that the LLM read; 0 in a silence, which no encoder reads.
        hz: audio tokens per second of the stretch, in Hz.
        flags: what there is to know of it:
            `silence`: nothing to hear, left out;
            `overlap`: begins where no quiet place was found; joined by the longest common run of words;
            `seam`: the same, and no common run: a word may be there twice or in parts;
            `cut`: the same, without an overlap: a word may be cut;
            `halved`: decoded again in halves, since the first answer went round in circles or was too long;
            `loop`: still does;
            `length`: stopped at the longest answer.
        reply: the model's counts and times; `None` in a silence.
    """

    start: float
    end: float
    text: str
    tokens: int = 0
    hz: float = 0.0
    flags: tuple[str, ...] = ()
    reply: Reply | None = None


@dataclass(frozen=True)
class Piece:
    """A segment of one file, or its end.

    Attributes:
        seconds: of the file that are done.
        segment: `None` at the end.
        last: whether nothing more comes of the file.
        error: why it ends early.
        readable: whether the audio could be read, so that an error is the model's.
    """

    file: Source
    seconds: float
    segment: Segment | None = None
    last: bool = False
    error: str | None = None
    readable: bool = True


class Kept:
    """The windows that an earlier run of the same has done, in a journal on the disk."""

    done: dict[tuple[int, int], list[Record]]  # segments, by file and window

    def __init__(self, file: Path, identity: Record) -> None:
        """Open a journal to go on with it, or begin one.

        Raises:
            ValueError: where it is of another run, or damaged before its last line.
        """
        self.journal = Journal(file, identity)
        self.done = {(one["file"], one["window"]): one["segments"] for one in read_journal(file, identity)}

    def find(self, index: int, number: int) -> list[Segment] | None:
        """The segments of a window, if it is done."""
        there = self.done.get((index, number))
        return None if there is None else [_segment(one) for one in there]

    def add(self, windows: list[tuple[int, int, list[Segment]]]) -> None:
        """Keep the segments of windows that ran together, each of a file and a number in it."""
        self.write(
            [
                {"file": index, "window": number, "segments": [*map(asdict, segments)]}
                for index, number, segments in windows
            ]
        )

    def write(self, records: list[Record]) -> None:
        """Keep a record of each window."""
        self.journal.add(records)


def written(segment: Segment) -> Record:
    """A segment as JSON has it."""
    return {
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": segment.tokens,
        "hz": round(segment.hz, 3),
        "flags": list(segment.flags),
    }


def _segment(record: Record) -> Segment:
    return Segment(**record | {"flags": tuple(record["flags"]), "reply": Reply(**record["reply"])})


def join(before: Segment, after: Segment, shared: float) -> tuple[Segment, Segment]:
    """Two segments whose sounds overlap, without the words that both have.

    Both texts meet at the longest run of words that the end of the one and the beginning of the other have in common;
    what either has beyond it in the overlap is a word that was cut.

    Args:
        before: the first.
        after: the second.
        shared: seconds that both hold.
    """
    middle = after.start + shared / 2
    before = replace(before, end=round(max(before.start, min(before.end, middle)), 3))
    after = replace(after, start=round(min(after.end, max(after.start, middle)), 3))
    if not shared:
        return before, replace(after, flags=("cut", *after.flags))
    most = math.ceil(SHARED_WORDS_A_SECOND * shared) + SHARED_WORDS
    ours, theirs = [*WORD.finditer(before.text)][-most:], [*WORD.finditer(after.text)][:most]
    runs = [
        (length, -(len(ours) - i - length + j), i, j)
        for i in range(len(ours))
        for j in range(len(theirs))
        if (length := _common(ours[i:], theirs[j:]))
    ]
    if not ours or not theirs:
        return before, replace(after, flags=("overlap", *after.flags))
    length, lost, i, j = max(runs, default=(0, 0, 0, 0))
    if 2 * length < -lost or not length:
        return before, replace(after, flags=("seam", *after.flags))
    text = after.text[theirs[j + length - 1].end() :].strip()
    before = replace(before, text=before.text[: ours[i + length - 1].end()])
    return before, replace(after, text=text, flags=("overlap", *after.flags))


def _common(ours: list[re.Match[str]], theirs: list[re.Match[str]]) -> int:
    """Words that two texts have in common at their beginning."""
    count = 0
    for one, other in zip(ours, theirs, strict=False):
        if _bare(one[0]) != _bare(other[0]):
            break
        count += 1
    return count


def _bare(word: str) -> str:
    return re.sub(r"\W", "", word).casefold() or word


def repeats(text: str) -> bool:
    """Whether a text goes round in circles: most of its runs of three words were there before."""
    words = [_bare(word[0]) for word in WORD.finditer(text)]
    runs = [*zip(words, words[1:], words[2:], strict=False)]
    return len(words) >= WORDS and 1 - len(set(runs)) / len(runs) > REPEATED
