"""What three papers claim, tested on pocket: the cells that are measured, and the page that is made of their results.

    python -m recipes.pocket.manifests --split test --limit 325 --out out/test
    python -m recipes.claims run       # cells that are missing, from the model, into results/: 40 minutes on 2 cores
    python -m recipes.claims write     # docs/claims.md and its pictures, from the result files alone

Two processes with other --tasks may run side by side. `make claims` does the first two, `make reproduce` the last.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewhertz.evaluation import curves, results
from fewhertz.evaluation.metrics import METRICS, paired
from fewhertz.evaluation.results import BASELINE
from fewhertz.evaluation.runner import evaluate, specs
from fewhertz.files import Record

REPO = Path(__file__).resolve().parents[1]
RESULTS, DOCS, MANIFESTS = REPO / "results", REPO / "docs", REPO / "out" / "test"
MODEL = "pocket"
PARAMETERS = "4.9"  # millions, of the version of pocket that the result files name by its weights
RECOVERY = "recovery"  # folder of what adapters score, in that of all results
BATCH, LONGEST, DRAWS = 50, 64, 2000  # samples together, new tokens, bootstrap draws


@dataclass(frozen=True)
class Asked:
    """A task of the page: its list in `recipes/pocket/splits`, how many rows, its metric and how it is called."""

    label: str
    rows: int
    metric: str
    name: str
    unit: str


STRINGS = Asked("strings-test", 200, "wer", "word strings", "WER, %")
SENTENCES = Asked("synthetic-test", 200, "wer", "sentences", "WER, %")
GERMAN = Asked("german-test", 200, "bleu", "German → English", "BLEU")
SOUNDS = Asked("describe-test", 200, "cider", "captions", "CIDEr-D")
ANSWERS = Asked("answer-test", 325, "accuracy", "answers", "accuracy, %")
TASKS = (STRINGS, SENTENCES, GERMAN, SOUNDS, ANSWERS)
SPEECH, SPOKEN = (STRINGS, SENTENCES), (STRINGS, SENTENCES, GERMAN)

FACTORS = ("1/2", "1/3", "1/4", "1/5", "1/6")
MERGING = ("pool", "stride", "segment", "ltbm", "global-merge")
SHARES = ("1/2", "1/4", "1/10")
SCORED = ("segmentwise", "topk", "visionzip", "random", "bottomk")
SEGMENTS = (2, 5, 10, 15)
SITES = ("pool", "segment", "ltbm")
TOLD = tuple(f"{name}+time+sizes" for name in ("pool", "segment", "ltbm", "segmentwise", "ward"))
FEW = ("1/2", "1/3", "1/4", "1/6")
# what unseg keeps follows content: the fixed budgets are the rates that it had on dev, in Hz
UNSEG_HZ = {
    "unseg": {STRINGS: 6.58, SENTENCES: 8.29, GERMAN: 8.67, SOUNDS: 6.9, ANSWERS: 7.05},
    "unseg(prominence=0.1)": {STRINGS: 2.68, SENTENCES: 7.6, GERMAN: 7.9, SOUNDS: 1.03, ANSWERS: 2.31},
}


def grid(task: Asked) -> list[str]:
    """The cells of a task, as specs."""
    cells = specs(MERGING, FACTORS)
    cells += specs(SCORED, SHARES)
    cells += specs(["random"], FEW)
    cells += specs([_segments(s) for s in SEGMENTS], ["1/4"])
    cells += specs([f"{name}(site=encoder)" for name in SITES], ["1/2", "1/3", "1/4"])
    cells += specs(["ward", *TOLD], FEW)
    for spec, rates in UNSEG_HZ.items():
        cells += specs([spec, *(f"{name}@{rates[task]:g}Hz" for name in ("pool", "segment"))])
    return list(dict.fromkeys(cells))


def _segments(count: int) -> str:
    return "segmentwise" if count == 10 else f"segmentwise(segments={count})"


def run(out: Path, manifests: Path, tasks: Sequence[str]) -> int:
    """Run the cells of some tasks that are missing; returns how many rows or cells went wrong."""
    return sum(measure(task, grid(task), out, manifests) for task in TASKS if task.label in tasks)


def measure(
    task: Asked,
    cells: list[str],
    out: Path,
    manifests: Path,
    adapters: Sequence[Path] = (),
    model: str | Path = MODEL,
) -> int:
    """Run cells of a task that are missing; returns how many rows or cells went wrong."""
    from transformers.utils import logging

    import fewhertz.tasks  # noqa: F401
    from fewhertz.tasks.base import TASKS as KINDS

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    data = KINDS["manifest"](data=str(manifests / f"{task.label}.jsonl"))
    done = evaluate(
        model, data, cells, out, limit=task.rows, batch_size=BATCH, max_new_tokens=LONGEST, device="cpu",
        adapters=adapters, say=lambda text: print(text, flush=True),
    )  # fmt: skip
    for error in done.errors:
        print(error, flush=True)
    return len(done.errors)


@dataclass(frozen=True)
class Gain:
    """How much better one cell is than another, in units of the metric (above 0: better), with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1: better, −1: worse, 0: the interval holds 0."""
        return int(self.low > 0) - int(self.high < 0)

    def __str__(self) -> str:
        mark = {1: " ✓", -1: " ✗", 0: ""}[self.sign]
        digits = 2 if max(abs(self.low), abs(self.high)) < 2 else 1
        return f"{signed(self.value, self.low, self.high, digits)}{mark}"


def signed(value: float, low: float, high: float, digits: int) -> str:
    """A difference and its interval."""
    # rounded first, and then nothing is −0
    shown, *ends = (f"{round(x, digits) + 0.0:+.{digits}f}" for x in (value, low, high))
    return f"{shown} [{', '.join(ends)}]"


@dataclass(frozen=True)
class With:
    """A cell of the model with an adapter on it, by their names."""

    adapter: str
    spec: str


class Measured:
    """The result files, and what is worked out from them. A cell is a spec, or `With` an adapter."""

    def __init__(self, root: Path, model: str = MODEL) -> None:
        self.root, self.model = root, model

    def cell(self, task: Asked, spec: str | With) -> Path:
        if isinstance(spec, With):
            return results.run_files(self.root / RECOVERY, task.label, f"{MODEL}+{spec.adapter}", spec.spec).file
        return results.run_files(self.root, task.label, self.model, spec).file

    @functools.cache  # noqa: B019 (lives as long as the page is written)
    def result(self, task: Asked, spec: str | With) -> Record:
        return results.read(self.cell(task, spec))

    @functools.cache  # noqa: B019
    def stats(self, task: Asked, spec: str | With) -> tuple[np.ndarray, list[str]]:
        """Statistics of each sample, and the group that it is drawn with."""
        rows = results.read_samples(self.cell(task, spec))
        groups = [row["id"] if row["group"] is None else row["group"] for row in rows]
        return np.array([row["stats"][task.metric] for row in rows], float), groups

    def score(self, task: Asked, spec: str | With) -> Record:
        return self.result(task, spec)["scores"][task.metric]

    @functools.cache  # noqa: B019
    def gain(self, task: Asked, one: str | With, other: str | With) -> Gain:
        """How much better `one` is than `other`, on the same samples."""
        (a, groups), (b, same) = self.stats(task, one), self.stats(task, other)
        if groups != same:
            raise ValueError(f"{task.label}: {one} and {other} are not of the same samples: run their cells again")
        value, low, high = paired(METRICS[task.metric], a, b, groups, DRAWS)
        return Gain(value, low, high) if METRICS[task.metric].higher_is_better else Gain(-value, -high, -low)

    def gained(self, task: Asked, one: str | With, other: str | With) -> Gain | None:
        """`gain`, where both cells have been measured."""
        return self.gain(task, one, other) if self.there(task, one, other) else None

    def hertz(self, task: Asked, spec: str | With) -> float:
        return self.result(task, spec)["rate_hz"]["after"]

    def there(self, task: Asked, *specs: str | With) -> bool:
        """Whether all of some cells have been measured."""
        return all(self.cell(task, spec).exists() for spec in specs)

    def number(self, task: Asked, spec: str | With) -> str:
        """A score; a dash where its cell is missing."""
        if not self.there(task, spec):
            return "–"
        return f"{self.score(task, spec)['score']:.{2 if task.metric == 'cider' else 1}f}"


def at(method: str, keep: str) -> str:
    """A method's spec at a budget: `ward+time+sizes` at 1/3 is `ward@keep=1/3+time+sizes`."""
    (spec,) = specs([method], [keep])[1:]
    return spec


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def tally(gains: Sequence[Gain]) -> str:
    """In how many comparisons a claim holds, fails, or cannot be told."""
    better, worse = (sum(gain.sign == sign for gain in gains) for sign in (1, -1))
    parts = [f"holds in {better} of {len(gains)} comparisons", f"the contrary in {worse}"]
    return f"{', '.join(parts)}, {len(gains) - better - worse} cannot be told"


