"""Nearly optimal contiguous segments, from the bottom up."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import STEPS, squared_distance, unit
from fewhertz.plan import Plan


def apart(cost: Float[Tensor, "b p"]) -> Bool[Tensor, "b p"]:
    """Local minima no two of which are neighbours: of a plateau every second place, from the first one on."""
    around = pad(cost, (1, 1), value=torch.inf)
    lowest = (cost <= around[:, :-2]) & (cost <= around[:, 2:]) & (cost < torch.inf)
    place = torch.arange(cost.shape[1], device=cost.device).expand_as(lowest)
    before = place.masked_fill(lowest, -1).cummax(dim=1).values  # last place that is no minimum
    return lowest & ((place - before) % 2 == 1)


@dataclass(frozen=True, kw_only=True)
class Ward(Method, name="ward"):
    """Ward's merging of neighbours, many at a time (our own): the objective of `optimal`, without its search.

    Each token of unit length begins as a segment. Joining neighbours of s and t tokens with means ū and v̄ costs
    s·t/(s + t)·‖ū − v̄‖², by which the objective of `optimal` grows. In each round those pairs join whose cost is a
    local minimum and no more than the cost of the j-th cheapest pair, where j joins are still to be made, until exactly
    m segments are left. Local minima share no segment, so all of a round's pairs join at once; the bound keeps an
    expensive pair from joining while cheap ones are left beside each other, as in silence. Costs count in steps of
    1e-6; of a plateau every second pair is a minimum, and of equals the earlier pair joins first.

    Cost: O(n·d) a round, on ever fewer segments, in O(log n) rounds. Needs nothing but the tokens.
    Fails to undo: what was joined early stays so, where `optimal` may cut it.
    """

    revision = 2

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        b, n, d = x.shape
        means = unit(x)
        sizes = means.new_ones(b, n)
        group = torch.arange(n, device=x.device).expand(b, n)
        count = torch.full((b, 1), n, device=x.device)
        while (k := means.shape[1]) > m:  # as wide as the clip that has the most segments left; sizes of 0 fill up
            change = squared_distance(means[:, 1:], means[:, :-1])
            one, other, place = sizes[:, :-1], sizes[:, 1:], torch.arange(k, device=x.device)
            cost = (one * other / (one + other).clamp_min(1) * change * STEPS).round()
            cost = cost.masked_fill(place[1:] >= count, torch.inf)
            left = count - m
            bound = cost.sort(dim=1).values.gather(1, (left - 1).clamp_min(0))
            minima = apart(cost) & (cost <= bound)
            joins = torch.minimum(minima.sum(1, keepdim=True), left)
            order = cost.masked_fill(~minima, torch.inf).argsort(dim=1, stable=True)
            joined = torch.zeros_like(minima).scatter_(1, order, place[:-1] < joins)
            count = count - joins
            width = int(count.max())
            moved = (place - pad(joined.cumsum(1), (1, 0))).clamp_max(width - 1)
            total = sizes.new_zeros(b, width).scatter_add_(1, moved, sizes)
            share = sizes / total.gather(1, moved).clamp_min(1)
            rows = (moved + torch.arange(b, device=x.device)[:, None] * width).flatten()
            parts = means.mul_(share[..., None]).view(b * k, d)
            means = means.new_zeros(b * width, d).index_add_(0, rows, parts).view(b, width, d)
            sizes, group = total, moved.gather(1, group)
        return Plan(group, m)
