"""Merging inside the encoder (site `encoder.k`): counts, attention, times and sizes, and what is refused."""

from __future__ import annotations

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from tiny import TINY, WINDOW, labels_of, prompts
from torch import Tensor

import fewhertz
import fewhertz.families
from fewhertz.corrections import lay_out
from fewhertz.families import whisper
from fewhertz.families.base import FAMILIES, Family
from fewhertz.once import encode_once
from fewhertz.plan import Plan
from fewhertz.steps import Steps

FAMILY = {kind.name: kind for kind in FAMILIES}
INSIDE = [name for name in TINY if FAMILY[name].not_inside is None]
ROWS: list[list[list[int]]] = [[[500]], [[800], [301]], [[400, 203], [317]], [[7]], [[WINDOW]]]
LONG: list[list[list[int]]] = [[[WINDOW + 450]], [[2 * WINDOW + 451, 200], [77]], [[WINDOW + 4]]]
HALF = "ward(site=encoder.1)@keep=1/2+time+sizes"
SCHEDULE = "ward(site=encoder.0+1)@keep=1/3+time+sizes"
LAMBDA = 0.5
PRICED = f"ward(site=encoder.1)@tolerance={LAMBDA}+time+sizes"


@pytest.fixture(scope="module", params=INSIDE)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def net(name: str) -> Any:
    return TINY[name].build()


def layouts(family: str) -> list[list[list[int]]]:
    return ROWS + (LONG if TINY[family].longest is None else [])


