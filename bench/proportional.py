"""Proportional attention: the ways in which log s can enter attention, against attention without it; and how exact.

Prefill and decoding, at the shapes of layers of 7B models. Part of `python -m bench.corrections`.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bench.clock import in_turns, processor, ratio
from bench.record import progress
from fewhertz.errors import squeezed

HIDDEN = -65504.0  # as in fewhertz.corrections
PART = 256  # queries that see a mask at a time
UNWEIGHTED = ("plain", "boolean")  # ways without log s
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}


class Layer(nn.Module):
    """As much of an attention layer as transformers' attention function looks at."""

    is_causal = True

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups


@dataclass(frozen=True)
class Problem:
    """Queries (b h q d), keys and values (b h' k d), and the log of how many tokens each key stands for (b k)."""

    query: Tensor
    key: Tensor
    value: Tensor
    log_sizes: Tensor

    @property
    def scale(self) -> float:
        return self.query.shape[-1] ** -0.5

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """By the function that transformers' layers call, which repeats heads of keys where a kernel needs that."""
        layer = Layer(query.shape[1] // key.shape[1])
        out = ALL_ATTENTION_FUNCTIONS["sdpa"](layer, query, key, value, mask, scaling=self.scale)[0]
        return out.transpose(1, 2)


def problem(
    shape: dict[str, int], phase: str, log_sizes: Tensor, like: dict[str, Any], source: torch.Generator | None = None
) -> Problem:
    """Random queries, keys and values, laid out in memory as they come to attention."""
    b, n = log_sizes.shape
    heads, key_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    d = shape["hidden_size"] // heads
    queries = n if phase == "prefill" else 1

    def some(h: int, count: int) -> Tensor:
        device = like["device"] if source is None else source.device
        return torch.randn(b, count, h, d, generator=source, device=device).to(**like).transpose(1, 2)

    query, key, value = some(heads, queries), some(key_heads, n), some(key_heads, n)
    if phase == "decode":  # a cache
        key, value = key.contiguous(), value.contiguous()
    return Problem(query, key, value, log_sizes.to(like["device"]))


def widened(query: Tensor, key: Tensor, log_sizes: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Queries and keys with 8 more dimensions, of which two say log s, as in fewhertz.vllm.corrections."""
    log_sizes = log_sizes / (scale * _constant(scale))
    coarse = log_sizes.to(key.dtype)
    both = torch.stack([coarse, (log_sizes - coarse.float()).to(key.dtype)], dim=-1)
    key = torch.cat([key, both[:, None].expand(-1, key.shape[1], -1, -1)], dim=-1)
    return widened_query(query, scale), pad(key, (0, 6))


def widened_query(query: Tensor, scale: float) -> Tensor:
    """The queries alone, as at each step over a cache of wide keys."""
    return pad(pad(query, (0, 2), value=_constant(scale)), (0, 6))


def _constant(scale: float) -> float:
    return 2.0 ** round(-math.log2(scale))


def ways(p: Problem, flex: Callable[..., Any] | None, by_name: bool) -> dict[str, Callable[[], Tensor]]:
    """Ways to attend: without log s (`UNWEIGHTED`), and with it.

    Args:
        p: the problem.
        flex: FlexAttention, compiled or not; `None`: without it.
        by_name: also each of torch's kernels by its name.
    """
    query, key, value, log_sizes = p.query, p.key, p.value, p.log_sizes
    d, queries, keys = query.shape[-1], query.shape[2], key.shape[2]
    causal = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    boolean = causal.expand(len(query), 1, -1, -1).contiguous()
    mask = torch.where(boolean, log_sizes[:, None, None].to(query.dtype), HIDDEN)
    _, wide_key = widened(query, key, log_sizes, p.scale)
    wide_value = pad(value, (0, 8))

    def dims() -> Tensor:
        wide_query, wide = widened(query, key, log_sizes, p.scale)
        return p.attend(wide_query, wide, pad(value, (0, 8)))[..., :d]

    def dims_in_the_cache() -> Tensor:
        return p.attend(widened_query(query, p.scale), wide_key, wide_value)[..., :d]

    def in_parts() -> Tensor:
        parts = [slice(start, min(start + PART, queries)) for start in range(0, queries, PART)]
        some = [
            p.attend(query[:, :, q], key[:, :, : q.stop], value[:, :, : q.stop], mask[:, :, q, : q.stop]) for q in parts
        ]
        return torch.cat(some, dim=2)

    runs: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: p.attend(query, key, value),
        "boolean": lambda: p.attend(query, key, value, boolean),
        "mask": lambda: p.attend(query, key, value, mask),
    }
    if queries > 1:
        runs |= {"mask in parts": in_parts, "dims": dims}
    else:
        runs |= {"dims in the cache": dims_in_the_cache, "dims at each step": dims}
    if flex is not None:
        after = None if queries == 1 else create_block_mask(_causal, None, None, queries, keys, device=query.device)
        options = {"score_mod": _adding(log_sizes), "block_mask": after, "enable_gqa": query.shape[1] != key.shape[1]}
        runs["flex"] = partial(flex, query, key, value, **options)
    if by_name:
        wide = "dims" if queries > 1 else "dims in the cache"
        for way in ("plain", "mask", wide):
            runs |= {f"{way}, {name}": partial(_with_kernel, kernel, runs[way]) for name, kernel in BACKENDS.items()}
    return runs


def _causal(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return q >= k


def _adding(log_sizes: Tensor) -> Callable[..., Tensor]:
    def score(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return score + log_sizes[b, k]

    return score


def _with_kernel(kernel: SDPBackend, run: Callable[[], Tensor]) -> Tensor:
    with sdpa_kernel(kernel):
        return run()


def outputs(runs: dict[str, Callable[[], Tensor]]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What each gives, and the words with which those that cannot run here say so."""
    given, refused = {}, {}
    for name, run in runs.items():
        try:
            given[name] = run()
        except (RuntimeError, ValueError, AssertionError) as error:
            refused[name] = f"{type(error).__name__}: {squeezed(error, 300)}"
    return given, refused


def exactness(size: dict[str, Any], flex: Callable[..., Any], by_name: bool, like: dict[str, Any]) -> Iterator[dict]:
    """Each way against attention over tokens that are really repeated, that in float64."""
    n = size["exact_tokens"]
    source = torch.Generator().manual_seed(5)
    sizes = torch.randint(1, 6, (n,), generator=source)
    ends = (sizes.cumsum(0) - 1).to(like["device"])
    for shape_name, shape in size["shapes"].items():
        for phase in ("prefill", "decode"):
            for dtype in dict.fromkeys((torch.float32, like["dtype"])):
                p = problem(shape, phase, sizes.log()[None], like | {"dtype": dtype}, source)
                copies = sizes.to(like["device"])
                query, key, value = p.query.double(), p.key.double(), p.value.double()
                key, value = key.repeat_interleave(copies, 2), value.repeat_interleave(copies, 2)
                if phase == "prefill":
                    query = query.repeat_interleave(copies, 2)
                whole = scaled_dot_product_attention(query, key, value, is_causal=phase == "prefill", enable_gqa=True)
                whole = whole[:, :, ends] if phase == "prefill" else whole
                # on a CPU FlexAttention compiles half a minute for each kind of shape
                own = flex if _flex_here(shape, 1, like["device"], by_name) else None
                given, refused = outputs(ways(p, own, by_name))
                for way in given | refused:
                    off = (given[way].double() - whole).abs().max().item() if way in given else None
                    yield {
                        "shape": shape_name,
                        "phase": phase,
                        "dtype": str(dtype).split(".")[1],
                        "way": way,
                        "told": way.split(",")[0] not in UNWEIGHTED,
                        "difference": off,
                        "refused": refused.get(way),
                    }


def _flex_here(shape: dict[str, int], batch: int, device: str, everything: bool) -> bool:
    return (
        everything or device == "cuda" or (batch == 1 and shape["num_attention_heads"] == shape["num_key_value_heads"])
    )


class Linear(nn.Module):
    """What a decoder layer does beside attention, but for norms and angles."""

    def __init__(self, shape: dict[str, int]) -> None:
        super().__init__()
        d, wide = shape["hidden_size"], shape["intermediate_size"]
        keys = d // shape["num_attention_heads"] * shape["num_key_value_heads"]
        self.query, self.key, self.value, self.out = (nn.Linear(d, to, bias=False) for to in (d, keys, keys, d))
        self.gate, self.up, self.down = (nn.Linear(a, b, bias=False) for a, b in ((d, wide), (d, wide), (wide, d)))

    def forward(self, x: Tensor) -> Tensor:
        self.key(x), self.value(x)
        x = x + self.out(self.query(x))
        return x + self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def linear_seconds(size: dict[str, Any], device: str, like: dict[str, Any]) -> dict[tuple[str, str, int], float]:
    """Seconds of `Linear`, by shape: per token of a prefill (batch 0), and of a step of each batch."""
    seconds = {}
    for name, shape in size["shapes"].items():
        with torch.device(device):
            linear = Linear(shape).to(like["dtype"])
        at = {("prefill", 0): size["linear_tokens"]} | {("decode", b): b for b in size["batches"][device]}
        for (phase, batch), tokens in at.items():
            x = torch.randn(tokens, shape["hidden_size"], **like)
            linear(x)
            [times] = in_turns({"": partial(linear, x)}, size["rounds"][phase], device, processor).values()
            seconds[name, phase, batch] = statistics.median(times) / (tokens if phase == "prefill" else 1)
    return seconds


def attention(
    size: dict[str, Any], flex: Callable[..., Any], by_name: bool, device: str, like: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Times of each way at each shape, prompt and batch; and what is left out."""
    linear = linear_seconds(size, device, like)
    progress("linear layers timed")
    rows, left_out = [], []
    for name, shape in size["shapes"].items():
        for batch in size["batches"][device]:
            for n in size["tokens"]:
                if batch * n > size["most_tokens"][device]:
                    left_out.append(f"{name}, {n:,} tokens, batch {batch}: too long a batch for this device")
                    continue
                here = _flex_here(shape, batch, device, by_name)
                if not here:
                    left_out.append(f"{name}, {n:,} tokens, batch {batch}: flex, which compiles for each kind of shape")
                for phase in ("prefill", "decode"):
                    log_sizes = torch.full((batch, n), math.log(3.0))
                    runs = ways(problem(shape, phase, log_sizes, like), flex if here else None, by_name)
                    given, refused = outputs(runs)
                    times = in_turns({way: runs[way] for way in given}, size["rounds"][phase], device, processor)
                    tokens, key = (batch * n, 0) if phase == "prefill" else (1, batch)
                    beside = linear[name, phase, key] * tokens
                    for way in runs:
                        row = {"shape": name, "phase": phase, "tokens": n, "batch": batch, "way": way}
                        rows.append(row | _timed(times, way, beside) | {"refused": refused.get(way)})
                progress(f"attention: {name}, {n:,} tokens, batch {batch}")
    return rows, left_out


def _timed(times: dict[str, list[float]], way: str, beside: float) -> dict[str, Any]:
    """What a row says of time; `of_layer`: a layer's time by this way, over that by plain attention."""
    if way not in times:
        return {"seconds": None, "of_plain": None, "of_layer": None}
    plain, of_plain = statistics.median(times["plain"]), ratio(times[way], times["plain"])
    return {
        "seconds": statistics.median(times[way]),
        "of_plain": of_plain,
        "of_layer": (beside + of_plain * plain) / (beside + plain),
    }


def choices(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At each shape, prompt and batch: the fastest way with log s, and what the mask takes over it in a layer."""
    cases: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["seconds"] is not None and row["way"].split(",")[0] not in UNWEIGHTED:
            cases[row["shape"], row["phase"], row["tokens"], row["batch"]].append(row)
    found = []
    for (shape, phase, tokens, batch), some in cases.items():
        best = min(some, key=lambda row: row["of_layer"])
        mask = next(row["of_layer"] for row in some if row["way"] == "mask")
        found.append(
            {
                "shape": shape,
                "phase": phase,
                "tokens": tokens,
                "batch": batch,
                "fastest": best["way"],
                "mask_over_fastest": mask / best["of_layer"],
            }
        )
    return found
