"""Uniform sampling."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fewhertz.method import Clip, Method
from fewhertz.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Stride(Method, name="stride"):
    """Uniform sampling (UniSamp, arXiv 2511.20973): of each group ⌊i·m/n⌋ its first token stays, the rest is dropped.

    Cost: no arithmetic on the tokens. Needs nothing but their number.
    Fails where a sound is shorter than n/m tokens: it may fall between two samples, and nothing is left of it.
    """

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        b, n, _ = x.shape
        # token i begins a group where i·m/n passes a whole number
        first = torch.arange(n, device=x.device) * m % n < m
        return Plan.select(first.expand(b, n), m)
