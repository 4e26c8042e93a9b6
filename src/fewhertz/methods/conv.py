"""A learned compressor: a strided convolution that begins as average pooling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewhertz.method import Clip
from fewhertz.methods.pool import Pool
from fewhertz.plan import Plan

REACH = 3  # groups that a kernel sees: its own and its two neighbours


class Kernel(nn.Module):
    """Depthwise-separable convolution whose stride is the group, as what it does beyond averaging: zero at first.

    Args:
        width: d of the tokens.
        taps: places at which a kernel reads.
    """

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        self.depthwise = nn.Parameter(torch.zeros(taps, width))
        self.pointwise = nn.Parameter(torch.zeros(width, width))

    def forward(self, x: Float[Tensor, "b n d"], mean: Float[Tensor, "b m d"]) -> Float[Tensor, "b m d"]:
        """Output tokens.

        Args:
            x: the tokens.
            mean: average of each group.
        """
        n, m, taps = x.shape[1], mean.shape[1], len(self.depthwise)
        stride = n / m
        places = torch.arange(taps, device=x.device, dtype=torch.float64)
        centres = (torch.arange(m, device=x.device, dtype=torch.float64) + 0.5) * stride - 0.5
        at = centres + ((places - (taps - 1) / 2) * (REACH * stride / taps))[:, None]
        at = at.clamp(0, n - 1)  # (taps, m)
        below = at.long()
        above = (below + 1).clamp_max(n - 1)
        share = (at - below).to(x.dtype)[..., None]
        out = mean
        for tap in range(taps):  # a few: all at once would hold taps × m tokens
            read = torch.lerp(x[:, below[tap]], x[:, above[tap]], share[tap])
            out = out + read * self.depthwise[tap].to(x.dtype)
        return out + out @ self.pointwise.to(x.dtype).mT


@dataclass(frozen=True, kw_only=True)
class Conv(Pool, name="conv"):
    """A depthwise-separable strided convolution, trained by `fewhertz train`; it begins as `pool` (our own).

    The groups are pool's, ⌊i·m/n⌋, and so is the plan, which says when and how much a token stands for. Beside the
    mean of its group, an output token gets a weighted sum, with weights of its own for each channel, of `taps` tokens
    read at even distances, interpolated, over its group and the two next to it; then channels are mixed by I + W. All
    that is learned starts at zero. So the first step is exactly pool for any n and m, also where n/m is no integer and
    groups differ in size, which one kernel over whole tokens could not be; and as distances are in groups, one set of
    weights serves all keeps.

    Cost: O(taps·m·d + m·d²). Needs training: untrained it is pool. The weights, taps·d + d² numbers, are saved
    beside the adapter. Acts in the LLM's input space alone.

    Args:
        taps: places at which a kernel reads.
    """

    taps: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.taps <= 99:
            raise ValueError(f"taps is the length of a kernel, 1 to 99, got {self.taps}")
        if self.site != "llm":
            raise ValueError('conv acts in the LLM\'s input space: site is "llm"')

    def build(self, width: int) -> Kernel:
        return Kernel(width, self.taps)

    def forward(self, x: Float[Tensor, "b n d"], clip: Clip) -> tuple[Float[Tensor, "b m d"], Plan]:
        plan = self.plan(x, clip)
        mean = plan.apply(x)
        if clip.learned is None or plan.is_identity():
            return mean, plan
        # sums of products run in float32 at least, as those of Plan.apply do
        wide = x if x.dtype == torch.float64 else x.float()
        return clip.learned(wide, mean.to(wide)).to(x.dtype), plan
