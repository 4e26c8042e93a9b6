"""Is it an artefact of one small model? Two more of pocket's kind, trained apart from it, under the main rows.

    python -m recipes.pocket.prepare                   # once: what they learn from
    python -m recipes.other_models train               # weights that are missing, into out/models/: hours
    python -m recipes.pocket.manifests --split test --limit 325 --out out/test
    python -m recipes.other_models run                 # cells that are missing, into results/other-models/

`section` is their part of docs/training-free.md. A training that was broken off goes on when called again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewhertz.checkpoint import weights_sha256
from fewhertz.evaluation.results import BASELINE
from fewhertz.evaluation.runner import specs
from fewhertz.files import Record, replace

from . import claims
from .claims import MODEL, REPO, RESULTS, SENTENCES, STRINGS, Asked, Gain, Measured, table, tally, word
from .pocket.config import RUNS, SIZES

FOLDER = "other-models"  # in that of all results
WEIGHTS, MANIFESTS = REPO / "out" / "models", REPO / "out" / "test"
TASKS = (STRINGS, SENTENCES)
MERGING = ("pool", "segment", "ltbm", "ward", "optimal")
METHODS = (*MERGING, "segmentwise")  # which drops tokens: `+sizes` says nothing of those that stay
AS_PUBLISHED, TOLD = "", "+time+sizes"
PRESENTATIONS = {AS_PUBLISHED: "as published", "+time": "+time", "+sizes": "+sizes", TOLD: "+both"}
KEEPS = ("1/2", "1/3", "1/4")
MIDDLE = "1/3"
BAD = 50  # % of WER with all tokens: what compression costs such a model says little


@dataclass(frozen=True)
class Other:
    """A model, what it is there to tell, and the arguments of its training."""

    name: str
    what: str
    size: str
    arguments: tuple[str, ...]

    @property
    def run(self) -> str:
        return self.name.replace(MODEL, "other")


LEARNT = (
    *("--shares", "words=0.6", "english=0.4", "--lengthen", "800"),
    *("--threads", "1", "--batch-seconds", "24", "--lr", "2e-3", "--save-every", "50"),
)
OTHERS = (
    Other(
        "pocket-wide",
        "another seed and another shape",
        "wide",
        ("--seed", "2", "--mix-from", "855", "--steps", "2800", *LEARNT),
    ),
    Other(
        "pocket-shifted",
        "another seed, and positions shifted at random in half of its examples",
        "small",
        ("--seed", "3", "--shift", "0.5", "--mix-from", "746", "--steps", "2600", *LEARNT),
    ),
)


def train(other: Other, results: Path) -> None:
    """Train and export a model where it is missing, and note beside the results how it was made."""
    out = WEIGHTS / other.name
    if not (out / "model.safetensors").exists():
        for stage in (
            ["train", *_training(other)],
            ["export", "--run", other.run, "--out", str(out)],
        ):
            subprocess.run([sys.executable, "-m", f"recipes.pocket.{stage[0]}", *stage[1:]], check=True)
    note(other, out, results)


def _training(other: Other) -> list[str]:
    return ["--name", other.run, "--size", other.size, *other.arguments]


CHOSEN = ("seed", "shares", "shift", "mix_from", "lengthen", "lr", "batch_seconds", "steps", "minutes")


def note(other: Other, weights: Path, results: Path) -> None:
    """Write `<name>.json`: size, seed, data, steps, minutes and hash of exported weights."""
    from safetensors import safe_open

    from fewhertz.checkpoint import open_checkpoint

    with safe_open(weights / "model.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["training"])
        parameters = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
    calls = {
        int(file.stem.rpartition("-")[2]): json.loads(file.read_text("utf-8"))
        for file in sorted((RUNS / other.run).glob("arguments-*.json"))
    }
    # one from the last step on did nothing
    calls = {step: {key: call.get(key) for key in CHOSEN} for step, call in calls.items() if step < facts["step"]}
    told = {
        "model": other.name,
        "what": other.what,
        "parameters": parameters,
        "weights_sha256": weights_sha256(open_checkpoint(weights)),
        "shape": vars(SIZES[other.size]),
        "training": facts | {key: calls[max(calls)][key] for key in ("seed", "shares", "shift")},
        "calls": calls,  # by the step that they began at; it was broken off between them
        "command": ["python", "-m", "recipes.pocket.train", *_training(other)],
    }
    replace(results / FOLDER / f"{other.name}.json", (json.dumps(told, indent=1) + "\n").encode())


def cells() -> list[str]:
    """The cells of a task, as specs."""
    return specs([f"{method}{told}" for method in METHODS for told in PRESENTATIONS], KEEPS)


def run(results: Path, manifests: Path, tasks: Sequence[str], models: Sequence[str]) -> int:
    """Run the cells that are missing; returns how many rows or cells went wrong."""
    return sum(
        claims.measure(task, cells(), results / FOLDER, manifests, model=WEIGHTS / name)
        for task in TASKS
        if task.label in tasks
        for name in models
    )


SEVEN_BILLION = (
    "fewhertz eval Qwen/Qwen2-Audio-7B-Instruct --task librispeech --subset other --limit 500 --batch-size 8 "
    + " ".join(f"--method {method}{told}" for method in METHODS for told in PRESENTATIONS)
    + f" --keep {' '.join(KEEPS)} --dtype bfloat16 --out qwen2-audio"
)
DRAWN = "fewhertz plot qwen2-audio " + " ".join(f"--method {m}{told}" for m in ("pool", "ward") for told in ("", TOLD))
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


def of(root: Path, name: str) -> Measured:
    """The results of one of these models, or of pocket itself."""
    return Measured(root if name == MODEL else root / FOLDER, name)


def section(root: Path) -> str:
    """A section in Markdown, from the result files under `root`; models and tasks without any are left out."""
    notes = {other.name: told for other in OTHERS if (told := _note(root, other.name))}
    parts = [_models(root, notes)] if notes else ["The models of `recipes/other_models.py` have not been measured yet."]
    there = [(of(root, name), task) for name in notes for task in TASKS]
    there = [(measured, task) for measured, task in there if measured.there(task, BASELINE)]
    parts += [_rows(measured, task) for measured, task in there]
    if there:
        own = [(of(root, MODEL), task) for task in TASKS if of(root, MODEL).there(task, BASELINE)]
        parts.append("**Does it hold?**\n\n" + "\n".join(f"- {_verdict(*one)}" for one in [*there, *own]))
    return "\n\n".join([*parts, NOT_MEASURED, _command()])


def _note(root: Path, name: str) -> Record:
    file = root / FOLDER / f"{name}.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else {}


def _models(root: Path, notes: dict[str, Record]) -> str:
    rows = []
    for name, told in notes.items():
        shape, how = told["shape"], told["training"]
        measured = of(root, name)
        whole = [measured.number(task, BASELINE) for task in TASKS]
        shares = ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in how["shares"])
        rows.append(
            [
                f"`{name}`: {told['what']}",
                f"{told['parameters'] / 1e6:.1f} M: encoder {shape['d_encoder']} × {shape['encoder_layers']}, "
                f"LLM {shape['d_llm']} × {shape['llm_layers']}",
                how["seed"],
                f"{shares}; {how['step']} steps, {how['heard_s'] / 3600:.1f} h, {how['spent_s'] / 60:.0f} min",
                *whole,
            ]
        )
    heads = ["model", "size", "seed", "learnt from", *(f"{task.name}, WER with all tokens, %" for task in TASKS)]
    own = " and ".join(f"{of(root, MODEL).number(task, BASELINE)} ({task.name})" for task in TASKS)
    text = (
        "Two more models of the same class, from random weights and with other seeds. `words` are strings of spoken "
        "words, `english` synthetic sentences: what pocket learns from too, but neither took anything of its weights. "
        f"They were trained for less than pocket, which scores {own} with all tokens. If told positions helped only "
        "a model that leans on the distances that it learnt, `pocket-shifted` should gain less from them."
    )
    bad = [
        f"`{name}` on {task.name}"
        for name in notes
        for task in TASKS
        if of(root, name).there(task, BASELINE) and of(root, name).score(task, BASELINE)["score"] > BAD
    ]
    if bad:
        text += f" Above {BAD} % with all tokens, and so too bad to tell much: {', '.join(bad)}."
    return f"{text}\n\n{table(heads, rows)}"


def _gains(measured: Measured, task: Asked, one: str, other: str, methods: Sequence[str] = METHODS) -> list[Gain]:
    """What one presentation gives over another, over methods and keeps, where both were measured."""
    pairs = [(claims.at(f"{m}{one}", keep), claims.at(f"{m}{other}", keep)) for m in methods for keep in KEEPS]
    return [gain for pair in pairs if (gain := measured.gained(task, *pair))]


def _rows(measured: Measured, task: Asked) -> str:
    """Scores at the middle keep, gains with their intervals at every keep, and what ours costs."""
    rows = []
    for method in METHODS:
        scores = [measured.number(task, claims.at(f"{method}{told}", MIDDLE)) for told in PRESENTATIONS]
        gains = [
            measured.gained(task, claims.at(f"{method}{TOLD}", keep), claims.at(method, keep)) or "–" for keep in KEEPS
        ]
        rows.append([f"`{method}`", *scores, *gains])
    heads = [
        f"keep={MIDDLE}",
        *PRESENTATIONS.values(),
        *(f"gain of +both over published, {keep}" for keep in KEEPS),
    ]
    costs = [
        f"`{claims.at(f'{method}{TOLD}', keep)}` {gain}"
        for method in ("ward", "optimal")
        for keep in KEEPS
        if (gain := measured.gained(task, claims.at(f"{method}{TOLD}", keep), BASELINE))
    ]
    base = measured.number(task, BASELINE)
    return (
        f"`{measured.model}`, {task.name} ({task.unit}; {base} with all tokens):\n\n{table(heads, rows)}\n\n"
        f"Gain over all tokens: {'; '.join(costs)}."
    )


def _verdict(measured: Measured, task: Asked) -> str:
    both = _gains(measured, task, TOLD, AS_PUBLISHED)
    parts = [f"+both over published {word(both)} ({tally(both)})"] if both else []
    for half, rest, methods in (("+time", "+sizes", METHODS), ("+sizes", "+time", MERGING)):
        if gains := _gains(measured, task, half, AS_PUBLISHED, methods):
            parts.append(f"`{half}` alone {word(gains)}")
        if gains := _gains(measured, task, TOLD, rest, methods):
            parts.append(f"`{half}` beside the other half {word(gains)}")
    ours, theirs = (
        measured.gained(task, claims.at(spec, MIDDLE), BASELINE) for spec in (f"ward{TOLD}", f"pool{AS_PUBLISHED}")
    )
    if ours and theirs:
        parts.append(f"gain over all tokens at {MIDDLE}: `ward{TOLD}` {ours}, `pool` as published {theirs}")
    return f"`{measured.model}`, {task.name}: {'; '.join(parts)}."


def _command() -> str:
    return (
        "**On Qwen2-Audio-7B**, for whoever has it and a GPU that holds it: the first command runs the main rows and, "
        "called again, goes on where it was; the second draws four of them; `fewhertz report qwen2-audio` shows all "
        f"with intervals.\n\n```sh\n{SEVEN_BILLION}\n{DRAWN}\n```"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("train", "run", "section"), help="section: to standard output")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--manifests", type=Path, default=MANIFESTS)
    labels, names = [task.label for task in TASKS], [other.name for other in OTHERS]
    parser.add_argument("--tasks", nargs="*", choices=labels, default=labels, help="to run; all by default")
    parser.add_argument("--models", nargs="*", choices=names, default=names, help="all by default")
    args = parser.parse_args()
    if args.job == "section":
        print(section(args.results))
    elif args.job == "run":
        raise SystemExit(int(run(args.results, args.manifests, args.tasks, args.models) > 0))
    else:
        for other in OTHERS:
            if other.name in args.models:
                train(other, args.results)


if __name__ == "__main__":
    main()
