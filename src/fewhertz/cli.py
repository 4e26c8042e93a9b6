"""The command line: one verb a job. Text and tables go to standard output, everything else to standard error."""

# Nothing heavy is imported up here: `fewhertz --help` answers at once.
from __future__ import annotations

import dataclasses
import errno
import importlib
import importlib.util
import io
import json
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
    from fewhertz.cost import Cost
    from fewhertz.run import Piece

MAX_BATCH, MAX_NEW = 65_536, 1_048_576  # beyond them a number is a slip of the pen


class _Group(TyperGroup):
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
                _say(f"fewhertz: {error.filename or 'the output'} cannot be written: {error.strerror}")
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
    cls=_Group,
    no_args_is_help=False,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Fewer audio tokens per second, the same answer.",
    epilog='fewhertz run pocket speech.wav --method "pool@keep=1/3"',
)


class _Once(TyperCommand):
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


def _command(*names: str, **how: Any) -> Any:
    return app.command(*names, **{"cls": _Once} | how)


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
DATA = Annotated[
    str | None, typer.Option(metavar="NAME|PATH", help="A data set of the Hub, its directory, or a file of rows.")
]
SUBSET = Annotated[str | None, typer.Option(help="Part of the data set, such as a language.")]
FOLDER = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where the audio files are.")]
ASK = Annotated[str | None, typer.Option(help="What to ask instead of the task's own prompt.")]


class BadUsage(Exception):
    """Input that cannot be worked on: exit status 2."""

    exit_code = 2

    def format_message(self) -> str:
        """What the user reads."""
        return str(self)


@contextmanager
def _bad_usage() -> Iterator[None]:
    """What is checked before any work: errors in it are the user's input."""
    from importlib.metadata import PackageNotFoundError

    from fewhertz.run import one_line

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


def _import(names: list[str] | None) -> None:
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
        # it is the user's own code: whatever it raises is told in a line
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


