"""`fewhertz demo`: what a few methods do to the transcripts of the bundled clips, as a table and a picture."""

from __future__ import annotations

import json
import platform
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import torch

import fewhertz
from fewhertz import audio, pocket
from fewhertz.errors import need
from fewhertz.evaluation.curves import line_of
from fewhertz.method import DEFAULT, RECOMMENDED
from fewhertz.once import encode_once
from fewhertz.run import Wave, answer, request, sample_rate
from fewhertz.words import distance

METHODS = ("pool", "stride", "ltbm", "segmentwise", "pool+time+sizes", RECOMMENDED)
TOLERANCES = (0.3, 0.6)
KEEPS = tuple(map(Fraction, ("1", "1/2", "1/3", "1/4", "1/6")))
OUT = Path("out")
MAX_NEW_TOKENS = 64
TIMED = 8  # clips whose prefill is timed together


@dataclass(frozen=True)
class Clip:
    """Audio at 16 kHz, what is said in it, and whether it is "synthetic" or "recorded"."""

    wave: Wave
    text: str
    kind: str


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        rate: audio tokens per second that the LLM reads, in Hz.
        tokens: audio tokens of all clips together.
        wer: word error rate by kind of clip.
        errors: word errors and words of each clip, by kind.
        prefill: time in which the LLM reads the prompt, over that at keep=1 just before it; median of the repeats.
    """

    method: str
    keep: str
    rate: float
    tokens: int
    wer: dict[str, float]
    errors: dict[str, list[list[int]]]
    prefill: float


def bundled(count: int | None = None) -> list[Clip]:
    """The clips that are shipped with pocket; of those that do not say their kind, synthetic ones."""
    folder = Path(pocket.path()) / "samples"
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text("utf-8").splitlines()]
    return [Clip(audio.load(folder / row["audio"]), row["text"], row.get("kind", "synthetic")) for row in rows[:count]]


def measure(
    clips: list[Clip],
    methods: Iterable[str] = METHODS,
    keeps: Iterable[Fraction] = KEEPS,
    tolerances: Iterable[float] = TOLERANCES,
    repeats: int = 5,
    tick: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Transcribe the clips by pocket with each method at each keep; keep=1, where all are the same, once.

    Args:
        clips: the audio and what is said in it.
        methods: names of methods that act at the LLM's input, each with how it is presented: `ward+time+sizes`.
        tolerances: of the method of variable length.
        keeps: fractions of audio tokens kept; 1 is measured in any case, as what the others are compared to.
        repeats: how often a prefill is timed.
        tick: called after each row.
    """
    model, processor = fewhertz.load("pocket", device="cpu", dtype="float32")
    kinds = list(dict.fromkeys(clip.kind for clip in clips))
    groups = {kind: [clip for clip in clips if clip.kind == kind] for kind in kinds}
    batches = {kind: request(processor, [clip.wave for clip in group]) for kind, group in groups.items()}
    longest = sorted(clips, key=lambda clip: -len(clip.wave))[:TIMED]
    timed = request(processor, [clip.wave for clip in longest])
    seconds = sum(len(clip.wave) for clip in clips) / sample_rate(processor)

    def prefill(spec: str) -> float:
        fewhertz.compress(model, spec)
        return sum(r.prefill for r in answer(model, processor, timed, transcript=True, max_new_tokens=1))

    whole = "pool@keep=1"
    rows = []
    configurations = [("none", "1")] + [(m, str(k)) for m in methods for k in keeps if k != 1]
    configurations += [(line_of(DEFAULT), f"≤ {t:g}") for t in tolerances]
    with encode_once(model, scores=True):  # all that differs between the rows comes after the encoder
        prefill(whole)  # the first call warms up
        for name, keep in configurations:
            bare, plus, corrections = name.partition("+")
            budget = f"={keep[2:]}" if "@tolerance" in bare else f"@keep={keep}"
            spec = whole if name == "none" else f"{bare}{budget}{plus}{corrections}"
            fewhertz.compress(model, spec)
            errors, tokens = {}, 0
            for kind, batch in batches.items():
                replies = answer(model, processor, batch, transcript=True, max_new_tokens=MAX_NEW_TOKENS)
                errors[kind] = word_errors([clip.text for clip in groups[kind]], [r.text for r in replies])
                tokens += sum(r.after for r in replies)
            # the two are timed one after the other, so that what else the machine does falls on both
            ratios = [1.0] if spec == whole else [prefill(spec) / prefill(whole) for _ in range(repeats)]
            ratio = statistics.median(ratios)
            wer = {
                kind: sum(wrong for wrong, _ in some) / sum(words for _, words in some) for kind, some in errors.items()
            }
            rows.append(Row(name, keep, tokens / seconds, tokens, wer, errors, ratio))
            tick()
    return rows


