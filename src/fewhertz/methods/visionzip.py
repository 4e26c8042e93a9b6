"""Dominant tokens kept, the rest merged."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import mark, most_similar
from fewhertz.plan import Plan


@dataclass(frozen=True, kw_only=True)
class VisionZip(Method, name="visionzip"):
    """VisionZip (arXiv 2412.04467) on audio tokens: dominant tokens stay, the rest becomes a few contextual tokens.

    c = ⌊share·m + ½⌋ of the m output tokens are contextual. The m − c tokens of highest score (the attention that a
    token receives in the encoder's last layer, fewhertz.scores) stay as they are. Of the others, the first of each of c
    equal groups is a target; each joins the target of highest cosine, and a contextual token is the mean of its
    members. With c = 0 the others go.

    Our choices: targets that begin c equal groups, where the published code takes every ⌊rest/c⌋-th of the others,
    c of them, and so leaves the end without a target; similarity of the tokens themselves, not of the encoder's
    keys; plain means; output in time order, a contextual token at the mean time of its members; equal cosines go to
    the nearest target, the later of two.

    Cost: O(n·c·d) time, in chunks of bounded memory. Needs scores.

    Args:
        share: fraction of the budget that goes to contextual tokens, 0 to 1.
    """

    share: float = 0.18

    needs = frozenset({"scores"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is the fraction of the budget for contextual tokens, 0 to 1, got {self.share}")

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        assert clip.scores is not None
        n = x.shape[1]
        contextual = int(self.share * m + 0.5)
        dominant = mark(clip.scores.argsort(dim=1, descending=True, stable=True)[:, : m - contextual], n)
        kept = Plan.select(dominant, m - contextual).group
        if contextual == 0:
            return Plan(kept, m)
        rest = n - (m - contextual)
        # the others' ranks in time; one begins a group where rank·contextual/rest passes a whole number
        first = ~dominant & (((~dominant).cumsum(1) - 1) * contextual % rest < contextual)
        targets = (~first).long().argsort(dim=1, stable=True)[:, :contextual]
        places = torch.arange(n, device=x.device)[None]
        _, joined = most_similar(x, x.gather(1, targets[..., None].expand(-1, -1, x.shape[2])), places, targets)
        joined.scatter_(1, targets, torch.arange(contextual, device=x.device).expand_as(targets))
        return Plan.in_time_order(torch.where(dominant, kept, joined + m - contextual), m)
