"""The plan against a dense matrix that is built token by token."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewhertz import Plan

settings.register_profile("fewhertz", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("fewhertz")


@st.composite
def plans(draw: st.DrawFn, b: int | None = None, n: int | None = None) -> Plan:
    """Any plan: every output token has a member, tokens may be dropped, shares may be unequal, no order."""
    b = draw(st.integers(1, 3)) if b is None else b
    n = draw(st.integers(1, 9)) if n is None else n
    m = draw(st.integers(1, n))
    rest = st.lists(st.integers(-1, m - 1), min_size=n - m, max_size=n - m)
    group = [draw(st.permutations([*range(m), *draw(rest)])) for _ in range(b)]
    if draw(st.booleans()):
        return Plan(torch.tensor(group), m)
    parts = [draw(st.lists(st.integers(1, 5), min_size=n, max_size=n)) for _ in range(b)]
    total = [
        [sum(p for p, h in zip(ps, gs, strict=True) if h == g) for g in gs] for ps, gs in zip(parts, group, strict=True)
    ]
    return Plan(torch.tensor(group), m, torch.tensor(parts) / torch.tensor(total))


def matrix(plan: Plan) -> Tensor:
    """The plan as (b, m, n)."""
    b, n = plan.group.shape
    dense = torch.zeros(b, plan.m, n, dtype=torch.float64)
    for row in range(b):
        for i, j in enumerate(plan.group[row].tolist()):
            if j >= 0:
                members = int((plan.group[row] == j).sum())
                dense[row, j, i] = 1 / members if plan.weight is None else plan.weight[row, i]
    return dense


def members(plan: Plan, row: int, j: int) -> list[int]:
    return [i for i, g in enumerate(plan.group[row].tolist()) if g == j]


def tokens(b: int, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(b, n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@given(plans())
def test_apply_is_the_matrix_product(plan: Plan) -> None:
    x = tokens(*plan.group.shape)
    if plan.is_identity():
        assert plan.apply(x) is x
    else:
        torch.testing.assert_close(plan.apply(x), matrix(plan) @ x, rtol=1e-6, atol=1e-6)


@given(plans())
def test_gradient_is_the_transposed_matrix(plan: Plan) -> None:
    x = tokens(*plan.group.shape).requires_grad_()
    out = plan.apply(x)
    pull = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    out.backward(pull)
    expected = pull if plan.is_identity() else matrix(plan).mT @ pull
    torch.testing.assert_close(x.grad, expected, rtol=1e-6, atol=1e-6)


@given(plans())
def test_shares_sum_to_1_in_each_output_token(plan: Plan) -> None:
    torch.testing.assert_close(plan.shares().double(), matrix(plan).sum(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(matrix(plan).sum(2), torch.ones(len(plan.group), plan.m, dtype=torch.float64))


@given(plans())
def test_sizes_centres_and_spans(plan: Plan) -> None:
    sizes, centres, spans = plan.sizes(), plan.centres(), plan.spans(rate=4.0)
    assert sizes.shape == centres.shape == spans.shape[:2] == (len(plan.group), plan.m)
    for row in range(len(plan.group)):
        for j in range(plan.m):
            who = members(plan, row, j)
            assert sizes[row, j] == len(who)
            assert centres[row, j] == pytest.approx(sum(who) / len(who))
            assert spans[row, j].tolist() == [min(who) / 4, (max(who) + 1) / 4]


@given(st.data(), plans())
def test_then_is_one_plan_after_the_other(data: st.DataObject, first: Plan) -> None:
    second = data.draw(plans(len(first.group), first.m))
    both = first.then(second)
    torch.testing.assert_close(matrix(both), matrix(second) @ matrix(first), rtol=1e-6, atol=1e-6)
    if not first.is_identity() and not second.is_identity():
        x = tokens(*first.group.shape)
        torch.testing.assert_close(both.apply(x), second.apply(first.apply(x)), rtol=1e-6, atol=1e-6)


@given(plans())
def test_in_time_order_sorts_by_centre_then_first_member(plan: Plan) -> None:
    ordered = Plan.in_time_order(plan.group, plan.m, plan.weight)
    for row in range(len(plan.group)):
        groups = [members(plan, row, j) for j in range(plan.m)]
        groups.sort(key=lambda who: (Fraction(sum(who), len(who)), who[0]))
        assert [members(ordered, row, j) for j in range(plan.m)] == groups


def test_in_time_order_tells_large_groups_with_close_centres_apart() -> None:
    early = [*range(159, 239), 240]  # 81 members, mean 199 + 1/81
    late = [*range(60, 100), *range(299, 338), 339]  # 80 members around them, mean 199 + 1/80
    group = torch.full((1, 400), -1)
    group[0, early] = 1
    group[0, late] = 0
    ordered = Plan.in_time_order(group, 2)
    assert members(ordered, 0, 0) == early
    assert members(ordered, 0, 1) == late


def test_select_keeps_marked_tokens_in_order() -> None:
    plan = Plan.select(torch.tensor([[False, True, True, False, True], [True, False, False, True, True]]), 3)
    assert plan.group.tolist() == [[-1, 0, 1, -1, 2], [0, -1, -1, 1, 2]]


def test_from_boundaries_starts_a_group_at_each_mark() -> None:
    plan = Plan.from_boundaries(torch.tensor([[True, False, False, True, True], [True, True, False, True, False]]), 3)
    assert plan.group.tolist() == [[0, 0, 0, 1, 2], [0, 1, 1, 2, 2]]


def test_sums_run_in_float32_for_narrow_tokens() -> None:
    n = 4096
    plan = Plan(torch.zeros(1, n, dtype=torch.long), 1)
    ones = torch.ones(1, n, 1, dtype=torch.bfloat16)
    out = plan.apply(ones)  # summed in bfloat16, 1 + 1 + … stops at 256
    assert out.dtype == torch.bfloat16
    assert out.item() == 1


@pytest.mark.parametrize("weighted", (False, True))
def test_gradient_passes_gradcheck(weighted: bool) -> None:
    group = torch.tensor([[0, 0, -1, 1, 0]])
    weight = torch.tensor([[0.5, 0.25, 0.0, 1.0, 0.25]]) if weighted else None
    assert torch.autograd.gradcheck(Plan(group, 2, weight).apply, tokens(1, 5).requires_grad_())


def test_dropped_tokens_leave_no_trace() -> None:
    x = tokens(1, 3)
    x[0, 1] = torch.nan
    assert Plan(torch.tensor([[0, -1, 1]]), 2).apply(x).isfinite().all()


def test_tokens_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the plan is for \(1, 3\) \(clips, tokens\), the tokens are \(2, 3\)"):
        Plan.identity(1, 3).apply(tokens(2, 3))


def test_plans_that_do_not_follow_one_another_are_refused() -> None:
    with pytest.raises(ValueError, match="the second plan reads 4 tokens, the first one writes 2"):
        Plan(torch.tensor([[0, 1, 1]]), 2).then(Plan.identity(1, 4))
