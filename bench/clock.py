"""One clock for all benches: the wall's on a GPU, on a CPU the wall's or the processor's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

wall = time.perf_counter
processor = time.process_time  # of all threads; what else runs on the machine counts for little


def now(device: str, on_cpu: Callable[[], float] = wall) -> float:
    """Seconds since some moment, when the device has done all that it was asked; on a GPU the wall clock's."""
    if device == "cuda":
        torch.cuda.synchronize()
        return wall()
    return on_cpu()


def elapsed(run: Callable[[], object], device: str, on_cpu: Callable[[], float] = wall) -> float:
    """Seconds that one call takes."""
    start = now(device, on_cpu)
    run()
    return now(device, on_cpu) - start


def side_by_side(runs: Mapping[str, Callable[[], object]], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of each, in rounds after a warm-up, so that a busy moment of the machine falls on all alike."""
    for run in runs.values():
        run()
    return in_turns(runs, repeats, device)


def in_turns(
    runs: Mapping[str, Callable[[], object]],
    repeats: int,
    device: str,
    on_cpu: Callable[[], float] = wall,
) -> dict[str, list[float]]:
    """Seconds of each, all of them once a round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(elapsed(run, device, on_cpu))
    return times


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of each round's ratio."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
