"""What dev decided: the default, how much of log s, and what else was tried."""

from __future__ import annotations

import re

from fewhertz.method import RECOMMENDED

from ..grids import AS_PUBLISHED, BOTH
from ..grids.training_free import (
    BY_CONTENT,
    CANDIDATES,
    DEV_KEEPS,
    IDEAS,
    NARROW,
    OURS_BEST,
    TRIED_ON,
    TUNED,
    TUNED_ON,
    at_rate,
    default,
    spec,
)
from ..measured import Measured
from ..tables import Gain, counts, table
from ..tasks import DEV, ON_DEV, TASKS, Asked


def _gain(measured: Measured, task: Asked, one: str, other: str) -> Gain | str:
    return measured.gained(ON_DEV[task], one, other) or "–"


def chosen(measured: Measured) -> str:
    """The choice of the default."""
    tried = measured.of(DEV)
    rows, compared = [], []
    for corrections in (AS_PUBLISHED, BOTH):
        for method in CANDIDATES:
            runs = [[tried.number(ON_DEV[task], spec(method, corrections, k)) for k in DEV_KEEPS] for task in TASKS]
            rows.append([f"`{method}{corrections}`", *(" / ".join(some) for some in runs)])
    counted: dict[str, list[Gain]] = {other: [] for other in CANDIDATES if other != OURS_BEST}
    for task in TASKS:
        for other, all_of_it in counted.items():
            gains = [_gain(tried, task, spec(OURS_BEST, BOTH, keep), spec(other, BOTH, keep)) for keep in DEV_KEEPS]
            compared.append([f"over `{other}`, {task.name} ({task.unit})", *gains])
            all_of_it += [one for one in gains if isinstance(one, Gain)]
    found = "; ".join(f"over `{other}` {counts(gains)}" for other, gains in counted.items())
    heads = [", ".join(DEV_KEEPS), *(f"{task.name} ({task.unit}, n={ON_DEV[task].rows})" for task in TASKS)]
    return (
        "On dev lists alone, though test scores of `ward`, `pool`, `segment` and `ltbm` had been known before from "
        f"[claims.md](claims.md). `{RECOMMENDED}`, better / tied / worse, all with corrections: {found}. A tie with "
        "`optimal` goes to the cheaper, which `ward` is: O(n·d) a round, and O(longest·n²).\n\n"
        + table(heads, rows)
        + f"\n\nGain of `{RECOMMENDED}`, all with corrections.\n\n"
        + table(["gain", *DEV_KEEPS], compared)
    )


def tuned(measured: Measured) -> str:
    """α and the place of a token."""
    tried = measured.of(DEV)
    rows, gains = [], []
    for one in TUNED:
        row = [_gain(tried, task, spec(one, BOTH, keep), default(keep)) for task in TUNED_ON for keep in NARROW]
        gains += [gain for gain in row if isinstance(gain, Gain)]
        what = re.sub(r"ward-told\((\w+)=([\w.]+)\)", r"\1 = \2", one)
        rows.append([what.replace("alpha", "α").replace("place", "position"), *row])
    if not gains:
        return "Not run yet."
    heads = ["gain over α = 1, position = mean", *(f"{task.name} {keep}" for task in TUNED_ON for keep in NARROW)]
    return (
        f"`{RECOMMENDED}` on dev, with α·log s in place of log s, or each token at the first or the last of what it "
        f"stands for in place of the mean. Better / tied / worse than the plain one: {counts(gains)}. An experiment "
        "of the recipe (`recipes/research/ideas.py`); the library has no such option.\n\n" + table(heads, rows)
    )


def tried(measured: Measured) -> str:
    """What else the idea suggested."""
    found = measured.of(DEV)
    rows, paying, places = [], [], [(task, keep) for task in TRIED_ON for keep in NARROW]
    for one, what in IDEAS.items():
        base = "optimal" if one.startswith(("optimal-", "optimal(")) else "ward"
        pairs = [(task, _gain(found, task, spec(one, BOTH, keep), spec(base, BOTH, keep))) for task, keep in places]
        clear = {task for task, gain in pairs if isinstance(gain, Gain) and gain.sign > 0}
        paying += [one] if len(clear) > 1 else []
        rows.append([f"`{one}`: {what}", f"`{base}`", *(gain for _, gain in pairs)])
    by_content = []
    for one in BY_CONTENT:
        row: list[object] = [f"`{one}`"]
        for task in TRIED_ON:
            run = f"{one}{BOTH}"
            if found.there(ON_DEV[task], run):
                hertz = found.hertz(ON_DEV[task], run)
                row += [f"{hertz:.1f}", _gain(found, task, run, at_rate(hertz))]
            else:
                row += ["–", "–"]
        by_content.append(row)
    kept = (
        f"Clearly better on more than one task: {', '.join(f'`{one}`' for one in paying)}."
        if paying
        else "None is clearly better on more than one task, so none was kept."
    )
    return (
        "Variants of `ward`, and of `optimal` where they need an exact search, all with corrections, against the plain "
        f"method at the same keep, on dev. {kept}\n\n"
        + table(["gain", "over", *(f"{task.name} {keep}" for task, keep in places)], rows)
        + f"\n\nA budget that clips share by what is in them: as few segments as lose no more than so much of the "
        f"squared length of the tokens, against `{RECOMMENDED}` at the mean rate that this took. pocket's tasks have "
        "one clip a prompt, so the clips of a whole list share here.\n\n"
        + table(["", *(head for task in TRIED_ON for head in (f"{task.name}, Hz", "gain"))], by_content)
    )
