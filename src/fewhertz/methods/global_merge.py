"""Bipartite merging without a window."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import most_similar
from fewhertz.methods.ltbm import bipartite_merging
from fewhertz.plan import Plan


def _anywhere(even: Tensor, odd: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    places = torch.arange(centres.shape[1], device=centres.device)[None]
    return most_similar(even, odd, places[:, 0::2], places[:, 1::2])


@dataclass(frozen=True, kw_only=True)
class GlobalMerge(Method, name="global-merge"):
    """Global Merge (arXiv 2605.25179): `ltbm` without its window. The paper's control for what locality brings.

    Each even token's partner is the odd token of highest cosine anywhere in the clip; all else is as in `ltbm`.

    Its bipartite matching is that of ToMe (arXiv 2210.09461), which adds the log of a token's size in attention:
    `+sizes`.

    Cost: O(n²·d) time, in chunks of bounded memory. Needs nothing but the tokens.
    Fails by forgetting order: what is said twice, seconds apart, may become one token at the mean time of both.
    """

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        return bipartite_merging(x, m, _anywhere)
