"""`fewhertz run` and `embed`: audio in; text or embeddings out."""

from __future__ import annotations

import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

import fewhertz
from fewhertz.cli.shared import (
    CHUNK,
    DEVICE,
    DTYPE,
    FILES,
    IMPORT,
    MAX_BATCH,
    MAX_NEW_OF_WINDOW,
    METHOD,
    MODEL,
    PROMPT,
    QUESTION,
    TRIM,
    BadUsage,
    Task,
    bad_usage,
    check_chunk,
    chunk_of,
    command,
    complaint,
    import_modules,
    load_compressed,
    progress,
    prompt_of,
    refuse_unread,
    say,
    unread,
)

if TYPE_CHECKING:
    from fewhertz.segments import Kept, Piece, Segment


class Format(Enum):
    """What is written."""

    txt = "txt"
    srt = "srt"
    vtt = "vtt"
    json = "json"
    tsv = "tsv"


@command(
    epilog='fewhertz run pocket speech.wav --method "pool@keep=1/3"\n\n'
    "fewhertz run Qwen/Qwen2-Audio-7B-Instruct *.flac --task describe --json > out.jsonl\n\n"
    "fewhertz run pocket lecture.mp3 --batch-size 8 --format srt --out lecture.srt --resume\n\n"
    "fewhertz run pocket talk.mp3 --chunk 30 --import my_method.py --method mine@keep=0.5"
)
def run(
    model: MODEL,
    files: FILES,
    method: METHOD = None,
    task: Annotated[Task, typer.Option(help="What to ask of the audio.")] = Task.transcribe,
    prompt: PROMPT = None,
    question: QUESTION = None,
    chunk: CHUNK = None,
    adapter: Annotated[Path | None, typer.Option(help="What fewhertz train wrote: its method is attached.")] = None,
    max_new_tokens: MAX_NEW_OF_WINDOW = None,
    batch_size: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Windows that run together.")] = 1,
    device: DEVICE = None,
    dtype: DTYPE = None,
    trim: TRIM = False,
    format: Annotated[
        Format | None, typer.Option(help="What to write: text, subtitles of one file (srt, vtt, tsv), json lines.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As --format json: one JSON object a line.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write here, and keep a journal beside it until all is done.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run with the same --out broke off.")] = False,
    modules: IMPORT = None,
) -> None:
    """Ask a model about audio of any length: text on standard output, counts and times on standard error."""
    import_modules(modules)
    asked = prompt_of(task, prompt, question)
    window = chunk_of(chunk)
    kind = _format_of(format, as_json, len(files))
    _check_output(out, resume)
    from fewhertz.files import replace
    from fewhertz.segments import Piece
    from fewhertz.transcription import longest_window, pieces

    with bad_usage():
        spec = None if method is None else fewhertz.parse(method).spec
    bad = unread(files)
    if len(bad) == len(files):
        writer = WRITERS[kind](spec, len(files) > 1, sys.stdout)
        for file, error in bad.items():
            writer.write(Piece(file, 0.0, last=True, error=error, readable=False))
        raise typer.Exit(2)
    with bad_usage():
        net, processor = load_compressed(model, method, adapter=adapter, device=device, dtype=dtype, trim=trim or None)

    handle = fewhertz.attached(net)
    spec = handle.asked.spec if handle else None
    with bad_usage():
        seconds = longest_window(net, asked, window)
        kept = None
        if out is not None:
            settings = {"method": spec, "prompt": asked, "chunk": seconds, "max_new_tokens": max_new_tokens}
            if handle and handle.method.together:  # windows that run together share a budget
                settings["batch_size"] = batch_size
            kept = _kept(out, model, adapter, net, files, settings)
        stream = pieces(
            net,
            processor,
            files,
            asked,
            chunk=window,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            kept=kept,
        )
    if model == "pocket":
        say(POCKET)
    written = io.StringIO()
    writer = WRITERS[kind](spec, len(files) > 1, sys.stdout if out is None else written)
    with seconds_done(files) as advance:
        try:
            for piece in stream:
                writer.write(piece)
                advance(piece)
        except KeyboardInterrupt:
            if kept is not None and not writer.pieces:  # windows may be done and none be written yet
                say("fewhertz: broken off: --resume goes on with it")
            raise
        except OSError:  # the output is full: no more of it
            writer.pieces.clear()
            raise
        finally:
            writer.close()
            if kept is not None:
                kept.journal.close()
    if out is not None:
        replace(out, written.getvalue().encode())
        if not writer.failed:
            journal_of(out).unlink()
    if writer.failed:
        raise typer.Exit(writer.failed)


POCKET = (
    "pocket is a test model: trained on synthetic English and German speech up to 30 s, strings of common words, ten "
    "sounds and questions about them; people's sentences it mostly gets wrong"
)


def _format_of(format: Format | None, as_json: bool, files: int) -> Format:
    if as_json and format not in (None, Format.json):
        raise BadUsage("give --json or --format, not both")
    kind = Format.json if as_json else format or Format.txt
    if files > 1 and kind in (Format.srt, Format.vtt, Format.tsv):
        raise BadUsage(f"--format {kind.value} is of one audio file, got {files}")
    return kind


