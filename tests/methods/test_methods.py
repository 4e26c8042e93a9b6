"""What each method decides: examples worked out by hand, and slow references that loop over tokens."""

import math

import pytest
import torch
from torch import Tensor

from fewhertz import Clip, parse

RATE = 25.0


def at(*degrees: float) -> Tensor:
    """Tokens (1, n, 2) of unequal length whose angles are these: cosines depend on differences alone."""
    angle = torch.tensor(degrees).deg2rad()
    length = torch.arange(1.0, len(degrees) + 1)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[None] * length[None, :, None]


def walk(*differences: float) -> Tensor:
    """Tokens that turn by these angles from one to the next."""
    return at(*torch.tensor((0.0, *differences)).cumsum(0).tolist())


def groups(spec: str, x: Tensor, scores: list[float] | None = None) -> list[int]:
    clip = Clip(RATE, None if scores is None else torch.tensor([scores]))
    return parse(spec).plan(x, clip).group[0].tolist()


def test_pool() -> None:
    assert groups("pool@keep=3/7", torch.zeros(1, 7, 2)) == [0, 0, 0, 1, 1, 2, 2]


def test_stride() -> None:
    assert groups("stride@keep=3/7", torch.zeros(1, 7, 2)) == [0, -1, -1, 1, -1, 2, -1]


def test_segment_cuts_at_the_largest_turns() -> None:
    assert groups("segment@keep=3/5", walk(10, 30, 5, 45)) == [0, 0, 1, 1, 2]


def test_segment_cuts_on_slopes_too() -> None:
    assert groups("segment@keep=3/5", walk(5, 20, 30, 40)) == [0, 0, 0, 1, 2]


def test_segment_takes_the_earlier_of_equal_turns() -> None:
    assert groups("segment@keep=1/2", torch.zeros(1, 6, 2)) == [0, 1, 2, 2, 2, 2]


def test_unseg_cuts_at_strict_local_maxima() -> None:
    assert groups("unseg", walk(10, 30, 5, 45, 20, 15, 10)) == [0, 0, 1, 1, 2, 2, 2, 2]


def test_unseg_cuts_neither_at_ends_nor_at_plateaus() -> None:
    assert groups("unseg", walk(50, 10, 20)) == [0, 0, 0, 0]
    right = torch.tensor([[[1.0, 0], [1, 0], [0, 1], [1, 0], [1, 0]]])  # d = 0, 1, 1, 0
    assert groups("unseg", right) == [0, 0, 0, 0, 0]


def test_unseg_prominence_is_the_height_over_the_higher_foot() -> None:
    x = walk(10, 30, 25, 45, 5)  # over its feet the first maximum stands 0.040, the second 0.199
    assert groups("unseg", x) == [0, 0, 1, 1, 2, 2]
    assert groups("unseg(prominence=0.03)", x) == [0, 0, 1, 1, 2, 2]
    assert groups("unseg(prominence=0.05)", x) == [0, 0, 0, 0, 1, 1]
    assert groups("unseg(prominence=0.25)", x) == [0, 0, 0, 0, 0, 0]


def test_unseg_foot_is_where_the_slope_ends() -> None:
    x = walk(10, 20, 30, 5)  # 0.119 over the foot at 10°, 0.074 over the neighbour at 20°
    assert groups("unseg(prominence=0.1)", x) == [0, 0, 0, 1, 1]
    assert groups("unseg(prominence=0.1)", x.flip(1)) == [0, 0, 1, 1, 1]


def test_ltbm_merges_the_best_pairs() -> None:
    x = at(0, 10, 50, 55)
    assert groups("ltbm@keep=3/4", x) == [0, 1, 2, 2]
    assert groups("ltbm@keep=1/2", x) == [0, 0, 1, 1]
    assert groups("ltbm@keep=1/4", x) == [0, 0, 0, 0]


FAR = at(0, 60, 66, 70, 75, 1)  # the first and the last are the most alike


