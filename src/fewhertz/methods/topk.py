"""The best-scored tokens."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import mark
from fewhertz.plan import Plan


@dataclass(frozen=True, kw_only=True)
class TopK(Method, name="topk"):
    """The m tokens of highest score stay, the others are dropped (baseline in arXiv 2511.14293).

    The score is the attention that a token receives in the encoder's last layer (fewhertz.scores). Equal scores: the
    earlier token stays.

    Cost: one sort of n scores a clip. Needs scores.
    Fails where attention gathers in one place: whole stretches of a clip may be left without a token.
    """

    needs = frozenset({"scores"})

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        assert clip.scores is not None
        order = clip.scores.argsort(dim=1, descending=True, stable=True)
        return Plan.select(mark(order[:, :m], x.shape[1]), m)
