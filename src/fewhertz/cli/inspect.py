"""What there is to look at: `methods`, `inspect`, `show`, `compare`, `studio`, `demo`, `sample`."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
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
    METHOD,
    MODEL,
    PROMPT,
    QUESTION,
    BadUsage,
    Task,
    bad_usage,
    check_out,
    chunk_of,
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
    from fewhertz.cost import Cost, RecordingCost


def method_rows() -> list[dict[str, Any]]:
    """What there is to know about each method, from the registry."""
    import fewhertz.methods  # noqa: F401
    from fewhertz.method import METHODS, RECOMMENDED, Method, written

    common = {f.name: f.default for f in dataclasses.fields(Method)}
    rows = []
    for name, cls in sorted(METHODS.items()):
        own = [f for f in dataclasses.fields(cls) if f.name not in common or f.default != common[f.name]]
        paragraph = " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())
        rows.append(
            {
                "name": name,
                "fixed_budget": cls.fixed_budget,
                "tolerance": cls.priced,
                "needs": sorted(cls.needs),
                "parameters": {f.name: written(f, f.default) for f in own},
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
        ("fixed" if row["fixed_budget"] else "variable") + ", tolerance" * row["tolerance"],
        ", ".join(row["needs"]) or "–",
        ", ".join(parameter.format(k, v) for k, v in row["parameters"].items()) or "–",
    ]


@command(epilog="fewhertz methods\n\nfewhertz methods --json | jq .name\n\nfewhertz methods --import my_method.py")
def methods(
    as_json: JSON = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The table of the README.")] = False,
    modules: IMPORT = None,
) -> None:
    """List the methods: budget, needs, parameters with their defaults. The recommended one is marked."""
    from fewhertz.method import DEFAULT, RECOMMENDED

    import_modules(modules)
    if as_json:
        for row in method_rows():
            print(json.dumps(row, ensure_ascii=False))
    elif markdown:
        print(methods_markdown())
    else:
        print_table(
            ["method", "budget", "needs", "parameters", "what it does"],
            [[row["name"] + " *" * row["recommended"], *_cells(row, "{}={}"), row["summary"]] for row in method_rows()],
        )
        name, _, corrections = RECOMMENDED.partition("+")
        print(f"* recommended: {DEFAULT}, of variable length; {name}@keep=1/2+{corrections}, of fixed length")


@command(epilog="fewhertz sample clips\n\nfewhertz eval pocket --task clips/samples.jsonl --method pool@keep=1/2")
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it is not there.")] = Path("samples"),
) -> None:
    """Copy the clips that come with pocket, and a list of what is said in them, into a folder."""
    import shutil

    from fewhertz.pocket import path

    with bad_usage():
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted((path() / "samples").iterdir())
        for file in files:
            if (folder / file.name).exists() and (folder / file.name).read_bytes() != file.read_bytes():
                raise ValueError(f"{folder / file.name} is there and is another file: name another folder")
        for file in files:
            shutil.copyfile(file, folder / file.name)
    print(f"{len(files) - 1} clips and samples.jsonl in {folder}", file=sys.stderr)


@command(
    epilog='fewhertz inspect Qwen/Qwen2-Audio-7B-Instruct speech.wav --method "pool@8Hz" --memory 24GB\n\n'
    'fewhertz inspect pocket 30s --method "ltbm@keep=1/3" --context 512\n\n'
    'fewhertz inspect pocket 3600s lecture.mp3 --chunk auto --method "ward@keep=1/2+time(fit)+sizes" --memory 24GB'
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
    chunk: Annotated[
        str | None,
        typer.Option(
            metavar="auto|SECONDS",
            help="As a recording in windows of at most so many seconds: one by one, and how many go into a prompt.",
        ),
    ] = None,
    as_json: JSON = False,
    modules: IMPORT = None,
) -> None:
    """Say what audio costs a model, with and without a method. Reads no weights."""
    import_modules(modules)
    window = chunk_of(chunk)
    with bad_usage():
        from fewhertz.checkpoint import load_processor, open_checkpoint
        from fewhertz.cost import cost, parse_bytes, recording_cost, weight_bytes

        room = None if memory is None else parse_bytes(memory)
        if method is not None:
            fewhertz.parse(method)
        quiet()
        checkpoint = open_checkpoint(model, weights=False)
        spec = checkpoint.method if method is None else method
        fitted = None if spec is None else checkpoint.fit(spec)
        processor = load_processor(checkpoint)
        weights = weight_bytes(checkpoint)
        text = checkpoint.config.get_text_config()
        trained = getattr(text, "max_position_embeddings", None)
        # --context may be less than the model was made for, and more where positions are stretched
        longest, reach = context or trained, max(context or 0, trained or 0) or None
        if window is not None:
            from fewhertz.run import sample_rate
            from fewhertz.transcription import comfortable

            most = comfortable(checkpoint.family, checkpoint.config, window)

    failed = False
    found: list[tuple[str, Cost]] = []
    recordings: list[tuple[str, RecordingCost]] = []
    for name in files:
        try:
            if window is None:
                found.append((name, cost(checkpoint, processor, fitted, _seconds(name))))
                continue
            seconds, lengths = _lengths(name, most, sample_rate(processor))
            recordings.append(
                (
                    name,
                    recording_cost(
                        checkpoint,
                        processor,
                        fitted,
                        seconds,
                        lengths,
                        hertz=None if spec is None else fewhertz.parse(spec).rate,
                        tokens=longest,
                        positions=reach,
                        memory=None if room is None else room - weights,
                    ),
                )
            )
        except (OSError, ValueError) as error:
            say(complaint(name, str(error)))
            failed = True
    shown = None if spec is None else str(fewhertz.parse(spec))
    if as_json:
        for name, one in found:
            print(json.dumps(_cost_json(name, shown, one, weights, longest, reach, room), ensure_ascii=False))
        for name, whole in recordings:
            print(json.dumps(_recording_json(name, shown, whole, weights, longest, reach, room), ensure_ascii=False))
    elif found:
        _print_costs(found, shown, weights, longest, reach, room)
    elif recordings:
        _print_recordings(recordings, shown, weights, longest, reach, room)
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


def _lengths(name: str, most: float | None, rate: int) -> tuple[float, list[float]]:
    """Length of a recording and of its windows: of a file as it would be cut, of a length alone as if without a pause.

    Raises:
        ValueError: as `_seconds`.
    """
    seconds = _seconds(name)
    if most is None:
        return seconds, [seconds]
    if Path(name).exists():
        from fewhertz.windows import windows

        return seconds, [len(w.wave) / rate for w in windows(Path(name), most, rate) if w.wave is not None] or [most]
    from fewhertz.audio import MIN_SECONDS

    whole, rest = divmod(seconds, most)
    return seconds, [most] * int(whole) + [rest] * (rest >= MIN_SECONDS or not whole)


def _recording_json(
    name: str,
    spec: str | None,
    whole: RecordingCost,
    weights: int,
    longest: int | None,
    reach: int | None,
    room: int | None,
) -> dict[str, Any]:
    line: dict[str, Any] = {"file": name, "method": spec, "seconds": round(whole.seconds, 3), "windows": whole.windows}
    for i, suffix in enumerate(("_before", "")):
        line |= {
            f"audio_tokens{suffix}": (whole.before, whole.after)[i],
            f"rate_hz{suffix}": whole.rate[i],
            f"prefill_flops{suffix}": whole.flops[i],
            f"windows_a_prompt{suffix}": whole.most[i][0],
            f"windows_a_prompt_bound_by{suffix}": whole.most[i][1],
        }
    for key, one in (("longest_window", whole.longest), ("one_prompt", whole.one_prompt)):
        line[key] = None if one is None else _cost_json(name, spec, one, weights, longest, reach, room)
    return line


def _print_recordings(
    found: list[tuple[str, RecordingCost]],
    spec: str | None,
    weights: int,
    longest: int | None,
    reach: int | None,
    room: int | None,
) -> None:
    rows = []
    for name, whole in found:
        for i, label in enumerate(["uncompressed"] if spec is None else ["uncompressed", spec]):
            tokens, rate, one, together = (whole.before, whole.after)[i], whole.rate[i], whole.longest, whole.one_prompt
            kv = one.kv[i]
            most, binds = whole.most[i]
            every = "–" if together is None else "variable" if tokens is None else f"all {whole.windows}"
            if most is not None and most < whole.windows:
                every = f"{most}: {binds} bind"
            rows.append(
                [
                    f"{name} ({whole.seconds:.1f} s)" if i == 0 else "",
                    label,
                    str(whole.windows) if i == 0 else "",
                    "variable" if tokens is None else str(tokens),
                    "–" if rate is None else f"{rate:.3g}",
                    _amount(whole.flops[i], "FLOP"),
                    "–" if one.context[i] is None else str(one.context[i]),
                    _amount(kv, "B"),
                    _fits_context(one, i, longest, reach),
                    _fits(None if kv is None else weights + kv, room),
                    every,
                    "–" if together is None else _amount(together.kv[i], "B"),
                ]
            )
    print_table(
        [
            "recording",
            "method",
            "windows",
            "audio tokens",
            "Hz",
            "LLM prefill",
            "longest: prompt",
            "KV cache",
            f"fits {longest} tokens",
            "fits memory" if room is None else f"fits {_amount(room, 'B')}",
            "windows a prompt",
            "all in one: KV cache",
        ],
        rows,
    )
    say(f"weights: {_amount(weights, 'B')}; memory is weights and KV cache, without activations")


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
        "position_scale": (1.0, one.scale),
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
        return "variable"
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _fits(value: int | None, limit: int | None) -> str:
    if limit is None:
        return "–"
    return "variable" if value is None else "yes" if value <= limit else "no"


def _fits_context(one: Cost, i: int, longest: int | None, reach: int | None) -> str:
    if longest is None and reach is None:
        return "–"
    fitting, limit = one.fits(longest, reach)[i]
    if limit is None:
        drawn = i and one.scale is not None and one.scale < 1
        return "variable" if not fitting else f"yes: positions × {one.scale:.3g}" if drawn else "yes"
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
                    "variable" if tokens is None else str(tokens),
                    "–" if rate is None else f"{rate:.3g}",
                    "–" if whole is None else str(whole),
                    "–" if flops is None else _amount(flops, "FLOP"),
                    "–" if kv is None else _amount(kv, "B"),
                    _fits_context(one, i, longest, reach),
                    _fits(None if kv is None else weights + kv, room),
                ]
            )
    print_table(
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
    say(f"weights: {_amount(weights, 'B')}; memory is weights and KV cache, without activations")


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
                "–" if lane.kv is None else _amount(lane.kv, "B"),
                "–" if lane.flops is None else _amount(lane.flops, "FLOP"),
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


@command(epilog="fewhertz demo\n\nfewhertz demo --out measured")
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the figures and the curve go.")] = Path("out"),
) -> None:
    """Transcribe the bundled clips by pocket under a few methods: a table, and a curve."""
    with bad_usage():
        from fewhertz.demo import main as measure

        measure(out)
