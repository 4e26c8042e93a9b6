"""How far compression goes without training, once the LLM is told when and how much: cells, and docs/training-free.md.

    python -m recipes.training_free run      # cells that are missing, into results/: hours on 2 cores
    python -m recipes.training_free write    # the page and its picture, from the result files alone

`make training-free` makes the lists and does the first, `make reproduce` the second. Parts of the run: `--part`.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewhertz.evaluation import curves
from fewhertz.evaluation.metrics import METRICS, paired
from fewhertz.evaluation.results import BASELINE
from fewhertz.evaluation.runner import specs
from fewhertz.method import RECOMMENDED, parse

from . import claims, letters, other_models, price
from .claims import (
    ANSWERS,
    DOCS,
    GERMAN,
    REPO,
    RESULTS,
    SENTENCES,
    SOUNDS,
    SPEECH,
    STRINGS,
    TASKS,
    Asked,
    Claim,
    Gain,
    Measured,
)

MANIFESTS = REPO / "out"
OURS = ("optimal", "ward")
OURS_BEST = RECOMMENDED.partition("+")[0]
PUBLISHED = (
    *("pool", "stride", "segment", "ltbm", "global-merge", "segmentwise", "visionzip", "random"),
    *("a-tome", "fastadasp", "sa-map", "vispruner", "cdpruner", "divprune", "dart", "evs"),
)
METHODS = (*PUBLISHED, *OURS)
# the others drop tokens: what stays stands for itself, so that `+sizes` changes nothing (`same`)
MERGING = ("pool", "segment", "ltbm", "global-merge", "visionzip", "a-tome", "fastadasp", "sa-map", *OURS)
AS_PUBLISHED, TIME, SIZES, TOLD = PRESENTATIONS = ("", "+time", "+sizes", "+time+sizes")
KEEPS = ("1/2", "1/3", "1/4", "1/6", "1/10")
AFFINITY = tuple(parse(f"affinity(threshold={t})").spec for t in (0.95, 0.9, 0.8, 0.7))  # one of them is its default

# what the default is chosen from and tuned on
DEV = {
    task: dataclasses.replace(task, label=task.label.replace("-test", "-dev"), rows=rows)
    for task, rows in zip(TASKS, (60, 200, 200, 60, 195), strict=True)
}
CANDIDATES, DEV_KEEPS = ("ward", "optimal", "pool", "segment", "ltbm"), ("1/2", "1/3", "1/4")
NARROW = ("1/3", "1/4")
ALPHAS, PLACES = (0.5, 0.75, 1.25, 1.5), ("first", "last")
TUNED = tuple(f"ward-told({value})" for value in (*(f"alpha={a}" for a in ALPHAS), *(f"place={p}" for p in PLACES)))
TUNED_ON = SPEECH
IDEAS = {
    "ward-by-attention": "means inside a segment weighted by the attention received",
    "ward(site=encoder)": "the objective on the encoder's output instead of the LLM's input",
    "optimal": "the exact objective, to compare the next rows with",
    "optimal-cut(weighted=True)": "tokens weigh in the objective what attention they received",
    "optimal-cut(shortest=0.5)": "no segment shorter than half the mean one",
    "optimal-cut(shortest=0.75)": "nor than three quarters of it",
    "optimal(longest=2.0)": "no segment longer than two mean ones",
    "optimal(longest=1.5)": "nor than one and a half",
    "optimal(longest=1.25)": "nor than one and a quarter",
    "ward-silence": "a tenth more segments, of which those like the longest one share its token",
}
BY_CONTENT = tuple(f"ward-by-content(loss={loss})" for loss in (0.02, 0.05))
TRIED_ON = (STRINGS, SENTENCES, SOUNDS)


def named(method: str, presentation: str = AS_PUBLISHED) -> str:
    """A method under a presentation, without a budget."""
    return f"{method}{presentation}"


def at(method: str, presentation: str, keep: str) -> str:
    """The spec of a cell; written and not parsed, since the page names methods of `ideas` that it does not register."""
    return f"{method}@keep={keep}{presentation}"


def same(method: str, presentation: str) -> str:
    """The presentation whose runs are those of this one too: where log s is 0, `+sizes` does nothing."""
    if method in MERGING or presentation not in (TIME, SIZES):
        return presentation
    return TOLD if presentation == TIME else AS_PUBLISHED


def cell_of(method: str, presentation: str, keep: str) -> str:
    """The spec of the cell that is run for a method under a presentation."""
    return at(method, same(method, presentation), keep)


def default(keep: str) -> str:
    """The recommended default at a budget."""
    return claims.at(RECOMMENDED, keep)


def matched(measured: Measured, task: Asked, cell: str) -> str:
    """The recommended default at the rate that another cell had."""
    return f"{OURS_BEST}@{round(measured.hertz(task, cell), 2):g}Hz{RECOMMENDED.removeprefix(OURS_BEST)}"


def run(results: Path, manifests: Path, parts: Sequence[str], tasks: Sequence[str]) -> int:
    """Run the cells of some parts that are missing; returns how many rows or cells went wrong."""
    wrong = 0
    for part in parts:
        for task in TASKS:
            if task.label in tasks:
                wrong += PARTS[part](results, manifests, task)
    return wrong


def _grid(presentation: str) -> Callable[[Path, Path, Asked], int]:
    def cells(results: Path, manifests: Path, task: Asked) -> int:
        methods = [named(method, presentation) for method in METHODS if same(method, presentation) == presentation]
        return claims.measure(task, specs(methods, KEEPS), results, manifests / "test")

    return cells


def _affinity(results: Path, manifests: Path, task: Asked) -> int:
    cells = specs([named(one, told) for one in AFFINITY for told in (AS_PUBLISHED, TOLD)])
    wrong = claims.measure(task, cells, results, manifests / "test")
    return wrong + _matched(results, results, manifests / "test", task, [named(one, TOLD) for one in AFFINITY])


def _matched(root: Path, results: Path, manifests: Path, task: Asked, cells: Sequence[str]) -> int:
    """The default at the rates that cells whose count follows content were found to have."""
    measured = Measured(root)
    return claims.measure(task, [matched(measured, task, cell) for cell in cells], results, manifests)


def _dev(results: Path, manifests: Path, task: Asked) -> int:
    methods = [named(method, told) for method in CANDIDATES for told in (AS_PUBLISHED, TOLD)]
    return claims.measure(DEV[task], specs(methods, DEV_KEEPS), dev(results), manifests / "dev")


def _tuning(results: Path, manifests: Path, task: Asked) -> int:
    if task not in TUNED_ON:
        return 0
    from .ideas import retold

    with retold():
        cells = specs([named(one, TOLD) for one in TUNED], NARROW)
        return claims.measure(DEV[task], cells, dev(results), manifests / "dev")


def _ideas(results: Path, manifests: Path, task: Asked) -> int:
    if task not in TRIED_ON:
        return 0
    from . import ideas  # noqa: F401  (registers them)

    root, lists = dev(results), manifests / "dev"
    free = [named(one, TOLD) for one in BY_CONTENT]
    cells = specs([named(one, TOLD) for one in IDEAS], NARROW) + free
    wrong = claims.measure(DEV[task], cells, root, lists)
    return wrong + _matched(root, root, lists, DEV[task], free)


PARTS: dict[str, Callable[[Path, Path, Asked], int]] = {
    "published": _grid(AS_PUBLISHED),
    "told": _grid(TOLD),
    "time": _grid(TIME),
    "sizes": _grid(SIZES),
    "affinity": _affinity,
    "dev": _dev,
    "tuning": _tuning,
    "ideas": _ideas,
}


def dev(results: Path) -> Path:
    """Folder of the results on dev."""
    return results / "training-free" / "dev"


def gain(measured: Measured, task: Asked, one: str, other: str) -> Gain | str:
    """How much better one cell is than another; a dash where one is missing."""
    return measured.gained(task, one, other) or "–"


def missing(measured: Measured) -> list[str]:
    """How many cells of the grid have not been measured, by presentation, in words."""
    lacking = []
    for told in PRESENTATIONS:
        methods = [method for method in METHODS if same(method, told) == told]
        cells = [(task, at(method, told, keep)) for task in TASKS for method in methods for keep in KEEPS]
        if count := sum(not measured.there(task, cell) for task, cell in cells):
            lacking.append(f"{count} of {len(cells)} cells {f'with `{told}`' if told else 'as published'}")
    return lacking


@dataclass(frozen=True)
class Cost:
    """What is lost, with its 95 % interval, against a bar."""

    value: float
    low: float
    high: float
    unit: str

    def verdict(self, bar: float) -> str:
        return "**met**" if self.high <= bar else "**missed**" if self.low > bar else "cannot be told"

    def __str__(self) -> str:
        digits = 2 if self.unit == "BLEU" else 1
        return f"{claims.signed(self.value, self.low, self.high, digits)} {self.unit}"


def lost(measured: Measured, task: Asked, cell: str, unit: str, relative: bool = False) -> Cost | None:
    """What a cell loses against all tokens: in units of the metric, or in % of the score."""
    if not measured.there(task, cell):
        return None
    one, scale = measured.gain(task, cell, BASELINE), 1.0
    if relative:
        scale = 100 / measured.score(task, BASELINE)["score"]
    return Cost(-one.value * scale, -one.high * scale, -one.low * scale, unit)


def quarter(measured: Measured, task: Asked, keep: str) -> Cost | None:
    """What the default loses over a quarter of what `pool` as published loses; at most 0 meets the bar.

    The reference words of a sample are the same in all cells, so a quarter of one rate and three quarters of another
    are the rate of errors mixed alike, and one paired bootstrap redraws all three.
    """
    cell, pool = default(keep), at("pool", AS_PUBLISHED, keep)
    if not measured.there(task, cell, pool):
        return None
    (one, groups), (base, _), (other, _) = (measured.stats(task, spec) for spec in (cell, BASELINE, pool))
    return Cost(*paired(METRICS[task.metric], one, 0.25 * other + 0.75 * base, groups, claims.DRAWS), "WER")


def bars(measured: Measured) -> str:
    rows = []

    def row(what: str, cost: Cost | None, bar: float, stretch: float, text: str) -> None:
        verdicts = ["–", "–"] if cost is None else [cost.verdict(bar), cost.verdict(stretch)]
        rows.append([what, text, "not run yet" if cost is None else cost, *verdicts])

    for keep, bar, stretch in (("1/3", 2.0, 0.5), ("1/2", 1.0, 0.2)):
        for task in SPEECH:
            cost = lost(measured, task, default(keep), "WER")
            row(f"{task.name}, keep={keep}: lost", cost, bar, stretch, f"≤ +{bar} (+{stretch})")
            if keep == "1/3":
                cost = quarter(measured, task, keep)
                verdict = "–" if cost is None else cost.verdict(0)
                what = f"{task.name}, keep={keep}: lost over ¼ of what `pool` as published loses"
                rows.append([what, "≤ 0", cost or "not run yet", verdict, ""])
    cost = lost(measured, GERMAN, default("1/3"), "BLEU")
    row(f"{GERMAN.name}, keep=1/3: lost", cost, 1, 0, "≤ 1 (no loss)")
    for task, bar in ((SOUNDS, 1.0), (ANSWERS, 2.0)):
        cost = lost(measured, task, default("1/4"), "%", relative=True)
        row(f"{task.name}, keep=1/4: lost of the score", cost, bar, 0, f"≤ {bar:g} % (no loss)")
    verdict, short = front(measured)
    rows.append(["every published method at its best presentation, every keep", "best or tied", short, verdict, ""])
    return claims.table(["", "bar (stretch)", "measured [95 %]", "bar", "stretch"], rows)


def claim(measured: Measured) -> Claim:
    """The row of docs/claims.md."""
    costs = [
        (f"{task.name} at {keep}", cost, bar)
        for keep, bar in (("1/2", 1.0), ("1/3", 2.0))
        for task in SPEECH
        if (cost := lost(measured, task, default(keep), "WER"))
    ]
    return Claim(
        "Audio tokens can be compressed without any training, at next to no cost",
        "the open question of arXiv 2511.20973; the answer is our own",
        f"`{RECOMMENDED}` loses " + ", ".join(f"{cost} ({what})" for what, cost, _ in costs),
        "our bars of +1 and +2: " + ", ".join(f"{what} {cost.verdict(bar)}" for what, cost, bar in costs),
        "All bars. [training-free.md](training-free.md) has the grid, and how many letters a token can carry.\n\n"
        + bars(measured),
    )


def rivals(measured: Measured, task: Asked, keep: str) -> list[str]:
    """Each published method's cell at the presentation that scores best, of those that have been measured."""
    sign = 1 if METRICS[task.metric].higher_is_better else -1
    best = []
    for method in PUBLISHED:
        cells = list(dict.fromkeys(cell_of(method, presentation, keep) for presentation in PRESENTATIONS))
        some = [cell for cell in cells if measured.there(task, cell)]
        if some:
            best.append(max(some, key=lambda cell: sign * measured.score(task, cell)["score"]))
    return best


