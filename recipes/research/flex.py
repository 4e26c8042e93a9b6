"""docs/research/flex.md: what a model gains that is trained at random rates, from the results alone."""

from __future__ import annotations

from pathlib import Path

from fewhertz.evaluation.results import BASELINE

from .grids import BOTH, at
from .grids.flex import LISTS, NAME, grid
from .grids.training_free import priced
from .measured import Measured, between
from .tables import Gain, listed, table
from .tasks import FLEX, PARAMETERS, SMALLER, Asked

HEAD = """# A model trained for any rate

{summary}

**What was measured.** Two models that are the same up to a training step, of pocket's shape before it was made
larger ({parameters} million parameters). One went on as before: the pocket of then (`{before}`). The other
(`{flexible}`) had the audio tokens of every batch merged, by `pool` at a keep from 1/6 to 1 or by `ward` at such a keep
or a tolerance, half of them with corrections: the same data for as many steps ({steps}). One training each. Test lists
of [training-free.md](training-free.md), greedy.

Its score; in brackets its gain over pocket under the same method, paired, 95 % bootstrap over groups, above 0 better.

{table}

Made by `make reproduce` from `results/`; `make flex` measures the runs anew, `recipes/pocket/LOG.md` trains the model.
"""
COLUMNS = LISTS[:3]  # of answers no difference shows
STEPS = 821  # that were trained otherwise: recipes/pocket/LOG.md
SHOWN = (
    BASELINE,
    at("pool", "1/3"),
    at(f"pool{BOTH}", "1/3"),
    at(f"pool{BOTH}", "1/6"),
    at(f"ward{BOTH}", "1/2"),
    priced("0.3"),
)


def over(one: Measured, other: Measured, task: Asked, spec: str) -> Gain:
    """How much better one model is than another under the same method, on the same samples."""
    return between(task, one.run(task, spec), other.run(task, spec))


def page(pocket: Measured, flexible: Measured) -> str:
    """The page in Markdown."""
    rows = [
        [
            f"`{run}`" if run != BASELINE else "all tokens",
            *(f"{flexible.number(task, run)} ({over(flexible, pocket, task, run).plain})" for task in COLUMNS),
        ]
        for run in SHOWN
    ]
    third, corrected = at("pool", "1/3"), at(f"pool{BOTH}", "1/3")
    far = LISTS[0]

    def gain(run: str) -> str:
        return f"{over(flexible, pocket, far, run).plain}"

    lines = [
        f"A third of the tokens as published (`{third}`): {far.name} {gain(third)} over pocket.",
        f"With corrections (`{corrected}`): {gain(corrected)}. They give without training what training gives without "
        f"them: {pocket.number(far, corrected)} and {flexible.number(far, third)} % WER.",
        f"At a sixth, with corrections: {gain(at(f'pool{BOTH}', '1/6'))}; `ward` at a half, with corrections: "
        f"{gain(at(f'ward{BOTH}', '1/2'))}.",
        f"With all tokens: {gain(BASELINE)}, word strings {over(flexible, pocket, LISTS[1], BASELINE).plain}.",
    ]
    return HEAD.format(
        summary=listed(lines),
        parameters=PARAMETERS,
        before=pocket.run(far, BASELINE).record["weights_sha256"][:8],
        flexible=flexible.run(far, BASELINE).record["weights_sha256"][:8],
        steps=STEPS,
        table=table(["", *(f"{task.name} ({task.unit})" for task in COLUMNS)], rows),
    )


def write(measured: Measured, docs: Path) -> list[Path]:
    """The page; nothing where runs are missing."""
    pocket, flexible = measured.of(SMALLER), measured.of(FLEX, NAME)
    if not all(one.there(task, *grid()) for one in (pocket, flexible) for task in LISTS):
        return []
    file = docs / "flex.md"
    file.write_text(page(pocket, flexible), "utf-8")
    return [file]
