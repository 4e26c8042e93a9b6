"""What a model says to a batch of samples, under each of several methods."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewhertz.adapter import switch
from fewhertz.attach import compress
from fewhertz.errors import one_line, or_singly
from fewhertz.evaluation.results import BASELINE, RunFiles
from fewhertz.evaluation.setup import Setup
from fewhertz.families.base import Family
from fewhertz.files import Record
from fewhertz.loading import load_learned
from fewhertz.method import IDENTITY, parse
from fewhertz.once import encode_once
from fewhertz.run import answer, read_whole, request, sample_rate
from fewhertz.tasks.base import Sample


def ask_batch(
    net: Any, processor: Any, family: Family, batch: list[Sample], chosen: list[RunFiles], setup: Setup
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

    def __init__(self, net: Any, processor: Any, with_audio: list[tuple[Sample, np.ndarray]], setup: Setup) -> None:
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


def _error(sample: Sample, error: str, setup: Setup) -> Record:
    text = f"{setup.task.source()}, row {sample.row + 1}: {error}"
    return {"row": sample.row, "id": sample.id, "error": text}


def _wave(sample: Sample, rate: int, family: Family) -> np.ndarray:
    return read_whole(sample.source(), rate, family, chunks=False)


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