def contests(measured: Measured, ours: str = RECOMMENDED) -> Iterator[tuple[Asked, str, str, Gain]]:
    """A method of ours against every rival, at every task and keep."""
    for task in TASKS:
        for keep in KEEPS:
            cell = claims.at(ours, keep)
            if measured.there(task, cell):
                for rival in rivals(measured, task, keep):
                    yield task, keep, rival, measured.gain(task, cell, rival)


def front(measured: Measured) -> tuple[str, str]:
    """The verdict on the last bar, and what it rests on."""
    gains = [one for *_, one in contests(measured)]
    worse = any(one.sign < 0 for one in gains)
    verdict = "**missed**" if worse else "met so far" if missing(measured) else "**met**"
    return verdict, f"better / tied / worse {_tally(gains)}"


def against(measured: Measured) -> str:
    """Who comes nearest, or is ahead."""
    found: dict[tuple[Asked, str], list[tuple[str, Gain]]] = {}
    for task, keep, rival, one in contests(measured):
        found.setdefault((task, keep), []).append((rival, one))
    rows, ahead = [], []
    for task in TASKS:
        row = [f"{task.name} ({task.unit})"]
        for keep in KEEPS:
            several = found.get((task, keep), [])
            if not several:
                row.append("–")
                continue
            rival, least = min(several, key=lambda one: one[1].value)
            row.append(f"`{_short(rival)}` {least}")
            ahead += [f"`{_short(r)}` on {task.name} at {keep} ({one})" for r, one in several if one.sign < 0]
        rows.append(row)
    also = "; ".join(
        f"`{named(one, TOLD)}` {_tally([gain for *_, gain in contests(measured, named(one, TOLD))])}" for one in OURS
    )
    return (
        f"Better / tied / worse, over all tasks and keeps: {also}.\n\n"
        f"Gain of `{RECOMMENDED}` over the published method that comes nearest to it or is furthest ahead, each method "
        "at the presentation that scores best on this very list, which favours it. Equal keep, so equal Hz.\n\n"
        + claims.table(["gain", *KEEPS], rows)
        + f"\n\nAhead of it, with an interval without 0: {'; '.join(ahead) or 'none'}."
    )