def _quiet() -> None:
    """Only what fewhertz says itself: transformers' own progress bars and advice would stand between."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _complaint(file: str | Path, error: str) -> str:
    return f"fewhertz: {error}" if str(file) in error else f"fewhertz: {file}: {error}"


def _prompt(task: Task, prompt: str | None, question: str | None) -> str | None:
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


@_command(
    epilog='fewhertz run pocket speech.wav --method "pool@keep=1/3"\n\n'
    "fewhertz run Qwen/Qwen2-Audio-7B-Instruct *.flac --task describe --json > out.jsonl\n\n"
    "fewhertz run pocket talk.mp3 --chunk 30 --import my_method.py --method mine@keep=0.5"
)
def run(
    model: MODEL,
    files: FILES,
    method: METHOD = None,
    task: Annotated[Task, typer.Option(help="What to ask of the audio.")] = Task.transcribe,
    prompt: Annotated[str | None, typer.Option(help="What to ask, in your own words.")] = None,
    question: Annotated[str | None, typer.Option(help="The question of --task ask.")] = None,
    chunk: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Run windows of so many seconds, join their texts.")
    ] = None,
    adapter: Annotated[Path | None, typer.Option(help="What fewhertz train wrote: wears its method.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=MAX_NEW, help="Longest answer, per window.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Windows that run together.")] = 1,
    device: DEVICE = None,
    dtype: DTYPE = None,
    as_json: JSON = False,
    modules: IMPORT = None,
) -> None:
    """Ask a model about audio: text on standard output, counts and times on standard error."""
    _import(modules)
    asked = _prompt(task, prompt, question)
    _check_chunk(chunk)
    from fewhertz.run import Piece, pieces

    with _bad_usage():
        spec = None if method is None else fewhertz.parse(method).spec
    unread = _unread(files)
    if len(unread) == len(files):
        writer = _JsonWriter(spec) if as_json else _TextWriter(spec, named=len(files) > 1)
        for file, error in unread.items():
            writer.write(Piece(file, 0.0, last=True, error=error))
        raise typer.Exit(2)
    with _bad_usage():
        wearing, processor = _load(model, method, adapter=adapter, device=device, dtype=dtype)

    worn = fewhertz.attached(wearing)
    with _bad_usage():
        stream = pieces(
            wearing, processor, files, asked, chunk=chunk, batch_size=batch_size, max_new_tokens=max_new_tokens
        )
    if model == "pocket":
        _say(POCKET)
    spec = worn.asked.spec if worn else None
    writer = _JsonWriter(spec) if as_json else _TextWriter(spec, named=len(files) > 1)
    with _progress(len(files)) as advance:
        try:
            for piece in stream:
                writer.write(piece)
                if piece.last:
                    advance()
        except OSError:  # the output is full: no more of it
            writer.pieces.clear()
            raise
        finally:
            writer.close()
    if writer.failed:
        raise typer.Exit(writer.failed)


POCKET = (
    "pocket is a test model: trained on short synthetic English and German speech, single words, ten sounds and "
    "questions about them"
)


def _unread(files: Sequence[Path]) -> dict[Path, str]:
    """Why files cannot be read, up to the first that can: a model is loaded only where there is something to do."""
    from fewhertz import audio
    from fewhertz.run import one_line

    found = {}
    for file in files:
        try:
            audio.check(file)
        except (OSError, ValueError) as error:
            found[file] = one_line(error)
        else:
            break
    return found


def _load(model: str, method: str | None, **how: Any) -> tuple[Any, Any]:
    """A model that wears a method, and its processor."""
    if method is not None:
        fewhertz.parse(method)  # before a model is read
    _quiet()
    with _told():
        return fewhertz.load(model, method, **how)


def _check_chunk(chunk: float | None) -> None:
    from fewhertz.audio import MIN_SECONDS

    if chunk is not None and not 2 * MIN_SECONDS <= chunk < float("inf"):
        raise BadUsage(f"--chunk is in seconds, at least {2 * MIN_SECONDS:g}, got {chunk:g}")


@contextmanager
def _progress(total: int) -> Iterator[Any]:
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


class _Writer:
    """Gathers the pieces of a file; what is there is written even where the rest is broken off."""

    def __init__(self, spec: str | None) -> None:
        self.spec = spec
        self.failed = 0  # exit status: 2 where a file cannot be read, 1 where the model fails on one
        self.pieces: list[Piece] = []

    def write(self, piece: Piece) -> None:
        self.pieces.append(piece)
        if piece.reply is not None:
            self.text(piece)
        if piece.last:
            self.done(piece.error)

    def close(self) -> None:
        if self.pieces:
            self.done(f"broken off after {len(self.pieces)} windows")

    def text(self, piece: Piece) -> None:
        """One window's text."""

    def done(self, error: str | None) -> None:
        """The file is over."""
        gathered, self.pieces = self.pieces, []
        file = gathered[0].file
        if error is not None:
            self.failed = max(self.failed, 1 if gathered[-1].heard else 2)
        replies = [piece.reply for piece in gathered if piece.reply is not None]
        seconds = sum(piece.seconds for piece in gathered if piece.reply is not None)
        totals = {
            key: sum(getattr(reply, key) for reply in replies)
            for key in ("before", "after", "new_tokens", "encode", "prefill", "decode")
        }
        if error is not None:
            _say(_complaint(file, error))
        if replies:
            rate = [totals["before"] / seconds, totals["after"] / seconds]
            took = totals["encode"] + totals["prefill"] + totals["decode"]
            _say(
                f"{file}: {seconds:.1f} s, {totals['before']} → {totals['after']} audio tokens "
                f"({rate[0]:.3g} → {rate[1]:.3g} Hz), {totals['new_tokens']} new tokens, {took:.2f} s "
                f"(encode {totals['encode']:.2f}, prefill {totals['prefill']:.2f}, decode {totals['decode']:.2f})"
            )
        self.record(file, [reply.text for reply in replies], seconds, totals, error)

    def record(
        self, file: str | Path, texts: list[str], seconds: float, totals: dict[str, Any], error: str | None
    ) -> None:
        """What a machine reads."""


class _TextWriter(_Writer):
    def __init__(self, spec: str | None, named: bool) -> None:
        super().__init__(spec)
        self.named = named

    def text(self, piece: Piece) -> None:
        assert piece.reply is not None
        begun = len([p for p in self.pieces if p.reply is not None]) > 1
        prefix = f"{piece.file}: " if self.named else ""
        text = piece.reply.text.replace("\n", f"\n{prefix}")
        print(f"{' ' if begun else prefix}{text}", end="", flush=True)

    def record(
        self, file: str | Path, texts: list[str], seconds: float, totals: dict[str, Any], error: str | None
    ) -> None:
        if texts:
            print(flush=True)


