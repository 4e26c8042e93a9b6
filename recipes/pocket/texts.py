"""What synthetic speech says: sentences, recombined sentences, numbers, spelled words, random words, questions.

Sentences far from each other: two are *near* where fewer than three words, or less than a third of the words of the
shorter one, have to be changed, added or left out to make one of the other. No sentence of training is near one of a
far list, and no two of the far lists are near each other.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

FAR_WORDS, FAR_SHARE = 3, 3  # words; the least part of the words is 1 in `FAR_SHARE`
DICTIONARY = Path("/usr/share/dict/american-english")  # Debian's wamerican
ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = (
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)  # fmt: skip


def least(words: int) -> int:
    """Word edits from which on a sentence of so many words is far."""
    return max(1, min(FAR_WORDS, -(-words // FAR_SHARE)))


class Near:
    """Finds sentences (normalised) that are near to one of a list."""

    def __init__(self, listed: Iterable[str]) -> None:
        self.code: dict[str, str] = {}
        self.texts = sorted(set(listed))
        self.coded = [self._code(t) for t in self.texts]
        self.by_length: dict[int, list[str]] = defaultdict(list)
        for coded in self.coded:
            self.by_length[len(coded)].append(coded)

    def _code(self, text: str) -> str:
        """One character a word, so that edits of characters are edits of words."""
        return "".join(self.code.setdefault(w, chr(0x4E00 + len(self.code) % 0xF0000)) for w in text.split())

    def of(self, texts: list[str]) -> np.ndarray:
        """Which of `texts` are near to a listed sentence, as booleans."""
        coded = [self._code(t) for t in texts]
        near = np.zeros(len(texts), bool)
        groups: dict[int, list[int]] = defaultdict(list)
        for i, c in enumerate(coded):
            groups[len(c)].append(i)
        for n, members in groups.items():
            for m, listed in self.by_length.items():
                limit = least(min(n, m))
                if abs(n - m) < limit:
                    ours = [coded[i] for i in members]
                    found = process.cdist(ours, listed, scorer=Levenshtein.distance, score_cutoff=limit - 1)
                    near[members] |= (found < limit).any(1)
        return near


def far_from_each_other(texts: list[str]) -> list[str]:
    """The first of `texts`, and each that is near to none taken before."""
    taken: list[str] = []
    codes: dict[str, str] = {}
    coded: list[str] = []
    for text in texts:
        c = "".join(codes.setdefault(w, chr(0x4E00 + len(codes))) for w in text.split())
        cuts = [least(min(len(c), len(o))) for o in coded]
        if all(Levenshtein.distance(c, o, score_cutoff=k - 1) >= k for o, k in zip(coded, cuts, strict=True)):
            taken.append(text)
            coded.append(c)
    return taken


class Recombined:
    """Word trigrams of given sentences, from which new ones are drawn: neighbours as in real text, the whole new."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.next: dict[tuple[str, str], list[str]] = defaultdict(list)
        for text in texts:
            words = ["", "", *text.split(), ""]
            for a, b, c in zip(words, words[1:], words[2:], strict=False):
                self.next[a, b].append(c)

    def draw(self, rng: random.Random, most: int = 16) -> str:
        a, b, out = "", "", []
        while len(out) < most:
            a, b = b, rng.choice(self.next[a, b])
            if not b:
                break
            out.append(b)
        return " ".join(out)


LINKS = (
    "and", "but", "because", "so", "and then", "while", "if", "since", "although", "before", "after", "when", "until",
    "even though", "unless", "so that", "where", "as",
)  # fmt: skip
NAMES = (
    "Anna", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry", "Isabel", "Jack", "Karen", "Leo", "Martha",
    "Nick", "Olivia", "Peter", "Rachel", "Sam", "Teresa", "Victor", "Wendy", "Alan", "Brenda", "Chris", "Diana",
    "Eric", "Fiona", "George", "Helen", "Ian", "Julia", "Kevin", "Laura", "Martin", "Nina", "Oscar", "Paul", "Rosa",
    "Simon", "Tina", "Amir", "Bianca", "Carlos", "Dora", "Elias", "Farah", "Gina", "Hugo", "Irene", "Jonas", "Kim",
    "Linda", "Miguel", "Nadia", "Omar", "Priya", "Quentin", "Ravi", "Sofia", "Tariq", "Uma", "Vera", "William",
    "Yuki", "Zoe", "Andrew", "Barbara", "Charles", "Deborah", "Edward", "Florence", "Gary", "Hannah", "James",
    "Kathleen", "Louis", "Margaret", "Nathan", "Patricia", "Robert", "Sarah", "Thomas", "Vincent", "Walter", "Alice",
    "Brian", "Catherine", "Daniel", "Ellen", "Philip", "Ruth", "Steven",
)  # fmt: skip