def _short(cell: str) -> str:
    """A spec without its budget."""
    return re.sub(r"@[^+]*", "", cell)


def halves(measured: Measured) -> str:
    """What +time alone, +sizes alone and both gain over the methods as published."""
    cells = [at(method, told, keep) for method in MERGING for told in PRESENTATIONS for keep in KEEPS]
    tasks = [task for task in TASKS if measured.there(task, *cells)]
    if not tasks:
        return "`+time` alone and `+sizes` alone have not been run yet."
    rows, counts = [], []
    for task in tasks:
        for method in (OURS_BEST, "pool"):
            of = [
                measured.gain(task, at(method, told, "1/3"), at(method, AS_PUBLISHED, "1/3"))
                for told in PRESENTATIONS[1:]
            ]
            rows.append([f"`{method}`, {task.name} ({task.unit})", *of])
        grid = [(method, keep) for method in MERGING for keep in DEV_KEEPS]
        over = {
            told: [measured.gain(task, at(m, TOLD, k), at(m, told, k)) for m, k in grid] for told in PRESENTATIONS[:-1]
        }
        sign = 1 if METRICS[task.metric].higher_is_better else -1
        scores = {
            told: [sign * measured.score(task, at(m, told, "1/3"))["score"] for m in MERGING] for told in PRESENTATIONS
        }
        medians = [
            statistics.median(a - b for a, b in zip(scores[told], scores[AS_PUBLISHED], strict=True))
            for told in PRESENTATIONS[1:]
        ]
        rows.append([f"median of {len(MERGING)} methods, {task.name}", *(f"{value:+.2f}" for value in medians)])
        counts.append([task.name, *(_tally(gains) for gains in over.values())])
    return (
        "At keep=1/3, gain over the method as published.\n\n"
        + claims.table(["gain", "`+time`", "`+sizes`", "`+time+sizes`"], rows)
        + f"\n\n`+time+sizes` over less, {len(MERGING)} methods that merge × keep {', '.join(DEV_KEEPS)}: "
        "better / tied / worse.\n\n" + claims.table(["", "over as published", "over `+time`", "over `+sizes`"], counts)
    )


