"""LoRA recovery on pocket: adapters that are trained, their cells, and the sections of docs/claims.md on them.

    python -m recipes.recovery train      # adapters that are missing; --part 1/2 and 2/2 side by side
    python -m recipes.recovery run        # their cells that are missing, into results/

`make recovery` makes the lists that both read, and then does both. The page is written by `recipes.claims`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import fewhertz
from fewhertz.evaluation import curves
from fewhertz.evaluation.results import BASELINE
from fewhertz.files import replace

from . import claims
from .claims import ANSWERS, GERMAN, REPO, RESULTS, SENTENCES, SOUNDS, STRINGS, Asked, Claim, Gain, Measured, With

ADAPTERS, MANIFESTS = REPO / "out" / "adapters", REPO / "out"
FRENCH = Asked("french-synthetic-test", 200, "wer", "French", "WER, %")
ROWS = {"strings": 1000, "synthetic": 1500, "french-synthetic": 400}  # of a training list, its first ones
LANGUAGES = {"en": ("strings", "synthetic"), "fr": ("french-synthetic",)}
# learning rate by the loss on dev, of pool at 1/3 (the trials `lr-…`)
SETTINGS: dict[str, Any] = {"steps": 300, "batch_size": 16, "lr": 3e-3, "every": 100}

METHODS, DIVISORS = ("pool", "stride", "segment", "ltbm"), (2, 3, 4, 5, 6)


@dataclass(frozen=True)
class Trial:
    """An adapter: what it wears, what it is trained on, and what differs from `SETTINGS`."""

    name: str
    method: str
    language: str = "en"
    settings: dict[str, Any] = field(default_factory=dict)


def keep(method: str, divisor: int) -> str:
    return claims.at(method, f"1/{divisor}")


DISTILL: dict[str, Any] = {"objective": "distill", "max_new_tokens": 64}


def _taught(teacher: str | None) -> dict[str, Any]:
    return DISTILL | {"teacher": teacher}


def _stem(method: str) -> str:
    """Of the names of a method's trials at ×3."""
    return method.replace("+time+sizes", "-told")


def _for(steps: int, method: str) -> Trial:
    return Trial(f"{_stem(method)}-3-{steps}", keep(method, 3), settings={"steps": steps, "every": min(steps, 100)})


GRID = [Trial(f"{method}-{k}", keep(method, k)) for method in METHODS for k in DIVISORS]
CONTROL, CONTROL_FR = Trial("none", "none"), Trial("none-fr", "none", "fr")
UNSEG = Trial("unseg", "unseg")
THIRD = "pool@keep=1/3"
SHAPES = [
    Trial("pool-3-k", THIRD, settings={"targets": "k"}),
    Trial("pool-3-all", THIRD, settings={"targets": "all"}),
    Trial("pool-3-r8", THIRD, settings={"rank": 8}),
    Trial("pool-3-r32", THIRD, settings={"rank": 32}),
    Trial("pool-3-a16", THIRD, settings={"alpha": 16}),
    Trial("pool-3-a64", THIRD, settings={"alpha": 64}),
]
TOLD = [Trial(f"{method}-told-{k}", keep(f"{method}+time+sizes", k)) for method in ("pool", "ward") for k in (2, 3)]
LEARNED = [Trial("conv-2", keep("conv", 2)), Trial("conv-3", keep("conv", 3))]
# what a shorter and a longer training leave; 300 steps are among the trials above, but for `ward` as published
SHORT, LONG = (25, 100), 600
LADDER = ("pool", "pool+time+sizes", "ward", "ward+time+sizes")
WARD = Trial("ward-3", keep("ward", 3))
# what did best alone, together
ALL_OF_IT = DISTILL | {"targets": "all"}
COMBINED = [Trial(f"combined-{k}", keep("conv+time+sizes", k), settings=ALL_OF_IT) for k in (2, 3)]
FRENCH_THIRD = Trial("pool-3-fr", THIRD, "fr")
DISTILLED = Trial("pool-3-distill", THIRD, settings=DISTILL)
UNTOLD = [Trial(f"ward-untold-{k}", keep("ward", k), settings=_taught(keep("ward+time+sizes", k))) for k in (2, 3)]
UNTAUGHT = Trial("ward-distill-3", keep("ward", 3), settings=_taught(None))
RANGE = Trial("pool-range", "pool", settings={"keeps": tuple(Fraction(1, k) for k in DIVISORS)})
FEWER = [WARD, *(_for(steps, method) for method in LADDER for steps in SHORT)]
LONGER = [Trial(f"none-{LONG}", "none", settings={"steps": LONG}), *(_for(LONG, m) for m in LADDER if m != "ward")]
RATES = [Trial(f"lr-{lr:g}", THIRD, settings={"lr": lr}) for lr in (1e-3, 1e-2)]
TRIALS = [
    *RATES,
    CONTROL,
    *GRID,
    *TOLD,
    *LEARNED,
    *COMBINED,
    RANGE,
    DISTILLED,
    *SHAPES,
    CONTROL_FR,
    FRENCH_THIRD,
    UNSEG,
    *FEWER,
    *UNTOLD,
    UNTAUGHT,
    *LONGER,
]