class _JsonWriter(_Writer):
    def record(
        self, file: str | Path, texts: list[str], seconds: float, totals: dict[str, Any], error: str | None
    ) -> None:
        line = {
            "file": str(file),
            "text": " ".join(texts) if texts else None,
            "error": error,
            "method": self.spec,
            "seconds": round(seconds, 3),
            "windows": len(texts),
            "audio_tokens_before": totals["before"],
            "audio_tokens": totals["after"],
            "rate_hz": round(totals["after"] / seconds, 3) if seconds else None,
            "new_tokens": totals["new_tokens"],
            "encode_s": round(totals["encode"], 4),
            "prefill_s": round(totals["prefill"], 4),
            "decode_s": round(totals["decode"], 4),
        }
        print(json.dumps(line, ensure_ascii=False), flush=True)


def method_rows() -> list[dict[str, Any]]:
    """What there is to know about each method, from the registry."""
    import fewhertz.methods  # noqa: F401
    from fewhertz.method import METHODS, RECOMMENDED, Method

    common = {f.name: f.default for f in dataclasses.fields(Method)}
    rows = []
    for name, cls in sorted(METHODS.items()):
        own = [f for f in dataclasses.fields(cls) if f.name not in common or f.default != common[f.name]]
        paragraph = " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())
        rows.append(
            {
                "name": name,
                "fixed_budget": cls.fixed_budget,
                "needs": sorted(cls.needs),
                "parameters": {f.name: f"{f.default}{f.metadata.get('unit', '')}" for f in own},
                "summary": re.split(r"(?<=\.)\s+(?=[A-Z])", paragraph)[0],
                "recommended": name == RECOMMENDED.partition("+")[0],
            }
        )
    return rows


