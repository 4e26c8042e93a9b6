"""What the peers' methods decide: examples worked out by hand, and what their definitions promise."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewhertz import Clip, Plan, parse

RATE = 25.0
PEERS = ("a-tome", "cdpruner", "dart", "divprune", "evs", "fastadasp", "sa-map", "vispruner")


def at(*degrees: float) -> Tensor:
    """Tokens (1, n, 2) of unequal length whose angles are these."""
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None] * torch.arange(1.0, len(degrees) + 1)[None, :, None]


def plan_of(spec: str, x: Tensor, scores: list[float] | Tensor | None = None) -> Plan:
    if scores is None:
        scores = torch.ones(x.shape[:2])
    if isinstance(scores, list):
        scores = torch.tensor([scores])
    return parse(spec).plan(x, Clip(RATE, scores))


def groups(spec: str, x: Tensor, scores: list[float] | None = None) -> list[int]:
    return plan_of(spec, x, scores).group[0].tolist()


def kept(spec: str, x: Tensor, scores: list[float] | Tensor | None = None) -> list[int]:
    return (plan_of(spec, x, scores).group[0] >= 0).nonzero().flatten().tolist()


def cosines(x: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(x[0].double(), dim=-1)
    return unit @ unit.T


def noise(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(1, n, d, generator=torch.Generator().manual_seed(seed))


def test_cosines_are_a_clips_own_bits_whatever_the_batch() -> None:
    from fewhertz.methods._shared import cosines as shared

    x = torch.cat([noise(70, 33, seed) for seed in range(3)])
    together = shared(x)
    assert together.dtype == torch.float32  # half of the memory, and a peer's time
    for row in range(3):
        assert torch.equal(shared(x[row : row + 1])[0], together[row])
        torch.testing.assert_close(together[row].double(), cosines(x[row : row + 1]), rtol=0, atol=1e-6)


def test_a_tome_merges_the_best_pairs_of_each_round() -> None:
    x = at(0, 10, 50, 52, 90, 140, 145, 200)  # pairs: 10°, 2°, 50°, 55°
    assert groups("a-tome@keep=7/8", x) == [0, 1, 2, 2, 3, 4, 5, 6]
    assert groups("a-tome@keep=6/8", x) == [0, 0, 1, 1, 2, 3, 4, 5]
    # half of the pairs a round; then the pairs are about (5°, 51°), (90°, 140°), (145°, 200°)
    assert groups("a-tome@keep=5/8", x) == [0, 0, 0, 0, 1, 2, 3, 4]


def test_a_tome_never_merges_across_a_token() -> None:
    plan = plan_of("a-tome@keep=1/7", noise(50, seed=3))
    assert (plan.group.diff(dim=1) >= 0).all() and (plan.group.diff(dim=1) <= 1).all()


def test_a_tome_of_equals_takes_the_earlier_pair() -> None:
    assert groups("a-tome@keep=7/8", torch.zeros(1, 8, 2)) == [0, 0, 1, 2, 3, 4, 5, 6]


def test_fastadasp_merges_runs_by_attention() -> None:
    x = at(0, 5, 15, 60, 64, 120)  # turns: 5°, 10°, 45°, 4°, 56°
    plan = plan_of("fastadasp@keep=1/2", x, [1.0, 2.0, 1.0, 3.0, 1.0, 5.0])
    assert plan.group[0].tolist() == [0, 0, 0, 1, 1, 2]
    torch.testing.assert_close(plan.shares(), torch.tensor([[0.25, 0.5, 0.25, 0.75, 0.25, 1.0]]))
    torch.testing.assert_close(plan.apply(x)[0, 1], 0.75 * x[0, 3] + 0.25 * x[0, 4])


def test_fastadasp_has_the_segments_of_segment() -> None:
    x = noise(60, seed=5)
    assert groups("fastadasp@keep=1/4", x) == groups("segment@keep=1/4", x)
    assert groups("fastadasp@keep=1/2", torch.zeros(1, 6, 2)) == [0, 0, 0, 0, 1, 2]


@pytest.mark.parametrize("spec", ("fastadasp@keep=1/3", "sa-map@keep=1/3"))
@pytest.mark.parametrize("scores", ([0.0] * 6, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]))
def test_a_token_without_attention_has_a_share_all_the_same(spec: str, scores: list[float]) -> None:
    plan = plan_of(spec, at(0, 1, 2, 90, 91, 92), scores)
    assert ((plan.shares() > 0) == (plan.group >= 0)).all()
    assert plan.apply(noise(6)).isfinite().all()


def test_sa_map_groups_while_the_mean_cosine_suffices() -> None:
    # 40° is 0.77 from 0° and 0.98 from 30°: 0.87 in the mean; 55° is 0.57, 0.91 and 0.97: 0.82
    x = at(0, 30, 40, 55, 150, 151)
    assert groups("sa-map@keep=1/2", x) == [0, 0, 0, 1, 2, 2]
    assert groups("sa-map(threshold=0.8)@keep=1/3", x) == [0, 0, 0, 0, 1, 1]


def test_sa_map_merges_and_prunes_by_attention() -> None:
    x = torch.tensor([[[1.0, 0, 0], [1, 0.01, 0], [0, 1, 0], [0, 1, 0.01], [0, 0, 1], [0, 0.01, 1]]])
    plan = plan_of("sa-map@keep=1/3", x, [3.0, 1.0, 1.0, 1.0, 1.0, 4.0])
    assert plan.group[0].tolist() == [0, 0, -1, -1, 1, 1]
    torch.testing.assert_close(plan.shares(), torch.tensor([[0.75, 0.25, 0, 0, 0.2, 0.8]]))


def test_sa_map_cuts_where_neighbours_differ_most_if_groups_are_too_few() -> None:
    assert groups("sa-map@keep=1/2", at(0, 1, 5, 7, 8, 9)) == [0, 0, 1, 2, 2, 2]
    assert groups("sa-map@keep=1/2", torch.ones(1, 6, 2)) == [0, 1, 2, 2, 2, 2]


def greedy_groups(x: Tensor, threshold: float) -> list[list[int]]:
    similarity = cosines(x)
    found = [[0]]
    for t in range(1, x.shape[1]):
        if similarity[found[-1], t].mean() >= threshold:
            found[-1].append(t)
        else:
            found.append([t])
    return found


@given(n=st.integers(1, 40), seed=st.integers(0, 1000), threshold=st.sampled_from((-0.5, 0.3, 0.7, 0.85, 0.97)))
@settings(deadline=None, max_examples=60)
def test_sa_map_groups_are_those_of_a_loop(n: int, seed: int, threshold: float) -> None:
    from fewhertz.methods.sa_map import greedy_starts

    x = noise(n, 4, seed).cumsum(1) + noise(n, 4, seed + 1)
    expected = [members[0] for members in greedy_groups(x, threshold)]
    together = torch.cat([x, x.flip(1)])
    assert greedy_starts(together, threshold)[0].nonzero().flatten().tolist() == expected


def test_clips_of_unlike_group_counts_share_a_batch() -> None:
    apart, same = at(*range(0, 360, 45)), at(*range(8))
    plan = plan_of("sa-map@keep=1/2", torch.cat([apart, same]))
    assert plan.group[0].tolist() == groups("sa-map@keep=1/2", apart)
    assert plan.group[1].tolist() == groups("sa-map@keep=1/2", same)


def test_vispruner_is_half_attention_half_diversity() -> None:
    #       0    1   2    3    4   5     6    7
    x = at(0, 90, 1, 180, 91, 30, 270, 181)
    scores = [7.0, 9.0, 1.0, 1.0, 8.0, 1.0, 1.0, 1.0]
    # 0, 1 and 4 by attention. Of 2, 3, 5, 6, 7 those in even places, 2, 5, 7, are compared with 3 and 6, and the two
    # that have the closest partner go: 7 (1° from 3) and 2 (91° from 6); 5 is 120° from 6
    assert kept("vispruner@keep=3/4", x, scores) == [0, 1, 3, 4, 5, 6]
    assert kept("vispruner(share=1)@keep=1/4", x, scores) == [1, 4]


def test_vispruner_drops_planted_copies() -> None:
    place = torch.arange(32)
    x = torch.eye(24)[torch.where(place < 16, place // 2, place - 8)][None]  # the first eight stand there twice
    left = kept("vispruner(share=0)@keep=3/4", x)
    assert sorted(x[0, left].argmax(1).tolist()) == list(range(24))


def best_determinants(kernel: Tensor, m: int) -> list[int]:
    """Greedy by determinants themselves, the earliest of equals."""
    chosen: list[int] = []
    for _ in range(m):
        rest = [i for i in range(len(kernel)) if i not in chosen]
        gains = {i: kernel[[*chosen, i]][:, [*chosen, i]].det().item() for i in rest}
        chosen.append(next(i for i in rest if gains[i] >= max(gains.values()) * (1 - 1e-9)))
    return sorted(chosen)


@given(n=st.integers(2, 8), part=st.floats(0, 0.99), seed=st.integers(0, 10_000), conditional=st.booleans())
@settings(deadline=None, max_examples=80)
def test_cdpruner_is_the_greedy_by_determinants(n: int, part: float, seed: int, conditional: bool) -> None:
    x, m = noise(n, 9, seed), max(1, min(n - 1, int(part * n)))
    scores = torch.rand(1, n, generator=torch.Generator().manual_seed(seed)) + 0.5
    low, high = scores.min(), scores.max()
    q = (scores[0].double() - low) / (high - low) + 1e-6 if conditional else torch.ones(n).double()
    expected = best_determinants(q[:, None] * cosines(x) * q, m)
    assert kept(f"cdpruner(conditional={conditional})@keep={m}/{n}", x, scores) == expected


def test_cdpruner_by_hand() -> None:
    x = torch.tensor([[[1.0, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 0, 1]]])
    assert kept("cdpruner(conditional=false)@keep=3/4", x) == [0, 2, 3]
    assert kept("cdpruner@keep=1/2", x, [1.0, 0.9, 0.5, 0.1]) == [0, 2]  # 0.9·0.1 is less than 0.5
    assert kept("cdpruner@keep=1/4", x, [0.1, 0.2, 0.9, 0.3]) == [2]


def test_cdpruner_fills_up_by_relevance_once_all_is_spanned() -> None:
    x = at(0, 90, 10, 20, 30, 40)  # two dimensions
    assert kept("cdpruner@keep=4/6", x, [0.9, 1.0, 0.1, 0.4, 0.2, 0.5]) == [0, 1, 3, 5]
    assert kept("cdpruner(conditional=false)@keep=4/6", x) == [0, 1, 2, 3]


def test_cdpruner_without_condition_needs_no_scores() -> None:
    method = parse("cdpruner(conditional=false)@keep=1/2")
    assert method.needs == frozenset() and parse("cdpruner@keep=1/2").needs == {"scores"}
    assert method.plan(noise(6), Clip(RATE)).m == 3


def test_divprune_first_choice_is_the_most_isolated() -> None:
    x = at(0, 5, 100, 110, 200)  # the nearest other: 5°, 5°, 10°, 10°, 90°
    assert kept("divprune@keep=1/5", x) == [4]
    assert kept("divprune@keep=2/5", x) == [1, 4]  # 165° apart; 0° is 160° off


@given(n=st.integers(3, 30), seed=st.integers(0, 10_000), part=st.floats(0, 0.99))
@settings(deadline=None, max_examples=60)
def test_divprune_spreads_at_least_half_as_wide_as_can_be(n: int, seed: int, part: float) -> None:
    x, m = noise(n, 4, seed), max(2, min(n - 1, int(part * n)))
    angle = cosines(x).clamp(-1, 1).arccos()  # a metric, in which the greedy loses at most a factor of 2
    chosen = kept(f"divprune@keep={m}/{n}", x)
    nearest = min(angle[a, b].item() for a, b in combinations(chosen, 2))
    if n <= 10:
        best = max(min(angle[a, b].item() for a, b in combinations(some, 2)) for some in combinations(range(n), m))
        assert nearest >= best / 2 - 1e-6
    others = [i for i in range(n) if i not in chosen]
    assert max(min(angle[i, j].item() for j in chosen) for i in others) <= nearest + 1e-6  # none left out is farther
    assert set(kept(f"divprune@keep={m - 1}/{n}", x)) < set(chosen)


def test_dart_takes_the_least_similar_to_each_pivot() -> None:
    x = torch.tensor([[[9.0, 0], [0, 8], [1, 0.1], [-1, 0.1], [0.1, -1], [1, 1]]])
    assert kept("dart(pivots=1)@keep=1/2", x) == [0, 1, 3]  # cosines to token 0: 0, 0.995, −0.995, 0.1, 0.71
    assert kept("dart(pivots=2)@keep=2/3", x) == [0, 1, 3, 4]  # token 0 takes 3, token 1 takes 4
    assert kept("dart@keep=1/3", x) == [0, 1]


def test_evs_keeps_the_first_token_and_planted_changes() -> None:
    x = noise(1, 16, 1).expand(1, 40, 16) + 0.01 * noise(40, 16, 2)
    for place in (7, 20, 33):
        x[:, place:] += 3 * noise(1, 16, place)
    assert kept("evs@keep=4/40", x) == [0, 7, 20, 33]


def test_evs_keeps_the_first_token_of_each_segment() -> None:
    x = noise(50, seed=7)
    segment = plan_of("segment@keep=1/5", x).group[0]
    firsts = [int((segment == k).nonzero()[0]) for k in range(10)]
    assert kept("evs@keep=1/5", x) == firsts


def test_affinity_joins_neighbours_above_the_threshold() -> None:
    x = at(0, 30, 70, 100, 101)  # cosines: 0.87, 0.77, 0.87, 1
    assert groups("affinity", x) == [0, 0, 1, 1, 1]
    assert groups("affinity(threshold=0.9)", x) == [0, 1, 2, 3, 3]
    assert groups("affinity(threshold=0.7)", x) == [0] * 5  # 101° apart from end to end
    assert groups("affinity(threshold=-1)", noise(20)) == [0] * 20


@pytest.mark.parametrize(
    ("spec", "first"),
    (
        ("cdpruner@keep=2/6", [0, 1]),
        ("cdpruner(conditional=false)@keep=2/6", [0, 1]),
        ("dart@keep=2/6", [0, 1]),
        ("dart(pivots=1)@keep=3/6", [0, 1, 2]),
        ("divprune@keep=2/6", [0, 1]),
        ("evs@keep=2/6", [0, 1]),
        ("vispruner(share=1)@keep=2/6", [0, 1]),
    ),
)
@pytest.mark.parametrize("value", (0.0, 1.0))
def test_of_equals_the_earlier_stays(spec: str, first: list[int], value: float) -> None:
    assert kept(spec, torch.full((1, 6, 3), value), [2.0] * 6) == first


@pytest.mark.parametrize("spec", PEERS)
def test_bf16_decides_as_its_values_in_float32_do(spec: str) -> None:
    x = noise(60, 12, 8).cumsum(1).bfloat16()
    scores = torch.rand(1, 60, generator=torch.Generator().manual_seed(1))
    method = parse(f"{spec}@keep=1/4")
    out, plan = method.forward(x, Clip(RATE, scores))
    assert out.dtype == torch.bfloat16 and plan is not None
    assert torch.equal(plan.group, method.plan(x.float(), Clip(RATE, scores)).group)


@pytest.mark.parametrize("spec", PEERS)
def test_gradient_reaches_what_stays_and_nothing_else(spec: str) -> None:
    x = noise(30, 12, 8).requires_grad_()
    scores = torch.rand(1, 30, generator=torch.Generator().manual_seed(1))
    out, plan = parse(f"{spec}@keep=1/3").forward(x, Clip(RATE, scores))
    out[:, 4].sum().backward()
    assert x.grad is not None and plan is not None
    expected = plan.shares() * (plan.group == 4)
    torch.testing.assert_close(x.grad, expected[..., None].expand_as(x))


@pytest.mark.parametrize(
    "spec",
    (
        "affinity(threshold=1.5)",
        "affinity(threshold=-2)",
        "dart(pivots=0)",
        "sa-map(threshold=2)",
        "vispruner(share=1.5)",
        "vispruner(share=-0.1)",
    ),
)
def test_parameters_out_of_range_are_refused(spec: str) -> None:
    name = spec.split("(")[1].split("=")[0]
    with pytest.raises(ValueError, match=f"^{name} is "):
        parse(spec, "1/2")
