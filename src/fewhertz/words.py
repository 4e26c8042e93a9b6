"""Two texts word by word: where they differ, and how many words are wrong."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from difflib import SequenceMatcher

LONGEST = 2_000  # characters of a text that is compared: differences take time that grows with the square
# a sign of these scripts is a word: Thai, Lao, Burmese, Khmer, Japanese, Chinese
_SIGNS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_SIGNS}]|[^\s{_SIGNS}]+")


def cut(text: str, longest: int = LONGEST) -> str:
    """A text, or its beginning and how much more there is."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest} characters more)"


def marks(reference: str, output: str) -> tuple[list[int], list[int], float]:
    """Marks of two texts, and how alike they are, 0 to 1.

    Marks are lengths in code points, alternately of what both have and of what one alone has.
    """
    one, two, matcher = _matched(reference, output)
    steps = [step for step in matcher.get_opcodes() if step[0] != "equal"]
    return (
        _lengths(cut(reference), [(one[i][0], one[j - 1][1]) for _, i, j, _, _ in steps if j > i]),
        _lengths(cut(output), [(two[i][0], two[j - 1][1]) for _, _, _, i, j in steps if j > i]),
        matcher.ratio(),
    )


def differences(reference: str, output: str) -> list[tuple[str, str]]:
    """The output in pieces, and between them what it lacks of the reference.

    Returns:
        Of each piece what it is, `""`: in both, `"+"`: in the output alone, `"-"`: in the reference alone, and its
        text. Without those of the last kind the pieces are the output, `cut` where it is long.
    """
    one, two, matcher = _matched(reference, output)
    text, at, found = cut(output), 0, []
    for kind, i, j, k, end in matcher.get_opcodes():
        if kind == "equal":
            continue
        start = two[k][0] if k < len(two) else len(text)
        found.append(("", text[at:start]))
        if j > i:
            found.append(("-", reference[one[i][0] : one[j - 1][1]]))
        at = two[end - 1][1] if end > k else start
        if end > k:
            found.append(("+", text[start:at]))
    found.append(("", text[at:]))
    return [piece for piece in found if piece[1]]


def word_errors(reference: str, output: str) -> tuple[int, int]:
    """Fewest words put in, left out or changed, and words of the reference; capitals and punctuation don't count."""
    one, two = ([key for *_, key in _words(text)] for text in (reference, output))
    return distance(one, two), len(one)


def distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Fewest words put in, left out or changed. Here, since jiwer is an extra."""
    row = list(range(len(other) + 1))
    for i, word in enumerate(one, 1):
        before, row = row, [i]
        for j, said in enumerate(other, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (word != said)))
    return row[-1]


_Word = tuple[int, int, str]  # start, end, and what is compared


def _matched(reference: str, output: str) -> tuple[list[_Word], list[_Word], SequenceMatcher[str]]:
    one, two = _words(reference[:LONGEST]), _words(output[:LONGEST])
    return one, two, SequenceMatcher(None, [key for *_, key in one], [key for *_, key in two], autojunk=False)


def _words(text: str) -> list[_Word]:
    """The words of a text, compared by letters and digits in lower case."""
    found = []
    for match in _WORD.finditer(text):
        key = "".join(filter(str.isalnum, match[0].casefold()))
        if key:
            found.append((match.start(), match.end(), key))
    return found


def _lengths(text: str, spans: list[tuple[int, int]]) -> list[int]:
    ends = [0, *(end for span in spans for end in span), len(text)]
    return [b - a for a, b in itertools.pairwise(ends)]
