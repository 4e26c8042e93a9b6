"""Model × method × task: ask every sample, measure, and write one result file a run."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import io
import itertools
import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import fewhertz
from fewhertz.adapter import Adapter, switch
from fewhertz.adapter import read as read_adapter
from fewhertz.attach import attached, compress
from fewhertz.checkpoint import Checkpoint, dtype_of, open_checkpoint, weights_sha256
from fewhertz.errors import need, one_line, or_singly
from fewhertz.evaluation import results
from fewhertz.evaluation.metrics import Metric, Stats, Unavailable, interval, paired
from fewhertz.evaluation.progress import Progress
from fewhertz.evaluation.results import BASELINE, RunFiles
from fewhertz.families.base import Family
from fewhertz.files import Journal, Record, differing, differs, held, read_journal
from fewhertz.loading import load, load_learned
from fewhertz.method import IDENTITY, NONE, Chain, parse
from fewhertz.once import encode_once
from fewhertz.run import answer, read_whole, request, sample_rate
from fewhertz.tasks.base import Failed, Sample, Task


def specs(methods: Sequence[str], keeps: Sequence[str | Fraction] = ()) -> list[str]:
    """The runs of a grid, the baseline first.

    Args:
        methods: specs. One with a budget of its own (`pool@8Hz`), or one of variable length, is a run; each
            other is one at every keep.
        keeps: fractions kept.

    Returns:
        Canonical specs, each once; `results.BASELINE` for keep=1, where every method is the identity.

    Raises:
        ValueError: for a malformed method or keep, and for a method without any budget.
    """
    found = [BASELINE]
    for text in methods:
        several = [parse(text, keep) for keep in keeps] if keeps else [parse(text)]
        found += [BASELINE if one.keep == 1 else one.spec for one in several]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Outcome:
    """What an evaluation left.

    Attributes:
        files: result files of all runs that have one, the baseline first.
        errors: what went wrong, a line each: rows that failed, damaged files.
    """

    files: list[Path]
    errors: list[str]


@dataclass(frozen=True)
class _Process:
    """The process that runs, among those that `accelerate launch` has started."""

    index: int = 0
    count: int = 1
    device: str | None = None
    wait: Callable[[], None] = lambda: None  # for all others


@functools.cache
def _process(cpu: bool) -> _Process:
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return _Process()
    # the first process measures while the others wait, which may take longer than a default timeout
    state = need("accelerate", "train").PartialState(cpu=cpu, timeout=datetime.timedelta(days=7))
    return _Process(state.process_index, state.num_processes, str(state.device), state.wait_for_everyone)


@dataclass(frozen=True)
class _Setup:
    """All that the runs of one evaluation share."""

    task: Task
    metrics: list[Metric]
    samples: list[Sample]
    failed: list[Failed]
    identity: Record
    batch_size: int
    max_new_tokens: int
    seed: int
    draws: int
    process: _Process
    say: Callable[[str], None]

    asked_for: list[Metric]  # metrics and absent ones
    absent: dict[str, str]  # why a metric is not measured
    adapters: dict[Path, Adapter] = field(default_factory=dict)  # by the folder of their runs
    trim: bool = False

    def named(self, place: RunFiles) -> Record:
        adapter = self.adapters.get(place.folder)
        own: Record = {}
        if adapter is not None:
            own = {"model": _with(self.identity["model"], adapter), "adapter_sha256": adapter.sha256}
        return self.identity | own | {"method": place.spec, "revision": _revision(place.spec)}

    def asked(self, place: RunFiles) -> Record:
        """What outputs depend on: not on what they are measured by."""
        return {key: value for key, value in self.named(place).items() if key != "metrics"}

    @property
    def batches(self) -> list[list[Sample]]:
        """The same for any number of processes, so that they share the identical work."""
        # a transcript is asked for in a model's own way, which does not mix with questions
        runs = itertools.groupby(self.samples, key=lambda sample: sample.prompt is None)
        return [list(some) for _, run in runs for some in _slices(list(run), self.batch_size)]


def _revision(spec: str) -> int:
    """How often what a spec decides has changed, its first form counted."""
    method = parse(NONE if spec == BASELINE else spec)
    parts = (method.first, method.second) if isinstance(method, Chain) else (method,)
    return max(part.revision for part in parts)


def _slices(items: list[Sample], size: int) -> Iterator[list[Sample]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def evaluate(
    model: str | Path,
    task: Task,
    chosen: Sequence[str],
    out: str | Path = "results",
    *,
    limit: int | None = None,
    batch_size: int = 1,
    max_new_tokens: int = 256,
    device: str | None = None,
    dtype: str | None = None,
    seed: int = 0,
    draws: int = 2000,
    adapters: Sequence[str | Path] = (),
    trim: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run a task, greedily, on a model under each of several methods, and write a result file a run.

    A batch is encoded once and asked under each. A run whose result is there is skipped; one that was broken off
    goes on at its next sample. Under `accelerate launch` the samples are shared among the processes, and the result is
    that of a single one.

    Args:
        model: a hub id, a directory, or `pocket`. A method that the checkpoint carries is taken off.
        task: what to ask.
        chosen: specs, canonical as from `specs`; the baseline runs in any case, first.
        out: folder of all results.
        limit: rows of the data, its first ones; `None`: all.
        batch_size: samples that run together.
        max_new_tokens: longest output, in tokens.
        device: where to; `None`: the GPU where there is one, else the CPU.
        dtype: of the weights; `None`: the checkpoint's own.
        seed: of the bootstrap.
        draws: of the bootstrap.
        adapters: directories of LoRA adapters. Each is evaluated on the model, in place of the model alone, under the
            chosen ones, or, where none is named but the baseline, under what it was trained with. Results call it
            `model+name`, by the name of its directory; the baseline is the model without it.
        trim: whether the baseline is trimmed too, as what is compressed is (`compress`): 1e-5 from the stock model.
        say: gets a line of text about how far it is, now and then.

    Raises:
        ValueError: where the model, a method or the data cannot be used, or a result is there that was made otherwise,
            or another evaluation writes to the same results.
        ImportError: where a package of the `eval` extra is missing.
    """
    process = _process(device == "cpu" or not torch.cuda.is_available())
    checkpoint = open_checkpoint(model)
    chosen = list(dict.fromkeys([BASELINE, *chosen]))
    for spec in chosen[1:]:
        checkpoint.fit(spec)
    checkpoint.family.check_trim(trim)
    task = dataclasses.replace(task, limit=limit)
    setup = _setup(model, checkpoint, task, batch_size, max_new_tokens, dtype, seed, draws, process, say)
    places = [results.run_files(Path(out), task.label, model_name(model), spec) for spec in chosen]
    kept_in = [metric.kept_in(places[0].folder, say) for metric in setup.metrics]
    setup = dataclasses.replace(setup, trim=trim, metrics=kept_in)
    if adapters:
        places = places[:1]
        for adapter in map(read_adapter, adapters):
            own = _specs_of(adapter, checkpoint, chosen[1:])
            mine = [results.run_files(Path(out), task.label, _with(model_name(model), adapter), spec) for spec in own]
            if setup.adapters.setdefault(mine[0].folder, adapter) is not adapter:
                raise ValueError(f"two adapters are called {adapter.name}: results are named by an adapter's directory")
            places += mine
    errors = [failed.error for failed in setup.failed]
    # one process holds for all that accelerate has started
    with held(place.folder for place in places) if process.index == 0 else contextlib.nullcontext():
        if process.index == 0:
            errors += [error for place in places if (error := _set_aside(place))]
        process.wait()
        todo = [place for place in places if not _there(place, setup)]
        _warn_of_older([place for place in places if place not in todo], say)
        if todo:
            net, processor = load(model, device=device or process.device, dtype=dtype)
            if (handle := attached(net)) is not None:
                handle.remove()
            wrapped = net
            for adapter in setup.adapters.values():
                wrapped = adapter.add_to(wrapped)  # in place: net has it too
            if setup.adapters:
                _refuse_adapted_encoder(net)
            _run(net, processor, checkpoint.family, todo, setup)
            if process.index == 0:
                for place in todo:
                    try:
                        errors += _finish(net, checkpoint, place, places[0], setup)
                    except Unavailable:  # so it is for all runs: outputs are kept
                        raise
                    except ValueError as error:
                        errors.append(str(error))
            process.wait()
    return Outcome([place.file for place in places if place.file.exists()], list(dict.fromkeys(errors)))


