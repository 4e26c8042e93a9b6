"""The tokens that are least like a few pivots."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import cosine, in_parts, mark, norm, steps
from fewhertz.plan import Plan


@dataclass(frozen=True, kw_only=True)
class DART(Method, name="dart"):
    """DART (arXiv 2502.11494) on audio tokens: a few pivots stay, and the tokens that duplicate them least.

    p = min(pivots, m) tokens of largest norm are pivots. Each pivot in turn, the largest first, takes the ⌈(m − p)/p⌉
    tokens of lowest cosine to it that are not chosen yet, until m are chosen.

    As published: `dart+time`, since the paper leaves to each token its original position.

    Our choices: the L1 norm of the tokens themselves, not of a layer's keys, and no pivots from the text, since a
    method sees neither; hence 8 audio pivots. The largest pivot chooses first: the published code takes its pivots in
    the order in which a set holds them, on which its result depends. Equals: the earlier token.

    Cost: O(p·n·d) time, one product; 4·p·n bytes. Needs nothing but the tokens.
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
        # one product for all pivots, in parts whose pivots' cosines and float32 tokens fit in memory
        similarity = in_parts(_to_pivots, n * (p + x.shape[2]), x, pivots)
        # one integer that orders by cosine, then by place: no two tokens share it
        keys = (similarity.long() << 32) + torch.arange(n, device=x.device)
        chosen, count = mark(pivots, n), p
        for each in keys.unbind(1):
            take = min(-((p - m) // p), m - count)
            least = each.masked_fill(chosen, 1 << 62).topk(take, largest=False, sorted=False).indices
            chosen.scatter_(1, least, True)
            count += take
        return Plan.select(chosen, m)


def _to_pivots(x: Tensor, pivots: Tensor) -> Tensor:
    """Cosines (b p n) of all tokens to the pivots, in steps; 1 to what is not a number, so that it comes last."""
    tokens = x.float()
    some = tokens.gather(1, pivots[..., None].expand(-1, -1, x.shape[2]))
    dots = torch.stack([one @ all_of_it.mT for one, all_of_it in zip(some, tokens, strict=True)])
    norms = norm(tokens)
    return steps(cosine(dots, norms.gather(1, pivots)[..., None], norms[:, None]).nan_to_num(nan=1.0))
