"""Attention received, against the weights that eager attention keeps."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny import DEVICE, TINY, WINDOW, prompts
from torch.utils._python_dispatch import TorchDispatchMode

import fewhertz
import fewhertz.families
from fewhertz import scores
from fewhertz.families.base import FAMILIES, Windows
from fewhertz.scores import column_sums, token_means

FAMILY = {kind.name: kind for kind in FAMILIES}
FRAMES = {"voxtral": 4, "glm-asr": 4, "qwen3-asr": 1, "qwen3-omni": 1, "omni-asr": 1}  # per audio token; the others: 2
ROWS = [[400, 203], [317]]


@pytest.fixture(autouse=True)
def _can_be_had(request: pytest.FixtureRequest) -> None:
    if "family" in request.fixturenames and request.getfixturevalue("family") == "granite-speech":
        pytest.skip("refused: test_none_of_a_q_former")


@torch.no_grad()
def encoded(family: str, model: Any, batch: dict[str, torch.Tensor], with_scores: bool, site: str = "llm") -> Windows:
    kind = FAMILY[family]
    audio = {name: batch[name] for name in kind.audio_inputs}
    return kind.encode(model, audio, batch["input_ids"], site, with_scores)


def last_attention(model: Any) -> Any:
    """The self-attention of the encoder's last layer."""
    layer = model.base_model.audio_tower.layers[-1]
    return layer.attention if hasattr(layer, "attention") else layer.self_attn