def _specs_of(adapter: Adapter, checkpoint: Checkpoint, chosen: list[str]) -> list[str]:
    """The specs of an adapter, with a warning where it was trained for others."""
    if not chosen:
        adapter.choose(checkpoint, None)
        return specs(adapter.methods)[1:] or [BASELINE]
    for spec in chosen:
        adapter.choose(checkpoint, spec)
    return chosen


def _refuse_adapted_encoder(net: Any) -> None:
    """A batch is encoded once for all adapters, so none may change what the encoder makes of it."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    llm = {*net.get_decoder().modules(), *net.get_output_embeddings().modules()}
    for name, module in net.named_modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) and module not in llm:
            raise ValueError(f"an adapter acts outside the LLM, on {name}: merge it (fewhertz merge), evaluate that")


def _with(model: str, adapter: Adapter) -> str:
    return f"{model}+{adapter.name}"


def model_name(model: str | Path) -> str:
    """What results call a model: a hub id, or a directory's own name."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else str(model)


def _setup(
    model: str | Path,
    checkpoint: Checkpoint,
    task: Task,
    batch_size: int,
    max_new_tokens: int,
    dtype: str | None,
    seed: int,
    draws: int,
    process: _Process,
    say: Callable[[str], None],
) -> _Setup:
    asked_for = task.measured()
    metrics, absent = [], {}
    for metric in asked_for:
        try:
            metric.signature()  # what it needs is there, or is asked for before hours of work
            metrics.append(metric)
        except Unavailable as error:
            if metric is asked_for[0]:
                raise
            absent[metric.name] = str(error)
            say(f"{metric.name} is not measured: {error}")
    rows = task.samples()
    samples = [row for row in rows if isinstance(row, Sample)]
    failed = [row for row in rows if isinstance(row, Failed)]
    if not samples:
        raise ValueError(f"{failed[0].error} (and so with all {len(failed)} rows)" if failed else "the data is empty")
    asked = [[s.row, s.id, s.references, s.choices, s.prompt, s.group] for s in samples]
    identity = {
        "task": task.label,
        "task_version": task.version,
        "path": task.source(),
        "data_sha256": hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
        "audio_sha256": audio_sha256(samples),
        "rows": len(rows),
        "model": model_name(model),
        "weights_sha256": weights_sha256(checkpoint),
        "prompt": task.prompt,
        "decoding": "greedy",
        "max_new_tokens": max_new_tokens,
        "dtype": (dtype or str(dtype_of(checkpoint.config))).removeprefix("torch."),
        "metrics": list(map(repr, metrics)),
    }
    how = (batch_size, max_new_tokens, seed, draws, process, say)
    return _Setup(task, metrics, samples, failed, identity, *how, asked_for, absent)