def word(gains: Sequence[Gain]) -> str:
    """A verdict on "one is better than the other", over several comparisons."""
    signs = {gain.sign for gain in gains}
    if signs == {1}:
        return "**holds**"
    if signs == {-1}:
        return "**does not hold**: the contrary"
    if signs == {0}:
        return "**cannot be told**"
    if 2 * sum(not gain.sign for gain in gains) > len(gains):
        return "**cannot be told** in most comparisons"
    if 1 not in signs:
        return "**does not hold**"
    return "**holds in part**" if -1 not in signs else "**mixed**"


@dataclass(frozen=True)
class Claim:
    """A section of the page and its row in the table at its head."""

    title: str
    source: str
    short: str  # what was measured, in a few words
    verdict: str
    body: str


def versus(
    measured: Measured, tasks: Sequence[Asked], keeps: Sequence[str], one: str, other: str
) -> tuple[str, list[Gain]]:
    """A table of how much better one method is than another, tasks × keeps, and all of its gains."""
    gains = {(task, keep): measured.gain(task, at(one, keep), at(other, keep)) for task in tasks for keep in keeps}
    rows = [[f"{task.name} ({task.unit})", *(gains[task, keep] for keep in keeps)] for task in tasks]
    return table(["gain", *keeps], rows), list(gains.values())


