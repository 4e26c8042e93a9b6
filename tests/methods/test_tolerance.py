"""A tolerance instead of a count: prices, limits, clips of different outcome in one batch, and a model under it."""

import itertools
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import fewhertz
from fewhertz import Clip, Plan, audio, parse
from fewhertz.mel import mel_tokens
from fewhertz.pocket import path
from fewhertz.run import answer, request

RATE = 25.0


def walk(b: int, n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(b, n, 8, generator=generator).cumsum(1) + torch.randn(b, n, 8, generator=generator)


def loss(x: Tensor) -> float:
    """Of one segment of tokens of unit length."""
    return float((x - x.mean(0)).square().sum())


def total(x: Tensor, ends: tuple[int, ...], price: float) -> float:
    return sum(loss(x[a:b]) + price for a, b in itertools.pairwise(ends))


def ends(plan: Plan) -> tuple[int, ...]:
    """Where the segments of a plan end, 0 first."""
    return (0, *plan.sizes()[0].cumsum(0).tolist())


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 12])
@pytest.mark.parametrize("price", [0.0, 0.2, 0.7, 2.0])
def test_optimal_is_the_least_of_all_cuts(n: int, price: float) -> None:
    x = normalize(walk(2, n, seed=n), dim=-1)
    for row, plan in zip(x, parse(f"optimal@tolerance={price}").plans(x, Clip(RATE)), strict=True):
        cuts = (c for k in range(n) for c in itertools.combinations(range(1, n), k))
        best = min(total(row, (0, *cut, n), price) for cut in cuts)
        assert total(row, ends(plan), price) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("price", [0.1, 0.45, 1.0])
def test_ward_stops_where_every_join_costs_more(price: float) -> None:
    x = normalize(walk(3, 300), dim=-1)
    for row, plan in zip(x, parse(f"ward@tolerance={price}").plans(x, Clip(RATE)), strict=True):
        means, sizes = plan.apply(row[None])[0], plan.sizes()[0].float()
        joins = sizes[1:] * sizes[:-1] / (sizes[1:] + sizes[:-1]) * (means[1:] - means[:-1]).square().sum(-1)
        assert joins.min() > price - 1e-4
        assert 1 < plan.m < 300


@pytest.mark.parametrize("method", ["ward", "optimal"])
def test_clips_of_different_outcome_in_one_batch(method: str) -> None:
    x = walk(4, 120)
    x[1] = x[1, :1]  # constant
    x[2, 60:] = 0.0  # half of it silent
    one = parse(f"{method}@tolerance=0.3")
    plans = one.plans(x, Clip(RATE))
    assert len({plan.m for plan in plans}) > 2
    assert plans[1].m < 3 and plans[2].m < plans[0].m
    for i, plan in enumerate(plans):
        (alone,) = one.plans(x[i : i + 1], Clip(RATE))
        assert torch.equal(plan.group, alone.group) and plan.m == alone.m


@pytest.mark.parametrize("method", ["ward", "optimal"])
def test_counts_fall_as_the_tolerance_rises(method: str) -> None:
    x = walk(1, 200)
    counts = [parse(f"{method}@tolerance={t}").plans(x, Clip(RATE))[0].m for t in (0, 0.1, 0.3, 1, 3, 1000)]
    assert counts[0] == 200 and counts[-1] < 5 and counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("method", ["ward", "optimal"])
@pytest.mark.parametrize(
    ("limits", "least", "most"), [("min=5Hz", 40, 200), ("max=3Hz", 1, 24), ("min=2Hz,max=2Hz", 16, 16)]
)
def test_floors_and_ceilings_hold(method: str, limits: str, least: int, most: int) -> None:
    x = walk(3, 200)  # 8 s
    x[1] = x[1, :1]
    for tolerance in (0.01, 0.3, 1000):
        for plan in parse(f"{method}@tolerance={tolerance},{limits}").plans(x, Clip(RATE)):
            assert least <= plan.m <= most and len(plan.sizes()[0]) == plan.m and plan.sizes().min() > 0


def test_a_ceiling_is_reached_as_the_count_would_be() -> None:
    x = walk(2, 200)
    (one, other), counted = parse("ward@tolerance=0,max=5Hz").plans(x, Clip(RATE)), parse("ward@keep=1/5")
    assert torch.equal(torch.cat([one.group, other.group]), counted.plan(x, Clip(RATE)).group)


