"""Corrections: when compressed tokens were, and how many tokens each stands for; in every family."""

from __future__ import annotations

import copy
import inspect
import json
import math
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from typing import Any

import pytest
import torch
from tiny import AUDIO, DEVICE, PAD, TINY, cache_of, labels_of, prompts, with_cache
from torch import Tensor, nn

import fewhertz
from fewhertz.corrections import sized
from fewhertz.families import family_of
from fewhertz.method import METHODS, Chain, Clip, Method

# peft asks transformers for a name that transformers has renamed
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
]

SPEC = "segment@keep=1/3+time+sizes"
ROWS = [[400, 203], [317]]
OMNI = ["qwen2.5-omni", "qwen3-omni"]


@pytest.fixture
def qwen() -> Any:
    return TINY["qwen2-audio"].build()


@contextmanager
def inputs_of_llm(model: Any) -> Iterator[list[dict[str, Any]]]:
    """What the LLM gets, call by call."""
    seen: list[dict[str, Any]] = []
    hook = model.get_decoder().register_forward_pre_hook(lambda _module, _args, kw: seen.append(kw), with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def last_logits(model: Any, batch: dict[str, Tensor], count: int = 1) -> Tensor:
    with torch.no_grad():
        return model(**batch).logits[:, -count:]


def generated(model: Any, batch: dict[str, Tensor], **options: Any) -> Any:
    torch.manual_seed(7)
    return model.generate(**batch, **{"max_new_tokens": 5, "do_sample": False} | options)


def new_tokens(model: Any, batch: dict[str, Tensor], **options: Any) -> Tensor:
    return generated(model, batch, **options)[:, batch["input_ids"].shape[1] :]


def row_alone(family: str, batch: dict[str, Tensor], rows: list[list[int]], i: int) -> dict[str, Tensor]:
    """Row `i` of a left-padded batch, without its padding."""
    windows = [sum(len(TINY[family].windows(mel)) for mel in row) for row in rows]
    start = sum(windows[:i])
    real = batch["attention_mask"][i].bool()
    alone = {name: batch[name][i : i + 1, real] for name in ("input_ids", "attention_mask")}
    return alone | {k: v[start : start + windows[i]] for k, v in batch.items() if k not in alone}


# --- specs, and where the choice shows


@pytest.mark.parametrize(
    ("spec", "positions", "sizes", "canonical"),
    [
        ("pool@keep=1/3", "packed", False, "pool@keep=1/3"),
        ("pool@keep=1/3+time", "time", False, "pool@keep=1/3+time"),
        ("pool@8Hz + sizes+time", "time", True, "pool@8Hz+time+sizes"),
        ("unseg+sizes", "packed", True, "unseg+sizes"),
        ("ltbm(window=1e+1s)@keep=1/2+time", "time", False, "ltbm(window=10.0s)@keep=1/2+time"),
        ("pool@keep=1/2 then stride@keep=1/2+sizes", "packed", True, "pool@keep=1/2 then stride@keep=1/2+sizes"),
    ],
)
def test_specs(spec: str, positions: str, sizes: bool, canonical: str) -> None:
    for method in (fewhertz.parse(spec), fewhertz.parse(fewhertz.parse(spec).spec)):
        assert (method.positions, method.sizes, method.spec) == (positions, sizes, canonical)
        bound = method.at(Fraction(25))
        assert (bound.positions, bound.sizes) == (positions, sizes)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("pool@keep=1/3+tiem", r"cannot read \+tiem of .* \+time, \+sizes, both or neither"),
        ("pool(positions=time)@keep=1/3", "has no parameter 'positions'"),
        ("pool@keep=1/2+time then pool@keep=1/2", "write .* at its end alone"),
        ("+time", "cannot read ''"),
    ],
)
def test_specs_that_are_none(spec: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        fewhertz.parse(spec)


def test_keywords_say_the_same(qwen: Any) -> None:
    with fewhertz.compress(qwen, "pool@keep=1/3", positions="time", sizes=True) as handle:
        assert handle.asked.spec == "pool@keep=1/3+time+sizes"
    with fewhertz.compress(qwen, "pool@keep=1/3+time+sizes", positions="packed") as handle:
        assert handle.asked.spec == "pool@keep=1/3+sizes"
    chain = Chain(first=fewhertz.parse("pool@keep=1/2"), second=fewhertz.parse("pool@keep=1/2"))
    with fewhertz.compress(qwen, chain, sizes=True) as handle:
        assert handle.asked.spec == "pool@keep=1/2 then pool@keep=1/2+sizes"
        assert not chain.sizes
    with pytest.raises(ValueError, match='"packed" or "time", got \'late\''):
        fewhertz.compress(qwen, "none", positions="late")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sizes is true or false"):
        fewhertz.compress(qwen, "none", sizes="yes")  # type: ignore[arg-type]


def test_the_choice_shows_and_is_carried(qwen: Any, tmp_path: Any) -> None:
    from fewhertz.checkpoint import open_checkpoint

    batch = prompts("qwen2-audio", ROWS)
    with fewhertz.compress(qwen, SPEC) as handle:
        assert SPEC in repr(qwen)
        assert SPEC in repr(handle)
        qwen.save_pretrained(tmp_path)
        last_logits(qwen, batch)
    assert (handle.last.positions, handle.last.sizes) == ("time", True)
    assert json.loads((tmp_path / "config.json").read_text())["audio_compression"] == {"method": SPEC}
    assert open_checkpoint(tmp_path).method == SPEC


def test_load_honours_the_choice(tmp_path: Any) -> None:
    from fewhertz.checkpoint import save_compressed

    model, _ = fewhertz.load(save_compressed("pocket", SPEC, tmp_path / "compressed"), device="cpu")
    handle = fewhertz.attached(model)
    assert handle is not None
    assert (handle.method.positions, handle.method.sizes, handle.asked.spec) == ("time", True, SPEC)


# --- what is refused


def test_a_learned_method_is_refused(qwen: Any) -> None:
    class Learned(Method, name="learned-for-this-test"):
        def forward(self, x: Tensor, clip: Clip) -> tuple[Tensor, None]:
            return x[:, : self.num_tokens(x.shape[1])], None

    class HalfLearned(Learned, name="half-learned-for-this-test"):
        def assign(self, x: Tensor, m: int, clip: Clip) -> Any:
            raise AssertionError

    try:
        with fewhertz.compress(qwen, Learned(keep=Fraction(1, 2))) as handle:
            for options in ({"sizes": True}, {"positions": "time"}):
                with pytest.raises(ValueError, match="learned-for-this-test is learned and has no plan"):
                    fewhertz.compress(qwen, Learned(keep=Fraction(1, 2)), **options)
            assert fewhertz.attached(qwen) is handle
        with (
            fewhertz.compress(qwen, HalfLearned(keep=Fraction(1, 2)), sizes=True),
            pytest.raises(ValueError, match="no plan"),
        ):
            qwen(**prompts("qwen2-audio", ROWS))
    finally:
        del METHODS["learned-for-this-test"], METHODS["half-learned-for-this-test"]


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flex_attention"])
def test_other_kernels_are_refused(qwen: Any, kernel: str) -> None:
    text = qwen.config.text_config
    batch = prompts("qwen2-audio", ROWS)
    with fewhertz.compress(qwen, SPEC):
        text._attn_implementation_internal = kernel
        with pytest.raises(NotImplementedError, match=f"runs {kernel!r}: load .* attn_implementation='sdpa'"):
            qwen(**batch)
        for spec in ("pool@keep=1/2+time", "pool@keep=1/2+sizes"):
            with pytest.raises(NotImplementedError, match=kernel):
                fewhertz.compress(qwen, spec)
        fewhertz.compress(qwen, "pool@keep=1/2").remove()


# --- how much: exact in one layer


def merged_and_not(model: Any, sizes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs of the LLM at the last of a few tokens: over copies, over one of each with the bias, and without."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(1, len(sizes), 32, generator=generator).to(DEVICE)
    times = torch.arange(len(sizes), device=DEVICE)[None] * 5
    repeats = torch.tensor(sizes, device=DEVICE)
    llm = model.get_decoder()

    def last(x: Tensor, at: Tensor) -> Tensor:
        return llm(
            inputs_embeds=x, position_ids=at, attention_mask=torch.ones(at.shape, device=DEVICE)
        ).last_hidden_state[0, -1]

    with torch.no_grad():
        whole = last(tokens.repeat_interleave(repeats, 1), times.repeat_interleave(repeats, 1))
        with sized(model, repeats.log()[None]):
            merged = last(tokens, times)
        return whole, merged, last(tokens, times)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_one_layer_is_exact(family: str, kernel: str) -> None:
    model = TINY[family].build()
    model.set_attn_implementation({"text_config": kernel})
    llm = model.get_decoder()
    llm.layers = nn.ModuleList([llm.layers[0]])
    whole, merged, plain = merged_and_not(model, [1, 3, 1, 7, 2, 1])
    torch.testing.assert_close(merged, whole, atol=1e-5, rtol=1e-5)
    assert (plain - whole).abs().max() > 1e-2


def test_deeper_layers_are_near(family: str, model: Any) -> None:
    """Copies of a token see different pasts, so that two layers are not exact; the bias is most of the way."""
    whole, merged, plain = merged_and_not(model, [1, 3, 1, 7, 2, 1])
    assert 1e-5 < (merged - whole).abs().max() < 0.7 * (plain - whole).abs().max()


# --- when and how much: against a plain forward that is given everything


def expected(family: str, batch: dict[str, Tensor], plans: list[Any]) -> tuple[list[list[float]], list[list[float]]]:
    """Positions and sizes of the real tokens of each row, token by token."""
    plans = list(plans)
    when, much = [], []
    for ids, mask in zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True):
        row = [i for i, real in zip(ids, mask, strict=True) if real]
        times, sizes, i = [], [], 0
        while i < len(row):
            if row[i] != AUDIO:
                times.append(float(i))
                sizes.append(1.0)
                i += 1
                continue
            plan = plans.pop(0)
            group = plan.group[0].tolist()
            members = [[j for j, g in enumerate(group) if g == k] for k in range(plan.m)]
            times += [i + sum(m) / len(m) for m in members]
            sizes += [float(len(m)) for m in members]
            i += plan.n
        when.append(times)
        much.append(sizes)
    assert not plans
    return when, much


def padded(rows: list[list[float]], side: str) -> Tensor:
    width = max(map(len, rows))
    blanks = [[0.0] * (width - len(row)) for row in rows]
    return torch.tensor([b + r if side == "left" else r + b for r, b in zip(rows, blanks, strict=True)], device=DEVICE)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", ["ltbm@keep=1/3", "pool@keep=1/2 then segment@keep=1/2"])
def test_forward_is_that_of_a_plain_model_told_the_same(family: str, model: Any, method: str, side: str) -> None:
    batch = prompts(family, ROWS, side)
    with fewhertz.compress(model, method + "+time+sizes") as handle, inputs_of_llm(model) as seen:
        ours = model(**batch).logits
    (got,) = seen
    when, much = (padded(rows, side) for rows in expected(family, batch, handle.last.plans))
    assert (when % 1).any()  # fractions
    assert (much > 1).any()
    mask = padded([[1.0] * int(n) for n in (much > 0).sum(1)], side).bool()
    places = mask.expand_as(got["position_ids"])
    torch.testing.assert_close(got["position_ids"][places], when.expand_as(places)[places].float())

    causal = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=DEVICE).tril()
    bias = torch.where(causal & mask[:, None, None], much.clamp_min(1).log()[:, None, None], -1e9)
    plain = model.get_decoder()(inputs_embeds=got["inputs_embeds"], position_ids=when, attention_mask=bias)
    logits = model.lm_head(plain.last_hidden_state)
    torch.testing.assert_close(ours[mask], logits[mask], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_each_half_does_something(family: str, model: Any) -> None:
    batch = prompts(family, ROWS)
    found = []
    for suffix in ("", "+time", "+sizes", "+time+sizes"):
        with fewhertz.compress(model, "segment@keep=1/3" + suffix):
            found.append(last_logits(model, batch))
    for i, one in enumerate(found):
        assert all((one - other).abs().max() > 1e-3 for other in found[:i])


@torch.no_grad()
def test_eager_is_sdpa(family: str, model: Any) -> None:
    batch = prompts(family, ROWS)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation({"text_config": "eager"})
    with fewhertz.compress(model, SPEC), fewhertz.compress(eager, SPEC):
        assert eager.get_decoder().layers[0].self_attn.config._attn_implementation == "eager"
        torch.testing.assert_close(last_logits(eager, batch), last_logits(model, batch), atol=1e-4, rtol=1e-4)
        assert torch.equal(new_tokens(eager, batch), new_tokens(model, batch))


# --- nothing to tell: nothing changes


@torch.no_grad()
def test_keep_1_is_exact(family: str, model: Any) -> None:
    for options in ({}, {"side": "right"}):
        batch = prompts(family, ROWS, **options)
        stock = model(**batch, labels=labels_of(batch))
        with fewhertz.compress(model, "segment@keep=1+time+sizes"):
            ours = model(**batch, labels=labels_of(batch))
        assert torch.equal(ours.logits, stock.logits)
        assert torch.equal(ours.loss, stock.loss)
    batch = prompts(family, [[800], [301]])
    modes: list[dict[str, Any]] = [{}, {"num_beams": 3}, {"cache_implementation": "static"}]
    for mode in modes:
        stock = generated(model, batch, **mode)
        with fewhertz.compress(model, "segment@keep=1+time+sizes"):
            assert torch.equal(generated(model, batch, **mode), stock)


@torch.no_grad()
def test_sizes_of_a_method_that_drops_are_all_one(family: str, model: Any) -> None:
    batch = prompts(family, ROWS)
    with fewhertz.compress(model, "stride@keep=1/3"):
        packed = model(**batch).logits
    with fewhertz.compress(model, "stride@keep=1/3+sizes"):
        assert torch.equal(model(**batch).logits, packed)


@torch.no_grad()
def test_removed_is_as_before(family: str, model: Any) -> None:
    batch = prompts(family, ROWS)
    llm = model.get_decoder()
    configs = llm.config, model.config.text_config
    text = model.config.to_json_string()
    stock, new = model(**batch).logits, new_tokens(model, batch)
    with fewhertz.compress(model, SPEC):
        model(**batch)
        new_tokens(model, batch)
        with pytest.raises(TypeError):  # an error on the way leaves nothing behind either
            model(**batch, no_such_argument_anywhere=object(), position_embeddings=1)
    assert (llm.config, model.config.text_config) == configs
    assert llm.config is configs[0]
    assert model.config.text_config is configs[1]
    assert model.config.to_json_string() == text
    assert torch.equal(model(**batch).logits, stock)
    assert torch.equal(new_tokens(model, batch), new)


# --- decoding


@torch.no_grad()
@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("suffix", ["+time", "+sizes", "+time+sizes"])
def test_decoding_is_one_forward(family: str, model: Any, suffix: str, cache: str | None) -> None:
    """The logits of each step are those of a forward without a cache over the prompt and what was generated."""
    batch = prompts(family, ROWS)
    with fewhertz.compress(model, "segment@keep=1/3" + suffix):
        out = generated(
            model, batch, return_dict_in_generate=True, output_logits=True, cache_implementation=cache, max_new_tokens=6
        )
        new = out.sequences[:, batch["input_ids"].shape[1] :]
        mask = torch.cat([batch["attention_mask"], torch.ones_like(new)], dim=1)
        whole = batch | {"input_ids": out.sequences, "attention_mask": mask}
        logits = model(**whole, use_cache=False).logits[:, -7:-1]
    torch.testing.assert_close(torch.stack(out.logits, dim=1), logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", OMNI, indirect=True)
def test_an_image_beside_the_audio(family: str, model: Any) -> None:
    batch = prompts(family, [[400], [203]], image=True)
    with fewhertz.compress(model, SPEC), inputs_of_llm(model) as seen:
        out = generated(model, batch, return_dict_in_generate=True, output_logits=True, max_new_tokens=6)
        new = out.sequences[:, batch["input_ids"].shape[1] :]
        mask = torch.cat([batch["attention_mask"], torch.ones_like(new)], dim=1)
        whole = batch | {"input_ids": out.sequences, "attention_mask": mask}
        logits = model(**whole).logits[:, -7:-1]
    torch.testing.assert_close(torch.stack(out.logits, dim=1), logits, atol=1e-4, rtol=1e-4)
    # an image of 2×2 tokens takes 2 positions instead of 4; the audio takes what it took uncompressed
    real = batch["attention_mask"].sum(1)
    assert torch.equal(seen[1]["position_ids"][-3:, :, 0], (real - 2).float().expand(3, -1))


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["+time", "+sizes", "+time+sizes"])
def test_a_decoding_loop_of_ones_own(family: str, model: Any, suffix: str) -> None:
    batch = prompts(family, [[400, 203]])
    with fewhertz.compress(model, "segment@keep=1/3" + suffix):
        new = new_tokens(model, batch, max_new_tokens=4)
        out = model(**batch, use_cache=True)
        for i in range(4):
            token = out.logits[:, -1:].argmax(-1)
            assert torch.equal(token[:, 0], new[:, i])
            if i == 3:
                break
            cache = cache_of(out)
            with pytest.raises(NotImplementedError, match="pass the whole prompt"):
                model.generate(input_ids=token, **with_cache(model, cache))
            out = model(input_ids=token, **with_cache(model, cache))
        whole = batch | {"input_ids": torch.cat([batch["input_ids"], new[:, :3]], 1)}
        whole["attention_mask"] = torch.ones_like(whole["input_ids"])
        torch.testing.assert_close(out.logits[:, -1], last_logits(model, whole)[:, 0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["", "+time", "+sizes", "+time+sizes"])
def test_a_loop_of_ones_own_over_a_padded_batch(qwen: Any, suffix: str) -> None:
    """Masks go on from the user's own prompt, as in a loop around the stock model; rows are shortened unequally."""
    batch = prompts("qwen2-audio", [[400], [1203]])
    with fewhertz.compress(qwen, "segment@keep=1/3" + suffix):
        new = new_tokens(qwen, batch, max_new_tokens=4)
        for given in ("mask", "none"):
            mask = batch["attention_mask"]
            out = qwen(**batch, use_cache=True)
            said = []
            for _ in range(4):
                said.append(out.logits[:, -1].argmax(-1))
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
                step = {"attention_mask": mask} if given == "mask" else {}
                out = qwen(input_ids=said[-1][:, None], **with_cache(qwen, cache_of(out)), **step)
            assert torch.equal(torch.stack(said, 1), new)
        wrong = mask[:, 2:]
        with pytest.raises(ValueError, match="wide: pass one over"):
            qwen(input_ids=said[-1][:, None], **with_cache(qwen, cache_of(out)), attention_mask=wrong)


@torch.no_grad()
def test_the_cache_by_either_name(qwen: Any) -> None:
    """Transformers 5.24 calls past_key_values cache: both carry the layout of what is in them."""
    names = [name for name in ("past_key_values", "cache") if name in inspect.signature(qwen.forward).parameters]
    assert names
    batch = prompts("qwen2-audio", [[400]])
    with fewhertz.compress(qwen, "ward@keep=1/3+time+sizes"):
        new = new_tokens(qwen, batch, max_new_tokens=3)
        for name in {*names, "past_key_values"}:
            out = qwen(**batch, use_cache=True)
            for i in range(3):
                token = out.logits[:, -1:].argmax(-1)
                assert torch.equal(token[:, 0], new[:, i])
                with nullcontext() if name in names else pytest.warns(FutureWarning, match="cache"):
                    out = qwen(input_ids=token, **{name: cache_of(out)})


@torch.no_grad()
def test_drafted_decoding_is_refused_by_name(qwen: Any) -> None:
    batch = prompts("qwen2-audio", [[400]])
    for keep in ("1", "1/3"):
        with fewhertz.compress(qwen, f"pool@keep={keep}"):
            with pytest.raises(NotImplementedError, match="leave prompt_lookup_num_tokens out"):
                qwen.generate(**batch, prompt_lookup_num_tokens=2, max_new_tokens=4)
            with pytest.raises(NotImplementedError, match="leave assistant_model out"):
                qwen.generate(**batch, assistant_model=qwen, max_new_tokens=4)
            own = copy.deepcopy(qwen.generation_config)
            own.prompt_lookup_num_tokens = 2
            with pytest.raises(NotImplementedError, match="leave prompt_lookup_num_tokens out"):
                qwen.generate(**batch, generation_config=own, max_new_tokens=4)


# --- threads

THREADS, CALLS = 8, 50


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_threads_hear_what_one_hears(kernel: str) -> None:
    """One model, eight threads, mixed prompts, forward and generate: all as one after the other; nothing is left."""
    model = TINY["qwen2.5-omni"].build()
    model.set_attn_implementation(kernel)
    batches = [
        prompts("qwen2.5-omni", rows, seed=i) for i, rows in enumerate(([[400]], [[203], [90]], [[60]], [[700]]))
    ]
    stock = [model(**batch).logits for batch in batches]
    with fewhertz.compress(model, "segmentwise@keep=1/3+time+sizes"):

        @torch.no_grad()  # each thread has its own say in that
        def call(i: int) -> Tensor:
            batch = batches[i % len(batches)]
            return new_tokens(model, batch, max_new_tokens=3) if i % 3 == 0 else model(**batch).logits

        serial = [call(i) for i in range(12)]
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(call, [i % 12 for i in range(THREADS * CALLS)]))
        for i, got in enumerate(found):
            assert torch.equal(got, serial[i % 12])
    for batch, before in zip(batches, stock, strict=True):
        assert torch.equal(model(**batch).logits, before)


@torch.no_grad()
def test_two_models_in_two_threads_keep_their_own_sizes() -> None:
    models = [TINY[family].build() for family in ("qwen2-audio", "audio-flamingo-3")]
    batches = [prompts(family, [[400], [203]]) for family in ("qwen2-audio", "audio-flamingo-3")]
    with fewhertz.compress(models[0], SPEC), fewhertz.compress(models[1], "pool@keep=1/4+sizes"):
        serial = [model(**batch).logits for model, batch in zip(models, batches, strict=True)]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda i: models[i % 2](**batches[i % 2]).logits.detach(), range(40)))
    assert all(torch.equal(got, serial[i % 2]) for i, got in enumerate(found))