def train(names: Sequence[str], results: Path) -> None:
    """Train the adapters that are missing; what each took goes to the results."""
    for trial in TRIALS:
        summary = results / claims.RECOVERY / f"{trial.name}.json"
        if trial.name not in names or (summary.exists() and (ADAPTERS / trial.name).exists()):
            continue
        tasks = [_first(MANIFESTS / "train" / f"{name}-train.jsonl", ROWS[name]) for name in LANGUAGES[trial.language]]
        dev = [MANIFESTS / "dev" / f"{name}-dev.jsonl" for name in LANGUAGES[trial.language]]
        done = fewhertz.train(
            "pocket", trial.method, tasks, ADAPTERS / trial.name, dev=dev, device="cpu", cache=MANIFESTS / "heard",
            say=lambda text, name=trial.name: print(f"{name}: {text}", flush=True), **SETTINGS | trial.settings,
        )  # fmt: skip
        told = json.loads((done.directory / "training" / "summary.json").read_text("utf-8"))
        told = {
            "trial": dataclasses.asdict(trial),
            "rows": {name: ROWS[name] for name in LANGUAGES[trial.language]},
        } | told
        text = json.dumps(told, indent=1, default=str) + "\n"
        replace(summary, text.encode())


def _first(manifest: Path, count: int) -> Path:
    """The first rows of a manifest, beside it."""
    some = manifest.with_name(f"{manifest.stem}-{count}.jsonl")
    replace(some, "".join(manifest.read_text("utf-8").splitlines(keepends=True)[:count]).encode())
    return some


def run(out: Path, manifests: Path, tasks: Sequence[str]) -> int:
    """Run the cells that are missing of adapters that are there; returns how many rows or cells went wrong."""
    wrong = 0
    if FRENCH.label in tasks:
        wrong += claims.measure(FRENCH, [THIRD], out, manifests)
    for task in (STRINGS, SENTENCES, FRENCH, GERMAN, SOUNDS, ANSWERS):
        if task.label in tasks:
            ended = [name for name in measured_on(task) if (out / claims.RECOVERY / f"{name}.json").exists()]
            there = [ADAPTERS / name for name in ended]
            wrong += claims.measure(task, [], out / claims.RECOVERY, manifests, there) if there else 0
    return wrong


def measured_on(task: Asked) -> list[str]:
    """Names of the adapters that a task measures."""
    if task in claims.SPEECH:
        return [trial.name for trial in TRIALS if trial not in RATES]
    ours = [CONTROL.name, "pool-3"]
    return [*ours, CONTROL_FR.name, FRENCH_THIRD.name] if task == FRENCH else ours


def summary(root: Path, name: str) -> dict[str, Any]:
    """How an adapter was trained, and what that took."""
    return json.loads((root / claims.RECOVERY / f"{name}.json").read_text("utf-8"))


CONTROLLED, ADAPTED = With(CONTROL.name, BASELINE), With("pool-3", THIRD)


def cell(trial: Trial, spec: str | None = None) -> With:
    return With(trial.name, spec or trial.method)