def _tally(gains: Sequence[Gain]) -> str:
    better, worse = (sum(one.sign == sign for one in gains) for sign in (1, -1))
    return f"{better} / {len(gains) - better - worse} / {worse}"


def grid(measured: Measured) -> str:
    """All scores, a table a task."""
    parts = [
        "A cell: as published / `+time` / `+sizes` / `+time+sizes`. Intervals of every score and its paired difference "
        "to all tokens: `results/`, or `fewhertz report results`."
    ]
    for task in TASKS:
        rows = [
            [
                f"`{method}`",
                *(" / ".join(measured.number(task, cell_of(method, told, k)) for told in PRESENTATIONS) for k in KEEPS),
            ]
            for method in METHODS
        ]
        better = "higher" if METRICS[task.metric].higher_is_better else "lower"
        base = measured.number(task, BASELINE)
        parts += [
            f"### {task.name}: {task.unit}, {better} is better; all tokens {base}",
            claims.table(["", *KEEPS], rows),
        ]
    return "\n\n".join(parts)


def ranks(measured: Measured) -> str:
    """Mean ranks over keeps, by task and presentation."""
    rows, tasks = [], []
    mean: dict[tuple[str, str, Asked], float] = {}
    for task in TASKS:
        if not measured.there(task, *(at(m, p, k) for m in METHODS for p in (AS_PUBLISHED, TOLD) for k in KEEPS)):
            continue
        tasks.append(task)
        sign = -1 if METRICS[task.metric].higher_is_better else 1
        for told in (AS_PUBLISHED, TOLD):
            ranked = []
            for keep in KEEPS:
                scores = [sign * measured.score(task, at(method, told, keep))["score"] for method in METHODS]
                # equals share the mean of their ranks
                ranked.append([sum(b < a for b in scores) + (sum(b == a for b in scores) + 1) / 2 for a in scores])
            for i, method in enumerate(METHODS):
                mean[method, told, task] = statistics.mean(row[i] for row in ranked)
    if not tasks:
        return "No task has all of its cells yet."
    for method in METHODS:
        several = {told: [mean[method, told, task] for task in tasks] for told in (AS_PUBLISHED, TOLD)}
        shown = [f"{a:.1f} → {b:.1f}" for a, b in zip(several[AS_PUBLISHED], several[TOLD], strict=True)]
        rows.append(
            (
                statistics.mean(several[TOLD]),
                [f"`{method}`", *shown, *(f"{statistics.mean(several[told]):.1f}" for told in several)],
            )
        )
    rows.sort(key=lambda row: row[0])
    heads = ["", *(task.name for task in tasks), "mean, as published", "mean, `+time+sizes`"]
    return (
        f"Mean rank over keeps {', '.join(KEEPS)} among the {len(METHODS)} methods, all as published → all with "
        "`+time+sizes`; 1 is best. A rank says nothing of how far apart two methods are.\n\n"
        + claims.table(heads, [row for _, row in rows])
    )


