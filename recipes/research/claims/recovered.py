"""What LoRA recovers, its picture, and how the adapters were trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fewhertz import palette
from fewhertz.evaluation import curves
from fewhertz.evaluation.results import BASELINE

from ..grids import BOTH
from ..grids.recovery import CONTROL, DIVISORS, LONG, METHODS, ROWS, SHORT, TRIALS, UNSEG, keep, named
from ..measured import Measured
from ..tables import Claim, at_most, table, tally
from ..tasks import MAIN, MODEL, RECOVERY, SENTENCES, SPEECH
from .adapters import CONTROLLED, adapted, points, wer, within


def recovered(measured: Measured) -> Claim:
    rows, over, back = [], [], []
    for method in METHODS:
        trials = [named(f"{method}-{k}") for k in DIVISORS]
        rows.append([f"`{method}`, training-free", *(wer(measured, one.method) for one in trials)])
        rows.append([f"`{method}`, after LoRA", *(wer(measured, adapted(one)) for one in trials)])
        for task in SPEECH:
            above = (points(measured.gain(task, adapted(one), CONTROLLED)) for one in trials)
            over.append([f"`{method}`, {task.name}", *above])
            back += [measured.gain(task, adapted(one), one.method) for one in trials]
    hertz = f"{measured.hertz(SENTENCES, 'unseg'):.1f} Hz on sentences"
    rows.append([f"`unseg` ({hertz}), training-free", wer(measured, "unseg"), *"––––"])
    rows.append(["`unseg`, after LoRA", wer(measured, adapted(UNSEG)), *"––––"])
    averaged = [
        measured.gain(task, adapted(named(f"pool-{k}")), adapted(named(f"stride-{k}")))
        for task in SPEECH
        for k in DIVISORS
    ]
    paper, targets, twice = [], [], []
    for k, limit, target in ((2, 1.0, 0.5), (3, 1.5, 1.0)):
        for task in SPEECH:
            names = [f"{method}-{k}" for method in (*METHODS, "ward-told", "conv", "combined")]
            gains = [measured.gain(task, adapted(named(name)), CONTROLLED) for name in names]
            paper.append((k, task, within(gains[METHODS.index("pool")], limit)))
            targets.append([f"×{k} ≤ +{target}, {task.name}", *(within(gain, target) for gain in gains)])
    for task in SPEECH:
        last, whole = measured.score(task, adapted(named("pool-6"))), measured.value(task, CONTROLLED)
        value, low, high = (end / whole for end in last)
        twice.append(f"{value:.1f} [{low:.1f}, {high:.1f}] ({task.name})")
        paper.append((6, task, at_most(low, high, 2)))
    heads = ["WER, %: strings / sentences", *(f"×{k}" for k in DIVISORS)]
    return Claim(
        "After LoRA, half the tokens add less than one WER point, a third 1 to 1.5, and a sixth doubles the WER",
        "arXiv 2511.20973 (r = 16, α = 32, queries and keys of the LLM)",
        "; ".join(
            f"`pool` at ×{k} over the control: "
            + ", ".join(
                f"{points(measured.gain(t, adapted(named(f'pool-{k}')), CONTROLLED))} ({t.name})" for t in SPEECH
            )
            for k in (2, 3)
        )
        + f"; WER at ×6 over the control's: {', '.join(twice)}",
        "; ".join(f"×{k}, {task.name}: **{held}**" for k, task, held in paper),
        f"All tokens, as shipped: {wer(measured, BASELINE)}; all tokens after the same extra training, which is the "
        f"control: **{wer(measured, CONTROLLED)}**.\n\n{table(heads, rows)}\n\n"
        f"LoRA over training-free: {tally(back)}. `pool` over `stride` after LoRA: {tally(averaged)}.\n\n"
        "WER points above the control.\n\n"
        + table(["", *(f"×{k}" for k in DIVISORS)], over)
        + "\n\nOur own targets, WER points above the control.\n\n"
        + table(["target", *(f"`{method}`" for method in (*METHODS, f"ward{BOTH}", "conv", "combined"))], targets)
        + "\n\n![WER against audio tokens per second, training-free and after LoRA](recovery.png)",
    )


def draw(measured: Measured, file: Path) -> Path:
    """The WER against Hz, training-free and after LoRA; each line from its own model at all tokens."""
    groups = measured.groups(RECOVERY, MAIN, tasks=SPEECH)
    panels, after = [], "after LoRA"
    for task in SPEECH:
        free = groups[task.label, MODEL]
        panel = curves.Group(task.label, MODEL)
        for method in METHODS:
            chosen = {keep(method, k) for k in DIVISORS}
            panel.runs += [one for one in free.runs if one.spec in chosen]
            panel.runs.append(dataclasses.replace(free.whole[0], spec=f"{method}@keep=1"))
            whole = groups[task.label, f"{MODEL}+{CONTROL.name}"].whole[0]
            panel.runs.append(dataclasses.replace(whole, spec=f"{method}@keep=1 {after}"))
            for k in DIVISORS:
                trained = groups[task.label, f"{MODEL}+{method}-{k}"]
                (one,) = [one for one in trained.runs if one.spec == keep(method, k)]
                panel.runs.append(dataclasses.replace(one, spec=f"{one.spec} {after}"))
        panel.runs.sort(key=lambda one: -one.rate)
        panels += curves.choose([panel])
    numbers = {f"{method} {after}": i for i, method in enumerate(METHODS)}
    numbers |= {method: i + len(palette.LINES) for i, method in enumerate(METHODS)}  # the same colours, dashed
    curves.plot(panels, numbers, file)
    return file


def training(measured: Measured) -> str:
    """How all adapters were trained."""
    took = measured.packed.trainings(RECOVERY)
    one = took[CONTROL.name]
    rows = []
    for trial in TRIALS:
        own = took[trial.name]
        facts = [f"{own['parameters']:,}", f"{own['seconds']:.0f}", own["best_step"], f"{own['loss']:.3f}"]
        rows.append([f"`{trial.name}`", f"`{trial.method}`", *facts])
    rates = ", ".join(f"{took[name]['lr']:g}: {took[name]['loss']:.3f}" for name in ("lr-0.001", "pool-3", "lr-0.01"))
    return (
        f"`make recovery`: {one['steps']} steps ({', '.join(map(str, (*SHORT, LONG)))} where a name "
        f"ends so) of {one['batch_size']} samples, AdamW, learning "
        f"rate {one['lr']:g}, by the loss on dev of `pool` at ×3 ({rates}). English: {ROWS['synthetic']:,} synthetic "
        f"sentences and {ROWS['strings']:,} word strings of the training split, which pocket itself had heard; French: "
        f"{ROWS['french-synthetic']:,} sentences. The step of least dev loss is kept. In names, `told` is with "
        "corrections, `untold` without, taught by a teacher that has them. Seconds are those of one "
        "thread on a machine that had other work, of most English ones with the audio encoded before: they say what "
        "order it is. A dev loss is in nats per token, of the adapter's own objective.\n\n"
        + table(["adapter", "method", "numbers trained", "seconds", "best step", "dev loss"], rows)
    )