def averaging(measured: Measured) -> Claim:
    body, _ = versus(measured, TASKS, FACTORS, "pool", "stride")
    _, spoken = versus(measured, SPOKEN, FACTORS, "pool", "stride")
    return Claim(
        "Averaging beats sampling at every factor from 2 to 6",
        "arXiv 2511.20973, speech recognition and translation",
        f"`pool` over `stride` on three speech tasks: {tally(spoken)}",
        word(spoken),
        f"Gain of `pool` over `stride`.\n\n{body}\n\nThe paper's tasks are the first three. It compares after LoRA "
        "recovery too: that is claim 11.",
    )


def degradation(measured: Measured) -> Claim:
    heads, rows, twice = ["", "keep=1", *FACTORS, "×6 over all"], [], []
    for method in ("pool", "pool+time+sizes"):
        for task in SPEECH:
            base = measured.score(task, BASELINE)["score"]
            cells = [measured.score(task, at(method, k)) for k in (FACTORS if method == "pool" else FEW)]
            by_keep = dict(zip(FACTORS if method == "pool" else FEW, cells, strict=True))
            last = by_keep["1/6"]
            ratio = [last["score"] / base, *(end / base for end in last["interval"])]
            twice.append((method, task, ratio))
            shown = [f"{by_keep[k]['score']:.1f}" if k in by_keep else "–" for k in FACTORS]
            rows.append(
                [f"`{method}`, {task.name}", f"{base:.1f}", *shown, f"{ratio[0]:.1f} [{ratio[1]:.1f}, {ratio[2]:.1f}]"]
            )
    steps = [_steepest(measured, task) for task in SPEECH]
    plain = [ratio for method, _, ratio in twice if method == "pool"]
    told = [f"{ratio[0]:.1f} ({task.name})" for method, task, ratio in twice if method != "pool"]
    return Claim(
        "Without training, errors rise slowly up to a knee; factor 6 doubles the word error rate",
        "arXiv 2511.20973",
        "WER at 1/6 over WER at 1: "
        + ", ".join(f"{ratio[0]:.1f}" for ratio in plain)
        + f" (`pool`); {', '.join(told)} with `+time+sizes`",
        "**does not hold**: far more than doubled, and the steepest step is the first"
        if all(ratio[1] > 2 for ratio in plain) and not any(worst for worst, _ in steps)
        else "**holds in part**",
        f"Word error rate in %.\n\n{table(heads, rows)}\n\n"
        + " ".join(text for _, text in steps)
        + " The ratio's interval is that of the score "
        "at 1/6 over the measured score at 1. The paper's figure is of a 7B model after LoRA recovery: one as small as "
        "pocket has less to fall back on.",
    )


