"""What else the idea suggests, as methods of one's own: tried on dev by `recipes.research.run`, none in the library.

Importing this module registers them. Ideas that need no code are specs: `ward(site=encoder)`, `optimal(longest=1.5)`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fewhertz.corrections import PromptLayout
from fewhertz.method import Clip, Method
from fewhertz.methods._shared import attention_shares, cosine, mark, norm, unit
from fewhertz.methods.optimal import Optimal
from fewhertz.methods.ward import Ward
from fewhertz.plan import Plan
from fewhertz.steps import Steps, changed


@dataclass(frozen=True, kw_only=True)
class Otherwise(Ward, name="ward-told"):
    """`ward` whose tokens are corrected in another way, inside `otherwise`.

    Args:
        alpha: what log s is multiplied by.
        place: where in what it stands for a token is.
    """

    alpha: float = 1.0
    place: Literal["mean", "first", "last"] = "mean"


@dataclass(frozen=True, eq=False)
class _Corrected(Plan):
    """What the LLM is given beside the tokens of a plan that are formed already."""

    alpha: float = 1.0
    place: str = "mean"

    def sizes(self) -> Tensor:  # its log is taken
        return Plan(self.group, self.m).sizes() ** self.alpha

    def centres(self) -> Tensor:
        if self.place == "mean":
            return Plan(self.group, self.m).centres()
        return self._positions({"first": "amin", "last": "amax"}[self.place]).float()


def otherwise() -> AbstractContextManager[None]:
    """While it lasts, the corrections of `ward-told` are those that its parameters say."""

    def change(steps: Steps) -> Steps:
        def lay_out(method: Method, positions: Tensor, clips: Any, plans: Any, *layout: Any) -> PromptLayout:
            if isinstance(method, Otherwise):
                plans = [
                    _Corrected(plan.group, plan.m, plan.weight, plan.per, method.alpha, method.place) for plan in plans
                ]
            return steps.lay_out(method, positions, clips, plans, *layout)

        return replace(steps, lay_out=lay_out)

    return changed(change)


@dataclass(frozen=True, kw_only=True)
class ByAttention(Ward, name="ward-by-attention"):
    """Segments of `ward`; inside one, means weighted by the attention that the encoder paid its tokens."""

    needs = frozenset({"scores"})

    def assign(self, x: Tensor, m: int, clip: Clip) -> Plan:
        assert clip.scores is not None
        plan = super().assign(x, m, clip)
        return Plan(plan.group, m, attention_shares(clip.scores, plan.group, m))


@dataclass(frozen=True, kw_only=True)
class Silence(Ward, name="ward-silence"):
    """A share of the budget's segments more, of which those most like the longest one share its token.

    The longest segment stands for silence, or whatever else goes on and on. The token is at the mean time of all that
    it stands for.
    """

    share: float = 0.1

    def assign(self, x: Tensor, m: int, clip: Clip) -> Plan:
        more = min(x.shape[1] - m, int(self.share * m + 0.5))
        plan = super().assign(x, m + more, clip)
        means = plan.apply(unit(x))
        longest = plan.sizes().argmax(1, keepdim=True)
        pattern = means.gather(1, longest[..., None].expand(-1, -1, means.shape[2]))
        alike = cosine((means * pattern).sum(-1), norm(means), norm(pattern)).scatter_(1, longest, 2.0)
        one = mark(alike.argsort(dim=1, descending=True, stable=True)[:, : more + 1], m + more)
        # the others in their order, and then the shared one
        group = ((~one).cumsum(1) - 1).masked_fill(one, m - 1)
        return Plan.in_time_order(group.gather(1, plan.group), m)


@dataclass(frozen=True, kw_only=True)
class Cut(Optimal, name="optimal-cut"):
    """`optimal`, with tokens that weigh in the objective what attention they received, or with a shortest segment.

    Args:
        weighted: a segment costs Σw·‖u − ū‖², ū = Σw·u/Σw; its token is the plain mean all the same.
        shortest: in multiples of the mean segment, rounded down to whole tokens.
    """

    weighted: bool = False
    shortest: float = 0.0

    needs = frozenset({"scores"})

    def assign(self, x: Tensor, m: int, clip: Clip) -> Plan:
        assert clip.scores is not None
        b, n, d = x.shape
        tokens, weights = unit(x).double(), torch.ones(b, n, dtype=torch.float64)
        if self.weighted:
            weights = attention_shares(clip.scores, torch.zeros(b, n, dtype=torch.long), 1).double() * n
        parts = torch.cat(
            [weights[..., None], weights[..., None] * (tokens**2).sum(-1, True), weights[..., None] * tokens], -1
        )
        sums = torch.cat([parts.new_zeros(b, 1, d + 2), parts.cumsum(1)], 1)
        weight, square = (part[:, None, :] - part[:, :, None] for part in (sums[..., 0], sums[..., 1]))
        vector = sums[..., 2:]
        squares = (vector**2).sum(-1)
        length = squares[:, None, :] + squares[:, :, None] - 2 * vector @ vector.mT
        costs = square - length / weight.clamp_min(1e-12)
        place = torch.arange(n + 1)
        short = place[None] - place[:, None] < max(1, int(self.shortest * n / m))
        costs = (costs * (1 << 20)).round().masked_fill(short, torch.inf)
        least = costs.new_full((b, n + 1), torch.inf)
        least[:, 0] = 0
        back = []
        for _ in range(m):
            least, which = (least[:, :, None] + costs).min(1)
            back.append(which)
        spot, starts = torch.full((b, 1), n), []
        for which in reversed(back):
            spot = which.gather(1, spot)
            starts.append(spot)
        return Plan.from_boundaries(mark(torch.cat(starts, 1), n), m)
