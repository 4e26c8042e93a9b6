"""The tokens that are least like a few pivots."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import STEPS, cosine, mark, norm
from fewhertz.plan import Plan


@dataclass(frozen=True, kw_only=True)
class DART(Method, name="dart"):
    """DART (arXiv 2502.11494) on audio tokens: a few pivots stay, and the tokens that duplicate them least.

    p = min(pivots, m) tokens of largest norm are pivots. Each pivot in turn, the largest first, takes the ⌈(m − p)/p⌉
    tokens of lowest cosine to it that are not chosen yet, until m are chosen.

    Our choices: the L1 norm of the tokens themselves, not of a layer's keys, and no pivots from the text, since a
    method sees neither; hence 8 audio pivots; and the order of pivots, by norm, where its code leaves it open. Its
    tokens keep their original positions: as published is `dart+time`. Equals (within 1e-6): the earlier token.

    Cost: O(p·n·d) time, one product for 64 pivots. Needs nothing but the tokens.
    Fails where the pivots are alike: they are not compared with each other, nor are the tokens that they choose.

    Args:
        pivots: number of pivots, at least 1.
    """

    pivots: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pivots < 1:
            raise ValueError(f"pivots is the number of pivot tokens, at least 1, got {self.pivots}")

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        n, p = x.shape[1], min(self.pivots, m)
        size = torch.linalg.vector_norm(x, ord=1, dim=2, dtype=torch.promote_types(x.dtype, torch.float32))
        pivots = size.argsort(dim=1, descending=True, stable=True)[:, :p]
        chosen, norms, count = mark(pivots, n), norm(x), p
        tokens = x.float()
        for some in pivots.split(64, dim=1):  # at most so many cosines of each token at once
            ends = tokens.gather(1, some[..., None].expand(-1, -1, x.shape[2]))
            similarity = cosine(ends @ tokens.mT, norms.gather(1, some)[..., None], norms[:, None])
            # in steps: rounding noise of the product breaks no tie
            similarity = (similarity.nan_to_num(nan=1.0) * STEPS).round()
            for row in similarity.unbind(1):
                take = min(-((p - m) // p), m - count)
                if take <= 0:
                    break
                order = row.masked_fill(chosen, torch.inf).argsort(dim=1, stable=True)
                chosen = chosen | mark(order[:, :take], n)
                count += take
        return Plan.select(chosen, m)
