"""What the commands share: options, errors in a line, progress, tables."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import fewhertz

if TYPE_CHECKING:
    from rich.text import Text

MAX_BATCH, MAX_NEW = 65_536, 1_048_576  # beyond them a number is a slip of the pen


class Group(TyperGroup):
    """Bad usage is one or two lines and exit status 2, without a box and without a traceback."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
            sys.stdout.flush()  # a disk that is full is found here, not while Python ends
        except Exception as error:
            if standalone_mode and isinstance(error, OSError) and error.errno == errno.ENOSPC:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left cannot be written either
                say(f"fewhertz: {error.filename or 'the output'} cannot be written: {error.strerror}")
                sys.exit(1)
            if not standalone_mode or not hasattr(error, "format_message"):
                raise
            context = getattr(error, "ctx", None)
            command = context.command_path if context is not None else "fewhertz"
            print(f"fewhertz: {error.format_message()} ({command} --help)", file=sys.stderr)
            sys.exit(getattr(error, "exit_code", 2))
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=Group,
    no_args_is_help=False,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Fewer audio tokens per second, the same answer.",
    epilog='fewhertz run pocket speech.wav --method "pool@keep=1/3"',
)


class Once(TyperCommand):
    """An option that takes one value is given once: the last of two would win without a word."""

    def make_parser(self, ctx: Any) -> Any:
        parser: Any = super().make_parser(ctx)
        parse = parser.parse_args

        def once(args: list[str]) -> Any:
            values, rest, order = parse(args)
            option: Any
            for option in order:
                one = option.param_type_name == "option" and not option.multiple and not option.is_flag
                if one and order.count(option) > 1:
                    raise BadUsage(f"{option.opts[0]} is given {order.count(option)} times, and takes one value")
            return values, rest, order

        parser.parse_args = once
        return parser


def command(*names: str, **how: Any) -> Any:
    return app.command(*names, **{"cls": Once} | how)


class Task(Enum):
    """What to ask of audio."""

    transcribe = "transcribe"
    translate = "translate"
    describe = "describe"
    ask = "ask"


MODEL = Annotated[str, typer.Argument(metavar="MODEL", help="A hub id, a directory, or pocket.", show_default=False)]


FILES = Annotated[list[Path], typer.Argument(metavar="AUDIO", help="Audio files.", show_default=False)]


METHOD = Annotated[
    str | None,
    typer.Option("--method", "-m", metavar="SPEC", help='Such as "pool@keep=1/3" or "ltbm(window=0.32s)@8Hz".'),
]


THE_METHOD = Annotated[
    str, typer.Option("--method", "-m", metavar="SPEC", help='Such as "pool@keep=1/3".', show_default=False)
]


IMPORT = Annotated[
    list[str] | None,
    typer.Option("--import", metavar="MODULE|FILE", help="Python module or file with methods of your own; repeatable."),
]


JSON = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


DTYPE = Annotated[str | None, typer.Option(help="float32, bfloat16, float16; default: the checkpoint's.")]


DEVICE = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the GPU where there is one.")]


TRIM = Annotated[
    bool, typer.Option("--trim", help="Leave padding out of the encoder at keep=1 too, as below it; 1e-5 off.")
]


DATA = Annotated[
    str | None, typer.Option(metavar="NAME|PATH", help="A data set of the Hub, its directory, or a file of rows.")
]


SUBSET = Annotated[str | None, typer.Option(help="Part of the data set, such as a language.")]


FOLDER = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where the audio files are.")]


ASK = Annotated[str | None, typer.Option(help="What to ask instead of the task's own prompt.")]
CHUNK = Annotated[
    str | None,
    typer.Option(
        metavar="auto|SECONDS",
        help="Run windows of at most so many seconds, cut where it is quiet; auto, the default of transcripts: "
        "what the model is comfortable with.",
    ),
]
PROMPT = Annotated[str | None, typer.Option(help="What to ask, in your own words.")]
QUESTION = Annotated[str | None, typer.Option(help="The question of --task ask.")]
MAX_NEW_TOKENS = Annotated[int, typer.Option(min=1, max=MAX_NEW, help="Longest answer.")]
MAX_NEW_OF_WINDOW = Annotated[
    int | None, typer.Option(min=1, max=MAX_NEW, help="Longest answer, per window; default: by its length.")
]


class BadUsage(Exception):
    """Input that cannot be worked on: exit status 2."""

    exit_code = 2

    def format_message(self) -> str:
        """What the user reads."""
        return str(self)


@contextmanager
def bad_usage() -> Iterator[None]:
    """What is checked before any work: errors in it are the user's input."""
    from importlib.metadata import PackageNotFoundError

    from fewhertz.errors import one_line

    try:
        yield
    except PackageNotFoundError as error:
        raise BadUsage(f"{error.name} is not installed: pip install 'fewhertz[eval]'") from error
    except (ValueError, TypeError, OSError, ImportError, NotImplementedError) as error:
        raise BadUsage(one_line(error)) from error


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fewhertz {fewhertz.__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def import_modules(names: list[str] | None) -> None:
    for name in names or []:
        file = Path(name)
        try:
            if file.suffix == ".py":
                _import_file(file)
            else:
                sys.path.insert(0, "")  # the console script's own folder is there instead
                try:
                    importlib.import_module(name)
                finally:
                    sys.path.remove("")
        # it is the user's own code: whatever it raises becomes a line
        except Exception as error:
            raise BadUsage(f"cannot import {name}: {type(error).__name__}: {error}") from error


def _import_file(file: Path) -> None:
    if not file.is_file():
        raise FileNotFoundError("no such file")
    name = file.stem
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)