def audio_sha256(samples: Sequence[Sample]) -> str:
    """SHA-256 of the audio of samples: of the hashes of their files, one a line, as they are on the disk."""
    hashes = []
    for sample in samples:
        try:
            source = sample.source()
            with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
                hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
        except (OSError, ValueError):
            hashes.append("unreadable")  # an error of its row once it is asked
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _set_aside(place: RunFiles) -> str | None:
    """Move a damaged result out of the way, so that it is measured again; says so."""
    if not place.file.exists():
        return None
    try:
        results.read_samples(place.file)
    except ValueError as error:
        kept = place.file.with_name(f"{place.file.name}.damaged")
        place.file.replace(kept)
        return f"{str(error).partition(': remove')[0]}: moved to {kept.name}, it is measured again"
    return None


def _there(place: RunFiles, setup: _Setup) -> bool:
    if not place.file.exists():
        return False
    old, new = results.read(place.file)["identity"], setup.named(place)
    # one with a metric that is absent now is as good
    if differing(old, new) and differing(old, new | {"metrics": list(map(repr, setup.asked_for))}):
        raise ValueError(
            f"{place.file} is there with {differs(old, new)}: remove it, or choose another folder with --out"
        )
    return True


def _warn_of_older(places: list[RunFiles], say: Callable[[str], None]) -> None:
    """Results of versions that did not compare audio are taken, with a warning."""
    older = [place.file for place in places if "audio_sha256" not in results.read(place.file)["identity"]]
    if older:
        more = f" and {len(older) - 1} more" if older[1:] else ""
        say(f"{older[0]}{more}: from before audio was compared; whether it is the same audio is not known")
    changed = [
        place
        for place in places
        if _revision(place.spec) > 1 and "revision" not in results.read(place.file)["identity"]
    ]
    if changed:
        more = f" and {len(changed) - 1} more" if changed[1:] else ""
        say(
            f"{changed[0].file}{more}: from before {changed[0].spec} changed what it decides; --out another folder "
            "measures it anew"
        )


