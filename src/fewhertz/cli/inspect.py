"""What there is, and what it costs: `methods`, `sample`, `inspect`, `demo`."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import fewhertz
from fewhertz.cli.shared import (
    IMPORT,
    JSON,
    METHOD,
    MODEL,
    amount,
    bad_usage,
    chunk_of,
    command,
    complaint,
    import_modules,
    print_table,
    quiet,
    say,
)

if TYPE_CHECKING:
    from fewhertz.cost import Cost, RecordingCost


def method_rows() -> list[dict[str, Any]]:
    """What there is to know about each method, from the registry."""
    import fewhertz.methods  # noqa: F401
    from fewhertz.method import METHODS, RECOMMENDED, Method
    from fewhertz.specs import written

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
        text = checkpoint.config.get_text_config()
        trained = getattr(text, "max_position_embeddings", None)
        # --context may be less than the model was made for, and more where positions are stretched
        reach = max(context or 0, trained or 0) or None
        limits = _Limits(weight_bytes(checkpoint), context or trained, reach, room)
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
            whole = recording_cost(
                checkpoint,
                processor,
                fitted,
                seconds,
                lengths,
                hertz=None if spec is None else fewhertz.parse(spec).rate,
                tokens=limits.tokens,
                positions=limits.positions,
                memory=None if room is None else room - limits.weights,
            )
            recordings.append((name, whole))
        except (OSError, ValueError) as error:
            say(complaint(name, str(error)))
            failed = True
    shown = None if spec is None else str(fewhertz.parse(spec))
    if as_json:
        for name, one in found:
            print(json.dumps(_cost_json(name, shown, one, limits), ensure_ascii=False))
        for name, whole in recordings:
            print(json.dumps(_recording_json(name, shown, whole, limits), ensure_ascii=False))
    elif found:
        _print_costs(found, shown, limits)
    elif recordings:
        _print_recordings(recordings, shown, limits)
    if failed:
        raise typer.Exit(2)


@dataclass(frozen=True)
class _Limits:
    """What a prompt has to fit into: tokens, the positions that the model was trained on, bytes beside its weights."""

    weights: int
    tokens: int | None
    positions: int | None
    memory: int | None

    def fits_memory(self, kv: int | None) -> bool | None:
        """Whether weights and a cache fit; `None`: there is no limit, or the cache is variable."""
        return None if self.memory is None or kv is None else self.weights + kv <= self.memory

    def room(self, kv: int | None) -> str:
        """`fits_memory`, in a table."""
        if self.memory is None:
            return "–"
        return "variable" if kv is None else "yes" if self.fits_memory(kv) else "no"

    @property
    def memory_head(self) -> str:
        """Of the column of `room`."""
        return "fits memory" if self.memory is None else f"fits {amount(self.memory, 'B')}"

    def context(self, one: Cost, i: int) -> str:
        """Whether a prompt without (0) or with (1) the method fits, in a table."""
        if self.tokens is None and self.positions is None:
            return "–"
        fitting, limit = one.fits(self.tokens, self.positions)[i]
        if limit is None:
            drawn = i and one.scale is not None and one.scale < 1
            return "variable" if not fitting else f"yes: positions × {one.scale:.3g}" if drawn else "yes"
        far, most = (one.context[i], self.tokens) if limit == "tokens" else (one.positions[i], self.positions)
        return f"no: {far} {limit} of {most}"


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
    limits: _Limits,
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
        line[key] = None if one is None else _cost_json(name, spec, one, limits)
    return line


def _print_recordings(
    found: list[tuple[str, RecordingCost]],
    spec: str | None,
    limits: _Limits,
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
                    amount(whole.flops[i], "FLOP"),
                    "–" if one.context[i] is None else str(one.context[i]),
                    amount(kv, "B"),
                    limits.context(one, i),
                    limits.room(kv),
                    every,
                    "–" if together is None else amount(together.kv[i], "B"),
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
            f"fits {limits.tokens} tokens",
            limits.memory_head,
            "windows a prompt",
            "all in one: KV cache",
        ],
        rows,
    )
    say(f"weights: {amount(limits.weights, 'B')}; memory is weights and KV cache, without activations")


def _cost_json(name: str, spec: str | None, one: Cost, limits: _Limits) -> dict[str, Any]:
    fits = one.fits(limits.tokens, limits.positions)
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
        "fits_memory": [limits.fits_memory(kv) for kv in one.kv],
    }
    line: dict[str, Any] = {"file": name, "method": spec, "seconds": round(one.seconds, 3), "prompt_tokens": one.prompt}
    line |= {"weight_bytes": limits.weights, "context_limit": limits.tokens, "position_limit": limits.positions}
    line |= {"memory_bytes": limits.memory}
    for key, (without, compressed) in pairs.items():
        line |= {f"{key}_before": without, key: compressed}
    return line


def _print_costs(
    found: list[tuple[str, Cost]],
    spec: str | None,
    limits: _Limits,
) -> None:
    rows = []
    for name, one in found:
        for i, label in enumerate(["uncompressed"] if spec is None else ["uncompressed", spec]):
            tokens = (one.before, one.after)[i]
            rate, flops, kv, whole = one.rate[i], one.flops[i], one.kv[i], one.context[i]
            rows.append(
                [
                    f"{name} ({one.seconds:.1f} s)" if i == 0 else "",
                    label,
                    "variable" if tokens is None else str(tokens),
                    "–" if rate is None else f"{rate:.3g}",
                    "–" if whole is None else str(whole),
                    "–" if flops is None else amount(flops, "FLOP"),
                    "–" if kv is None else amount(kv, "B"),
                    limits.context(one, i),
                    limits.room(kv),
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
            f"fits {limits.tokens} tokens",
            limits.memory_head,
        ],
        rows,
    )
    say(f"weights: {amount(limits.weights, 'B')}; memory is weights and KV cache, without activations")


@command(epilog="fewhertz demo\n\nfewhertz demo --out measured")
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the figures and the curve go.")] = Path("out"),
) -> None:
    """Transcribe the bundled clips by pocket under a few methods: a table, and a curve."""
    with bad_usage():
        from fewhertz.demo import main as measure

        measure(out)