def followed(measured: Measured) -> str:
    """Affinity pooling, whose count follows content, against the default at its rate."""
    rows, gains = [], []
    for task in TASKS:
        for one in AFFINITY:
            plain, told = named(one), named(one, TOLD)
            if not measured.there(task, plain, told):
                continue
            ours = matched(measured, task, told)
            over = gain(measured, task, ours, told)
            gains += [over] if isinstance(over, Gain) else []
            rows.append(
                [f"`{one}`, {task.name} ({task.unit})", f"{measured.hertz(task, told):.1f}"]
                + [measured.number(task, cell) for cell in (plain, told, ours)]
                + [over]
            )
    if not rows:
        return "`affinity` (a count that follows content) has not been run yet."
    heads = ["", "Hz", "as published", "`+time+sizes`", f"`{RECOMMENDED}`", f"`{RECOMMENDED}` over it, told"]
    return (
        f"`affinity` has no budget; `{RECOMMENDED}` ran at the rate that it had on the same list. Over it, both told: "
        f"better / tied / worse {_tally(gains)}.\n\n{claims.table(heads, rows)}"
    )


def chosen(measured: Measured) -> str:
    """The choice of the default, on dev."""
    tried = Measured(dev(measured.root))
    rows, compared = [], []
    for told in (AS_PUBLISHED, TOLD):
        for method in CANDIDATES:
            cells = [[tried.number(DEV[task], at(method, told, keep)) for keep in DEV_KEEPS] for task in TASKS]
            rows.append([f"`{named(method, told)}`", *(" / ".join(some) for some in cells)])
    for task in TASKS:
        for other in CANDIDATES:
            if other != OURS_BEST:
                cells = [gain(tried, DEV[task], at(OURS_BEST, TOLD, keep), at(other, TOLD, keep)) for keep in DEV_KEEPS]
                compared.append([f"over `{other}`, {task.name} ({task.unit})", *cells])
    counted = {
        other: [one for row in compared if f"`{other}`" in row[0] for one in row[1:] if isinstance(one, Gain)]
        for other in CANDIDATES
        if other != OURS_BEST
    }
    counts = "; ".join(f"over `{other}` {_tally(gains)}" for other, gains in counted.items())
    heads = [", ".join(DEV_KEEPS), *(f"{task.name} ({task.unit}, n={DEV[task].rows})" for task in TASKS)]
    return (
        "On dev lists alone, though test scores of `ward`, `pool`, `segment` and `ltbm` had been known before from "
        f"[claims.md](claims.md). `{RECOMMENDED}`, better / tied / worse, all told: {counts}. A tie with `optimal` "
        "goes to the cheaper, which `ward` is: O(n·d) a round, and O(longest·n²).\n\n"
        + claims.table(heads, rows)
        + f"\n\nGain of `{RECOMMENDED}`, all told.\n\n"
        + claims.table(["gain", *DEV_KEEPS], compared)
    )