def _run(net: Any, processor: Any, family: Family, todo: list[RunFiles], setup: _Setup) -> None:
    """Ask what has not been asked yet, batch by batch, each under all methods that lack some of it."""
    process = setup.process
    done = {place: {record["row"] for record in _records(place, setup)} for place in todo}

    def lacking(batch: list[Sample]) -> list[RunFiles]:
        return [place for place in todo if any(sample.row not in done[place] for sample in batch)]

    mine = [batch for batch in setup.batches if lacking(batch)][process.index :: process.count]
    progress = Progress(len(todo) * len(setup.samples), setup.say)
    progress.skip(progress.total - sum(len(batch) * len(lacking(batch)) for batch in mine))
    process.wait()  # all have read the journals before any goes on writing
    with contextlib.ExitStack() as stack:
        journals = {place: Journal(place.partial(process.index), setup.asked(place)) for place in todo}
        for journal in journals.values():
            stack.callback(journal.close)
        for batch in mine:
            # whole, even where some of it is done: who stands beside a sample must not depend on an interruption
            for place, records in _ask(net, processor, family, batch, lacking(batch), setup):
                journals[place].add([record for record in records if record["row"] not in done[place]])
                progress.advance(setup.task.label, len(batch))
    process.wait()


def _records(place: RunFiles, setup: _Setup) -> list[Record]:
    """What all processes have done of a run, in the order of the data."""
    found = [r for file in place.partials() for r in read_journal(file, setup.asked(place))]
    return sorted(found, key=lambda record: record["row"])


def _ask(
    net: Any, processor: Any, family: Family, batch: list[Sample], chosen: list[RunFiles], setup: _Setup
) -> Iterator[tuple[RunFiles, list[Record]]]:
    """Of each run, a record of each sample: what the model said, or why it said nothing."""
    unread: dict[int, Record] = {}
    with_audio: list[tuple[Sample, np.ndarray]] = []
    for sample in batch:
        try:
            with_audio.append((sample, _wave(sample, sample_rate(processor), family)))
        except (OSError, ValueError) as error:
            unread[sample.row] = _error(sample, one_line(error), setup)
    scored = any("scores" in parse(place.spec).needs for place in chosen if place.spec != BASELINE)
    with encode_once(net, scored):
        together = _Asked(net, processor, with_audio, setup)
        for place in chosen:
            adapter = setup.adapters.get(place.folder)
            if setup.adapters:
                switch(net, adapter)
            # a model without a method encodes anew: adapters take the way of keep=1, which is exact
            spec = IDENTITY if place.spec == BASELINE and (adapter is not None or setup.trim) else place.spec
            handle = None if spec == BASELINE else compress(net, spec, trim=setup.trim or None)
            try:
                if handle is not None and adapter is not None:
                    load_learned(handle, [adapter.directory], carried=True)
                records = unread | together.ask()
            finally:
                if handle is not None:
                    handle.remove()
            yield place, [records[sample.row] for sample in batch]


class _Asked:
    """Samples that are asked together, or one by one where that fails; their features are made once."""

    def __init__(self, net: Any, processor: Any, with_audio: list[tuple[Sample, np.ndarray]], setup: _Setup) -> None:
        self.net = net
        self.processor = processor
        self.with_audio = with_audio
        self.setup = setup

    @functools.cached_property
    def inputs(self) -> Any:
        prompts = [sample.prompt for sample, _ in self.with_audio if sample.prompt is not None]
        waves = [wave for _, wave in self.with_audio]
        return request(self.processor, waves, prompts or None).to(self.net.device, self.net.dtype)

    @functools.cached_property
    def alone(self) -> list[_Asked]:
        return [_Asked(self.net, self.processor, [one], self.setup) for one in self.with_audio]

    def ask(self) -> dict[int, Record]:
        """A record of each sample, by row."""

        def ask(places: list[int]) -> list[Record]:
            return self._ask() if len(places) == len(self.with_audio) else self.alone[places[0]]._ask()

        samples = [sample for sample, _ in self.with_audio]
        found = or_singly(ask, [*range(len(samples))])
        return {
            sample.row: _error(sample, record, self.setup) if isinstance(record, str) else record
            for sample, record in zip(samples, found, strict=True)
        }

    def _ask(self) -> list[Record]:
        transcript = self.with_audio[0][0].prompt is None
        _reset_peak(self.net)
        said = answer(
            self.net, self.processor, self.inputs, transcript=transcript, max_new_tokens=self.setup.max_new_tokens
        )
        peak = _peak(self.net)
        rate = sample_rate(self.processor)
        return [
            {
                "row": sample.row,
                "output": reply.text,
                "audio_seconds": len(wave) / rate,
                **{key: value for key, value in dataclasses.asdict(reply).items() if key != "text"},
                "peak_memory": peak,
            }
            for (sample, wave), reply in zip(self.with_audio, said, strict=True)
        ]