def test_global_merge_reaches_across_the_clip() -> None:
    assert groups("global-merge@keep=5/6", FAR) == [2, 0, 1, 3, 4, 2]  # the pair stands at 2.5, between 2 and 3


@pytest.mark.parametrize("window", ("0.01", "0.12", "0.16"))
def test_ltbm_stays_within_its_window(window: str) -> None:
    assert groups(f"ltbm(window={window}s)@keep=5/6", FAR) == [0, 1, 2, 2, 3, 4]


def test_ltbm_window_includes_its_end() -> None:
    assert groups("ltbm(window=0.2s)@keep=5/6", FAR) == [2, 0, 1, 3, 4, 2]  # 5 tokens at 25 Hz


@pytest.mark.parametrize("spec", ("ltbm", "global-merge"))
def test_merging_equals_takes_neighbours_and_the_earliest_pairs(spec: str) -> None:
    silence = torch.zeros(1, 6, 2)
    assert groups(f"{spec}@keep=1/2", silence) == [0, 0, 1, 1, 2, 2]
    assert groups(f"{spec}@keep=2/3", silence) == [0, 0, 1, 1, 2, 3]


def merge_by_loops(x: Tensor, m: int, reach: float) -> list[list[int]]:
    """Bipartite merging in plain Python: the members of each output token, in time order."""
    tokens = [([i], x[i].double()) for i in range(len(x))]
    places = reach if math.isfinite(reach) else len(x)
    while len(tokens) > m:
        pairs = []
        for e in range(0, len(tokens), 2):
            options = []
            for o in range(1, len(tokens), 2):
                apart = abs(sum(tokens[e][0]) / len(tokens[e][0]) - sum(tokens[o][0]) / len(tokens[o][0]))
                if abs(e - o) == 1 or (apart <= reach and abs(e - o) <= places):
                    options.append((torch.cosine_similarity(tokens[e][1], tokens[o][1], dim=0).item(), o))
            best, o = max(options)
            pairs.append((best, e, o))
        merged = sorted(pairs, reverse=True)[: len(tokens) - m]
        for _, e, o in merged:
            (ours, mean), (theirs, other) = tokens[e], tokens[o]
            size = len(ours) + len(theirs)
            tokens[o] = (ours + theirs, (mean * len(ours) + other * len(theirs)) / size)
        gone = {e for _, e, _ in merged}
        tokens = [token for k, token in enumerate(tokens) if k not in gone]
        tokens.sort(key=lambda token: (sum(token[0]) / len(token[0]), min(token[0])))
    return [sorted(members) for members, _ in tokens]


@pytest.mark.parametrize("n", (2, 5, 24, 61))
@pytest.mark.parametrize("keep", ("9/10", "1/2", "1/3", "1/7"))
@pytest.mark.parametrize(
    ("name", "reach"),
    (("ltbm", 8.0), ("ltbm(window=0.12s)", 3.0), ("ltbm(window=0.03s)", 0.75), ("global-merge", math.inf)),
)
def test_merging_is_what_loops_do(name: str, reach: float, keep: str, n: int) -> None:
    x = torch.randn(2, n, 5, generator=torch.Generator().manual_seed(n))
    method = parse(f"{name}@keep={keep}")
    plan = method.plan(x, Clip(RATE))
    for row in range(2):
        expected = merge_by_loops(x[row], method.num_tokens(n), reach)
        assert [[i for i in range(n) if plan.group[row, i] == j] for j in range(plan.m)] == expected


@pytest.mark.parametrize("n", (2, 9, 40))
@pytest.mark.parametrize("keep", ("3/4", "1/3"))
def test_segment_is_what_loops_do(keep: str, n: int) -> None:
    x = torch.randn(1, n, 5, generator=torch.Generator().manual_seed(n))
    turns = [1 - torch.cosine_similarity(x[0, t], x[0, t + 1], dim=0).item() for t in range(n - 1)]
    cuts = sorted(range(n - 1), key=lambda t: -turns[t])[: parse(f"segment@keep={keep}").num_tokens(n) - 1]
    assert groups(f"segment@keep={keep}", x) == [sum(t < i for t in cuts) for i in range(n)]


