"""What every method promises, for every method: the registry is crossed with each property.

A new method is picked up from the registry. For those of your own, in your own file or module, and for these alone:

    pytest tests/methods/test_contract.py --import my_method.py
"""

import math
import random
import re
import subprocess
import sys
from fractions import Fraction
from functools import cache
from itertools import product
from pathlib import Path

import numpy
import pytest
import torch
from conftest import own_methods
from tiny import DEVICE
from torch import Tensor

import fewhertz.methods  # noqa: F401  (fills METHODS)
from fewhertz import Clip, Method, Plan, parse
from fewhertz.method import METHODS

LENGTHS = (1, 2, 3, 7, 50, 750, 1500)
KEEPS = tuple(map(Fraction, ("1", "9/10", "3/4", "2/3", "1/2", "1/3", "1/4", "1/6", "1/10", "1/100")))
WIDTH = 6
RATE = 25.0

# every method at its defaults, and with other parameters where it has some
SPECS = own_methods or [
    *sorted(METHODS),
    "affinity(threshold=0.95)",
    "cdpruner(conditional=false)",
    "dart(pivots=1)",
    "ltbm(window=0.05s)",
    "ltbm(window=2s)",
    "optimal(longest=2.5)",
    "optimal@tolerance=0.3",
    "random(seed=7)",
    "sa-map(threshold=0.98)",
    "segmentwise(segments=3)",
    "unseg(prominence=0.05)",
    "visionzip(share=0)",
    "visionzip(share=0.5)",
    "visionzip(share=1)",
    "vispruner(share=1)",
    "ward@tolerance=0.3",
    "ward@tolerance=0.01,min=2Hz,max=10Hz",
]
FIXED = [spec for spec in SPECS if parse(spec, 1).fixed_budget]
FREE = [spec for spec in SPECS if spec not in FIXED]
# groups of these never interleave, so no two of their tokens have the same centre
APART = {"pool", "stride", "segment", "unseg", "topk", "bottomk", "random", "segmentwise"}
APART |= {"optimal", "ward", "a-tome", "affinity", "fastadasp", "sa-map"}
APART |= {"cdpruner", "dart", "divprune", "evs", "vispruner"}

INPUTS = ("walk", "constant", "silence", "two values", "silent ends", "loud", "quiet", "opposite")


def method_of(spec: str, keep: Fraction) -> Method:
    """The method with this budget; one of variable length has none."""
    return parse(f"{spec}@keep={keep}") if spec in FIXED else parse(spec)


def keeps_of(spec: str) -> tuple[Fraction, ...]:
    return KEEPS if spec in FIXED else (Fraction(1, 2),)


def tokens(kind: str, b: int, n: int) -> Tensor:
    """Tokens (b, n, WIDTH) that change slowly, or one of the inputs on which cosines and sorts go wrong."""
    generator = torch.Generator().manual_seed(n)
    walk = torch.randn(b, n, WIDTH, generator=generator).cumsum(1) / 3 + torch.randn(b, n, WIDTH, generator=generator)
    walk = walk.to(DEVICE)
    match kind:
        case "walk":
            return walk
        case "constant":
            return walk[:, :1].expand(b, n, WIDTH).contiguous()
        case "silence":
            return torch.zeros(b, n, WIDTH, device=DEVICE)
        case "two values":
            return walk[:, torch.arange(n) // 3 % 2 * min(1, n - 1)]
        case "silent ends":
            place = torch.arange(n, device=DEVICE)[:, None]
            return walk * ((place >= n / 3) & (place < n / 2))
        case "loud":
            return walk * 1e15
        case "quiet":
            return walk * 1e-15
        case "opposite":
            return walk[:, :1] * (1 - 2 * (torch.arange(n, device=DEVICE) % 2))[:, None]
    raise AssertionError(kind)


def clip_of(x: Tensor, ties: bool = False) -> Clip:
    """What goes with the tokens: attention scores, where half are equal if `ties`."""
    scores = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(1))
    return Clip(RATE, (scores.mul(2).round() if ties else scores).to(x.device))


@cache
def case(spec: str, n: int, keep: Fraction, kind: str) -> tuple[Tensor, Tensor, Plan | None]:
    """Tokens, output tokens and plan of one call."""
    method = method_of(spec, keep)
    x = tokens(kind, 3 if method.fixed_budget else 1, n)
    return x, *method.forward(x, clip_of(x, ties=kind != "walk"))


def planned(spec: str, n: int, keep: Fraction, kind: str = "walk") -> tuple[Tensor, Tensor, Plan]:
    x, out, plan = case(spec, n, keep, kind)
    if plan is None:
        pytest.skip("a learned method, which has no plan")
    return x, out, plan


def expected_count(n: int, keep: Fraction) -> int:
    return max(1, math.floor(n * keep + Fraction(1, 2)))


