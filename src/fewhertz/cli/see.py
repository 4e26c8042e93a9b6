"""`show`, `compare` and `studio`: what a method does, to see, to hear and to read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import fewhertz
from fewhertz.cli.shared import (
    DEVICE,
    FILES,
    IMPORT,
    JSON,
    MAX_NEW_TOKENS,
    PROMPT,
    QUESTION,
    BadUsage,
    Task,
    amount,
    bad_usage,
    check_out,
    command,
    complaint,
    import_modules,
    print_table,
    prompt_of,
    quiet,
    say,
    unread,
)

if TYPE_CHECKING:
    from rich.text import Text

    from fewhertz.compare import Lane

METHODS = Annotated[
    list[str],
    typer.Option("--method", "-m", metavar="SPEC", help='Such as "pool@keep=1/3"; repeatable.', show_default=False),
]
BY_MODEL = Annotated[str, typer.Option("--model", help="A hub id, a directory, or pocket.")]


@command(
    epilog='fewhertz show speech.wav --method "segment@keep=1/3" --out tokens.png\n\n'
    'fewhertz show speech.wav --html --method "pool@keep=1/3" --method "ward@keep=1/3+time+sizes" '
    '--reference "what is said"\n\n'
    'fewhertz show speech.wav --method "stride@8Hz" --out tokens.svg --model ./my-model'
)
def show(
    file: Annotated[Path, typer.Argument(metavar="AUDIO", help="An audio file.", show_default=False)],
    method: METHODS,
    as_html: Annotated[
        bool, typer.Option("--html", help="A page to see and hear: a lane a method, and the answers.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The picture (.png, .svg, .pdf) or page (.html).", show_default="tokens.png, with --html tokens.html"
        ),
    ] = None,
    reference: Annotated[str | None, typer.Option(help="What the answer should be; with --html.")] = None,
    task: Annotated[Task, typer.Option(help="What to ask of the audio; with --html.")] = Task.transcribe,
    prompt: PROMPT = None,
    question: QUESTION = None,
    max_new_tokens: MAX_NEW_TOKENS = 256,
    model: BY_MODEL = "pocket",
    device: DEVICE = None,
    modules: IMPORT = None,
) -> None:
    """Draw the spectrogram and what each output token stands for, as a picture or as a page with sound."""
    import_modules(modules)
    asked = prompt_of(task, prompt, question)
    if as_html:
        _show_page(file, method, out or Path("tokens.html"), asked, reference, max_new_tokens, model, device)
        return
    if reference is not None or asked is not None:
        raise BadUsage("a picture has no answers: --reference, --prompt and --task go with --html")
    if len(method) > 1:
        raise BadUsage("a picture shows one method: give --html for several")
    picture, (spec,) = out or Path("tokens.png"), method
    with bad_usage():
        fewhertz.parse(spec)
        check_out(picture, ".png", ".svg", ".pdf")
        from fewhertz.errors import need

        need("matplotlib")
        from fewhertz import audio

        audio.check(file)
        quiet()
        net, processor = fewhertz.load(model, spec, device=device)
    from fewhertz.errors import one_line
    from fewhertz.show import show as draw

    try:
        plan = draw(net, processor, file, picture)
    except (OSError, ValueError) as error:
        raise BadUsage(complaint(file, one_line(error)).removeprefix("fewhertz: ")) from error
    say(f"{plan.n // plan.per} → {plan.m} audio tokens")
    print(picture)


def _show_page(
    file: Path,
    methods: list[str],
    out: Path,
    prompt: str | None,
    reference: str | None,
    max_new_tokens: int,
    model: str,
    device: str | None,
) -> None:
    with bad_usage():
        _check_specs(methods)
        check_out(out, ".html")
        from fewhertz import audio

        audio.check(file)
        quiet()
        from fewhertz import compare as comparison

        net, processor = comparison.load(model, methods, device=device)
    from fewhertz.errors import one_line
    from fewhertz.files import replace
    from fewhertz.studio import page, recording

    try:
        clips = recording.clips(
            net, processor, file, methods, prompt, name=model, reference=reference, max_new_tokens=max_new_tokens
        )
        replace(out, page.page(*clips).encode())
    except (OSError, ValueError) as error:
        raise BadUsage(complaint(file, one_line(error)).removeprefix("fewhertz: ")) from error
    for lanes in zip(*(clip["lanes"][1:] for clip in clips), strict=True):
        before, after = (sum(lane[key] for lane in lanes) for key in ("audio_tokens_before", "audio_tokens"))
        say(f"{lanes[0]['method']}: {before} → {after} audio tokens")
    print(out)


def _check_specs(methods: list[str]) -> None:
    """Before a model is read."""
    for spec in methods:
        fewhertz.parse(spec)


@command(
    epilog='fewhertz compare speech.wav --method "pool@keep=1/3" --method "ward@keep=1/3+time+sizes"\n\n'
    'fewhertz compare a.wav b.wav -m pool@8Hz --reference "said in a" --reference "said in b" --json'
)
def compare(
    files: FILES,
    method: METHODS,
    reference: Annotated[
        list[str] | None, typer.Option(help="What the answer should be; one for each file, in their order.")
    ] = None,
    task: Annotated[Task, typer.Option(help="What to ask of the audio.")] = Task.transcribe,
    prompt: PROMPT = None,
    question: QUESTION = None,
    max_new_tokens: MAX_NEW_TOKENS = 256,
    model: BY_MODEL = "pocket",
    device: DEVICE = None,
    as_json: JSON = False,
    modules: IMPORT = None,
) -> None:
    """Put the answers with all tokens and under each method beside each other, their differences marked."""
    import_modules(modules)
    asked = prompt_of(task, prompt, question)
    if reference and len(reference) != len(files):
        raise BadUsage(f"there are {len(files)} files and {len(reference)} references: give one for each, or none")
    with bad_usage():
        _check_specs(method)
    bad = unread(files)
    if len(bad) < len(files):
        with bad_usage():
            quiet()
            from fewhertz import compare as comparison

            net, processor = comparison.load(model, method, device=device)
    failed = False
    rights: list[str | None] = [*reference] if reference else [None] * len(files)
    for file, right in zip(files, rights, strict=True):
        try:
            if file in bad:
                raise ValueError(bad[file])
            from fewhertz.families import family_of
            from fewhertz.run import read_whole, sample_rate

            wave = read_whole(file, sample_rate(processor), family_of(net))
            lanes = comparison.compare(
                net, processor, wave, method, asked, reference=right, max_new_tokens=max_new_tokens
            )
        except (OSError, ValueError) as error:
            from fewhertz.errors import one_line

            failed = True
            say(complaint(file, one_line(error)))
            continue
        seconds = len(wave) / sample_rate(processor)
        if as_json:
            for lane in lanes:
                print(json.dumps(_lane_json(file, seconds, lane), ensure_ascii=False), flush=True)
        else:
            _print_lanes(file, seconds, right, lanes)
    if failed:
        raise typer.Exit(2)


def _lane_json(file: Path, seconds: float, lane: Lane) -> dict[str, Any]:
    wrong, words = lane.errors or (None, None)
    return {
        "file": str(file),
        "method": lane.spec,
        "text": lane.text,
        "differences": lane.differences,
        "word_errors": wrong,
        "reference_words": words,
        "seconds": round(seconds, 3),
        "audio_tokens_before": lane.before,
        "audio_tokens": lane.tokens,
        "rate_hz": round(lane.tokens / seconds, 3),
        "kv_bytes": lane.kv,
        "prefill_flops": lane.flops,
    }


def _print_lanes(file: Path, seconds: float, reference: str | None, lanes: list[Lane]) -> None:
    rows: list[list[str | Text]] = []
    if reference is not None:
        rows.append(["reference", "", "", "", "", "", reference])
    for lane in lanes:
        rows.append(
            [
                lane.spec,
                str(lane.tokens),
                f"{lane.tokens / seconds:.3g}",
                "–" if lane.kv is None else amount(lane.kv, "B"),
                "–" if lane.flops is None else amount(lane.flops, "FLOP"),
                "–" if lane.errors is None else f"{lane.errors[0]} of {lane.errors[1]}",
                _marked(lane.differences),
            ]
        )
    print(f"{file}, {seconds:.1f} s")
    print_table(["method", "audio tokens", "Hz", "KV cache", "LLM prefill", "wrong words", "answer"], rows)


def _marked(differences: Iterable[tuple[str, str]]) -> Text:
    """An answer with what differs from that with all tokens in colour, and in signs for those who see none."""
    from rich.text import Text

    text = Text()
    for kind, piece in differences:
        words = "".join(sign if sign.isprintable() else " " for sign in piece)  # nothing that steers a terminal
        if kind == "-":
            text.append(f"[-{words}-]", "red")
            text.append(" ")
        elif kind == "+":
            text.append(f"{{+{words}+}}", "green")
        else:
            text.append(words)
    return text


@command(epilog="fewhertz studio\n\nfewhertz studio Qwen/Qwen2-Audio-7B-Instruct --port 7861")
def studio(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A hub id, a directory, or pocket.")] = "pocket",
    host: Annotated[str, typer.Option(help="Address to listen on; this machine alone by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535)] = 7860,
    share: Annotated[bool, typer.Option("--share", help="A public address, through Gradio's servers.")] = False,
    device: DEVICE = None,
    modules: IMPORT = None,
) -> None:
    """Open a page in which to drop, record or pick a clip, choose methods, and see, hear and read what they do."""
    import_modules(modules)
    with bad_usage():
        quiet()
        from fewhertz.studio import app

        app.serve(model, device=device, host=host, port=port, share=share)
