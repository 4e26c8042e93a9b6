"""A method of your own: the loudest tokens stay.

fewhertz run pocket a.wav --import examples/my_method.py --method mine@keep=0.5
pytest tests/methods/test_contract.py --import examples/my_method.py
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewhertz import Clip, Method, Plan


@dataclass(frozen=True, kw_only=True)
class Mine(Method, name="mine"):
    """The m tokens of largest norm stay, the others are dropped; of two equally loud ones the earlier stays."""

    def assign(self, x: Tensor, m: int, clip: Clip) -> Plan:
        """Decide who joins whom: x is (clips, tokens, width), and every clip keeps m tokens."""
        loudness = x.float().norm(dim=-1)
        loudest = loudness.argsort(dim=1, descending=True, stable=True)[:, :m]
        kept = torch.zeros_like(loudness, dtype=torch.bool).scatter(1, loudest, True)
        return Plan.select(kept, m)
