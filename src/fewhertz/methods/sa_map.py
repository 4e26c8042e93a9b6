"""Merging and pruning by similarity and attention."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import attention_shares, cosines, dot, in_parts, unit
from fewhertz.methods.cdpruner import determinantal
from fewhertz.methods.segment import novelty
from fewhertz.plan import Plan


def greedy_starts(x: Float[Tensor, "b n d"], threshold: float) -> Bool[Tensor, "b n"]:
    """First tokens of the groups that grow from left to right while the next token's mean cosine to them suffices.

    A group's end depends on its beginning alone, so the ends are found for every beginning at once, one length after
    the other; the beginnings that are reached from the first token follow by doubling of jumps.
    """
    b, n, _ = x.shape
    tokens = unit(x)
    grows = torch.ones(b, n, dtype=torch.bool, device=x.device)
    end = torch.arange(1, n + 1, device=x.device).repeat(b, 1)
    sums = tokens.new_zeros(b, n)  # of cosines of each group of this length to the token after it
    for length in range(1, n):
        sums = sums[:, 1:] + dot(tokens[:, :-length], tokens[:, length:])
        grows = grows[:, :-1] & (sums >= threshold * length)
        if not grows.any():
            break
        end[:, : n - length] += grows
    jump = pad(end, (0, 1), value=n)
    reached = torch.zeros_like(jump)
    reached[:, 0] = 1
    for _ in range(n.bit_length()):
        reached = reached.scatter_reduce(1, jump, reached, "amax")
        jump = jump.gather(1, jump)
    return reached[:, :-1].bool()


def merge_and_prune(
    x: Float[Tensor, "b n d"], scores: Float[Tensor, "b n"], m: int, threshold: float
) -> Int[Tensor, "b n"]:
    """Output token that each token joins, −1 where its group is pruned."""
    starts = greedy_starts(x, threshold)
    missing = m - starts.sum(1, keepdim=True)
    order = novelty(x).masked_fill(starts[:, 1:], -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(x.shape[1] - 1, device=x.device)
    starts[:, 1:] |= torch.zeros_like(starts[:, 1:]).scatter_(1, order, rank < missing)

    group = starts.long().cumsum(1) - 1
    groups = int(group.max()) + 1  # of the clip that has the most: the others' last ones are empty, hence no plan
    clips, _, d = x.shape
    rows = (group + torch.arange(clips, device=x.device)[:, None] * groups).flatten()
    parts = (x.float() * attention_shares(scores, group, groups)[..., None]).flatten(0, 1)
    tokens = parts.new_zeros(clips * groups, d).index_add_(0, rows, parts).view(clips, groups, d)
    sizes = torch.zeros_like(tokens[..., 0]).scatter_add(1, group, torch.ones_like(parts[:, 0]).view_as(group))
    received = torch.zeros_like(sizes).scatter_add(1, group, scores.float()) / sizes.clamp_min(1)
    chosen = determinantal(cosines(tokens), received.masked_fill(sizes == 0, -1.0), m)
    return (chosen.long().cumsum(1) - 1).masked_fill(~chosen, -1).gather(1, group)


@dataclass(frozen=True, kw_only=True)
class SAMAP(Method, name="sa-map"):
    """SA-MAP (preprints.org 202606.0741): similar neighbours merge by attention, then a determinantal choice prunes.

    From left to right a token joins the group before it where its mean cosine to the group's tokens is at least
    `threshold`, and begins a new one elsewhere. A group becomes its mean, weighted by the attention that each token
    received. Of the groups, m stay: the greedy determinantal choice of `cdpruner` for the kernel
    L_ij = a_i·cos_ij·a_j, a being the mean attention that a group's tokens received. The others go.

    From the paper's abstract and published code, and not as published in three ways, so its figures here say little of
    theirs. Both stages weigh by the attention that a token receives in the encoder's last layer, mean over heads
    (fewhertz.scores); the published code weighs by the maximum over heads in the first and by the attention of a token
    to itself, the diagonal, in the second, which score capture does not hand over, and the choices differ much. With
    fewer than m groups the published code repeats the first group; our own rule cuts groups where neighbours differ
    most. Equals: the earlier token.

    Cost: O(n·l·d) time for groups of at most l tokens (l = n in silence), O(g²·d + g·m²) for the choice among g groups,
    4·n·(n + m) bytes a clip at most, a few clips at a time. Needs scores.

    Args:
        threshold: least mean cosine of a token to its group, −1 to 1.
    """

    threshold: float = 0.85

    needs = frozenset({"scores"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold is a cosine, -1 to 1, got {self.threshold}")

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        assert clip.scores is not None
        choose = partial(merge_and_prune, m=m, threshold=self.threshold)
        group = in_parts(choose, x.shape[1] * (x.shape[1] + m), x, clip.scores)
        return Plan(group, m, attention_shares(clip.scores, group, m))
