"""Nearly optimal contiguous segments, from the bottom up."""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import STEPS, mark, squared_distance, unit
from fewhertz.plan import Plan

QUIET = 1e-3  # of log-mel: less than that around its mean is no sound


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

    `@tolerance=λ` stops at a price instead of a count: rounds go on while some pair costs at most λ. What is cut where
    every cut costs the same is how rate–distortion theory splits a budget: tokens go to where the sound changes, and a
    pause or a steady sound takes few. λ = 0.3 was chosen on pocket; `fewhertz tune` finds one for a model.

    `count=mel` decides how many tokens stay on the log-mel of the clip (mean of each token's frames, less the clip's
    mean, of unit length) and which on the tokens themselves: so the count is known before the audio is encoded, as
    vLLM needs it. Prices of log-mel are others than those of tokens.

    `shared=true` makes the budget one of all clips of a prompt: they are merged as one clip would be, but nothing joins
    across the end of a clip, until keep or rate is what all of them have on average. So one price holds for all, that
    at which exactly the budget is spent, and each clip keeps at least a token.

    Cost: O(n·d) a round, on ever fewer segments, in O(log n) rounds. Needs nothing but the tokens.
    Fails to undo: what was joined early stays so, where `optimal` may cut it.
    """

    count: str = "tokens"
    shared: bool = False

    revision = 2
    priced = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count not in ("tokens", "mel"):
            raise ValueError(f"count is tokens or mel, got {self.count!r}")
        if self.count == "mel" and self.tolerance is None:
            raise ValueError("count=mel goes with a tolerance: any other budget is a count already")
        if self.count == "mel":
            object.__setattr__(self, "needs", frozenset({"mel"}))
        if self.shared:
            if self.tolerance is not None:
                raise ValueError("shared goes with keep or a rate: under a tolerance all clips pay one price already")
            object.__setattr__(self, "fixed_budget", False)
            object.__setattr__(self, "together", True)

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        return Plan(merge(x, m, m, torch.inf, sizes=clip.sizes)[0], m)

    def assign_within(self, x: Float[Tensor, "b n d"], least: int, most: int, clip: Clip) -> list[Plan]:
        assert self.tolerance is not None
        if self.count == "mel":
            assert clip.mel is not None
            counts = self.counts(clip.mel, clip.rate).to(x.device)
            group, _ = merge(x, counts, counts, torch.inf)
        else:
            group, counts = merge(x, least, most, self.tolerance, sizes=clip.sizes)
        return [Plan(row, m) for row, m in zip(group.split(1), counts.flatten().tolist(), strict=True)]

    def assign_together(self, x: Float[Tensor, "1 n d"], lengths: list[int], m: int) -> list[Plan]:
        ends = list(accumulate(lengths, initial=0))
        group, _ = merge(x, m, m, torch.inf, mark(torch.tensor([ends[:-1]], device=x.device), x.shape[1]))
        firsts = [*group[0, ends[:-1]].tolist(), m]
        return [
            Plan(group[:, start:end] - first, after - first)
            for (start, end), (first, after) in zip(pairwise(ends), pairwise(firsts), strict=True)
        ]

    def prices(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n-1"]:
        paid: list[Tensor] = []
        merge(x[None], 1, 1, torch.inf, paid=paid)
        return torch.cat([*paid, x.new_zeros(0, dtype=torch.float32)])

    def counts(self, mel: Float[Tensor, "b n bins"], rate: float) -> Int[Tensor, "b 1"]:
        """Tokens that each of `b` clips keeps, by its log-mel alone.

        Args:
            mel: mean log-mel of each token's frames (`fewhertz.mel.mel_tokens`).
            rate: tokens per second, in Hz.
        """
        assert self.tolerance is not None
        centred = mel.float() - mel.float().mean(1, keepdim=True)
        # what a constant sound has beside its mean is rounding noise, which would count as sound at unit length
        quiet = centred.square().mean((1, 2), keepdim=True) < QUIET**2
        return merge(centred.masked_fill(quiet, 0.0), *self.limits(mel.shape[1], rate), self.tolerance)[1]


def merge(
    x: Float[Tensor, "b n d"],
    least: int | Tensor,
    most: int | Tensor,
    tolerance: float,
    starts: Bool[Tensor, "b n"] | None = None,
    sizes: Int[Tensor, "b n"] | None = None,
    paid: list[Any] | None = None,
) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b 1"]]:
    """Join neighbours in rounds while a join costs at most `tolerance`, and further down to `most` segments.

    With `least` equal to `most`, of all clips or (b, 1) of each, that count is reached whatever it costs. Tokens at
    `starts` join nothing before them. `sizes`: how many a token stands for; `None`: one each. `paid` is given what each
    join costs.

    Returns:
        The segment of each token, and how many a clip has: `least` or more, `most` or fewer.
    """
    b, n, d = x.shape
    means = unit(x)
    sizes = means.new_ones(b, n) if sizes is None else sizes.to(means)
    group = torch.arange(n, device=x.device).expand(b, n)
    count = torch.full((b, 1), n, device=x.device)
    end = torch.zeros_like(count) + least
    first = None if starts is None else starts.long()  # of segments: whether they begin at a start
    given = least is most or (isinstance(least, int) and least == most)
    price = means.new_full((b, 1), torch.inf if given else tolerance * STEPS)
    while int((left := count - end).max()):
        k = means.shape[1]  # as wide as the clip that has the most segments left; sizes of 0 fill up
        change = squared_distance(means[:, 1:], means[:, :-1])
        one, other, place = sizes[:, :-1], sizes[:, 1:], torch.arange(k, device=x.device)
        cost = (one * other / (one + other).clamp_min(1) * change * STEPS).round()
        cost = cost.masked_fill(place[1:] >= count, torch.inf)
        if first is not None:
            cost = cost.masked_fill(first[:, 1:] > 0, torch.inf)
        if not given:  # a clip whose merges are all too dear goes on where it has too many segments, to those alone
            stuck = cost.amin(1, keepdim=True) > price
            over = stuck & (count > most)
            price, end = price.masked_fill(over, torch.inf), torch.where(over, most, torch.where(stuck, count, end))
            left = count - end
            if not int(left.max()):
                break
        bound = cost.sort(dim=1).values.gather(1, (left - 1).clamp_min(0)).minimum(price)
        minima = apart(cost) & (cost <= bound)
        joins = torch.minimum(minima.sum(1, keepdim=True), left)
        order = cost.masked_fill(~minima, torch.inf).argsort(dim=1, stable=True)
        joined = torch.zeros_like(minima).scatter_(1, order, place[:-1] < joins)
        if paid is not None:
            paid.append(cost[joined] / STEPS)
        count = count - joins
        width = int(count.max())
        moved = (place - pad(joined.cumsum(1), (1, 0))).clamp_max(width - 1)
        total = sizes.new_zeros(b, width).scatter_add_(1, moved, sizes)
        share = sizes / total.gather(1, moved).clamp_min(1)
        rows = (moved + torch.arange(b, device=x.device)[:, None] * width).flatten()
        parts = means.mul_(share[..., None]).view(b * k, d)
        means = means.new_zeros(b * width, d).index_add_(0, rows, parts).view(b, width, d)
        sizes, group = total, moved.gather(1, group)
        if first is not None:
            first = first.new_zeros(b, width).scatter_add_(1, moved, first)
    return group, count