def check_partition(plan: Plan) -> None:
    """Every token joins one of m output tokens or none; every output token has a member; shares sum to 1."""
    assert plan.group.dtype == torch.int64
    assert plan.group.min() >= -1
    assert plan.group.max() < plan.m
    shares = plan.shares()
    assert ((shares > 0) == (plan.group >= 0)).all()
    slots = torch.where(plan.group < 0, plan.m, plan.group)
    total = (
        torch.zeros(len(slots), plan.m + 1, device=slots.device).double().scatter_add(1, slots, shares.double()).float()
    )
    torch.testing.assert_close(total[:, :-1], torch.ones(len(slots), plan.m, device=slots.device))
    assert (total[:, -1] == 0).all()


@pytest.mark.parametrize("keep", KEEPS, ids=str)
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("spec", FIXED)
def test_count_is_exact(spec: str, n: int, keep: Fraction) -> None:
    x, out, plan = case(spec, n, keep, "walk")
    m = expected_count(n, keep)
    assert method_of(spec, keep).num_tokens(n) == m
    assert out.shape == (len(x), m, WIDTH)
    assert plan is None or (plan.m == m and plan.group.shape == (len(x), n))


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("spec", FREE)
def test_variable_count_is_within_bounds(spec: str, n: int) -> None:
    _, out, plan = planned(spec, n, KEEPS[0])
    assert 1 <= plan.m <= n
    assert out.shape == (1, plan.m, WIDTH)
    with pytest.raises(TypeError, match="variable length"):
        parse(spec).num_tokens(n)
    with pytest.raises(ValueError, match=r"takes no budget|cannot read"):
        parse(f"{spec}@keep=1/2")


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("spec", SPECS)
def test_groups_partition_the_tokens_and_shares_sum_to_1(spec: str, n: int) -> None:
    for keep in keeps_of(spec):
        check_partition(planned(spec, n, keep)[2])


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("spec", SPECS)
def test_output_is_the_mean_of_each_group(spec: str, n: int) -> None:
    for keep in keeps_of(spec):
        x, out, plan = planned(spec, n, keep)
        slots = torch.where(plan.group < 0, plan.m, plan.group)[..., None].expand_as(x)
        total = torch.zeros(len(x), plan.m + 1, WIDTH, device=x.device).scatter_add(
            1, slots, x * plan.shares()[..., None]
        )
        torch.testing.assert_close(out, total[:, :-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("spec", SPECS)
def test_time_order_is_kept(spec: str, n: int) -> None:
    for keep in keeps_of(spec):
        step = planned(spec, n, keep)[2].centres().diff(dim=1)
        assert (step > 0).all() if re.split(r"[(@]", spec)[0] in APART else (step >= 0).all()


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("spec", FIXED)
def test_keep_1_returns_the_input_bit_for_bit(spec: str, n: int, dtype: torch.dtype) -> None:
    x = tokens("walk", 2, n).to(dtype)
    x[:, ::5] = -0.0
    out, plan = method_of(spec, Fraction(1)).forward(x, clip_of(x))
    assert out.dtype == dtype
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(out.view(bits), x.view(bits))
    assert plan is None or plan.is_identity()


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("spec", FIXED)
def test_count_rises_with_keep_and_never_reaches_0(spec: str, n: int) -> None:
    counts = [method_of(spec, Fraction(k, 60)).num_tokens(n) for k in range(1, 61)]
    assert counts == sorted(counts)
    assert counts[0] >= 1
    assert counts[-1] == n


@pytest.mark.parametrize("n", (2, 50))
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_dtype_is_kept(spec: str, n: int, dtype: torch.dtype) -> None:
    x = tokens("walk", 1, n).to(dtype)
    method = method_of(spec, Fraction(1, 3))
    out, plan = method.forward(x, clip_of(x))
    assert out.dtype == dtype
    assert out.device == x.device
    if plan is not None:
        exact = plan.apply(x.double())
        torch.testing.assert_close(out.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("keep", (Fraction(1), Fraction(1, 3)), ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_gradient_is_the_share(spec: str, keep: Fraction) -> None:
    x = tokens("walk", 1, 50).requires_grad_()
    out, plan = method_of(spec, keep).forward(x, clip_of(x))
    out.sum().backward()
    assert x.grad is not None
    if plan is not None:
        torch.testing.assert_close(x.grad, plan.shares()[..., None].expand_as(x))


@pytest.mark.parametrize(("kind", "n"), [*product(INPUTS, (2, 7, 50)), ("walk", 3), ("walk", 750), ("walk", 1500)])
@pytest.mark.parametrize("spec", FIXED)
def test_a_row_of_a_batch_is_the_row_alone(spec: str, kind: str, n: int) -> None:
    method = method_of(spec, Fraction(1, 3))
    x, out, plan = case(spec, n, Fraction(1, 3), kind)
    clip = clip_of(x, ties=kind != "walk")
    assert clip.scores is not None
    for row in range(len(x)):
        alone, plan_alone = method.forward(x[row : row + 1], Clip(RATE, clip.scores[row : row + 1]))
        torch.testing.assert_close(out[row : row + 1], alone, rtol=1e-5, atol=1e-5)
        if plan is not None and plan_alone is not None:
            assert torch.equal(plan.group[row : row + 1], plan_alone.group)


@pytest.mark.parametrize("n", (7, 50))
@pytest.mark.parametrize("spec", SPECS)
def test_global_random_state_is_untouched(spec: str, n: int) -> None:
    x = tokens("walk", 1, n)
    torch.manual_seed(3)
    before = torch.get_rng_state(), random.getstate(), repr(numpy.random.get_state())
    method = method_of(spec, Fraction(1, 3))
    method.forward(x, clip_of(x))
    if method.tolerance is not None:  # here beartype draws which plan of a list it checks
        random.setstate(before[1])
    after = torch.get_rng_state(), random.getstate(), repr(numpy.random.get_state())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("n", (7, 50, 750))
@pytest.mark.parametrize("spec", SPECS)
def test_deterministic(spec: str, n: int) -> None:
    x, out, plan = case(spec, n, Fraction(1, 3), "walk")
    torch.manual_seed(11)
    again, plan_again = method_of(spec, Fraction(1, 3)).forward(x.clone(), clip_of(x))
    assert torch.equal(out, again)
    assert plan is None or (plan_again is not None and torch.equal(plan.group, plan_again.group))


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("n", (1, 2, 3, 7, 50))
@pytest.mark.parametrize("spec", SPECS)
def test_hard_inputs(spec: str, n: int, kind: str) -> None:
    for keep in (Fraction(1, 2), Fraction(1, 3), Fraction(1, 10)):
        x, out, plan = case(spec, n, keep, kind)
        assert out.isfinite().all()
        if spec in FIXED:
            assert out.shape[1] == expected_count(n, keep)
        if plan is None:
            continue
        check_partition(plan)
        assert (plan.centres().diff(dim=1) >= 0).all()
        if kind in ("constant", "silence"):
            torch.testing.assert_close(out, x[:, :1].expand_as(out))


@pytest.mark.parametrize("spec", SPECS)
def test_tokens_that_are_not_numbers_do_not_break_the_count(spec: str) -> None:
    x = tokens("walk", 1, 50)
    x[:, 10:20] = torch.nan
    method = method_of(spec, Fraction(1, 3))
    out, plan = method.forward(x, clip_of(x))
    assert out.shape[1] == expected_count(50, Fraction(1, 3)) or not method.fixed_budget
    if plan is not None:
        check_partition(plan)


@pytest.mark.parametrize("spec", SPECS)
def test_input_is_left_alone_whatever_its_layout(spec: str) -> None:
    method = method_of(spec, Fraction(1, 3))
    x = tokens("walk", 1, 50)
    strided = x.transpose(1, 2).contiguous().transpose(1, 2)
    out, _ = method.forward(strided, clip_of(x))
    assert torch.equal(strided, x)
    torch.testing.assert_close(out, method.forward(x, clip_of(x))[0])


@pytest.mark.parametrize("n", (7, 50, 750))
@pytest.mark.parametrize("spec", SPECS)
def test_cpu_and_gpu_agree(spec: str, n: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    x, out, plan = case(spec, n, Fraction(1, 3), "walk")
    there, plan_there = method_of(spec, Fraction(1, 3)).forward(x.cuda(), clip_of(x.cuda()))
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), out, rtol=1e-5, atol=1e-5)
    assert plan is None or (plan_there is not None and torch.equal(plan_there.group.cpu(), plan.group))


@pytest.mark.parametrize("spec", SPECS)
def test_needs_are_said_and_asked_for(spec: str) -> None:
    method = method_of(spec, Fraction(1, 3))
    x = tokens("walk", 1, 50)
    assert method.needs <= {"scores"}
    if "scores" in method.needs:
        with pytest.raises(ValueError, match="needs the encoder's attention scores"):
            method.forward(x, Clip(RATE))
    else:
        torch.testing.assert_close(method.forward(x, Clip(RATE))[0], method.forward(x, clip_of(x))[0])


@pytest.mark.parametrize("budget", ("", "@keep=1", "@keep=1/3", "@8Hz", "@25/3Hz"))
@pytest.mark.parametrize("spec", SPECS)
def test_spec_makes_the_round_trip(spec: str, budget: str) -> None:
    if bool(budget) == (spec in FREE):
        pytest.skip("takes no budget" if budget else "has to have one")
    method = parse(spec + budget)
    assert parse(method.spec) == method
    assert parse(str(method)).spec == method.spec


@pytest.mark.parametrize("spec", SPECS)
def test_method_says_what_it_is(spec: str) -> None:
    cls = type(parse(spec, 1))
    assert cls.__doc__ is not None
    assert not cls.__doc__.startswith(f"{cls.__name__}(")  # what dataclass writes where there is none


@pytest.mark.skipif(bool(own_methods), reason="this is that run")
def test_a_users_own_method_is_held_to_the_contract() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    done = subprocess.run(
        [*command, "--import", "examples/my_method.py"], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 200
