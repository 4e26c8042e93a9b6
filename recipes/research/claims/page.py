"""docs/research/claims.md, from the results alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fewhertz.evaluation.results import BASELINE

from ..grids import AS_PUBLISHED, BOTH, at
from ..grids.lora import SETTINGS, THIRD
from ..grids.training_free import ALL_KEEPS, FAR, FIVE, METHODS, OURS, SPEECH
from ..measured import Measured, adapter_run, lost
from ..tables import Claim, listed, table
from ..tasks import LARGER
from .adapted import ADAPTED_CLAIMS
from .free import FREE
from .shared import AVERAGING, over, points, wer

PAGE = """# Claims of the field, tested on pocket

{summary}

## What was measured

Three papers' claims, of 7B models, on the shipped *pocket* ({parameters} million parameters, weights `{sha}`), greedy,
on {tasks} of test ([lists](training-free.md)). What fails here may hold for a large model. Claims {first} to {last} are
of [LoRA adapters](lora.md), trained once for {steps} steps of {batch}, where nothing else is said.

## Twenty claims

Gains of the first over the second, above 0 better, in the metric's units, with paired 95 % bootstrap intervals over
groups. Pairs are far sentences; word strings. Counts, over lists and budgets, are better/tied/worse (tied: the interval
holds 0); by chance, one in twenty is not tied.

{claims}

Made by `make reproduce`; `make claims` trains the adapters and measures anew.
"""
TARGETS = {"1/2": 1.0, "1/3": 2.0}  # points of WER


def free_of_charge(measured: Measured) -> Claim:
    shown, verdicts = [], []
    for budget, target in TARGETS.items():
        some = [lost(measured, task, at(OURS, budget), "") for task in SPEECH]
        shown.append(f"at {budget} {'; '.join(map(str, some))} (target +{target:g})")
        verdicts.append(f"at {budget} {'; '.join(loss.verdict(target) for loss in some)}")
    return Claim(
        "Without training, compression costs next to nothing",
        f"asked by {AVERAGING}",
        f"WER lost by `{OURS}`: {', '.join(shown)}",
        ", ".join(verdicts),
    )


CLAIMS = (*FREE, *ADAPTED_CLAIMS, free_of_charge)


def summary(measured: Measured, found: Sequence[Claim]) -> str:
    """What the claims come to."""
    halved = {method: "; ".join(map(points, over(measured, at(method, "1/2"), BASELINE))) for method in ("pool", OURS)}
    kinds: dict[str, list[str]] = {}
    for i, claim in enumerate(found, 1):
        words = set(re.findall(r"does not hold|holds|inconclusive|met|missed|mixed|not measured", claim.verdict))
        kinds.setdefault(words.pop() if len(words) == 1 else "", []).append(str(i))
    named = {
        "holds": "hold, at least in part",
        "does not hold": "do not hold",
        "inconclusive": "are mostly inconclusive",
        "": "hold in parts",
        "not measured": "was not measured",
    }
    return listed(
        [
            f"WER, far sentences / word strings: {wer(measured, BASELINE)} with all tokens. Half, without training, "
            f"lose {halved['pool']} by `pool` as published, and {halved[OURS]} by `{OURS}`; at a third: claim "
            f"{len(found)}.",
            f"After LoRA `pool` at a third has {wer(measured, adapter_run(THIRD))}.",
            f"Of {len(found)} claims, "
            + "; ".join(f"{', '.join(kinds[kind])} {what}" for kind, what in named.items() if kind in kinds)
            + ".",
        ]
    )


def page(measured: Measured) -> str:
    """The text of docs/research/claims.md."""
    found = [make(measured) for make in CLAIMS]
    rows = [[f"{i}. {one.title} ({one.source})", one.did, one.verdict] for i, one in enumerate(found, 1)]
    return PAGE.format(
        summary=summary(measured, found),
        parameters=LARGER,
        sha=measured.run(FAR, BASELINE).record["weights_sha256"][:8],
        tasks=", ".join(f"{task.rows} {task.name}" for task in FIVE),
        first=len(FREE) + 1,
        last=len(FREE) + len(ADAPTED_CLAIMS),
        steps=SETTINGS["steps"],
        batch=SETTINGS["batch_size"],
        claims=table(["claim", "measured", "verdict"], rows),
    )


def rates_table(measured: Measured) -> str:
    """The table of docs/results.md: word error rates of far sentences and word strings."""
    named = [f"{method}{corrections}" for method in METHODS for corrections in (AS_PUBLISHED, BOTH)]
    rows = [[f"`{method}`", *(wer(measured, at(method, keep)) for keep in ALL_KEEPS)] for method in named]
    heads = [f"{measured.hertz(FAR, at('pool', keep)):.1f} Hz ({keep})" for keep in ALL_KEEPS]
    return table(["method", *heads], rows)


def write(measured: Measured, docs: Path) -> list[Path]:
    """Write the page; returns its file."""
    text = docs / "claims.md"
    text.write_text(page(measured), "utf-8")
    return [text]
