"""Train what the pages measure: LoRA adapters, and two more models of pocket's kind. Hours on 2 cores.

    python -m recipes.research.train adapters       # those that are missing; --part 1/2 and 2/2 side by side
    python -m recipes.research.train lora           # rank, alpha, projections and seeds; likewise
    python -m recipes.research.train omni           # of a model of the OmniASR class: with transformers 5.24; likewise
    python -m recipes.pocket.prepare                # once: what the models learn from
    python -m recipes.research.train models         # weights that are missing, into out/models/

A training that was broken off goes on when called again. What each took is noted beside the run files.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import fewhertz
from fewhertz.checkpoint import open_checkpoint, weights_sha256
from fewhertz.files import replace

from ..pocket.config import RUNS as TRAININGS
from ..pocket.config import SIZES
from .grids import lora, omni
from .grids.other_models import OTHERS, WEIGHTS, Other
from .grids.recovery import LANGUAGES, ROWS, SETTINGS, TRIALS, Trial
from .tasks import LISTS, LORA, MODEL, OMNI, OTHER_MODELS, RECOVERY, RUNS

ADAPTERS, OF_THE_GRID, OF_OMNI = LISTS / "adapters", LISTS / "adapters-lora", LISTS / "adapters-omni"
CHOSEN = ("seed", "shares", "shift", "mix_from", "lengthen", "lr", "batch_seconds", "steps", "minutes")


def adapters(
    trials: Sequence[Trial], names: Sequence[str], notes: Path, place: Path = ADAPTERS, model: str | Path = MODEL
) -> None:
    """Train the adapters of a model that are missing."""
    for trial in trials:
        note = notes / f"{trial.name}.json"
        if trial.name not in names or (note.exists() and (place / trial.name).exists()):
            continue
        tasks = [_first(LISTS / "train" / f"{name}-train.jsonl", ROWS[name]) for name in LANGUAGES[trial.language]]
        dev = [LISTS / "dev" / f"{name}-dev.jsonl" for name in LANGUAGES[trial.language]]
        say = functools.partial(print, f"{trial.name}:", flush=True)
        done = fewhertz.train(
            model, trial.method, tasks, place / trial.name, dev=dev, device="cpu", cache=LISTS / "heard", say=say,
            **SETTINGS | trial.settings,
        )  # fmt: skip
        took = json.loads((done.directory / "training" / "summary.json").read_text("utf-8"))
        took = {key: value for key, value in took.items() if key != "path"} | {"base_model": Path(model).name}
        rows = {name: ROWS[name] for name in LANGUAGES[trial.language]}
        content = {"trial": dataclasses.asdict(trial), "rows": rows} | took
        replace(note, (json.dumps(content, indent=1, default=str) + "\n").encode())


def _first(manifest: Path, count: int) -> Path:
    """The first rows of a manifest, beside it."""
    some = manifest.with_name(f"{manifest.stem}-{count}.jsonl")
    replace(some, "".join(manifest.read_text("utf-8").splitlines(keepends=True)[:count]).encode())
    return some


def model(other: Other, runs: Path) -> None:
    """Train and export a model where it is missing."""
    out = WEIGHTS / other.name
    if not (out / "model.safetensors").exists():
        for job, *rest in (other.training, ["export", "--run", other.folder, "--out", str(out)]):
            subprocess.run([sys.executable, "-m", f"recipes.pocket.{job}", *rest], check=True)
    _note(other, out, runs)


def _note(other: Other, weights: Path, runs: Path) -> None:
    """Write `<name>.json`: size, seed, data, steps, minutes and hash of exported weights."""
    from safetensors import safe_open

    with safe_open(weights / "model.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["training"])
        parameters = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
    calls = {
        int(file.stem.rpartition("-")[2]): json.loads(file.read_text("utf-8"))
        for file in sorted((TRAININGS / other.folder).glob("arguments-*.json"))
    }
    # one from the last step on did nothing
    calls = {step: {key: call.get(key) for key in CHOSEN} for step, call in calls.items() if step < facts["step"]}
    job, *arguments = other.training
    note = {
        "model": other.name,
        "what": other.what,
        "parameters": parameters,
        "weights_sha256": weights_sha256(open_checkpoint(weights)),
        "shape": vars(SIZES[other.size]),
        "training": facts | {key: calls[max(calls)][key] for key in ("seed", "shares", "shift")},
        "calls": calls,  # by the step that they began at; it was broken off between them
        "command": ["python", "-m", f"recipes.pocket.{job}", *arguments],
    }
    replace(runs / OTHER_MODELS / f"{other.name}.json", (json.dumps(note, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("adapters", "lora", "omni", "models"))
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of run files, where each is noted")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="adapters or models to train; default: all")
    parser.add_argument("--part", default="1/1", help="1/2: every second adapter, from the first")
    args = parser.parse_args()
    several = {"adapters": TRIALS, "lora": lora.TRIALS, "omni": omni.TRIALS, "models": OTHERS}
    every = [one.name for one in several[args.what]]
    names = every if args.only is None else args.only
    if unknown := sorted(set(names) - set(every)):
        parser.error(f"--only {unknown[0]}: there are {', '.join(every)}")
    first, count = map(int, args.part.split("/"))
    if args.what == "adapters":
        adapters(TRIALS, names[first - 1 :: count], args.runs / RECOVERY)
    elif args.what == "lora":
        adapters(lora.TRIALS, names[first - 1 :: count], args.runs / LORA, OF_THE_GRID)
    elif args.what == "omni":
        adapters(omni.TRIALS, names[first - 1 :: count], args.runs / OMNI, OF_OMNI, omni.MODEL)
    else:
        for other in OTHERS:
            if other.name in names:
                model(other, args.runs)


if __name__ == "__main__":
    main()
