"""The contiguous segments that keep the most of the tokens."""

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn.functional import pad

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import STEPS, dot, in_parts, mark, unit
from fewhertz.plan import Plan

_NEVER = 2.0**60  # more than any sum of costs, and finite, so that the lengths can be read off


def segment_costs(x: Float[Tensor, "b n d"], longest: int) -> Float64[Tensor, "{longest} b n+1"]:
    """Cost of each segment of at most `longest` tokens, the longest first, by the place where it ends.

    In steps of 1e-6, so that sums of them are exact; `_NEVER` where a segment would begin before the clip does.
    """
    tokens = unit(x)
    squares = dot(tokens, tokens).double()
    b, n = squares.shape
    costs = squares.new_full((longest, b, n + 1), _NEVER)
    # ‖Σu‖² of a segment is that of the segment without its last token, plus that without its first one, less that
    # without both, which were counted twice, plus twice the product of the first and the last: one dot per length
    shorter, total, sums = squares.new_zeros(b, n + 1), squares, squares
    for length in range(1, longest + 1):
        costs[longest - length, :, length:] = ((sums - total / length) * STEPS).round()
        if length < longest:
            ends = dot(tokens[:, :-length], tokens[:, length:])
            shorter, total = total, total[:, :-1] + total[:, 1:] - shorter[:, 1:-1] + 2 * ends
            sums = sums[:, :-1] + squares[:, length:]
    return costs


def best_starts(x: Float[Tensor, "b n d"], m: int, longest: int) -> Bool[Tensor, "b n"]:
    """First tokens of the `m` segments of at most `longest` tokens whose costs have the smallest sum."""
    b, n, _ = x.shape
    spare = n - m + 1  # k segments end at place k at the earliest and at k + n − m at the latest: that many places
    # the low digits of a cost say which length it is of: a plain minimum finds both, many times faster than one with
    # indices. Of equals it takes the first, the longest segment
    costs = segment_costs(x, longest).mul_(longest).add_(torch.arange(longest, device=x.device)[:, None, None])
    least = costs.new_full((b, spare), _NEVER)
    least[:, 0] = 0
    back = torch.empty(m, b, spare, dtype=torch.int32, device=x.device)
    for k in range(m):
        before = pad(least, (longest - 1, 0), value=_NEVER).unfold(1, longest, 1).permute(2, 0, 1)
        least = (before + costs[:, :, k + 1 : k + 1 + spare]).amin(0)
        which = least.remainder(longest)
        least -= which
        back[k] = which
    spot = torch.full((b, 1), spare - 1, device=x.device)
    starts = torch.empty(b, m, dtype=torch.long, device=x.device)
    for k in range(m - 1, -1, -1):
        length = longest - back[k].gather(1, spot).long()
        starts[:, k : k + 1] = k + 1 + spot - length
        spot = spot + 1 - length
    return mark(starts, n)


def priced_starts(x: Float[Tensor, "b n d"], price: float, longest: int) -> Bool[Tensor, "b n"]:
    """First tokens of the segments of at most `longest` tokens that make the sum of costs and `price` a segment least.

    D(j) = min over l ≤ L of D(j − l) + cost of the l tokens before place j + price, one place after the other, all
    clips and lengths at once. Of equals the longest segment.
    """
    b, n, _ = x.shape
    costs = segment_costs(x, longest).permute(2, 1, 0).contiguous()  # by place: a step reads one run of memory
    least = costs.new_full((b, longest + n + 1), _NEVER)  # place j at longest + j
    least[:, longest] = 0
    back = torch.zeros(n + 1, b, dtype=torch.long, device=x.device)
    for j in range(1, n + 1):
        best, which = (least[:, j : j + longest] + costs[j]).min(1)
        least[:, longest + j] = best + round(price * STEPS)
        back[j] = longest - which  # length of the segment that ends here
    spot = torch.full((b,), n, device=x.device)
    starts = torch.zeros(b, n, dtype=torch.bool, device=x.device)
    rows = torch.arange(b, device=x.device)
    while int(spot.max()):  # a clip that has come to its begin stays there
        spot = spot - back[spot, rows]
        starts[rows, spot] = True
    return starts


@dataclass(frozen=True, kw_only=True)
class Optimal(Method, name="optimal"):
    """Optimal contiguous segments (our own): those that lose the least squared distance to their means.

    With u_t = x_t/‖x_t‖, a segment of s tokens costs Σ‖u_t − ū‖² = Σ‖u_t‖² − ‖Σu_t‖²/s. Of all ways to cut a clip
    into m segments of at most L = min(n − m + 1, ⌈longest·n/m⌉) tokens, this one has the smallest sum of costs.
    With longest ≥ m the limit forbids nothing, and it is the smallest of all; the default forbids what is longer
    than 8 mean segments, and makes the time n·m·L = longest·n². On pocket's bundled clips, of some seconds, that
    loses nothing; on long recordings with pauses it does, up to 11.5 % of the smallest sum at keep=1/2. Costs count
    in steps of 1e-6. Equals: the last segment is as long as it can be, then the one before it, and so on.

    Found by dynamic programming: D_k(j) = min over l ≤ L of D_{k−1}(j − l) + cost of the l tokens before place j, one
    segment k after the other, all clips, places and lengths at once.

    `@tolerance=λ` asks for no count: the segments whose costs and λ for each segment have the smallest sum, of at most
    16·longest tokens each; n steps of O(L) for all clips at once.

    Cost: O(n·m·L) time for the segments and O(n·L·d) for their costs; 4·m·(n − m + 1) + 8·n·L bytes a clip, a few
    clips at a time. Needs nothing but the tokens.

    Args:
        longest: longest segment, in multiples of the mean length n/m, 1 to 100: time and memory grow with it.
    """

    longest: float = 8.0

    priced = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.longest <= 100:  # a request may name it
            raise ValueError(f"longest is in multiples of the mean segment, 1 to 100, got {self.longest}")

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        n = x.shape[1]
        spare = n - m + 1
        longest = min(spare, math.ceil(min(self.longest, m) * n / m))
        choose = partial(best_starts, m=m, longest=longest)
        return Plan.from_boundaries(in_parts(choose, max(m * spare, longest * n), x), m)

    def assign_within(self, x: Float[Tensor, "b n d"], least: int, most: int, clip: Clip) -> list[Plan]:
        assert self.tolerance is not None
        n = x.shape[1]
        longest = min(n, math.ceil(16 * self.longest))
        starts = in_parts(partial(priced_starts, price=self.tolerance, longest=longest), longest * n, x)
        plans = []
        for row, alone in zip(starts.split(1), x.split(1), strict=True):
            found = int(row.sum())
            m = min(most, max(least, found))
            if m == found:
                plans.append(Plan.from_boundaries(row, m))
            else:
                plans.append(Plan.identity(1, n, x.device) if m == n else self.assign(alone, m, clip))
        return plans
