"""`fewhertz eval`, and its results as a page (`report`) or a picture (`plot`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from fewhertz.cli.shared import (
    ASK,
    DATA,
    DEVICE,
    DTYPE,
    FOLDER,
    IMPORT,
    MAX_BATCH,
    MAX_NEW_TOKENS,
    MODEL,
    SUBSET,
    TRIM,
    BadUsage,
    SeveralKeeps,
    bad_usage,
    check_out,
    command,
    import_modules,
    mismatches_said,
    print_table,
    quiet,
    say,
)

SPLIT = Annotated[str | None, typer.Option(help="Split of the data set; default: its test split.")]


@command(
    "eval",
    cls=SeveralKeeps,
    epilog="fewhertz eval pocket --task mine.jsonl --method pool --method segment --keep 1 1/2 1/3\n\n"
    "fewhertz eval Qwen/Qwen2-Audio-7B-Instruct --task librispeech --subset other --method ltbm@8Hz --batch-size 8\n\n"
    "fewhertz eval pocket --task mine.jsonl --adapter ./pool-third --adapter ./control\n\n"
    "fewhertz eval pocket --task mine.jsonl -m pool@keep=1/2 --also judge=Qwen/Qwen3-8B@http://localhost:8000/v1\n\n"
    "accelerate launch --multi_gpu --num_processes 2 $(which fewhertz) eval pocket --task mine.jsonl -m pool@keep=1/2",
)
def evaluate(
    model: MODEL,
    task: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="A task, or a .jsonl manifest of your own.", show_default=False)
    ],
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", metavar="SPEC", help="Repeatable; default: the checkpoint's.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="K …", help="Fractions kept, such as 1 1/2 1/3. keep=1, the baseline, always runs."),
    ] = None,
    adapter: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="A LoRA adapter, under its own method by default; repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("results"),
    data: DATA = None,
    subset: SUBSET = None,
    split: SPLIT = None,
    audio: FOLDER = None,
    prompt: ASK = None,
    normaliser: Annotated[
        str | None, typer.Option(help="plain, whisper-english, whisper-basic, whisper-basic-joined.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC", help="wer-formatted, flesch[=de], similarity[=MODEL] or judge=MODEL@URL too; repeatable."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="The first N rows only.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Samples that run together.")] = 1,
    max_new_tokens: MAX_NEW_TOKENS = 256,
    device: DEVICE = None,
    dtype: DTYPE = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap; decoding is greedy.")] = 0,
    trim: TRIM = False,
    modules: IMPORT = None,
) -> None:
    """Measure a model under methods on a task: one result file a run; what is there is not run again."""
    import_modules(modules)
    with bad_usage(), mismatches_said():
        from fewhertz.checkpoint import open_checkpoint
        from fewhertz.evaluation.metrics import normaliser as known_normaliser
        from fewhertz.evaluation.runner import evaluate as run_cells
        from fewhertz.evaluation.runner import specs
        from fewhertz.tasks import named

        quiet()
        if normaliser is not None:
            known_normaliser(normaliser)
        options = {"data": data, "subset": subset, "split": split, "audio": audio, "ask": prompt}
        asked = named(task, **options, normaliser=normaliser, also=tuple(also or ()))
        carried = open_checkpoint(model).method
        if keep and not method and (adapter or not carried):
            raise ValueError("--keep goes with --method: say what is to keep so much")
        chosen = specs(method or ([carried] if carried and not adapter else []), keep or [])
        done = run_cells(
            model,
            asked,
            chosen,
            out,
            limit=limit,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            device=device,
            dtype=dtype,
            seed=seed,
            adapters=adapter or [],
            trim=trim,
            say=say,
        )
    if os.environ.get("RANK", "0") != "0":
        return
    for error in done.errors:
        say(f"fewhertz: {error}")
    _print_scores(done.files)
    if done.errors:
        raise typer.Exit(1)


def _print_scores(files: list[Path]) -> None:
    from fewhertz.evaluation.results import read

    found = [read(file) for file in files]
    names = list(found[0]["scores"]) if found else []
    several = len({one["model"] for one in found}) > 1
    rows = []
    for one in found:
        row = [one["model"]] * several + [one["method"], str(one["n"]), _hertz(one["rate_hz"])]
        for name in names:
            score = one["scores"][name]
            row += [
                _interval(score["score"], score["interval"]),
                _interval(score["difference"], score["difference_interval"], "+"),
            ]
        rows.append(row)
    heads = ["model"] * several + ["method", "n", "Hz"]
    print_table([*heads, *(head for name in names for head in (name, f"{name} − keep=1"))], rows)


def _hertz(rate: dict[str, Any]) -> str:
    """The mean rate, and where it varies the range of the middle 80 % of samples."""
    low, high = rate.get("spread", (rate["after"], rate["after"]))
    spread = f" ({low:.3g}–{high:.3g})" if high - low > 0.1 * rate["after"] else ""
    return f"{rate['after']:.3g}{spread}"


def _interval(value: float, ends: list[float | None], sign: str = "") -> str:
    low, high = ("–" if end is None else f"{end:{sign}.4g}" for end in ends)
    return f"{value:{sign}.4g} [{low}, {high}]"


RESULTS = Annotated[Path, typer.Argument(metavar="RESULTS", help="What eval wrote to (--out).", show_default=False)]


@command(
    epilog="fewhertz report results --out report.html\n\nfewhertz report results --out worst.html --samples 50\n\n"
    "fewhertz report results --listen pocket --task mine.jsonl --samples 5"
)
def report(
    root: RESULTS,
    out: Annotated[Path, typer.Option(help="The page: .html.")] = Path("report.html"),
    samples: Annotated[int, typer.Option(min=0, metavar="N", help="Worst regressions shown of each run.")] = 10,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="That was evaluated: show its samples on --task with their sound and tokens."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="With --listen, as with eval; so are the following.")
    ] = None,
    data: DATA = None,
    subset: SUBSET = None,
    split: SPLIT = None,
    audio: FOLDER = None,
    prompt: ASK = None,
    device: DEVICE = None,
) -> None:
    """Write all results as one page that needs no network: curves, table, worst samples."""
    if (listen is None) != (task is None):
        raise BadUsage("--listen and --task go together: the model and the data that were evaluated")
    with bad_usage():
        check_out(out, ".html")
        from fewhertz.evaluation.report import report as write

        listener = None
        if listen is not None and task is not None:
            quiet()
            from fewhertz.evaluation.listening import Listener
            from fewhertz.tasks import named

            options = {"data": data, "subset": subset, "split": split, "audio": audio, "ask": prompt}
            listener = Listener(listen, named(task, **options), device)
        wrong = write(root, out, samples, listener)
    _done(out, wrong)


@command(
    epilog="fewhertz plot results --out curve.png\n\n"
    "fewhertz plot results --task librispeech-other-test --method pool --method ward+time+sizes --out paper.pdf"
)
def plot(
    root: RESULTS,
    out: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")] = Path("curve.png"),
    task: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="As results name it; repeatable; default: all.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Repeatable; default: all.")] = None,
    metric: Annotated[str | None, typer.Option(help="Such as chrf; default: each task's main one.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", metavar="SPEC", help="A line, its method without a budget; repeatable."),
    ] = None,
) -> None:
    """Draw quality against audio tokens per second for a paper, a panel for each task and model."""
    with bad_usage():
        check_out(out, ".png", ".svg", ".pdf")
        from fewhertz.evaluation import curves

        found, wrong = curves.groups(root)
        chosen = curves.choose(found, task or [], model or [], metric)
        curves.plot(chosen, curves.styles(found), out, method or [], say)
    _done(out, wrong)


def _done(out: Path, wrong: list[str]) -> None:
    for error in wrong:
        say(f"fewhertz: {error}")
    print(out)
    if wrong:
        raise typer.Exit(1)
