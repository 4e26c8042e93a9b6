"""Tokens drawn at random."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import mark
from fewhertz.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Random(Method, name="random"):
    """m tokens drawn uniformly without replacement stay, the others are dropped (baseline in arXiv 2511.14293).

    The draw depends on the seed and on n alone, and a smaller budget keeps a part of what a larger one keeps. It is
    made on the CPU by a generator of its own: the same on every device and in every batch, and the global one is not
    touched.

    Cost: no arithmetic on the tokens. Needs nothing but their number.

    Args:
        seed: what the draw starts from, 0 to 2⁶³ − 1.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is an integer from 0 to 2^63 - 1, got {self.seed}")

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        b, n, _ = x.shape
        drawn = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))[:m].to(x.device)
        return Plan.select(mark(drawn[None], n).expand(b, n), m)
