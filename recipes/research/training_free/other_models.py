"""Is it an artefact of one small model? Two more of pocket's kind, trained apart from it, under the main rows."""

from __future__ import annotations

from collections.abc import Sequence

from fewhertz.evaluation.results import BASELINE
from fewhertz.files import Record

from ..grids import AS_PUBLISHED, BOTH, CORRECTIONS, at
from ..grids.other_models import KEEPS, MERGING, METHODS, MIDDLE, OTHERS, TASKS
from ..measured import Measured
from ..tables import Gain, table, tally, verdict
from ..tasks import MODEL, OTHER_MODELS, Asked

LABELS = dict(zip(CORRECTIONS, ("as published", "+time", "+sizes", "+both"), strict=True))
BAD = 50  # % of WER with all tokens: what compression costs such a model says little

SEVEN_BILLION = (
    "fewhertz eval Qwen/Qwen2-Audio-7B-Instruct --task librispeech --subset other --limit 500 --batch-size 8 "
    + " ".join(f"--method {method}{corrections}" for method in METHODS for corrections in CORRECTIONS)
    + f" --keep {' '.join(KEEPS)} --dtype bfloat16 --out qwen2-audio"
)
DRAWN = "fewhertz plot qwen2-audio " + " ".join(f"--method {m}{c}" for m in ("pool", "ward") for c in ("", BOTH))
NOT_MEASURED = """**What a 7B model may do differently** (argued, not measured: none fits this machine).

- *Positions.* It has learnt from prompts of thousands of tokens, in text at every distance, and has many more heads.
  Packed audio tokens at 8 Hz may be less foreign to it, so `+time` may give less than here; the second model above is
  the nearest that we have to it. But its audio was at 25 Hz throughout its training, as here, and heads that follow
  speech by distance would be misled in the same way.
- *Sizes.* For equal tokens log s is exact whatever the model's size. Attention sinks are the exception to look for:
  where a head leaves most of its weight on the first tokens of the prompt, audio tokens compete with them, and log s
  moves weight from the sink to the audio just as the uncompressed tokens would have.
- *Features.* Whisper's large encoder gives denser, more contextual tokens than this one of four or five layers: there
  is more in each, so dropping tokens may cost less, and neighbours may be less alike, so merging may cost more.
- *Language.* It guesses lost words from the others, so all losses may be smaller, those as published too."""


def of(measured: Measured, name: str) -> Measured:
    """The results of one of these models, or of pocket itself."""
    return measured if name == MODEL else measured.of(OTHER_MODELS, name)


def section(measured: Measured) -> str:
    """A section in Markdown, from pocket's results and those beside them; what was not measured is left out."""
    trained = measured.packed.trainings(OTHER_MODELS)
    notes = {other.name: trained[other.name] for other in OTHERS if other.name in trained}
    parts = [_models(measured, notes)] if notes else ["The other models have not been measured yet."]
    there = [(of(measured, name), task) for name in notes for task in TASKS]
    there = [(one, task) for one, task in there if one.there(task, BASELINE)]
    parts += [_rows(*one) for one in there]
    if there:
        own = [(measured, task) for task in TASKS if measured.there(task, BASELINE)]
        parts.append("**Does it hold?**\n\n" + "\n".join(f"- {_verdict(*one)}" for one in [*there, *own]))
    return "\n\n".join([*parts, NOT_MEASURED, _command()])


