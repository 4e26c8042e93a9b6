"""What writes checkpoints: `train`, `merge`, `compress`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from fewhertz.cli.shared import (
    ASK,
    DATA,
    DEVICE,
    FOLDER,
    IMPORT,
    MAX_BATCH,
    MAX_NEW,
    MODEL,
    SUBSET,
    THE_METHOD,
    SeveralKeeps,
    bad_usage,
    command,
    import_modules,
    mismatches_said,
    quiet,
    say,
    tasks_of,
)


@command(
    epilog='fewhertz compress pocket --method "pool@keep=1/3" --out ./pocket-third\n\n'
    'fewhertz compress Qwen/Qwen2-Audio-7B-Instruct --method "segment@8Hz" --out ./qwen2-audio-8hz'
)
def compress(
    model: MODEL,
    method: THE_METHOD,
    out: Annotated[Path, typer.Option(help="A directory that is empty or not there.", show_default=False)],
    modules: IMPORT = None,
) -> None:
    """Write a checkpoint that carries a method: fewhertz.load attaches it."""
    import_modules(modules)
    with bad_usage():
        from fewhertz.checkpoint import save_compressed

        print(save_compressed(model, method, out))


@command(
    cls=SeveralKeeps,
    epilog="fewhertz train pocket --method pool@keep=1/3 --task train.jsonl --dev dev.jsonl --out adapter\n\n"
    "fewhertz train Qwen/Qwen2-Audio-7B-Instruct -m segment --keep 1/2..1/6 --task commonvoice --out adapter --bf16\n\n"
    "accelerate launch --config_file examples/ddp.yaml $(which fewhertz) train pocket -m pool@keep=1/2 "
    "--objective distill --task audio.jsonl --out adapter\n\n"
    "fewhertz train pocket -m ward@keep=1/2 --objective distill --teacher ward@keep=1/2+time+sizes --task audio.jsonl "
    "--out adapter",
)
def train(
    model: MODEL,
    method: Annotated[
        str, typer.Option("--method", "-m", metavar="SPEC", help="What to attach; none: a control.", show_default=False)
    ],
    task: Annotated[
        list[str],
        typer.Option(metavar="NAME|FILE", help="A task, or a manifest; repeatable.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Directory of the adapter; a broken-off training goes on.")],
    dev: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|SPLIT", help="What chooses the best checkpoint: a manifest, or the tasks' split."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="K …", help="Draw a keep for each batch: 1/2 1/3, or 1/2..1/6.")
    ] = None,
    objective: Annotated[
        str, typer.Option(help="labels: the right answer. distill: what the teacher says; reads no labels.")
    ] = "labels",
    teacher: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="The method of the teacher (distill); default: none, so all tokens."),
    ] = None,
    targets: Annotated[str, typer.Option(help="What of the LLM is adapted: some of q,k,v,o, or all.")] = "q,k",
    rank: Annotated[int, typer.Option(help="Of LoRA.")] = 16,
    alpha: Annotated[int, typer.Option(help="Of LoRA.")] = 32,
    dropout: Annotated[float, typer.Option(help="Of LoRA.")] = 0.0,
    lr: Annotated[float, typer.Option(help="Peak learning rate; then a cosine to 0.")] = 2e-4,
    warmup: Annotated[float, typer.Option(help="Fraction of the steps in which it rises.")] = 0.05,
    decay: Annotated[float, typer.Option(help="Weight decay.")] = 0.0,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 3.0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, instead of --epochs.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Samples of a step, over all processes.")] = 16,
    accumulate: Annotated[int, typer.Option(help="Parts of a batch that run one after the other.")] = 1,
    every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 100,
    data: DATA = None,
    subset: SUBSET = None,
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "train",
    audio: FOLDER = None,
    prompt: ASK = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, max=MAX_NEW, help="Longest output of the teacher (distill).")
    ] = 256,
    bf16: Annotated[bool, typer.Option("--bf16", help="Autocast to bfloat16.")] = False,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Less memory, more time.")] = False,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep encoded audio here, for other trainings on it.")
    ] = None,
    cache_gb: Annotated[float, typer.Option(help="Memory for encoded audio, in GB.")] = 2.0,
    device: DEVICE = None,
    dtype: Annotated[str | None, typer.Option(help="Of the frozen weights; default: the checkpoint's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of data order, first weights and dropout.")] = 0,
    modules: IMPORT = None,
) -> None:
    """Train a LoRA adapter that lives with fewer audio tokens; it is saved with its method."""
    import_modules(modules)
    with bad_usage():
        from fewhertz.checkpoint import device_of
        from fewhertz.training import Stopped, keep_range
        from fewhertz.training import train as run_training

        quiet()
        options: dict[str, Any] = {"data": data, "subset": subset, "split": split, "audio": audio, "ask": prompt}
        judged = []
        for name in dev or []:
            of = [name] if name.endswith(".jsonl") else task
            if of is task and (any(one.endswith(".jsonl") for one in task) or Path(data or "").is_file()):
                raise ValueError(f"--dev {name} names a split, and a file has none: name a .jsonl file")
            judged += tasks_of(of, options if name.endswith(".jsonl") else options | {"split": name})
        device_of(device)  # before any work
        if not (0 < epochs < float("inf") and 0 <= cache_gb < float("inf")):
            raise ValueError(f"--epochs is above 0 and --cache-gb at least 0, got {epochs:g} and {cache_gb:g}")
        keeps = tuple(one for text in keep or [] for one in keep_range(text))
        try:
            done = run_training(
                model,
                method,
                tasks_of(task, options),
                out,
                dev=judged,
                device=device,
                dtype=dtype,
                say=say,
                objective=objective,
                teacher=teacher,
                keeps=keeps,
                targets=targets,
                rank=rank,
                alpha=alpha,
                dropout=dropout,
                lr=lr,
                warmup=warmup,
                decay=decay,
                steps=steps,
                epochs=epochs,
                batch_size=batch_size,
                accumulate=accumulate,
                every=every,
                bf16=bf16,
                checkpointing=checkpointing,
                cache=cache,
                cache_gb=cache_gb,
                max_new_tokens=max_new_tokens,
                seed=seed,
            )
        except Stopped as error:
            say(f"fewhertz: {error}")
            raise typer.Exit(1) from error
    if os.environ.get("RANK", "0") == "0":
        say(f"{done.parameters:,} numbers trained in {done.seconds:.0f} s; loss {done.loss:.4f} at step {done.step}")
        print(done.directory)


@command(epilog="fewhertz merge pocket --adapter ./adapter --out ./pocket-third")
def merge(
    model: MODEL,
    adapter: Annotated[Path, typer.Option(help="What fewhertz train wrote.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A directory that is empty or not there.", show_default=False)],
    modules: IMPORT = None,
) -> None:
    """Fold an adapter into the weights, for serving: a checkpoint that carries its method."""
    import_modules(modules)
    with bad_usage(), mismatches_said():
        from fewhertz.loading import merge as fold

        quiet()
        print(fold(model, adapter, out))
