"""The tokens that differ most from the one before."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from fewhertz.method import Clip, Method
from fewhertz.methods._shared import mark
from fewhertz.methods.segment import novelty
from fewhertz.plan import Plan


@dataclass(frozen=True, kw_only=True)
class EVS(Method, name="evs"):
    """Efficient video sampling (EVS, arXiv 2510.14624) on audio tokens: what changed stays, what is static is dropped.

    The first token stays, and the m − 1 tokens of largest 1 − cos(x_{t−1}, x_t), the change from the token before.
    The paper compares the pixels of a patch in successive frames; here, as in vLLM's and SGLang's EVS, token
    embeddings are compared. As published: `evs+time`, since tokens keep their original positions there. These are
    the first tokens of the segments of `segment`. Equal changes: the earlier token stays.

    Cost: three passes over the tokens, O(n·d). Needs nothing but the tokens.
    Fails where a sound holds: a vowel is its first token alone, and noise, which always changes, takes the budget.
    """

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        order = novelty(x).argsort(dim=1, descending=True, stable=True)
        return Plan.select(pad(mark(order[:, : m - 1], x.shape[1] - 1), (1, 0), value=True), m)