def test_topk_and_bottomk() -> None:
    x, scores = torch.zeros(1, 5, 2), [0.1, 0.9, 0.5, 0.8, 0.2]
    assert groups("topk@keep=2/5", x, scores) == [-1, 0, -1, 1, -1]
    assert groups("topk@keep=3/5", x, scores) == [-1, 0, 1, 2, -1]
    assert groups("bottomk@keep=2/5", x, scores) == [0, -1, -1, -1, 1]


@pytest.mark.parametrize("spec", ("topk", "bottomk", "segmentwise"))
def test_of_equal_scores_the_earlier_stays(spec: str) -> None:
    assert groups(f"{spec}@keep=2/5", torch.zeros(1, 5, 2), [3.0] * 5) == [0, 1, -1, -1, -1]


def test_segmentwise_shares_the_budget_among_segments() -> None:
    x, scores = torch.zeros(1, 6, 2), [9.0, 8.0, 7.0, 1.0, 2.0, 3.0]
    assert groups("segmentwise(segments=2)@keep=2/3", x, scores) == [0, 1, -1, -1, 2, 3]
    assert groups("segmentwise(segments=2)@keep=1/2", x, scores) == [0, 1, -1, -1, -1, 2]  # the remainder is token 1
    assert groups("segmentwise(segments=2)@keep=1/6", x, scores) == [0, -1, -1, -1, -1, -1]
    assert groups("segmentwise@keep=1/3", x, scores) == groups("topk@keep=1/3", x, scores)
    assert groups(f"segmentwise(segments={10**30})@keep=1/3", x, scores) == groups("topk@keep=1/3", x, scores)


def test_random_is_seeded_and_nested() -> None:
    x = torch.zeros(2, 40, 1)
    drawn = {seed: parse(f"random(seed={seed})@keep=1/4").plan(x, Clip(RATE)).group >= 0 for seed in (0, 1)}
    more = parse("random@keep=1/2").plan(x, Clip(RATE)).group >= 0
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0][0], drawn[0][1])
    assert (more | ~drawn[0]).all()


def test_visionzip_merges_the_rest() -> None:
    x, scores = at(0, 0, 80, 45, 10, 90, 95), [9.0, 1.0, 1.0, 8.0, 1.0, 1.0, 1.0]
    assert groups("visionzip(share=0.34)@keep=3/7", x, scores) == [0, 2, 2, 1, 2, 2, 2]
    # targets 1 and 5; {1, 4} stands at 2.5, before dominant token 3, and {2, 5, 6} behind it
    assert groups("visionzip(share=0.5)@keep=4/7", x, scores) == [0, 1, 3, 2, 1, 3, 3]
    assert groups("visionzip(share=0)@keep=2/7", x, scores) == [0, -1, -1, 1, -1, -1, -1]


def test_visionzip_equals_go_to_the_nearest_target() -> None:
    silence, scores = torch.zeros(1, 8, 2), [1.0] * 8
    assert groups("visionzip(share=1)@keep=1/4", silence, scores) == [0, 0, 1, 1, 1, 1, 1, 1]  # targets 0 and 4


@pytest.mark.parametrize(
    "spec",
    (
        "ltbm(window=0s)",
        "ltbm(window=-1s)",
        "ltbm(window=1e300s)",
        "segmentwise(segments=0)",
        "random(seed=-1)",
        f"random(seed={2**63})",
        "visionzip(share=1.5)",
        "visionzip(share=-0.1)",
        "unseg(prominence=-1)",
        "unseg(prominence=3)",
    ),
)
def test_parameters_out_of_range_are_refused(spec: str) -> None:
    name = spec.split("(")[1].split("=")[0]
    with pytest.raises(ValueError, match=f"^{name} is "):
        parse(spec, "1/2")
