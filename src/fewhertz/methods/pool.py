"""Uniform average pooling."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fewhertz.method import Clip, Method
from fewhertz.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Pool(Method, name="pool"):
    """Uniform average pooling (UniAvg, arXiv 2511.20973): token i joins group ⌊i·m/n⌋, and a group is its mean.

    Cost: one pass over the tokens, O(n·d). Needs nothing but the tokens.
    """

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        b, n, _ = x.shape
        return Plan((torch.arange(n, device=x.device) * m // n).expand(b, n), m)
