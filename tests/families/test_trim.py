"""Trimming: the tokens, scores and gradients of whole windows, from valid frames alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny import AUDIO_BOS, AUDIO_EOS, TINY, WINDOW, labels_of, prompts
from torch import Tensor

import fewhertz
import fewhertz.families
from fewhertz.families import whisper
from fewhertz.families.base import FAMILIES, Windows
from fewhertz.once import encode_once

FAMILY = {kind.name: kind for kind in FAMILIES}
MASKED = [name for name in TINY if isinstance(FAMILY[name], whisper.WhisperTower)]
HEARD = [name for name in TINY if FAMILY[name].padding == "heard"]
ROWS: list[list[list[int]]] = [[[500]], [[800], [301]], [[400, 203], [317]], [[7]], [[2983], [12]]]
WHOLE: list[list[list[int]]] = [[[WINDOW]], [[WINDOW - 1], [301]], [[WINDOW], [301, 44]]]
LONG: list[list[list[int]]] = [[[WINDOW + 450]], [[2 * WINDOW + 450, 200], [77]]]


@pytest.fixture(scope="module", params=MASKED)
def masked(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def trims(masked: str) -> Any:
    return TINY[masked].build()


def heard_padding(family: str, rows: list[list[int]], **options: Any) -> dict[str, Tensor]:
    """A batch whose mel has noise behind each clip: the convolutions see two frames of it, attention must see none."""
    batch = prompts(family, rows, **options)
    batch["input_features"] = torch.randn(batch["input_features"].shape, generator=torch.Generator().manual_seed(5)).to(
        batch["input_features"]
    )
    return batch


@contextmanager
def widths(model: Any) -> Iterator[list[int]]:
    """Mel frames that the tower read, a call."""
    seen: list[int] = []
    hook = model.base_model.audio_tower.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-1]))
    try:
        yield seen
    finally:
        hook.remove()


def encoded(family: str, model: Any, batch: dict[str, Tensor], trim: bool, site: str = "llm") -> Windows:
    kind = FAMILY[family]
    audio: dict[str, Any] = {name: batch[name] for name in kind.audio_inputs}
    if trim:
        model, audio = kind.trimmed(model, audio, batch["input_ids"])
    return kind.encode(model, audio, batch["input_ids"], site, scores=True)


def layouts(family: str) -> list[list[list[int]]]:
    return ROWS + WHOLE + (LONG if TINY[family].longest is None else [])


def assert_same(ours: Windows, stock: Windows) -> None:
    assert (ours.lengths, ours.full) == (stock.lengths, stock.full)
    torch.testing.assert_close(ours.tokens, stock.tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.scores, stock.scores, atol=1e-5, rtol=0)


@torch.no_grad()
def test_tokens_and_scores_are_the_stock_models(masked: str, trims: Any) -> None:
    for rows in layouts(masked):
        batch = heard_padding(masked, rows)
        for site in FAMILY[masked].sites:
            with widths(trims) as seen:
                assert_same(encoded(masked, trims, batch, True, site), encoded(masked, trims, batch, False, site))
            longest = max(part for row in rows for mel in row for part in TINY[masked].windows(mel))
            assert seen[1] == WINDOW and longest <= seen[0] <= min(WINDOW, longest + whisper.REACH + whisper.STEP)


@torch.no_grad()
@pytest.mark.parametrize("longest", range(496, 512))
def test_wherever_the_cut_falls(masked: str, trims: Any, longest: int) -> None:
    batch = heard_padding(masked, [[longest]])
    assert_same(encoded(masked, trims, batch, True), encoded(masked, trims, batch, False))


@torch.no_grad()
def test_the_convolutions_reach_so_far_and_no_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """One frame less would show: of 511 mel frames, the last encoder frame reads the 513th."""
    model, batch = TINY["qwen2-audio"].build(), heard_padding("qwen2-audio", [[511]])
    stock = encoded("qwen2-audio", model, batch, False)
    monkeypatch.setattr(whisper, "STEP", 2)
    for reach, same in ((2, True), (1, False)):
        monkeypatch.setattr(whisper, "REACH", reach)
        ours = encoded("qwen2-audio", model, batch, True)
        # pairs of frames are averaged: 256 frames make 128 tokens, the last of them with the last frame
        assert torch.allclose(ours.tokens[-1], stock.tokens[-1], atol=1e-5) == same


@torch.no_grad()
def test_a_batch_row_is_the_row_alone(masked: str, trims: Any) -> None:
    batch = heard_padding(masked, [[800], [301]])
    alone = {name: value[1:] for name, value in batch.items()}
    together, one = encoded(masked, trims, batch, True), encoded(masked, trims, alone, True)
    torch.testing.assert_close(together.tokens[-75:], one.tokens, atol=1e-5, rtol=0)


@torch.no_grad()
def test_adjacent_clips_stay_two_clips(masked: str, trims: Any) -> None:
    """Two clips without text between them: Music Flamingo tells their times by the width of a window."""
    batch = prompts(masked, [[510, 510]])
    ids = batch["input_ids"][0]
    between = ((ids == AUDIO_EOS) | (ids == AUDIO_BOS)).nonzero().flatten()[1:3]
    keep = torch.ones_like(ids, dtype=torch.bool)
    keep[int(between[0]) : int(between[1]) + 1] = False
    batch |= {name: batch[name][:, keep] for name in ("input_ids", "attention_mask")}
    stock = trims(**batch).logits
    with fewhertz.compress(trims, "none", trim=True) as handle:
        torch.testing.assert_close(trims(**batch).logits, stock, atol=1e-4, rtol=0)
    assert handle.last.before == [127, 127]


def test_where_it_is_on(masked: str, trims: Any) -> None:
    batch = prompts(masked, [[500], [301]])
    wide, short = [WINDOW], [512]
    for spec, trim, expected in [
        ("none", None, wide),
        ("pool@keep=1", None, wide),
        ("pool@25Hz", None, wide),
        ("none", True, short),
        ("pool@keep=1/2", None, short),
        ("affinity", None, short),
        ("topk(site=encoder)@8Hz", None, short),
        ("pool@keep=1/2", False, wide),
    ]:
        with fewhertz.compress(trims, spec, trim=trim), widths(trims) as seen, torch.no_grad():
            trims(**batch)
        assert seen == expected, (spec, trim)


@torch.no_grad()
def test_compressed_calls_are_those_of_whole_windows(masked: str, trims: Any) -> None:
    for rows in ([[800], [301]], [[400, 203], [317]]):
        batch = heard_padding(masked, rows)
        for spec in ("ward@keep=1/2+time+sizes", "topk@keep=1/3", "ltbm(site=encoder)@keep=1/3"):
            with fewhertz.compress(trims, spec, trim=False) as handle:
                stock, counts = trims(**batch, labels=labels_of(batch)), handle.last.after
                said = trims.generate(**batch, max_new_tokens=4, do_sample=False)
            with fewhertz.compress(trims, spec) as handle:
                ours = trims(**batch, labels=labels_of(batch))
                assert torch.equal(trims.generate(**batch, max_new_tokens=4, do_sample=False), said)
            assert handle.last.after == counts
            torch.testing.assert_close(ours.logits, stock.logits, atol=1e-4, rtol=0)
            torch.testing.assert_close(ours.loss, stock.loss, atol=1e-5, rtol=0)


def test_gradients_are_those_of_whole_windows(masked: str) -> None:
    model = TINY[masked].build()
    model.base_model.audio_tower.embed_positions.requires_grad_(True)
    batch = heard_padding(masked, [[500], [301]])
    grads = []
    for trim in (False, True):
        model.zero_grad()
        with fewhertz.compress(model, "pool@keep=1/2", trim=trim):
            model(**batch, labels=labels_of(batch)).loss.backward()
        tower = model.base_model.audio_tower
        grads.append([tower.conv1.weight.grad, tower.embed_positions.weight.grad, tower.layers[0].fc1.weight.grad])
    for stock, ours in zip(*grads, strict=True):
        assert stock.abs().sum() > 0
        torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-3)


@torch.no_grad()
def test_bf16(masked: str) -> None:
    model = TINY[masked].build().to(torch.bfloat16)
    batch = prompts(masked, [[500], [301]])
    batch["input_features"] = batch["input_features"].bfloat16()
    ours, stock = encoded(masked, model, batch, True), encoded(masked, model, batch, False)
    assert ours.tokens.dtype == torch.bfloat16
    torch.testing.assert_close(ours.tokens, stock.tokens, atol=0.1, rtol=0.1)


@torch.no_grad()
def test_nothing_of_the_model_is_changed(masked: str, trims: Any) -> None:
    before = copy.deepcopy(trims.config.to_dict())
    tower = trims.base_model.audio_tower
    own = {name: list(part.__dict__) for name, part in (("model", trims), ("core", trims.base_model), ("tower", tower))}
    weights = {name: id(one) for name, one in trims.named_parameters()}
    encoded(masked, trims, prompts(masked, [[500]]), True)
    assert trims.config.to_dict() == before and trims.base_model.audio_tower is tower
    assert tower.config.max_source_positions == WINDOW // 2 == len(tower.embed_positions.weight)
    assert {name: id(one) for name, one in trims.named_parameters()} == weights
    assert own == {
        name: list(part.__dict__) for name, part in (("model", trims), ("core", trims.base_model), ("tower", tower))
    }


@torch.no_grad()
def test_hooks_stay_one_each_where_hidden_states_are_recorded(masked: str) -> None:
    model = TINY[masked].build()
    model.base_model.audio_tower.config.output_hidden_states = True
    batch = prompts(masked, [[500]])
    for _ in range(3):
        encoded(masked, model, batch, True)
    assert not model.base_model.audio_tower.layers[0]._forward_hooks


@torch.no_grad()
def test_threads_trim_one_model_to_their_own_lengths(masked: str, trims: Any) -> None:
    batches = [heard_padding(masked, [[mel]], seed=mel) for mel in range(100, 1300, 100)]
    with fewhertz.compress(trims, "topk@keep=1/2+time+sizes"):
        alone = [trims(**batch).logits for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda batch: trims(**batch).logits, batches * 3))
    for ours, expected in zip(together, alone * 3, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_encode_once_keeps_trimmed_and_whole_apart(masked: str, trims: Any) -> None:
    batch = heard_padding(masked, [[500]])
    stock = trims(**batch).logits
    with encode_once(trims, scores=True), widths(trims) as seen:
        for spec in ("pool@keep=1/2", "topk@keep=1/4", "pool@keep=1", "ward@keep=1/2", "none"):
            with fewhertz.compress(trims, spec):
                logits = trims(**batch).logits
    assert seen == [512, WINDOW]
    assert torch.equal(logits, stock)


@torch.no_grad()
def test_a_tower_with_accelerates_hooks(masked: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = TINY[masked].build()
    batch = heard_padding(masked, [[500], [301]])
    stock = encoded(masked, model, batch, False)
    model = accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
    with widths(model) as seen:
        ours = encoded(masked, model, batch, True)
    assert seen == [512] and hasattr(model.base_model.audio_tower, "_hf_hook")
    assert_same(ours, stock)


@torch.no_grad()
def test_a_tower_that_somebody_has_wrapped_reads_whole_windows(masked: str) -> None:
    model = TINY[masked].build()
    batch = heard_padding(masked, [[500]])
    stock = encoded(masked, model, batch, False)
    tower = model.base_model.audio_tower
    plain = tower.forward
    tower.forward = lambda *args, **kwargs: plain(*args, **kwargs)
    with widths(model) as seen:
        ours = encoded(masked, model, batch, True)
    assert seen == [WINDOW]
    assert torch.equal(ours.tokens, stock.tokens)


@pytest.mark.parametrize("family", HEARD)
def test_families_that_hear_padding_are_refused_by_name(family: str) -> None:
    model, batch = TINY[family].build(), prompts(family, [[500]])
    with pytest.raises(ValueError, match=f"{family} cannot be trimmed: its encoder attends to the padding"):
        fewhertz.compress(model, "none", trim=True)
    assert fewhertz.attached(model) is None
    if family == "granite-speech":  # no windows: its rows are as long as the longest clip
        return
    with fewhertz.compress(model, "pool@keep=1/2"), widths(model) as seen, torch.no_grad():
        model(**batch)
    assert seen == [WINDOW]


@torch.no_grad()
@pytest.mark.parametrize("family", [name for name in TINY if FAMILY[name].padding == "left out"])
def test_families_that_leave_padding_out_are_as_they_are(family: str) -> None:
    """What stands behind a clip does not reach the encoder, and their tokens stay bit for bit."""
    model, batch = TINY[family].build(), prompts(family, [[800], [301]])
    audio = {name: batch[name] for name in FAMILY[family].audio_inputs}
    assert FAMILY[family].trimmed(model, audio, batch["input_ids"]) == (model, audio)
    stock = model(**batch).logits
    with fewhertz.compress(model, "none", trim=True):
        assert torch.equal(model(**batch).logits, stock)
    layer, seen = model.base_model.audio_tower.layers[0], []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].numel() // args[0].shape[-1]))
    model(**batch)
    hook.remove()
    frames = sum((mel - 1) // 2 + 1 for mel in (800, 301)) if family == "qwen2.5-omni" else 104 + 40
    assert seen == [frames]


@torch.no_grad()
def test_waves_are_cut_where_a_batch_is_padded_beyond_its_longest_clip() -> None:
    """OmniASR has no windows: its processor pads to the longest clip, and a caller may pad to a fixed length."""
    model = TINY["omni-asr"].build()
    for rows in ROWS[:3]:
        batch = prompts("omni-asr", rows)
        wide = batch | {name: torch.nn.functional.pad(batch[name], (0, 70_001)) for name in ("input_values",)}
        wide["input_values"] += 1 - torch.nn.functional.pad(batch["padding_mask"], (0, 70_001))[:, None]  # noise
        wide["padding_mask"] = torch.nn.functional.pad(batch["padding_mask"], (0, 70_001))
        seen: list[int] = []
        hook = model.model.audio_tower.subsampling.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0].shape[-1])
        )
        for site in ("llm", "encoder"):
            stock = encoded("omni-asr", model, wide, False, site)
            assert_same(encoded("omni-asr", model, wide, True, site), stock)
            assert_same(encoded("omni-asr", model, batch, True, site), stock)
        hook.remove()
        longest = 160 * max(mel for row in rows for mel in row)
        assert seen == [longest + 70_001, longest, longest] * 2
    with fewhertz.compress(model, "pool@keep=1/3", trim=True) as handle:
        model(**wide)
    assert handle.last.after == [handle.method.num_tokens(n) for n in handle.last.before]
