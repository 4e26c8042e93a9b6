"""What dev was asked: all of it was measured, and the ideas that were tried do what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fewhertz
from fewhertz.checkpoint import open_checkpoint, weights_sha256
from fewhertz.corrections import lay_out
from fewhertz.evaluation.results import BASELINE
from fewhertz.method import DEFAULT, RECOMMENDED, Clip, parse
from fewhertz.methods._shared import unit
from fewhertz.plan import Plan
from fewhertz.steps import Steps
from recipes.research.choice import spec
from recipes.research.grids.choice import CANDIDATES, IDEAS, KEEPS, NARROW, ON_DEV, TRIED_ON, TUNED, TUNED_ON
from recipes.research.grids.training_free import CHOSEN, FIVE, TOLERANCES, priced
from recipes.research.measured import Measured
from recipes.research.tasks import DEV, RESULTS, Asked


@pytest.mark.parametrize("task", FIVE, ids=lambda task: task.label)
def test_runs_on_dev_are_whole_and_of_the_shipped_weights(task: Asked) -> None:
    measured, shipped = Measured(RESULTS, DEV), weights_sha256(open_checkpoint("pocket"))
    wanted = [(BASELINE, *map(priced, TOLERANCES)), [spec(one, keep) for one in CANDIDATES for keep in KEEPS]]
    wanted += [[spec(one, keep) for one in IDEAS for keep in NARROW]] * (task in TRIED_ON)
    wanted += [[spec(one, keep) for one in TUNED for keep in NARROW]] * (task in TUNED_ON)
    for run in (run for some in wanted for run in some):
        result = measured.run(ON_DEV[task], run).record
        assert result["n"] == ON_DEV[task].rows and not result["failed"] and result["weights_sha256"] == shipped


def test_the_default_is_of_what_dev_was_asked() -> None:
    method = parse(RECOMMENDED, "1/2")
    assert method.name in CANDIDATES and method.positions == "time" and method.sizes and priced(CHOSEN) == DEFAULT


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
