"""Train the LoRA adapters that the pages measure. Hours on 2 cores.

    python -m recipes.research.train lora           # those that are missing; --part 1/2 and 2/2 side by side
    python -m recipes.research.train omni           # of a model of the OmniASR class: with transformers 5.24; likewise

A training that was broken off goes on when called again. What each took is noted beside the run files.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import fewhertz
from fewhertz.files import replace

from .grids import lora, omni
from .grids.lora import SETTINGS, Trial
from .tasks import LISTS, LORA, MODEL, OMNI, RUNS

ADAPTERS, OF_OMNI = LISTS / "adapters-lora", LISTS / "adapters-omni"


def adapters(trials: Sequence[Trial], names: Sequence[str], notes: Path, place: Path, model: str | Path) -> None:
    """Train the adapters of a model that are missing."""
    for trial in trials:
        note = notes / f"{trial.name}.json"
        if trial.name not in names or (note.exists() and (place / trial.name).exists()):
            continue
        tasks = [_first(LISTS / "train" / f"{name}-train.jsonl", count) for name, count in trial.rows.items()]
        dev = [LISTS / "dev" / f"{name}-dev.jsonl" for name in trial.rows]
        say = functools.partial(print, f"{trial.name}:", flush=True)
        done = fewhertz.train(
            model, trial.method, tasks, place / trial.name, dev=dev, device="cpu", cache=LISTS / "heard", say=say,
            **SETTINGS | trial.settings,
        )  # fmt: skip
        took = json.loads((done.directory / "training" / "summary.json").read_text("utf-8"))
        took = {key: value for key, value in took.items() if key != "path"} | {"base_model": Path(model).name}
        content = {"trial": dataclasses.asdict(trial)} | took
        replace(note, (json.dumps(content, indent=1, default=str) + "\n").encode())


def _first(manifest: Path, count: int) -> Path:
    """The first rows of a manifest, beside it."""
    some = manifest.with_name(f"{manifest.stem}-{count}.jsonl")
    replace(some, "".join(manifest.read_text("utf-8").splitlines(keepends=True)[:count]).encode())
    return some


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("lora", "omni"))
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of run files, where each is noted")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="adapters to train; default: all")
    parser.add_argument("--part", default="1/1", help="1/2: every second adapter, from the first")
    args = parser.parse_args()
    trials = {"lora": lora.TRIALS, "omni": omni.TRIALS}[args.what]
    every = [one.name for one in trials]
    names = every if args.only is None else args.only
    if unknown := sorted(set(names) - set(every)):
        parser.error(f"--only {unknown[0]}: there are {', '.join(every)}")
    first, count = map(int, args.part.split("/"))
    if args.what == "lora":
        adapters(trials, names[first - 1 :: count], args.runs / LORA, ADAPTERS, MODEL)
    else:
        adapters(trials, names[first - 1 :: count], args.runs / OMNI, OF_OMNI, omni.MODEL)


if __name__ == "__main__":
    main()
