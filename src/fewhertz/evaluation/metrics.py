"""Metrics: what an output is worth against its references."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from fewhertz.errors import need
from fewhertz.evaluation.cider import LONGEST, SIGMA, cider_d
from fewhertz.evaluation.sentence_encoder import encoder_name, vectors

References = list[list[str]]  # of each sample, one text or several
Stats = Float[np.ndarray, "n k"]

WITHOUT_SPACES = frozenset({"zh", "yue", "ja", "th", "lo", "km", "my", "bo", "dz"})  # CER rather than WER


def _version(package: str) -> str:
    need(package.replace("-", "_"))  # says how to install it
    return version(package)


def _plain(text: str) -> str:
    return text


@functools.cache
def normaliser(name: str) -> Callable[[str], str]:
    """How texts are made comparable before words are counted.

    Args:
        name: `"plain"`: as they are; `"whisper-english"`, `"whisper-basic"`: Whisper's (Radford et al., arXiv
            2212.04356, appendix C); `"whisper-basic-joined"`: its basic one without any space, for languages that
            write none.

    Raises:
        ValueError: for another name.
        ImportError: where whisper-normalizer is not installed.
    """
    if name == "plain":
        return _plain
    if name == "whisper-english":
        return need("whisper_normalizer.english").EnglishTextNormalizer()
    if name in ("whisper-basic", "whisper-basic-joined"):
        basic = need("whisper_normalizer.basic").BasicTextNormalizer()
        return basic if name == "whisper-basic" else lambda text: "".join(basic(text).split())
    raise ValueError(f"no normaliser {name!r}: plain, whisper-english, whisper-basic or whisper-basic-joined")


@dataclass(frozen=True)
class Metric:
    """Base of all metrics.

    A metric measures each sample once (`measure`: sufficient statistics, one row a sample) and scores any set of
    samples from their rows (`score`), so that bootstrap intervals redraw rows and never measure again.

    Args:
        normaliser: name of what makes texts comparable (`normaliser`).
    """

    normaliser: str = "plain"

    name: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    unit: ClassVar[str] = ""  # of the score, for plots and tables
    label: ClassVar[str] = ""  # likewise, in place of the name
    decimals: ClassVar[int] = 3  # likewise: 1 of what goes up to 100

    def prepare(self, text: str) -> str:
        """A text as it is compared."""
        return normaliser(self.normaliser)(text)

    def check(self, references: Sequence[str]) -> None:
        """Refuse a sample that cannot be measured.

        Raises:
            ValueError: where it has no reference, or one that is empty once it is normalised.
        """
        if not references:
            raise ValueError("it has no reference")
        for text in references:
            if not self.prepare(text).strip():
                how = "" if self.normaliser == "plain" else f" after {self.normaliser} normalisation"
                raise ValueError(f"its reference {text!r} is empty{how}" if text.strip() else "its reference is empty")

    def measure(self, references: References, outputs: list[str], choices: References | None = None) -> Stats:
        """Sufficient statistics of each sample.

        Args:
            references: of each sample, one text or several.
            outputs: what the model said.
            choices: of each sample, the options of its question, or none; read by accuracy alone.

        Raises:
            ValueError: for an empty reference, naming its row, and for lists of different length.
            ImportError: where a package of the `eval` extra is missing.
        """
        options = [[] for _ in outputs] if choices is None else choices
        if not len(references) == len(outputs) == len(options):
            raise ValueError(f"{len(references)} references, {len(outputs)} outputs and {len(options)} choices")
        for row, texts in enumerate(references):
            try:
                self.check(texts)
            except ValueError as error:
                raise ValueError(f"row {row}: {error}") from None
        if not outputs:
            return np.zeros((0, self.columns))
        return np.asarray(self._measure(references, outputs, options), float).reshape(len(outputs), self.columns)

    columns: ClassVar[int] = 1

    def _measure(self, references: References, outputs: list[str], choices: References) -> Any:
        raise NotImplementedError

    def score(self, stats: Stats) -> float:
        """Score of a set of samples.

        Raises:
            ValueError: for no samples.
        """
        if not len(stats):
            raise ValueError(f"there is nothing to score: {self.name} of no samples")
        return float(self.from_sums(stats.sum(0)[None], np.array([len(stats)]))[0])

    def from_sums(
        self, sums: Float[np.ndarray, "draws k"], n: Float[np.ndarray, " draws"]
    ) -> Float[np.ndarray, " draws"]:
        """Scores of sets of `n` samples each from the sums of their statistics; here their mean."""
        return sums[:, 0] / n

    def signature(self, references: References | None = None) -> str:
        """What has to be equal for two scores to be comparable: metric, normaliser, versions.

        Args:
            references: what was measured; sacrebleu's signature says how many a sample had.

        Raises:
            ImportError: where a package of the `eval` extra is missing.
            Unavailable: where what it measures by cannot be had.
        """
        return f"{self.name}|normaliser:{self._normalised()}{self._made_by()}"

    def kept_in(self, folder: Path, say: Callable[[str], None]) -> Metric:
        """Itself, told where it may keep what is dear to measure, for a run that is broken off.

        Args:
            folder: of results.
            say: gets a line of text about how far it is, now and then.
        """
        return self

    def _normalised(self) -> str:
        own = self.normaliser.startswith("whisper")
        return f"{self.normaliser} (whisper-normalizer {_version('whisper-normalizer')})" if own else self.normaliser

    def _made_by(self) -> str:
        return ""


class _Errors(Metric):
    """Edits over reference units of the whole set; of several references, the one with the fewest edits a unit."""

    higher_is_better = False
    columns = 2
    unit = "%"
    decimals = 1

    def _measure(self, references: References, outputs: list[str], choices: References) -> Any:
        jiwer = need("jiwer")
        rows = []
        for texts, output in zip(references, outputs, strict=True):
            said = self.prepare(output)
            rows.append(min((self._count(jiwer, self.prepare(t), said) for t in texts), key=lambda c: c[0] / c[1]))
        return rows

    def _count(self, jiwer: Any, reference: str, said: str) -> tuple[int, int]:
        raise NotImplementedError

    def from_sums(
        self, sums: Float[np.ndarray, "draws k"], n: Float[np.ndarray, " draws"]
    ) -> Float[np.ndarray, " draws"]:
        return 100 * sums[:, 0] / sums[:, 1]

    def _made_by(self) -> str:
        return f"|jiwer:{_version('jiwer')}"


class Wer(_Errors):
    """Word error rate in %: word errors of the whole set over its reference words. Statistics: errors, words."""

    name = "wer"
    label = "word error rate"

    def _count(self, jiwer: Any, reference: str, said: str) -> tuple[int, int]:
        out = jiwer.process_words(reference, said)
        return out.substitutions + out.deletions + out.insertions, out.hits + out.substitutions + out.deletions


class Cer(_Errors):
    """Character error rate in %, spaces counted where the normaliser leaves them. Statistics: errors, characters."""

    name = "cer"
    label = "character error rate"

    def _count(self, jiwer: Any, reference: str, said: str) -> tuple[int, int]:
        out = jiwer.process_characters(reference, said)
        return out.substitutions + out.deletions + out.insertions, out.hits + out.substitutions + out.deletions


class _Sacrebleu(Metric):
    """A metric of sacrebleu (Post, WMT 2018, arXiv 1804.08771): its own statistics, score and signature."""

    def _scorer(self) -> Any:
        raise NotImplementedError

    def _measure(self, references: References, outputs: list[str], choices: References) -> Any:
        # what sacrebleu's own paired bootstrap works on; its public calls give no statistics of single samples
        return self._scorer()._extract_corpus_statistics(outputs, _streams(references))

    def from_sums(
        self, sums: Float[np.ndarray, "draws k"], n: Float[np.ndarray, " draws"]
    ) -> Float[np.ndarray, " draws"]:
        scorer = self._scorer()
        return np.array([scorer._compute_score_from_stats(row).score for row in sums.round().astype(int).tolist()])

    def signature(self, references: References | None = None) -> str:
        scorer = self._scorer()
        counts = {len(texts) for texts in references or [[""]]}
        scorer.num_refs = counts.pop() if len(counts) == 1 else -1
        return f"{self.name}|{scorer.get_signature().format()}"


def _streams(references: References) -> list[list[str | None]]:
    """Sacrebleu's order: first references of all samples, second references, …; `None` where a sample has fewer."""
    most = max(map(len, references))
    return [[texts[i] if i < len(texts) else None for texts in references] for i in range(most)]


