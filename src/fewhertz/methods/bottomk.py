"""The worst-scored tokens: the control for `topk`."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import mark
from fewhertz.plan import Plan


@dataclass(frozen=True, kw_only=True)
class BottomK(Method, name="bottomk"):
    """The m tokens of lowest score stay, the others are dropped (baseline in arXiv 2511.14293).

    Shows whether the score of `topk` says anything: this should do worse. Equal scores: the earlier token stays.

    Cost: one sort of n scores a clip. Needs scores.
    """

    needs = frozenset({"scores"})

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        assert clip.scores is not None
        order = clip.scores.argsort(dim=1, stable=True)
        return Plan.select(mark(order[:, :m], x.shape[1]), m)
