"""Contiguous segments that keep the most: `optimal` against every way to cut, `ward` against `optimal`."""

import functools
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from fewhertz import Clip, Plan, parse, pocket
from fewhertz.demo import bundled
from fewhertz.families import family_of
from fewhertz.run import request

RATE = 25.0


def at(*degrees: float) -> Tensor:
    """Tokens (1, n, 2) of unequal length whose angles are these."""
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None] * torch.arange(1.0, len(degrees) + 1)[None, :, None]


def plan_of(spec: str, x: Tensor) -> Plan:
    return parse(spec).plan(x, Clip(RATE))


def groups(spec: str, x: Tensor) -> list[int]:
    return plan_of(spec, x).group[0].tolist()


def objective(x: Tensor, plan: Plan) -> list[float]:
    """Squared distance of each clip's tokens of length 1 to the mean of their group, by the definition."""
    unit = torch.nn.functional.normalize(x.double(), dim=-1, eps=1e-30)
    means = plan.apply(unit)
    return (unit - means.gather(1, plan.group[..., None].expand_as(unit))).square().sum((1, 2)).tolist()


def cuts(n: int, m: int, longest: int) -> list[list[int]]:
    """The groups of every way to cut n tokens into m segments of at most `longest`."""
    ways = []
    for inner in combinations(range(1, n), m - 1):
        ends = [0, *inner, n]
        if max(b - a for a, b in pairwise(ends)) <= longest:
            ways.append([k for k, (a, b) in enumerate(pairwise(ends)) for _ in range(a, b)])
    return ways


@functools.cache
def features(site: str) -> list[Tensor]:
    """Audio tokens (1, n, d) that pocket makes of its bundled clips."""
    model = Qwen2AudioForConditionalGeneration.from_pretrained(pocket.path(), dtype=torch.float32).eval()
    inputs = request(AutoProcessor.from_pretrained(pocket.path()), [clip.wave for clip in bundled()])
    family = family_of(model)
    audio = {name: inputs[name] for name in family.audio_inputs}
    with torch.no_grad():
        windows = family.encode(model, audio, inputs.input_ids, site, False)
    return [clip[None] for clip in windows.tokens.split(windows.lengths)]


def test_optimal_by_hand() -> None:
    assert groups("optimal@keep=1/3", at(0, 10, 20, 90, 95, 100)) == [0, 0, 0, 1, 1, 1]
    assert groups("optimal@keep=1/2", at(0, 10, 20, 90, 95, 180)) == [0, 0, 0, 1, 1, 2]
    # three pairs, two segments: either end stays alone, the middle joins the other
    assert groups("optimal@keep=1/3", at(0, 0, 40, 40, 80, 80)) in ([0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1])


def test_optimal_of_equals_has_the_longest_last_segments() -> None:
    assert groups("optimal@keep=1/2", torch.zeros(1, 6, 2)) == [0, 1, 2, 2, 2, 2]
    assert groups("optimal@keep=1/2", torch.ones(1, 6, 2)) == [0, 1, 2, 2, 2, 2]
    assert groups("optimal(longest=1)@keep=1/2", torch.ones(1, 6, 2)) == [0, 0, 1, 1, 2, 2]
    assert groups("optimal(longest=1.5)@keep=1/2", torch.ones(1, 6, 2)) == [0, 1, 1, 2, 2, 2]
    assert groups("optimal@keep=1/3", at(0, 40, 80, 80, 40, 0)) == [0, 1, 1, 1, 1, 1]


