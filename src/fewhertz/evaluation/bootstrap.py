"""Bootstrap intervals of scores and of their paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from fewhertz.evaluation.metrics import Metric, Stats


def interval(
    metric: Metric, stats: Stats, groups: Sequence[object] | None = None, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of a score: the percentiles of whole groups drawn with replacement.

    Source: Bisani and Ney, Bootstrap estimates for confidence intervals in ASR performance evaluation, ICASSP 2004.

    Args:
        metric: whose score.
        stats: of each sample (`Metric.measure`).
        groups: what each sample belongs to, such as its speaker, whose errors go together; `None`: it stands alone.
        draws: sets drawn.
        seed: of the draws: the same seed draws the same sets.

    Returns:
        Its ends; NaN for fewer than two groups, which say nothing of the spread.
    """
    (scores,) = _draw(metric, [stats], groups, draws, seed)
    return _ends(scores)


def paired(
    metric: Metric, a: Stats, b: Stats, groups: Sequence[object] | None = None, draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Difference of two scores of the same samples, a − b, and its 95 % bootstrap interval.

    Each draw takes the same groups for both, so what makes a sample hard for both does not widen the interval.

    Args:
        metric: whose scores.
        a: statistics of each sample under one system.
        b: the same samples in the same order under the other.
        groups: as for `interval`.
        draws: sets drawn.
        seed: of the draws.

    Returns:
        The difference and its interval's ends (NaN for fewer than two groups).

    Raises:
        ValueError: where the two differ in shape.
    """
    if a.shape != b.shape:
        raise ValueError(f"a paired difference is of the same samples, got {len(a)} and {len(b)}")
    one, two = _draw(metric, [a, b], groups, draws, seed)
    return (metric.score(a) - metric.score(b), *_ends(one - two))


_CELLS = 1 << 22  # numbers drawn at once


def _draw(
    metric: Metric, systems: list[Stats], groups: Sequence[object] | None, draws: int, seed: int
) -> list[Float[np.ndarray, " draws"]]:
    """Scores of each system over the same redrawn groups, draw by draw; none for fewer than two groups."""
    n = len(systems[0])
    names = list(range(n)) if groups is None else list(groups)
    if len(names) != n:
        raise ValueError(f"{n} samples and {len(names)} groups")
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    if len(place) < 2:
        return [np.zeros(0) for _ in systems]
    member = np.array([place[name] for name in names])
    width = systems[0].shape[1]
    # of each group: the sums of all systems side by side, and its number of samples
    table = np.zeros((len(place), len(systems) * width + 1))
    np.add.at(table, member, np.concatenate([*systems, np.ones((n, 1))], axis=1))
    rng = np.random.default_rng(seed)
    scores = []
    step = max(1, _CELLS // len(place))
    for start in range(0, draws, step):
        some = min(step, draws - start)
        drawn = rng.integers(len(place), size=(some, len(place)))
        flat = (drawn + np.arange(some)[:, None] * len(place)).ravel()
        times = np.bincount(flat, minlength=some * len(place)).reshape(some, len(place))
        sums = times @ table
        parts = [sums[:, i * width : (i + 1) * width] for i in range(len(systems))]
        scores.append([metric.from_sums(part, sums[:, -1]) for part in parts])
    return [np.concatenate(column) for column in zip(*scores, strict=True)]


def _ends(scores: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    if not len(scores):
        return float("nan"), float("nan")
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)
