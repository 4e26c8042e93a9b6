"""What the runs of one evaluation share: task, samples, metrics, process, and what they are called."""

from __future__ import annotations

import datetime
import functools
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fewhertz.adapter import Adapter
from fewhertz.checkpoint import Checkpoint, dtype_of, weights_sha256
from fewhertz.errors import Unavailable, need
from fewhertz.evaluation.metrics import Metric
from fewhertz.evaluation.results import BASELINE, RunFiles
from fewhertz.files import Record, read_journal
from fewhertz.method import NONE, Chain, parse
from fewhertz.tasks.base import Failed, Sample, Task


@dataclass(frozen=True)
class Process:
    """The process that runs, among those that `accelerate launch` has started."""

    index: int = 0
    count: int = 1
    device: str | None = None
    wait: Callable[[], None] = lambda: None  # for all others


@functools.cache
def process_of(cpu: bool) -> Process:
    """The process that runs, and the others that `accelerate launch` has started, if any."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Process()
    # the first process measures while the others wait, which may take longer than a default timeout
    state = need("accelerate", "train").PartialState(cpu=cpu, timeout=datetime.timedelta(days=7))
    return Process(state.process_index, state.num_processes, str(state.device), state.wait_for_everyone)


@dataclass(frozen=True)
class Setup:
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
    process: Process
    say: Callable[[str], None]

    asked_for: list[Metric]  # metrics and absent ones
    absent: dict[str, str]  # why a metric is not measured
    adapters: dict[Path, Adapter] = field(default_factory=dict)  # by the folder of their runs
    trim: bool = False

    def named(self, place: RunFiles) -> Record:
        adapter = self.adapters.get(place.folder)
        own: Record = {}
        if adapter is not None:
            own = {"model": with_adapter(self.identity["model"], adapter), "adapter_sha256": adapter.sha256}
        return self.identity | own | {"method": place.spec, "revision": revision(place.spec)}

    def asked(self, place: RunFiles) -> Record:
        """What outputs depend on: not on what they are measured by."""
        return {key: value for key, value in self.named(place).items() if key != "metrics"}

    @property
    def batches(self) -> list[list[Sample]]:
        """The same for any number of processes, so that they share the identical work."""
        # a transcript is asked for in a model's own way, which does not mix with questions
        runs = itertools.groupby(self.samples, key=lambda sample: sample.prompt is None)
        return [list(some) for _, run in runs for some in _slices(list(run), self.batch_size)]


def revision(spec: str) -> int:
    """How often what a spec decides has changed, its first form counted."""
    method = parse(NONE if spec == BASELINE else spec)
    parts = (method.first, method.second) if isinstance(method, Chain) else (method,)
    return max(part.revision for part in parts)


def _slices(items: list[Sample], size: int) -> Iterator[list[Sample]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def with_adapter(model: str, adapter: Adapter) -> str:
    """What results call a model with an adapter on it."""
    return f"{model}+{adapter.name}"


def model_name(model: str | Path) -> str:
    """What results call a model: a hub id, or a directory's own name."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else str(model)


def prepare(
    model: str | Path,
    checkpoint: Checkpoint,
    task: Task,
    batch_size: int,
    max_new_tokens: int,
    dtype: str | None,
    seed: int,
    draws: int,
    process: Process,
    say: Callable[[str], None],
) -> Setup:
    """Read the data and bind it all together.

    Raises:
        ValueError: where no row of the data can be used.
        Unavailable: where the task's main metric cannot be measured here.
    """
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
    return Setup(task, metrics, samples, failed, identity, *how, asked_for, absent)


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


def records_of(place: RunFiles, setup: Setup) -> list[Record]:
    """What all processes have done of a run, in the order of the data."""
    found = [r for file in place.partials() for r in read_journal(file, setup.asked(place))]
    return sorted(found, key=lambda record: record["row"])