def tuned(measured: Measured) -> str:
    """α and the place of a token, on dev."""
    tried = Measured(dev(measured.root))
    rows, gains = [], []
    for one in TUNED:
        cells = [gain(tried, DEV[task], at(one, TOLD, keep), default(keep)) for task in TUNED_ON for keep in NARROW]
        gains += [cell for cell in cells if isinstance(cell, Gain)]
        what = (
            re.sub(r"ward-told\((\w+)=([\w.]+)\)", r"\1 = \2", one).replace("alpha", "α").replace("place", "position")
        )
        rows.append([what, *cells])
    if not gains:
        return "Not run yet."
    heads = ["gain over α = 1, position = mean", *(f"{task.name} {keep}" for task in TUNED_ON for keep in NARROW)]
    return (
        f"`{RECOMMENDED}` on dev, with α·log s in place of log s, or each token at the first or the last of what it "
        f"stands for in place of the mean. Better / tied / worse than the plain one: {_tally(gains)}. An experiment of "
        "the recipe (`recipes/ideas.py`); the library has no such option.\n\n" + claims.table(heads, rows)
    )


def tried(measured: Measured) -> str:
    """What else the idea suggested, on dev."""
    found = Measured(dev(measured.root))
    rows, paying, cells = [], [], [(task, keep) for task in TRIED_ON for keep in NARROW]
    for one, what in IDEAS.items():
        base = "optimal" if one.startswith(("optimal-", "optimal(")) else "ward"
        pairs = [(task, gain(found, DEV[task], at(one, TOLD, keep), at(base, TOLD, keep))) for task, keep in cells]
        clear = {task for task, one in pairs if isinstance(one, Gain) and one.sign > 0}
        paying += [one] if len(clear) > 1 else []
        rows.append([f"`{one}`: {what}", f"`{base}`", *(one for _, one in pairs)])
    by_content = []
    for one in BY_CONTENT:
        row: list[object] = [f"`{one}`"]
        for task in TRIED_ON:
            cell = named(one, TOLD)
            if found.there(DEV[task], cell):
                over = gain(found, DEV[task], cell, matched(found, DEV[task], cell))
                row += [f"{found.hertz(DEV[task], cell):.1f}", over]
            else:
                row += ["–", "–"]
        by_content.append(row)
    kept = (
        f"Clearly better on more than one task: {', '.join(f'`{one}`' for one in paying)}."
        if paying
        else "None is clearly better on more than one task, so none was kept."
    )
    return (
        "Variants of `ward`, and of `optimal` where they need an exact search, all told, against the plain method at "
        f"the same keep, on dev. {kept}\n\n"
        + claims.table(["gain", "over", *(f"{task.name} {keep}" for task in TRIED_ON for keep in NARROW)], rows)
        + f"\n\nA budget that clips share by what is in them: as few segments as lose no more than so much of the "
        f"squared length of the tokens, against `{RECOMMENDED}` at the mean rate that this took. pocket's tasks have "
        "one clip a prompt, so the clips of a whole list share here.\n\n"
        + claims.table(["", *(head for task in TRIED_ON for head in (f"{task.name}, Hz", "gain"))], by_content)
    )


