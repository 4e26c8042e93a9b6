"""s copies of a token at one position against one token with log s, layer by layer.

In the first layer that is the same; in the layers above each copy has seen another past. By how much what follows the
audio differs, in an LLM of random weights and in pocket's. Part of `python -m bench.corrections`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fewhertz
from bench.record import progress
from bench.shapes import ID_LIMIT, TINY_AUDIO, TINY_TEXT, build, configuration
from fewhertz.corrections import sized
from fewhertz.once import encode_once


@dataclass(frozen=True)
class Prompt:
    """Embeddings (1 w d) of a compressed prompt, their positions and sizes (w), and where its audio ends."""

    tokens: Tensor
    positions: Tensor
    sizes: Tensor
    end: int


def compared(model: Any, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What follows the audio, over merged tokens with log s ("told") and without, against what it is over copies."""
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
        ids = torch.randint(0, ID_LIMIT, (2 * deep["text"],), generator=source).to(embed.device)
        audio = torch.randn(deep["audio"], embed.shape[1], generator=source).to(embed) * embed.std()
        tokens = torch.cat([embed[ids[: deep["text"]]], audio, embed[ids[deep["text"] :]]])[None]
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
    text = TINY_TEXT | {"num_hidden_layers": deep["layers"]}
    text |= {name: deep[name] for name in ("hidden_size", "intermediate_size")}
    text |= {"num_attention_heads": deep["heads"], "num_key_value_heads": deep["heads"]}
    blank = build(configuration({"text": text, "audio": TINY_AUDIO}), device, torch.float32)
    drawn = {"weights": "random", "tokens": "random, 1 to 5 copies"}
    rows = [drawn | compared(blank, random_prompts(blank, deep, size["speech"]))]
    progress("depth: random weights")
    with encode_once(model):
        for keep in size["depth_keeps"]:
            spec = f"pool@keep={keep}+time"
            rows.append({"weights": "pocket", "tokens": spec} | compared(model, pocket_prompts(model, asked, spec)))
            progress(f"depth: {spec}")
    return rows
