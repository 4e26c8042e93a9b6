"""The best-scored tokens of each segment of time."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import mark
from fewhertz.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Segmentwise(Method, name="segmentwise"):
    """Segmentwise top-k (arXiv 2511.14293): a share of the budget for each of S equal segments of time.

    Token i lies in segment ⌊i·S/n⌋. The ⌊m/S⌋ best-scored tokens of each segment stay, and the m − S·⌊m/S⌋ best of
    those left over, from anywhere. The score is the attention that a token receives in the encoder's last layer
    (fewhertz.scores). Equal scores: the earlier token stays. With m < S it is `topk`.

    Our choice: what m leaves over, as it is no multiple of S, goes to the best tokens wherever they are; the paper does
    not say.

    Cost: three sorts of n numbers a clip. Needs scores.

    Args:
        segments: S, the number of segments; the paper's is 10.
    """

    segments: int = 10

    needs = frozenset({"scores"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.segments < 1:
            raise ValueError(f"segments is the number of time segments, at least 1, got {self.segments}")

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        assert clip.scores is not None
        n = x.shape[1]
        segments = min(self.segments, n + 1)  # more than m come to the same, and large products would overflow
        places = torch.arange(n, device=x.device)
        by_score = clip.scores.argsort(dim=1, descending=True, stable=True)
        # the sort is stable: segment after segment, and the best first within each
        by_segment = by_score.gather(1, (by_score * segments // n).argsort(dim=1, stable=True))
        segment = places * segments // n
        rank = places - (segment * n + segments - 1) // segments  # from the first place of its segment
        chosen = torch.zeros_like(by_score, dtype=torch.bool)
        chosen.scatter_(1, by_segment, (rank < m // segments).expand_as(chosen))
        # again stable: the chosen ones first, then those left over, the best first
        order = by_score.gather(1, (~chosen.gather(1, by_score)).long().argsort(dim=1, stable=True))
        return Plan.select(mark(order[:, :m], n), m)
