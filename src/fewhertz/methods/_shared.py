"""What several methods use: marks, cosines in float32, the most similar token."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_TINY = torch.finfo(torch.float32).tiny
_STEPS = 1 << 20  # cosines of a matrix product count as equal within 1e-6: its rounding noise breaks no tie


def mark(index: Int[Tensor, "b k"], n: int) -> Bool[Tensor, "b n"]:
    """True at the given places."""
    return torch.zeros(len(index), n, dtype=torch.bool, device=index.device).scatter_(1, index, True)


def dot(a: Float[Tensor, "b n d"], b: Float[Tensor, "b n d"]) -> Float[Tensor, "b n"]:
    """Dot product of each token of `a` with the token of `b` at the same place, in float32, with bounded memory."""
    # on a CPU the products have to stay in cache: written to fresh memory they take five times as long
    elements = 1 << 20 if a.device.type == "cpu" else 1 << 26
    step = max(1, elements // (a.shape[0] * a.shape[2]))
    parts = zip(a.split(step, dim=1), b.split(step, dim=1), strict=True)
    return torch.cat([(p.float() * q.float()).sum(-1) for p, q in parts], dim=1)


def norm(x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n"]:
    """Euclidean norm of each token, in float32."""
    return dot(x, x).sqrt()


def cosine(dots: Tensor, norms_a: Tensor, norms_b: Tensor) -> Tensor:
    """Cosines from dot products and norms; 0 where a token is zero."""
    return dots / (norms_a * norms_b).clamp_min(_TINY)


def most_similar(
    a: Float[Tensor, "b n d"],
    b: Float[Tensor, "b k d"],
    place_a: Int[Tensor, "#b n"],
    place_b: Int[Tensor, "#b k"],
) -> tuple[Float[Tensor, "b n"], Int[Tensor, "b n"]]:
    """Cosine and index of the token of `b` that is most like each token of `a`.

    Among equals the nearest in place wins, and of two equally near the later one. Works in chunks of `a`: memory is
    bounded, time is O(n·k·d).
    """
    norms_b, columns = norm(b)[:, None], b.float().transpose(1, 2)
    step = max(1, (1 << 21) // (b.shape[0] * b.shape[1]))
    best, partner = [], []
    for rows, norms_a, places in zip(a.split(step, 1), norm(a).split(step, 1), place_a.split(step, 1), strict=True):
        similarity = cosine(rows.float() @ columns, norms_a[..., None], norms_b)
        ahead = place_b[:, None] - places[..., None]
        gap = 2 * ahead.abs() + (ahead < 0)
        # one integer that orders by cosine, then by gap: no two columns share it
        chosen = ((similarity * _STEPS).round().long() * (1 << 40) - gap).argmax(-1, keepdim=True)
        best.append(similarity.gather(-1, chosen)[..., 0])
        partner.append(chosen[..., 0])
    return torch.cat(best, dim=1), torch.cat(partner, dim=1)