@contextmanager
def eager_weights(model: Any) -> Iterator[list[torch.Tensor]]:
    """What the last encoder layer's eager attention computes: its weights, (windows, heads, queries, keys), a call."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    weights: list[torch.Tensor] = []
    tower = model.base_model.audio_tower
    attention = last_attention(model)
    eager = sys.modules[type(attention).__module__].eager_attention_forward

    def spy(module: Any, *args: Any, **kwargs: Any) -> Any:
        out = eager(module, *args, **kwargs)
        if module is attention:
            weights.append(out[1])
        return out

    AttentionInterface.register("spy", spy)
    AttentionMaskInterface.register("spy", eager_mask)
    before = tower.config._attn_implementation
    tower.config._attn_implementation = "spy"
    try:
        yield weights
    finally:
        tower.config._attn_implementation = before


def expected(family: str, model: Any, rows: list[list[int]], batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The definition, by loops over windows: columns summed over valid queries, mean over heads and frames."""
    with eager_weights(model) as weights:
        encoded(family, model, batch, with_scores=False)
    tiny, per_token = TINY[family], FRAMES.get(family, 2)
    mels = [part for row in rows for mel in row for part in tiny.windows(mel)]
    out = []
    if tiny.samples is not None:  # a row a clip, padded
        parts = [w.mean(0)[: tiny.tokens(n)].sum(0) for w, n in zip(weights[0], mels, strict=True)]
    elif tiny.window is None:  # packed: one call a block of frames, the blocks of each clip in turn
        columns = torch.cat([block[0].mean(0).sum(0) for block in weights])
        frames = [tiny.tokens(mel) if per_token == 1 else (mel - 1) // 2 + 1 for mel in mels]
        parts = list(columns.split(frames))
    else:
        frames = [1500 if family == "voxtral" else (mel - 1) // 2 + 1 for mel in mels]
        parts = [w.mean(0)[:n].sum(0)[:n] for w, n in zip(weights[0], frames, strict=True)]
    for mel, part in zip(mels, parts, strict=True):
        out += [part[i * per_token : (i + 1) * per_token].mean() for i in range(tiny.tokens(mel))]
    return torch.stack(out)


def test_agrees_with_eager(family: str, model: Any) -> None:
    for rows in (ROWS, [[WINDOW + 450 if TINY[family].longest is None else WINDOW]]):
        batch = prompts(family, rows)
        got = encoded(family, model, batch, with_scores=True)
        assert got.scores is not None
        assert got.scores.shape == got.tokens.shape[:1]
        torch.testing.assert_close(got.scores, expected(family, model, rows, batch), atol=1e-6, rtol=3e-6)
        assert got.scores.std() > 1e-4


def test_tokens_are_bit_identical(family: str, model: Any) -> None:
    batch = prompts(family, ROWS)
    before = copy.deepcopy(model.base_model.audio_tower.config)
    for site in FAMILY[family].sites:
        plain = encoded(family, model, batch, False, site)
        scored = encoded(family, model, batch, True, site)
        assert torch.equal(plain.tokens, scored.tokens)
        assert plain.lengths == scored.lengths
    attention = last_attention(model)
    assert attention.config is model.base_model.audio_tower.config  # nothing of the capture is left
    assert attention.config.to_dict() == before.to_dict()
    assert "_fewhertz_received" not in attention.__dict__


def test_windows_of_a_clip_compare(family: str, model: Any) -> None:
    """Whatever its length, a window's scores are 1 on average: topk cannot fall for a short last window."""
    mel = WINDOW if TINY[family].longest is not None else WINDOW + 450
    got = encoded(family, model, prompts(family, [[mel]]), with_scores=True)
    assert got.scores is not None
    if family == "glm-asr":  # its frames look at padding too: the short window receives less, never more
        assert got.scores[375:].mean() < 1.01
        return
    for part in got.scores.split(got.lengths):
        torch.testing.assert_close(part.mean(), torch.tensor(1.0), atol=0.02, rtol=0)
    assert got.scores.split(got.lengths)[-1].max() < 20


@torch.no_grad()
def test_a_method_gets_them(family: str, model: Any) -> None:
    batch = prompts(family, ROWS)
    got = encoded(family, model, batch, with_scores=True)
    assert got.scores is not None
    with fewhertz.compress(model, "topk@keep=1/3") as handle:
        model(**batch)
    clips = got.scores.split(handle.last.before)
    for clip, m, plan in zip(clips, handle.last.after, handle.last.plans, strict=True):
        assert plan is not None
        kept = (plan.group[0] >= 0).nonzero().flatten()
        assert torch.equal(kept, clip.argsort(descending=True, stable=True)[:m].sort().values)


@torch.no_grad()
def test_bf16(family: str, model: Any) -> None:
    half = copy.deepcopy(model).bfloat16()
    batch = prompts(family, ROWS)
    heard = FAMILY[family].audio_inputs[0]
    batch[heard] = batch[heard].bfloat16()
    got = encoded(family, half, batch, with_scores=True)
    assert got.scores is not None
    assert got.scores.dtype == torch.float32
    assert torch.equal(got.tokens, encoded(family, half, batch, with_scores=False).tokens)
    full = encoded(family, model, batch | {heard: batch[heard].float()}, with_scores=True)
    torch.testing.assert_close(got.scores, full.scores, atol=0.5, rtol=0.2)


def test_other_kernels_are_refused_by_name(family: str, model: Any) -> None:
    config = model.base_model.audio_tower.config
    before = config._attn_implementation
    config._attn_implementation_internal = "flex_attention"
    try:
        with pytest.raises(NotImplementedError, match="the audio encoder runs 'flex_attention'"):
            encoded(family, model, prompts(family, ROWS), with_scores=True)
    finally:
        config._attn_implementation_internal = before


# --- the function itself


def heads(n: int, b: int = 2, h: int = 4, g: int = 4, e: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(b, h, n, e, generator=generator).to(DEVICE),
        torch.randn(b, g, n, e, generator=generator).to(DEVICE),
    )


def naive(
    query: torch.Tensor, key: torch.Tensor, queries: torch.Tensor | None = None, keys: torch.Tensor | None = None
) -> torch.Tensor:
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    logits = query @ key.mT * 0.3
    if keys is not None:
        logits = logits.masked_fill(~keys[:, None, None], float("-inf"))
    columns = logits.softmax(-1).mean(1)
    return (columns if queries is None else columns * queries[..., None]).sum(1)


@pytest.mark.parametrize("g", [4, 2, 1])
def test_column_sums(monkeypatch: pytest.MonkeyPatch, g: int) -> None:
    query, key = heads(33, g=g)
    valid = torch.arange(33, device=DEVICE) < torch.tensor([[33], [20]], device=DEVICE)
    torch.testing.assert_close(column_sums(query, key, 0.3), naive(query, key))
    masked = column_sums(query, key, 0.3, queries=valid, keys=valid)
    torch.testing.assert_close(masked, naive(query, key, valid, valid))
    assert (masked[1, 20:] == 0).all()
    monkeypatch.setattr(scores, "_CHUNK_ELEMENTS", 1)  # one query at a time
    torch.testing.assert_close(column_sums(query, key, 0.3, queries=valid, keys=valid), masked)


def test_an_empty_window_gives_no_nan() -> None:
    query, key = heads(5)
    valid = torch.zeros(2, 5, dtype=torch.bool, device=DEVICE)
    assert (column_sums(query, key, 0.3, queries=valid, keys=valid) == 0).all()


class _Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_memory_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "_CHUNK_ELEMENTS", 1 << 16)
    largest = []
    for n in (512, 1024, 2048):
        query, key = heads(n, b=1, h=2, g=2)
        with _Largest() as mode:
            column_sums(query, key, 0.3)
        largest.append(mode.elements)
    assert max(largest) <= 1 << 17  # where n×n for two heads would be 1 << 23


def test_token_means_drop_a_rest() -> None:
    assert token_means(torch.tensor([[1.0, 3.0, 5.0, 7.0, 100.0]]), 2).tolist() == [[2.0, 6.0]]
    assert token_means(torch.tensor([1.0, 3.0]), 1).tolist() == [1.0, 3.0]


def test_none_of_a_q_former() -> None:
    model = TINY["granite-speech"].build()
    with pytest.raises(ValueError, match="topk needs attention scores, which granite-speech has not: its audio tokens"):
        fewhertz.compress(model, "topk@keep=1/3")
    with pytest.raises(NotImplementedError, match="granite-speech has no attention scores"):
        encoded("granite-speech", model, prompts("granite-speech", ROWS), with_scores=True)