@torch.no_grad()
def test_an_emptied_cache_is_as_stock(qwen: Any) -> None:
    from transformers import StaticCache

    batch = prompts("qwen2-audio", [[400]])
    text = batch["input_ids"][:, :2]
    cache = StaticCache(config=qwen.config.text_config, max_cache_len=100)
    stock = qwen(text, **with_cache(qwen, copy.deepcopy(cache))).logits
    with fewhertz.compress(qwen, SPEC):
        qwen(**batch, **with_cache(qwen, cache))
        corrected = qwen(text, **with_cache(qwen, cache)).logits
        cache.reset()
        assert torch.equal(qwen(text, **with_cache(qwen, cache)).logits, stock)
        fresh = StaticCache(config=qwen.config.text_config, max_cache_len=100)
        qwen(text, **with_cache(qwen, fresh))
        assert torch.equal(qwen(text, **with_cache(qwen, cache)).logits, qwen(text, **with_cache(qwen, fresh)).logits)
    assert not torch.allclose(corrected, stock)


@torch.no_grad()
def test_audio_at_the_end_of_the_prompt(family: str, model: Any) -> None:
    """What is decoded goes on from the end of the audio, not from the middle of its last token."""
    batch = prompts(family, [[400]])
    end = int((batch["input_ids"][0] == AUDIO).nonzero()[-1]) + 1
    batch["input_ids"], batch["attention_mask"] = batch["input_ids"][:, :end], batch["attention_mask"][:, :end]
    with fewhertz.compress(model, SPEC), inputs_of_llm(model) as seen:
        generated(model, batch, max_new_tokens=3)
    assert [float(step["position_ids"].max()) for step in seen] == [end - 1, end, end + 1]


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2, "cache_implementation": "static"},
        {"do_sample": True, "top_k": 1, "num_return_sequences": 2},
    ],
    ids=["beam", "static beam", "sampled"],
)
def test_rows_are_generated_as_if_alone(family: str, model: Any, options: dict[str, Any]) -> None:
    rows = [[800], [301]]
    batch = prompts(family, rows)
    each = options.get("num_return_sequences", 1)
    with fewhertz.compress(model, SPEC):
        together = new_tokens(model, batch, **options)
        assert together.shape == (2 * each, 5)
        if "num_beams" not in options:
            assert torch.equal(together, new_tokens(model, batch).repeat_interleave(each, dim=0))
        for i in range(2):
            alone = new_tokens(model, row_alone(family, batch, rows, i), **options)
            assert torch.equal(together[each * i : each * (i + 1)], alone)


