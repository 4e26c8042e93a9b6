"""The plan: who joins whom.

Every method of the literature that is not learned is a sparse, row-stochastic matrix over time. A `Plan` is that
matrix, and everything that follows from it (merging, sizes, centres, composition, drawing) lives here, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, eq=False)
class Plan:
    """A decision about `n` audio tokens of each of `b` clips: which of `m` output tokens each one joins.

    Args:
        group: output token that each input token joins; −1 where it is dropped. Every one of the `m` output tokens
            has at least one member.
        m: number of output tokens.
        weight: share of each input token in its output token, summing to 1 within each; `None` means equal shares.
        per: input tokens that make one audio token of the uncompressed model: 2 where they are frames of an encoder
            that averages pairs of them, else 1.
    """

    group: Int[Tensor, "b n"]
    m: int
    weight: Float[Tensor, "b n"] | None = None
    per: int = 1

    @classmethod
    def identity(cls, b: int, n: int, device: torch.device | str | None = None) -> Plan:
        """Every token stays itself."""
        return cls(torch.arange(n, device=device).expand(b, n), n)

    @classmethod
    def select(cls, kept: Bool[Tensor, "b n"], m: int) -> Plan:
        """Keep the marked tokens (exactly `m` a row), drop the others; time order stays."""
        rank = kept.long().cumsum(1) - 1
        return cls(rank.masked_fill(~kept, -1), m)

    @classmethod
    def from_boundaries(cls, starts: Bool[Tensor, "b n"], m: int) -> Plan:
        """Contiguous groups: a group starts at each marked token (exactly `m` a row, the first one among them)."""
        return cls(starts.long().cumsum(1) - 1, m)

    @classmethod
    def in_time_order(cls, group: Int[Tensor, "b n"], m: int, weight: Float[Tensor, "b n"] | None = None) -> Plan:
        """Renumber arbitrary group labels in [0, m) by the mean input position of their members.

        Groups with the same mean position stand in the order of their first members.
        """
        raw = cls(group, m, weight)
        # two stable sorts, the later key first; in float64, as float32 cannot tell the centres of a long clip apart
        by_first = raw._positions("amin").argsort(dim=1, stable=True)
        order = by_first.gather(1, raw._means().gather(1, by_first).argsort(dim=1, stable=True))
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(m, device=group.device).expand_as(order))
        renumbered = rank.gather(1, group.clamp_min(0)).masked_fill(group < 0, -1)
        return cls(renumbered, m, weight)

    @classmethod
    def joined(cls, plans: list[Plan], per: int) -> Plan:
        """Plans of pieces of one clip (`b = 1`), one behind the other."""
        ends = accumulate([plan.m for plan in plans], initial=0)
        group = [torch.where(p.group < 0, -1, p.group + end) for p, end in zip(plans, ends, strict=False)]
        weighted = any(plan.weight is not None for plan in plans)
        weight = torch.cat([plan.shares() for plan in plans], dim=1) if weighted else None
        return cls(torch.cat(group, dim=1), sum(plan.m for plan in plans), weight, per)

    def row(self, k: int) -> Plan:
        """The plan of one clip (`b = 1`)."""
        weight = None if self.weight is None else self.weight[k : k + 1]
        return Plan(self.group[k : k + 1], self.m, weight, self.per)

    @property
    def n(self) -> int:
        """Number of input tokens."""
        return self.group.shape[1]

    @cached_property
    def _slots(self) -> Int[Tensor, "b n"]:
        # dropped tokens go to a slot of their own, m, that is cut off after scattering: no masks, no dynamic shapes
        return torch.where(self.group < 0, self.m, self.group)

    def _positions(self, reduce: str) -> Int[Tensor, "b m"]:
        b, n = self.group.shape
        positions = torch.arange(n, device=self.group.device).expand(b, n)
        out = torch.zeros(b, self.m + 1, dtype=torch.long, device=self.group.device)
        return out.scatter_reduce(1, self._slots, positions, reduce, include_self=False)[:, : self.m]

    def sizes(self) -> Int[Tensor, "b m"]:
        """Number of input tokens that each output token stands for."""
        out = torch.zeros(self.group.shape[0], self.m + 1, dtype=torch.long, device=self.group.device)
        return out.scatter_add(1, self._slots, torch.ones_like(self._slots))[:, : self.m]

    def _means(self) -> Float64[Tensor, "b m"]:
        b, n = self.group.shape
        positions = torch.arange(n, dtype=torch.float64, device=self.group.device).expand(b, n)
        out = torch.zeros(b, self.m + 1, dtype=torch.float64, device=self.group.device)
        return out.scatter_add(1, self._slots, positions)[:, : self.m] / self.sizes()

    def centres(self) -> Float[Tensor, "b m"]:
        """Mean position of the members of each output token, in audio tokens of the uncompressed model."""
        means = self._means()
        # the first frame of a pair stands a quarter of a token before the pair's own place
        return (means if self.per == 1 else (means + 0.5) / self.per - 0.5).float()

    def spans(self, rate: float) -> Float[Tensor, "b m 2"]:
        """Start and end in seconds of what each output token stands for.

        Args:
            rate: input tokens per second, in Hz.
        """
        return torch.stack([self._positions("amin"), self._positions("amax") + 1], dim=-1).float() / rate

    def shares(self) -> Float[Tensor, "b n"]:
        """Share of each input token in its output token: 0 where it is dropped, summing to 1 within each group."""
        if self.weight is not None:
            return self.weight.masked_fill(self.group < 0, 0.0)
        return pad(1.0 / self.sizes().float(), (0, 1)).gather(1, self._slots)

    def counting(self, sizes: Int[Tensor, "b n"]) -> Plan:
        """The same plan, where an input token counts as often as it stands for: its share is in proportion to `sizes`.

        `first.then(second.counting(first.sizes()))` of equal shares gives all members of a group equal shares.
        """
        share = self.shares() * sizes
        total = torch.zeros(len(share), self.m + 1, device=share.device).scatter_add(1, self._slots, share)
        return Plan(self.group, self.m, share / total.gather(1, self._slots).where(self.group >= 0, 1), self.per)

    def rows(self) -> list[Plan]:
        """The plan of each clip."""
        return [self.row(k) for k in range(len(self.group))]

    def is_identity(self) -> bool:
        """Whether every token stays itself, so that `apply` returns its input bit for bit."""
        return self.m == self.n

    def apply(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """Form the output tokens: the weighted mean of each group. Differentiable; keeps dtype and device.

        Sums run in float32 where `x` is narrower, so that a mean of many bf16 tokens loses nothing on the way.
        """
        b, n, d = x.shape
        if (b, n) != self.group.shape:
            raise ValueError(f"the plan is for {tuple(self.group.shape)} (clips, tokens), the tokens are {(b, n)}")
        if self.is_identity():
            return x
        wide = x if x.dtype == torch.float64 else x.float()
        if self.weight is not None:
            wide = wide * self.weight.to(wide)[..., None]
        # the output rows of all clips in one run, then one row that takes what is dropped; sums and quotients in place,
        # since fresh memory costs more than the arithmetic
        clip = torch.arange(b, device=x.device)[:, None]
        rows = torch.where(self.group < 0, b * self.m, self.group + clip * self.m).flatten()
        total = wide.new_zeros(b * self.m + 1, d).index_add_(0, rows, wide.reshape(b * n, d))
        out = total[: b * self.m].view(b, self.m, d)
        if self.weight is None:
            out = out.div_(self.sizes()[..., None])
        return out.to(x.dtype)

    def then(self, other: Plan) -> Plan:
        """Composition: `self` first, `other` on its output. Keeps multiply."""
        if other.n != self.m:
            raise ValueError(f"the second plan reads {other.n} tokens, the first one writes {self.m}")
        kept = self.group >= 0
        inner = self.group.clamp_min(0)
        group = other.group.gather(1, inner).masked_fill(~kept, -1)
        weight = (self.shares() * other.shares().gather(1, inner)).masked_fill(group < 0, 0.0)
        return Plan(group, other.m, weight)