def _error(sample: Sample, error: str, setup: _Setup) -> Record:
    text = f"{setup.task.source()}, row {sample.row + 1}: {error}"
    return {"row": sample.row, "id": sample.id, "error": text}


def _wave(sample: Sample, rate: int, family: Family) -> np.ndarray:
    return read_whole(sample.source(), rate, family, chunks=False)


def _finish(net: Any, checkpoint: Checkpoint, place: RunFiles, baseline: RunFiles, setup: _Setup) -> list[str]:
    """Measure a run and write it; its journals go. Returns the errors of its rows."""
    records = _records(place, setup)
    by_row = {sample.row: sample for sample in setup.samples}
    answered = [record for record in records if "error" not in record]
    errors = [record["error"] for record in records if "error" in record]
    if not records:
        raise ValueError(f"{place.file}: its journal is gone: does another eval write to the same folder? Run it again")
    if not answered:
        for file in place.partials():
            file.unlink()
        raise ValueError(f"{place.spec}: no sample could be run, so there is no result: {errors[0]}")
    samples = [by_row[record["row"]] for record in answered]
    outputs = [record["output"] for record in answered]
    stats = {metric.name: _measure(metric, samples, outputs) for metric in setup.metrics}
    groups = [sample.id if sample.group is None else sample.group for sample in samples]
    pairs = _differences(place, baseline, setup, samples, outputs, stats)
    scores = {}
    for metric in setup.metrics:
        low, high = interval(metric, stats[metric.name], groups, setup.draws, setup.seed)
        scores[metric.name] = {
            "score": _number(metric.score(stats[metric.name])),
            "interval": [_number(low), _number(high)],
            **pairs[metric.name],
            "unit": metric.unit,
            "higher_is_better": metric.higher_is_better,
            "signature": metric.signature([sample.references for sample in samples]),
        }
    result = _result(net, checkpoint, place, setup, answered, errors, scores, len(set(groups)))
    lines = [
        _sample_line(sample, record, {m.name: (m, stats[m.name][i : i + 1]) for m in setup.metrics})
        for i, (sample, record) in enumerate(zip(samples, answered, strict=True))
    ]
    results.write(place, result, lines)
    for file in place.partials():
        file.unlink()
    return errors


def _measure(metric: Metric, samples: list[Sample], outputs: list[str]) -> Stats:
    return metric.measure([s.references for s in samples], outputs, [s.choices for s in samples])


def _differences(
    place: RunFiles,
    baseline: RunFiles,
    setup: _Setup,
    samples: list[Sample],
    outputs: list[str],
    stats: dict[str, Stats],
) -> dict[str, Record]:
    """Of each metric: the score less the baseline's, on the samples that both have, and its interval."""
    if place == baseline:
        return {m.name: {"difference": 0.0, "difference_interval": [0.0, 0.0]} for m in setup.metrics}
    if not baseline.file.exists():
        raise ValueError(f"{place.spec}: the baseline {BASELINE} has no result to compare with")
    before = {line["row"]: line for line in results.read_samples(baseline.file)}
    both = [i for i, sample in enumerate(samples) if sample.row in before]
    if not both:
        raise ValueError(f"{place.spec}: it has no sample in common with the baseline {BASELINE}")
    common = [samples[i] for i in both]
    groups = [sample.id if sample.group is None else sample.group for sample in common]
    found = {}
    for metric in setup.metrics:
        if len(both) == len(samples) == len(before):
            a = stats[metric.name]
            b = np.array([before[sample.row]["stats"][metric.name] for sample in common], float)
        else:  # what is measured over a whole set, as CIDEr-D is, is measured again on what both have
            a = _measure(metric, common, [outputs[i] for i in both])
            b = _measure(metric, common, [before[sample.row]["output"] for sample in common])
        difference, low, high = paired(metric, a, b, groups, setup.draws, setup.seed)
        found[metric.name] = {
            "difference": _number(difference),
            "difference_interval": [_number(low), _number(high)],
        }
    return found