# --- batches


@torch.no_grad()
def test_row_of_a_batch_is_the_row_alone(family: str, model: Any) -> None:
    batch = prompts(family, ROWS)
    with fewhertz.compress(model, SPEC):
        together = last_logits(model, batch, 3)
        for i in range(len(ROWS)):
            alone = last_logits(model, row_alone(family, batch, ROWS, i), 3)[0]
            torch.testing.assert_close(together[i], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_leak(family: str, model: Any, side: str) -> None:
    """What stands at padding, and how often it would count, is nothing to the others."""
    other = copy.deepcopy(model)
    other.get_input_embeddings().weight[PAD] = 1e3
    batch = prompts(family, ROWS, side)
    with fewhertz.compress(model, SPEC), fewhertz.compress(other, SPEC), inputs_of_llm(model) as seen:
        ours, theirs = model(**batch).logits, other(**batch).logits
    real = seen[0]["attention_mask"].bool()
    assert not real.all()
    assert torch.equal(ours[real][:, :PAD], theirs[real][:, :PAD])  # some heads share their weights with the embedding


# --- training


def test_gradient_reaches_lora(family: str, model: Any) -> None:
    """And gradient checkpointing, which runs layers again when the call is over, changes nothing."""
    peft = pytest.importorskip("peft")
    if not model.supports_gradient_checkpointing:
        pytest.skip(f"transformers does not recompute layers of {family}")
    grads = []
    for recompute in (False, True):
        torch.manual_seed(1)
        targets = r"^(?!.*(audio_tower|visual)).*\.(q_proj|v_proj)$"
        config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
        wrapped = peft.get_peft_model(copy.deepcopy(model), config).train()
        if recompute:
            wrapped.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            wrapped.enable_input_require_grads()
        batch = prompts(family, ROWS)
        fewhertz.compress(wrapped, SPEC)
        loss = wrapped(**batch, labels=labels_of(batch)).loss
        assert loss.isfinite()
        loss.backward()
        grads.append({name: p.grad for name, p in wrapped.named_parameters() if "lora_" in name})
        assert grads[-1]
        assert all(g is not None and g.isfinite().all() and g.abs().sum() > 0 for g in grads[-1].values())
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[-1][name], grad)


