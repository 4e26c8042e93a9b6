"""docs/research/claims.md and its pictures, from the results alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewhertz.evaluation import curves
from fewhertz.evaluation.results import BASELINE

from ..grids import BOTH, at
from ..grids.claims import CORRECTED, FEW
from ..measured import Measured
from ..tables import Claim, fold, listed, table
from ..tasks import MAIN, MODEL, PARAMETERS, SENTENCES, SPEECH, STRINGS, TASKS
from ..training_free import targets
from .adaptation import languages, objectives, ranges, shapes, tasks
from .adapters import CONTROLLED, wer
from .corrected_adapters import corrected, fewer, without
from .corrections import corrections
from .merging import averaging, degradation, local, segmentation
from .recovered import draw, recovered, training
from .selection import bounded, many_segments, segmentwise
from .sites import sites
from .speed import speed

FREE = (averaging, degradation, segmentation, local, segmentwise, bounded, many_segments, sites, speed, corrections)
ADAPTED = (recovered, corrected, shapes, languages, tasks, objectives, ranges, fewer, without)
LINES = ("pool", "ltbm", "segment", "stride", "pool+time+sizes", "ward+time+sizes", "segmentwise", "random")

HEAD = """# Claims of the field, tested on pocket

{summary}

Made by `make reproduce` from `results/`; do not edit. `make claims` measures the runs anew, `make recovery` trains the
adapters and measures theirs.

**What this is.** Three papers make claims about fewer audio tokens, on models of 7 billion parameters. Here they are
tested on *pocket*, a model of the Qwen2-Audio class of {parameters} million parameters that we trained
ourselves (its third version, weights `{sha}`; the shipped one is in
[fourth.md](fourth.md)), greedy; training-free up to claim {free} and in the last one, with LoRA adapters in between. A
claim that fails here may hold for a large model; what is shown is whether it follows from the method alone. pocket is
far from a good model: with all tokens it scores {whole}.

**How to read it.** A gain is how much better the first method is than the second, in units of the metric, above 0
always meaning better, with its 95 % interval: a paired bootstrap over groups (a speaker of word strings, a sentence, a
scene) of the same samples. ✓: the interval lies above 0, ✗: below; *inconclusive*: it holds 0. An adapter was trained
once: intervals are over samples, not over trainings. They are not corrected for their number: of twenty comparisons
without any difference, one is expected to be marked. Test lists, nothing chosen on them.
"""


def summary(measured: Measured, claims: Sequence[Claim]) -> str:
    """Ten lines."""
    found = dict(zip((make.__name__ for make in (*FREE, *ADAPTED)), claims, strict=False))
    halves = (f"`{method}` {wer(measured, at(method, '1/2'))}" for method in ("pool", f"pool{BOTH}", f"ward{BOTH}"))
    thirds = (f"`{method}` {wer(measured, at(method, '1/3'))}" for method in ("pool", f"pool{BOTH}", f"ward{BOTH}"))
    return listed(
        [
            f"WER in %, word strings / sentences, all tokens: {wer(measured, BASELINE)}. Half of them, without "
            f"training: {', '.join(halves)}.",
            f"A third: {', '.join(thirds)}. Most of what merging seemed to cost, corrections give back "
            f"({found['corrections'].short}).",
            f"Averaging beats sampling: {found['averaging'].verdict}. WER doubles at a sixth of the tokens: "
            f"{found['degradation'].verdict}.",
            f"Segmentation against pooling at the same rate: {found['segmentation'].verdict}.",
            f"Local merging for captions, global for answers: {found['local'].verdict}.",
            f"Segmentwise selection over other ways to drop tokens: {found['segmentwise'].verdict}.",
            f"Before the projector better than after it: {found['sites'].verdict}.",
            f"Prefill 4.7 times faster with half the tokens: {found['speed'].verdict}.",
            f"After LoRA, against a control at {wer(measured, CONTROLLED)}: {found['recovered'].verdict}; corrections "
            f"on top: {found['corrected'].verdict}.",
            f"With corrections in fewer steps: {found['fewer'].verdict}. Doing without them by distillation: "
            f"{found['without'].verdict}.",
        ]
    )


def page(measured: Measured) -> str:
    """The text of docs/research/claims.md."""
    base = measured.run(STRINGS, BASELINE).record
    whole = ", ".join(f"{measured.value(task, BASELINE):.3g} ({task.name}, {task.unit})" for task in TASKS)
    claims = [make(measured) for make in (*FREE, *ADAPTED, targets.claim)]
    rows = [[i, claim.title, claim.short, claim.verdict] for i, claim in enumerate(claims, 1)]
    data = [
        [task.name, f"`{task.label}`", one["n"], one["groups"], task.unit, f"{one['rate_hz']['before']:.1f}"]
        for task in TASKS
        for one in [measured.run(task, BASELINE).record]
    ]
    machine = base["hardware"]
    head = HEAD.format(
        summary=summary(measured, claims),
        parameters=PARAMETERS,
        sha=base["weights_sha256"][:8],
        whole=whole,
        free=len(FREE),
    )
    parts = [
        head,
        table(["", "claim", "measured", "here it"], rows),
        "![Quality of pocket against audio tokens per second on five tasks, eight methods](claims.png)",
        "## Data",
        table(["task", "list (`recipes/pocket/splits`)", "samples", "groups", "metric", "Hz at keep=1"], data),
        f"Measured on {machine['cores']} cores of {machine['device']}, torch {base['versions']['torch']}, transformers "
        f"{base['versions']['transformers']}, {base['dtype']}, {base['date'][:10]}.",
    ]
    for i, claim in enumerate(claims, 1):
        parts += [f"## {i}. {claim.title}", f"*{claim.source}.* Here: {claim.verdict}.", fold(claim.body)]
    parts += ["## How the adapters were trained", fold(training(measured))]
    return "\n\n".join(parts) + "\n"


def rates_table(measured: Measured) -> str:
    """The table of docs/results.md: word error rates of strings and sentences."""
    published = ("pool", "stride", "segment", "ltbm", "global-merge", "ward")
    rows = []
    for method in (*published, "segmentwise", "topk", "visionzip", "random", "bottomk", *CORRECTED):
        scores = {keep: wer(measured, at(method, keep)) for keep in FEW if measured.there(STRINGS, at(method, keep))}
        rows.append([f"`{method}`", *(scores.get(keep, "–") for keep in FEW)])
    hertz = [f"{measured.hertz(SENTENCES, at('pool', keep)):.1f} Hz ({keep})" for keep in FEW]
    return table(["method", *hertz], rows)


def write(measured: Measured, docs: Path) -> list[Path]:
    """Write the page and its pictures; returns their files."""
    groups = [group for _, group in sorted(measured.groups(MAIN, tasks=TASKS).items())]
    numbers = {line: -1 if curves.line_is_random(line) else i for i, line in enumerate(LINES)}
    files = [docs / "claims.md", docs / "claims.png", docs / "curve.png"]
    files[0].write_text(page(measured), "utf-8")
    for file, several in ((files[1], TASKS), (files[2], SPEECH)):
        curves.plot(curves.choose(groups, [task.label for task in several], [MODEL]), numbers, file, LINES)
    return [*files, draw(measured, docs / "recovery.png")]
