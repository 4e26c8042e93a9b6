"""Similar neighbours pooled, as many as there are."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from fewhertz.method import Clip, Method
from fewhertz.methods.segment import novelty
from fewhertz.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Affinity(Method, name="affinity"):
    """Affinity Pooling (arXiv 2604.06871) at the LLM's input: neighbours above a similarity become one.

    Token t joins the group of the token before it where cos(x_{t−1}, x_t) ≥ τ, and begins a new one elsewhere; a group
    is its mean. This is the paper's look-back window of ω = 1, which it uses at the input; it pools once more in a deep
    layer of the LLM, which is not done here. Its thresholds at the input are 0.8 (aggressive) and 0.9 (conservative).

    Cost: three passes over the tokens, O(n·d). Needs nothing but the tokens.
    Fails where the count has to be known before the audio is encoded (vLLM): there, use `segment`. A slow glide is one
    group, however far it goes.

    Args:
        threshold: τ, the least cosine of neighbours in a group, −1 to 1.
    """

    threshold: float = 0.8

    fixed_budget = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold is a cosine, -1 to 1, got {self.threshold}")

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        starts = pad(novelty(x) > 1 - self.threshold, (1, 0), value=True)
        return Plan.from_boundaries(starts, int(starts[0].sum()))
