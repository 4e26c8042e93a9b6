"""Unsupervised segmentation, as published: as many segments as the audio has."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from fewhertz.method import Clip, Method
from fewhertz.methods.segment import novelty
from fewhertz.plan import Plan


def _foot(d: Float[Tensor, "b t"], rises: Bool[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    """Value at the foot of the strictly rising run that leads to each place from the left."""
    places = torch.arange(d.shape[1], device=d.device).expand_as(rises)
    return d.gather(1, places.masked_fill(rises, 0).cummax(dim=1).values)


@dataclass(frozen=True, kw_only=True)
class UnSeg(Method, name="unseg"):
    """Unsupervised segmentation (UnSeg, arXiv 2511.20973): mean inside each segment, of variable length.

    With d_t = 1 − cos(z_t, z_{t+1}), token t + 1 begins a segment where d_t is a strict local maximum. The first and
    the last d_t have one neighbour only and are no maxima (our choice), nor are plateaus; so a clip of n tokens has at
    most ⌈(n − 1)/2⌉ segments.

    A maximum may be asked to stand out. Its prominence is local here (our choice): its height above the higher of the
    two feet of its own slopes, where d stops falling to the left and to the right.

    Cost: three passes over the tokens, O(n·d). Needs nothing but the tokens.
    Fails where the count has to be known before the audio is encoded (vLLM): there, use `segment`.

    Args:
        prominence: least prominence of a boundary, in units of d, 0 to 2; 0 asks for none.
    """

    prominence: float = 0.0

    fixed_budget = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.prominence <= 2:
            raise ValueError(f"prominence is a difference of cosines, 0 to 2, got {self.prominence}")

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        d = novelty(x)
        rises = d > pad(d, (1, 0), value=torch.inf)[:, :-1]  # from the left neighbour to t
        falls = d > pad(d, (0, 1), value=torch.inf)[:, 1:]  # from t to the right neighbour
        boundary = rises & falls
        if self.prominence:
            right = _foot(d.flip(1), falls.flip(1)).flip(1)
            boundary &= d - torch.maximum(_foot(d, rises), right) >= self.prominence
        starts = pad(boundary, (1, 0), value=True)
        return Plan.from_boundaries(starts, int(starts[0].sum()))
