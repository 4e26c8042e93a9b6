"""docs/research/training-free.md and its pictures, from the results alone."""

from __future__ import annotations

from pathlib import Path

from fewhertz.evaluation.results import BASELINE
from fewhertz.method import RECOMMENDED

from ..grids import AS_PUBLISHED, CORRECTIONS
from ..grids.other_models import OTHERS
from ..grids.training_free import KEEPS, MERGING, METHODS, PUBLISHED, default, spec
from ..measured import Measured
from ..tables import fold, listed
from ..tasks import PARAMETERS, SPEECH, STRINGS, TASKS
from . import choice, halves, letters, other_models, price, ranks, rivals, scores, targets, variable

HEAD = """# Training-free: compression with corrections

{summary}

Made by `make reproduce` from `results/`; do not edit. `make training-free` measures the runs anew.

**The question.** Can a third of the audio tokens do the work of all of them, without any training? Most papers hand
the LLM compressed tokens as if they were ordinary ones: packed one after the other, each counting as one (DART and
EVS keep the original positions, ToMe adds log size). Here it is given two corrections more, for any method. **When**
(`+time`): a token stands at the mean position of what it stands for, and text goes on from the uncompressed length,
so that distances stay those that the LLM was trained on. **How much** (`+sizes`): log s is added to the attention
logits of a token that stands for s, which for s equal keys and values is exactly the attention over all of them. Our
two methods, `optimal` and `ward`, cut the tokens into contiguous segments of least squared distance to their means.
`fewhertz methods` marks the default that follows: `{default}`.

**What was measured.** *pocket*, a model of the Qwen2-Audio class of {parameters} million parameters that we trained
ourselves (its third version, weights `{sha}`; the shipped one is in
[fourth.md](fourth.md)), greedy, on {device}, {dtype}: {tasks}. {methods} methods × {corrections}
sets of corrections × keep {keeps}. No training, and nothing chosen on these lists: the default was chosen on dev,
below. To the {dropping} methods that drop tokens `+sizes` does nothing, since each token that stays stands for
itself: their runs with `+sizes` are those as published and with `+time` those with both, which word strings were run
to check (all texts the same). {lacking}

**How to read it.** As in [claims.md](claims.md): a gain is how much better the first is, in units of the metric, above
0 always meaning better, with a paired 95 % bootstrap interval over groups; ✓: above 0, ✗: below, unmarked: tied. With
as many comparisons as here some marks are chance. pocket is small, and was trained on short clips: a large model may
lean less on positions, and lose less to begin with.
"""

PICTURE = (
    "![Points of WER lost against letters for each audio token, two lists, as published and with corrections]"
    "(letters.png)"
)
WITH_LORA = """With corrections against as published when the LLM is trained, in how many steps and down to what floor;
and whether an adapter can learn to do without them, for engines that have none: the two claims before the last of
[claims.md](claims.md)."""

SERVED = """vLLM carries both for six families, exactly, by the plugin: log s in more dimensions of the keys, times
where its angles are made. What was measured of it: [serving.md](serving.md)."""


def summary(measured: Measured) -> str:
    """Ten lines."""

    def loses(run: str) -> str:
        losses = ((task, targets.lost(measured, task, run, "WER")) for task in SPEECH)
        return ", ".join(f"{loss or 'not run yet'} ({task.name})" for task, loss in losses)

    whole = " / ".join(measured.number(task, BASELINE) for task in SPEECH)
    held, short = rivals.front(measured)
    return listed(
        [
            f"The default, chosen on dev: `{RECOMMENDED}`. WER with all tokens: {whole} (word strings / sentences).",
            f"At half of the tokens it loses {loses(default('1/2'))}.",
            f"At a third it loses {loses(default('1/3'))}.",
            f"`pool` as published loses {loses(spec('pool', AS_PUBLISHED, '1/2'))} at half of them.",
            f"And {loses(spec('pool', AS_PUBLISHED, '1/3'))} at a third.",
            f"Against {len(PUBLISHED)} published methods, each with the corrections that suit it best, on five tasks "
            f"at five budgets: {short}.",
            f"So the target that none of them be ever clearly better is {held}.",
            "What each of the two corrections does is a section below.",
            "How few tokens are enough for speech follows the letters that each has to carry: a section below.",
            "Two more models, trained apart from pocket, are a section below. None is large.",
        ]
    )


def page(measured: Measured) -> str:
    """The text of docs/research/training-free.md."""
    base = measured.run(STRINGS, BASELINE).record
    lacking = rivals.missing(measured)
    tasks = ", ".join(
        f"{task.name} (n={task.rows}, {task.unit}, all tokens {measured.number(task, BASELINE)})" for task in TASKS
    )
    head = HEAD.format(
        summary=summary(measured),
        default=RECOMMENDED,
        parameters=PARAMETERS,
        sha=base["weights_sha256"][:8],
        device=base["hardware"]["device"],
        dtype=base["dtype"],
        tasks=tasks,
        methods=len(METHODS),
        dropping=len(METHODS) - len(MERGING),
        corrections=len(CORRECTIONS),
        keeps=", ".join(KEEPS),
        lacking=f"**Not run yet**, and – below: {'; '.join(lacking)}." if lacking else "All runs are there.",
    )
    models = [measured, *(other_models.of(measured, other.name) for other in OTHERS)]
    sections = {
        "The targets": targets.section(measured),
        "Against every published method": rivals.section(measured),
        "How few tokens are enough": f"{letters.section(models)}\n\n{PICTURE}",
        "Which half does what": halves.section(measured),
        "Ranks": ranks.section(measured),
        "Variable length": variable.section(measured),
        "How the default was chosen": choice.chosen(measured),
        "How much of log s, and where a token is": choice.tuned(measured),
        "What else was tried": choice.tried(measured),
        "Is it an artefact of one small model?": other_models.section(measured),
        "With LoRA on top": WITH_LORA,
        "What it costs, and how exact it is": price.section(measured.packed.root),
        "Serving": SERVED,
        "The grid": scores.section(measured),
    }
    picture = "Quality of pocket against audio tokens per second on five tasks, as published and with corrections"
    parts = [head, f"![{picture}](training-free.png)"]
    for title, body in sections.items():
        parts += [f"## {title}", body if title == "The targets" else fold(body)]
    return "\n\n".join(parts) + "\n"


def write(measured: Measured, docs: Path) -> list[Path]:
    """Write the page and its pictures; returns their files."""
    text = docs / "training-free.md"
    text.write_text(page(measured), "utf-8")
    return [text, scores.draw(measured, docs / "training-free.png"), letters.draw(measured, docs / "letters.png")]