def named(name: str) -> Trial:
    return next(trial for trial in TRIALS if trial.name == name)


def points(gain: Gain) -> str:
    """How many points of WER more, with the interval."""
    value, low, high = (round(x, 1) + 0.0 for x in (-gain.value, -gain.high, -gain.low))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def within(gain: Gain, bar: float) -> str:
    """Whether a cost is at most so much."""
    return "holds" if -gain.low <= bar else "does not hold" if -gain.high > bar else "cannot be told"


def wer(measured: Measured, spec: str | With) -> str:
    return " / ".join(f"{measured.score(task, spec)['score']:.1f}" for task in claims.SPEECH)


def recovered(measured: Measured) -> Claim:
    rows, over, back = [], [], []
    for method in METHODS:
        trials = [named(f"{method}-{k}") for k in DIVISORS]
        rows.append([f"`{method}`, training-free", *(wer(measured, one.method) for one in trials)])
        rows.append([f"`{method}`, after LoRA", *(wer(measured, cell(one)) for one in trials)])
        for task in claims.SPEECH:
            over.append(
                [f"`{method}`, {task.name}", *(points(measured.gain(task, cell(one), CONTROLLED)) for one in trials)]
            )
            back += [measured.gain(task, cell(one), one.method) for one in trials]
    rows.append(
        [
            f"`unseg` ({measured.hertz(SENTENCES, 'unseg'):.1f} Hz on sentences), training-free",
            wer(measured, "unseg"),
            *"––––",
        ]
    )
    rows.append(["`unseg`, after LoRA", wer(measured, cell(UNSEG)), *"––––"])
    averaged = [
        measured.gain(task, cell(named(f"pool-{k}")), cell(named(f"stride-{k}")))
        for task in claims.SPEECH
        for k in DIVISORS
    ]
    paper, bars, twice = [], [], []
    for k, limit, bar in ((2, 1.0, 0.5), (3, 1.5, 1.0)):
        for task in claims.SPEECH:
            gains = {method: measured.gain(task, cell(named(f"{method}-{k}")), CONTROLLED) for method in METHODS}
            paper.append((k, task, within(gains["pool"], limit)))
            told = [
                measured.gain(task, cell(named(name)), CONTROLLED)
                for name in (f"ward-told-{k}", f"conv-{k}", f"combined-{k}")
            ]
            bars.append([f"×{k} ≤ +{bar}, {task.name}", *(within(gain, bar) for gain in (*gains.values(), *told))])
    for task in claims.SPEECH:
        last, whole = measured.score(task, cell(named("pool-6"))), measured.score(task, CONTROLLED)["score"]
        twice.append([last["score"] / whole, *(end / whole for end in last["interval"])])
    ratios = ", ".join(
        f"{r:.1f} [{low:.1f}, {high:.1f}] ({task.name})"
        for (r, low, high), task in zip(twice, claims.SPEECH, strict=True)
    )
    paper += [
        (6, task, "holds" if high <= 2 else "does not hold" if low > 2 else "cannot be told")
        for (_, low, high), task in zip(twice, claims.SPEECH, strict=True)
    ]
    heads = ["WER, %: strings / sentences", *(f"×{k}" for k in DIVISORS)]
    return Claim(
        "After LoRA, half the tokens add less than one WER point, a third 1 to 1.5, and a sixth doubles the WER",
        "arXiv 2511.20973 (r = 16, α = 32, queries and keys of the LLM)",
        "; ".join(
            f"`pool` at ×{k} over the control: "
            + ", ".join(
                f"{points(measured.gain(t, cell(named(f'pool-{k}')), CONTROLLED))} ({t.name})" for t in claims.SPEECH
            )
            for k in (2, 3)
        )
        + f"; WER at ×6 over the control's: {ratios}",
        "; ".join(f"×{k}, {task.name}: **{verdict}**" for k, task, verdict in paper),
        f"All tokens, as shipped: {wer(measured, BASELINE)}; all tokens after the same extra training, which is the "
        f"control: **{wer(measured, CONTROLLED)}**.\n\n{claims.table(heads, rows)}\n\n"
        f"LoRA over training-free: {claims.tally(back)}. `pool` over `stride` after LoRA: {claims.tally(averaged)}.\n\n"
        "WER points above the control.\n\n"
        + claims.table(["", *(f"×{k}" for k in DIVISORS)], over)
        + "\n\nOur own bars, WER points above the control.\n\n"
        + claims.table(["bar", *(f"`{method}`" for method in (*METHODS, "ward+time+sizes", "conv", "combined"))], bars)
        + "\n\n![WER against audio tokens per second, training-free and after LoRA](recovery.png)",
    )


