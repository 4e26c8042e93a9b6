"""Least squares with intervals that heed two groupings at once: what was said by whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

CHUNK = 100  # draws together: their weights are draws × samples


@dataclass(frozen=True)
class Fit:
    """Coefficients of k predictors, without the intercept, and the ends of their 95 % intervals; R²."""

    value: Float[np.ndarray, " k"]
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]
    explained: float


def explained(y: Float[np.ndarray, " n"], x: Float[np.ndarray, "n k"]) -> float:
    """R²: the share of the variance of `y` that an intercept and the columns of `x` explain by least squares."""
    design = np.column_stack([np.ones(len(y)), x])
    rest = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(1 - rest @ rest / np.square(y - y.mean()).sum())


def fit(
    y: Float[np.ndarray, " n"],
    x: Float[np.ndarray, "n k"],
    groups: Sequence[Sequence[object]],
    draws: int = 2000,
    seed: int = 0,
) -> Fit:
    """Least squares with an intercept; intervals are a bootstrap over groups.

    With several groupings each is drawn for itself, and a sample counts by the product of how often its groups were
    drawn: the pigeonhole bootstrap (Owen 2007, doi:10.1214/07-AOAS122), which is rather too wide than too narrow.

    Args:
        y: what is to be explained.
        x: predictors.
        groups: of each grouping, the group of each sample.
        draws: sets drawn.
        seed: of the draws.
    """
    design = np.column_stack([np.ones(len(y)), x])
    value = np.linalg.lstsq(design, y, rcond=None)[0]
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(y), -1)
    places = [np.unique(list(map(str, one)), return_inverse=True)[1] for one in groups]
    random, drawn = np.random.default_rng(seed), []
    for begin in range(0, draws, CHUNK):
        weight = np.ones((min(CHUNK, draws - begin), len(y)))
        for place in places:
            count = int(place.max()) + 1
            weight *= random.multinomial(count, np.full(count, 1 / count), len(weight))[:, place]
        left = (weight @ squares).reshape(len(weight), *value.shape, len(value))
        right = weight @ (design * y[:, None])
        drawn.append((np.linalg.pinv(left, hermitian=True) @ right[:, :, None])[:, :, 0])
    low, high = np.percentile(np.concatenate(drawn), (2.5, 97.5), axis=0)
    return Fit(value[1:], low[1:], high[1:], explained(y, x))
