"""What several methods use: marks, cosines, the most similar token, shares by attention, bounded memory."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_TINY = torch.finfo(torch.float32).tiny
STEPS = 1 << 20  # what is computed in float32 counts as equal within 1e-6: rounding noise breaks no tie


def mark(index: Int[Tensor, "b k"], n: int) -> Bool[Tensor, "b n"]:
    """True at the given places."""
    return torch.zeros(len(index), n, dtype=torch.bool, device=index.device).scatter_(1, index, True)


def _over_width(
    product: Callable[[Tensor, Tensor], Tensor], a: Float[Tensor, "b n d"], b: Float[Tensor, "b n d"]
) -> Float[Tensor, "b n"]:
    # on a CPU the products have to stay in cache: written to fresh memory they take five times as long
    elements = 1 << 20 if a.device.type == "cpu" else 1 << 26
    step = max(1, elements // (a.shape[0] * a.shape[2]))
    parts = zip(a.split(step, dim=1), b.split(step, dim=1), strict=True)
    return torch.cat([product(p.float(), q.float()).sum(-1) for p, q in parts], dim=1)


def dot(a: Float[Tensor, "b n d"], b: Float[Tensor, "b n d"]) -> Float[Tensor, "b n"]:
    """Dot product of each token of `a` with the token of `b` at the same place, in float32, with bounded memory."""
    return _over_width(torch.mul, a, b)


def squared_distance(a: Float[Tensor, "b n d"], b: Float[Tensor, "b n d"]) -> Float[Tensor, "b n"]:
    """The same for ‖a − b‖²."""
    return _over_width(lambda p, q: (p - q).square_(), a, b)


def norm(x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n"]:
    """Euclidean norm of each token, in float32."""
    return dot(x, x).sqrt()


def cosine(dots: Tensor, norms_a: Tensor, norms_b: Tensor) -> Tensor:
    """Cosines from dot products and norms; 0 where a token is zero."""
    return dots / (norms_a * norms_b).clamp_min(_TINY)


def unit(x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    """Tokens of length 1, in float32; zeros where a token is zero or not a number."""
    scaled = x.float() / norm(x).clamp_min(_TINY)[..., None]
    return scaled.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


def cosines(x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n n"]:
    """Cosine of every pair of tokens, in float32; 0 where one is zero or not a number.

    One product a clip, so that a clip's cosines are the same bits whatever the batch. Equal tokens have equal cosines
    within rounding noise: `steps` before they are compared. Time is O(n²·d) a clip, memory 4·n² bytes.
    """
    b, n, _ = x.shape
    out = x.new_empty(b, n, n, dtype=torch.float32)
    for part, into in zip(x, out, strict=True):
        tokens = unit(part[None])[0]
        torch.mm(tokens, tokens.mT, out=into)
    return out


def steps(values: Tensor) -> Tensor:
    """What was computed in float32, in whole steps of 1e-6: what is equal but for rounding noise is equal."""
    return (values * STEPS).round_()


def in_parts(choose: Callable[..., Tensor], numbers: int, *inputs: Tensor) -> Tensor:
    """`choose` on a few clips of the batch at a time, since it holds `numbers` numbers for each."""
    step = max(1, (1 << 26) // numbers)
    return torch.cat([choose(*part) for part in zip(*(each.split(step) for each in inputs), strict=True)])


def attention_shares(scores: Float[Tensor, "b n"], group: Int[Tensor, "b n"], m: int) -> Float[Tensor, "b n"]:
    """Share of each token in its group, in proportion to the attention that it received.

    No share is 0: a token counts at least a millionth of the clip's best one.
    """
    wide = scores.float()
    wide = torch.maximum(wide, wide.amax(1, keepdim=True) * 1e-6).clamp_min(_TINY)
    slots = torch.where(group < 0, m, group)
    total = wide.new_zeros(len(wide), m + 1).scatter_add(1, slots, wide)
    return (wide / total.gather(1, slots)).masked_fill(group < 0, 0.0)


def most_similar(
    a: Float[Tensor, "b n d"],
    b: Float[Tensor, "b k d"],
    place_a: Int[Tensor, "#b n"],
    place_b: Int[Tensor, "#b k"],
) -> tuple[Float[Tensor, "b n"], Int[Tensor, "b n"]]:
    """Cosine and index of the token of `b` that is most like each token of `a`.

    Among equals, within 1e-6 of the highest, the nearest in place wins, and of two equally near the later one. Places
    are whole numbers, those of `b` rise. Works in chunks of `a`: memory is bounded, time is O(n·k·d).
    """
    columns = unit(b).mT
    step = max(1, (1 << 21) // (b.shape[0] * b.shape[1]))
    best, partner = [], []
    for rows, places in zip(unit(a).split(step, 1), place_a.split(step, 1), strict=True):
        similarity = rows @ columns
        highest = similarity.amax(-1, keepdim=True)
        # a distance of its own for each column, the later of two equally near ones less by a half
        ahead = place_b[:, None] - (places + 0.25)[..., None]
        gap = ahead.abs().masked_fill(similarity < highest - 1 / STEPS, torch.inf).amin(-1)
        later = (gap + 0.25).frac() < 0.25  # 0.75, 1.75, …; else 0.25, 1.25, …
        place = (places + 0.25 + torch.where(later, gap, -gap)).round().long()
        chosen = torch.searchsorted(place_b.expand(len(b), -1).contiguous(), place.expand(len(b), -1).contiguous())
        best.append(similarity.gather(-1, chosen[..., None])[..., 0])
        partner.append(chosen)
    return torch.cat(best, dim=1), torch.cat(partner, dim=1)
