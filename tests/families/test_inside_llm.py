"""Compression before a layer of the LLM (site `llm.k`): exactness, caches, batches, corrections, refusals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from tiny import TINY, cache_of, labels_of, prompts, qwen2_audio, with_cache

import fewhertz
from fewhertz.checkpoint import load_processor, open_checkpoint
from fewhertz.cost import cost, kv_bytes, prefill_flops, reads
from fewhertz.plan import Plan
from fewhertz.steps import Steps, compress

THIRD = "ward(site=llm.1)@keep=1/3+time+sizes"
SEVERAL = "ward(site=llm.0+1)@keep=1/3+time+sizes"
SPECS = [
    SEVERAL,
    "pool(site=llm.0+1)@keep=1/3",
    THIRD,
    "pool(site=llm.1)@keep=1/3",
    "stride(site=llm.1)@keep=0.4+time",
    "segment(site=llm.1)@keep=1/2+sizes",
]


@pytest.fixture(scope="module", params=TINY)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def net(name: str) -> Any:
    return TINY[name].build()


def rows_of(name: str) -> list[list[int]]:
    """Two rows of different length."""
    return [[300], [120]]


@torch.no_grad()
@pytest.mark.parametrize("site", ["llm.1", "llm.0+1"])
def test_keep_1_is_exact(name: str, net: Any, site: str) -> None:
    batch = prompts(name, rows_of(name))
    stock, said = net(**batch).logits, net.generate(**batch, max_new_tokens=4, do_sample=False)
    with fewhertz.compress(net, f"ward(site={site})@keep=1+time+sizes"):
        assert torch.equal(net(**batch).logits, stock)
        assert torch.equal(net.generate(**batch, max_new_tokens=4, do_sample=False), said)


@torch.no_grad()
def test_before_layer_0_is_before_the_llm(name: str, net: Any) -> None:
    batch = prompts(name, rows_of(name))
    with fewhertz.compress(net, "ward@keep=1/3+time+sizes") as handle:
        outside, spec = net(**batch).logits, handle.method.spec
    with fewhertz.compress(net, "ward(site=llm.0)@keep=1/3+time+sizes") as handle:
        assert handle.method.spec == spec
        assert torch.equal(net(**batch).logits, outside)


@torch.no_grad()
@pytest.mark.parametrize("spec", SPECS)
def test_generation_is_forward_repeated(name: str, net: Any, spec: str) -> None:
    """Of every step: with a cache, in `generate` and in a loop of one's own, and with none."""
    batch = prompts(name, rows_of(name))
    width = batch["input_ids"].shape[1]
    with fewhertz.compress(net, spec) as handle:
        said = net.generate(
            **batch, max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        assert handle.last.after == [handle.method.num_tokens(n) for n in handle.last.before]
        assert [plan.m for plan in handle.last.plans] == handle.last.after
        cache = cache_of(said)
        first = [handle.method.counts_inside(n)[0] if "llm.0" in spec else n for n in handle.last.before]
        for layer, counts in enumerate((first, handle.last.after)):
            dropped = min(n - m for n, m in zip(handle.last.before, counts, strict=True))
            assert dropped or not layer
            assert cache.get_seq_length(layer) <= width + 2 - dropped
        assert cache.get_seq_length(0) > cache.get_seq_length(1)
        new = said.sequences[:, width:]
        out = net(**batch, use_cache=True)
        for step in range(3):
            own = new[:, :step]
            longer = batch | {"input_ids": torch.cat([batch["input_ids"], own], 1)}
            if "attention_mask" in batch:
                longer["attention_mask"] = torch.cat([batch["attention_mask"], torch.ones_like(own)], 1)
            torch.testing.assert_close(net(**longer).logits[:, -1], said.logits[step], atol=1e-4, rtol=1e-4)
            if "omni" in name and "asr" not in name:
                continue  # the stock thinker takes no step of one's own without positions
            mask = torch.cat([batch["attention_mask"], torch.ones_like(new[:, : step + 1])], 1)
            torch.testing.assert_close(out.logits[:, -1], said.logits[step], atol=1e-4, rtol=1e-4)
            out = net(input_ids=new[:, step : step + 1], attention_mask=mask, **with_cache(net, cache_of(out)))


@torch.no_grad()
@pytest.mark.parametrize("spec", SPECS)
def test_a_batch_row_is_the_row_alone(name: str, net: Any, spec: str) -> None:
    if name == "granite-speech":
        pytest.skip("its encoder attends to the padding of its batch")
    batch = prompts(name, rows_of(name))
    alone = {key: value[1:] for key, value in batch.items()}
    real = alone["attention_mask"][0].bool()
    alone |= {key: alone[key][:, real] for key in ("input_ids", "attention_mask")}
    with fewhertz.compress(net, spec) as handle:
        together, both = net(**batch).logits[1, -1], handle.last.plans[1]
        torch.testing.assert_close(net(**alone).logits[0, -1], together, atol=1e-4, rtol=1e-4)
    assert torch.equal(both.group, handle.last.plans[0].group)


@torch.no_grad()
def test_hidden_states_are_compressed_and_no_others(name: str, net: Any) -> None:
    """The last layer, by hand: its input is the stock model's, merged by the plan."""
    batch = prompts(name, [[300]])
    decoder = net.get_decoder()
    seen: list[torch.Tensor] = []
    hook = decoder.layers[1].register_forward_pre_hook(lambda _, args, kw: seen.append(args[0]), with_kwargs=True)
    net(**batch)
    hook.remove()
    norm = decoder.layers[1].input_layernorm
    hook = norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with fewhertz.compress(net, THIRD) as handle:
        out = net(**batch)
    hook.remove()
    whole, short = seen
    (plan,) = handle.last.plans
    audio = batch["input_ids"][0] == handle.family.placeholder(net.config)
    start, n = int(audio.nonzero()[0]), int(audio.sum())
    assert isinstance(plan, Plan) and plan.n == n and out.logits.shape[1] == short.shape[1] == len(audio) - n + plan.m
    torch.testing.assert_close(short[:, start : start + plan.m], plan.apply(whole[:, start : start + n]))
    torch.testing.assert_close(short[:, :start], whole[:, :start])
    torch.testing.assert_close(short[:, start + plan.m :], whole[:, start + n :])


@torch.no_grad()
def test_equal_tokens_merged_with_corrections_are_all_of_them() -> None:
    """In the last layer, whose keys have one past: a query over s equal ones is one over a key of log s more.

    Rotary angles are all 0 here, so that neighbours are equal to the layer in spite of where they stand.
    """
    net = TINY["qwen2-audio"].build()
    batch = prompts("qwen2-audio", [[300]])
    decoder = net.get_decoder()
    decoder.rotary_emb.inv_freq.zero_()
    audio = (batch["input_ids"][0] == net.config.audio_token_id).nonzero()[:, 0]

    def equal_in_pairs(_: Any, args: Any, given: Any) -> Any:
        hidden = args[0].clone()
        for i in range(0, len(audio) - 1, 2):
            hidden[:, audio[i + 1]] = hidden[:, audio[i]]
        return (hidden, *args[1:]), given

    hook = decoder.layers[1].register_forward_pre_hook(equal_in_pairs, with_kwargs=True)
    stock = net(**batch).logits[0, -1]
    with fewhertz.compress(net, "pool(site=llm.1)@keep=1/2+sizes") as handle:
        sized = net(**batch).logits[0, -1]
        assert set(handle.last.plans[0].sizes().flatten().tolist()) <= {1, 2}
    with fewhertz.compress(net, "pool(site=llm.1)@keep=1/2"):
        plain = net(**batch).logits[0, -1]
    hook.remove()
    torch.testing.assert_close(sized, stock, atol=1e-4, rtol=1e-4)
    assert (plain - stock).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("method", ["ward", "stride", "segment"])
def test_several_layers_are_the_composition_of_their_plans(method: str, first: int) -> None:
    """By hand: each layer's plan on what the one before left, sizes carried, each token a mean of all that it is."""
    net = qwen2_audio(layers=5)
    batch, layers = prompts("qwen2-audio", [[300]]), [first, 2, 4]
    audio = (batch["input_ids"][0] == net.config.audio_token_id).nonzero()[:, 0]
    start, n = int(audio[0]), len(audio)
    seen: dict[int, torch.Tensor] = {}
    hooks = [  # behind ours, which give each layer what it reads
        layer.input_layernorm.register_forward_pre_hook(lambda _, args, i=i: seen.__setitem__(i, args[0][0].clone()))
        for i, layer in enumerate(net.get_decoder().layers)
    ]
    grown: dict[int, torch.Tensor] = {}
    for k in layers:
        if k:  # what comes out of the layer before
            out = (
                net.get_decoder()
                .layers[k - 1]
                .register_forward_hook(
                    lambda _, args, made, k=k: grown.__setitem__(
                        k, (made if torch.is_tensor(made) else made[0])[0].clone()
                    )
                )
            )
            hooks.append(out)
        else:
            net(**batch)
            grown[0] = seen[0]
    spec = f"{method}(site=llm.{'+'.join(map(str, layers))})@keep=1/4+time+sizes"
    with fewhertz.compress(net, spec) as handle:
        net(**batch)
        (plan,), (m,) = handle.last.plans, handle.last.after
        counts = handle.method.counts_inside(n)
        rate = float(handle.family.rate(net.config))
    for hook in hooks:
        hook.remove()
    assert m == handle.method.num_tokens(n) == counts[-1]
    assert counts[0] == round(n * (m / n) ** (1 / 3)) and counts[1] == round((counts[0] * m) ** 0.5)
    whole = Plan.identity(1, n)
    for k, count in zip(layers, counts, strict=True):
        heard = grown[k][start : start + whole.m]
        clip = fewhertz.Clip(rate * whole.m / n, sizes=whole.sizes())
        own = fewhertz.parse(f"{method}@keep={count}/{whole.m}").plan(heard[None], clip)
        made = own.counting(whole.sizes())
        whole = whole.then(made)
        torch.testing.assert_close(seen[k][start : start + count], made.apply(heard[None])[0])
        torch.testing.assert_close(seen[k][:start], grown[k][:start])
        torch.testing.assert_close(seen[k][start + count :], grown[k][start + heard.shape[0] :])
    assert isinstance(plan, Plan) and torch.equal(plan.group, whole.group) and plan.m == m
    torch.testing.assert_close(plan.shares(), Plan(whole.group, m).shares())  # of all members alike


@torch.no_grad()
def test_each_part_of_a_schedule_has_a_cache_and_a_cost_of_its_own() -> None:
    net = qwen2_audio(layers=5)
    batch, text = prompts("qwen2-audio", [[300]]), net.config.get_text_config()
    width = batch["input_ids"].shape[1]
    with fewhertz.compress(net, "ward(site=llm.1+2+4)@keep=1/5+time+sizes") as handle:
        out = net(**batch, use_cache=True)
        said = net.generate(
            **batch, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        (n,) = handle.last.before
        later = reads(handle.method, width - n, [n], handle.last.after[0])
        held = [cache_of(out).get_seq_length(i) for i in range(5)]
        one, two, three = handle.method.counts_inside(n)
        assert held == [width, width - n + one, width - n + two, width - n + two, width - n + three]
        assert later == [(1, held[1]), (2, held[2]), (4, held[4])]
        tensors = [t for layer in cache_of(out).layers for t in (layer.keys, layer.values)]
        assert sum(t.numel() * t.itemsize for t in tensors) == kv_bytes(text, width, torch.float32, later)
        # decoding goes on in each part from its own length
        longer = batch | {"input_ids": said.sequences[:, :-1], "attention_mask": torch.ones(1, width + 3)}
        torch.testing.assert_close(net(**longer).logits[:, -1], said.logits[3], atol=1e-4, rtol=1e-4)
    alone = [prefill_flops(text, tokens) for tokens in held]
    assert 5 * prefill_flops(text, width, later) == sum(alone)


@torch.no_grad()
def test_threads_call_one_model_at_a_time_or_together() -> None:
    net = TINY["qwen2-audio"].build()
    several = [prompts("qwen2-audio", [[300 - 20 * i]], seed=i) for i in range(4)]
    with fewhertz.compress(net, SEVERAL), ThreadPoolExecutor(4) as pool:
        alone = [net.generate(**batch, max_new_tokens=4, do_sample=False) for batch in several]
        together = list(
            pool.map(lambda i: net.generate(**several[i % 4], max_new_tokens=4, do_sample=False), range(16))
        )
    assert all(torch.equal(together[i], alone[i % 4]) for i in range(16))
    assert not any(layer._forward_pre_hooks for layer in net.get_decoder().layers)


@torch.no_grad()
def test_cost_is_counted_layer_by_layer(name: str, net: Any) -> None:
    batch, text = prompts(name, [[300]]), net.config.get_text_config()
    with fewhertz.compress(net, THIRD) as handle:
        out = net(**batch, use_cache=True)
    long = batch["input_ids"].shape[1]
    short = long - handle.last.before[0] + handle.last.after[0]
    held = [t for layer in cache_of(out).layers for t in (layer.keys, layer.values)]
    assert sum(t.numel() * t.itemsize for t in held) == kv_bytes(text, long, torch.float32, [(1, short)])
    whole, none = prefill_flops(text, long), prefill_flops(text, short)
    assert 2 * prefill_flops(text, long, [(1, short)]) == whole + none  # one layer of two


def test_inspect_counts_positions_and_context_of_all_tokens() -> None:
    checkpoint = open_checkpoint("pocket", weights=False)
    method = checkpoint.fit("ward(site=llm.2)@keep=1/2")
    one = cost(checkpoint, load_processor(checkpoint), method, 4.0)
    assert one.after == 50 and one.context[1] == one.context[0] == one.positions[1]
    assert one.kv[0] * 1 / 2 < one.kv[1] < one.kv[0] and one.flops[1] < one.flops[0]
    two = cost(checkpoint, load_processor(checkpoint), checkpoint.fit("ward(site=llm.0+2)@keep=1/2"), 4.0)
    assert two.after == 50 and two.context[1] == two.positions[1] == two.context[0] - 100 + 71 and two.kv[1] < one.kv[1]


@torch.no_grad()
def test_eager_attention_agrees_with_sdpa() -> None:
    net = TINY["qwen2-audio"].build()
    batch = prompts("qwen2-audio", [[300], [120]])
    found = []
    for kernel in ("sdpa", "eager"):
        net.set_attn_implementation(kernel)
        with fewhertz.compress(net, "pool(site=llm.1)@keep=1/3"):
            found.append(
                net.generate(
                    **batch, max_new_tokens=2, do_sample=False, output_logits=True, return_dict_in_generate=True
                ).logits
            )
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("spec", [THIRD, SEVERAL])
def test_beams(name: str, net: Any, spec: str) -> None:
    """One beam a row is greedy; several copies of a prompt stay theirs."""
    batch = prompts(name, rows_of(name))
    with fewhertz.compress(net, spec):
        several = net.generate(**batch, max_new_tokens=3, num_beams=3, do_sample=False)
        alone = (
            [
                net.generate(
                    **{key: value[i : i + 1] for key, value in prompts(name, rows_of(name)).items()},
                    max_new_tokens=3,
                    num_beams=3,
                    do_sample=False,
                )
                for i in range(2)
            ]
            if name not in ("granite-speech",)
            else None
        )
    assert several.shape[0] == 2
    if alone is not None:
        width = batch["input_ids"].shape[1]
        assert torch.equal(several[:, width:], torch.cat(alone)[:, width:])


@pytest.mark.parametrize("spec", [THIRD, SEVERAL])
def test_training_reaches_the_first_layers_and_heeds_the_labels(name: str, spec: str) -> None:
    net = TINY[name].build()
    batch = prompts(name, rows_of(name))
    with fewhertz.compress(net, spec):
        loss = net(**batch, labels=labels_of(batch)).loss
        loss.backward()
    weight = net.get_decoder().layers[0].self_attn.k_proj.weight
    assert torch.isfinite(loss) and weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("ward(site=llm.2)@keep=1/2", "the LLM has layers 0 to 1"),
        ("ward(site=llm.1)@tolerance=0.3", "its count follows the content"),
        ("conv(site=llm.1)@keep=1/2", "site"),
        ("ward(site=llm.1)@keep=1/2+time(fit=64)", "leave fit out"),
        ("ward(site=llm.0+2)@keep=1/2", "the LLM has layers 0 to 1"),
        ("ward(site=llm.1+0)@keep=1/2", "layers of a site rise"),
        ("ward(site=llm.1+1)@keep=1/2", "layers of a site rise"),
        ("topk(site=llm.0+1)@keep=1/2", "none that needs scores"),
        ("pool(site=llm.0+1)@keep=1/2 then ward(site=llm.0+1)@keep=1/2", "no chain"),
        ("ward(site=llm.x)@keep=1/2", 'site is "llm", "llm.k"'),
    ],
)
def test_what_is_refused(spec: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        fewhertz.compress(TINY["qwen2-audio"].build(), spec)


def test_a_step_of_ones_own_forms_tokens_once() -> None:
    net, batch = TINY["qwen2-audio"].build(), prompts("qwen2-audio", [[300]])
    own = Steps(compress=lambda call, windows, clips: compress(call, windows, clips))
    with fewhertz.compress(net, SEVERAL, steps=own), pytest.raises(NotImplementedError, match=r"llm\.0\+1 has several"):
        net(**batch)


def test_calls_that_are_refused() -> None:
    net = TINY["qwen2-audio"].build()
    batch = prompts("qwen2-audio", [[300]])
    with fewhertz.compress(net, THIRD):
        with pytest.raises(NotImplementedError, match="cache_implementation"):
            net.generate(**batch, max_new_tokens=2, cache_implementation="static")
        net.train()
        net.get_decoder().layers[1].gradient_checkpointing = True
        with pytest.raises(NotImplementedError, match="gradient checkpointing"):
            net(**batch)
