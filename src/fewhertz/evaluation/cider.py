"""CIDEr-D (Vedantam et al., CVPR 2015, arXiv 1411.5726): how much a caption says of what people said of the same."""

from __future__ import annotations

import math
from collections import Counter

LONGEST = 4  # words of an n-gram
SIGMA = 6.0  # of the Gaussian by which captions of another length lose, in words

NGram = tuple[str, ...]


def cider_d(references: list[list[str]], outputs: list[str]) -> list[float]:
    """CIDEr-D of each output, 0 to 10.

    Of each n from 1 to 4, an output and a reference are vectors of tf-idf weights g of their n-grams; they agree by
    Σ min(g_out, g_ref)·g_ref / (‖g_out‖·‖g_ref‖) · exp(−(l_out − l_ref)² / 2σ²), and the score is ten times the mean
    over n and references. As the authors' own scorer has it, tf is a count, idf is log(samples / samples with the
    n-gram in a reference), of an n-gram that is in none log(samples), and l is the number of bigrams.

    Args:
        references: of each sample, words apart by spaces, one text or several.
        outputs: of each sample, likewise.
    """
    cooked = [[_count(text) for text in texts] for texts in references]
    seen = Counter(ngram for texts in cooked for ngram in set().union(*texts))
    weight = math.log(len(outputs)) if outputs else 0.0
    idf = {ngram: weight - math.log(times) for ngram, times in seen.items()}

    def vectors(counts: Counter[NGram]) -> tuple[list[dict[NGram, float]], list[float], int]:
        found: list[dict[NGram, float]] = [{} for _ in range(LONGEST)]
        for ngram, times in counts.items():
            found[len(ngram) - 1][ngram] = times * idf.get(ngram, weight)
        norms = [math.sqrt(sum(g * g for g in one.values())) for one in found]
        return found, norms, sum(times for ngram, times in counts.items() if len(ngram) == 2)

    scores = []
    for texts, output in zip(cooked, outputs, strict=True):
        said, said_norms, said_length = vectors(_count(output))
        total = 0.0
        for reference, norms, length in map(vectors, texts):
            near = math.exp(-((said_length - length) ** 2) / (2 * SIGMA**2))
            for mine, right, norm, other in zip(said, reference, said_norms, norms, strict=True):
                alike = sum(min(g, right[ngram]) * right[ngram] for ngram, g in mine.items() if ngram in right)
                total += near * alike / (norm * other) if norm and other else 0.0
        scores.append(10 * total / (LONGEST * len(texts)))
    return scores


def _count(text: str) -> Counter[NGram]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(words) - n + 1))