def word_errors(references: list[str], hypotheses: list[str]) -> list[list[int]]:
    """Word errors and words of each clip. Lower case, as pocket writes."""
    pairs = zip(references, hypotheses, strict=True)
    return [[distance(one.lower().split(), other.lower().split()), len(one.split())] for one, other in pairs]


def print_table(rows: list[Row]) -> None:
    """The table, to standard output."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    kinds = list(rows[0].wer)
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("method")
    for head in ("budget", "Hz", "tokens", *(f"WER {kind}" for kind in kinds), "prefill time"):
        table.add_column(head, justify="right")
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before.method != row.method:
            table.add_section()
        wer = [f"{100 * row.wer[kind]:.1f} %" for kind in kinds]
        table.add_row(
            row.method,
            row.keep,
            f"{row.rate:.1f}",
            str(row.tokens),
            *wer,
            f"{row.prefill:.2f}",
        )
    Console(width=100).print(table)


def draw_curve(rows: list[Row], out: Path) -> None:
    """WER against audio tokens per second, a line for each method and a panel for each kind of clip."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    kinds = list(rows[0].wer)
    figure = Figure(figsize=(1.5 + 4.5 * len(kinds), 4.2), layout="constrained", dpi=150)
    axes = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    whole = rows[0]
    for axis, kind in zip(axes, kinds, strict=True):
        for marker, name in zip("osD^vPX", dict.fromkeys(row.method for row in rows[1:]), strict=False):
            line = [whole] + [row for row in rows[1:] if row.method == name]
            axis.plot([r.rate for r in line], [100 * r.wer[kind] for r in line], marker=marker, ms=5, label=name)
        axis.axhline(100 * whole.wer[kind], color="0.6", lw=1, ls="--", zorder=0, label="all tokens")
        axis.set_xscale("log", base=2)
        ticks = sorted({round(row.rate, 1) for row in rows if not row.keep.startswith("≤")})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("audio tokens per second (Hz)")
        axis.set_title(f"{kind} speech", fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("word error rate (%)")
    axes[0].set_ylim(bottom=0)
    axes[-1].legend(fontsize=8)
    figure.suptitle("pocket, training-free: what fewer audio tokens cost", fontsize=11)
    figure.savefig(out)


def main(out: Path = OUT) -> None:
    """Measure, print the table, write `demo.json` and, where matplotlib is installed, `demo.png`."""
    from rich.console import Console
    from rich.progress import Progress
    from transformers.utils import logging

    out.mkdir(parents=True, exist_ok=True)  # before the work
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    clips = bundled()
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("transcribing", total=1 + len(METHODS) * (len(KEEPS) - 1) + len(TOLERANCES))
        rows = measure(clips, METHODS, KEEPS, tick=lambda: bar.advance(task))

    counts = {kind: sum(clip.kind == kind for clip in clips) for kind in rows[0].wer}
    seconds = sum(len(clip.wave) for clip in clips) / 16_000
    print(f"{', '.join(f'{n} {kind}' for kind, n in counts.items())} clips, {seconds:.0f} s, through pocket on the CPU")
    print_table(rows)
    print("prefill time: the LLM reading the prompt, over the same at keep=1 in the same run; the encoder is not in it")
    versions = {"fewhertz": fewhertz.__version__, "torch": torch.__version__, "python": platform.python_version()}
    record = {
        "versions": versions,
        "clips": counts,
        "seconds": round(seconds, 2),
        "rows": [asdict(row) for row in rows],
    }
    (out / "demo.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
    try:
        need("matplotlib")
    except ImportError as error:
        print(f"curve: left out, {error}", file=sys.stderr)
    else:
        draw_curve(rows, out / "demo.png")
        print(f"curve: {out / 'demo.png'}")
    print(f"data: {out / 'demo.json'}")