def linked(rng: random.Random, one: str, other: str) -> str:
    """Two sentences made one by a word between them: longer than Tatoeba's, of its words, and new."""
    first = one.rstrip('.!?" ')
    rest = (
        other
        if other.split()[0] in ("I", "I'm", "I'll", "I've", "I'd") or other.split()[0][:-1] in NAMES
        else (other[:1].lower() + other[1:])
    )
    return f"{first} {rng.choice(LINKS)} {rest}"


def renamed(rng: random.Random, text: str) -> str:
    """Tatoeba's people are nearly all Tom and Mary: others in their place."""
    for name in ("Tom", "Mary"):
        if name in text:
            text = text.replace(name, rng.choice(NAMES))
    return text


def number(n: int) -> str:
    """An integer from 0 to 999,999 in words."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f" {ONES[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{ONES[n // 100]} hundred" + (f" {number(n % 100)}" if n % 100 else "")
    return f"{number(n // 1000)} thousand" + (f" {number(n % 1000)}" if n % 1000 else "")


def dictionary(known: Iterable[str]) -> list[str]:
    """Words to be spelled and said out of any sentence: a dictionary's, where there is one, else those of `known`."""
    if DICTIONARY.exists():
        words = DICTIONARY.read_text("utf-8").split()
        return sorted({w for w in words if w.isascii() and w.isalpha() and w.islower() and 3 <= len(w) <= 11})
    return sorted({w for text in known for w in text.split() if len(w) >= 3})


DO = ("turn on", "turn off", "open", "close", "find", "bring", "move", "clean", "fix", "show me", "look for", "pick up")
THING = (
    "kitchen light", "front door", "garden gate", "radio", "heating", "window", "alarm clock", "television", "blue box",
    "red bag", "washing machine", "garage door", "fan", "coffee machine", "back door", "lamp", "old camera", "map",
)  # fmt: skip
WHEN = ("now", "please", "at {n}", "in {n} minutes", "tomorrow", "before dinner", "after {n}", "tonight", "right away")


def spelled(rng: random.Random, words: list[str]) -> tuple[str, str]:
    """What is to be read, and what is written of it: numbers, digits, spelled words, random words, commands."""
    kind = rng.choices(("digits", "number", "spelled", "words", "mixed", "command"), (3, 2, 1.5, 5, 2, 2))[0]
    if kind == "digits":
        text = " ".join(rng.choices(ONES[:10], k=rng.randint(2, 9)))
    elif kind == "number":
        text = number(rng.choice((rng.randrange(100), rng.randrange(1000), rng.randrange(1_000_000))))
        if rng.random() < 0.5:
            text = f"{text} {rng.choice(words)}"
    elif kind == "spelled":
        letters = rng.choice([w for w in rng.choices(words, k=20) if len(w) <= 7] or ["word"])
        return ", ".join(letters.upper()) + ".", " ".join(letters)
    elif kind == "words":
        text = " ".join(rng.choices(words, k=rng.randint(1, 7)))
    elif kind == "mixed":
        text = f"the {rng.choice(words)} {rng.choice(words)} has {number(rng.randrange(2, 100))} {rng.choice(words)}"
    else:
        when = rng.choice(WHEN).format(n=number(rng.randrange(1, 60)))
        text = f"{rng.choice(DO)} the {rng.choice(THING)} {when}"
    return text[:1].upper() + text[1:] + ".", text
