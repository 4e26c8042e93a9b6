"""The tokens that are farthest from each other."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import cosines, in_parts, steps
from fewhertz.plan import Plan


def spread(x: Float[Tensor, "b n d"], m: int) -> Bool[Tensor, "b n"]:
    """Marks `m` tokens a clip, each as far from those before it as can be."""
    similarity = cosines(x)
    similarity.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    clip = torch.arange(len(x), device=x.device)
    chosen = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    nearest = steps(similarity.amax(2))  # before the first choice: the most similar other token
    closest = torch.full_like(nearest, -torch.inf)
    for _ in range(m):
        best = nearest.argmin(1)
        chosen[clip, best] = True
        # what is chosen is no choice any more: its own similarity stands at infinity
        nearest = closest = torch.maximum(closest, steps(similarity[clip, best])).masked_fill_(chosen, torch.inf)
    return chosen


@dataclass(frozen=True, kw_only=True)
class DivPrune(Method, name="divprune"):
    """DivPrune (arXiv 2503.02175): tokens stay so that the two most alike of them differ as much as a greedy can do.

    The max-min diversity problem with the distance 1 − cos, solved as in the paper: the first choice is the token whose
    nearest other token is the farthest, each further one the token whose nearest chosen token is the farthest. Equal
    distances: the earlier token. The choice of a smaller budget is a part of that of a larger one.

    Cost: O(n²·d + m·n) time, one step for each of the m choices, which is slow on a GPU; 4·n² bytes a clip, a few clips
    at a time. Needs nothing but the tokens.
    Fails on noise: what is like nothing else is chosen first, whether it matters or not.
    """

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        return Plan.select(in_parts(partial(spread, m=m), x.shape[1] ** 2, x), m)