def _steepest(measured: Measured, task: Asked) -> tuple[int, str]:
    """Which step costs most, from 0, and what it costs, in words."""
    scores = [measured.score(task, BASELINE)["score"], *(measured.score(task, at("pool", k))["score"] for k in FACTORS)]
    rises = [b - a for a, b in itertools.pairwise(scores)]
    worst = int(np.argmax(rises))
    return worst, (
        f"On {task.name} the steepest step of `pool` is from ×{worst + 1} to ×{worst + 2}: {rises[worst]:+.1f} of "
        f"{scores[-1] - scores[0]:+.1f} points in all."
    )


def segmentation(measured: Measured) -> Claim:
    rows, over_pool, over_fixed = [], [], []
    for spec, rates in UNSEG_HZ.items():
        for task in TASKS:
            pool, fixed = (f"{name}@{rates[task]:g}Hz" for name in ("pool", "segment"))
            gains = [
                measured.gain(task, spec, pool),
                measured.gain(task, spec, fixed),
                measured.gain(task, fixed, pool),
            ]
            hertz = " / ".join(f"{measured.hertz(task, one):.1f}" for one in (spec, fixed, pool))
            rows.append([f"`{spec}`, {task.name} ({task.unit})", hertz, *gains])
            over_pool.append(gains[0])
            over_fixed.append(gains[1])
    return Claim(
        "Unsupervised segmentation against uniform pooling at the same rate",
        "arXiv 2511.20973",
        f"`unseg` over `pool`: {tally(over_pool)}; over its fixed-budget form `segment`: {tally(over_fixed)}",
        f"`unseg` better than `pool`: {word(over_pool)}; than `segment`: {word(over_fixed)}",
        table(
            [
                "at the rate of",
                "Hz: unseg / segment / pool",
                "unseg over pool",
                "unseg over segment",
                "segment over pool",
            ],
            rows,
        )
        + "\n\nRates of `segment` and `pool` were fixed by what `unseg` kept on dev, so they are near and not equal.",
    )


def local(measured: Measured) -> Claim:
    caption, captions = versus(measured, [SOUNDS], FACTORS, "ltbm", "global-merge")
    answer, answers = versus(measured, [ANSWERS], FACTORS, "global-merge", "ltbm")
    speech, _ = versus(measured, SPOKEN, FACTORS, "ltbm", "global-merge")
    return Claim(
        "Captioning prefers local merging, multiple choice prefers global merging",
        "arXiv 2605.25179",
        f"captions, `ltbm` over `global-merge`: {tally(captions)}; answers, the other way round: {tally(answers)}",
        f"captions: {word(captions)}; answers: {word(answers)}",
        f"Gain of `ltbm` over `global-merge`.\n\n{caption}\n\nGain of `global-merge` over `ltbm`.\n\n{answer}\n\n"
        f"Speech, which the paper did not test; gain of `ltbm` over `global-merge`.\n\n{speech}\n\n"
        "The paper used AudioCaps, Clotho and MMAU with 7B models; these are scenes of one to three sounds, and six "
        "kinds of questions about sounds and speech.",
    )