def journal_of(out: Path) -> Path:
    """Where what is done is kept until all is."""
    return out.with_name(f"{out.name}.journal")


def _check_output(out: Path | None, resume: bool) -> None:
    if out is None:
        if resume:
            raise BadUsage("--resume goes with --out: the journal is beside it")
        return
    if not out.parent.is_dir() or out.is_dir():
        raise BadUsage(f"--out: {out} is a folder" if out.is_dir() else f"--out: there is no folder {out.parent}")
    if journal_of(out).exists() and not resume:
        raise BadUsage(f"{journal_of(out)} is of a run that broke off: go on with --resume, or remove it")


def _kept(out: Path, model: str, adapter: Path | None, net: Any, files: list[Path], settings: dict[str, Any]) -> Kept:
    """The journal of a run: what the answers depend on, and what is done of them."""
    from fewhertz.adapter import read
    from fewhertz.checkpoint import open_checkpoint, weights_sha256
    from fewhertz.files import sha256_of
    from fewhertz.segments import Kept

    identity = settings | {
        "model": model,
        "weights_sha256": weights_sha256(open_checkpoint(model)),
        "adapter_sha256": None if adapter is None else read(adapter).sha256,
        "dtype": str(net.dtype).removeprefix("torch."),
        "files": [str(file) for file in files],
        "audio": [sha256_of(file) for file in files],
    }
    return Kept(journal_of(out), identity)


class _Writer:
    """Gathers the segments of a file; what is there is written even where the rest is broken off."""

    head = ""  # before everything else

    def __init__(self, spec: str | None, named: bool, out: TextIO) -> None:
        self.spec, self.named, self.out = spec, named, out
        self.failed = 0  # exit status: 2 where a file cannot be read, 1 where the model fails on one
        self.pieces: list[Piece] = []
        self.put(self.head)

    def put(self, text: str) -> None:
        print(text, end="", file=self.out, flush=True)

    def write(self, piece: Piece) -> None:
        self.pieces.append(piece)
        if piece.segment is not None and piece.segment.reply is not None:
            self.text(piece, piece.segment)
        if piece.last:
            self.done(piece.error)

    def close(self) -> None:
        if self.pieces:
            advice = "" if self.out is sys.stdout else ": --resume goes on with it"
            self.done(f"broken off after {len(self.pieces)} segments{advice}")

    def text(self, piece: Piece, segment: Segment) -> None:
        """One segment's text."""

    def done(self, error: str | None) -> None:
        """The file is over."""
        gathered, self.pieces = self.pieces, []
        file = str(gathered[0].file)
        if error is not None:
            self.failed = max(self.failed, 1 if gathered[-1].readable else 2)
            say(complaint(file, error))
        segments = [piece.segment for piece in gathered if piece.segment is not None]
        replies = [segment.reply for segment in segments if segment.reply is not None]
        seconds = gathered[-1].seconds
        totals = {
            key: sum(getattr(reply, key) for reply in replies)
            for key in ("before", "after", "new_tokens", "encode", "prefill", "decode")
        }
        if replies:
            rate = [totals["before"] / seconds, totals["after"] / seconds]
            took = totals["encode"] + totals["prefill"] + totals["decode"]
            flags = Counter(flag for segment in segments for flag in segment.flags if flag != "silence")
            counted = ", ".join(f"{flag} {count}" for flag, count in sorted(flags.items()))
            look = f"; of {len(replies)} windows to look at: {counted}" if flags else ""
            say(
                f"{file}: {seconds:.1f} s, {totals['before']} → {totals['after']} audio tokens "
                f"({rate[0]:.3g} → {rate[1]:.3g} Hz), {totals['new_tokens']} new tokens, {took:.2f} s "
                f"(encode {totals['encode']:.2f}, prefill {totals['prefill']:.2f}, decode {totals['decode']:.2f}){look}"
            )
        self.record(file, segments, seconds, totals, error)

    def record(
        self, file: str, segments: list[Segment], seconds: float, totals: dict[str, Any], error: str | None
    ) -> None:
        """What a machine reads."""


class _TextWriter(_Writer):
    begun = False

    def text(self, piece: Piece, segment: Segment) -> None:
        prefix = f"{piece.file!s}: " if self.named else ""
        text = segment.text.replace("\n", f"\n{prefix}")
        if text or not self.begun:
            self.put(f"{' ' if self.begun else prefix}{text}")
        self.begun = True

    def record(
        self, file: str, segments: list[Segment], seconds: float, totals: dict[str, Any], error: str | None
    ) -> None:
        if self.begun:
            self.put("\n")
        self.begun = False


