"""docs/research/claims.md and its pictures, from the results alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fewhertz.evaluation import curves
from fewhertz.evaluation.results import BASELINE

from ..grids import BOTH, at
from ..grids.claims import CORRECTED, FEW
from ..grids.recovery import ROWS, SETTINGS
from ..measured import Measured
from ..tables import Claim, listed, table
from ..tasks import MAIN, MODEL, PARAMETERS, SENTENCES, STRINGS, TASKS
from ..training_free import targets
from .adapted import ADAPTED_CLAIMS
from .adapters import ADAPTED, CONTROLLED, over, points, wer
from .free import FREE
from .picture import draw

LINES = ("pool", "ltbm", "segment", "stride", "pool+time+sizes", "ward+time+sizes", "segmentwise", "random")

PAGE = """# Claims of the field, tested on pocket

{summary}

## What was measured

Three papers' claims, of 7B models, on *pocket*: {parameters} million parameters (third version, weights `{sha}`; the
shipped one: [fourth.md](fourth.md)), greedy: {tasks}. What fails here may hold for a large model. Nothing was chosen on
these lists. Claims {first} to {last} are of LoRA adapters, trained once, most for {steps} steps of {batch}, on
{rows:,} clips that pocket had heard; the control, with all tokens, likewise.

## Twenty claims

Gains of the first over the second, above 0 better, in the metric's units, with paired 95 % bootstrap intervals over
groups. Pairs are word strings; sentences. Counts, over tasks and budgets, are better/tied/worse (tied: the interval
holds 0); by chance, one in twenty is not tied.

{claims}

![Quality against audio tokens per second, five tasks, eight methods](claims.png)

![WER against Hz: dashed training-free, solid after LoRA](recovery.png)

Made by `make reproduce`; `make claims` measures anew, `make recovery` trains the adapters
(`results/recovery/trainings.jsonl`).
"""


def summary(measured: Measured, found: Sequence[Claim]) -> str:
    """What the claims come to."""
    lost = {
        method: "; ".join(map(points, over(measured, at(method, "1/2"), BASELINE)))
        for method in ("pool", f"ward{BOTH}")
    }
    kinds: dict[str, list[str]] = {}
    for i, claim in enumerate(found, 1):
        words = set(re.findall(r"does not hold|holds|inconclusive|met|missed|mixed", claim.verdict))
        kinds.setdefault(words.pop() if len(words) == 1 else "", []).append(str(i))
    return listed(
        [
            f"WER, word strings / sentences: {wer(measured, BASELINE)} with all tokens. Half, without training, lose "
            f"{lost['pool']} by `pool` as published, and {lost[f'ward{BOTH}']} by `ward{BOTH}`; "
            f"at a third: claim {len(found)}.",
            f"After LoRA `pool` at a third has {wer(measured, ADAPTED)}; the control, all tokens, "
            f"{wer(measured, CONTROLLED)}.",
            f"Of twenty claims, {', '.join(kinds['holds'])} hold, at least in part; "
            f"{', '.join(kinds['does not hold'])} do not; {', '.join(kinds['inconclusive'])} are mostly inconclusive; "
            f"{', '.join(kinds[''])} hold in parts.",
        ]
    )


def claims(measured: Measured) -> list[Claim]:
    """All of them, in their order."""
    return [make(measured) for make in (*FREE, *ADAPTED_CLAIMS, targets.claim)]


def page(measured: Measured) -> str:
    """The text of docs/research/claims.md."""
    base = measured.run(STRINGS, BASELINE).record
    found = claims(measured)
    rows = [[f"{i}. {one.title} ({one.source})", one.did, one.verdict] for i, one in enumerate(found, 1)]
    return PAGE.format(
        summary=summary(measured, found),
        parameters=PARAMETERS,
        sha=base["weights_sha256"][:8],
        tasks=", ".join(f"{task.rows} {task.name} ({task.unit.split(',')[0]})" for task in TASKS),
        first=len(FREE) + 1,
        last=len(FREE) + len(ADAPTED_CLAIMS),
        steps=SETTINGS["steps"],
        batch=SETTINGS["batch_size"],
        rows=ROWS["strings"] + ROWS["synthetic"],
        claims=table(["claim", "measured", "verdict"], rows),
    )


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
    text, picture = docs / "claims.md", docs / "claims.png"
    text.write_text(page(measured), "utf-8")
    curves.plot(curves.choose(groups, [task.label for task in TASKS], [MODEL]), numbers, picture, LINES)
    return [text, picture, draw(measured, docs / "recovery.png")]