def _number(value: float) -> float | None:
    """To six decimals: the order in which floats are summed stays out of result files. NaN is null."""
    return None if math.isnan(value) else round(value, 6)


def _sample_line(sample: Sample, record: Record, measured: dict[str, tuple[Metric, Stats]]) -> Record:
    line: Record = {"row": sample.row, "id": sample.id, "group": sample.group, "references": sample.references}
    if sample.choices:
        line["choices"] = sample.choices
    line["output"] = record["output"]
    line["scores"] = {name: _number(metric.score(stats)) for name, (metric, stats) in measured.items()}
    line["stats"] = {name: stats[0].tolist() for name, (_, stats) in measured.items()}
    kept = ("audio_seconds", "before", "after", "new_tokens", "encode", "prefill", "decode")
    return line | {key: round(record[key], 6) for key in kept}


def _result(
    net: Any,
    checkpoint: Checkpoint,
    place: RunFiles,
    setup: _Setup,
    answered: list[Record],
    errors: list[str],
    scores: Record,
    groups: int,
) -> Record:
    task, process = setup.task, setup.process
    total = {
        key: sum(record[key] for record in answered)
        for key in ("audio_seconds", "before", "after", "new_tokens", "encode", "prefill", "decode")
    }
    rates = [record["after"] / record["audio_seconds"] for record in answered]
    cuda = net.device.type == "cuda"
    adapter = setup.adapters.get(place.folder)
    return {
        "format": results.FORMAT,
        "identity": setup.named(place),
        "task": task.label,
        "task_name": task.name,
        "task_version": task.version,
        "citation": task.citation,
        # a folder of somebody's machine says nothing to others
        "data": Path(task.source()).name if Path(task.source()).is_absolute() else task.source(),
        "model": setup.named(place)["model"],
        "adapter": None if adapter is None else {"sha256": adapter.sha256, "trained_with": adapter.methods},
        "family": checkpoint.family.name,
        "weights_sha256": setup.identity["weights_sha256"],
        "method": place.spec,
        "prompt": task.prompt,
        "decoding": "greedy",
        "max_new_tokens": setup.max_new_tokens,
        "seed": setup.seed,
        "draws": setup.draws,
        "n": len(answered),
        "groups": groups,
        "failed": [failed.error for failed in setup.failed] + errors,
        "metric": setup.metrics[0].name,
        "scores": scores,
        "absent": setup.absent,
        "audio_seconds": round(total["audio_seconds"], 3),
        "audio_tokens": {"before": total["before"], "after": total["after"]},
        "rate_hz": {
            "before": round(total["before"] / total["audio_seconds"], 4),
            "after": round(total["after"] / total["audio_seconds"], 4),
            # of single samples, the 10th and the 90th percentile: how far a variable length goes up and down
            "spread": [round(float(one), 4) for one in np.percentile(rates, [10, 90])],
        },
        "new_tokens": total["new_tokens"],
        "seconds": {key: round(total[key], 4) for key in ("encode", "prefill", "decode")},
        "peak_memory": {
            "bytes": max((record["peak_memory"] or 0 for record in answered), default=0) or None,
            "of": "CUDA allocations" if cuda else "resident process",
        },
        "attention": getattr(net.config.get_text_config(), "_attn_implementation", None),
        "dtype": setup.identity["dtype"],
        "batch_size": setup.batch_size,
        "trim": setup.trim,
        "processes": process.count,
        "hardware": {
            "device": torch.cuda.get_device_name(net.device) if cuda else _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "machine": platform.platform(),
        },
        "versions": {
            "fewhertz": fewhertz.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _reset_peak(net: Any) -> None:
    if net.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(net.device)
        return
    with contextlib.suppress(OSError):  # Linux: the peak begins anew; elsewhere there is none to be had
        Path("/proc/self/clear_refs").write_text("5")


def _peak(net: Any) -> int | None:
    """Bytes at most since the last reset; `None` where the system does not say."""
    if net.device.type == "cuda":
        return torch.cuda.max_memory_allocated(net.device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
