"""Claims on merging without training: averaging, how errors rise, segmentation, local and global merging."""

from __future__ import annotations

import itertools

import numpy as np

from fewhertz.evaluation.results import BASELINE

from ..grids import BOTH, at
from ..grids.claims import FACTORS, FEW, UNSEG_HZ
from ..measured import Measured, versus
from ..tables import Claim, table, tally, verdict
from ..tasks import ANSWERS, SOUNDS, SPEECH, SPOKEN, TASKS, Asked


def averaging(measured: Measured) -> Claim:
    body, _ = versus(measured, TASKS, FACTORS, "pool", "stride")
    _, spoken = versus(measured, SPOKEN, FACTORS, "pool", "stride")
    return Claim(
        "Averaging beats sampling at every factor from 2 to 6",
        "arXiv 2511.20973, speech recognition and translation",
        f"`pool` over `stride` on three speech tasks: {tally(spoken)}",
        verdict(spoken),
        f"Gain of `pool` over `stride`.\n\n{body}\n\nThe paper's tasks are the first three. It compares after LoRA "
        "recovery too: that is claim 11.",
    )


def degradation(measured: Measured) -> Claim:
    heads, rows, twice = ["", "keep=1", *FACTORS, "×6 over all"], [], []
    for method, keeps in (("pool", FACTORS), (f"pool{BOTH}", FEW)):
        for task in SPEECH:
            base = measured.value(task, BASELINE)
            scores = {keep: measured.value(task, at(method, keep)) for keep in keeps}
            value, low, high = (end / base for end in measured.score(task, at(method, "1/6")))
            twice.append((method, task, value, low))
            shown = [f"{scores[k]:.1f}" if k in scores else "–" for k in FACTORS]
            rows.append([f"`{method}`, {task.name}", f"{base:.1f}", *shown, f"{value:.1f} [{low:.1f}, {high:.1f}]"])
    steps = [_steepest(measured, task) for task in SPEECH]
    plain = [(value, low) for method, _, value, low in twice if method == "pool"]
    corrected = [f"{value:.1f} ({task.name})" for method, task, value, _ in twice if method != "pool"]
    return Claim(
        "Without training, errors rise slowly up to a knee; factor 6 doubles the word error rate",
        "arXiv 2511.20973",
        "WER at 1/6 over WER at 1: "
        + ", ".join(f"{value:.1f}" for value, _ in plain)
        + f" (`pool`); {', '.join(corrected)} with `{BOTH}`",
        "**does not hold**: far more than doubled, and the steepest step is the first"
        if all(low > 2 for _, low in plain) and not any(worst for worst, _ in steps)
        else "**holds in part**",
        f"Word error rate in %.\n\n{table(heads, rows)}\n\n"
        + " ".join(text for _, text in steps)
        + " The ratio's interval is that of the score "
        "at 1/6 over the measured score at 1. The paper's figure is of a 7B model after LoRA recovery: one as small as "
        "pocket has less to fall back on.",
    )


def _steepest(measured: Measured, task: Asked) -> tuple[int, str]:
    """Which step costs most, from 0, and what it costs, in words."""
    scores = [measured.value(task, BASELINE), *(measured.value(task, at("pool", k)) for k in FACTORS)]
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
            pairs = ((spec, pool), (spec, fixed), (fixed, pool))
            gains = [measured.gain(task, one, other) for one, other in pairs]
            hertz = " / ".join(f"{measured.hertz(task, one):.1f}" for one in (spec, fixed, pool))
            rows.append([f"`{spec}`, {task.name} ({task.unit})", hertz, *gains])
            over_pool.append(gains[0])
            over_fixed.append(gains[1])
    heads = ["at the rate of", "Hz: unseg / segment / pool"]
    heads += ["unseg over pool", "unseg over segment", "segment over pool"]
    return Claim(
        "Unsupervised segmentation against uniform pooling at the same rate",
        "arXiv 2511.20973",
        f"`unseg` over `pool`: {tally(over_pool)}; over its fixed-budget form `segment`: {tally(over_fixed)}",
        f"`unseg` better than `pool`: {verdict(over_pool)}; than `segment`: {verdict(over_fixed)}",
        table(heads, rows)
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
        f"captions: {verdict(captions)}; answers: {verdict(answers)}",
        f"Gain of `ltbm` over `global-merge`.\n\n{caption}\n\nGain of `global-merge` over `ltbm`.\n\n{answer}\n\n"
        f"Speech, which the paper did not test; gain of `ltbm` over `global-merge`.\n\n{speech}\n\n"
        "The paper used AudioCaps, Clotho and MMAU with 7B models; these are scenes of one to three sounds, and six "
        "kinds of questions about sounds and speech.",
    )
