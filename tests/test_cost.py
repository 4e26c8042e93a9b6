"""What `inspect` says is what the real models and processors do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_corrections import inputs_of_llm
from tiny import TINY
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fewhertz
from fewhertz.checkpoint import load_processor, open_checkpoint
from fewhertz.cost import cost, kv_bytes, parse_bytes, prefill_flops, recording_cost, weight_bytes
from fewhertz.run import PROMPTS, request

SECONDS = [0.1, 0.5, 1.0, 3.337, 7.77, 29.99, 30.0]


@pytest.fixture(scope="module")
def checkpoint() -> object:
    return open_checkpoint("pocket", weights=False)


@pytest.fixture(scope="module")
def processor(checkpoint: object) -> object:
    return load_processor(checkpoint)


@pytest.fixture(scope="module")
def pocket() -> object:
    return fewhertz.load("pocket", device="cpu", dtype="float32")[0]


def test_token_counts_are_those_of_the_model(checkpoint: object, processor: object, pocket: object) -> None:
    method = checkpoint.fit("pool@8Hz")
    waves = [np.zeros(round(s * 16_000), np.float32) for s in SECONDS]
    with fewhertz.compress(pocket, method) as handle, torch.no_grad():
        pocket(**request(processor, waves))
    costs = [cost(checkpoint, processor, method, s) for s in SECONDS]
    assert [c.before for c in costs] == handle.last.before
    assert [c.after for c in costs] == handle.last.after
    assert costs[-1].before == 750 and costs[-1].rate == (25.0, 8.0)


def test_the_prompt_is_counted(checkpoint: object, processor: object) -> None:
    one = cost(checkpoint, processor, None, 2.0, "A longer question than the one about the words, is it not?")
    two = cost(checkpoint, processor, None, 2.0)
    assert one.before == two.before == two.after and one.prompt > two.prompt > 0
    ids = request(processor, [np.zeros(32_000, np.float32)])["input_ids"]
    assert two.context == (ids.numel(), ids.numel())


def test_a_count_that_follows_content_is_not_guessed(checkpoint: object, processor: object) -> None:
    one = cost(checkpoint, processor, checkpoint.fit("unseg"), 2.0)
    assert one.before == 50 and one.after is None
    assert one.flops[1] is None and one.kv[1] is None and one.rate[1] is None and one.context[1] is None


@pytest.mark.parametrize("spec", ["pool@keep=1/3", "pool@keep=1/3+time", "unseg+time", "unseg"])
def test_positions_are_counted_and_the_limit_that_binds_is_named(
    spec: str, checkpoint: object, processor: object, pocket: object
) -> None:
    method = checkpoint.fit(spec)
    found = cost(checkpoint, processor, method, 10.0)
    seen = []

    def watch(module: object, args: object, kwargs: dict) -> None:
        place = kwargs.get("position_ids")
        seen.append(kwargs["inputs_embeds"].shape[1] if place is None else int(place.max()) + 1)

    hook = pocket.get_decoder().register_forward_pre_hook(watch, with_kwargs=True)
    try:
        with fewhertz.compress(pocket, method), torch.no_grad():
            pocket(**request(processor, [np.zeros(160_000, np.float32)]))
    finally:
        hook.remove()
    whole = found.prompt + found.before
    timed = method.positions == "time"
    assert found.positions == (whole, whole if timed else found.context[1])
    assert found.positions[1] in (seen[0], None)
    limit = found.prompt + 100  # between what the method leaves and what there was
    after = (False, "positions") if timed else (None, None) if found.after is None else (True, None)
    assert found.fits(limit, limit) == [(False, "tokens"), after]
    assert found.fits(limit, None)[1] == ((None, None) if found.after is None else (True, None))
    assert found.fits(None, None) == [(None, None)] * 2
    assert found.fits(limit - 50, whole)[1] == ((None, None) if found.after is None else (False, "tokens"))


def test_audio_beyond_the_window_is_an_error_that_names_the_flag(checkpoint: object, processor: object) -> None:
    with pytest.raises(ValueError, match=r"31.0 s of audio, qwen2-audio reads 30 s at once: --chunk 30"):
        cost(checkpoint, processor, None, 31.0)


def test_weights_are_those_of_the_model(checkpoint: object, pocket: object) -> None:
    width = checkpoint.config.dtype.itemsize
    assert weight_bytes(checkpoint) == sum(p.numel() for p in pocket.parameters()) * width


@pytest.mark.parametrize("family", sorted(TINY))
def test_flops_and_cache_are_those_of_the_llm(family: str) -> None:
    model, n = TINY[family].build(), 37
    text = model.config.get_text_config()
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    decoder.set_attn_implementation("eager")  # its two products are counted, over the whole square
    embeds = torch.randn(1, n, text.hidden_size)
    with torch.no_grad():
        out = decoder(inputs_embeds=embeds, use_cache=True)
        assert kv_bytes(text, n, torch.float32) == sum(
            t.numel() * t.itemsize for layer in out.past_key_values.layers for t in (layer.keys, layer.values)
        )
        if getattr(text, "num_experts", None):
            linear = _mixture(decoder, text, n)
        else:
            linear = _counted(lambda: decoder(inputs_embeds=embeds)) - _square(text, n) - _rotary(decoder, embeds)
        linear += _counted(lambda: head(out.last_hidden_state[:, -1]))
    triangle = _square(text, n) * (n + 1) // (2 * n)
    assert prefill_flops(text, n) == linear + triangle


def _counted(run: object) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _square(text: object, n: int) -> int:
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 4 * text.num_hidden_layers * text.num_attention_heads * head_dim * n * n


def _rotary(decoder: nn.Module, embeds: torch.Tensor) -> int:
    """Angles are made by a product too; it is no work of the network."""
    kinds = 3 if "mrope_section" in (decoder.config.rope_parameters or {}) else 1
    positions = torch.arange(embeds.shape[1]).expand(kinds, 1, -1)
    return _counted(lambda: decoder.rotary_emb(embeds, positions if kinds > 1 else positions[0]))


def _mixture(decoder: nn.Module, text: object, n: int) -> int:
    """Of a mixture of experts: each token's products, from the weights themselves."""
    experts = [p for name, p in decoder.layers.named_parameters() if "experts" in name]
    always = [p for name, p in decoder.layers.named_parameters() if "experts" not in name and p.dim() == 2]
    active = sum(p.numel() for p in experts) * text.num_experts_per_tok // text.num_experts
    return 2 * n * (active + sum(p.numel() for p in always))


