"""How to train: what there is to choose, with the defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from fewhertz.method import parse

HOW = ("accumulate", "checkpointing", "cache", "cache_gb")  # settings that leave the result as it is


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train.

    Args:
        objective: `"labels"`: cross-entropy on the right answer. `"distill"`: no label is read; on its own greedy
            outputs, the teacher's next-token distributions are matched (Kullback–Leibler).
        teacher: spec of the teacher, for `"distill"`: with `+time+sizes`, an adapter learns to do without
            corrections; `None`: the uncompressed model teaches.
        keeps: one is drawn for each batch, so that one adapter serves them all; none: the method's own.
        targets: projections of the LLM that are adapted: some of `q,k,v,o`, or `all` of its linear layers.
        rank: r of LoRA.
        alpha: of LoRA: the adapter is scaled by alpha / rank.
        dropout: of LoRA's inputs.
        lr: peak learning rate; it rises linearly and falls to 0 as a cosine.
        warmup: fraction of the steps in which it rises.
        decay: AdamW's weight decay.
        steps: optimiser steps; `None`: by `epochs`.
        epochs: passes over the data.
        batch_size: samples of a step, over all processes.
        accumulate: parts of a process's batch that run one after the other, for want of memory.
        every: steps between two measurements of the dev set and two checkpoints.
        bf16: autocast to bfloat16; pays where the hardware has it.
        checkpointing: compute the LLM's activations again for its gradients, for want of memory.
        cache: directory in which encoded audio is kept, for other trainings on the same model and audio.
        cache_gb: memory of the host for encoded audio, in GB.
        max_new_tokens: longest output of the teacher, for `"distill"`.
        seed: of data order, first weights and dropout.

    Raises:
        ValueError: where one is out of range.
    """

    objective: Literal["labels", "distill"] = "labels"
    teacher: str | None = None
    keeps: tuple[Fraction, ...] = ()
    targets: str = "q,k"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    lr: float = 2e-4
    warmup: float = 0.05
    decay: float = 0.0
    steps: int | None = None
    epochs: float = 3.0
    batch_size: int = 16
    accumulate: int = 1
    every: int = 100
    bf16: bool = False
    checkpointing: bool = False
    cache: str | Path | None = None
    cache_gb: float = 2.0
    max_new_tokens: int = 256
    seed: int = 0

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
    ends = re.fullmatch(r"(?:1/)?(\d{1,4})\.\.1/(\d{1,4})", text)
    if ends is None:
        return [keep for keep in [parse(f"pool@keep={text}").keep] if keep is not None]
    first, last = int(ends[1]), int(ends[2])
    if not 1 <= first < last:
        raise ValueError(f"a range of keeps goes from more to less, such as 1/2..1/6, got {text}")
    return [Fraction(1, n) for n in range(first, last + 1)]