def quiet() -> None:
    """Only what fewhertz says itself: transformers' own progress bars and advice would stand between."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def complaint(file: str | Path, error: str) -> str:
    return f"fewhertz: {error}" if str(file) in error else f"fewhertz: {file}: {error}"


def prompt_of(task: Task, prompt: str | None, question: str | None) -> str | None:
    """What to ask; `None`: transcribe, in the model's own way."""
    from fewhertz.run import PROMPTS

    if question is not None and task is not Task.ask:
        raise BadUsage("--question goes with --task ask")
    if prompt is not None:
        if task is not Task.transcribe:
            raise BadUsage("give --prompt or --task, not both")
        return prompt
    if task is Task.ask:
        if not question:
            raise BadUsage('--task ask wants --question "…"')
        return question
    return None if task is Task.transcribe else PROMPTS[task.value]


def unread(files: Sequence[Path]) -> dict[Path, str]:
    """Why files cannot be read, up to the first that can: a model is loaded only where there is something to do."""
    from fewhertz import audio
    from fewhertz.errors import one_line

    found = {}
    for file in files:
        try:
            audio.check(file)
        except (OSError, ValueError) as error:
            found[file] = one_line(error)
        else:
            break
    return found


def refuse_unread(files: Sequence[Path]) -> None:
    """Say why files cannot be read, and end with status 2, where none can."""
    bad = unread(files)
    if len(bad) == len(files):
        for file, error in bad.items():
            say(complaint(file, error))
        raise typer.Exit(2)


def load_compressed(model: str, method: str | None, **how: Any) -> tuple[Any, Any]:
    """A model with a method attached, and its processor."""
    if method is not None:
        fewhertz.parse(method)  # before a model is read
    quiet()
    with mismatches_said():
        return fewhertz.load(model, method, **how)


def check_chunk(chunk: float | None) -> None:
    from fewhertz.audio import MIN_SECONDS

    if chunk is not None and not 2 * MIN_SECONDS <= chunk < float("inf"):
        raise BadUsage(f"--chunk is in seconds, at least {2 * MIN_SECONDS:g}, got {chunk:g}")


def chunk_of(text: str | None) -> Any:
    """Seconds of the longest window, "auto" or nothing."""
    if text is None or text == "auto":
        return text
    try:
        seconds = float(text)
    except ValueError:
        raise BadUsage(f"--chunk is auto or seconds, got {text!r:.40}") from None
    check_chunk(seconds)
    return seconds


@contextmanager
def progress(total: int) -> Iterator[Any]:
    """A bar over many files, on standard error and only where that is a terminal."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    # results must not be caught by the bar where they go to a file or a pipe
    with Progress(
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),
        transient=True,
    ) as bar:
        task = bar.add_task("files", total=total)
        yield lambda: bar.advance(task)


def print_table(head: list[str], rows: Sequence[Sequence[str | Text]]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # without a terminal a line of the table stays a line, for grep
    console = Console() if sys.stdout.isatty() else Console(width=10_000)
    table = Table(*head, box=SIMPLE, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    console.print(table)


class SeveralKeeps(Once):
    """Takes `--keep 1 1/2 1/3` for `--keep 1 --keep 1/2 --keep 1/3`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        for arg in args:
            number = re.fullmatch(r"[\d./]+", arg) is not None
            if number and spread[-2:-1] == ["--keep"]:
                spread.append("--keep")
            spread.append(arg)
        return super().parse_args(ctx, spread)


def amount(value: float | None, unit: str) -> str:
    """A quantity with three digits and a prefix; `None` is variable."""
    if value is None:
        return "variable"
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def check_out(out: Path, *kinds: str) -> None:
    """Refuse a file that cannot be written, before any work."""
    if out.suffix not in kinds:
        raise ValueError(f"--out is a {', '.join(kinds[:-1])}{' or ' if kinds[1:] else ''}{kinds[-1]} file, got {out}")
    if not out.parent.is_dir():
        raise ValueError(f"--out: there is no folder {out.parent}")


@contextmanager
def mismatches_said() -> Iterator[None]:
    """Say in a line what fewhertz warns of, without a place in its code."""
    import warnings

    from fewhertz.checkpoint import Mismatch

    with warnings.catch_warnings():
        warnings.simplefilter("always", Mismatch)
        show = warnings.showwarning

        def as_line(message: Warning | str, category: type[Warning], *where: Any) -> None:
            say(f"fewhertz: {message}") if issubclass(category, Mismatch) else show(message, category, *where)

        warnings.showwarning = as_line  # type: ignore[assignment]
        yield