def segmentwise(measured: Measured) -> Claim:
    parts, verdicts = [], {}
    for other in SCORED[1:]:
        body, gains = versus(
            measured, (SOUNDS, ANSWERS, *SPOKEN), SHARES,
            "segmentwise", other,
        )  # fmt: skip
        parts.append(f"Gain of `segmentwise` over `{other}`: {word(gains)} ({tally(gains)}).\n\n{body}")
        verdicts[other] = gains
    return Claim(
        "Segmentwise selection beats top-k, VisionZip, random and bottom-k at 50, 25 and 10 % of the tokens",
        "arXiv 2511.14293",
        "3 budgets × 5 tasks; " + "; ".join(f"over `{other}` {tally(gains)}" for other, gains in verdicts.items()),
        "; ".join(f"`{other}`: {word(gains)}" for other, gains in verdicts.items()),
        "\n\n".join(parts),
    )


def bounded(measured: Measured) -> Claim:
    rows, verdicts = [], []
    for task, bar in ((SOUNDS, 2), (ANSWERS, 4)):
        base = measured.score(task, BASELINE)["score"]
        for method in ("segmentwise", "segmentwise+time+sizes", "ward+time+sizes"):
            gain = measured.gain(task, at(method, "1/4"), BASELINE)
            loss, low, high = (-100 * x / base for x in (gain.value, gain.high, gain.low))
            told = "holds" if high <= bar else "does not hold" if low > bar else "cannot be told"
            rows.append([f"`{method}`, {task.name}", f"{loss:.1f} [{low:.1f}, {high:.1f}]", f"≤ {bar}", told])
            if method == "segmentwise":
                verdicts.append((task, loss, told))
    return Claim(
        "A quarter of the tokens costs at most 2 % of CIDEr and 4 % of accuracy",
        "arXiv 2511.14293",
        "; ".join(f"{task.name}: {loss:.1f} % lost" for task, loss, _ in verdicts),
        "; ".join(f"{task.name}: **{told}**" for task, _, told in verdicts),
        "Relative loss in % of the score at keep=1, training-free.\n\n"
        + table(["at keep=1/4", "loss, % [95 %]", "claimed", ""], rows),
    )


def many_segments(measured: Measured) -> Claim:
    others = [s for s in SEGMENTS if s != 10]
    gains = {
        (task, s): measured.gain(task, at("segmentwise", "1/4"), at(_segments(s), "1/4"))
        for task in TASKS
        for s in others
    }
    rows = []
    for task in TASKS:
        rows.append([f"{task.name} ({task.unit})", *(gains[task, s] for s in others)])
    paper = [gains[task, s] for task in (SOUNDS, ANSWERS) for s in others]
    worse = sum(gain.sign < 0 for gain in gains.values())
    return Claim(
        "Ten segments are a good choice among 2 to 15",
        "arXiv 2511.14293",
        f"S = 10 against each of {', '.join(map(str, others))} at 1/4; captions and answers: {tally(paper)}; "
        f"with speech, S = 10 is worse in {worse} of {len(gains)}",
        "**holds**: none is better" if not worse else word(list(gains.values())),
        "Gain of S = 10 over other numbers of segments.\n\n"
        + table(["S = 10 over", *(f"S = {s}" for s in others)], rows),
    )


def sites(measured: Measured) -> Claim:
    parts, every = [], []
    for method in SITES:
        body, gains = versus(measured, TASKS, ("1/2", "1/3", "1/4"), f"{method}(site=encoder)", method)
        parts.append(f"`{method}`: gain of the encoder's site over the LLM's.\n\n{body}")
        every += gains
    return Claim(
        "Merging before the projector (encoder site) is better than after it (LLM site)",
        "a question left open by the papers",
        tally(every),
        word(every),
        "\n\n".join(parts)
        + "\n\nFor `pool` on Qwen2-Audio's class the two are the same up to rounding: its projector is "
        "linear, and a mean commutes with it.",
    )


