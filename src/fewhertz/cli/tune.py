"""`fewhertz tune`: which method, and how much of it, for a model and audio of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import fewhertz
from fewhertz.cli.shared import (
    DEVICE,
    DTYPE,
    FILES,
    IMPORT,
    MAX_NEW_TOKENS,
    MODEL,
    PROMPT,
    QUESTION,
    SeveralKeeps,
    Task,
    bad_usage,
    check_chunk,
    check_out,
    command,
    import_modules,
    load_compressed,
    print_table,
    progress,
    prompt_of,
    refuse_unread,
    say,
)

if TYPE_CHECKING:
    from fewhertz.tuning import Candidate, Tuned


@command(
    cls=SeveralKeeps,
    epilog="fewhertz tune pocket samples/*.flac\n\n"
    "fewhertz tune Qwen/Qwen2-Audio-7B-Instruct calls/*.wav --chunk 30 --agree 0.98 --out tuned.json\n\n"
    "fewhertz tune pocket *.wav --method pool --method ward+time+sizes --keep 1/2 1/3 1/4 --plot tuned.png",
)
def tune(
    model: MODEL,
    files: FILES,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", metavar="SPEC", help="A candidate; repeatable; default: a ladder of ward."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="K …", help="Budgets of the candidates that have none: 1/2 1/3.")
    ] = None,
    agree: Annotated[float, typer.Option(help="Share of tokens at which the answer has to stay the same.")] = 0.99,
    task: Annotated[Task, typer.Option(help="What to ask of the audio.")] = Task.transcribe,
    prompt: PROMPT = None,
    question: QUESTION = None,
    chunk: Annotated[float | None, typer.Option(metavar="SECONDS", help="Cut audio into windows of so many.")] = None,
    max_new_tokens: MAX_NEW_TOKENS = 128,
    out: Annotated[Path, typer.Option(help="The figures: .json; a broken-off run goes on.")] = Path("tuned.json"),
    plot: Annotated[Path | None, typer.Option(help="The picture: .png, .svg or .pdf.")] = None,
    device: DEVICE = None,
    dtype: DTYPE = None,
    modules: IMPORT = None,
) -> None:
    """Find how far audio can be shortened without a label: by the uncompressed model's own answers."""
    import_modules(modules)
    asked = prompt_of(task, prompt, question)
    check_chunk(chunk)
    with bad_usage():
        from fewhertz import tuning

        check_out(out, ".json")
        if plot is not None:
            check_out(plot, ".png", ".svg", ".pdf")
            from fewhertz.errors import need

            need("matplotlib")
        if keep and not method:
            raise ValueError("--keep goes with --method: say what is to keep so much")
        specs = [
            one.spec
            for text in method or []
            for one in ([fewhertz.parse(text, k) for k in keep] if keep else [fewhertz.parse(text)])
        ]
        if not 0 < agree <= 1:
            raise ValueError(f"--agree is a share of tokens, in (0, 1], got {agree:g}")
    refuse_unread(files)
    with bad_usage():
        net, processor = load_compressed(model, "none", device=device, dtype=dtype)
        from fewhertz.checkpoint import open_checkpoint, weights_sha256

        made = {"weights_sha256": weights_sha256(open_checkpoint(model)), "dtype": str(net.dtype)}
        with progress(len(files)) as advance:

            def done(line: str) -> None:
                say(line)
                advance()

            found = tuning.tune(
                net,
                processor,
                files,
                specs or tuning.CANDIDATES,
                prompt=asked,
                agree=agree,
                chunk=chunk,
                max_new_tokens=max_new_tokens,
                journal=out.with_suffix(".partial.jsonl"),
                identity=made,
                say=done,
            )
        tuning.write(found, model, made | {"prompt": asked, "max_new_tokens": max_new_tokens}, out)
        out.with_suffix(".partial.jsonl").unlink(missing_ok=True)
        _print(found, model)
        if plot is not None:
            tuning.draw(found, model, plot)
    say(f"figures: {out}" + (f"; picture: {plot}" if plot else ""))
    if found.errors:
        raise typer.Exit(1)


def _print(found: Tuned, model: str) -> None:
    rows = []
    for one in found.candidates:
        mark = " *" if found.chosen is not None and one.method == found.chosen.method else ""
        low, high = one.interval
        rows.append(
            [
                one.method + mark,
                f"{one.rate:.1f}",
                f"{one.spread[0]:.1f}–{one.spread[1]:.1f}",
                f"{100 * one.kept:.0f} %",
                f"{100 * one.agreement:.2f} [{100 * low:.2f}, {100 * high:.2f}]",
                f"{one.kl:.4f}",
                f"{100 * one.same:.0f} %",
            ]
        )
    print_table(["method", "Hz", "of 80 % of clips", "kept", "agreement, %", "KL, nats", "same answer"], rows)
    print(f"{found.clips} clips, {found.seconds:.0f} s, {found.tokens} tokens of the uncompressed model's answers")
    enough = f"{100 * found.agree:g} %"
    if found.chosen is None:
        best = max(found.candidates, key=lambda one: one.agreement)
        print(f"none agrees at {enough} of the tokens; nearest: {best.method}, {100 * best.agreement:.2f} %")
        return
    print(f"* of the lowest rate that agrees at {enough} of the tokens:")
    print(f'    fewhertz.compress(model, "{found.chosen.method}")')
    print(f'    fewhertz run {model} audio.wav --method "{found.chosen.method}"')
    _print_served(found.served, found.chosen, model)


def _print_served(served: Candidate | None, chosen: Candidate, model: str) -> None:
    if served is None:
        print("none of those that vLLM can serve agrees so much")
    else:
        other = (
            ""
            if served.method == chosen.method
            else f" ({served.rate:.1f} Hz, of a count known before encoding, as vLLM needs)"
        )
        print(f'    fewhertz serve {model} --method "{served.method}"{other}')
