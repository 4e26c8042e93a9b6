"""`fewhertz run` and `embed`: audio in; text or embeddings out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import fewhertz
from fewhertz.cli.shared import (
    DEVICE,
    DTYPE,
    FILES,
    IMPORT,
    JSON,
    MAX_BATCH,
    MAX_NEW,
    METHOD,
    MODEL,
    TRIM,
    Task,
    bad_usage,
    check_chunk,
    command,
    complaint,
    import_modules,
    load_compressed,
    progress,
    prompt_of,
    say,
    unread,
)

if TYPE_CHECKING:
    from fewhertz.run import Piece


@command(
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
    adapter: Annotated[Path | None, typer.Option(help="What fewhertz train wrote: its method is attached.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=MAX_NEW, help="Longest answer, per window.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Windows that run together.")] = 1,
    device: DEVICE = None,
    dtype: DTYPE = None,
    trim: TRIM = False,
    as_json: JSON = False,
    modules: IMPORT = None,
) -> None:
    """Ask a model about audio: text on standard output, counts and times on standard error."""
    import_modules(modules)
    asked = prompt_of(task, prompt, question)
    check_chunk(chunk)
    from fewhertz.run import Piece, pieces

    with bad_usage():
        spec = None if method is None else fewhertz.parse(method).spec
    bad = unread(files)
    if len(bad) == len(files):
        writer = _JsonWriter(spec) if as_json else _TextWriter(spec, named=len(files) > 1)
        for file, error in bad.items():
            writer.write(Piece(file, 0.0, last=True, error=error))
        raise typer.Exit(2)
    with bad_usage():
        net, processor = load_compressed(model, method, adapter=adapter, device=device, dtype=dtype, trim=trim or None)

    handle = fewhertz.attached(net)
    with bad_usage():
        stream = pieces(net, processor, files, asked, chunk=chunk, batch_size=batch_size, max_new_tokens=max_new_tokens)
    if model == "pocket":
        say(POCKET)
    spec = handle.asked.spec if handle else None
    writer = _JsonWriter(spec) if as_json else _TextWriter(spec, named=len(files) > 1)
    with progress(len(files)) as advance:
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
            say(complaint(file, error))
        if replies:
            rate = [totals["before"] / seconds, totals["after"] / seconds]
            took = totals["encode"] + totals["prefill"] + totals["decode"]
            say(
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
    bad = unread(files)
    if len(bad) == len(files):
        for file, error in bad.items():
            say(complaint(file, error))
        raise typer.Exit(2)
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
                failed = max(failed, 1 if one.heard else 2)
            if one.record is not None:
                seconds, before, after = (one.record[k] for k in ("seconds", "audio_tokens_before", "audio_tokens"))
                say(f"{one.audio}: {seconds:.1f} s, {before} → {after} audio tokens")
                print(out / one.record["file"], flush=True)
            if one.last:
                advance()
    if failed:
        raise typer.Exit(failed)