def told(measured: Measured) -> Claim:
    rows, every = [], []
    for name in TOLD:
        bare = name.removesuffix("+time+sizes")
        for task in TASKS:
            gains = [measured.gain(task, at(name, k), at(bare, k)) for k in _both(bare)]
            every += gains
            by_keep = dict(zip(_both(bare), gains, strict=True))
            rows.append([f"`{name}`, {task.name} ({task.unit})", *(by_keep.get(k, "–") for k in FEW)])
    return Claim(
        "Telling the LLM when a token was and how much it stands for gives back what merging seemed to cost",
        "our own (DESIGN.md, What the LLM is told)",
        f"`+time+sizes` over the same method without: {tally(every)}",
        word(every),
        f"Gain of `+time+sizes` over the method as published.\n\n{table(['gain', *FEW], rows)}",
    )


def _both(bare: str) -> tuple[str, ...]:
    """Keeps at which a method was run both as published and told."""
    return ("1/2", "1/4") if bare in SCORED else FEW


def speed(measured: Measured) -> Claim:
    bench = json.loads((RESULTS / "bench" / "prefill.json").read_text("utf-8"))
    paper = bench["paper"]
    limit, predicted = f"{paper['limit_at_any_length']:.0f}", f"{paper['predicted_speedup_30s']:.2f}"
    here = ", ".join(f"{value:.2f} ({case})" for case, value in paper["measured_speedup_here"].items())
    rows = [
        [row["case"], row["keep"], f"{row['speedup']:.2f}", f"{row['speedup_predicted']:.2f}"]
        for row in bench["rows"]
        if row["method"].startswith("pool@") and row["keep"] != "1"
    ]
    told = {True: "met", False: "missed", None: "not told"}
    bars = [[bar["what"], bar["bar"], _worst(bar), told[bar["met"]]] for bar in bench["bars"]]
    where = bench["environment"]["gpu"] or bench["environment"]["cpu"]
    return Claim(
        "Half the tokens make prefill 4.7 times faster (162.5 → 34.4 ms on an A100)",
        "arXiv 2511.14293",
        f"by operations, Qwen2-Audio-7B and 30 s: {predicted} times, {limit} at most at any length; measured: {here}",
        "**does not hold** by fewer operations alone",
        "Operations of a prefill are a + b·n + c·n² with nothing negative, so half the tokens leave a quarter at "
        f"least: {paper['reported_speedup']:.2f} times is more than the {limit} of attention alone. For 30 s of audio "
        f"{paper['ms_saved_explained_30s']:.0f} of the {paper['ms_saved']:.0f} ms saved would be explained. What else "
        "differed between the paper's two figures (a first call, another kernel, memory) we cannot tell.\n\n"
        f"Measured on {where}, layers of the 7B's true shapes, random weights, `pool`; reduced: "
        f"{'; '.join(bench['reduced']) or 'nothing'}.\n\n"
        + table(["case", "keep", "times faster", "predicted"], rows)
        + "\n\nOur own bars, over all methods and cases of `results/bench/prefill.json`:\n\n"
        + table(["", "bar", "worst", ""], bars),
    )


def _worst(bar: Record) -> str:
    return "–" if bar["worst"] is None else f"{bar['worst']:.3g} ({bar['worst_row']})"


CLAIMS = (averaging, degradation, segmentation, local, segmentwise, bounded, many_segments, sites, speed, told)


HEAD = """# Claims of the field, tested on pocket

Made by `make reproduce` from the result files in `results/`; do not edit. `make claims` measures the cells anew, `make
recovery` trains the adapters and measures theirs.

**What this is.** Three papers make claims about fewer audio tokens, on models of 7 billion parameters. Here they are
tested on *pocket*, a model of the Qwen2-Audio class of {parameters} million parameters that we trained ourselves and
ship (weights `{sha}`), greedy; training-free up to claim {free} and in the last one, with LoRA adapters in between. A
claim that fails here may hold for a large model; what is shown is whether it follows from the method alone. pocket is
far from a good model: with all tokens it scores {whole}.

**How to read it.** A gain is how much better the first method is than the second, in units of the metric, above 0
always meaning better, with its 95 % interval: a paired bootstrap over groups (a speaker of word strings, a sentence, a
scene) of the same samples. ✓: the interval lies above 0, ✗: below. An adapter was trained once: intervals are over
samples, not over trainings. They are not corrected for their number: of twenty comparisons without any difference, one
is expected to be marked. Test lists, nothing chosen on them.
"""


