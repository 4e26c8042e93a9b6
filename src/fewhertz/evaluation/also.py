"""Metrics beside a task's own, asked for by name (`--also` of eval): meaning by a model of choice, ease, a judge."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fewhertz.errors import Unavailable, need, one_line
from fewhertz.evaluation import heard as heard  # its metrics are known by name too
from fewhertz.evaluation.judge import Judge
from fewhertz.evaluation.metrics import METRICS, Metric, References, Wer, _version

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_MARKS = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|[^\w\s]")  # words, and punctuation marks one by one
_SENTENCE_END = re.compile(r"[.!?…]+(?=\s|[\"'»”)]|$)")
_VOWELS = {"en": re.compile(r"[aeiouy]+"), "de": re.compile(r"ai|au|äu|ei|eu|ie|ay|ey|oi|aa|ee|oo|[aeiouyäöü]")}
# what it starts from, and what a word a sentence and a syllable a word cost
_EASE = {"en": (206.835, 1.015, 84.6), "de": (180.0, 1.0, 58.5)}


class Formatted(Wer):
    """Word error rate in % with case and punctuation: each word as it is written and each mark is a unit.

    Typographic apostrophes are plain ones. Statistics: errors, units.
    """

    name = "wer-formatted"
    label = "error rate with case and punctuation"

    def prepare(self, text: str) -> str:
        return " ".join(_MARKS.findall(text.replace("’", "'")))


def syllables(word: str, language: str) -> int:
    """Syllables of a word by its vowels, 1 at least: runs of vowels in English but for a silent e, sounds in German."""
    low = word.lower()
    count = len(_VOWELS[language].findall(low))
    # "made", "aided" is not, "table" is not; "walked" but "wanted"
    if language == "en" and re.search(r"[^aeiouyl]e$|[^aeiouytd]ed$", low):
        count -= 1
    return max(1, count)


def _counts(text: str, language: str) -> list[int]:
    """Words, sentences and syllables."""
    words = _WORD.findall(text.replace("’", "'"))
    sentences = max(1, len(_SENTENCE_END.findall(text.strip()))) if words else 0
    return [len(words), sentences, sum(syllables(word, language) for word in words)]


@dataclass(frozen=True)
class Flesch(Metric):
    """How far outputs are from references in Flesch reading ease, over the whole set; 0: as easy to read.

    Ease is 206.835 − 1.015·words/sentences − 84.6·syllables/words in English (Flesch, A new readability yardstick,
    1948) and 180 − words/sentences − 58.5·syllables/words in German (Amstad, Wie verständlich sind unsere Zeitungen?,
    1978).
    Of several references, the first. Where nothing is said, its ease is 0. Statistics: words, sentences, syllables of
    outputs, then of references.

    Args:
        language: `"en"` or `"de"`.
    """

    language: str = "en"

    name = "flesch"
    label = "Flesch ease, distance"
    higher_is_better = False
    decimals = 1
    columns = 6

    def __post_init__(self) -> None:
        if self.language not in _EASE:
            raise ValueError(f"flesch is defined for {' and '.join(_EASE)}, got {self.language!r:.40}")

    def _measure(self, references: References, outputs: list[str], choices: References) -> Any:
        pairs = zip(outputs, references, strict=True)
        return [_counts(said, self.language) + _counts(texts[0], self.language) for said, texts in pairs]

    def from_sums(
        self, sums: Float[np.ndarray, "draws k"], n: Float[np.ndarray, " draws"]
    ) -> Float[np.ndarray, " draws"]:
        return np.abs(self.ease(sums[:, :3]) - self.ease(sums[:, 3:]))

    def ease(self, counts: Float[np.ndarray, "draws 3"]) -> Float[np.ndarray, " draws"]:
        """Reading ease of sets with so many words, sentences and syllables."""
        start, long, heavy = _EASE[self.language]
        words, sentences, sounds = (np.maximum(column, 1) for column in counts.T)
        return np.where(counts[:, 0] > 0, start - long * words / sentences - heavy * sounds / words, 0.0)

    def signature(self, references: References | None = None) -> str:
        return f"flesch|{self.language}|syllables:vowels"


@dataclass(frozen=True)
class Similarity(Metric):
    """Cosine of the sentence embeddings of reference and output by a sentence-transformers model, mean over samples.

    Of several references, the nearest; an empty output gets 0. `meaning` is this with one fixed English model.
    Statistics: the sample's cosine.

    Args:
        model: its name on the Hub, or a directory.
    """

    model: str = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"  # fifty languages, German among them

    name = "similarity"
    label = "meaning (cosine)"

    def _measure(self, references: References, outputs: list[str], choices: References) -> Any:
        asked = self._vectors(text for several in references for text in several)
        said = self._vectors(outputs)
        return [
            max(float(asked[text] @ said[output]) for text in several) if output.strip() else 0.0
            for several, output in zip(references, outputs, strict=True)
        ]

    def _vectors(self, texts: Iterable[str]) -> dict[str, Float[np.ndarray, " width"]]:
        unique = sorted(set(texts))
        found = _model(self.model).encode(unique, normalize_embeddings=True, show_progress_bar=False)
        return dict(zip(unique, found, strict=True))

    def signature(self, references: References | None = None) -> str:
        _model(self.model)
        name = Path(self.model).name if Path(self.model).is_dir() else self.model
        return f"similarity|cosine|{name}|sentence-transformers:{_version('sentence-transformers')}"


@functools.cache
def _model(name: str) -> Any:
    library = need("sentence_transformers", "meaning")
    try:
        return library.SentenceTransformer(str(Path(name).expanduser()) if Path(name).is_dir() else name, device="cpu")
    except Exception as error:  # of many unrelated classes, over many lines
        raise Unavailable(f"the sentence model {name} cannot be had: {one_line(error)}") from None


# of each the field that an argument is for, and what to call it
_ASKED = {
    "wer-formatted": None,
    "flesch": ("language", "LANGUAGE"),
    "similarity": ("model", "MODEL"),
    "judge": ("judge", "MODEL@ADDRESS"),
}
METRICS.update({metric.name: metric for metric in (Formatted(), Flesch(), Similarity(), Judge())})


def also(names: Sequence[str]) -> list[Metric]:
    """Metrics by name, each `NAME` or `NAME=ARGUMENT`: `wer-formatted`, `flesch=de`, `similarity=MODEL`,
    `judge=MODEL@ADDRESS`.

    Raises:
        ValueError: for an unknown name, one that comes twice, an argument that it does not take, or a model that cannot
            be had or a judge that doesn't answer (`Unavailable`).
        ImportError: where a package is missing; says how to install it.
    """
    found: dict[str, Metric] = {}
    for text in names:
        name, equals, argument = text.partition("=")
        if name not in _ASKED:
            raise ValueError(f"no metric {name!r:.60} to ask for; known: {', '.join(_ASKED)}")
        takes = _ASKED[name]
        if bool(equals) and (takes is None or not argument):
            raise ValueError(f"{text!r:.80}: {name} takes {'no argument' if takes is None else f'={takes[1]}'}")
        if name in found:
            raise ValueError(f"{name} is asked for twice")
        kind: Any = type(METRICS[name])
        found[name] = kind(**{takes[0]: argument}) if equals and takes else kind()
        found[name].signature()
    return [*found.values()]
