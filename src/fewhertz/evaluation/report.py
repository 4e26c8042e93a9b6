"""`fewhertz report`: all results of a folder as one page that needs no network and trusts no text."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from fewhertz.evaluation import curves
from fewhertz.evaluation.curves import Curve, Group, Run, decimals, hertz, interval, number
from fewhertz.evaluation.regressions import regressions
from fewhertz.evaluation.results import BASELINE
from fewhertz.files import Record, differing, differs, replace
from fewhertz.page import document, fill, packed
from fewhertz.palette import DASHES, LINES, LINES_ON_DARK, MARKERS
from fewhertz.studio import page as lanes
from fewhertz.words import cut

if TYPE_CHECKING:
    from fewhertz.evaluation.listening import Listener

MOST = 20  # errors of a task × model that are listed
SHAPES = {  # the markers of palette.MARKERS, around 0, 0
    "o": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "s": "M-4.5 -4.5h9v9h-9z",
    "D": "M0 -6L6 0L0 6L-6 0z",
    "^": "M0 -5.5L5.5 4.5H-5.5z",
    "v": "M0 5.5L5.5 -4.5H-5.5z",
    "P": "M-2 -6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    "p": "M0 -6L5.7 -1.9L3.5 4.9H-3.5L-5.7 -1.9z",
    "X": "M-6 -3.5L-3.5 -6L0 -2.5L3.5 -6L6 -3.5L2.5 0L6 3.5L3.5 6L0 2.5L-3.5 6L-6 3.5L-2.5 0z",
    "*": "M0 -8L2 -2.6L7.6 -2.5L3.2 1L4.7 6.5L0 3.3L-4.7 6.5L-3.2 1L-7.6 -2.5L-2 -2.6z",
}


def report(root: str | Path, out: str | Path, samples: int = 10, listener: Listener | None = None) -> list[str]:
    """Write the page of all results under a folder.

    Args:
        root: what `fewhertz eval --out` wrote to.
        out: an .html file.
        samples: of each run, the worst regressions that are shown.
        listener: shows so many samples of its task and model with their sound, all methods side by side.

    Returns:
        What is wrong with files that could not be read, a line each; the page says it too.

    Raises:
        ValueError: where the folder is not there, or has no result, or none of what is to be listened to.
    """
    found, wrong = curves.groups(root)
    if listener is not None and not any(map(listener.fits, found)):
        raise ValueError(f"no result of {listener.task} and {listener.name} in {root}")
    numbers = curves.styles(found)
    sections = []
    for place, group in enumerate(found):
        data, more = regressions(group, samples) if samples else (None, [])
        wrong += more
        clips: list[Record] = []
        if listener is not None and listener.fits(group):
            clips, more = listener.clips(group, samples)
            wrong += more
        sections.append(_section(group, place, numbers, data, clips))
    replace(Path(out), _page(found, wrong, sections, numbers).encode())
    return wrong


def _page(found: list[Group], wrong: list[str], sections: list[str], numbers: dict[str, int]) -> str:
    body = [_symbols(), "<header><h1>Quality against audio tokens per second</h1>"]
    runs = sum(len(group.whole) for group in found)
    body.append(f'<p class="soft">{runs} results of {len(found)} task × model. Intervals: 95 %, bootstrap.</p>')
    if wrong:
        body.append('<div class="wrong" role="alert"><p>Not all could be read:</p>' + _list(wrong) + "</div>")
    if len(found) > 1:
        links = "".join(f'<li><a href="#s{i}">{_text(_name(group))}</a></li>' for i, group in enumerate(found))
        body.append(f'<nav aria-label="Tasks and models"><ul>{links}</ul></nav>')
    body += ["</header><main>", *sections, "</main>"]

    rules = {f".c{i}" for i in range(len(LINES))}
    looks = [f"{rule} {{ color: var(--{rule[1:]}); }}" for rule in sorted(rules)]
    # unticking hides a line without any script
    looks += [f"section:has(.t{i}:not(:checked)) .l{i} {{ display: none; }}" for i in range(len(numbers))]
    here = resources.files("fewhertz.evaluation")
    style, script = (here.joinpath(f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    light, dark = (" ".join(f"--c{i}: {colour};" for i, colour in enumerate(some)) for some in (LINES, LINES_ON_DARK))
    style = fill(style, {"light": light, "dark": dark, "lines": "\n".join(looks)})
    if any('class="clip"' in one for one in sections):
        more, draws = lanes.parts()
        style, script = style + more, f"{script}{{\n{draws}}}\n"  # braces: its names are its own
    return document("fewhertz report", style, script, "\n".join(body))


def _text(value: object) -> str:
    return html.escape(cut(str(value), 300))


def _list(lines: Sequence[str]) -> str:
    shown = list(lines[:MOST]) + ([f"and {len(lines) - MOST} more"] if len(lines) > MOST else [])
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in shown) + "</ul>"


def _name(group: Group) -> str:
    return f"{group.task} · {group.model}"


def _section(
    group: Group, place: int, numbers: dict[str, int], data: Record | None, clips: Sequence[Record] = ()
) -> str:
    shown = [one for name in group.metrics if (one := curves.curve(group, name))]
    parts = [f'<section id="s{place}" data-samples><h2>{_text(_name(group))}</h2>', _notes(group)]
    if shown:
        parts.append(_legend(shown[0], numbers))
        parts.append(_figure(shown[0], numbers))
        for curve in shown[1:]:
            parts.append(f"<details><summary>{_text(curve.label)}</summary>{_figure(curve, numbers)}</details>")
    parts += ["<h3>All results</h3>", _table(group, shown), _small_print(group)]
    if data is not None:
        parts.append(_browser(data, place))
    if clips:
        parts.append(_clips(clips))
    return "\n".join([*parts, "</section>"])


def _notes(group: Group) -> str:
    """What must not be overlooked."""
    notes = []
    if group.baseline is None:
        notes.append(f"{BASELINE} has no result here: no baseline, no differences, no regressions.")
    first = group.whole[0]
    for run in group.whole[1:]:
        if differing(first.measured, run.measured):
            other = differs(first.measured, run.measured)
            notes.append(f"Not comparable: {run.spec} has {other}; {first.spec} is the first of these.")
        for name, score in run.scores.items():
            if name in first.scores and score.signature != (old := first.scores[name].signature):
                notes.append(f"Not comparable: {name} of {run.spec} is {score.signature}, of {first.spec} {old}.")
    absent = {name: why for run in group.whole for name, why in run.absent.items()}
    notes += [f"{name} is not measured everywhere: {why}" for name, why in absent.items()]
    notice = f'<div class="wrong">{_list(notes)}</div>' if notes else ""
    errors: dict[str, int] = {}
    for run in group.whole:
        for error in run.failed:
            errors[error] = errors.get(error, 0) + 1
    if errors:
        lines = [f"{error} (in {count} of {len(group.whole)} results)" for error, count in errors.items()]
        notice += (
            f'<details class="wrong"><summary>{len(errors)} samples failed and are in no score</summary>'
            f"{_list(lines)}</details>"
        )
    return notice


def _small_print(group: Group) -> str:
    first = group.whole[0]
    memory = {run.peak[1] for run in group.whole if run.peak}
    text = (
        "Bold: no other result is as good at fewer Hz. Coloured differences: their interval excludes 0. "
        "KV cache: of the audio, against keep=1, as audio tokens kept. "
        "Prefill: the LLM reading the prompt, all samples together, against keep=1; a dash where hardware, threads, "
        "batch size, processes, attention or samples were not those of keep=1. "
        f"Peak memory: {', '.join(sorted(memory)) or 'not measured'}; without the encoder where another "
        "method's run had encoded the batch before."
    )
    facts = {**first.measured, **first.timed_on, "signature": first.scores[first.main].signature}
    lines = [f"{key}: {value}" for key, value in facts.items()]
    return (
        f'<p class="soft">{_text(text) if len(text) < 300 else html.escape(text)}</p>'
        f'<details class="soft"><summary>How it was measured</summary>{_list(lines)}</details>'
    )


def _table(group: Group, shown: list[Curve]) -> str:
    heads = ["method", "Hz"]
    for curve in shown:
        heads += [f"{curve.label}, {curve.better}", "− keep=1"]
    heads += ["KV cache", "prefill", "peak memory", "samples", "failed"]
    head = "".join(f'<th scope="col">{_text(text)}</th>' for text in heads)

    rows = [_row(group, run, shown) for run in group.whole]
    return (
        f'<div class="box" tabindex="0" role="region" aria-label="Results of {_text(_name(group))}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(group: Group, run: Run, shown: list[Curve]) -> str:
    row = [hertz(run.rate)]
    for curve in shown:
        score, digits = run.scores.get(curve.metric), decimals(curve.metric, curve.unit)
        if score is None:
            row += ["–", "–"]
            continue
        row.append(f"{number(score.value, digits)} <small>{interval(score.ends, digits)}</small>")
        if run is group.baseline or score.difference is None or group.baseline is None:
            row.append("–")
            continue
        low, high = score.difference_ends
        sure = low is not None and high is not None and (low > 0 or high < 0)
        kind = "" if not sure else "better" if (score.difference > 0) == curve.higher_is_better else "worse"
        difference = number(score.difference, digits, True)
        row.append(
            f'<span class="{kind}">{difference}</span> <small>{interval(score.difference_ends, digits, True)}</small>'
        )
    ratio = group.prefill_ratio(run)
    row += [f"{100 * run.kept:.0f} %", "–" if ratio is None else f"{100 * ratio:.0f} %"]
    row += ["–" if run.peak is None else f"{run.peak[0] / 1e9:.2f} GB", str(run.n), str(len(run.failed))]
    pareto = shown and shown[0].beaten.get(run.spec) == 0
    runs = "".join(f"<td>{one}</td>" for one in row)
    spec = re.sub("(?=[@+])", "<wbr>", _text(run.spec))
    return f'<tr{" class=pareto" if pareto else ""}><th scope="row">{spec}</th>{runs}</tr>'


# The chart: drawn twice, for wide pages and for phones, so that its letters are legible on both.


def _look(number: int) -> tuple[str, int]:
    """Classes of a line, and its marker's number."""
    if number < 0:
        return "grey", 0
    dashes = number // len(LINES) % len(DASHES)
    return f"c{number % len(LINES)} d{dashes}", number % len(MARKERS)


