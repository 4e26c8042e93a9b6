"""Measure a paper's table on a model, and write published figures beside measured ones.

    python -m recipes.papers A --model Qwen/Qwen2-Audio-7B-Instruct --data DIR --dtype bfloat16 --batch-size 8
    python -m recipes.papers C --model Qwen/Qwen2-Audio-7B-Instruct --data DIR --estimate    # hours and memory alone

A: arXiv 2511.20973, B: arXiv 2605.25179, C: arXiv 2511.14293, samap: SA-MAP (recipes/papers/papers.py).

DIR holds a folder for each task by its name (DIR/librispeech, DIR/clotho, …): a copy of the Hub's data set, or one
list (.csv, .tsv, .json, .jsonl) with its audio beside it or in DIR/<task>/audio. Without --data the Hub is asked. A
task whose folder lacks is left out, and the page says so. What is measured is not measured again: called anew, it goes
on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

import fewhertz
from fewhertz.checkpoint import dtype_of, open_checkpoint
from fewhertz.evaluation.results import read
from fewhertz.files import replace
from fewhertz.tasks import named
from fewhertz.tasks.base import Sample, Task

from .estimate import Estimate, Speed, estimate
from .page import markdown, names, rows_of
from .papers import PAPERS, Asked

LISTS = (".csv", ".tsv", ".json", ".jsonl")


def data_of(asked: Asked, folder: Path | None) -> dict[str, Any]:
    """Where a task's data is, as fields of the task.

    Raises:
        ValueError: where the folder lacks, or has several lists.
    """
    if folder is None:
        return {}
    own = folder / asked.task
    if not own.is_dir():
        raise ValueError(f"{asked.label}: no folder {own}")
    lists = sorted(file for file in own.iterdir() if file.suffix in LISTS and file.name not in _OF_A_DATA_SET)
    if len(lists) > 1:
        raise ValueError(f"{asked.label}: {own} has several lists, {', '.join(file.name for file in lists)}")
    sound = own / "audio"
    found: dict[str, Any] = {"data": str(lists[0] if lists else own)}
    return found | ({"audio": sound} if lists and sound.is_dir() else {})


_OF_A_DATA_SET = ("dataset_dict.json", "dataset_info.json", "state.json")


def main(arguments: list[str] | None = None) -> int:
    """Run it; the exit status: 1 where rows failed, 2 for what cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paper", choices=PAPERS)
    parser.add_argument("--model", required=True, help="a hub id, a directory, or pocket")
    parser.add_argument("--data", type=Path, help="folder of all data; default: the Hub")
    parser.add_argument("--out", type=Path, default=Path("papers"), help="folder of results and of the page")
    parser.add_argument("--adapter", type=Path, action="append", default=[], help="a LoRA adapter; repeatable")
    parser.add_argument("--more", action="append", default=[], metavar="SPEC", help="a method too: ward+time+sizes")
    parser.add_argument("--limit", type=int, help="first rows of each task only")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--estimate", action="store_true", help="hours and memory alone")
    args = parser.parse_args(arguments)
    try:
        return run(args)
    except (ValueError, TypeError, ImportError, OSError) as error:
        print(f"recipes.papers: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    """What `main` does once its arguments are read."""
    paper, checkpoint = PAPERS[args.paper], open_checkpoint(args.model)
    specs, notes = paper.specs(checkpoint.fit, tuple(args.more))
    tasks: list[tuple[Asked, Task]] = []
    for asked in paper.asked:
        try:
            task = named(
                asked.task, subset=asked.subset, also=asked.also, limit=args.limit, **data_of(asked, args.data)
            )
        except ValueError as error:
            notes.append(f"Left out: {error}")
            continue
        tasks.append((asked, task))
    if not tasks:
        raise ValueError(f"no data for any task of {paper.key}: {'; '.join(notes)}")
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, args.dtype) if args.dtype else dtype_of(checkpoint.config)
    speed = Speed.of(device, dtype)
    found: dict[str, Estimate] = {}
    how = {"batch_size": args.batch_size, "max_new_tokens": args.max_new_tokens, "dtype": dtype}
    for asked, task in tasks:
        samples = [row for row in task.samples() if isinstance(row, Sample)]
        if not samples:
            raise ValueError(f"{asked.label}: no row can be used: {task.samples()[0]}")
        found[asked.label] = one = estimate(checkpoint, samples, specs, speed, **how)
        print(
            f"{asked.label}: {one.samples} samples, {one.audio_hours:.3g} h of audio, {len(specs)} runs: about "
            f"{one.hours:.2g} h here, {one.memory / 1e9:.3g} GB without activations"
        )
    hours, memory = sum(one.hours for one in found.values()), max(one.memory for one in found.values())
    print(f"in all about {hours:.2g} h and {memory / 1e9:.3g} GB; half or twice that is within reason", flush=True)
    if args.estimate:
        return 0
    rows, errors = [], []
    for asked, task in tasks:
        done = fewhertz.evaluate(
            args.model, task, specs[1:], (), args.out / "runs", limit=args.limit, batch_size=args.batch_size,
            max_new_tokens=args.max_new_tokens, device=args.device, dtype=args.dtype, adapters=args.adapter,
            say=lambda text: print(text, flush=True),
        )  # fmt: skip
        errors += done.errors
        rows += rows_of(paper, asked, [read(file) for file in done.files])
        write(args.out, paper, rows, notes, found)  # after each task: what is there may be read
    print(*names(args.out, paper), *errors, sep="\n")
    return 1 if errors else 0


def write(out: Path, paper: Any, rows: list[Any], notes: list[str], found: dict[str, Estimate]) -> None:
    """The page and its JSON."""
    page, data = names(out, paper)
    out.mkdir(parents=True, exist_ok=True)
    replace(page, markdown(paper, rows, notes).encode())
    estimates = {label: vars(one) for label, one in found.items()}
    content = {"paper": paper.key, "link": paper.link, "notes": notes, "estimated": estimates, "rows": rows}
    replace(data, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
