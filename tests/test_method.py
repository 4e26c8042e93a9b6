"""Budgets, spec strings, the registry and chains."""

from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewhertz import Chain, Clip, Method, Plan, parse
from fewhertz.methods.ltbm import LTBM
from fewhertz.methods.pool import Pool
from fewhertz.methods.random import Random
from fewhertz.methods.segmentwise import Segmentwise
from fewhertz.methods.unseg import UnSeg

keeps = st.fractions(Fraction(1, 1000), 1, max_denominator=1000)


@st.composite
def methods(draw: st.DrawFn) -> Method:
    budget = (
        {"keep": draw(keeps)}
        if draw(st.booleans())
        else {"rate": draw(st.fractions(Fraction(1, 100), 50, max_denominator=100))}
    )
    site = {"site": draw(st.sampled_from(("llm", "encoder")))}
    return draw(
        st.sampled_from(
            (
                Pool(**budget, **site),
                LTBM(window=draw(st.floats(1e-3, 30)), **budget, **site),
                Random(seed=draw(st.integers(0, 2**63 - 1)), **budget),
                Segmentwise(segments=draw(st.integers(1, 100)), **budget),
                UnSeg(prominence=draw(st.floats(0, 2)), **site),
            )
        )
    )


@settings(deadline=None, derandomize=True)
@given(methods())
def test_spec_makes_the_round_trip(method: Method) -> None:
    assert parse(method.spec) == method
    assert parse(method) is method


@settings(deadline=None, derandomize=True)
@given(keeps, st.integers(1, 2000))
def test_count_is_n_times_keep_rounded_half_up(keep: Fraction, n: int) -> None:
    m = Pool(keep=keep).num_tokens(n)
    assert m == max(1, (n * keep + Fraction(1, 2)).__floor__())
    assert 1 <= m <= n


@settings(deadline=None, derandomize=True)
@given(st.text(max_size=30))
def test_any_text_is_a_method_or_a_clear_error(text: str) -> None:
    try:
        method = parse(text)
    except ValueError as error:
        assert 0 < len(str(error)) < 600
    else:
        assert parse(method.spec) == method


@pytest.mark.parametrize(
    ("spec", "keep"),
    (
        ("none", "1"),
        ("pool@keep=1", "1"),
        ("pool@keep=1/3", "1/3"),
        (" pool@keep=0.5 ", "1/2"),
        ("pool()@keep=0.333", "333/1000"),
        ("pool(site=encoder)@keep=1e-2", "1/100"),
    ),
)
def test_keep(spec: str, keep: str) -> None:
    assert parse(spec).keep == Fraction(keep)


def test_a_float_is_meant_as_the_fraction_it_stands_for() -> None:
    assert Pool(keep=1 / 3).spec == "pool@keep=1/3"
    assert Pool(keep=0.1).keep == Fraction(1, 10)


def test_parameters_and_units() -> None:
    assert parse("ltbm(window=0.5s, site=encoder)@8Hz") == LTBM(window=0.5, site="encoder", rate=8)
    assert parse("ltbm(window=0.5)@8hz") == LTBM(window=0.5, rate=8)
    assert LTBM(window=0.5, rate=Fraction(25, 2)).spec == "ltbm(window=0.5s)@12.5Hz"
    assert LTBM(keep="1/2").spec == "ltbm@keep=1/2"