def _symbols() -> str:
    shapes = "".join(f'<path id="m{i}" d="{SHAPES[name]}"/>' for i, name in enumerate([*MARKERS, "*"]))
    return f'<svg width="0" height="0" aria-hidden="true"><defs>{shapes}</defs></svg>'


def _index(numbers: dict[str, int]) -> dict[str, int]:
    return {line: i for i, line in enumerate(numbers)}


def _legend(curve: Curve, numbers: dict[str, int]) -> str:
    shown, index, labels = curve.shown(), _index(numbers), []
    for line in curve.group.lines:
        look, marker = _look(numbers[line])
        tick = "checked" if line in shown else ""
        labels.append(
            f'<label><input type="checkbox" class="t{index[line]}" {tick} autocomplete="off">'
            f'<svg class="{look}" viewBox="0 0 28 14" aria-hidden="true"><path class="path {look}" d="M0 7H28"/>'
            f'<use href="#m{marker}" x="14" y="7" class="mark"/></svg>{_text(line)}</label>'
        )
    if not labels:
        return ""
    hidden = len(labels) - len(shown)
    bands = '<label><input type="checkbox" class="bands" checked autocomplete="off">95 % bands</label>'
    more = f" ({hidden} more: tick them)" if hidden else ""
    return f'<fieldset class="legend"><legend class="soft">Lines{more}</legend>{"".join(labels)}{bands}</fieldset>'