@pytest.mark.parametrize(("text", "value"), [("24GB", 24 * 10**9), ("0.5 GiB", 2**29), ("80gib", 80 * 2**30)])
def test_memory_sizes(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "24", "GB", "-1GB", "1e9GB", "24 parsecs", "9" * 40 + "GB", "nanGB"])
def test_what_is_no_memory_size(text: str) -> None:
    with pytest.raises(ValueError, match="24GB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    "spec", ["pool@keep=1/3", "pool@keep=1/3+time", "ward@keep=1/3+time(fit=700)+sizes", "ward(shared=true)@8Hz+time"]
)
def test_windows_in_one_prompt_are_counted_as_the_model_reads_them(
    spec: str, checkpoint: object, processor: object, pocket: object
) -> None:
    method = checkpoint.fit(spec)
    lengths = [4.0] * 9 + [2.5]
    hertz = fewhertz.parse(spec).rate
    found = recording_cost(checkpoint, processor, method, 60.0, lengths, hertz=hertz, tokens=600, memory=10**6)
    clips = [np.zeros(round(16_000 * one), np.float32) for one in lengths]
    inputs = request(processor, [clips], PROMPTS["transcribe"])
    with fewhertz.compress(pocket, method) as handle, inputs_of_llm(pocket) as seen, torch.no_grad():
        pocket(**inputs)
    whole = found.one_prompt
    assert whole.context == (inputs["input_ids"].numel(), seen[0]["inputs_embeds"].shape[1])
    assert (found.windows, found.before) == (10, sum(handle.last.before))
    if not method.together:  # shared over the recording, its silences too
        assert found.after == whole.after == sum(handle.last.after)
    else:
        assert found.after == 480 and whole.after == sum(handle.last.after)
    if method.positions == "time":
        assert float(seen[0]["position_ids"].max()) + 1 == pytest.approx(whole.positions[1], abs=1e-3)


def test_most_windows_of_a_prompt_fit_and_one_more_does_not(checkpoint: object, processor: object) -> None:
    def whole(count: int, spec: str) -> object:
        limits = {"tokens": 600, "positions": 1500, "memory": 5_400_000}
        return recording_cost(checkpoint, processor, checkpoint.fit(spec), 9.0, [4.0] * count, **limits)

    binding = {}
    for spec in (
        "pool@keep=1/2",
        "pool@keep=1/10+time",
        "pool@keep=1/50+time(fit)",
        "pool@keep=1",
        "pool(site=llm.2)@keep=1/2",
    ):
        (plain, _), (most, binds) = whole(1, spec).most
        binding[spec] = binds
        assert plain == whole(1, "pool@keep=1").most[1][0]
        for count in (most, most + 1):
            one = whole(count, spec).one_prompt
            fits = one.context[1] <= 600 and one.positions[1] <= 1500 and one.kv[1] <= 5_400_000
            assert fits is (count == most), (spec, count)
    assert whole(1, "pool(site=llm.2)@keep=1/2").most[1] == (plain, "tokens")  # the first layers read them all
    assert binding["pool@keep=1/10+time"] == "positions" and binding["pool@keep=1/2"] == "tokens"
    assert whole(3, "unseg").after is None and whole(3, "unseg").most[1] == (None, None)