def methods_markdown() -> str:
    """The methods as a table for README and docs."""
    lines = ["| method | budget | needs | parameters | what it does |", "|---|---|---|---|---|"]
    for row in method_rows():
        cells = [f"`{row['name']}`", *_cells(row, "`{}={}`"), row["summary"].replace("|", "\\|")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(row: dict[str, Any], parameter: str) -> list[str]:
    return [
        "fixed" if row["fixed_budget"] else "follows content",
        ", ".join(row["needs"]) or "–",
        ", ".join(parameter.format(k, v) for k, v in row["parameters"].items()) or "–",
    ]


@_command(epilog="fewhertz methods\n\nfewhertz methods --json | jq .name\n\nfewhertz methods --import my_method.py")
def methods(
    as_json: JSON = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The table of the README.")] = False,
    modules: IMPORT = None,
) -> None:
    """List the methods: budget, needs, parameters with their defaults. The recommended one is marked."""
    from fewhertz.method import RECOMMENDED

    _import(modules)
    if as_json:
        for row in method_rows():
            print(json.dumps(row, ensure_ascii=False))
    elif markdown:
        print(methods_markdown())
    else:
        _table(
            ["method", "budget", "needs", "parameters", "what it does"],
            [[row["name"] + " *" * row["recommended"], *_cells(row, "{}={}"), row["summary"]] for row in method_rows()],
        )
        name, _, corrections = RECOMMENDED.partition("+")
        print(f"* recommended: {name}@keep=1/2+{corrections}; {name} alone where an engine has no corrections")


def _table(head: list[str], rows: list[list[str]]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # without a terminal a line of the table stays a line, for grep
    console = Console() if sys.stdout.isatty() else Console(width=10_000)
    table = Table(*head, box=SIMPLE, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


@_command(epilog="fewhertz sample clips\n\nfewhertz eval pocket --task clips/samples.jsonl --method pool@keep=1/2")
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it is not there.")] = Path("samples"),
) -> None:
    """Copy the clips that come with pocket, and a list of what is said in them, into a folder."""
    import shutil

    from fewhertz.pocket import path

    with _bad_usage():
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted((path() / "samples").iterdir())
        for file in files:
            if (folder / file.name).exists() and (folder / file.name).read_bytes() != file.read_bytes():
                raise ValueError(f"{folder / file.name} is there and is another file: name another folder")
        for file in files:
            shutil.copyfile(file, folder / file.name)
    print(f"{len(files) - 1} clips and samples.jsonl in {folder}", file=sys.stderr)


@_command(
    epilog='fewhertz inspect Qwen/Qwen2-Audio-7B-Instruct speech.wav --method "pool@8Hz" --memory 24GB\n\n'
    'fewhertz inspect pocket 30s --method "ltbm@keep=1/3" --context 512'
)
def inspect(
    model: MODEL,
    files: Annotated[
        list[str], typer.Argument(metavar="AUDIO", help="Audio files, or lengths such as 90s.", show_default=False)
    ],
    method: METHOD = None,
    context: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Tokens that fit; default: what the model was made for.")
    ] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory for weights and cache, as 24GB.")] = None,
    as_json: JSON = False,
    modules: IMPORT = None,
) -> None:
    """Say what audio costs a model, with and without a method. Reads no weights."""
    _import(modules)
    with _bad_usage():
        from fewhertz.checkpoint import load_processor, open_checkpoint
        from fewhertz.cost import cost, parse_bytes, weight_bytes

        room = None if memory is None else parse_bytes(memory)
        if method is not None:
            fewhertz.parse(method)
        _quiet()
        checkpoint = open_checkpoint(model, weights=False)
        spec = checkpoint.worn if method is None else method
        fitted = None if spec is None else checkpoint.fit(spec)
        processor = load_processor(checkpoint)
        weights = weight_bytes(checkpoint)
        text = checkpoint.config.get_text_config()
        trained = getattr(text, "max_position_embeddings", None)
        # --context may be less than the model was made for, and more where positions are stretched
        longest, reach = context or trained, max(context or 0, trained or 0) or None

    failed = False
    found: list[tuple[str, Cost]] = []
    for name in files:
        try:
            found.append((name, cost(checkpoint, processor, fitted, _seconds(name))))
        except (OSError, ValueError) as error:
            _say(_complaint(name, str(error)))
            failed = True
    shown = None if spec is None else str(fewhertz.parse(spec))
    if as_json:
        for name, one in found:
            print(json.dumps(_cost_json(name, shown, one, weights, longest, reach, room), ensure_ascii=False))
    elif found:
        _print_costs(found, shown, weights, longest, reach, room)
    if failed:
        raise typer.Exit(2)


def _seconds(name: str) -> float:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)s", name)
    if match and not Path(name).exists():
        if not float(match[1]) > 0:
            raise ValueError("a length is above 0 s")
        return float(match[1])
    from fewhertz import audio

    return audio.duration(Path(name))


def _cost_json(
    name: str, spec: str | None, one: Cost, weights: int, longest: int | None, reach: int | None, room: int | None
) -> dict[str, Any]:
    fits = one.fits(longest, reach)
    fits_memory = None if room is None else [None if k is None else weights + k <= room for k in one.kv]
    pairs = {
        "audio_tokens": (one.before, one.after),
        "rate_hz": one.rate,
        "context": one.context,
        "positions": one.positions,
        "prefill_flops": one.flops,
        "kv_bytes": one.kv,
        "fits_context": [fitting for fitting, _ in fits],
        "binds": [limit for _, limit in fits],
        "fits_memory": fits_memory or (None, None),
    }
    line: dict[str, Any] = {"file": name, "method": spec, "seconds": round(one.seconds, 3), "prompt_tokens": one.prompt}
    line |= {"weight_bytes": weights, "context_limit": longest, "position_limit": reach}
    line |= {"memory_bytes": room}
    for key, (without, compressed) in pairs.items():
        line |= {f"{key}_before": without, key: compressed}
    return line


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return "follows content"
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _fits(value: int | None, limit: int | None) -> str:
    if limit is None:
        return "–"
    return "follows content" if value is None else "yes" if value <= limit else "no"


def _fits_context(one: Cost, i: int, longest: int | None, reach: int | None) -> str:
    if longest is None and reach is None:
        return "–"
    fitting, limit = one.fits(longest, reach)[i]
    if limit is None:
        return "yes" if fitting else "follows content"
    far, most = (one.context[i], longest) if limit == "tokens" else (one.positions[i], reach)
    return f"no: {far} {limit} of {most}"