@pytest.mark.parametrize(
    "spec",
    ["ward@tolerance=0.45", "ward@tolerance=0.3,min=2Hz,max=12.5Hz+time+sizes", "optimal(longest=4.0)@tolerance=1"],
)
def test_specs_make_the_round_trip(spec: str) -> None:
    method = parse(spec)
    assert method.spec == spec and parse(method.spec) == method
    assert not method.fixed_budget and parse("ward@keep=1/2").fixed_budget
    assert method.present("time").tolerance == method.tolerance and not method.present("time").fixed_budget


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("pool@tolerance=0.3", "pool takes no tolerance"),
        ("ward@tolerance=-1", "0 or more"),
        ("ward@tolerance=x", "is a number"),
        ("ward@tolerance=1e999", "a finite number"),
        ("ward@tolerance=1,min=3", "min=2Hz"),
        ("ward@tolerance=1,min=0Hz", "above 0"),
        ("ward@tolerance=1,min=5Hz,max=2Hz", "min is at most max"),
        ("ward@tolerance=1,most=2Hz", "cannot read the budget"),
        ("unseg@tolerance=1", "takes no budget"),
        ("ward@tolerance=1 then pool@keep=1/2", "variable length"),
    ],
)
def test_bad_budgets_are_refused(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(spec)


def test_two_budgets_are_refused() -> None:
    with pytest.raises(ValueError, match="one budget"):
        fewhertz.parse("ward@keep=1/2").__class__(keep=Fraction(1, 2), tolerance=0.3)
    with pytest.raises(ValueError, match="go with a tolerance"):
        fewhertz.parse("ward@keep=1/2").__class__(keep=Fraction(1, 2), min=Fraction(2))


@pytest.mark.parametrize("site", ["", "(site=encoder.3)"])
def test_a_batch_of_clips_is_each_clip_alone(site: str) -> None:
    """In a real model: what sounds more takes more, and a batch's rows are those of the clips alone."""
    model, processor = fewhertz.load("pocket", f"ward{site}@tolerance=0.45+time+sizes", device="cpu", dtype="float32")
    files = sorted((Path(path()) / "samples").glob("*.flac"))[:4]
    waves = [audio.load(file) for file in files]
    waves.append(torch.zeros(3 * 16_000).numpy())  # silence
    together = answer(model, processor, request(processor, waves), transcript=True, max_new_tokens=24)
    plans = fewhertz.attached(model).last.plans
    for wave, reply, plan in zip(waves, together, plans, strict=True):
        (alone,) = answer(model, processor, request(processor, [wave]), transcript=True, max_new_tokens=24)
        assert (alone.text, alone.after) == (reply.text, reply.after)
        assert torch.equal(fewhertz.attached(model).last.plans[0].group, plan.group)
    assert together[-1].after < together[-1].before / 10  # silence takes next to nothing
    assert all(reply.after > reply.before / 10 for reply in together[:-1])


# --- counts that are known before the audio is encoded


MEL = "ward(count=mel)@tolerance=0.5+time+sizes"


def test_the_count_follows_from_the_mel_alone() -> None:
    """Whatever the tokens are: what vLLM lays out before they are there."""
    method = parse("ward(count=mel)@tolerance=0.5,max=10Hz")
    mel = walk(3, 120, seed=1)
    mel[1] = mel[1, :1]
    counts = method.counts(mel, RATE).flatten().tolist()
    for seed in (2, 3):
        plans = method.plans(walk(3, 120, seed), Clip(RATE, mel=mel))
        assert [plan.m for plan in plans] == counts
        for i, plan in enumerate(plans):
            alone = parse(f"ward@keep={counts[i]}/120").plan(walk(3, 120, seed)[i : i + 1], Clip(RATE))
            assert torch.equal(plan.group, alone.group)
    assert counts[1] == 1 and max(counts) <= 48


def test_a_count_from_the_mel_is_refused_where_it_says_nothing() -> None:
    with pytest.raises(ValueError, match="goes with a tolerance"):
        parse("ward(count=mel)@keep=1/2")
    with pytest.raises(ValueError, match="count is tokens or mel"):
        parse("ward(count=ear)@tolerance=0.5")
    with pytest.raises(ValueError, match="needs the log-mel"):
        parse(MEL).plans(walk(1, 10), Clip(RATE))


def test_mel_tokens_are_means_of_their_frames() -> None:
    features = torch.randn(2, 5, 3000, generator=torch.Generator().manual_seed(0))
    found = mel_tokens(features, [750, 100], 25.0)
    assert found.shape == (850, 5)
    torch.testing.assert_close(found[7], features[0, :, 28:32].mean(-1))
    torch.testing.assert_close(found[750 + 99], features[1, :, 396:400].mean(-1))
    with pytest.raises(NotImplementedError, match="windows of log-mel"):
        mel_tokens(features, [750], 25.0)


def test_a_model_under_a_count_from_the_mel() -> None:
    model, processor = fewhertz.load("pocket", MEL, device="cpu", dtype="float32")
    files = sorted((Path(path()) / "samples").glob("*.flac"))[:3]
    waves = [*(audio.load(file) for file in files), torch.zeros(3 * 16_000).numpy()]
    handle = fewhertz.attached(model)
    assert handle is not None
    together = answer(model, processor, request(processor, waves), transcript=True, max_new_tokens=16)
    plans = handle.last.plans
    for wave, reply, plan in zip(waves, together, plans, strict=True):
        (alone,) = answer(model, processor, request(processor, [wave]), transcript=True, max_new_tokens=16)
        assert (alone.text, alone.after) == (reply.text, reply.after)
        assert plan is not None and handle.last.plans[0] is not None
        assert torch.equal(handle.last.plans[0].group, plan.group)
    assert together[-1].after == 1