def _figure(curve: Curve, numbers: dict[str, int]) -> str:
    return (
        f"<figure><figcaption>{_text(curve.label)}, <strong>{curve.better}</strong>. Star and dashes: {BASELINE}. "
        "Filled: no other is as good at fewer Hz. Bands: 95 %.</figcaption>"
        f"{_chart(curve, numbers, 720, 400, 'wide')}{_chart(curve, numbers, 328, 320, 'narrow')}"
        '<p class="said soft" aria-live="polite"></p></figure>'
    )


@dataclass(frozen=True)
class _Frame:
    """Where numbers are on the paper."""

    curve: Curve
    width: int
    height: int
    left: int = 44
    right: int = 12
    top: int = 10
    bottom: int = 42

    def x(self, rate: float) -> float:
        low, high = map(math.log, self.curve.x_limits())
        return round(self.left + (math.log(rate) - low) / (high - low) * (self.width - self.left - self.right), 1)

    def y(self, value: float | None) -> float:
        assert value is not None
        low, high = self.curve.y_limits()
        return round(
            self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom), 1
        )


def _chart(curve: Curve, numbers: dict[str, int], width: int, height: int, kind: str) -> str:
    frame = _Frame(curve, width, height)
    about = f"{curve.label} against audio tokens per second; the numbers are in the table"
    parts = [
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{_text(about)}">',
        _axes(frame),
    ]
    index = _index(numbers)
    for line in curve.lines:
        parts.append(_line(frame, line, numbers[line], index[line]))
    if curve.baseline is not None:
        parts.append(f'<g class="keep1">{_point(frame, curve.baseline, len(MARKERS), True)}</g>')
    return "".join([*parts, "</svg>"])