def _print_costs(
    found: list[tuple[str, Cost]],
    spec: str | None,
    weights: int,
    longest: int | None,
    reach: int | None,
    room: int | None,
) -> None:
    rows = []
    for name, one in found:
        kinds = [("uncompressed", 0)] if spec is None else [("uncompressed", 0), (spec, 1)]
        for label, i in kinds:
            tokens = (one.before, one.after)[i]
            rate, flops, kv, whole = one.rate[i], one.flops[i], one.kv[i], one.context[i]
            rows.append(
                [
                    f"{name} ({one.seconds:.1f} s)" if i == 0 else "",
                    label,
                    "follows content" if tokens is None else str(tokens),
                    "–" if rate is None else f"{rate:.3g}",
                    "–" if whole is None else str(whole),
                    "–" if flops is None else _amount(flops, "FLOP"),
                    "–" if kv is None else _amount(kv, "B"),
                    _fits_context(one, i, longest, reach),
                    _fits(None if kv is None else weights + kv, room),
                ]
            )
    _table(
        [
            "audio",
            "method",
            "audio tokens",
            "Hz",
            "prompt",
            "LLM prefill",
            "KV cache",
            f"fits {longest} tokens",
            "fits memory" if room is None else f"fits {_amount(room, 'B')}",
        ],
        rows,
    )
    _say(f"weights: {_amount(weights, 'B')}; memory is weights and KV cache, without activations")


@_command(
    epilog='fewhertz show speech.wav --method "segment@keep=1/3" --out tokens.png\n\n'
    'fewhertz show speech.wav --method "stride@8Hz" --out tokens.svg --model ./my-model'
)
def show(
    file: Annotated[Path, typer.Argument(metavar="AUDIO", help="An audio file.", show_default=False)],
    method: THE_METHOD,
    out: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")] = Path("tokens.png"),
    model: Annotated[str, typer.Option(help="A hub id, a directory, or pocket.")] = "pocket",
    device: DEVICE = None,
    modules: IMPORT = None,
) -> None:
    """Draw the spectrogram and what each output token stands for."""
    _import(modules)
    with _bad_usage():
        fewhertz.parse(method)
        _out(out, ".png", ".svg", ".pdf")
        from fewhertz.show import need_matplotlib

        need_matplotlib()
        from fewhertz import audio

        audio.check(file)
        _quiet()
        wearing, processor = fewhertz.load(model, method, device=device)
    from fewhertz.run import one_line
    from fewhertz.show import show as draw

    try:
        plan = draw(wearing, processor, file, out)
    except (OSError, ValueError) as error:
        raise BadUsage(_complaint(file, one_line(error)).removeprefix("fewhertz: ")) from error
    _say(f"{plan.n} → {plan.m} audio tokens")
    print(out)


@_command(epilog="fewhertz demo\n\nfewhertz demo --out measured")
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the figures and the curve go.")] = Path("out"),
) -> None:
    """Transcribe the bundled clips by pocket under a few methods: a table, and a curve."""
    with _bad_usage():
        from fewhertz.demo import main as measure

        measure(out)


@_command(
    epilog='fewhertz compress pocket --method "pool@keep=1/3" --out ./pocket-third\n\n'
    'fewhertz compress Qwen/Qwen2-Audio-7B-Instruct --method "segment@8Hz" --out ./qwen2-audio-8hz'
)
def compress(
    model: MODEL,
    method: THE_METHOD,
    out: Annotated[Path, typer.Option(help="A directory that is empty or not there.", show_default=False)],
    modules: IMPORT = None,
) -> None:
    """Write a checkpoint that carries a method: fewhertz.load wears it."""
    _import(modules)
    with _bad_usage():
        from fewhertz.checkpoint import save_compressed

        print(save_compressed(model, method, out))


