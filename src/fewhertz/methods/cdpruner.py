"""The determinantal choice of tokens."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import STEPS, cosines, in_parts, mark
from fewhertz.plan import Plan


def determinantal(similarity: Float[Tensor, "b n n"], quality: Float[Tensor, "b n"], m: int) -> Bool[Tensor, "b n"]:
    """Marks `m` tokens a clip: greedily, the set S of largest det of diag(q)·similarity·diag(q) on S.

    Algorithm 1 of arXiv 1709.05135: a Cholesky factor grows by one row a choice. A factor q² of the determinant can be
    taken out, so the factor is that of the similarity alone. Once the chosen tokens span all others (within 1e-6),
    every determinant is 0, and the tokens of highest quality fill up. Equals: the earlier token.

    Args:
        similarity: cosines, symmetric and positive semidefinite; 0 in the rows of places that are no token.
        quality: q ≥ 0 of each token; below 0 where there is none.
        m: how many, at most as many as there are tokens.
    """
    b, n = quality.shape
    first = torch.arange(b, device=quality.device) * n
    rows = similarity.reshape(b * n, n)
    gains = quality.to(similarity).square()
    # squared distance to the span of the chosen tokens, in steps: a tie is one whatever the rounding noise
    left = similarity.diagonal(dim1=1, dim2=2) * STEPS
    factor = similarity.new_empty(b, m, n)
    found, gained = [], []
    for step in range(m):
        gain, best = left.round().mul_(gains).max(1, keepdim=True)
        if step % 16 == 0 and not (gain > 0).any():  # now and then: to ask is to wait for the device
            break
        found.append(best)
        gained.append(gain)
        before = factor[:, :step]
        row, share = rows.index_select(0, first + best[:, 0]), before.gather(2, best[:, None].expand(b, step, 1)).mT
        row = torch.baddbmm(row[:, None], share, before, beta=STEPS, alpha=-1)[:, 0]
        row *= left.gather(1, best).rsqrt()
        factor[:, step] = row
        left.addcmul_(row, row, value=-1).scatter_(1, best, 0.0)
    chosen = torch.zeros_like(quality, dtype=torch.bool)
    if found:  # what a clip chose once it gained nothing is no choice
        useful = (torch.cat(gained, 1) > 0).cumprod(1).bool()
        chosen = mark(torch.where(useful, torch.cat(found, 1), n), n + 1)[:, :n]
    order = quality.masked_fill(chosen, torch.inf).argsort(dim=1, descending=True, stable=True)
    return mark(order[:, :m], n)


@dataclass(frozen=True, kw_only=True)
class CDPruner(Method, name="cdpruner"):
    """CDPruner (arXiv 2506.10967): tokens that are relevant and unlike each other, by a determinantal point process.

    The m tokens S that stay make det(L_S) large for the kernel L_ij = r_i·cos(x_i, x_j)·r_j: the greedy search for the
    most probable set (arXiv 1709.05135). Equals: the earlier token.

    Our choice of the relevance r, where the paper has the similarity to the instruction, which a method does not see:
    the attention that a token receives in the encoder's last layer (fewhertz.scores), brought to [0, 1] over the clip
    as the paper does, plus 1e-6. `conditional=false` sets r = 1 and needs no scores: diversity alone. Once m is more
    than the tokens span, those of highest relevance fill up.

    Cost: O(n²·d + n·m²) time, one step for each of the m choices, which is slow on a GPU; 4·n·(n + m) bytes a clip, a
    few clips at a time. Needs scores.
    Fails where m is more than d: what lies in the span of the chosen tokens is distinguished by relevance alone.

    Args:
        conditional: whether attention received weighs the choice.
    """

    conditional: bool = True

    needs = frozenset({"scores"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.conditional:
            object.__setattr__(self, "needs", frozenset())

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        relevance = torch.ones(x.shape[:2], device=x.device)
        if self.conditional:
            assert clip.scores is not None
            low, high = clip.scores.aminmax(dim=1, keepdim=True)
            relevance = torch.where(high > low, (clip.scores - low) / (high - low), 1.0) + 1e-6
        choose = partial(_choose, m=m)
        return Plan.select(in_parts(choose, x.shape[1] * (x.shape[1] + m), x, relevance), m)


def _choose(x: Tensor, relevance: Tensor, m: int) -> Tensor:
    return determinantal(cosines(x), relevance, m)