def test_autocast_is_finite_beside_padding(qwen: Any) -> None:
    batch = prompts("qwen2-audio", ROWS)
    fewhertz.compress(qwen, SPEC)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            out = qwen(**batch, labels=labels_of(batch))
        assert out.logits.isfinite().all()
        out.loss.backward()
        assert all(p.grad.isfinite().all() for p in qwen.get_decoder().parameters() if p.grad is not None)


@torch.no_grad()
def test_bf16(family: str, model: Any) -> None:
    half = copy.deepcopy(model).to(torch.bfloat16)
    batch = prompts(family, ROWS)
    with fewhertz.compress(model, SPEC):
        full = last_logits(model, batch)
    heard = family_of(model).audio_inputs[0]
    batch[heard] = batch[heard].bfloat16()
    with fewhertz.compress(half, SPEC), inputs_of_llm(half) as seen:
        narrow = last_logits(half, batch).float()
        assert new_tokens(half, batch).shape == (2, 5)
    assert seen[0]["position_ids"].dtype == torch.float32
    assert math.isclose(float(nn.functional.cosine_similarity(narrow, full, dim=-1).min()), 1.0, abs_tol=0.05)


# --- what goes on from a cache, and what is left behind


@torch.no_grad()
def test_a_row_without_audio_that_keeps_the_width(qwen: Any) -> None:
    """The batch is as wide as before, but the padding of the row with audio has grown."""
    alone = prompts("qwen2-audio", [[300]])
    n = alone["input_ids"].shape[1]
    text = torch.randint(0, 100, (1, n + 20), generator=torch.Generator().manual_seed(3)).to(DEVICE)
    blank = text.new_full((1, 20), PAD)
    batch = alone | {
        "input_ids": torch.cat([text, torch.cat([blank, alone["input_ids"]], 1)]),
        "attention_mask": torch.cat([torch.ones_like(text), torch.cat([blank * 0, alone["attention_mask"]], 1)]),
    }
    with fewhertz.compress(qwen, "pool@keep=1/3"):
        new = new_tokens(qwen, batch, max_new_tokens=4)
        out, mask = qwen(**batch, use_cache=True), batch["attention_mask"]
        for i in range(4):
            token = out.logits[:, -1:].argmax(-1)
            assert torch.equal(token[:, 0], new[:, i])
            mask = torch.cat([mask, torch.ones_like(token)], 1)
            out = qwen(input_ids=token, attention_mask=mask, **with_cache(qwen, cache_of(out)))


