"""docs/training-free.md: made of the committed result files, and of all of those that are there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import fewhertz
from fewhertz.evaluation import results
from fewhertz.evaluation.metrics import METRICS
from fewhertz.evaluation.results import BASELINE
from fewhertz.method import RECOMMENDED, Clip, parse
from fewhertz.methods._shared import unit
from fewhertz.plan import Plan
from recipes import claims, letters, training_free
from recipes.claims import DOCS, RESULTS, SPEECH, STRINGS, TASKS, Asked, Measured
from recipes.training_free import (
    AS_PUBLISHED,
    DEV,
    KEEPS,
    MERGING,
    METHODS,
    PRESENTATIONS,
    TIME,
    TOLD,
    Cost,
    at,
    cell_of,
)


@pytest.fixture(scope="module")
def measured() -> Measured:
    return Measured(RESULTS)


def test_the_page_is_made_of_the_committed_results(measured: Measured) -> None:
    page = (DOCS / "training-free.md").read_text("utf-8")
    assert training_free.page(measured) == page, "run: make reproduce"
    assert ("**Not run yet**" in page) == bool(training_free.missing(measured))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label)
def test_cells_are_whole_and_of_the_shipped_weights(task: Asked, measured: Measured) -> None:
    shipped = measured.result(STRINGS, BASELINE)["weights_sha256"]
    cells = [at(method, told, keep) for method in METHODS for told in PRESENTATIONS for keep in KEEPS]
    for spec in (one for one in cells if measured.there(task, one)):
        assert parse(spec).spec == spec
        result = measured.result(task, spec)
        assert result["n"] == task.rows and not result["failed"] and result["weights_sha256"] == shipped
    for file, result in results.gather(training_free.dev(RESULTS))[0]:
        rows = next(one.rows for one in DEV.values() if one.label == result["task"])
        assert result["n"] == rows and not result["failed"] and result["weights_sha256"] == shipped, file


def test_sizes_say_nothing_of_tokens_that_stay(measured: Measured) -> None:
    """What spares the cells of such methods with `+time` alone and `+sizes` alone, run where it was checked."""
    for method in set(METHODS) - set(MERGING):
        for keep in KEEPS:
            one, both = (measured.cell(STRINGS, at(method, told, keep)) for told in (TIME, TOLD))
            texts = [[sample["output"] for sample in results.read_samples(file)] for file in (one, both)]
            assert texts[0] == texts[1] and len(texts[0]) == STRINGS.rows
            assert {cell_of(method, told, keep) for told in PRESENTATIONS} == {
                at(method, told, keep) for told in (AS_PUBLISHED, TOLD)
            }


def test_the_default_is_of_the_grid_and_told() -> None:
    method = parse(RECOMMENDED, "1/2")
    assert method.name in training_free.CANDIDATES and method.positions == "time" and method.sizes


def test_a_cell_that_is_missing_is_a_dash_and_said(tmp_path: Path, measured: Measured) -> None:
    """Of two cells alone the page can still be made, and its bars are not called met."""
    for task in TASKS:
        for spec in (BASELINE, training_free.default("1/3")):
            place = results.run_files(tmp_path, task.label, claims.MODEL, spec)
            source = measured.cell(task, spec)
            result = json.loads(source.read_text("utf-8"))
            results.write(place, {k: v for k, v in result.items() if k != "samples"}, results.read_samples(source))
    page = training_free.page(Measured(tmp_path))
    assert "**Not run yet**" in page and "250 of 250 cells with `+sizes`" in page and "not run yet | – |" in page
    rows = [line for line in page.splitlines() if line.startswith("| word strings, keep=1/3: lost |")]
    assert len(rows) == 1 and "WER" in rows[0]


@pytest.mark.parametrize(("bar", "verdict"), [(2.0, "**met**"), (0.5, "**missed**"), (1.5, "cannot be told")])
def test_a_bar_is_met_by_the_whole_interval(bar: float, verdict: str) -> None:
    assert Cost(1.3, 1.0, 1.8, "WER").verdict(bar) == verdict


@pytest.mark.parametrize("task", SPEECH, ids=lambda task: task.label)
def test_a_quarter_of_what_pool_loses_is_that_of_the_scores(task: Asked, measured: Measured) -> None:
    cost = training_free.quarter(measured, task, "1/3")
    ours, base, pool = (
        measured.score(task, spec)["score"]
        for spec in (training_free.default("1/3"), BASELINE, at("pool", AS_PUBLISHED, "1/3"))
    )
    assert cost is not None and cost.value == pytest.approx(ours - base - (pool - base) / 4, abs=1e-3)
    # what that rests on: each cell counts the same words of a sample
    words = [measured.stats(task, spec)[0] for spec in (BASELINE, at("pool", AS_PUBLISHED, "1/3"))]
    mixed = 0.5 * words[0] + 0.5 * words[1]
    assert METRICS["wer"].score(mixed) == pytest.approx(np.mean([METRICS["wer"].score(one) for one in words]))


@pytest.mark.parametrize("task", SPEECH, ids=lambda task: task.label)
def test_letters_sort_every_sample_once(task: Asked, measured: Measured) -> None:
    load, stats, base, groups = letters.pooled(measured, task, "pool")
    assert len(load) == len(stats) == len(base) == len(groups) == task.rows * len(letters.KEEPS)
    assert sum(((low <= load) & (load < high)).sum() for low, high in letters.bins()) == len(load)
    everything = letters.lost(measured, task, "pool", 0, np.inf)
    score, whole = (METRICS["wer"].score(one) for one in (stats, base))
    scores = [measured.score(task, at("pool", AS_PUBLISHED, keep))["score"] for keep in letters.KEEPS]
    assert everything is not None and everything[0] == pytest.approx(score - whole) and everything[3] == load.mean()
    assert score == pytest.approx(np.mean(scores))  # each keep has the same words
    sample = results.read_samples(measured.cell(task, at("pool", AS_PUBLISHED, "1/2")))[0]
    assert load[0] == len(sample["references"][0].replace(" ", "").replace("'", "")) / sample["after"]
    assert letters.lost(measured, task, "pool", 1000, np.inf) is None


def test_rivals_stand_at_their_best_presentation(measured: Measured) -> None:
    best = training_free.rivals(measured, STRINGS, "1/3")
    assert [parse(spec).name for spec in best] == [
        m for m in training_free.PUBLISHED if m in {parse(s).name for s in best}
    ]
    for spec in best:
        others = [at(parse(spec).name, told, "1/3") for told in PRESENTATIONS]
        scores = [measured.score(STRINGS, one)["score"] for one in others if measured.cell(STRINGS, one).exists()]
        assert measured.score(STRINGS, spec)["score"] == min(scores)


# --- ideas, which are registered while these tests run and no longer: other tests list all methods


@pytest.fixture
def ideas(monkeypatch: pytest.MonkeyPatch) -> object:
    import importlib
    import sys

    from fewhertz import method

    monkeypatch.setattr(method, "METHODS", dict(method.METHODS))
    monkeypatch.delitem(sys.modules, "recipes.ideas", raising=False)
    yield importlib.import_module("recipes.ideas")
    sys.modules.pop("recipes.ideas", None)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(0)).cumsum(1)


def lost(plan: Plan, x: torch.Tensor) -> torch.Tensor:
    return (unit(x) - plan.apply(unit(x)).gather(1, plan.group[..., None].expand_as(x))).square().sum((1, 2))


def test_ideas_keep_the_budget(ideas: object, tokens: torch.Tensor) -> None:
    clip = Clip(25.0, torch.rand(2, 60, generator=torch.Generator().manual_seed(1)))
    for spec in (*training_free.IDEAS, *training_free.TUNED):
        plan = parse(f"{spec}@keep=1/3+time+sizes").plan(tokens, clip)
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
def test_retold_changes_what_is_told_alone(
    ideas: object, parameters: str, alpha: float, mean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewhertz import attach

    heard = []
    plain = attach.lay_out
    monkeypatch.setattr(attach, "lay_out", lambda *args: heard.append(plain(*args)) or heard[-1])
    model, processor = fewhertz.load("pocket")
    wave = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    inputs = processor(
        text="<|audio_bos|><|AUDIO|><|audio_eos|>", audio=[wave], sampling_rate=16_000, return_tensors="pt"
    )
    method = f"ward-told({parameters})" if parameters else "ward-told"
    with ideas.retold(), fewhertz.compress(model, f"{method}@keep=1/5+time+sizes") as handle, torch.no_grad():  # type: ignore[attr-defined]
        model(**inputs)
    (plan,), told = handle.last.plans, heard[0]
    assert plan is not None
    span = slice(1, 1 + plan.m)  # behind <|audio_bos|>
    torch.testing.assert_close(told.log_sizes[0, span], alpha * plan.sizes()[0].log())
    starts = torch.tensor([plan.group[0].tolist().index(i) for i in range(plan.m)]).float()
    torch.testing.assert_close(told.positions[0, span][:-1] - 1, (plan.centres()[0] if mean else starts)[:-1])
