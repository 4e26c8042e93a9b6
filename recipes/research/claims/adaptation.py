"""What an adapter is trained on and with: its shape, languages, tasks, objectives, a range of budgets."""

from __future__ import annotations

from fewhertz.evaluation.results import BASELINE

from ..grids.recovery import CONTROL_FR, DISTILLED, DIVISORS, FRENCH_THIRD, RANGE, SHAPES, THIRD, keep, named
from ..measured import Measured, With
from ..tables import Claim, Gain, table, tally, verdict
from ..tasks import ANSWERS, FRENCH, GERMAN, SENTENCES, SOUNDS, SPEECH, STRINGS
from .adapters import ADAPTED, CONTROLLED, adapted, wer


def shapes(measured: Measured) -> Claim:
    base = named("pool-3")
    rows, gains = [], []
    for trial in (base, *SHAPES):
        over: list[Gain] = []
        if trial != base:
            over = [measured.gain(task, adapted(trial), adapted(base)) for task in SPEECH]
        gains += over
        label = f"{trial.settings or 'q,k; r = 16; α = 32'}".strip("{}").replace("'", "")
        rows.append([label, wer(measured, adapted(trial)), *(over or "––")])
    heads = ["`pool@keep=1/3`", "strings / sentences", *(f"over q,k; 16; 32: {t.name}" for t in SPEECH)]
    return Claim(
        "What is adapted, and how much: queries and keys, r = 16, α = 32",
        "arXiv 2511.20973's setting; the others are our question",
        f"six others over it, `pool` at ×3: {tally(gains)}",
        f"another is better: {verdict(gains)}",
        table(heads, rows),
    )


def languages(measured: Measured) -> Claim:
    kinds: list[tuple[str, str | With]] = [
        ("no adapter, all tokens", BASELINE),
        ("no adapter, `pool` ×3", THIRD),
        ("English control, all tokens", CONTROLLED),
        ("English adapter, `pool` ×3", ADAPTED),
        ("French control, all tokens", With(CONTROL_FR.name, BASELINE)),
        ("French adapter, `pool` ×3", adapted(FRENCH_THIRD)),
    ]
    rows = [
        [label, *(f"{measured.value(task, spec):.1f}" for task in (SENTENCES, STRINGS, FRENCH))]
        for label, spec in kinds
    ]
    to_french = measured.gain(FRENCH, ADAPTED, THIRD)
    to_english = [measured.gain(task, adapted(FRENCH_THIRD), THIRD) for task in SPEECH]
    own = [measured.gain(FRENCH, adapted(FRENCH_THIRD), ADAPTED)]
    own += [measured.gain(task, ADAPTED, adapted(FRENCH_THIRD)) for task in SPEECH]
    return Claim(
        "An adapter that was trained on one language serves another",
        "arXiv 2511.20973 asks it",
        f"over no adapter at ×3: English adapter on French {to_french}; French adapter on English "
        + ", ".join(f"{gain} ({task.name})" for gain, task in zip(to_english, SPEECH, strict=True)),
        f"better than none: {verdict([to_french, *to_english])}; "
        f"one's own language better than the other: {verdict(own)}",
        table(["WER, %", "sentences", "strings", "French"], rows)
        + "\n\npocket hardly understands French, with all tokens too: its words there are mostly wrong.",
    )


def tasks(measured: Measured) -> Claim:
    rows, gains = [], []
    for task in (GERMAN, SOUNDS, ANSWERS):
        gain = measured.gain(task, ADAPTED, THIRD)
        gains.append(gain)
        scores = [f"{measured.value(task, spec):.3g}" for spec in (BASELINE, CONTROLLED, THIRD, ADAPTED)]
        rows.append([f"{task.name} ({task.unit})", *scores, gain])
    heads = ["", "all tokens", "all tokens, control", "`pool` ×3", "`pool` ×3, adapter", "adapter over none at ×3"]
    return Claim(
        "An adapter of speech recognition does not transfer to other tasks",
        "arXiv 2511.20973",
        f"adapter over none, `pool` at ×3, translation, captions, answers: {tally(gains)}",
        "**holds**" if not any(one.sign > 0 for one in gains) else f"that it helps there too: {verdict(gains)}",
        table(heads, rows) + "\n\nThe adapter was trained on English transcripts alone.",
    )


def objectives(measured: Measured) -> Claim:
    base = adapted(named("pool-3"))
    gains = [measured.gain(task, adapted(DISTILLED), base) for task in SPEECH]
    free = [measured.gain(task, adapted(DISTILLED), THIRD) for task in SPEECH]
    kinds = (("training-free", THIRD), ("labels", base), ("distill", adapted(DISTILLED)))
    both = ", ".join(f"{gain} ({task.name})" for gain, task in zip(gains, SPEECH, strict=True))
    return Claim(
        "No labels are needed: matching the uncompressed model does as well",
        "our own question",
        f"`distill` over `labels`, `pool` at ×3: {both}",
        f"better than labels: {verdict(gains)}; better than no adapter: {verdict(free)}",
        table(["`pool@keep=1/3`", "strings / sentences"], [[label, wer(measured, spec)] for label, spec in kinds]),
    )


def ranges(measured: Measured) -> Claim:
    rows, gains = [], []
    for task in SPEECH:
        some = [measured.gain(task, adapted(RANGE, keep("pool", k)), adapted(named(f"pool-{k}"))) for k in DIVISORS]
        gains += some
        rows.append([f"{task.name} ({task.unit})", *some])
    one = [wer(measured, adapted(RANGE, keep("pool", k))) for k in DIVISORS]
    return Claim(
        "One adapter serves a range of keeps as well as one each",
        "our own question",
        f"one for ×2 to ×6, as many steps for all of them as for one, over one each, `pool`: {tally(gains)}",
        f"better: {verdict(gains)}",
        "Gain of the one over each.\n\n"
        + table(["gain", *(f"×{k}" for k in DIVISORS)], [*rows, ["WER of the one: strings / sentences", *one]]),
    )
