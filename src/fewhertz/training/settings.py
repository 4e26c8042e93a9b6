"""How to train: what there is to choose, with the defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

HOW = ("accumulate", "checkpointing", "cache", "cache_gb")  # settings that leave the result as it is


def _of(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train. What each field is for is its metadata's `help`, which `fewhertz train --help` prints.

    Raises:
        ValueError: where one is out of range.
    """

    keeps: tuple[Fraction, ...] = _of((), "Draw a keep for each batch: 1/2 1/3, or 1/2..1/6; none: the method's own.")
    objective: Literal["labels", "distill"] = _of(
        "labels", "labels: the right answer. distill: the teacher's distributions on its own outputs; reads no labels."
    )
    teacher: str | None = _of(None, "The method of the teacher (distill); default: none, so all tokens.")
    targets: str = _of("q,k", "Projections of the LLM that are adapted: some of q,k,v,o, or all (linear ones).")
    rank: int = _of(16, "Of LoRA.")
    alpha: int = _of(32, "Of LoRA: the adapter is scaled by alpha / rank.")
    dropout: float = _of(0.0, "Of LoRA's inputs.")
    lr: float = _of(2e-4, "Peak learning rate; then a cosine to 0.")
    warmup: float = _of(0.05, "Fraction of the steps in which it rises.")
    decay: float = _of(0.0, "AdamW's weight decay.")
    epochs: float = _of(3.0, "Passes over the data.")
    steps: int | None = _of(None, "Optimiser steps, instead of epochs.")
    batch_size: int = _of(16, "Samples of a step, over all processes.")
    accumulate: int = _of(1, "Parts of a process's batch that run one after the other, for want of memory.")
    every: int = _of(100, "Steps between two measurements of the dev set and two checkpoints.")
    max_new_tokens: int = _of(256, "Longest output of the teacher (distill).")
    bf16: bool = _of(False, "Autocast to bfloat16; pays where the hardware has it.")
    checkpointing: bool = _of(False, "Compute activations again for their gradients: less memory, more time.")
    cache: str | Path | None = field(
        default=None, metadata={"help": "Keep encoded audio here, for other trainings on the same model and audio."}
    )
    cache_gb: float = _of(2.0, "Memory of the host for encoded audio, in GB.")
    seed: int = _of(0, "Of data order, first weights and dropout.")

    def __post_init__(self) -> None:
        if self.objective not in ("labels", "distill"):
            raise ValueError(f"the objective is labels or distill, got {self.objective!r}")
        if self.teacher is not None and self.objective != "distill":
            raise ValueError("a teacher teaches where the objective is distill: labels are learnt without one")
        for name in ("rank", "alpha", "batch_size", "accumulate", "every", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1 or not 0 <= self.warmup <= 1:
            raise ValueError(f"dropout and warmup are fractions, got {self.dropout} and {self.warmup}")
        if not self.lr > 0 or not self.epochs > 0 or (self.steps is not None and self.steps < 1):
            raise ValueError("lr, epochs and steps are above 0")
        self.projections()

    def projections(self) -> tuple[str, ...] | None:
        """Ends of the names of what is adapted; `None`: all linear layers."""
        if self.targets == "all":
            return None
        names = [name.strip() for name in self.targets.split(",")]
        if not names or not set(names) <= set("qkvo"):
            raise ValueError(f"targets are some of q,k,v,o, or all; got {self.targets!r}")
        return tuple(f"{name}_proj" for name in dict.fromkeys(names))


def keep_range(text: str) -> list[Fraction]:
    """`"1/2..1/6"`: 1/2, 1/3, 1/4, 1/5 and 1/6; `"1/3"`: itself.

    Raises:
        ValueError: where it is neither.
    """
    from fewhertz.method import parse  # needs torch, and the command line's help does not

    ends = re.fullmatch(r"(?:1/)?(\d{1,4})\.\.1/(\d{1,4})", text)
    if ends is None:
        return [keep for keep in [parse(f"pool@keep={text}").keep] if keep is not None]
    first, last = int(ends[1]), int(ends[2])
    if not 1 <= first < last:
        raise ValueError(f"a range of keeps goes from more to less, such as 1/2..1/6, got {text}")
    return [Fraction(1, n) for n in range(first, last + 1)]
