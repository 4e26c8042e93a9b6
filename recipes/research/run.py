"""Measure the runs that are missing, into loose files as `fewhertz eval` writes them: hours on 2 cores.

    python -m recipes.pocket.manifests --split test --limit 325 --out out/test
    python -m recipes.research.run claims --runs out/runs/results

`make claims`, `training-free`, `recovery` and `other-models` do that, between `pack unpack` and `pack pack`. Two
processes with other --tasks may run side by side.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from fewhertz.evaluation import results
from fewhertz.evaluation.runner import evaluate, specs

from .grids import (
    AS_PUBLISHED,
    BOTH,
    CORRECTIONS,
    depth,
    encoder,
    flex,
    fourth,
    lora,
    omni,
    other_models,
    recovery,
    tolerance,
)
from .grids.claims import grid
from .grids.recovery import Trial
from .grids.training_free import (
    AFFINITY,
    BY_CONTENT,
    CANDIDATES,
    DEV_KEEPS,
    IDEAS,
    KEEPS,
    NARROW,
    TRIED_ON,
    TUNED,
    TUNED_ON,
    at_rate,
    own,
)
from .silence import silenced
from .tasks import (
    ANSWERS,
    BATCH,
    DEPTH,
    DEV,
    ENCODER,
    FLEX,
    FOURTH,
    FRENCH,
    LISTS,
    LONGEST,
    LORA,
    MODEL,
    OMNI,
    ON_DEV,
    OTHER_MODELS,
    RECOVERY,
    RUNS,
    SMALLER,
    TASKS,
    TOLERANCE,
    Asked,
)
from .train import ADAPTERS, OF_OMNI, OF_THE_GRID

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


def claims(out: Path, lists: Path, task: Asked) -> int:
    return measure(task, grid(task), out, lists / "test") if task in TASKS else 0


def adapted(out: Path, lists: Path, task: Asked) -> int:
    """Of adapters that are there."""
    wrong = measure(FRENCH, [recovery.THIRD], out, lists / "test") if task == FRENCH else 0
    ended = [name for name in recovery.measured_on(task) if (out / RECOVERY / f"{name}.json").exists()]
    there = [ADAPTERS / name for name in ended]
    return wrong + (measure(task, [], out / RECOVERY, lists / "test", there) if there else 0)


def others(out: Path, lists: Path, task: Asked) -> int:
    if task not in other_models.TASKS:
        return 0
    models = [other_models.WEIGHTS / other.name for other in other_models.OTHERS]
    grid = other_models.grid()
    return sum(measure(task, grid, out / OTHER_MODELS, lists / "test", model=model) for model in models)


def _with(corrections: str) -> Job:
    def job(out: Path, lists: Path, task: Asked) -> int:
        methods = [f"{method}{corrections}" for method in own(corrections)]
        return measure(task, specs(methods, KEEPS), out, lists / "test")

    return job


def _matched(task: Asked, runs: Sequence[str], out: Path, lists: Path) -> int:
    """The default at the rates that runs of variable length were found to have."""
    files = [results.run_files(out, task.label, MODEL, run).file for run in runs]
    return measure(task, [at_rate(results.read(file)["rate_hz"]["after"]) for file in files], out, lists)


def _affinity(out: Path, lists: Path, task: Asked) -> int:
    runs = specs([f"{one}{corrections}" for one in AFFINITY for corrections in (AS_PUBLISHED, BOTH)])
    wrong = measure(task, runs, out, lists / "test")
    return wrong + _matched(task, [f"{one}{BOTH}" for one in AFFINITY], out, lists / "test")


def _dev(out: Path, lists: Path, task: Asked) -> int:
    methods = [f"{method}{corrections}" for method in CANDIDATES for corrections in (AS_PUBLISHED, BOTH)]
    return measure(ON_DEV[task], specs(methods, DEV_KEEPS), out / DEV, lists / "dev")


def _tuning(out: Path, lists: Path, task: Asked) -> int:
    if task not in TUNED_ON:
        return 0
    from .ideas import otherwise

    with otherwise():
        runs = specs([f"{one}{BOTH}" for one in TUNED], NARROW)
        return measure(ON_DEV[task], runs, out / DEV, lists / "dev")


def _ideas(out: Path, lists: Path, task: Asked) -> int:
    if task not in TRIED_ON:
        return 0
    from . import ideas  # noqa: F401  (registers them)

    free = [f"{one}{BOTH}" for one in BY_CONTENT]
    runs = specs([f"{one}{BOTH}" for one in IDEAS], NARROW) + free
    wrong = measure(ON_DEV[task], runs, out / DEV, lists / "dev")
    return wrong + _matched(ON_DEV[task], free, out / DEV, lists / "dev")


PARTS: dict[str, Job] = {
    **{one.lstrip("+") or "as-published": _with(one) for one in CORRECTIONS},
    "affinity": _affinity,
    "dev": _dev,
    "tuning": _tuning,
    "ideas": _ideas,
}


def training_free(parts: Sequence[str]) -> Job:
    def job(out: Path, lists: Path, task: Asked) -> int:
        return sum(PARTS[part](out, lists, task) for part in parts) if task in TASKS else 0

    return job


def priced(out: Path, lists: Path, task: Asked) -> int:
    """One tolerance for all lists."""
    if task == tolerance.SILENCE:
        silenced(lists / "test" / f"{tolerance.SENTENCES.label}.jsonl", lists / "test" / f"{task.label}.jsonl")
    return measure(task, tolerance.grid(task), out / TOLERANCE, lists / "test") if task in tolerance.LISTS else 0


def newest(out: Path, lists: Path, task: Asked) -> int:
    """Pocket's fourth version on its own lists; those that explain the loss without the encoder's padding."""
    folder, longest = lists / "fourth", fourth.LONGEST.get(task, LONGEST)
    if task in fourth.SILENT:
        silenced(folder / f"{fourth.SILENT[task].label}.jsonl", folder / f"{task.label}.jsonl", inside=True)
    return measure(task, fourth.grid(task), out / FOURTH, folder, longest=longest, trim=task in fourth.TRIED)


def any_rate(out: Path, lists: Path, task: Asked) -> int:
    """A model that was trained at random rates and the one that it began from, where they are there."""
    both = {out / SMALLER: flex.BEFORE, out / FLEX: flex.MODEL}
    some = [measure(task, flex.grid(), to, lists / "fourth", model=one) for to, one in both.items() if one.exists()]
    return sum(some)


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
    there = task in (depth.VOICES, depth.SENTENCES)
    return measure(task, depth.grid(task), out / DEPTH, lists / "test") if there else 0


def low_rank(out: Path, lists: Path, task: Asked) -> int:
    """The LoRA grid, of adapters that are there."""
    there = _ended(lora.TRIALS, out / LORA, OF_THE_GRID)
    return measure(task, [], out / LORA, lists / "fourth", there) if there else 0


def slower(out: Path, lists: Path, task: Asked) -> int:
    """A model of the OmniASR class, without training and with those of its adapters that are there."""
    folder, there = lists / "fourth", _ended(omni.TRIALS, out / OMNI, OF_OMNI)
    wrong = measure(task, omni.grid(), out / OMNI, folder, model=omni.MODEL)
    return wrong + (measure(task, [], out / OMNI, folder, there, omni.MODEL) if there else 0)


def _ended(trials: Sequence[Trial], notes: Path, place: Path) -> list[Path]:
    """The adapters whose training has ended."""
    return [place / trial.name for trial in trials if (notes / f"{trial.name}.json").exists()]


JOBS: dict[str, Job] = {
    "fourth": newest,
    "flex": any_rate,
    "claims": claims,
    "recovery": adapted,
    "other-models": others,
    "tolerance": priced,
    "encoder": inside,
    "depth": deep,
    "lora": low_rank,
    "omni": slower,
}
# of the jobs that have lists, or numbers of rows, of their own; the others take what they know of `SEVERAL`
OWN: dict[str, Sequence[Asked]] = {
    "fourth": (*fourth.LISTS, *fourth.TRIED),
    "flex": flex.LISTS,
    "encoder": encoder.LISTS,
    "lora": lora.LISTS,
    "omni": omni.LISTS,
}
SEVERAL = (*TASKS, FRENCH, tolerance.SILENCE, depth.VOICES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=[*JOBS, "training-free"])
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of run files")
    parser.add_argument("--lists", type=Path, default=LISTS, help="folder of the lists: test/, dev/")
    parser.add_argument(
        "--parts", nargs="*", choices=PARTS, default=list(PARTS), help="of training-free; all by default"
    )
    labels = sorted({task.label for lists in (SEVERAL, *OWN.values()) for task in lists})
    parser.add_argument("--tasks", nargs="*", choices=labels, help="of all; dev lists by their test's name")
    args = parser.parse_args()
    job = JOBS.get(args.job) or training_free(args.parts)
    chosen = args.tasks or labels
    wrong = sum(job(args.runs, args.lists, task) for task in OWN.get(args.job, SEVERAL) if task.label in chosen)
    raise SystemExit(int(wrong > 0))


if __name__ == "__main__":
    main()
