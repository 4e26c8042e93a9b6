"""Model × method × task: ask every sample, measure, and write one result file a run."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from fewhertz.adapter import Adapter
from fewhertz.adapter import read as read_adapter
from fewhertz.attach import attached
from fewhertz.checkpoint import Checkpoint, open_checkpoint
from fewhertz.errors import Unavailable
from fewhertz.evaluation import results
from fewhertz.evaluation.asking import ask_batch
from fewhertz.evaluation.finishing import finish
from fewhertz.evaluation.progress import Progress
from fewhertz.evaluation.results import BASELINE, RunFiles
from fewhertz.evaluation.setup import Setup, model_name, prepare, process_of, records_of, revision, with_adapter
from fewhertz.families.base import Family
from fewhertz.files import Journal, differing, differs, held
from fewhertz.loading import load
from fewhertz.method import parse
from fewhertz.tasks.base import Sample, Task


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
    process = process_of(device == "cpu" or not torch.cuda.is_available())
    checkpoint = open_checkpoint(model)
    chosen = list(dict.fromkeys([BASELINE, *chosen]))
    for spec in chosen[1:]:
        checkpoint.fit(spec)
    checkpoint.family.check_trim(trim)
    task = dataclasses.replace(task, limit=limit)
    setup = prepare(model, checkpoint, task, batch_size, max_new_tokens, dtype, seed, draws, process, say)
    places = [results.run_files(Path(out), task.label, model_name(model), spec) for spec in chosen]
    kept_in = [metric.kept_in(places[0].folder, say) for metric in setup.metrics]
    setup = dataclasses.replace(setup, trim=trim, metrics=kept_in)
    if adapters:
        places = places[:1]
        for adapter in map(read_adapter, adapters):
            own = _specs_of(adapter, checkpoint, chosen[1:])
            mine = [
                results.run_files(Path(out), task.label, with_adapter(model_name(model), adapter), spec) for spec in own
            ]
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
                        errors += finish(net, checkpoint, place, places[0], setup)
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


def _there(place: RunFiles, setup: Setup) -> bool:
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
        place for place in places if revision(place.spec) > 1 and "revision" not in results.read(place.file)["identity"]
    ]
    if changed:
        more = f" and {len(changed) - 1} more" if changed[1:] else ""
        say(
            f"{changed[0].file}{more}: from before {changed[0].spec} changed what it decides; --out another folder "
            "measures it anew"
        )


def _run(net: Any, processor: Any, family: Family, todo: list[RunFiles], setup: Setup) -> None:
    """Ask what has not been asked yet, batch by batch, each under all methods that lack some of it."""
    process = setup.process
    done = {place: {record["row"] for record in records_of(place, setup)} for place in todo}

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
            for place, records in ask_batch(net, processor, family, batch, lacking(batch), setup):
                journals[place].add([record for record in records if record["row"] not in done[place]])
                progress.advance(setup.task.label, len(batch))
    process.wait()