def frames_of(family: str, mel: int) -> int:
    """Encoder frames of a clip, those of windows that give no token left out."""
    return sum((part - 1) // 2 + 1 for part in TINY[family].windows(mel) if TINY[family].tokens(part))


@torch.no_grad()
def test_counts_are_the_specs_keep_of_the_audio_tokens(name: str, net: Any) -> None:
    for rows in layouts(name):
        batch = prompts(name, rows)
        mels = [mel for row in rows for mel in row]
        for spec in (
            HALF,
            "ward(site=encoder.0)@keep=1/3+time+sizes",
            "segment(site=encoder.1)@8Hz",
            "pool(site=encoder.1)@keep=0.9",
            SCHEDULE,
            "segment(site=encoder.0+1)@8Hz",
        ):
            with fewhertz.compress(net, spec) as handle:
                out = net(**batch, labels=labels_of(batch))
                said = net.generate(**batch, max_new_tokens=2, do_sample=False)
            last = handle.last
            assert last.before == [TINY[name].count(mel) for mel in mels]
            assert last.after == [handle.method.num_tokens(n) for n in last.before]
            assert torch.isfinite(out.logits).all() and torch.isfinite(out.loss)
            assert said.shape[1] == batch["input_ids"].shape[1] + 2
            for mel, m, plan in zip(mels, last.after, last.plans, strict=True):
                assert plan is not None and (plan.n, plan.m, plan.per) == (frames_of(name, mel), m, 2)
                assert plan.sizes().sum() == (plan.group >= 0).sum()
                assert (plan.centres().diff() > 0).all()


@torch.no_grad()
def test_keep_1_is_exact(name: str, net: Any) -> None:
    batch = prompts(name, [[800], [301]])
    stock = net(**batch).logits
    for spec in (
        "ward(site=encoder.1)@keep=1",
        "pool(site=encoder.0)@25Hz+time+sizes",
        "ward(site=encoder.0+1)@keep=1+time+sizes",
    ):
        with fewhertz.compress(net, spec):
            assert torch.equal(net(**batch).logits, stock)


@torch.no_grad()
def test_layers_over_equal_frames_are_those_over_all_of_them(name: str, net: Any) -> None:
    """Proportional attention: one layer reads s equal frames as one that stands for s, in windows of any length."""
    tower = net.base_model.audio_tower
    counts = [torch.tensor([3, 1, 2, 5, 1]), torch.tensor([1, 4])]
    short = [torch.randn(len(one), tower.config.hidden_size) for one in counts]
    ones = [torch.ones(int(one.sum()), dtype=torch.long) for one in counts]
    whole = [x.repeat_interleave(one, dim=0) for x, one in zip(short, counts, strict=True)]
    layer = tower.config.num_hidden_layers - 1
    run = slice(layer, None)
    ours, stock = whisper.through(tower, run, short, counts), whisper.through(tower, run, whole, ones)
    for w, one in enumerate(counts):
        torch.testing.assert_close(ours[w].repeat_interleave(one, dim=0), stock[w], atol=1e-5, rtol=1e-5)
    plain = whisper.through(tower, run, short, [torch.ones_like(one) for one in counts])
    assert (plain[0] - ours[0]).abs().max() > 1e-3  # the test can fail


@torch.no_grad()
def test_both_parts_of_the_encoder_are_the_encoder(name: str, net: Any) -> None:
    """Before layer k, then the rest on all frames, averaged in pairs: the stock tower."""
    tower, kind = net.base_model.audio_tower, FAMILY[name]
    mel = WINDOW + 451 if TINY[name].longest is None else 500  # a window behind another is later by its width
    batch = prompts(name, [[mel], [301]])
    audio = {key: batch[key] for key in kind.audio_inputs}
    frames = [(part - 1) // 2 + 1 for part in [*TINY[name].windows(mel), 301]]
    stock = kind.encode(net, audio, batch["input_ids"], "encoder", False)
    for layer in range(tower.config.num_hidden_layers):
        windows = kind.encode(net, audio, batch["input_ids"], f"encoder.{layer}", True)
        assert windows.frames == frames and windows.scores is None
        hidden = list(windows.tokens.split(windows.frames))
        for one in tower.layers[layer:]:
            hidden = [one(x[None], None)[0] for x in hidden]
        pairs = [tower.layer_norm(x[: len(x) // 2 * 2].unflatten(0, (-1, 2)).mean(1)) for x in hidden]
        tokens = sum(windows.lengths[:-1])
        times = torch.cat([torch.arange(tokens), torch.arange(windows.lengths[-1])]).float()
        torch.testing.assert_close(kind.timed(net, torch.cat(pairs), times), stock.tokens, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_batch_row_is_the_row_alone(name: str, net: Any) -> None:
    batch = prompts(name, [[800], [301]])
    alone = {key: value[1:] for key, value in batch.items()}
    real = alone["attention_mask"][0].bool()
    alone |= {key: alone[key][:, real] for key in ("input_ids", "attention_mask")}
    for spec in (
        HALF,
        "segment(site=encoder.1)@keep=1/3",
        SCHEDULE,
        PRICED,
        f"ward(site=encoder.0+1)@tolerance={LAMBDA}",
    ):
        with fewhertz.compress(net, spec) as handle:
            together = net(**batch).logits[1, -1]
            both = handle.last.plans[1]
            torch.testing.assert_close(net(**alone).logits[0, -1], together, atol=1e-4, rtol=0)
        assert torch.equal(both.group, handle.last.plans[0].group)


def test_times_and_sizes_are_in_audio_tokens() -> None:
    """Seven frames: pairs (0, 1), (2, 3), (4, 5) are the audio tokens 0, 1, 2, and frame 6 is half of a fourth."""
    pairs = Plan(torch.tensor([[0, 0, 1, 1, 2, 2, -1]]), 3, per=2)
    assert pairs.centres().tolist() == [[0, 1, 2]]
    odd = Plan(torch.tensor([[0, 0, 0, 1, 2, 2, 2]]), 3, per=2)
    assert odd.centres().tolist() == [[0.25, 1.25, 2.25]]
    assert odd.sizes().tolist() == [[3, 1, 3]]
    assert odd.spans(50.0)[0].tolist() == [pytest.approx(one) for one in ([0, 0.06], [0.06, 0.08], [0.08, 0.14])]
    joined = Plan.joined([odd, pairs], 2)
    assert joined.group.tolist() == [[0, 0, 0, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5, -1]] and joined.m == 6
    assert joined.row(0).per == 2


@torch.no_grad()
@pytest.mark.parametrize("spec", [HALF, SCHEDULE, PRICED])
def test_corrections_count_in_audio_tokens(name: str, net: Any, spec: str) -> None:
    """Positions are those of the uncompressed prompt, sizes count audio tokens, and text is as before."""
    batch = prompts(name, [[501]])  # 251 frames, 125 tokens
    seen: list[Any] = []
    steps = Steps(lay_out=lambda *args: seen.append(lay_out(*args)) or seen[-1])
    with fewhertz.compress(net, spec, steps=steps) as handle:
        net(**batch)
    (layout,), (plan,) = seen, handle.last.plans
    start = int((batch["input_ids"][0] == net.config.audio_token_id).nonzero()[0])
    own, m = slice(start, start + plan.m), plan.m
    torch.testing.assert_close(layout.positions[0, own], start + plan.centres()[0])
    torch.testing.assert_close(layout.log_sizes[0, own].exp(), plan.sizes()[0] / 2)
    assert layout.log_sizes[0, own].exp().sum() == pytest.approx(125.5, abs=1e-3)
    assert layout.positions[0, own.stop :].tolist() == list(range(start + 125, batch["input_ids"].shape[1]))
    assert not layout.log_sizes[0, own.stop :].any() and 1 < m < 125


@torch.no_grad()
@pytest.mark.parametrize("family", [name for name in INSIDE if TINY[name].longest is None])
def test_windows_of_a_clip_share_its_count(family: str) -> None:
    """Frames are merged within windows, and a last window with less than a token's worth of frames may be dropped."""
    net = TINY[family].build()
    tiny = TINY[family]
    for mel in (WINDOW + 450, 2 * WINDOW + 451, WINDOW + 4):
        with fewhertz.compress(net, "segment(site=encoder.1)@keep=1/4") as handle:
            net(**prompts(family, [[mel]]))
        (plan,) = handle.last.plans
        assert plan is not None
        tokens = [tiny.tokens(part) for part in tiny.windows(mel)]
        ends = [handle.method.num_tokens(n) for n in accumulate(tokens)]
        frames = [0, *accumulate((part - 1) // 2 + 1 for part in tiny.windows(mel))]
        for (start, stop), first, last in zip(pairwise(frames), [0, *ends], ends, strict=False):
            group = plan.group[0, start:stop]
            assert set(group.tolist()) == (set(range(first, last)) if last > first else {-1})


def test_gradients_reach_both_parts(name: str) -> None:
    net = TINY[name].build()
    batch = prompts(name, [[500], [301]])
    with fewhertz.compress(net, HALF):
        net(**batch, labels=labels_of(batch)).loss.backward()
    tower = net.base_model.audio_tower
    for weight in (tower.conv1.weight, tower.layers[0].fc1.weight, tower.layers[1].fc1.weight):
        assert weight.grad is not None and weight.grad.abs().sum() > 0


# --- under a tolerance, and a part before each of several layers


def frames_before(name: str, net: Any, batch: dict[str, Tensor], layer: int) -> list[Tensor]:
    """Frames of each window that a layer would read."""
    audio = {key: batch[key] for key in FAMILY[name].audio_inputs}
    windows = FAMILY[name].encode(net, audio, batch["input_ids"], f"encoder.{layer}", False)
    return [*windows.tokens.split(windows.frames or [])]


@torch.no_grad()
def test_a_tolerance_counts_by_what_it_finds(name: str, net: Any) -> None:
    """A frame is half an audio token, so a join of frames costs half of what Ward's formula says of them."""
    batch = prompts(name, [[800, 301], [500]])
    with fewhertz.compress(net, PRICED) as handle:
        out = net(**batch, labels=labels_of(batch))
        said = net.generate(**batch, max_new_tokens=2, do_sample=False)
    last = handle.last
    assert torch.isfinite(out.logits).all() and said.shape[1] == batch["input_ids"].shape[1] + 2
    for x, n, m, plan in zip(frames_before(name, net, batch, 1), last.before, last.after, last.plans, strict=True):
        assert plan is not None and (plan.m, plan.n, plan.per) == (m, len(x), 2) and 1 < m < n
        (alone,) = fewhertz.parse(f"ward@tolerance={2 * LAMBDA}").plans(x[None], fewhertz.Clip(50.0))
        assert torch.equal(plan.group, alone.group)


@torch.no_grad()
@pytest.mark.parametrize(
    ("budget", "least", "most"),
    [("0", 1, 25), ("1000", 0, 0.5), ("1000,min=6Hz", 6, 6), ("0,max=5Hz", 5, 5), ("0.15,min=8Hz,max=8Hz", 8, 8)],
)
@pytest.mark.parametrize("layers", ["1", "0+1"])
def test_limits_of_a_tolerance_hold(name: str, net: Any, budget: str, least: float, most: float, layers: str) -> None:
    """In audio tokens a second: never more than the prompt has placeholders."""
    batch = prompts(name, [[800], [301]])
    with fewhertz.compress(net, f"ward(site=encoder.{layers})@tolerance={budget}+time+sizes") as handle:
        assert torch.isfinite(net(**batch).logits).all()
    for n, m in zip(handle.last.before, handle.last.after, strict=True):
        assert max(1, round(least * n / 25)) <= m <= max(1, round(most * n / 25))


@torch.no_grad()
@pytest.mark.parametrize("method", ["ward", "segment", "stride"])
def test_several_layers_are_the_composition_of_their_plans(name: str, net: Any, method: str) -> None:
    """Step by step, by hand: each layer's plan on what the one before left, sizes carried, shares of frames equal."""
    batch, kind = prompts(name, [[800], [301]]), FAMILY[name]
    seen: list[Tensor] = []
    with fewhertz.compress(net, f"{method}(site=encoder.0+1)@keep=1/3") as handle:
        hook = net.base_model.multi_modal_projector.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        net(**batch)
        hook.remove()
    found = []
    for x, plan, m in zip(frames_before(name, net, batch, 0), handle.last.plans, handle.last.after, strict=True):
        n = len(x)
        middle = round((n * m) ** 0.5)  # of n frames to m tokens: both steps by the same factor
        one = fewhertz.parse(f"{method}@keep={middle}/{n}").plan(x[None], fewhertz.Clip(50.0))
        assert (one.n, one.m) == (n, middle)
        sizes = one.sizes()
        (between,) = kind.run_layers(net, slice(0, 1), [one.apply(x[None])[0]], [sizes[0]])
        clip = fewhertz.Clip(50.0 * middle / n, sizes=sizes)
        two = fewhertz.parse(f"{method}@keep={m}/{middle}").plan(between[None], clip)
        expected = torch.where(one.group < 0, -1, two.group.gather(1, one.group.clamp_min(0)))
        assert plan is not None and torch.equal(plan.group, expected) and plan.m == m
        weighed = torch.zeros(m, x.shape[1])
        for j in range(middle):
            if (k := int(two.group[0, j])) >= 0:
                weighed[k] += sizes[0, j] * between[j]
        own = Plan(expected, m).sizes()
        torch.testing.assert_close(plan.sizes(), own)
        torch.testing.assert_close(plan.shares(), Plan(expected, m).shares())
        assert (plan.centres().diff() > 0).all() and plan.spans(50.0)[0, -1, 1] <= n / 50 + 1e-6
        (end,) = kind.run_layers(net, slice(1, None), [weighed / own[0, :, None]], [own[0]])
        found.append(kind.timed(net, net.base_model.audio_tower.layer_norm(end), plan.centres()[0]))
    torch.testing.assert_close(seen[0][0], torch.cat(found), atol=1e-4, rtol=1e-4)


def test_a_plan_that_counts_sizes_gives_frames_equal_shares() -> None:
    one = Plan(torch.tensor([[0, 0, 0, 1, -1, 2]]), 3)
    two = Plan(torch.tensor([[0, 0, 1]]), 2)
    whole = one.then(two.counting(one.sizes()))
    assert whole.shares()[0].tolist() == [pytest.approx(0.25)] * 4 + [0.0, 1.0]
    assert one.then(two).shares()[0].tolist() == [pytest.approx(s) for s in (1 / 6, 1 / 6, 1 / 6, 1 / 2, 0, 1)]
    dropped = Plan(torch.tensor([[0, -1, 1]]), 2).counting(one.sizes())
    assert dropped.shares()[0].tolist() == [1.0, 0.0, 1.0]


def test_ward_counts_what_its_tokens_stand_for() -> None:
    """The mean and the price of a segment are those of all that was merged into it before."""
    x = torch.nn.functional.normalize(torch.randn(1, 30, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    counts = torch.randint(1, 5, (1, 30), generator=torch.Generator().manual_seed(1))
    many = x[0].repeat_interleave(counts[0], dim=0)[None]
    for spec in ("ward@tolerance=0.9", "ward@tolerance=1.6,max=8Hz"):
        (few,) = fewhertz.parse(spec).plans(x, fewhertz.Clip(25.0, sizes=counts))
        (all_of_them,) = fewhertz.parse(spec).plans(many, fewhertz.Clip(25.0 * many.shape[1] / 30))
        assert 1 < few.m < 30
        assert torch.equal(few.group[0].repeat_interleave(counts[0]), all_of_them.group[0])


@torch.no_grad()
def test_bf16(name: str) -> None:
    net = TINY[name].build().to(torch.bfloat16)
    batch = prompts(name, [[500], [301]])
    batch["input_features"] = batch["input_features"].bfloat16()
    with fewhertz.compress(net, HALF):
        assert torch.isfinite(net(**batch).logits).all()


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_kernels_agree(name: str, net: Any, kernel: str) -> None:
    batch = prompts(name, [[800], [301]])
    with fewhertz.compress(net, HALF):
        expected = net(**batch).logits
    other = TINY[name].build()
    other.base_model.audio_tower.config._attn_implementation = kernel
    with fewhertz.compress(other, HALF):
        torch.testing.assert_close(other(**batch).logits, expected, atol=5e-4, rtol=0)


@torch.no_grad()
def test_encode_once_runs_the_first_layers_once(name: str, net: Any) -> None:
    batch = prompts(name, [[500]])
    runs: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda *_, i=i: runs.append(i))
        for i, layer in enumerate(net.base_model.audio_tower.layers)
    ]
    apart = {}
    specs = [HALF, "pool(site=encoder.1)@keep=1/4", PRICED]
    for spec in specs:
        with fewhertz.compress(net, spec):
            apart[spec] = net(**batch).logits
    runs.clear()
    with encode_once(net, scores=True):
        for spec in specs:
            with fewhertz.compress(net, spec):
                assert torch.equal(net(**batch).logits, apart[spec])
    for hook in hooks:
        hook.remove()
    assert runs == [0, 1, 1, 1]


@torch.no_grad()
def test_threads_merge_inside_one_model(name: str, net: Any) -> None:
    batches = [prompts(name, [[mel]], seed=mel) for mel in range(100, 900, 100)]
    with fewhertz.compress(net, HALF):
        alone = [net(**batch).logits for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda batch: net(**batch).logits, batches * 3))
    for ours, expected in zip(together, alone * 3, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    assert len(net.base_model.audio_tower.layers) == 2


@torch.no_grad()
def test_trimmed_or_not_it_is_the_same(name: str, net: Any) -> None:
    batch = prompts(name, [[500], [301]])
    logits = []
    for trim in (True, False):
        with fewhertz.compress(net, HALF, trim=trim):
            logits.append(net(**batch).logits)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("ward(site=encoder.2)@keep=1/2", "has layers 0 to 1"),
        ("topk(site=encoder.1)@keep=1/2", "needs the scores of the encoder's last layer"),
        ("unseg(site=encoder.1)", "its count follows the content"),
        ("pool(site=encoder.1)@keep=1/2 then ward(site=encoder.1)@keep=1/2", "no chain"),
        ("pool(site=encoder.x)@keep=1/2", 'site is "llm", "llm.k", "encoder" or "encoder.k"'),
        ("pool(site=encoder.)@keep=1/2", 'site is "llm", "llm.k", "encoder" or "encoder.k"'),
        ("pool(site=encoder.0+)@keep=1/2", 'site is "llm", "llm.k", "encoder" or "encoder.k"'),
        ("pool(site=encoder.1+1)@keep=1/2", "layers of a site rise"),
        ("pool(site=encoder.1+0)@keep=1/2", "layers of a site rise"),
        ("pool(site=encoder.0+2)@keep=1/2", "has layers 0 to 1"),
        ("ward(site=encoder.1,count=mel)@tolerance=0.3", "counts the audio tokens of whole clips"),
        ("ward(site=encoder.1,shared=true)@keep=1/2", "clips share its budget"),
        ("affinity(site=encoder.1)", "its count follows the content"),
        ("conv(site=encoder.1)@keep=1/2", "conv acts in the LLM's input space"),
    ],
)
def test_refusals(name: str, net: Any, spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        fewhertz.compress(net, spec)


def test_another_kernel_is_refused(name: str) -> None:
    net = TINY[name].build()
    tower = net.base_model.audio_tower
    tower.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(NotImplementedError, match="the audio encoder runs 'flash_attention_2'"):
        whisper.through(tower, slice(1, None), [torch.zeros(1, 16)], [torch.ones(1, dtype=torch.long)])


@pytest.mark.parametrize(
    ("spec", "own", "words"),
    [
        (HALF, False, r"cannot be served at site=encoder\.1: vLLM "),
        (SCHEDULE, False, r"cannot be served at site=encoder\.0\+1: vLLM "),
        (PRICED, True, "cannot be served: it is of variable length"),
        ("pool(site=encoder)@8Hz", True, "cannot be served at site=encoder: vLLM "),
        ("pool(site=llm.1)@keep=1/2", True, r"cannot be served at site=llm\.1: vLLM "),
        ("pool(site=llm.0+1)@keep=1/2", True, r"cannot be served at site=llm\.0\+1: vLLM "),
    ],
)
def test_vllm_serves_a_count_where_the_tower_is_transformers_own(
    name: str, net: Any, spec: str, own: bool, words: str
) -> None:
    from fewhertz.vllm.choice import Choice

    config = copy.deepcopy(net.config)
    config.audio_compression = {"method": spec}
    with pytest.raises(ValueError, match=words):
        Choice(FAMILY[name], config, scores=own)
    for served in (HALF, SCHEDULE):
        config.audio_compression = {"method": served}
        assert Choice(FAMILY[name], config, scores=True).default == fewhertz.parse(served)


def test_every_other_family_says_why() -> None:
    assert set(INSIDE) == {"qwen2-audio", "audio-flamingo-3", "music-flamingo"}
    said = {FAMILY[name].not_inside for name in set(TINY) - set(INSIDE)}
    assert Family.not_inside not in said and all(len(str(why)) > 50 for why in said)


@pytest.mark.parametrize("family", [name for name in TINY if name not in INSIDE])
def test_other_families_are_refused_by_name(family: str) -> None:
    with pytest.raises(ValueError, match=f"{family} cannot be compressed inside its encoder: its "):
        fewhertz.compress(TINY[family].build(), HALF)


def test_half_a_token_weighs_half() -> None:
    """What log s makes of it."""
    plan = Plan(torch.tensor([[0, 1, 1]]), 2, per=2)
    logs: Tensor = (plan.sizes()[0] / plan.per).log()
    assert logs.tolist() == [pytest.approx(math.log(0.5)), 0.0]