class _Several(_Once):
    """Takes `--keep 1 1/2 1/3` for `--keep 1 --keep 1/2 --keep 1/3`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        for arg in args:
            number = re.fullmatch(r"[\d./]+", arg) is not None
            if number and spread[-2:-1] == ["--keep"]:
                spread.append("--keep")
            spread.append(arg)
        return super().parse_args(ctx, spread)


@_command(
    "eval",
    cls=_Several,
    epilog="fewhertz eval pocket --task mine.jsonl --method pool --method segment --keep 1 1/2 1/3\n\n"
    "fewhertz eval Qwen/Qwen2-Audio-7B-Instruct --task librispeech --subset other --method ltbm@8Hz --batch-size 8\n\n"
    "fewhertz eval pocket --task mine.jsonl --adapter ./pool-third --adapter ./control\n\n"
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
    split: Annotated[str | None, typer.Option(help="Split of the data set; default: its test split.")] = None,
    audio: FOLDER = None,
    prompt: ASK = None,
    normaliser: Annotated[
        str | None, typer.Option(help="plain, whisper-english, whisper-basic, whisper-basic-joined.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="The first N rows only.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Samples that run together.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=MAX_NEW, help="Longest answer.")] = 256,
    device: DEVICE = None,
    dtype: DTYPE = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap; decoding is greedy.")] = 0,
    modules: IMPORT = None,
) -> None:
    """Measure a model under methods on a task: one result file a cell; what is there is not run again."""
    _import(modules)
    with _bad_usage(), _told():
        from fewhertz.checkpoint import open_checkpoint
        from fewhertz.evaluate import evaluate as run_cells
        from fewhertz.evaluate import specs
        from fewhertz.metrics import normaliser as known_normaliser

        _quiet()
        if normaliser is not None:
            known_normaliser(normaliser)
        options = {"data": data, "subset": subset, "split": split, "audio": audio, "ask": prompt}
        (asked,) = _tasks([task], options | {"normaliser": normaliser})
        worn = open_checkpoint(model).worn
        if keep and not method and (adapter or not worn):
            raise ValueError("--keep goes with --method: say what is to keep so much")
        cells = specs(method or ([worn] if worn and not adapter else []), keep or [])
        done = run_cells(
            model,
            asked,
            cells,
            out,
            limit=limit,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            device=device,
            dtype=dtype,
            seed=seed,
            adapters=adapter or [],
            say=_say,
        )
    if os.environ.get("RANK", "0") != "0":
        return
    for error in done.errors:
        _say(f"fewhertz: {error}")
    _print_scores(done.files)
    if done.errors:
        raise typer.Exit(1)


def _print_scores(files: list[Path]) -> None:
    from fewhertz.results import read

    found = [read(file) for file in files]
    names = list(found[0]["scores"]) if found else []
    several = len({one["model"] for one in found}) > 1
    rows = []
    for one in found:
        row = [one["model"]] * several + [one["method"], str(one["n"]), f"{one['rate_hz']['after']:.3g}"]
        for name in names:
            score = one["scores"][name]
            row += [
                _interval(score["score"], score["interval"]),
                _interval(score["difference"], score["difference_interval"], "+"),
            ]
        rows.append(row)
    heads = ["model"] * several + ["method", "n", "Hz"]
    _table([*heads, *(head for name in names for head in (name, f"{name} − keep=1"))], rows)


def _interval(value: float, ends: list[float | None], sign: str = "") -> str:
    low, high = ("–" if end is None else f"{end:{sign}.4g}" for end in ends)
    return f"{value:{sign}.4g} [{low}, {high}]"


RESULTS = Annotated[Path, typer.Argument(metavar="RESULTS", help="What eval wrote to (--out).", show_default=False)]


def _out(out: Path, *kinds: str) -> None:
    """Refuse a file that cannot be written, before any work."""
    if out.suffix not in kinds:
        raise ValueError(f"--out is a {', '.join(kinds[:-1])}{' or ' if kinds[1:] else ''}{kinds[-1]} file, got {out}")
    if not out.parent.is_dir():
        raise ValueError(f"--out: there is no folder {out.parent}")


@_command(epilog="fewhertz report results --out report.html\n\nfewhertz report results --out worst.html --samples 50")
def report(
    root: RESULTS,
    out: Annotated[Path, typer.Option(help="The page: .html.")] = Path("report.html"),
    samples: Annotated[int, typer.Option(min=0, metavar="N", help="Worst regressions shown of each cell.")] = 10,
) -> None:
    """Write all results as one page that needs no network: curves, table, worst samples."""
    with _bad_usage():
        _out(out, ".html")
        from fewhertz.report import report as write

        wrong = write(root, out, samples)
    _done(out, wrong)


@_command(
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
    with _bad_usage():
        _out(out, ".png", ".svg", ".pdf")
        from fewhertz import curves

        found, wrong = curves.groups(root)
        chosen = curves.choose(found, task or [], model or [], metric)
        curves.plot(chosen, curves.styles(found), out, method or [], _say)
    _done(out, wrong)


def _done(out: Path, wrong: list[str]) -> None:
    for error in wrong:
        _say(f"fewhertz: {error}")
    print(out)
    if wrong:
        raise typer.Exit(1)


def _tasks(names: list[str], options: dict[str, Any]) -> list[Any]:
    """Tasks by name, or .jsonl manifests."""
    import fewhertz.tasks  # noqa: F401
    from fewhertz.tasks.base import TASKS

    found = []
    for name in names:
        own = name.endswith(".jsonl")
        if not own and name not in TASKS:
            raise ValueError(f"no task {name!r}; known: {', '.join(sorted(TASKS))}, or a .jsonl file of your own")
        found.append(TASKS["manifest"](**options | {"data": name}) if own else TASKS[name](**options))
    return found


@_command(
    cls=_Several,
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
        str, typer.Option("--method", "-m", metavar="SPEC", help="What to wear; none: a control.", show_default=False)
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
        typer.Option(metavar="SPEC", help="What the teacher wears (distill); default: nothing, so all tokens."),
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
    _import(modules)
    with _bad_usage():
        from fewhertz.checkpoint import _device
        from fewhertz.training import Stopped, keep_range
        from fewhertz.training import train as run_training

        _quiet()
        options: dict[str, Any] = {"data": data, "subset": subset, "split": split, "audio": audio, "ask": prompt}
        judged = []
        for name in dev or []:
            of = [name] if name.endswith(".jsonl") else task
            if of is task and (any(one.endswith(".jsonl") for one in task) or Path(data or "").is_file()):
                raise ValueError(f"--dev {name} names a split, and a file has none: name a .jsonl file")
            judged += _tasks(of, options if name.endswith(".jsonl") else options | {"split": name})
        _device(device)  # before any work
        if not (0 < epochs < float("inf") and 0 <= cache_gb < float("inf")):
            raise ValueError(f"--epochs is above 0 and --cache-gb at least 0, got {epochs:g} and {cache_gb:g}")
        keeps = tuple(one for text in keep or [] for one in keep_range(text))
        try:
            done = run_training(
                model,
                method,
                _tasks(task, options),
                out,
                dev=judged,
                device=device,
                dtype=dtype,
                say=_say,
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
            _say(f"fewhertz: {error}")
            raise typer.Exit(1) from error
    if os.environ.get("RANK", "0") == "0":
        _say(f"{done.parameters:,} numbers trained in {done.seconds:.0f} s; loss {done.loss:.4f} at step {done.step}")
        print(done.directory)


@_command(epilog="fewhertz merge pocket --adapter ./adapter --out ./pocket-third")
def merge(
    model: MODEL,
    adapter: Annotated[Path, typer.Option(help="What fewhertz train wrote.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A directory that is empty or not there.", show_default=False)],
    modules: IMPORT = None,
) -> None:
    """Fold an adapter into the weights, for serving: a checkpoint that carries its method."""
    _import(modules)
    with _bad_usage(), _told():
        from fewhertz.adapter import merge as fold

        _quiet()
        print(fold(model, adapter, out))


@_command(
    epilog='fewhertz embed pocket *.flac --method "unseg" --out embeddings\n\n'
    'fewhertz embed Qwen/Qwen2-Audio-7B-Instruct talk.mp3 --chunk 30 --method "pool@8Hz" --out embeddings'
)
def embed(
    model: MODEL,
    files: FILES,
    out: Annotated[Path, typer.Option(help="Folder of the embeddings; what is there stays.", show_default=False)],
    method: METHOD = None,
    chunk: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Cut audio into windows of so many seconds.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Windows that are encoded together.")] = 1,
    device: DEVICE = None,
    dtype: DTYPE = None,
    modules: IMPORT = None,
) -> None:
    """Write compressed audio as embeddings, for a vLLM without the plugin: a safetensors file a clip."""
    _import(modules)
    _check_chunk(chunk)
    unread = _unread(files)
    if len(unread) == len(files):
        for file, error in unread.items():
            _say(_complaint(file, error))
        raise typer.Exit(2)
    with _bad_usage():
        wearing, processor = _load(model, method, device=device, dtype=dtype)
        from fewhertz.checkpoint import open_checkpoint
        from fewhertz.embed import embed as write
        from fewhertz.embed import identity

        made = identity(wearing, open_checkpoint(model), model, chunk)
        stream = write(wearing, processor, files, out, made, chunk=chunk, batch_size=batch_size)
    failed = 0
    with _progress(len(files)) as advance:
        for one in stream:
            if one.error is not None:
                _say(_complaint(one.audio, one.error))
                failed = max(failed, 1 if one.heard else 2)
            if one.record is not None:
                seconds, before, after = (one.record[k] for k in ("seconds", "audio_tokens_before", "audio_tokens"))
                _say(f"{one.audio}: {seconds:.1f} s, {before} → {after} audio tokens")
                print(out / one.record["file"], flush=True)
            if one.last:
                advance()
    if failed:
        raise typer.Exit(failed)


@contextmanager
def _told() -> Iterator[None]:
    """Say in a line what fewhertz warns of, without a place in its code."""
    import warnings

    from fewhertz.checkpoint import Mismatch

    with warnings.catch_warnings():
        warnings.simplefilter("always", Mismatch)
        show = warnings.showwarning

        def say(message: Warning | str, category: type[Warning], *where: Any) -> None:
            _say(f"fewhertz: {message}") if issubclass(category, Mismatch) else show(message, category, *where)

        warnings.showwarning = say  # type: ignore[assignment]
        yield


@_command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog='fewhertz serve pocket --method "pool@keep=1/3" --port 8000\n\n'
    'fewhertz serve Qwen/Qwen2-Audio-7B-Instruct --method "segmentwise@keep=1/2" --tensor-parallel-size 2',
)
def serve(
    context: typer.Context,
    model: MODEL,
    method: METHOD = None,
) -> None:
    """Serve a model by vLLM, to OpenAI's clients, with compressed audio; vLLM's own options go with it."""
    with _bad_usage():
        from fewhertz.vllm.serve import serve as become

        become(model, method, context.args)


@_command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog='fewhertz batch calls.jsonl --model pocket --method "pool@keep=1/3" --out answers\n\n'
    'fewhertz batch calls.jsonl --model Qwen/Qwen2-Audio-7B-Instruct -m "segment@8Hz" --out answers '
    "--address head:6379 --tensor-parallel-size 2",
)
def batch(
    context: typer.Context,
    manifest: Annotated[
        Path, typer.Argument(metavar="MANIFEST", help="A .jsonl file: audio, maybe id and prompt.", show_default=False)
    ],
    model: Annotated[str, typer.Option(help="A hub id, a directory, or pocket.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the answers; a broken-off run goes on.", show_default=False)],
    method: METHOD = None,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Of a Ray cluster; default: this machine alone.")
    ] = None,
    engines: Annotated[int | None, typer.Option(min=1, help="How many; default: all that the GPUs hold.")] = None,
    audio: FOLDER = None,
    prompt: ASK = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=MAX_NEW, help="Longest answer.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Rows that an engine is given at once.")] = 32,
) -> None:
    """Ask about all audio of a manifest, by vLLM engines under Ray; vLLM's own options go with it."""
    with _bad_usage():
        from fewhertz.batch import Engine, Stopped
        from fewhertz.batch import batch as run_rows

        _quiet()
        (asked,) = _tasks([str(manifest)], {"audio": audio, "ask": prompt})
        try:
            done = run_rows(
                asked,
                Engine(model, method, tuple(context.args)),
                out,
                address=address,
                engines=engines,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                say=_say,
            )
        except Stopped as error:
            _say(f"fewhertz: {error}; the same command goes on")
            raise typer.Exit(1) from error
    rate = done.hours * 3600 / done.seconds
    _say(
        f"{done.rows} rows done, {done.failed} failed; {done.hours:.2f} h of audio in {done.seconds:.0f} s: "
        f"{rate:.3g} hours of audio per hour"
    )
    print(out / "outputs.jsonl")
    if done.failed:
        _say(f"fewhertz: see {out / 'errors.jsonl'}")
        raise typer.Exit(1)


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a sign gets its number, no traceback
    app()