def draw(measured: Measured, file: Path) -> Path:
    """The WER against Hz, training-free and after LoRA; each line from its own model at all tokens."""
    groups = {
        (g.task, g.model): g
        for root in (measured.root / claims.RECOVERY, measured.root)
        for g in curves.groups(root)[0]
    }
    panels, after = [], "after LoRA"
    for task in claims.SPEECH:
        free = groups[task.label, claims.MODEL]
        panel = curves.Group(task.label, claims.MODEL)
        for method in METHODS:
            chosen = {keep(method, k) for k in DIVISORS}
            panel.runs += [one for one in free.runs if one.spec in chosen]
            panel.runs.append(dataclasses.replace(free.whole[0], spec=f"{method}@keep=1"))
            whole = groups[task.label, f"{claims.MODEL}+{CONTROL.name}"].whole[0]
            panel.runs.append(dataclasses.replace(whole, spec=f"{method}@keep=1 {after}"))
            for k in DIVISORS:
                trained = groups[task.label, f"{claims.MODEL}+{method}-{k}"]
                (one,) = [one for one in trained.runs if one.spec == keep(method, k)]
                panel.runs.append(dataclasses.replace(one, spec=f"{one.spec} {after}"))
        panel.runs.sort(key=lambda one: -one.rate)
        panels += curves.choose([panel])
    numbers = {f"{method} {after}": i for i, method in enumerate(METHODS)}
    numbers |= {method: i + len(curves.COLOURS) for i, method in enumerate(METHODS)}  # the same colours, dashed
    curves.plot(panels, numbers, file)
    return file


def told(measured: Measured) -> Claim:
    rows, gains = [], []
    for trial in (*TOLD, *LEARNED, *COMBINED):
        k = trial.name.rpartition("-")[2]
        plain = cell(named(f"pool-{k}"))
        better = [measured.gain(task, cell(trial), plain) for task in claims.SPEECH]
        gains += better
        free = wer(measured, trial.method) if trial in TOLD else "–"
        above = (points(measured.gain(task, cell(trial), CONTROLLED)) for task in claims.SPEECH)
        rows.append([f"`{trial.method}`", free, wer(measured, cell(trial)), *better, *above])
    heads = ["strings / sentences", "training-free", "after LoRA"]
    heads += [f"over `pool` after LoRA, {task.name}" for task in claims.SPEECH]
    heads += [f"WER points above the control, {task.name}" for task in claims.SPEECH]
    return Claim(
        "Once the LLM is trained, it still helps to tell it when and how much, or to learn the compressor",
        "our own (`+time+sizes`; `conv`, a learned strided convolution)",
        f"over plain `pool` after LoRA, at ×2 and ×3: {claims.tally(gains)}",
        claims.word(gains),
        claims.table(heads, rows)
        + "\n\n`conv` untrained is `pool`. The last two rows put together what did best alone: "
        "`conv`, told, all linear layers, distilled (`combined`). That choice was made when the test figures of the "
        "parts were known; dev losses speak for `conv` and for all layers too. The control had fewer numbers to train.",
    )