@pytest.mark.parametrize(
    ("spec", "message"),
    (
        ("", "cannot read ''"),
        ("pool@", "cannot read"),
        ("pool(", "cannot read"),
        ("pool@@keep=1", "cannot read"),
        ("pool@0.5", "cannot read the budget"),
        ("nothing@keep=1/2", "no method named 'nothing'; known: .*pool.*--import"),
        ("pool@keep=0", r"in \(0, 1\]"),
        ("pool@keep=-1/2", r"in \(0, 1\]"),
        ("pool@keep=1.5", r"in \(0, 1\]"),
        ("pool@keep=nan", "must be a number or a fraction"),
        ("pool@keep=inf", "must be a number or a fraction"),
        ("pool@keep=1e999999999", "must be a number or a fraction"),
        ("pool@keep=1/0", "must be a number or a fraction"),
        ("pool@keep=half", "must be a number or a fraction"),
        ("pool@0Hz", "above 0"),
        ("pool@-8Hz", "above 0"),
        ("pool(window=1s)", "pool has no parameter 'window'; it takes site"),
        ("pool(keep=1)", "pool has no parameter 'keep'"),
        ("ltbm(window)", "no parameter"),
        ("ltbm(window=fast)", "ltbm's window is a number, got 'fast'"),
        ("ltbm(window=nans)", "finite"),
        ("ltbm(window=infs)", "finite"),
        ("random(seed=1.5)", "random's seed is an integer"),
        ("pool(site=moon)@keep=1/2", 'site is "llm", "llm.k", "encoder" or "encoder.k"'),
        ("pool then pool then pool", "a chain composes two methods"),
        ("unseg@keep=1/2", "unseg takes no budget"),
        ("pool@keep=1/2 then unseg", "fixed budget"),
        ("pool(site=encoder)@keep=1/2 then pool@keep=1/2", "one site"),
        ("ward+time+sizes", "write ward@keep=1/2"),
        ("pool", "pool has no budget"),
        ("pool@keep=1/2 then pool", "has no budget"),
        ("wrad@keep=1/2", "did you mean ward?"),
        ("pool@keep=" + 100_000 * " " + "1", "at most 1000 characters"),
        ("x" * 500, "…"),
        ("pool@keep=" + "1" * 600 + "x", "…"),
    ),
)
def test_bad_specs_are_told_in_a_line(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse(spec)
    assert "\n" not in str(caught.value)


def test_a_grid_gives_the_budget_of_specs_that_have_none() -> None:
    assert parse("ward+time", "1/3") == parse("ward@keep=1/3+time")
    assert parse("ward@8Hz+time", "1/3") == parse("ward@8Hz+time")
    assert parse("unseg", "1/3") == parse("unseg")
    assert parse("none", "1/3") == parse("none") == parse("pool@keep=1")


def test_methods_made_in_python_have_a_budget_too() -> None:
    with pytest.raises(ValueError, match="pool has no budget"):
        Pool()


LONG = (
    "pool@keep=" + " " * 100_000 + "1",
    "pool" * 50_000,
    "pool@keep=1/2" + " + time" * 30_000,
    "pool@keep=" + "1" * 900,
    "pool@keep=2." + "1" * 900,
    "pool@-1." + "1" * 900 + "Hz",
    "pool@" + "9" * 900,
    "pool@keep=1/3+" + "t" * 900,
    "x" * 900 + "@keep=1/2",
    "pool(" + "x" * 900 + "=1)@keep=1/2",
    "pool(site=" + "x" * 900 + ")@keep=1/2",
    "random(seed=-" + "9" * 900 + ")@keep=1/2",
    "ltbm(window=99." + "1" * 900 + ")@keep=1/2",
    "pool@keep=1/2 then " * 40,
)


@pytest.mark.parametrize("spec", LONG, ids=lambda spec: spec[:20])
def test_a_long_spec_is_refused_and_not_repeated(spec: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(spec)
    message = str(caught.value).partition("; known:")[0].partition("known: ")[0]
    assert len(message) < 300 and spec[:120] not in message


def test_what_is_no_spec_is_refused() -> None:
    with pytest.raises(ValueError, match="spec string"):
        parse(3)  # type: ignore[arg-type]


def test_keep_and_rate_exclude_one_another() -> None:
    with pytest.raises(ValueError, match="not both"):
        Pool(keep=1, rate=8)


def test_a_rate_becomes_a_keep() -> None:
    method = parse("pool@8Hz")
    with pytest.raises(ValueError, match="bind it to a model's rate"):
        method.num_tokens(750)
    assert method.at(25).keep == Fraction(8, 25)
    assert method.at(12.5).num_tokens(375) == 240
    with pytest.raises(ValueError, match=r"asks for 8 Hz, the model has 7\.5 Hz"):
        method.at(7.5)
    assert parse("pool@keep=1/2").at(25) == parse("pool@keep=1/2")


def test_a_clip_has_tokens() -> None:
    with pytest.raises(ValueError, match="at least one audio token, got 0"):
        parse("pool@keep=1/2").num_tokens(0)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="named 'pool' exists already"):

        @dataclass(frozen=True, kw_only=True)
        class Other(Method, name="pool"):
            pass


def test_a_method_has_to_decide() -> None:
    with pytest.raises(NotImplementedError, match="has to write assign or forward"):
        Method(keep=Fraction(1, 2)).plan(torch.zeros(1, 4, 2), Clip(25.0))


def test_the_decision_is_not_differentiated() -> None:
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Spy(Method):
        def assign(self, x: Tensor, m: int, clip: Clip) -> Plan:
            seen.append(x.requires_grad)
            return Plan.identity(len(x), x.shape[1])

    Spy(keep=Fraction(1, 2)).plan(torch.zeros(1, 4, 2, requires_grad=True), Clip(25.0))
    assert seen == [False]


CHAINS = (
    "pool@keep=1/2 then ltbm@keep=1/2",
    "ltbm@keep=2/3 then stride@keep=1/2",
    "visionzip@keep=1/2 then segment@keep=1/3",
    "topk@keep=1/2 then segmentwise@keep=1/2",
    "global-merge@keep=1/2 then pool@keep=1",
    "pool@keep=1 then random@keep=1/4",
)


@pytest.mark.parametrize("n", (1, 2, 7, 50))
@pytest.mark.parametrize("spec", CHAINS)
def test_chain_is_one_method_after_the_other(spec: str, n: int) -> None:
    chain = parse(spec)
    assert isinstance(chain, Chain)
    generator = torch.Generator().manual_seed(n)
    x, scores = torch.randn(2, n, 5, generator=generator), torch.rand(2, n, generator=generator)
    out, plan = chain.forward(x, Clip(25.0, scores))

    middle, first = chain.first.forward(x, Clip(25.0, scores))
    assert first is not None and plan is not None
    passed_on = first.apply(scores[..., None])[..., 0]
    expected, _ = chain.second.forward(middle, Clip(25.0 * first.m / n, passed_on))
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    assert out.shape[1] == chain.num_tokens(n) == chain.second.num_tokens(chain.first.num_tokens(n))
    torch.testing.assert_close(plan.apply(x), out, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spec", CHAINS)
def test_chain_multiplies_keeps_and_makes_the_round_trip(spec: str) -> None:
    chain = parse(spec)
    assert isinstance(chain, Chain)
    assert chain.first.keep is not None and chain.second.keep is not None
    assert chain.keep == chain.first.keep * chain.second.keep
    assert parse(chain.spec) == chain


def test_chain_passes_scores_through() -> None:
    x = torch.arange(6.0)[None, :, None]
    scores = torch.tensor([[1.0, 1.0, 5.0, 7.0, 0.0, 2.0]])
    chain = parse("pool@keep=1/2 then topk@keep=1/3")  # means of scores: 1, 6, 1
    assert chain.needs == {"scores"}
    out, plan = chain.forward(x, Clip(25.0, scores))
    assert out.flatten().tolist() == [2.5]
    assert plan is not None and plan.group.tolist() == [[-1, -1, 0, 0, -1, -1]]
    with pytest.raises(ValueError, match="topk needs the encoder's attention scores"):
        chain.forward(x, Clip(25.0))


def test_chain_tells_the_second_method_the_rate_it_sees() -> None:
    chain = parse("pool@10Hz then pool@5Hz").at(20)
    assert (chain.keep, chain.num_tokens(100)) == (Fraction(1, 4), 25)
    with pytest.raises(ValueError, match="asks for 15 Hz, the model has 10 Hz"):
        parse("pool@10Hz then pool@15Hz").at(20)


def test_chain_has_no_budget_of_its_own() -> None:
    with pytest.raises(ValueError, match="no budget of its own"):
        Chain(first=parse("pool@keep=1/2"), second=parse("pool@keep=1/2"), keep=Fraction(1, 2))
