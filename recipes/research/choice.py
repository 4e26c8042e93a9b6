"""What dev decided: the default, its tolerance, how much of log s, and what else was tried."""

from __future__ import annotations

from fewhertz.evaluation.results import BASELINE

from .grids import BOTH
from .grids.choice import CANDIDATES, IDEAS, KEEPS, NARROW, ON_DEV, TRIED_ON, TUNED, TUNED_ON
from .grids.training_free import CHOSEN, FAR, FIVE, OURS, OURS_BEST, TOLERANCES, priced
from .measured import Measured
from .tables import Gain, counts

MOST = 1.0  # points of WER that sentences may lose by the default tolerance


def spec(method: str, keep: str) -> str:
    """The spec of a run with corrections; not parsed, since ideas are not registered where pages are made."""
    return f"{method}@keep={keep}{BOTH}"


def over(tried: Measured, other: str) -> list[Gain]:
    """Gains of the default's method over another, both with corrections."""
    runs = [(spec(OURS_BEST, keep), spec(other, keep)) for keep in KEEPS]
    return [tried.gain(ON_DEV[task], one, two) for task in FIVE for one, two in runs]


def tuned(tried: Measured) -> list[Gain]:
    """Gains of other multiples of log s, and of other places of a token, over the default."""
    runs = [(spec(one, keep), spec(OURS_BEST, keep)) for one in TUNED for keep in NARROW]
    return [tried.gain(ON_DEV[task], one, two) for task in TUNED_ON for one, two in runs]


def paying(tried: Measured) -> list[str]:
    """The ideas that are clearly better than what they vary on more than one list."""
    found = []
    for one in IDEAS:
        base = "optimal" if one.startswith(("optimal-", "optimal(")) else OURS_BEST
        runs = [(spec(one, keep), spec(base, keep)) for keep in NARROW]
        clear = {task for task in TRIED_ON for pair in runs if tried.gain(ON_DEV[task], *pair).sign > 0}
        if len(clear) > 1:
            found.append(one)
    return found


def section(tried: Measured) -> str:
    """Of the results on dev."""
    found = ", ".join(f"`{one}` {counts(over(tried, one))}" for one in CANDIDATES if one != OURS_BEST)
    kept = ", ".join(f"`{one}`" for one in paying(tried)) or "none"
    gains = {one: tried.gain(ON_DEV[FAR], priced(one), BASELINE) for one in TOLERANCES}
    losses = [f"{one}: {gain.plain}" for one, gain in gains.items()]
    again = [one for one, gain in gains.items() if gain.value > -MOST]
    return (
        f"On dev with the third version of pocket, λ = {CHOSEN} as the largest that cost sentences under a point of "
        f"WER. On dev with this one, `{OURS}` over others with corrections, {len(FIVE)} lists at {', '.join(KEEPS)}: "
        f"{found}. λ, {FAR.name}: {'; '.join(losses)}: by that rule {again[-1] if again else 'none of these'} would be "
        f"chosen here. Other multiples of log s and positions (`recipes/research/ideas.py`): {counts(tuned(tried))}. "
        f"Of {len(IDEAS)} ideas, clearly better on more than one of {len(TRIED_ON)} lists: {kept}."
    )
