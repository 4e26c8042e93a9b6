"""What dev decided: the default, how much of log s, and what else was tried."""

from __future__ import annotations

from fewhertz.method import RECOMMENDED

from ..grids import BOTH
from ..grids.training_free import (
    CANDIDATES,
    DEV_KEEPS,
    IDEAS,
    NARROW,
    OURS_BEST,
    TRIED_ON,
    TUNED,
    TUNED_ON,
    default,
    spec,
)
from ..measured import Measured
from ..tables import Gain, counts
from ..tasks import ON_DEV, TASKS


def over(tried: Measured, other: str) -> list[Gain]:
    """Gains of the default's method over another, both with corrections."""
    return [
        tried.gain(ON_DEV[task], spec(OURS_BEST, BOTH, keep), spec(other, BOTH, keep))
        for task in TASKS
        for keep in DEV_KEEPS
    ]


def tuned(tried: Measured) -> list[Gain]:
    """Gains of other multiples of log s, and of other places of a token, over the default."""
    return [
        tried.gain(ON_DEV[task], spec(one, BOTH, keep), default(keep))
        for one in TUNED
        for task in TUNED_ON
        for keep in NARROW
    ]


def paying(tried: Measured) -> list[str]:
    """The ideas that are clearly better than what they vary on more than one task."""
    found = []
    for one in IDEAS:
        base = "optimal" if one.startswith(("optimal-", "optimal(")) else "ward"
        clear = {
            task
            for task in TRIED_ON
            for keep in NARROW
            if tried.gain(ON_DEV[task], spec(one, BOTH, keep), spec(base, BOTH, keep)).sign > 0
        }
        if len(clear) > 1:
            found.append(one)
    return found


def section(tried: Measured) -> str:
    """Of the results on dev."""
    found = ", ".join(f"`{one}` {counts(over(tried, one))}" for one in CANDIDATES if one != OURS_BEST)
    kept = ", ".join(f"`{one}`" for one in paying(tried)) or "none"
    return (
        f"On dev alone, though some test scores had been known. `{RECOMMENDED}`, all with corrections, five tasks "
        f"at {', '.join(DEV_KEEPS)}: over {found}. `optimal` costs more. Other multiples of log s and positions "
        f"(`recipes/research/ideas.py`): {counts(tuned(tried))}. Of {len(IDEAS)} ideas, clearly better on more than "
        f"one task: {kept}."
    )
