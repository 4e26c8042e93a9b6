"""One call of a model, timed in its parts, at the borders of its own modules."""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.clock import now

LLM_SIDE = ("compression", "merge", "prefill")


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM


def peak_bytes(device: str) -> int | None:
    """Most bytes held at once since `reset_peak`, weights included; on a CPU the resident set of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return _from_proc("/proc/self/status", "VmHWM")


def free_bytes(device: str) -> int | None:
    if device == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    return _from_proc("/proc/meminfo", "MemAvailable")


def _from_proc(path: str, field: str) -> int | None:
    if sys.platform != "linux":
        return None
    lines = Path(path).read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


@dataclass
class Reading:
    """A prompt read: the model's output, seconds of the parts, peak bytes while the encoder and while the LLM ran."""

    out: Any
    seconds: dict[str, float]
    peaks: dict[str, int]


def read_prompt(model: Any, inputs: dict[str, Tensor], device: str) -> Reading:
    """Call the model, and tell the parts of the call apart where its own modules begin and end."""
    core = model.base_model
    at: dict[str, float] = {}
    seconds: dict[str, float] = defaultdict(float)
    peaks: dict[str, int] = {}

    def note_peak(part: str) -> None:
        peak = peak_bytes(device)
        if peak is not None:
            peaks[part] = max(peak, peaks.get(part, 0))

    def enter_encoder(*_: object) -> None:
        reset_peak(device)
        at["encoder"] = now(device)

    def leave_encoder(*_: object) -> None:
        seconds["encoder"] += now(device) - at["encoder"]
        note_peak("encoder")

    def enter_merge(*_: object) -> None:
        at["merge"] = now(device)

    def enter_llm(*_: object) -> None:
        reset_peak(device)
        at["prefill"] = now(device)

    hooks = [core.get_input_embeddings().register_forward_pre_hook(enter_merge)]
    hooks += [core.language_model.register_forward_pre_hook(enter_llm)]
    for part in (core.audio_tower, core.multi_modal_projector):
        hooks += [part.register_forward_pre_hook(enter_encoder), part.register_forward_hook(leave_encoder)]
    try:
        start = now(device)
        out = model(**inputs, use_cache=True)
        end = now(device)
    finally:
        for hook in hooks:
            hook.remove()
    note_peak("llm")
    seconds["compression"] = at["merge"] - start - seconds["encoder"]
    seconds["merge"] = at["prefill"] - at["merge"]
    seconds["prefill"] = end - at["prefill"]
    return Reading(out, seconds, peaks)
