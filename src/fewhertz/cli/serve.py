"""What runs under vLLM: `serve` and `batch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewhertz.cli.shared import (
    ASK,
    CHUNK,
    FOLDER,
    MAX_BATCH,
    MAX_NEW_OF_WINDOW,
    METHOD,
    MODEL,
    bad_usage,
    chunk_of,
    command,
    quiet,
    say,
)


@command(
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
    with bad_usage():
        from fewhertz.vllm.serve import serve as become

        become(model, method, context.args)


@command(
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
    chunk: CHUNK = None,
    max_new_tokens: MAX_NEW_OF_WINDOW = None,
    batch_size: Annotated[
        int, typer.Option(min=1, max=MAX_BATCH, help="Rows, or windows of long ones, that an engine is given at once.")
    ] = 32,
) -> None:
    """Ask about all audio of a manifest, by vLLM engines under Ray; vLLM's own options go with it."""
    window = chunk_of(chunk)
    with bad_usage():
        from fewhertz.batch import Engine, Stopped
        from fewhertz.batch import batch as run_rows
        from fewhertz.tasks import named

        quiet()
        asked = named(str(manifest), audio=audio, ask=prompt)
        try:
            done = run_rows(
                asked,
                Engine(model, method, tuple(context.args)),
                out,
                address=address,
                engines=engines,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                chunk=window,
                say=say,
            )
        except Stopped as error:
            say(f"fewhertz: {error}; the same command goes on")
            raise typer.Exit(1) from error
    rate = done.hours * 3600 / done.seconds
    say(
        f"{done.rows} rows done, {done.failed} failed; {done.hours:.2f} h of audio in {done.seconds:.0f} s: "
        f"{rate:.3g} hours of audio per hour"
    )
    print(out / "outputs.jsonl")
    if done.failed:
        say(f"fewhertz: see {out / 'errors.jsonl'}")
        raise typer.Exit(1)
