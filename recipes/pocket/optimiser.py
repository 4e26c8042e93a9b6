"""The optimiser of `train`: Muon for the weight matrices of layers, AdamW for all else."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by Newton–Schulz, for weight matrices; AdamW for everything else.

    Update and scale as in Moonlight (2502.16982), so that one learning rate serves both. Matrices of one shape are
    orthogonalised together.
    """

    def __init__(
        self, matrices: list[nn.Parameter], others: list[nn.Parameter], lr: float, decay: float, bf16: bool = False
    ) -> None:
        self.dtype = torch.bfloat16 if bf16 else torch.float32  # of the orthogonalisation, most of a step's price
        groups = [{"params": matrices, "muon": True}, {"params": others, "muon": False}]
        super().__init__([g for g in groups if g["params"]], {"lr": lr, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            (self._muon if group["muon"] else self._adam)(params, group["lr"], group["decay"])

    def _muon(self, params: list[nn.Parameter], lr: float, decay: float) -> None:
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta, grads = [self.state[p]["momentum"] for p in params], [p.grad for p in params]
        torch._foreach_lerp_(momenta, grads, 0.05)
        smooth = torch._foreach_lerp(grads, momenta, 0.95)
        by_shape: dict[tuple[int, int], list[int]] = {}
        for i, p in enumerate(params):
            by_shape.setdefault((min(p.shape), max(p.shape)), []).append(i)
        torch._foreach_mul_(params, 1 - lr * decay)
        for (_, most), group in by_shape.items():
            wide = [params[i].shape[0] <= params[i].shape[1] for i in group]
            stacked = torch.stack([smooth[i] if w else smooth[i].T for i, w in zip(group, wide, strict=True)])
            done = orthogonalise(stacked.to(self.dtype)).to(stacked.dtype)
            updates = [u if w else u.T for u, w in zip(done, wide, strict=True)]
            torch._foreach_add_([params[i] for i in group], updates, alpha=-lr * 0.2 * most**0.5)

    def _adam(self, params: list[nn.Parameter], lr: float, decay: float) -> None:
        for p in params:
            if "step" not in self.state[p]:
                self.state[p] |= {"step": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
            self.state[p]["step"] += 1
        grads, steps = [p.grad for p in params], self.state[params[0]]["step"]
        ms, vs = ([self.state[p][k] for p in params] for k in "mv")
        torch._foreach_lerp_(ms, grads, 0.1)
        torch._foreach_mul_(vs, 0.98)
        torch._foreach_addcmul_(vs, grads, grads, 0.02)
        root = torch._foreach_sqrt(torch._foreach_div(vs, 1 - 0.98**steps))
        torch._foreach_add_(root, 1e-8)
        torch._foreach_mul_([p for p in params if p.ndim > 1], 1 - lr * decay)
        torch._foreach_addcdiv_(params, ms, root, -lr / (1 - 0.9**steps))


def orthogonalise(x: Tensor, rounds: int = 5) -> Tensor:
    """Newton–Schulz with Muon's coefficients on ``[k, rows, columns]``, rows ≤ columns: singular values go near 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def make_optimiser(
    kind: str, model: nn.Module, head: nn.Module, lr: float, decay: float, bf16: bool
) -> torch.optim.Optimizer:
    named = [(n, p) for n, p in [*model.named_parameters(), *head.named_parameters()] if p.requires_grad]
    hidden = [p for n, p in named if p.ndim == 2 and ".layers." in n]
    rest = [p for n, p in named if not (p.ndim == 2 and ".layers." in n)]
    return Muon(hidden, rest, lr, decay, bf16) if kind == "muon" else Muon([], hidden + rest, lr, decay)