def shapes(measured: Measured) -> Claim:
    base = named("pool-3")
    rows, gains = [], []
    for trial in (base, *SHAPES):
        over = ["–", "–"] if trial == base else [measured.gain(task, cell(trial), cell(base)) for task in claims.SPEECH]
        gains += [one for one in over if isinstance(one, Gain)]
        rows.append(
            [
                f"{trial.settings or 'q,k; r = 16; α = 32'}".strip("{}").replace("'", ""),
                wer(measured, cell(trial)),
                *over,
            ]
        )
    return Claim(
        "What is adapted, and how much: queries and keys, r = 16, α = 32",
        "arXiv 2511.20973's setting; the others are our question",
        f"six others over it, `pool` at ×3: {claims.tally(gains)}",
        f"another is better: {claims.word(gains)}",
        claims.table(
            ["`pool@keep=1/3`", "strings / sentences", *(f"over q,k; 16; 32: {t.name}" for t in claims.SPEECH)], rows
        ),
    )


def languages(measured: Measured) -> Claim:
    rows = []
    kinds = [("no adapter, all tokens", BASELINE), ("no adapter, `pool` ×3", THIRD)]
    kinds += [("English control, all tokens", CONTROLLED), ("English adapter, `pool` ×3", ADAPTED)]
    kinds += [
        ("French control, all tokens", With(CONTROL_FR.name, BASELINE)),
        ("French adapter, `pool` ×3", cell(FRENCH_THIRD)),
    ]
    for label, spec in kinds:
        rows.append([label, *(f"{measured.score(task, spec)['score']:.1f}" for task in (SENTENCES, STRINGS, FRENCH))])
    to_french = measured.gain(FRENCH, ADAPTED, THIRD)
    to_english = [measured.gain(task, cell(FRENCH_THIRD), THIRD) for task in claims.SPEECH]
    own = [measured.gain(FRENCH, cell(FRENCH_THIRD), ADAPTED)]
    own += [measured.gain(task, ADAPTED, cell(FRENCH_THIRD)) for task in claims.SPEECH]
    return Claim(
        "An adapter that was trained on one language serves another",
        "arXiv 2511.20973 asks it",
        f"over no adapter at ×3: English adapter on French {to_french}; French adapter on English "
        + ", ".join(f"{gain} ({task.name})" for gain, task in zip(to_english, claims.SPEECH, strict=True)),
        f"better than none: {claims.word([to_french, *to_english])}; "
        f"one's own language better than the other: {claims.word(own)}",
        claims.table(["WER, %", "sentences", "strings", "French"], rows)
        + "\n\npocket hardly understands French, with all tokens too: its words there are mostly wrong.",
    )


def tasks(measured: Measured) -> Claim:
    rows, gains = [], []
    for task in (GERMAN, SOUNDS, ANSWERS):
        gain = measured.gain(task, ADAPTED, THIRD)
        gains.append(gain)
        scores = [f"{measured.score(task, spec)['score']:.3g}" for spec in (BASELINE, CONTROLLED, THIRD, ADAPTED)]
        rows.append([f"{task.name} ({task.unit})", *scores, gain])
    heads = ["", "all tokens", "all tokens, control", "`pool` ×3", "`pool` ×3, adapter", "adapter over none at ×3"]
    return Claim(
        "An adapter of speech recognition does not transfer to other tasks",
        "arXiv 2511.20973",
        f"adapter over none, `pool` at ×3, translation, captions, answers: {claims.tally(gains)}",
        "**holds**" if not any(gain.sign > 0 for gain in gains) else f"that it helps there too: {claims.word(gains)}",
        claims.table(heads, rows) + "\n\nThe adapter was trained on English transcripts alone.",
    )


def objectives(measured: Measured) -> Claim:
    base = cell(named("pool-3"))
    gains = [measured.gain(task, cell(DISTILLED), base) for task in claims.SPEECH]
    free = [measured.gain(task, cell(DISTILLED), THIRD) for task in claims.SPEECH]
    rows = [
        [label, wer(measured, spec)]
        for label, spec in (("training-free", THIRD), ("labels", base), ("distill", cell(DISTILLED)))
    ]
    both = ", ".join(f"{gain} ({task.name})" for gain, task in zip(gains, claims.SPEECH, strict=True))
    return Claim(
        "No labels are needed: matching the uncompressed model does as well",
        "our own question",
        f"`distill` over `labels`, `pool` at ×3: {both}",
        f"better than labels: {claims.word(gains)}; better than no adapter: {claims.word(free)}",
        claims.table(["`pool@keep=1/3`", "strings / sentences"], rows),
    )