def _axes(frame: _Frame) -> str:
    bottom, right = frame.height - frame.bottom, frame.width - frame.right
    parts = []
    low, high = frame.curve.y_limits()
    step = _step((high - low) / 6)
    for i in range(math.ceil(low / step), math.floor(high / step) + 1):
        y = frame.y(i * step)
        label = f"{i * step:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}".replace("-", "−")
        parts.append(f'<path class="grid" d="M{frame.left} {y}H{right}"/>')
        parts.append(f'<text x="{frame.left - 6}" y="{y + 4}" text-anchor="end">{label}</text>')
    for tick in frame.curve.x_ticks(right - frame.left, 34):
        x = frame.x(tick)
        parts.append(f'<path class="grid" d="M{x} {frame.top}V{bottom}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{hertz(tick)}</text>')
    middle = (frame.left + right) / 2
    parts.append(f'<text x="{middle}" y="{bottom + 35}" text-anchor="middle">audio tokens per second (Hz)</text>')
    if frame.curve.baseline is not None:
        y = frame.y(frame.curve.baseline.scores[frame.curve.metric].value)
        parts.append(f'<path class="base" d="M{frame.left} {y}H{right}"/>')
    return "".join(parts)


def _step(rough: float) -> float:
    """The next of 1, 2, 5, 10, 20, …"""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= rough * (1 - 1e-9))


def _line(frame: _Frame, line: str, number: int, index: int) -> str:
    name, runs, (look, marker) = frame.curve.metric, frame.curve.whole(line), _look(number)
    places = " ".join(f"{frame.x(run.rate)},{frame.y(run.scores[name].value)}" for run in runs)
    sure = [run for run in runs if None not in run.scores[name].ends]
    ends = [[(frame.x(run.rate), frame.y(run.scores[name].ends[i])) for run in sure] for i in (0, 1)]
    band = " ".join(f"{x},{y}" for x, y in ends[0] + ends[1][::-1])
    points = "".join(_point(frame, c, marker, not frame.curve.beaten[c.spec]) for c in frame.curve.lines[line])
    return (
        f'<g class="l{index} {look}"><polygon class="band" points="{band}"/>'
        f'<polyline class="path" points="{places}"/>{points}</g>'
    )


def _point(frame: _Frame, run: Run, marker: int, full: bool) -> str:
    score, digits = run.scores[frame.curve.metric], decimals(frame.curve.metric, frame.curve.unit)
    title = f"{run.spec}: {hertz(run.rate)} Hz, {frame.curve.label} {number(score.value, digits)} "
    title += interval(score.ends, digits)
    if run.spec != BASELINE and score.difference is not None:
        title += (
            f", {number(score.difference, digits, True)} {interval(score.difference_ends, digits, True)} to {BASELINE}"
        )
    place = f'x="{frame.x(run.rate)}" y="{frame.y(score.value)}"'
    return f'<use href="#m{marker}" {place} class="mark{" full" if full else ""}"><title>{_text(title)}</title></use>'


def _browser(data: Record, place: int) -> str:
    options = "".join(f"<option>{_text(run['spec'])}</option>" for run in data["runs"])
    return (
        f'<h3>Worst regressions</h3><noscript><p class="soft">Samples are shown with JavaScript only.</p></noscript>'
        f'<div class="browser" hidden><label for="b{place}">Method </label><select id="b{place}" autocomplete="off">'
        f'{options}</select><p class="soft" aria-live="polite"></p><ol class="samples"></ol>'
        '<p class="soft">Marked: words of an output that the reference lacks, and words of the reference that the '
        "method's output lacks. Capitals and punctuation do not count here.</p></div>"
        f'<script type="application/json">{packed(data)}</script>'
    )


def _clips(clips: Sequence[Record]) -> str:
    """Drawn as they are unfolded."""
    parts = ["<h3>To see and hear: what lost most, all methods together</h3>"]
    for clip in clips:
        said = f"{clip['name']}, {clip['seconds']:.1f} s"
        if clip["reference"]:
            said += f": {clip['reference']:.80}"
        parts.append(f"<details><summary>{_text(said)}</summary>{lanes.main(clip, level=4)}</details>")
    return "\n".join(parts)