@torch.no_grad()
def test_positions_of_the_uncompressed_prompt_are_refused_at_a_step(qwen: Any) -> None:
    batch = prompts("qwen2-audio", [[400]])
    mask = torch.cat([batch["attention_mask"], batch["attention_mask"][:, :1]], 1)
    step = {"attention_mask": mask, "position_ids": mask.cumsum(1)[:, -1:] - 1, "input_ids": mask[:, :1]}
    for suffix in ("", "+sizes"):
        with fewhertz.compress(qwen, "segment@keep=1/3" + suffix):
            cache = cache_of(qwen(**batch, use_cache=True))
            with pytest.raises(ValueError, match=r"position_ids of the uncompressed prompt .*leave them out"):
                qwen(**step, **with_cache(qwen, cache))
    with fewhertz.compress(qwen, "segment@keep=1/3+time"):  # there they are right
        logits = []
        for given in (step, {"input_ids": step["input_ids"]}):
            logits.append(qwen(**given, **with_cache(qwen, cache_of(qwen(**batch, use_cache=True)))).logits)
        torch.testing.assert_close(*logits)


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["", "+sizes", "+time+sizes"])
def test_a_step_on_the_cache_of_generate(family: str, model: Any, suffix: str) -> None:
    batch = prompts(family, [[400], [203]])
    with fewhertz.compress(model, "segment@keep=1/3" + suffix):
        out = generated(model, batch, return_dict_in_generate=True)
        model(**prompts(family, [[317]]))  # another prompt in between: an omni model keeps its last one's positions
        mask = torch.cat([batch["attention_mask"], batch["attention_mask"][:, :1].new_ones(2, 5)], 1)
        whole = batch | {"input_ids": out.sequences, "attention_mask": mask}
        step = model(input_ids=out.sequences[:, -1:], attention_mask=mask, **with_cache(model, cache_of(out))).logits
        torch.testing.assert_close(step[:, -1], last_logits(model, whole)[:, 0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_threads_at_the_site_encoder() -> None:
    model, batch = TINY["audio-flamingo-3"].build(), prompts("audio-flamingo-3", [[200]])

    @torch.no_grad()
    def call(_: int) -> Tensor:
        return model(**batch).logits

    with fewhertz.compress(model, "pool(site=encoder)@keep=1/2"), ThreadPoolExecutor(THREADS) as pool:
        alone = call(0)
        assert all(torch.equal(got, alone) for got in pool.map(call, range(24)))


def test_threads_that_compress_one_model_leave_one_method(qwen: Any) -> None:
    before, interval = set(qwen.__dict__), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(40):
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda i: fewhertz.compress(qwen, f"pool@keep=1/{i}"), range(2, 10)))
            handle = fewhertz.attached(qwen)
            assert handle is not None
            handle.remove()
            assert not {"forward", "generate"} & (set(qwen.__dict__) - before)
    finally:
        sys.setswitchinterval(interval)


@torch.no_grad()
def test_transformers_is_left_as_it_was(qwen: Any) -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    before = dict(ALL_MASK_ATTENTION_FUNCTIONS)
    with fewhertz.compress(qwen, SPEC):
        qwen(**prompts("qwen2-audio", [[400]]))
        with pytest.raises(TypeError):
            qwen(**prompts("qwen2-audio", [[400]]), no_such_argument_anywhere=object(), position_embeddings=1)
    assert dict(ALL_MASK_ATTENTION_FUNCTIONS) == before