def _models(measured: Measured, notes: dict[str, Record]) -> str:
    rows = []
    for name, note in notes.items():
        shape, how = note["shape"], note["training"]
        whole = [of(measured, name).number(task, BASELINE) for task in TASKS]
        shares = ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in how["shares"])
        rows.append(
            [
                f"`{name}`: {note['what']}",
                f"{note['parameters'] / 1e6:.1f} M: encoder {shape['d_encoder']} × {shape['encoder_layers']}, "
                f"LLM {shape['d_llm']} × {shape['llm_layers']}",
                how["seed"],
                f"{shares}; {how['step']} steps, {how['heard_s'] / 3600:.1f} h, {how['spent_s'] / 60:.0f} min",
                *whole,
            ]
        )
    heads = ["model", "size", "seed", "learnt from", *(f"{task.name}, WER with all tokens, %" for task in TASKS)]
    own = " and ".join(f"{measured.number(task, BASELINE)} ({task.name})" for task in TASKS)
    text = (
        "Two more models of the same class, from random weights and with other seeds. `words` are strings of spoken "
        "words, `english` synthetic sentences: what pocket learns from too, but neither took anything of its weights. "
        f"They were trained for less than pocket, which scores {own} with all tokens. If time positions helped only "
        "a model that leans on the distances that it learnt, `pocket-shifted` should gain less from them."
    )
    bad = [
        f"`{name}` on {task.name}"
        for name in notes
        for task in TASKS
        if of(measured, name).there(task, BASELINE) and of(measured, name).value(task, BASELINE) > BAD
    ]
    if bad:
        text += f" Above {BAD} % with all tokens, and so too bad to say much: {', '.join(bad)}."
    return f"{text}\n\n{table(heads, rows)}"


def _gains(measured: Measured, task: Asked, one: str, other: str, methods: Sequence[str] = METHODS) -> list[Gain]:
    """What some corrections give over others, over methods and keeps, where both were measured."""
    pairs = [(at(f"{m}{one}", keep), at(f"{m}{other}", keep)) for m in methods for keep in KEEPS]
    return [gain for pair in pairs if (gain := measured.gained(task, *pair))]


def _rows(measured: Measured, task: Asked) -> str:
    """Scores at the middle keep, gains with their intervals at every keep, and what ours costs."""
    rows = []
    for method in METHODS:
        scores = [measured.number(task, at(f"{method}{corrections}", MIDDLE)) for corrections in CORRECTIONS]
        gains = [measured.gained(task, at(f"{method}{BOTH}", keep), at(method, keep)) or "–" for keep in KEEPS]
        rows.append([f"`{method}`", *scores, *gains])
    heads = [f"keep={MIDDLE}", *LABELS.values(), *(f"gain of +both over published, {keep}" for keep in KEEPS)]
    losses = [
        f"`{at(f'{method}{BOTH}', keep)}` {gain}"
        for method in ("ward", "optimal")
        for keep in KEEPS
        if (gain := measured.gained(task, at(f"{method}{BOTH}", keep), BASELINE))
    ]
    base = measured.number(task, BASELINE)
    return (
        f"`{measured.model}`, {task.name} ({task.unit}; {base} with all tokens):\n\n{table(heads, rows)}\n\n"
        f"Gain over all tokens: {'; '.join(losses)}."
    )


def _verdict(measured: Measured, task: Asked) -> str:
    both = _gains(measured, task, BOTH, AS_PUBLISHED)
    parts = [f"+both over published {verdict(both)} ({tally(both)})"] if both else []
    for half, rest, methods in (("+time", "+sizes", METHODS), ("+sizes", "+time", MERGING)):
        if gains := _gains(measured, task, half, AS_PUBLISHED, methods):
            parts.append(f"`{half}` alone {verdict(gains)}")
        if gains := _gains(measured, task, BOTH, rest, methods):
            parts.append(f"`{half}` beside the other half {verdict(gains)}")
    ours, theirs = (measured.gained(task, at(spec, MIDDLE), BASELINE) for spec in (f"ward{BOTH}", "pool"))
    if ours and theirs:
        parts.append(f"gain over all tokens at {MIDDLE}: `ward{BOTH}` {ours}, `pool` as published {theirs}")
    return f"`{measured.model}`, {task.name}: {'; '.join(parts)}."


def _command() -> str:
    return (
        "**On Qwen2-Audio-7B**, for whoever has it and a GPU that holds it: the first command runs the main rows and, "
        "called again, goes on where it was; the second draws four of them; `fewhertz report qwen2-audio` shows all "
        f"with intervals.\n\n```sh\n{SEVEN_BILLION}\n{DRAWN}\n```"
    )