def page(measured: Measured) -> str:
    """The text of docs/claims.md."""
    from . import recovery, training_free  # which are made of this

    base = measured.result(STRINGS, BASELINE)
    whole = ", ".join(f"{measured.score(task, BASELINE)['score']:.3g} ({task.name}, {task.unit})" for task in TASKS)
    claims = [make(measured) for make in (*CLAIMS, *recovery.CLAIMS, training_free.claim)]
    rows = [[i, claim.title, claim.short, claim.verdict] for i, claim in enumerate(claims, 1)]
    data = [
        [task.name, f"`{task.label}`", one["n"], one["groups"], task.unit, f"{one['rate_hz']['before']:.1f}"]
        for task in TASKS
        for one in [measured.result(task, BASELINE)]
    ]
    machine = base["hardware"]
    parts = [
        HEAD.format(parameters=PARAMETERS, sha=base["weights_sha256"][:8], whole=whole, free=len(CLAIMS)),
        table(["", "claim", "measured", "here it"], rows),
        "![Quality of pocket against audio tokens per second on five tasks, eight methods](claims.png)",
        "## Data",
        table(["task", "list (`recipes/pocket/splits`)", "samples", "groups", "metric", "Hz at keep=1"], data),
        f"Measured on {machine['cores']} cores of {machine['device']}, torch {base['versions']['torch']}, transformers "
        f"{base['versions']['transformers']}, {base['dtype']}, {base['date'][:10]}.",
    ]
    for i, claim in enumerate(claims, 1):
        parts += [f"## {i}. {claim.title}", f"*{claim.source}.* Here: {claim.verdict}.", claim.body]
    return "\n\n".join([*parts, recovery.adapters(measured.root)]) + "\n"


def rates_table(measured: Measured) -> str:
    """The table of docs/results.md: word error rates of strings and sentences."""
    published = ("pool", "stride", "segment", "ltbm", "global-merge", "ward")
    rows = []
    for method in (*published, "segmentwise", "topk", "visionzip", "random", "bottomk", *TOLD):
        scores = {
            keep: " / ".join(f"{measured.score(task, at(method, keep))['score']:.1f}" for task in SPEECH)
            for keep in FEW
            if measured.there(STRINGS, at(method, keep))
        }
        rows.append([f"`{method}`", *(scores.get(keep, "–") for keep in FEW)])
    hertz = [f"{measured.hertz(SENTENCES, at('pool', keep)):.1f} Hz ({keep})" for keep in FEW]
    return table(["method", *hertz], rows)


def write(root: Path, docs: Path) -> list[Path]:
    """Write the page and its pictures; returns their files."""
    from . import recovery

    measured = Measured(root)
    found = [group for group in curves.groups(root)[0] if group.model == MODEL]
    lines = ("pool", "ltbm", "segment", "stride", "pool+time+sizes", "ward+time+sizes", "segmentwise", "random")
    numbers = {line: -1 if curves.line_is_random(line) else i for i, line in enumerate(lines)}
    files = [docs / "claims.md", docs / "claims.png", docs / "curve.png"]
    files[0].write_text(page(measured), "utf-8")
    for file, tasks in ((files[1], TASKS), (files[2], SPEECH)):
        curves.plot(curves.choose(found, [task.label for task in tasks], [MODEL]), numbers, file, lines)
    return [*files, recovery.draw(measured, docs / "recovery.png")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("run", "write", "table"), help="table: of docs/results.md, to standard output")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--manifests", type=Path, default=MANIFESTS)
    labels = [task.label for task in TASKS]
    parser.add_argument("--tasks", nargs="*", choices=labels, default=labels, help="to run; all by default")
    args = parser.parse_args()
    if args.job == "run":
        raise SystemExit(int(run(args.results, args.manifests, args.tasks) > 0))
    if args.job == "table":
        print(rates_table(Measured(args.results)))
    else:
        print(*write(args.results, args.docs), sep="\n")


if __name__ == "__main__":
    from recipes import claims  # recovery imports it too: its classes must not be there twice

    claims.main()
