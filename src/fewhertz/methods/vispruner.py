"""Half by attention, half by diversity."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import cosines, in_parts, mark, steps
from fewhertz.plan import Plan

_REMOVED = 8  # tokens a round, as in the paper's implementation


def without_duplicates(x: Float[Tensor, "b n d"], important: Bool[Tensor, "b n"], diverse: int) -> Bool[Tensor, "b n"]:
    """Marks the `important` tokens and, of the others, `diverse` tokens that are left once duplicates are removed."""
    b, n, _ = x.shape
    similarity = cosines(x).view(b * n, n)
    first_row = torch.arange(b, device=x.device)[:, None] * n
    rest = important.long().argsort(dim=1, stable=True)[:, : n - int(important[0].sum())]
    while (k := rest.shape[1]) > diverse:
        even, odd = rest[:, 0::2], rest[:, 1::2]
        rows = similarity[(first_row + even).flatten()].view(b, -1, n)
        duplicate = steps(rows.gather(2, odd[:, None].expand(-1, rows.shape[1], -1)).amax(2))
        r = min(_REMOVED, k - diverse, even.shape[1])
        removed = mark(2 * duplicate.argsort(dim=1, descending=True, stable=True)[:, :r], k)
        rest = rest.gather(1, removed.long().argsort(dim=1, stable=True)[:, : k - r])
    return important | mark(rest, n)


@dataclass(frozen=True, kw_only=True)
class VisPruner(Method, name="vispruner"):
    """VisPruner (arXiv 2412.01818) on audio tokens: half of those that stay by attention, half by what they add.

    The ⌊share·m⌋ tokens of highest score (the attention that a token receives in the encoder's last layer,
    fewhertz.scores) stay. From the others duplicates are removed in rounds until m − ⌊share·m⌋ are left: those in even
    places are compared with those in odd places, and the 8 that have the most similar partner go.

    Our choice: the others stand in time order before each round. SA-MAP's port to audio has them so before the
    first round alone; from then on they stand as the last round's sort left them, and other tokens meet. Equals: of
    scores the earlier token stays, of duplicates the earlier one goes.

    Cost: O(n²·d) time once and O(n²) in each of the (n − m)/8 rounds; 4·n² bytes a clip, a few clips at a time. Needs
    scores.

    Args:
        share: fraction of the budget that attention decides, 0 to 1.
    """

    share: float = 0.5

    needs = frozenset({"scores"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is the fraction of the budget that attention decides, 0 to 1, got {self.share}")

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        assert clip.scores is not None
        n = x.shape[1]
        decided = int(self.share * m)
        important = mark(clip.scores.argsort(dim=1, descending=True, stable=True)[:, :decided], n)
        if decided == m:
            return Plan.select(important, m)
        choose = partial(without_duplicates, diverse=m - decided)
        return Plan.select(in_parts(choose, n * n, x, important), m)
