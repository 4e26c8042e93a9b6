"""Local temporal bipartite merging."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewhertz.method import Clip, Method, seconds
from fewhertz.methods._shared import cosine, dot, mark, norm
from fewhertz.plan import Plan

# even tokens, odd tokens, and the centres of all, in input tokens → cosine and index of each even token's partner
Match = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def bipartite_merging(x: Float[Tensor, "b n d"], m: int, match: Match) -> Plan:
    """Merge even tokens into the odd ones that `match` names, best pairs first, in rounds, until `m` are left."""
    plan = Plan.identity(x.shape[0], x.shape[1], x.device)
    while plan.m > m:
        # the mean over all members: what a size-weighted mean in each round comes to
        tokens = plan.apply(x)
        similarity, partner = match(tokens[:, 0::2], tokens[:, 1::2], plan.centres())
        r = min(plan.m - m, similarity.shape[1])
        best = similarity.argsort(dim=1, descending=True, stable=True)[:, :r]
        merged = mark(2 * best, plan.m)
        label = (~merged).cumsum(1) - 1
        label[:, 0::2] = torch.where(merged[:, 0::2], label[:, 1::2].gather(1, partner), label[:, 0::2])
        plan = Plan.in_time_order(label.gather(1, plan.group), plan.m - r)
    return plan


def nearby(
    even: Float[Tensor, "b p d"], odd: Float[Tensor, "b q d"], centres: Float[Tensor, "b p+q"], reach: float
) -> tuple[Float[Tensor, "b p"], Int[Tensor, "b p"]]:
    """Cosine and index of the odd token most like each even one, among those within `reach` input tokens of it.

    Goes along the band of the similarity matrix, one offset at a time. An adjacent token is always within reach. Among
    equals the nearest in place wins, and of two equally near the later one.
    """
    p, q = even.shape[1], odd.shape[1]
    norm_even, norm_odd = norm(even), norm(odd)
    centre_even, centre_odd = centres[:, 0::2], centres[:, 1::2]
    best = torch.full_like(norm_even, -torch.inf)
    partner = torch.zeros_like(best, dtype=torch.long)
    # even token 2i and odd token 2(i + shift) + 1 are |2·shift + 1| places apart
    widest = int(min(reach, p + q) + 1) // 2
    for shift in sorted(range(-max(1, widest), max(1, widest)), key=lambda shift: (abs(2 * shift + 1), -shift)):
        low, high = max(0, -shift), min(p, q - shift)
        if low >= high:
            continue
        ours, theirs = slice(low, high), slice(low + shift, high + shift)
        similarity = cosine(dot(even[:, ours], odd[:, theirs]), norm_even[:, ours], norm_odd[:, theirs])
        if shift not in (-1, 0):
            far = (centre_even[:, ours] - centre_odd[:, theirs]).abs() > reach
            similarity = similarity.masked_fill(far, -torch.inf)
        better = similarity > best[:, ours]
        best[:, ours] = torch.where(better, similarity, best[:, ours])
        index = torch.arange(low + shift, high + shift, device=partner.device)
        partner[:, ours] = torch.where(better, index, partner[:, ours])
    return best, partner


@dataclass(frozen=True, kw_only=True)
class LTBM(Method, name="ltbm"):
    """Local temporal bipartite merging (LTBM, arXiv 2605.25179): similar tokens that are near in time become one.

    Tokens in even and in odd places are two sets. Each even token's partner is the odd token of highest cosine within
    the window; the r best pairs merge by size-weighted mean, several even tokens into one odd token if need be; rounds
    follow, on the merged tokens in time order, until exactly m are left.

    Our choices, where the paper is not specific: the window of 0.32 s; r as large as it can be, min(tokens too many,
    even tokens), hence the fewest rounds; distances between the mean positions of what tokens stand for, and also in
    places within the sequence; adjacent tokens may always merge, however far apart, so that m is always reached; equal
    cosines go to the nearest, later partner and to the earliest pairs. The paper merges in the encoder's space:
    `site=encoder`; the default is, as for all methods, the LLM's, which every model has.

    Cost: O(n·w·d) for a window of w tokens; never an n×n matrix. Needs nothing but the tokens.
    Fails by forgetting order within the window: a token may stand for moments on both sides of another one.

    Args:
        window: farthest partner, in seconds, up to 30; `global-merge` has none.
    """

    window: float = seconds(0.32)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.window <= 30:  # a request may name it, and time grows with it
            raise ValueError(f"window is in seconds, above 0 and at most 30, got {self.window}")

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        reach = self.window * clip.rate + 1e-6  # 0.32 s at 25 Hz are 8 tokens, whatever the floats make of it
        return bipartite_merging(x, m, lambda even, odd, centres: nearby(even, odd, centres, reach))