class _JsonWriter(_Writer):
    def record(
        self, file: str, segments: list[Segment], seconds: float, totals: dict[str, Any], error: str | None
    ) -> None:
        from fewhertz.segments import written

        run = [segment for segment in segments if segment.reply is not None]
        line = {
            "file": file,
            "text": " ".join(segment.text for segment in run if segment.text) if run else None,
            "error": error,
            "method": self.spec,
            "seconds": round(seconds, 3),
            "windows": len(run),
            "audio_tokens_before": totals["before"],
            "audio_tokens": totals["after"],
            "rate_hz": round(totals["after"] / seconds, 3) if seconds else None,
            "new_tokens": totals["new_tokens"],
            "encode_s": round(totals["encode"], 4),
            "prefill_s": round(totals["prefill"], 4),
            "decode_s": round(totals["decode"], 4),
            "segments": [*map(written, segments)],
        }
        self.put(json.dumps(line, ensure_ascii=False) + "\n")


class _CueWriter(_Writer):
    """Subtitles: a cue for each segment with text."""

    number = 0

    def text(self, piece: Piece, segment: Segment) -> None:
        words = " ".join(segment.text.split())
        if words:
            self.number += 1
            self.put(self.cue(segment.start, max(segment.end, segment.start + 0.001), words))

    def cue(self, start: float, end: float, text: str) -> str:
        """One cue."""
        raise NotImplementedError


class _SrtWriter(_CueWriter):
    def cue(self, start: float, end: float, text: str) -> str:
        return f"{self.number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text.replace('-->', '->')}\n\n"


class _VttWriter(_CueWriter):
    head = "WEBVTT\n\n"

    def cue(self, start: float, end: float, text: str) -> str:
        return f"{_clock(start, '.')} --> {_clock(end, '.')}\n{escape(text, quote=False)}\n\n"


class _TsvWriter(_CueWriter):
    head = "start\tend\ttext\n"  # in milliseconds, as Whisper writes them

    def cue(self, start: float, end: float, text: str) -> str:
        return f"{round(1000 * start)}\t{round(1000 * end)}\t{text}\n"


WRITERS = {
    Format.txt: _TextWriter,
    Format.srt: _SrtWriter,
    Format.vtt: _VttWriter,
    Format.json: _JsonWriter,
    Format.tsv: _TsvWriter,
}


def _clock(seconds: float, point: str) -> str:
    whole, thousandths = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{point}{thousandths:03d}"


EVERY = 10.0  # seconds between lines of progress


@contextmanager
def seconds_done(files: list[Path]) -> Iterator[Callable[[Piece], None]]:
    """Progress in seconds of audio: a bar on a terminal; elsewhere a line now and then, on standard error."""
    began = said = time.monotonic()
    before = done = 0.0  # of the files before, of all

    def note(piece: Piece) -> float:
        nonlocal before, done
        step = before + piece.seconds - done
        done += step
        if piece.last:
            before = done
        return step

    if not sys.stderr.isatty():

        def line(piece: Piece) -> None:
            nonlocal said
            note(piece)
            if time.monotonic() - said >= EVERY and not piece.last:
                said = time.monotonic()
                total = _seconds((Path(str(piece.file)),))
                of = f" of {total:.0f}" if total else ""
                say(f"{piece.file!s}: {piece.seconds:.0f}{of} s, {done / (said - began):.1f} s of audio a second")

        yield line
        return
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeRemainingColumn

    # results must not be caught by the bar where they go to a file or a pipe
    with Progress(
        *Progress.get_default_columns()[:2],
        TextColumn("{task.completed:.0f} of {task.total:.0f} s, {task.fields[speed]:.1f} s of audio a second"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),
        transient=True,
    ) as bar:
        name = str(files[0]) if len(files) == 1 else f"{len(files)} files"
        task = bar.add_task(name, total=_seconds(tuple(files)), speed=0.0)
        yield lambda piece: bar.update(task, advance=note(piece), speed=done / (time.monotonic() - began))


@cache
def _seconds(files: tuple[Path, ...]) -> float:
    """Length of the audio that can be read; where no header says it, audio is decoded for it."""
    from fewhertz import audio

    total = 0.0
    for file in files:
        with suppress(OSError, ValueError):
            total += audio.duration(file)
    return total


@command(
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
    import_modules(modules)
    check_chunk(chunk)
    refuse_unread(files)
    with bad_usage():
        net, processor = load_compressed(model, method, device=device, dtype=dtype)
        from fewhertz.checkpoint import open_checkpoint
        from fewhertz.embed import embed as write
        from fewhertz.embed import identity

        made = identity(net, open_checkpoint(model), model, chunk)
        stream = write(net, processor, files, out, made, chunk=chunk, batch_size=batch_size)
    failed = 0
    with progress(len(files)) as advance:
        for one in stream:
            if one.error is not None:
                say(complaint(one.audio, one.error))
                failed = max(failed, 1 if one.readable else 2)
            if one.record is not None:
                seconds, before, after = (one.record[k] for k in ("seconds", "audio_tokens_before", "audio_tokens"))
                say(f"{one.audio}: {seconds:.1f} s, {before} → {after} audio tokens")
                print(out / one.record["file"], flush=True)
            if one.last:
                advance()
    if failed:
        raise typer.Exit(failed)