HEAD = """# Training-free: what the LLM is told

Made by `make reproduce` from the result files in `results/`; do not edit. `make training-free` measures the cells anew.

**The question.** Can a third of the audio tokens do the work of all of them, without any training? Most papers hand
the LLM compressed tokens as if they were ordinary ones: packed one after the other, each counting as one (DART and
EVS keep the original positions, ToMe adds log size). Here it is told two things more, for any method. **When**
(`+time`): a token stands at the mean position of what it stands for, and text goes on from the uncompressed length,
so that distances stay those that the LLM was trained on. **How much** (`+sizes`): log s is added to the attention
logits of a token that stands for s, which for s equal keys and values is exactly the attention over all of them. Our
two methods, `optimal` and `ward`, cut the tokens into contiguous segments of least squared distance to their means.
`fewhertz methods` marks the default that follows: `{default}`.

**What was measured.** *pocket*, a model of the Qwen2-Audio class of {parameters} million parameters that we trained
ourselves and ship (weights `{sha}`), greedy, on {device}, {dtype}: {tasks}. {methods} methods × {presentations}
presentations × keep {keeps}. No training, and nothing chosen on these lists: the default was chosen on dev, below.
To the {dropping} methods that drop tokens `+sizes` says nothing, since each token that stays stands for itself: their
cells with `+sizes` are those as published and with `+time` those with both, which word strings were run to check (all
texts the same). {lacking}

**How to read it.** As in [claims.md](claims.md): a gain is how much better the first is, in units of the metric, above
0 always meaning better, with a paired 95 % bootstrap interval over groups; ✓: above 0, ✗: below, unmarked: tied. With
as many comparisons as here some marks are chance. pocket is small, and was trained on short clips: a large model may
lean less on positions, and lose less to begin with.
"""

PICTURE = "![Points of WER lost against letters for each audio token, two lists, as published and told](letters.png)"
WITH_LORA = """Told against as published when the LLM is trained, in how many steps and down to what floor; and whether
an adapter can learn to do without being told, for engines that know neither: the last two claims of
[claims.md](claims.md)."""