def ranges(measured: Measured) -> Claim:
    rows, gains = [], []
    for task in claims.SPEECH:
        some = [measured.gain(task, cell(RANGE, keep("pool", k)), cell(named(f"pool-{k}"))) for k in DIVISORS]
        gains += some
        rows.append([f"{task.name} ({task.unit})", *some])
    one = [wer(measured, cell(RANGE, keep("pool", k))) for k in DIVISORS]
    return Claim(
        "One adapter serves a range of keeps as well as one each",
        "our own question",
        f"one for ×2 to ×6, as many steps for all of them as for one, over one each, `pool`: {claims.tally(gains)}",
        f"better: {claims.word(gains)}",
        "Gain of the one over each.\n\n"
        + claims.table(["gain", *(f"×{k}" for k in DIVISORS)], [*rows, ["WER of the one: strings / sentences", *one]]),
    )


def after(method: str, steps: int) -> str | With | None:
    """The cell of a method at ×3 after so many steps, where there is one."""
    if steps == 0:
        return keep(method, 3)
    stem = f"{_stem(method)}-3"
    name = stem if steps == SETTINGS["steps"] else f"{stem}-{steps}"
    return next((cell(trial) for trial in TRIALS if trial.name == name), None)


def fewer(measured: Measured) -> Claim:
    usual = SETTINGS["steps"]
    steps = (0, *SHORT, usual, LONG)
    whole = {0: BASELINE, usual: CONTROLLED, LONG: cell(LONGER[0], BASELINE)}
    rows = [["all tokens", *(wer(measured, whole[n]) if n in whole else "–" for n in steps)]]
    for method in LADDER:
        rows.append([f"`{method}`", *(wer(measured, one) if (one := after(method, n)) else "–" for n in steps)])

    def gain(task: Asked, one: str, other: str, steps: int, others: int) -> Gain | str:
        a, b = after(one, steps), after(other, others)
        return measured.gain(task, a, b) if a and b else "–"

    over, sooner, equally, early, floor = [], [], [], [], []
    for one, other in (("pool+time+sizes", "pool"), ("ward+time+sizes", "ward"), ("ward+time+sizes", "pool")):
        for task in claims.SPEECH:
            gains = [gain(task, one, other, n, n) for n in steps]
            over.append([f"`{one}` over `{other}`, {task.name}", *gains])
            if one.startswith(other):
                equally += gains[1:]
                soon = [gain(task, one, other, SHORT[0], n) for n in (SHORT[1], usual)]
                sooner.append([f"`{one}` after {SHORT[0]} steps over `{other}`, {task.name}", *soon])
                early += soon
            floor.append(gains[-1])
    equally, early, floor = ([one for one in some if isinstance(one, Gain)] for some in (equally, early, floor))
    heads = ["steps", *(str(n) for n in steps)]
    return Claim(
        "Told when and how much, LoRA recovers in fewer steps, and to a lower floor",
        "our own question",
        f"`pool` and `ward` at ×3, told over as published, after equally many steps: {claims.tally(equally)}; "
        f"told after {SHORT[0]} over as published after {SHORT[1]} and {usual}: {claims.tally(early)}; "
        f"either, told, over `pool` as published after {LONG}: {claims.tally(floor)}",
        f"better after equally many: {claims.word(equally)}; better after fewer: {claims.word(early)}; a lower floor: "
        f"{claims.word(floor)}",
        "WER, strings / sentences, at keep=1/3; each number of steps is a training with a schedule of its own.\n\n"
        f"{claims.table(heads, rows)}\n\n{claims.table(['gain after steps', *heads[1:]], over)}\n\n"
        + claims.table(["gain", f"after {SHORT[1]}", f"after {usual}"], sooner),
    )