@dataclass(frozen=True)
class Bleu(_Sacrebleu):
    """BLEU, 0 to 100 (Papineni et al., ACL 2002). Statistics: lengths, matches and totals of 1- to 4-grams.

    Args:
        tokenize: sacrebleu's tokenizer: `"13a"`, `"zh"`, `"char"`, …
    """

    tokenize: str = "13a"

    name = "bleu"
    label = "BLEU"
    decimals = 1
    columns = 10

    def _scorer(self) -> Any:
        return need("sacrebleu").BLEU(tokenize=self.tokenize)


class Chrf(_Sacrebleu):
    """chrF2, 0 to 100 (Popović, WMT 2015). Statistics: counts of character 1- to 6-grams of output, reference, both."""

    name = "chrf"
    label = "chrF2"
    decimals = 1
    columns = 18

    def _scorer(self) -> Any:
        return need("sacrebleu").CHRF()


# Stanford's tokenizer, which COCO captions are measured with, needs Java. What captions hold of it: words in lower
# case, clitics apart, hyphens kept, punctuation dropped.
_CAPTION = re.compile(r"n't\b|'(?:s|m|d|re|ve|ll)\b|\d+(?:[.,]\d+)+|[^\W_]+?(?=n't\b)|[^\W_]+(?:-[^\W_]+)*")