SERVED = """vLLM carries both for six families, exactly, by the plugin: log s in more dimensions of the keys, times
where its angles are made. What was measured of it: [serving.md](serving.md)."""

DRAWN = ("pool", "ltbm", "segmentwise")


def page(measured: Measured) -> str:
    """The text of docs/training-free.md."""
    base = measured.result(STRINGS, BASELINE)
    lacking = missing(measured)
    tasks = ", ".join(
        f"{task.name} (n={task.rows}, {task.unit}, all tokens {measured.number(task, BASELINE)})" for task in TASKS
    )
    head = HEAD.format(
        default=RECOMMENDED,
        parameters=claims.PARAMETERS,
        sha=base["weights_sha256"][:8],
        device=base["hardware"]["device"],
        dtype=base["dtype"],
        tasks=tasks,
        methods=len(METHODS),
        dropping=len(METHODS) - len(MERGING),
        presentations=len(PRESENTATIONS),
        keeps=", ".join(KEEPS),
        lacking=f"**Not run yet**, and – below: {'; '.join(lacking)}." if lacking else "All cells have been run.",
    )
    models = [measured, *(other_models.of(measured.root, other.name) for other in other_models.OTHERS)]
    sections = {
        "The bars": bars(measured),
        "Against every published method": against(measured),
        "How few tokens are enough": f"{letters.section(models)}\n\n{PICTURE}",
        "Which half does what": halves(measured),
        "Ranks": ranks(measured),
        "A count that follows content": followed(measured),
        "How the default was chosen": chosen(measured),
        "How much of log s, and where a token is": tuned(measured),
        "What else was tried": tried(measured),
        "Is it an artefact of one small model?": other_models.section(measured.root),
        "With LoRA on top": WITH_LORA,
        "What it costs, and how exact it is": price.section(measured.root),
        "Serving": SERVED,
        "The grid": grid(measured),
    }
    parts = [
        head,
        "![Quality of pocket against audio tokens per second on five tasks, as published and told](training-free.png)",
    ]
    for title, body in sections.items():
        parts += [f"## {title}", body]
    return "\n\n".join(parts) + "\n"


def draw(measured: Measured, file: Path) -> Path:
    """Quality against Hz of the default and of three methods, as published (dashed) and told."""
    methods = (OURS_BEST, *DRAWN)
    numbers = {named(method, TOLD): i for i, method in enumerate(methods)}
    numbers |= {method: i + len(curves.COLOURS) for i, method in enumerate(methods)}  # the same colours, dashed
    cells = {at(method, told, keep) for method in methods for told in (AS_PUBLISHED, TOLD) for keep in KEEPS}
    groups = {group.task: group for group in curves.groups(measured.root)[0] if group.model == claims.MODEL}
    found = [groups[task.label] for task in TASKS]
    drawn = [dataclasses.replace(group, runs=[one for one in group.runs if one.spec in cells]) for group in found]
    lines = [line for line in numbers if any(line in group.lines for group in drawn)]
    curves.plot(curves.choose(drawn), numbers, file, lines)
    return file


def write(root: Path, docs: Path) -> list[Path]:
    """Write the page and its picture; returns their files."""
    measured = Measured(root)
    text = docs / "training-free.md"
    text.write_text(page(measured), "utf-8")
    return [text, draw(measured, docs / "training-free.png"), letters.draw(measured, docs / "letters.png")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("run", "write"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--manifests", type=Path, default=MANIFESTS, help="folder of the lists: test/, dev/")
    parser.add_argument("--part", nargs="*", choices=PARTS, default=list(PARTS), help="to run; all by default")
    labels = [task.label for task in TASKS]
    parser.add_argument(
        "--tasks", nargs="*", choices=labels, default=labels, help="to run, dev lists by their test's name"
    )
    args = parser.parse_args()
    if args.job == "run":
        raise SystemExit(int(run(args.results, args.manifests, args.part, args.tasks) > 0))
    print(*write(args.results, args.docs), sep="\n")


if __name__ == "__main__":
    main()
