"""What it costs to tell the LLM how much a token stands for, what is exact of it, and what `ward` costs and loses.

    python bench/told.py --out results/bench/told.json      # 5 minutes of one core; needs out/dev (--manifests)
    python bench/told.py --out out/quick.json --quick       # seconds: tiny shapes, for the tests, no figures

1. attention: the ways in which log s can enter attention, against attention that is told nothing; prefill, decoding.
2. layer: the same in a Qwen2-Audio-7B of random weights that wears a method with `+time`, with `+sizes`, with both.
3. depth: s copies of a token at one position against one token with log s. In the first layer that is the same; in the
   layers above each copy has seen another past. By how much what follows the audio differs, layer by layer.
4. ward, optimal: time over the prefill time that they save, and the distance to its segments that `ward` has more.

On a CPU time is the processor's, of one thread: others that run on the machine then count for little. On a GPU it is
the wall clock's.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import methods
import prefill
import torch
import typer
from methods import LAYERS_7B, RATE, application, decoder_layer, environment, save
from prefill import LAYERS, ON_CPU, WHOLE, Case, build, configuration, progress, request
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import normalize, pad, scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import fewhertz
from fewhertz.corrections import sized
from fewhertz.families import family_of
from fewhertz.method import Clip
from fewhertz.once import encode_once
from fewhertz.plan import Plan

EXACT_BAR = 1e-5  # largest difference in float32; at depth relative
OTHER_WAY_BAR = 1.10  # a layer by the additive mask over one by the fastest way: above it another way is worth its code
WARD_BAR = 0.02  # largest share of the prefill time saved
OBJECTIVE_BAR = 1.05  # ward's squared distances over optimal's
HIDDEN = -65504.0  # as in fewhertz.corrections
PART = 256  # queries that see a mask at a time
NOTHING_TOLD = ("plain", "boolean")
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}
SUFFIXES = ("", "+time", "+sizes", "+time+sizes")
DECODE_STEPS = 4

AUDIO_7B = {"hidden_size": 4096, "intermediate_size": 11_008, "num_attention_heads": 32, "num_key_value_heads": 32}
QWEN2_7B = {"hidden_size": 3584, "intermediate_size": 18_944, "num_attention_heads": 28, "num_key_value_heads": 4}
FULL: dict[str, Any] = {
    "shapes": {"Qwen2-Audio-7B": AUDIO_7B, "Qwen2-7B": QWEN2_7B},
    "tokens": [290, 790, 2540],  # prompts of 30 s at keep=1/3, of 30 s as they are, of ten times 30 s at keep=1/3
    "batches": {"cpu": [1, 4], "cuda": [1, 4, 16]},
    "most_tokens": {"cpu": 3000, "cuda": 50_000},  # of a batch
    "rounds": {"prefill": 3, "decode": 9},
    "linear_tokens": 145,
    "exact_tokens": 290,
    "clips": {"cpu": [1], "cuda": [1, 10]},
    "layer_rounds": 4,
    "deep": {"layers": 8, "hidden_size": 512, "intermediate_size": 1024, "heads": 8, "audio": 50, "text": 20},
    "depth_keeps": ["1/2", "1/3", "1/6"],
    "speech": 50,
    "keeps": ["1/2", "1/3", "1/4", "1/6", "1/10"],
    "cost": [("Qwen2-Audio-7B", "1/3"), ("Qwen2-Audio-7B", "1/2"), ("Qwen2-7B", "1/3")],
    "cost_batches": [1, 32],
    "cost_tokens": 750,
    "cost_rounds": 2,
}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}
QUICK: dict[str, Any] = FULL | {
    "shapes": {"Qwen2-Audio-7B": TINY, "Qwen2-7B": TINY | {"num_key_value_heads": 2}},
    "tokens": [30, 300],
    "batches": {"cpu": [1, 2], "cuda": [1, 2]},
    "most_tokens": {"cpu": 400, "cuda": 400},
    "rounds": {"prefill": 2, "decode": 2},
    "linear_tokens": 10,
    "exact_tokens": 300,
    "clips": {"cpu": [1], "cuda": [1]},
    "layer_rounds": 2,
    "deep": {"layers": 3, "hidden_size": 64, "intermediate_size": 64, "heads": 4, "audio": 10, "text": 4},
    "depth_keeps": ["1/3"],
    "speech": 2,
    "keeps": ["1/3"],
    "cost_batches": [1, 2],
    "cost_tokens": 60,
}


clock = partial(methods.now, on_cpu=time.process_time)
in_turns = partial(methods.in_turns, on_cpu=time.process_time)  # each has run before


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of each round's ratio."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


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
    """Ways to attend: told nothing (`NOTHING_TOLD`), and told sizes.

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
        told = "dims" if queries > 1 else "dims in the cache"
        for way in ("plain", "mask", told):
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
            refused[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
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
                        "told": way.split(",")[0] not in NOTHING_TOLD,
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
            [times] = in_turns({"": partial(linear, x)}, size["rounds"][phase], device).values()
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
                    times = in_turns({way: runs[way] for way in given}, size["rounds"][phase], device)
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
    """At each shape, prompt and batch: the fastest way that tells sizes, and what the mask takes over it in a layer."""
    cases: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["seconds"] is not None and row["way"].split(",")[0] not in NOTHING_TOLD:
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


def sample(model: Any, inputs: dict[str, Tensor], spec: str, device: str) -> dict[str, dict[str, float]]:
    """One call of the model that wears a method and some tokens more: seconds before the LLM, in its layers, else."""
    core = model.base_model
    llm = core.language_model
    spans: dict[str, float] = defaultdict(float)
    begun: dict[str, float] = {}

    def begin(name: str, *_: object) -> None:
        begun[name] = clock(device)

    def end(name: str, *_: object) -> None:
        spans[name] += clock(device) - begun[name]

    parts = {"llm": (llm, llm), "layers": (llm.layers[0], llm.layers[-1])}
    parts |= {"encoder": (core.audio_tower, core.audio_tower)}
    parts |= {"projector": (core.multi_modal_projector, core.multi_modal_projector)}
    hooks = []
    for name, (first, last) in parts.items():
        hooks.append(first.register_forward_pre_hook(partial(begin, name)))
        hooks.append(last.register_forward_hook(partial(end, name)))

    def call(**some: Any) -> tuple[Any, dict[str, float]]:
        spans.clear()
        start = clock(device)
        out = model(**some, use_cache=True)
        before = begun["llm"] - start - spans["encoder"] - spans["projector"]
        return out.past_key_values, {
            "before": before,
            "layers": spans["layers"],
            "else": spans["llm"] - spans["layers"],
        }

    try:
        with fewhertz.compress(model, spec):
            cache, read = call(**inputs)
            ids = inputs["input_ids"][:, :1]
            steps = [call(input_ids=ids, past_key_values=cache)[1] for _ in range(DECODE_STEPS)]
    finally:
        for hook in hooks:
            hook.remove()
    return {"prefill": read, "decode": {part: statistics.median(step[part] for step in steps) for part in read}}


def layers(size: dict[str, Any], shape: dict[str, Any], device: str, like: dict[str, Any]) -> list[dict[str, Any]]:
    """The LLM's time as it is told, over that as packed."""
    model = build(configuration(shape), device, like["dtype"])
    depth = shape["text"]["num_hidden_layers"]
    rows = []
    for clips in size["clips"][device]:
        inputs = request(model.config, Case(clips, 1), device, like["dtype"])
        samples: dict[str, list[dict[str, dict[str, float]]]] = defaultdict(list)
        with encode_once(model):
            sample(model, inputs, "pool@keep=1/3+time+sizes", device)
            for _ in range(size["layer_rounds"]):
                for suffix in SUFFIXES:
                    samples[suffix].append(sample(model, inputs, f"pool@keep=1/3{suffix}", device))
        tokens = Case(clips, 1).prompt(fewhertz.parse("pool@keep=1/3").num_tokens(prefill.tokens_of_clip(model.config)))
        for phase in ("prefill", "decode"):
            for suffix, ones in samples.items():
                own, base = ([one[phase] for one in some] for some in (ones, samples[""]))
                rows.append(
                    {
                        "method": f"pool@keep=1/3{suffix}",
                        "phase": phase,
                        "clips": clips,
                        "tokens": tokens,
                        "layers": depth,
                        "seconds": {part: statistics.median(one[part] for one in own) for part in own[0]},
                        "layers_over_packed": ratio([o["layers"] for o in own], [b["layers"] for b in base]),
                        f"over_packed_{LAYERS}_layers": ratio(
                            [_whole(o, depth) for o in own], [_whole(b, depth) for b in base]
                        ),
                    }
                )
        progress(f"layer: {clips} × 30 s")
    return rows


def _whole(parts: dict[str, float], depth: int) -> float:
    """What the layers of a 7B take by what `depth` of them took, and what is done once for all of them."""
    return parts["before"] + parts["else"] + parts["layers"] * LAYERS / depth


@dataclass(frozen=True)
class Prompt:
    """Embeddings (1 w d) of a compressed prompt, their positions and sizes (w), and where its audio ends."""

    tokens: Tensor
    positions: Tensor
    sizes: Tensor
    end: int


def compared(model: Any, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What follows the audio, over merged tokens with log s and without, against what it is over copies of them."""
    llm = model.get_decoder()
    states: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _m, _a, out: states.append(_tensor(out))) for layer in llm.layers]
    off: dict[str, list[list[Tensor]]] = {name: [[] for _ in llm.layers] for name in ("told", "untold")}
    words: dict[str, dict[str, list[Tensor]]] = {name: defaultdict(list) for name in off}

    def run(x: Tensor, at: Tensor, later: int) -> tuple[list[Tensor], Tensor]:
        states.clear()
        mask = torch.ones(at.shape, device=x.device)
        last = llm(inputs_embeds=x, position_ids=at, attention_mask=mask, use_cache=False).last_hidden_state
        return [s[0, -later:].float() for s in states], model.lm_head(last[0, -later:]).float().log_softmax(-1)

    try:
        for p in prompts:
            later = p.tokens.shape[1] - p.end
            copies = p.sizes.to(p.tokens.device)
            whole, expected = run(
                p.tokens.repeat_interleave(copies, 1), p.positions.repeat_interleave(copies)[None], later
            )
            for name, log_sizes in (("told", copies.log()[None]), ("untold", None)):
                with sized(model, log_sizes):
                    got, given = run(p.tokens, p.positions[None], later)
                for layer, (one, right) in enumerate(zip(got, whole, strict=True)):
                    off[name][layer].append((one - right).norm(dim=-1) / right.norm(dim=-1))
                top = expected.argmax(-1, keepdim=True)
                words[name]["off"].append((given - expected).gather(-1, top).abs()[:, 0])
                words[name]["kl"].append((expected.exp() * (expected - given)).sum(-1))
                words[name]["same"].append((given.argmax(-1, keepdim=True) == top)[:, 0].float())
    finally:
        for hook in hooks:
            hook.remove()
    rows = []
    for layer in range(len(llm.layers)):
        row: dict[str, Any] = {"layer": layer + 1}
        for name, found in off.items():
            values = torch.cat(found[layer])
            row[name] = {"mean": values.mean().item(), "largest": values.max().item()}
        rows.append(row)
    return {
        "prompts": len(prompts),
        "positions": sum(p.tokens.shape[1] - p.end for p in prompts),
        "by_layer": rows,
        "next_token": {
            name: {
                "log_probability_mean": torch.cat(found["off"]).mean().item(),
                "log_probability_largest": torch.cat(found["off"]).max().item(),
                "kl_mean": torch.cat(found["kl"]).mean().item(),
                "same_token": torch.cat(found["same"]).mean().item(),
            }
            for name, found in words.items()
        },
    }


def _tensor(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]


def random_prompts(model: Any, deep: dict[str, int], count: int) -> list[Prompt]:
    """Text, audio tokens that stand for 1 to 5, text."""
    source = torch.Generator().manual_seed(6)
    embed = model.get_input_embeddings().weight
    prompts = []
    for _ in range(count):
        sizes = torch.randint(1, 6, (deep["audio"],), generator=source)
        ids = torch.randint(0, prefill.ID_LIMIT, (2 * deep["text"],), generator=source).to(embed.device)
        heard = torch.randn(deep["audio"], embed.shape[1], generator=source).to(embed) * embed.std()
        tokens = torch.cat([embed[ids[: deep["text"]]], heard, embed[ids[deep["text"] :]]])[None]
        ones = torch.ones(deep["text"], dtype=torch.long)
        all_sizes = torch.cat([ones, sizes, ones])
        positions = all_sizes.cumsum(0) - (all_sizes + 1) / 2
        prompts.append(Prompt(tokens, positions.to(embed.device), all_sizes, deep["text"] + deep["audio"]))
    return prompts


@dataclass(frozen=True)
class Speech:
    """A recording and what is said in it."""

    wave: Any
    text: str


def speech(manifests: Path | None, count: int) -> list[Speech]:
    """Recordings of the dev lists, half strings of words and half sentences; without them the bundled clips."""
    # here, since the rest, which another bench uses, needs no library that reads audio
    from fewhertz import audio
    from fewhertz.demo import bundled

    if manifests is None:
        return [Speech(clip.wave, clip.text) for clip in bundled(count)]
    found = []
    for name in ("strings-dev", "synthetic-dev"):
        rows = [json.loads(line) for line in (manifests / f"{name}.jsonl").read_text("utf-8").splitlines()]
        picked = rows[:: max(1, len(rows) // (count // 2))][: count // 2]
        found += [Speech(audio.load(manifests / row["audio"]), row["text"]) for row in picked]
    return found


def requests(processor: Any, said: Sequence[Speech], device: str) -> list[dict[str, Any]]:
    """What pocket gets of each recording: the prompt, and after it what is said."""
    from fewhertz.run import request as ask

    asked = []
    for one in said:
        inputs = ask(processor, [one.wave]).to(device)
        ids = torch.tensor([processor.tokenizer(one.text, add_special_tokens=False)["input_ids"]], device=device)
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        asked.append(dict(inputs) | {name: torch.cat([inputs[name], more], 1) for name, more in text.items()})
    return asked


def pocket_prompts(model: Any, asked: Sequence[dict[str, Any]], spec: str) -> list[Prompt]:
    """What pocket's LLM reads of each request, as the method merges its audio."""
    prompts = []
    for inputs in asked:
        seen: dict[str, Any] = {}
        hook = model.get_decoder().register_forward_pre_hook(
            lambda _m, _a, kw, into=seen: into.update(kw), with_kwargs=True
        )
        try:
            with fewhertz.compress(model, spec) as handle:
                model(**inputs)
        finally:
            hook.remove()
        [plan] = handle.last.plans
        start = int((inputs["input_ids"][0] == model.config.audio_token_id).long().argmax())
        sizes = torch.ones(seen["inputs_embeds"].shape[1], dtype=torch.long)
        sizes[start : start + plan.m] = plan.sizes()[0].long().cpu()
        prompts.append(Prompt(seen["inputs_embeds"], seen["position_ids"][0], sizes, start + plan.m))
    return prompts


def depth(size: dict[str, Any], model: Any, asked: Sequence[dict[str, Any]], device: str) -> list[dict[str, Any]]:
    """Copies against sizes, in an LLM of random weights and in pocket's, in float32."""
    deep = size["deep"]
    text = prefill.QUICK["text"] | {"num_hidden_layers": deep["layers"]}
    text |= {name: deep[name] for name in ("hidden_size", "intermediate_size")}
    text |= {"num_attention_heads": deep["heads"], "num_key_value_heads": deep["heads"]}
    blank = build(configuration(prefill.QUICK | {"text": text}), device, torch.float32)
    drawn = {"weights": "random", "tokens": "random, 1 to 5 copies"}
    rows = [drawn | compared(blank, random_prompts(blank, deep, size["speech"]))]
    progress("depth: random weights")
    with encode_once(model):
        for keep in size["depth_keeps"]:
            spec = f"pool@keep={keep}+time"
            rows.append({"weights": "pocket", "tokens": spec} | compared(model, pocket_prompts(model, asked, spec)))
            progress(f"depth: {spec}")
    return rows


def cost(size: dict[str, Any], device: str, like: dict[str, Any]) -> list[dict[str, Any]]:
    """Time of `ward` and `optimal` on random tokens, over the prefill time that they save in a whole LLM."""
    rows = []
    for name, keep in size["cost"]:
        shape, n = size["shapes"][name], size["cost_tokens"]
        all_layers = LAYERS if name == "Qwen2-Audio-7B" else LAYERS_7B
        saved = n - fewhertz.parse(f"pool@keep={keep}").num_tokens(n)
        runs: dict[str, Callable[[], object]] = {"layer": decoder_layer(shape, 1, saved, like)}
        specs = {f"{method}@keep={keep}": method for method in ("ward", "optimal")}
        for batch in size["cost_batches"]:
            x = torch.randn(batch, n, shape["hidden_size"], **like)
            runs |= {f"{spec}, {batch}": application(fewhertz.parse(spec), x) for spec in specs}
        for way, run in runs.items():
            if way == "layer" or way.endswith(", 1"):  # the large ones have nothing left to find made
                run()
        times = in_turns(runs, size["cost_rounds"], device)
        for spec, method in specs.items():
            for batch in size["cost_batches"]:
                # a layer's time is linear in the number of sequences: each attends to itself alone
                share = ratio(times[f"{spec}, {batch}"], times["layer"]) / (batch * all_layers)
                rows.append(
                    {
                        "method": spec,
                        "shape": name,
                        "batch": batch,
                        "tokens": n,
                        "tokens_saved": batch * saved,
                        "layers": all_layers,
                        "seconds": statistics.median(times[f"{spec}, {batch}"]),
                        "layer_seconds_of_one": statistics.median(times["layer"]),
                        "share_of_prefill_saved": share,
                        "bar": WARD_BAR if method == "ward" else None,
                        "met": share <= WARD_BAR if method == "ward" else None,
                    }
                )
        progress(f"cost: {name}, keep={keep}")
    return rows


def distance(x: Tensor, plan: Plan) -> float:
    """Squared distance of a clip's tokens of length 1 to the mean of their group, by the definition."""
    unit = normalize(x.double(), dim=-1, eps=1e-30)
    means = plan.apply(unit)
    return (unit - means.gather(1, plan.group[..., None].expand_as(unit))).square().sum().item()


def objective(size: dict[str, Any], model: Any, asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The distances of ward's segments over those of the best, on what the LLM of pocket reads of recordings."""
    family = family_of(model)
    clips = []
    for inputs in asked:
        features = {name: inputs[name] for name in family.audio_inputs}
        windows = family.encode(model, features, inputs["input_ids"], "llm", False)
        clips += [clip[None] for clip in windows.tokens.split(windows.lengths)]
    rows = []
    for keep in size["keeps"]:
        # no limit to a segment: the best of all ways
        near, best, pool = (
            [distance(x, fewhertz.parse(f"{name}@keep={keep}").plan(x, Clip(RATE))) for x in clips]
            for name in ("ward", "optimal(longest=100)", "pool")
        )
        each = [a / b for a, b in zip(near, best, strict=True)]
        together = sum(near) / sum(best)
        rows.append(
            {
                "keep": keep,
                "clips": len(clips),
                "ward_over_optimal": together,
                "ward_over_optimal_mean_of_clips": statistics.mean(each),
                "ward_over_optimal_largest_of_clips": max(each),
                "clips_within_bar": sum(one <= OBJECTIVE_BAR for one in each),
                "pool_over_optimal": sum(pool) / sum(best),
                "bar": OBJECTIVE_BAR,
                "met": together <= OBJECTIVE_BAR,
            }
        )
    return rows


def bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Verdicts, by the rows alone."""
    exact = [r for r in result["exact"] if r["told"] and r["dtype"] == "float32" and r["difference"] is not None]
    first = [
        {"where": f"{run['weights']}, {run['tokens']}", "value": run["by_layer"][0]["told"]["largest"]}
        for run in result["depth"]
    ]
    judged = [
        ("every way over copies, float32, largest difference", EXACT_BAR, exact, "difference"),
        ("log s over copies after one layer, largest relative difference", EXACT_BAR, first, "value"),
        ("a layer by the mask over one by the fastest way", OTHER_WAY_BAR, result["choices"], "mask_over_fastest"),
        ("ward over the prefill time that it saves", WARD_BAR, [r for r in result["cost"] if r["bar"]], None),
        (
            "ward's distances over optimal's, all clips together",
            OBJECTIVE_BAR,
            result["objective"],
            "ward_over_optimal",
        ),
    ]
    found = []
    for what, bar, rows, field in judged:
        name = field or "share_of_prefill_saved"
        worst = max(rows, key=lambda row: row[name])
        where = ", ".join(str(worst[k]) for k in ("shape", "phase", "method", "way", "fastest", "where") if k in worst)
        more = ", ".join(f"{k} {worst[k]}" for k in ("tokens", "batch", "keep") if k in worst)
        found.append(
            {
                "what": what,
                "bar": bar,
                "worst": worst[name],
                "where": ", ".join(filter(None, (where, more))),
                "met": worst[name] <= bar,
            }
        )
    return found


def notes(device: str) -> list[str]:
    """How the figures came about."""
    timed = "seconds are the wall clock's" if device == "cuda" else "seconds are the processor's, of one thread"
    return [
        "the machine was shared with other work: what is compared was measured in turns, in rounds, and ratios are "
        f"medians of each round's ratio; {timed}",
        "attention: by the function that transformers' layers call; masks are made before, as once for all layers",
        "plain: causal, told nothing; boolean: as in a padded batch, told nothing; mask: log s in an additive mask, "
        f"the library's way; in parts: {PART} queries at a time, over the keys up to the last of them",
        "dims: log s in 2 of 8 more dimensions of queries and keys, as in fewhertz.vllm.corrections; "
        "widened in the call, or kept wide in the cache, which then is 8/128 larger",
        "flex: FlexAttention with a score_mod, compiled, unless quick",
        "of_layer: attention and the layer's matrices, over the same with plain attention; matrices are timed on their "
        "own, at prefill per token",
        f"over_packed_{LAYERS}_layers: {LAYERS} layers, and once what is done for all of them: compression, masks and "
        "angles; without the vocabulary",
        "depth: float32, all positions after the audio; log probabilities are of the token that is likeliest over "
        "copies",
        "cost: plan and apply on random tokens; the layer is timed on what one clip saves, as a sequence of its own, "
        "which leaves out what those tokens cost the ones that stay",
        "objective: on what pocket's LLM reads of recordings; optimal without a limit, the best of all ways",
    ]


def show(result: dict[str, Any]) -> None:
    """The result as tables."""
    console = Console(width=max(130, Console().width))
    if result["quick"]:
        console.print("quick: tiny shapes, so the times say nothing")

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
        for i, column in enumerate(columns):
            made.add_column(column, justify="right" if i else "left", no_wrap=True)
        return made

    for phase in ("prefill", "decode"):
        rows = [row for row in result["attention"] if row["phase"] == phase]
        cases = list(dict.fromkeys((row["shape"], row["tokens"], row["batch"]) for row in rows))
        columns = [f"{shape.removeprefix('Qwen2-')}\n{n:,} × {batch}" for shape, n, batch in cases]
        made = table(f"{phase}: attention over plain (a layer over one with plain)", "way", *columns)
        for way in dict.fromkeys(row["way"] for row in rows):
            cells = []
            for case in cases:
                row = next((r for r in rows if (r["shape"], r["tokens"], r["batch"], r["way"]) == (*case, way)), None)
                told = row is not None and row["of_plain"] is not None
                cells.append(f"{row['of_plain']:.2f} ({row['of_layer']:.2f})" if told else "–")
            made.add_row(way, *cells)
        console.print(made)
    for text in dict.fromkeys(f"{row['way']}: {row['refused']}" for row in result["attention"] if row["refused"]):
        console.print(f"refused: {text}", highlight=False)
    for text in result["left_out"]:
        console.print(f"left out: {text}", highlight=False)

    made = table("Qwen2-Audio-7B told, over packed", "method", "", "tokens", "layers", f"of {LAYERS} layers")
    for row in result["layer"]:
        ratios = f"{row['layers_over_packed']:.3f}", f"{row[f'over_packed_{LAYERS}_layers']:.3f}"
        made.add_row(row["method"], row["phase"], f"{row['tokens']:,}", *ratios)
    console.print(made)

    made = table(
        "after the audio, against copies",
        "weights, tokens",
        "layer",
        "told: mean",
        "largest",
        "untold: mean",
        "largest",
    )
    for run in result["depth"]:
        for row in run["by_layer"]:
            cells = (f"{row[name][of]:.1e}" for name in ("told", "untold") for of in ("mean", "largest"))
            made.add_row(f"{run['weights']}, {run['tokens']}", str(row["layer"]), *cells)
    console.print(made)
    made = table("next token, against copies", "weights, tokens", "", "log p: mean", "largest", "KL", "same token")
    for run in result["depth"]:
        for name, row in run["next_token"].items():
            off = f"{row['log_probability_mean']:.2e}", f"{row['log_probability_largest']:.2e}", f"{row['kl_mean']:.1e}"
            made.add_row(f"{run['weights']}, {run['tokens']}", name, *off, f"{row['same_token']:.1%}")
    console.print(made)

    made = table("time over the prefill time saved", "method", "shape", "batch", "share", "bar")
    for row in result["cost"]:
        bar = "–" if row["bar"] is None else f"{row['bar']:.0%}"
        made.add_row(row["method"], row["shape"], str(row["batch"]), f"{row['share_of_prefill_saved']:.3%}", bar)
    console.print(made)
    made = table("squared distance over optimal's", "keep", "ward", "mean of clips", "largest", "within bar", "pool")
    for row in result["objective"]:
        of = (row[f"ward_over_optimal{which}"] for which in ("", "_mean_of_clips", "_largest_of_clips"))
        within = f"{row['clips_within_bar']} of {row['clips']}"
        made.add_row(row["keep"], *(f"{one:.4f}" for one in of), within, f"{row['pool_over_optimal']:.3f}")
    console.print(made)
    for bar in result["bars"]:
        said = "met" if bar["met"] else "[red]missed[/red]"
        console.print(
            f"{bar['what']}: at most {bar['bar']:g}: {said}; worst: {bar['worst']:.4g} ({bar['where']})",
            highlight=False,
        )


def main(
    out: Annotated[Path, typer.Option(help="Result file (JSON).")],
    quick: Annotated[bool, typer.Option(help="Tiny shapes: shows that the bench runs, measures nothing.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda; by default cuda where there is one.")] = "",
    manifests: Annotated[Path, typer.Option(help="Folder of the dev lists.")] = Path("out/dev"),
) -> None:
    """Measure, write the result file, print the tables."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not quick and not (manifests / "strings-dev.jsonl").exists():
        make = "python -m recipes.pocket.manifests --split dev --limit 200 --lists strings synthetic --out out/dev"
        raise typer.BadParameter(f"no dev lists in {manifests}: {make}")
    if device == "cpu":
        torch.set_num_threads(1)  # seconds of the processor are of all threads, and waiting ones count
    size = QUICK if quick else FULL
    shape = prefill.QUICK if quick else WHOLE if device == "cuda" else ON_CPU
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    like: dict[str, Any] = {"device": device, "dtype": dtype}
    # one that is not compiled gives the same, slowly; compiling takes longer than a test may
    flex: Callable[..., Any] = (
        flex_attention if quick else torch.compile(flex_attention, dynamic=device == "cpu" or None)
    )
    by_name = quick or device == "cuda"
    torch.manual_seed(0)
    before = environment(device)
    result: dict[str, Any] = {
        "what": "price and exactness of telling the LLM sizes; price and objective of ward",
        "notes": notes(device),
        "quick": quick,
        "configuration": {
            **size,
            "model": shape,
            "device": device,
            "dtype": str(dtype).split(".")[1],
            "clock": "wall" if device == "cuda" else "processor",
            "speech_from": "bundled" if quick else str(manifests),
        },
        "environment": before,
    }
    model, processor = fewhertz.load("pocket", device=device, dtype="float32")
    model.eval()
    asked = requests(processor, speech(None if quick else manifests, size["speech"]), device)
    with torch.inference_mode():
        result["exact"] = list(exactness(size, flex, by_name, like))
        progress("exactness")
        result["objective"] = objective(size, model, asked)
        progress("objective")
        result["depth"] = depth(size, model, asked, device)
        result["attention"], result["left_out"] = attention(size, flex, by_name, device, like)
        result["choices"] = choices(result["attention"])
        result["cost"] = cost(size, device, like)
        result["layer"] = layers(size, shape, device, like)
    result["bars"] = bars(result)
    save(result, out)
    show(result)
    Console().print(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