class Cider(Metric):
    """CIDEr-D (Vedantam et al., CVPR 2015, arXiv 1411.5726): 0 to 10, the mean over samples (`cider`).

    Inverse document frequencies come from the references of all samples that are measured together, so rows of
    different sets cannot be mixed, and a set of one sample scores 0. Statistics: the sample's score.
    """

    name = "cider"
    label = "CIDEr-D"

    def prepare(self, text: str) -> str:
        return " ".join(_CAPTION.findall(text.lower().replace("’", "'")))

    def _measure(self, references: References, outputs: list[str], choices: References) -> Any:
        return cider_d([list(map(self.prepare, texts)) for texts in references], list(map(self.prepare, outputs)))

    def signature(self, references: References | None = None) -> str:
        return f"cider-d|n:{LONGEST}|sigma:{SIGMA:.0f}|tok:words"


def _tokens(text: str) -> set[str]:
    return set(re.findall(r"\b\w+\b", text.lower()))


def matches(answer: str, output: str, choices: Sequence[str]) -> bool:
    """MMAU's own test: every word of the answer is said, and no word that is in other choices alone.

    Source: MMAU (Sakshi et al., arXiv 2410.19168), evaluation.py, `string_match`.

    Args:
        answer: the right choice.
        output: what the model said.
        choices: all options; none for a question without.
    """
    said, right = _tokens(output), _tokens(answer)
    wrong = set().union(*(_tokens(choice) for choice in choices)) - right
    return bool(said) and right <= said and not said & wrong


class Accuracy(Metric):
    """Fraction of right answers in %, by MMAU's string match (`matches`); one reference that matches is enough."""

    name = "accuracy"
    unit = "%"
    decimals = 1

    def _measure(self, references: References, outputs: list[str], choices: References) -> Any:
        rows = zip(references, outputs, choices, strict=True)
        return [any(matches(answer, output, options) for answer in texts) for texts, output, options in rows]

    def from_sums(
        self, sums: Float[np.ndarray, "draws k"], n: Float[np.ndarray, " draws"]
    ) -> Float[np.ndarray, " draws"]:
        return 100 * sums[:, 0] / n

    def signature(self, references: References | None = None) -> str:
        return "accuracy|match:mmau"


class Nearest(Accuracy):
    """Fraction of right answers in %, where the option nearest to the output by sentence embedding is its answer.

    An empty output is wrong. A question without choices cannot be measured so.
    """

    name = "accuracy-nearest"

    def _measure(self, references: References, outputs: list[str], choices: References) -> Any:
        for row, options in enumerate(choices):
            if not options:
                raise ValueError(f"row {row}: nearest option of a question without choices")
        listed = vectors(option for options in choices for option in options)
        said = vectors(outputs)

        def right(answers: list[str], output: str, options: list[str]) -> bool:
            near = np.stack([listed[option] for option in options]) @ said[output]
            return bool(output.strip()) and options[int(near.argmax())] in answers

        return [right(*row) for row in zip(references, outputs, choices, strict=True)]

    def signature(self, references: References | None = None) -> str:
        return f"accuracy|match:nearest|{encoder_name()}"


class Meaning(Metric):
    """Cosine of the sentence embeddings of reference and output, mean over samples, −1 to 1; an empty output gets 0.

    Of several references, the nearest. Statistics: the sample's cosine.
    """

    name = "meaning"
    label = "meaning (cosine)"

    def _measure(self, references: References, outputs: list[str], choices: References) -> Any:
        asked = vectors(text for several in references for text in several)
        said = vectors(outputs)
        return [
            max(float(asked[text] @ said[output]) for text in several) if output.strip() else 0.0
            for several, output in zip(references, outputs, strict=True)
        ]

    def signature(self, references: References | None = None) -> str:
        return f"meaning|cosine|{encoder_name()}"


METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (Wer(), Cer(), Bleu(), Chrf(), Cider(), Accuracy(), Nearest(), Meaning())
}