@given(
    n=st.integers(2, 12),
    part=st.floats(0, 1),
    longest=st.sampled_from((1.0, 1.5, 2.0, 3.0, 8.0, 100.0)),
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(("random", "walk", "few values", "silence inside")),
)
@settings(deadline=None, max_examples=150)
def test_optimal_is_the_best_of_all_ways(n: int, part: float, longest: float, seed: int, kind: str) -> None:
    x = torch.randn(2, n, 3, generator=torch.Generator().manual_seed(seed))
    if kind == "walk":
        x = x.cumsum(1)
    if kind == "few values":
        x = x[:, torch.arange(n) // 2 % 3 * min(1, n - 1)]
    if kind == "silence inside":
        x[:, n // 3 : 2 * n // 3] = 0
    m = max(1, min(n - 1, round(part * n)))
    plan = plan_of(f"optimal(longest={longest})@keep={m}/{n}", x)
    assert plan.m == m
    limit = min(n - m + 1, -(-int(min(longest, m) * n * 2) // (2 * m)))
    assert plan.sizes().max() <= limit
    ways = torch.tensor(cuts(n, m, limit))
    for row, found in enumerate(objective(x, plan)):
        tokens = x[row : row + 1].expand(len(ways), -1, -1)
        assert found == pytest.approx(min(objective(tokens, Plan(ways, m))), abs=1e-5)


@pytest.mark.parametrize("site", ("llm", "encoder"))
@pytest.mark.parametrize("keep", ("1/2", "1/3", "1/6"))
def test_the_default_limit_costs_nothing_on_speech(keep: str, site: str) -> None:
    for x in features(site):
        [limited], [free] = (
            objective(x, plan_of(f"{spec}@keep={keep}", x)) for spec in ("optimal", "optimal(longest=100)")
        )
        assert free - 1e-4 <= limited <= 1.001 * free


@pytest.mark.parametrize("keep", ("1/2", "1/3", "1/4", "1/6", "1/10"))
@pytest.mark.parametrize("site", ("llm", "encoder"))
def test_ward_is_within_5_percent_of_optimal_on_speech(site: str, keep: str) -> None:
    best = near = others = 0.0
    for x in features(site):
        [least] = objective(x, plan_of(f"optimal(longest=100)@keep={keep}", x))
        [ours] = objective(x, plan_of(f"ward@keep={keep}", x))
        assert ours >= least - 1e-4
        best, near = best + least, near + ours
        others += min(objective(x, plan_of(f"{name}@keep={keep}", x))[0] for name in ("segment", "pool", "a-tome"))
    assert near <= 1.05 * best
    assert near < others


def exact_ward(x: Tensor, m: int) -> float:
    """The objective of Ward's own algorithm on one clip: the cheapest pair of neighbours joins, one at a time."""
    unit = torch.nn.functional.normalize(x[0].double(), dim=-1)
    sums, sizes = [*unit], [1] * len(unit)

    def price(p: int) -> float:
        a, b = sums[p] / sizes[p], sums[p + 1] / sizes[p + 1]
        return float(sizes[p] * sizes[p + 1] / (sizes[p] + sizes[p + 1]) * (a - b).square().sum())

    prices = [price(p) for p in range(len(unit) - 1)]
    lost = 0.0
    while len(sums) > m:
        p = min(range(len(prices)), key=prices.__getitem__)
        lost += prices.pop(p)
        sums[p], sizes[p] = sums[p] + sums.pop(p + 1), sizes[p] + sizes.pop(p + 1)
        for near in (p - 1, p):
            if 0 <= near < len(prices):
                prices[near] = price(near)
    return lost


@pytest.mark.parametrize("keep", ("3/4", "1/2", "1/3"))
@pytest.mark.parametrize("site", ("encoder", "llm"))
def test_ward_loses_what_wards_own_algorithm_loses(site: str, keep: str) -> None:
    """On speech, and on speech with as much silence in its middle, where joining pairs at once used to go wrong."""
    for clip in features(site):
        half = clip.shape[1] // 2
        quiet = clip[:, :1].expand(1, 2 * half, -1)
        for x in (clip, torch.cat([clip[:, :half], quiet, clip[:, half:]], 1)):
            plan = plan_of(f"ward@keep={keep}", x)
            [ours] = objective(x, plan)
            assert ours <= 1.03 * exact_ward(x, plan.m) + 1e-3


def test_ward_joins_the_cheapest() -> None:
    x = at(0, 10, 50, 55)
    assert groups("ward@keep=3/4", x) == [0, 1, 2, 2]
    assert groups("ward@keep=1/2", x) == [0, 0, 1, 1]
    # 4 tokens at 0° and 1 at 20° cost 0.8 times their squared distance to join, those at 20° and 41° half of theirs
    assert groups("ward@keep=1/3", at(0, 0, 0, 0, 20, 41)) == [0, 0, 0, 0, 1, 1]


def test_ward_of_equals_joins_the_earlier_first() -> None:
    silence = torch.zeros(1, 6, 2)
    assert groups("ward@keep=5/6", silence) == [0, 0, 1, 2, 3, 4]
    assert groups("ward@keep=1/6", silence) == [0] * 6
    assert groups("ward@keep=2/3", torch.ones(1, 6, 2)) == groups("ward@keep=2/3", silence)


@pytest.mark.parametrize("kind", ("silence", "constant", "noise"))
def test_ward_takes_few_rounds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewhertz.methods import ward

    rounds = []
    apart = ward.apart
    monkeypatch.setattr(ward, "apart", lambda cost: rounds.append(0) or apart(cost))
    noise = torch.randn(2, 750, 8, generator=torch.Generator().manual_seed(0))
    plan_of("ward@keep=1/3", {"silence": noise * 0, "constant": noise[:, :1].expand_as(noise), "noise": noise}[kind])
    assert 2 <= len(rounds) <= 20


def test_ward_is_what_loops_do() -> None:
    x = torch.randn(2, 40, 4, generator=torch.Generator().manual_seed(2)).cumsum(1)
    m = 13
    plan = plan_of(f"ward@keep={m}/40", x)
    for row in range(2):
        unit = torch.nn.functional.normalize(x[row].double(), dim=-1)
        segments = [[t] for t in range(40)]
        while len(segments) > m:
            means = [unit[members].mean(0) for members in segments]
            price = [
                len(a) * len(b) / (len(a) + len(b)) * (v - u).square().sum().item()
                for a, b, u, v in zip(segments, segments[1:], means, means[1:], strict=False)
            ]
            around = [float("inf"), *price, float("inf")]
            left = len(segments) - m
            bound = sorted(price)[left - 1]
            minima = [p for p in range(len(price)) if price[p] < around[p] and price[p] < around[p + 2]]
            minima = [p for p in minima if price[p] <= bound]
            joins = min(len(minima), left)
            for p in sorted(sorted(minima, key=price.__getitem__)[:joins], reverse=True):
                segments[p : p + 2] = [segments[p] + segments[p + 1]]
        assert plan.group[row].tolist() == [k for k, members in enumerate(segments) for _ in members]


@pytest.mark.parametrize("spec", ("optimal", "ward"))
def test_length_of_tokens_does_not_matter(spec: str) -> None:
    x = torch.randn(1, 50, 6, generator=torch.Generator().manual_seed(4)).cumsum(1)
    louder = x * (1 + torch.arange(50)[None, :, None] % 4) * 2.0**20
    assert groups(f"{spec}@keep=1/4", louder) == groups(f"{spec}@keep=1/4", x)


@pytest.mark.parametrize("spec", ("optimal", "ward"))
def test_bf16_decides_as_its_values_in_float32_do(spec: str) -> None:
    x = torch.randn(1, 50, 6, generator=torch.Generator().manual_seed(4)).cumsum(1).bfloat16()
    method = parse(f"{spec}@keep=1/4")
    out, plan = method.forward(x, Clip(RATE))
    assert out.dtype == torch.bfloat16
    assert plan is not None and plan.group[0].tolist() == groups(f"{spec}@keep=1/4", x.float())


@pytest.mark.parametrize("spec", ("optimal", "ward"))
def test_gradient_goes_through_the_mean(spec: str) -> None:
    x = torch.randn(1, 20, 6, generator=torch.Generator().manual_seed(4)).requires_grad_()
    out, plan = parse(f"{spec}@keep=1/4").forward(x, Clip(RATE))
    out[:, 2].sum().backward()
    assert x.grad is not None and plan is not None
    members = plan.group == 2
    torch.testing.assert_close(x.grad, (members / members.sum())[..., None].expand_as(x))


def test_clips_done_in_parts_are_the_same() -> None:
    from fewhertz.methods._shared import in_parts
    from fewhertz.methods.optimal import best_starts

    x = torch.randn(5, 60, 4, generator=torch.Generator().manual_seed(4)).cumsum(1)
    choose = functools.partial(best_starts, m=20, longest=24)
    together = choose(x)
    for numbers in (1 << 25, 1 << 30):  # two clips at a time, one at a time
        assert torch.equal(in_parts(choose, numbers, x), together)


@pytest.mark.parametrize("longest", ("0.5", "0", "-1", "101", "1e300"))
def test_longest_has_to_leave_room(longest: str) -> None:
    with pytest.raises(ValueError, match=r"^longest is "):
        parse(f"optimal(longest={longest})@keep=1/3")