def untold(measured: Measured) -> Claim:
    rows, as_well, back = [], [], []
    for k, trial in zip((2, 3), UNTOLD, strict=True):
        plain, taught_by = keep("ward", k), keep("ward+time+sizes", k)
        as_well += [measured.gain(task, cell(trial), taught_by) for task in claims.SPEECH]
        back += [measured.gain(task, cell(trial), plain) for task in claims.SPEECH]
        several: list[tuple[str, str | With]] = [
            (f"`{plain}`, no adapter", plain),
            (f"`{taught_by}`, no adapter: the teacher", taught_by),
            (f"`{plain}`, taught by it", cell(trial)),
        ]
        if k == 3:
            several.append((f"`{plain}`, taught by all tokens", cell(UNTAUGHT)))
            several.append((f"`{plain}`, from labels", cell(WARD)))
        for label, spec in several:
            one = [measured.gain(task, spec, taught_by) if spec != taught_by else "–" for task in claims.SPEECH]
            rows.append([label, wer(measured, spec), *one])
    both = [measured.gain(task, cell(UNTOLD[1]), cell(UNTAUGHT)) for task in claims.SPEECH]
    return Claim(
        "What is told can be distilled into an adapter, so that packed, unweighted tokens do as well",
        "our own question, for engines that know neither",
        f"`ward` packed, its adapter taught by `ward+time+sizes`, over that teacher, ×2 and ×3: "
        f"{claims.tally(as_well)}; over no adapter: {claims.tally(back)}; over an adapter that all tokens taught, ×3: "
        f"{claims.tally(both)}",
        f"better than the teacher: {claims.word(as_well)}; than no adapter: {claims.word(back)}; than one that all "
        f"tokens taught: {claims.word(both)}",
        claims.table(["", "strings / sentences", *(f"over the teacher, {t.name}" for t in claims.SPEECH)], rows)
        + "\n\nLabels are read for the last row alone. All were trained for as many steps as the other adapters.",
    )


CLAIMS = (recovered, told, shapes, languages, tasks, objectives, ranges, fewer, untold)


def adapters(root: Path) -> str:
    """The section on how all adapters were trained."""
    told = {trial.name: summary(root, trial.name) for trial in TRIALS}
    one = told[CONTROL.name]
    rows = []
    for trial in TRIALS:
        took = told[trial.name]
        facts = [f"{took['parameters']:,}", f"{took['seconds']:.0f}", took["best_step"], f"{took['loss']:.3f}"]
        rows.append([f"`{trial.name}`", f"`{trial.method}`", *facts])
    rates = ", ".join(f"{told[name]['lr']:g}: {told[name]['loss']:.3f}" for name in ("lr-0.001", "pool-3", "lr-0.01"))
    return (
        "## How the adapters were trained\n\n"
        f"`python -m recipes.recovery train`: {one['steps']} steps ({', '.join(map(str, (*SHORT, LONG)))} where a name "
        f"ends so) of {one['batch_size']} samples, AdamW, learning "
        f"rate {one['lr']:g}, by the loss on dev of `pool` at ×3 ({rates}). English: {ROWS['synthetic']:,} synthetic "
        f"sentences and {ROWS['strings']:,} word strings of the training split, which pocket itself had heard; French: "
        f"{ROWS['french-synthetic']:,} sentences. The step of least dev loss is kept. Seconds are those of one "
        "thread on a machine that had other work, of most English ones with the audio encoded before: they say what "
        "order it is. A dev loss is in nats per token, of the adapter's own objective.\n\n"
        + claims.table(["adapter", "method", "numbers trained", "seconds", "best step", "dev loss"], rows)
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("train", "run"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    names = [trial.name for trial in TRIALS]
    parser.add_argument("--only", nargs="*", choices=names, default=names, metavar="NAME", help="adapters to train")
    labels = [task.label for task in (*claims.TASKS, FRENCH)]
    parser.add_argument("--tasks", nargs="*", choices=labels, default=labels, help="to run; all by default")
    parser.add_argument("--part", default="1/1", help="1/2: every second of them, from the first")
    args = parser.parse_args()
    if args.job == "run":
        raise SystemExit(int(run(args.results, MANIFESTS / "test", args.tasks) > 0))
    first, count = map(int, args.part.split("/"))
    train(args.only[first - 1 :: count], args.results)


if __name__ == "__main__":
    main()
