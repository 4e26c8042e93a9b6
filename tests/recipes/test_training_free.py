"""docs/research/training-free.md: made of the committed results, and of all of those that are there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fewhertz
from fewhertz.corrections import lay_out
from fewhertz.evaluation.results import BASELINE
from fewhertz.method import RECOMMENDED, Clip, parse
from fewhertz.methods._shared import unit
from fewhertz.plan import Plan
from fewhertz.steps import Steps
from recipes.research.grids import AS_PUBLISHED, BOTH, CORRECTIONS, TIME
from recipes.research.grids.training_free import (
    CANDIDATES,
    IDEAS,
    KEEPS,
    MERGING,
    METHODS,
    PUBLISHED,
    TUNED,
    run_of,
    spec,
)
from recipes.research.measured import Measured
from recipes.research.tasks import DEV, MODEL, ON_DEV, RESULTS, STRINGS, TASKS, Asked
from recipes.research.training_free.rivals import rivals
from recipes.research.training_free.targets import Loss


@pytest.fixture(scope="module")
def measured() -> Measured:
    return Measured(RESULTS)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label)
def test_runs_are_whole_and_of_the_shipped_weights(task: Asked, measured: Measured) -> None:
    shipped = measured.run(STRINGS, BASELINE).record["weights_sha256"]
    for one in (run_of(method, some, keep) for method in METHODS for some in CORRECTIONS for keep in KEEPS):
        assert parse(one).spec == one
        result = measured.run(task, one).record
        assert result["n"] == task.rows and not result["failed"] and result["weights_sha256"] == shipped
    on_dev = measured.packed.runs(DEV, ON_DEV[task].label, MODEL)
    assert on_dev
    for name, found in on_dev.items():
        result = found.record
        assert result["n"] == ON_DEV[task].rows and not result["failed"], name
        assert result["weights_sha256"] == shipped, name


def test_sizes_do_nothing_to_tokens_that_stay(measured: Measured) -> None:
    """What spares the runs of such methods with `+time` alone and `+sizes` alone, run where it was checked."""
    for method in set(METHODS) - set(MERGING):
        for keep in KEEPS:
            texts = [measured.run(STRINGS, spec(method, some, keep)).column("output") for some in (TIME, BOTH)]
            assert texts[0] == texts[1] and len(texts[0]) == STRINGS.rows
            assert {run_of(method, some, keep) for some in CORRECTIONS} == {
                spec(method, some, keep) for some in (AS_PUBLISHED, BOTH)
            }


def test_the_default_is_of_the_grid_and_has_both_corrections() -> None:
    method = parse(RECOMMENDED, "1/2")
    assert method.name in CANDIDATES and method.positions == "time" and method.sizes


@pytest.mark.parametrize(("target", "verdict"), [(2.0, "**met**"), (0.5, "**missed**"), (1.5, "inconclusive")])
def test_a_target_is_met_by_the_whole_interval(target: float, verdict: str) -> None:
    assert Loss(1.3, 1.0, 1.8, "WER").verdict(target) == verdict


def test_rivals_stand_at_their_best_corrections(measured: Measured) -> None:
    best = rivals(measured, STRINGS, "1/3")
    names = [parse(one).name for one in best]
    assert names == list(PUBLISHED)
    for name, one in zip(names, best, strict=True):
        others = [spec(name, some, "1/3") for some in CORRECTIONS]
        scores = [measured.value(STRINGS, other) for other in others if measured.there(STRINGS, other)]
        assert measured.value(STRINGS, one) == min(scores)


# --- ideas, which are registered while these tests run and no longer: other tests list all methods


@pytest.fixture
def ideas(monkeypatch: pytest.MonkeyPatch) -> object:
    import importlib
    import sys

    from fewhertz import method

    monkeypatch.setattr(method, "METHODS", dict(method.METHODS))
    monkeypatch.delitem(sys.modules, "recipes.research.ideas", raising=False)
    yield importlib.import_module("recipes.research.ideas")
    sys.modules.pop("recipes.research.ideas", None)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(0)).cumsum(1)


def lost(plan: Plan, x: torch.Tensor) -> torch.Tensor:
    return (unit(x) - plan.apply(unit(x)).gather(1, plan.group[..., None].expand_as(x))).square().sum((1, 2))


def test_ideas_keep_the_budget(ideas: object, tokens: torch.Tensor) -> None:
    clip = Clip(25.0, torch.rand(2, 60, generator=torch.Generator().manual_seed(1)))
    for one in (*IDEAS, *TUNED):
        plan = parse(f"{one}@keep=1/3+time+sizes").plan(tokens, clip)
        assert plan.m == 20 and bool((plan.sizes() > 0).all()) and bool((plan.centres().diff(dim=1) > 0).all())
    exact, cut = (parse(f"{name}@keep=1/3").plan(tokens, clip) for name in ("optimal(longest=60)", "optimal-cut"))
    torch.testing.assert_close(lost(exact, tokens), lost(cut, tokens))
    assert parse("optimal-cut(shortest=0.75)@keep=1/3").plan(tokens, clip).sizes().min() == 2
    for loss in (0.02, 0.05):
        plan = parse(f"ward-by-content(loss={loss})").plan(tokens[:1], Clip(25.0))
        assert lost(plan, tokens[:1]).item() <= 60 * loss * (1 + 1e-5)


@pytest.mark.parametrize(
    ("parameters", "alpha", "mean"), [("", 1.0, True), ("alpha=0.5", 0.5, True), ("place=first", 1.0, False)]
)
def test_otherwise_changes_the_corrections_alone(ideas: Any, parameters: str, alpha: float, mean: bool) -> None:
    laid: list[Any] = []
    steps = Steps(lay_out=lambda *args: laid.append(lay_out(*args)) or laid[-1])
    model, processor = fewhertz.load("pocket")
    wave = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    inputs = processor(
        text="<|audio_bos|><|AUDIO|><|audio_eos|>", audio=[wave], sampling_rate=16_000, return_tensors="pt"
    )
    method = f"ward-told({parameters})" if parameters else "ward-told"
    spec = f"{method}@keep=1/5+time+sizes"
    with ideas.otherwise(), fewhertz.compress(model, spec, steps=steps) as handle, torch.no_grad():
        model(**inputs)
    (plan,), found = handle.last.plans, laid[0]
    assert plan is not None
    span = slice(1, 1 + plan.m)  # behind <|audio_bos|>
    torch.testing.assert_close(found.log_sizes[0, span], alpha * plan.sizes()[0].log())
    starts = torch.tensor([plan.group[0].tolist().index(i) for i in range(plan.m)]).float()
    torch.testing.assert_close(found.positions[0, span][:-1] - 1, (plan.centres()[0] if mean else starts)[:-1])
