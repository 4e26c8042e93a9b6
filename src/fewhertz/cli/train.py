"""What writes checkpoints: `train`, `merge`, `compress`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

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
)
from fewhertz.training.settings import Settings


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


ANY = inspect.Parameter.POSITIONAL_OR_KEYWORD
# what the command line has of a setting beside its name, default and help
OPTIONS: dict[str, dict[str, Any]] = {
    "keeps": {"metavar": "K …"},
    "teacher": {"metavar": "SPEC"},
    "cache": {"metavar": "DIR"},
    "batch_size": {"min": 1, "max": MAX_BATCH},
    "max_new_tokens": {"min": 1, "max": MAX_NEW},
    "seed": {"min": 0},
}


def _with_settings(run: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each field of `Settings`, behind `--dev`."""
    own = inspect.signature(run, eval_str=True)
    hints = get_type_hints(Settings)
    kinds = {"keeps": list[str] | None, "objective": str, "cache": Path | None}
    made = []
    for one in fields(Settings):
        kind = kinds.get(one.name, hints[one.name])
        flag = ["--" + one.name.replace("_", "-")] if kind is bool else []  # a name given: no --no-… beside it
        option = typer.Option(*flag, help=one.metadata["help"], **OPTIONS.get(one.name, {}))
        name, default = ("keep", None) if one.name == "keeps" else (one.name, one.default)
        made.append(inspect.Parameter(name, ANY, default=default, annotation=Annotated[kind, option]))
    params = [one for one in own.parameters.values() if one.kind is ANY]
    place = list(own.parameters).index("dev") + 1
    run.__signature__ = own.replace(parameters=[*params[:place], *made, *params[place:]])  # type: ignore[attr-defined]
    return run


@command(
    cls=SeveralKeeps,
    epilog="fewhertz train pocket --method pool@keep=1/3 --task train.jsonl --dev dev.jsonl --out adapter\n\n"
    "fewhertz train Qwen/Qwen2-Audio-7B-Instruct -m segment --keep 1/2..1/6 --task commonvoice --out adapter --bf16\n\n"
    "accelerate launch --config_file examples/ddp.yaml $(which fewhertz) train pocket -m pool@keep=1/2 "
    "--objective distill --task audio.jsonl --out adapter\n\n"
    "fewhertz train pocket -m ward@keep=1/2 --objective distill --teacher ward@keep=1/2+time+sizes --task audio.jsonl "
    "--out adapter",
)
@_with_settings
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
    data: DATA = None,
    subset: SUBSET = None,
    split: Annotated[str, typer.Option(help="Split of the data set.")] = "train",
    audio: FOLDER = None,
    prompt: ASK = None,
    device: DEVICE = None,
    dtype: Annotated[str | None, typer.Option(help="Of the frozen weights; default: the checkpoint's.")] = None,
    modules: IMPORT = None,
    **settings: Any,
) -> None:
    """Train a LoRA adapter that lives with fewer audio tokens; it is saved with its method."""
    import_modules(modules)
    with bad_usage():
        from fewhertz.checkpoint import device_of
        from fewhertz.tasks import named
        from fewhertz.training import Stopped, keep_range
        from fewhertz.training import train as run_training

        quiet()
        options: dict[str, Any] = {"data": data, "subset": subset, "split": split, "audio": audio, "ask": prompt}
        judged = []
        for name in dev or []:
            of = [name] if name.endswith(".jsonl") else task
            if of is task and (any(one.endswith(".jsonl") for one in task) or Path(data or "").is_file()):
                raise ValueError(f"--dev {name} names a split, and a file has none: name a .jsonl file")
            own = options if name.endswith(".jsonl") else options | {"split": name}
            judged += [named(one, **own) for one in of]
        device_of(device)  # before any work
        epochs, cache_gb = settings["epochs"], settings["cache_gb"]
        if not (0 < epochs < float("inf") and 0 <= cache_gb < float("inf")):
            raise ValueError(f"--epochs is above 0 and --cache-gb at least 0, got {epochs:g} and {cache_gb:g}")
        settings["keeps"] = tuple(one for text in settings.pop("keep") or [] for one in keep_range(text))
        judging: Any = {"dev": judged, "device": device, "dtype": dtype, "say": say}
        try:
            done = run_training(model, method, [named(one, **options) for one in task], out, **judging, **settings)
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
