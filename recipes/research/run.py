"""Measure the runs that are missing, into loose files as `fewhertz eval` writes them: hours on 2 cores.

    python -m recipes.pocket.manifests --split test --limit 100 --out out/fourth
    python -m recipes.research.run training-free --runs out/runs/results

`make training-free` and the like do that, between `pack unpack` and `pack pack`. Two processes with other --tasks may
run side by side.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from fewhertz.evaluation import results
from fewhertz.evaluation.runner import evaluate, specs

from .grids import BOTH, choice, depth, encoder, flex, lora, omni, training_free
from .grids.lora import Trial
from .silence import silenced
from .tasks import ANSWERS, BATCH, DEPTH, DEV, ENCODER, FLEX, LISTS, LONGEST, LORA, MODEL, OMNI, RUNS, SMALLER, Asked
from .train import ADAPTERS, OF_OMNI

Job = Callable[[Path, Path, Asked], int]  # folder of run files, of lists, a task: how many rows or runs went wrong


def measure(
    task: Asked,
    runs: Sequence[str],
    out: Path,
    lists: Path,
    adapters: Sequence[Path] = (),
    model: str | Path = MODEL,
    longest: int = LONGEST,
    trim: bool = False,
) -> int:
    """Measure runs of a task that are missing; returns how many rows or runs went wrong. `longest`: new tokens."""
    from transformers.utils import logging

    import fewhertz.tasks  # noqa: F401
    from fewhertz.tasks.base import TASKS as KINDS

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    data = KINDS["manifest"](data=str(lists / f"{task.label}.jsonl"))
    done = evaluate(
        model, data, runs, out, limit=task.rows, batch_size=BATCH, max_new_tokens=longest, device="cpu",
        adapters=adapters, trim=trim, say=lambda text: print(text, flush=True),
    )  # fmt: skip
    for error in done.errors:
        print(error, flush=True)
    return len(done.errors)


def grid(out: Path, lists: Path, task: Asked) -> int:
    """The grid, and methods at the rates that runs of variable length took; `TRIED` without the encoder's padding."""
    folder, longest = lists / "fourth", training_free.LONGEST.get(task, LONGEST)
    if task in training_free.SILENT:
        silenced(folder / f"{training_free.SILENT[task].label}.jsonl", folder / f"{task.label}.jsonl", inside=True)
    trim = task in training_free.TRIED
    runs = training_free.grid(task)
    wrong = measure(task, runs, out, folder, longest=longest, trim=trim)
    again = [training_free.at_its_rate(run, _rate(out, task, run)) for run in training_free.MATCHED if run in runs]
    return wrong + (measure(task, again, out, folder, longest=longest) if again else 0)


def _rate(out: Path, task: Asked, run: str) -> float:
    """Audio tokens a second that a run took."""
    hertz: float = results.read(results.run_files(out, task.label, MODEL, run).file)["rate_hz"]["after"]
    return hertz


def chosen(out: Path, lists: Path, task: Asked) -> int:
    """On dev: what the default is chosen from; ideas, which are registered for that, and other corrections."""
    from .ideas import otherwise

    on_dev, to, folder = choice.ON_DEV[task], out / DEV, lists / "dev"
    runs = specs([f"{one}{BOTH}" for one in choice.CANDIDATES], choice.KEEPS)
    wrong = measure(on_dev, [*runs, *map(training_free.priced, training_free.TOLERANCES)], to, folder)
    if task in choice.TRIED_ON:
        wrong += measure(on_dev, specs([f"{one}{BOTH}" for one in choice.IDEAS], choice.NARROW), to, folder)
    if task in choice.TUNED_ON:
        with otherwise():
            wrong += measure(on_dev, specs([f"{one}{BOTH}" for one in choice.TUNED], choice.NARROW), to, folder)
    return wrong


def any_rate(out: Path, lists: Path, task: Asked) -> int:
    """A model that was trained at random rates and the one that it began from, where they are there."""
    folder, models = lists / "fourth", {out / SMALLER: flex.BEFORE}
    trim = task in training_free.TRIED  # paces and silence, which are not asked of the model of random rates
    if not trim:
        models[out / FLEX] = flex.MODEL
    runs = training_free.of_others() if trim else flex.grid()
    there = {to: model for to, model in models.items() if model.exists()}
    return sum(measure(task, runs, to, folder, model=model, trim=trim) for to, model in there.items())


def inside(out: Path, lists: Path, task: Asked) -> int:
    """Before a layer of the encoder, on the first rows of a list, of answers on every third: minutes on one core."""
    folder = lists / "test"
    if task.label == ANSWERS.label:  # whose rows stand by kinds of questions
        lines = (folder / f"{task.label}.jsonl").read_text("utf-8").splitlines()[::3]
        rows = [row | {"audio": str((folder / row["audio"]).resolve())} for row in map(json.loads, lines)]
        folder = lists / "thirds"
        folder.mkdir(exist_ok=True)
        (folder / f"{task.label}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return measure(task, encoder.grid(task), out / ENCODER, folder, trim=True)


def deep(out: Path, lists: Path, task: Asked) -> int:
    """What is not words, and inside the LLM."""
    return measure(task, depth.grid(task), out / DEPTH, lists / "test")


def low_rank(out: Path, lists: Path, task: Asked) -> int:
    """Of the adapters that are there."""
    there = _ended(lora.measured_on(task), out / LORA, ADAPTERS)
    return measure(task, [], out / LORA, lists / "fourth", there) if there else 0


def slower(out: Path, lists: Path, task: Asked) -> int:
    """A model of the OmniASR class, without training and with those of its adapters that are there."""
    folder, there = lists / "fourth", _ended(omni.TRIALS, out / OMNI, OF_OMNI)
    if task in training_free.TRIED:
        return measure(task, training_free.of_others(), out / OMNI, folder, model=omni.MODEL)
    wrong = measure(task, omni.grid(), out / OMNI, folder, model=omni.MODEL)
    return wrong + (measure(task, [], out / OMNI, folder, there, omni.MODEL) if there else 0)


def _ended(trials: Sequence[Trial], notes: Path, place: Path) -> list[Path]:
    """The adapters whose training has ended."""
    return [place / trial.name for trial in trials if (notes / f"{trial.name}.json").exists()]


# each with its lists
JOBS: dict[str, tuple[Job, Sequence[Asked]]] = {
    "training-free": (grid, (*training_free.LISTS, *training_free.TRIED)),
    "dev": (chosen, training_free.FIVE),
    "flex": (any_rate, (*flex.LISTS, *training_free.TRIED)),
    "encoder": (inside, encoder.LISTS),
    "depth": (deep, depth.LISTS),
    "lora": (low_rank, lora.LISTS),
    "omni": (slower, (*omni.LISTS, *training_free.TRIED)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of run files")
    parser.add_argument("--lists", type=Path, default=LISTS, help="folder of the lists: fourth/, test/, dev/")
    labels = sorted({task.label for _, lists in JOBS.values() for task in lists})
    parser.add_argument("--tasks", nargs="*", choices=labels, default=labels, help="of all; dev lists by their test's")
    args = parser.parse_args()
    job, tasks = JOBS[args.job]
    wrong = sum(job(args.runs, args.lists, task) for task in tasks if task.label in args.tasks)
    raise SystemExit(int(wrong > 0))


if __name__ == "__main__":
    main()
