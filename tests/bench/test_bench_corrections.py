"""`bench/corrections.py` runs, its ways to weigh by size are exact, and its verdicts follow from its rows."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import benches
import pytest
import torch
import typer

from bench.layers import SUFFIXES
from bench.proportional import widened

COMMITTED = Path(__file__).parents[2] / "results" / "bench" / "told.json"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return benches.load("corrections")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run, result = benches.quick("corrections", tmp_path_factory.mktemp("bench") / "new" / "told.json")
    assert "quick: tiny shapes" in run.stdout and "after the audio, against copies" in run.stdout
    return result


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return json.loads(COMMITTED.read_text(encoding="utf-8"))


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers(one)
    elif isinstance(value, int | float):
        yield value


def form(value: Any) -> Any:
    """The names in a result, and in the first row of each list."""
    if isinstance(value, dict):
        return {name: form(one) for name, one in value.items()}
    return [form(value[0])] if isinstance(value, list) and value else None


def test_quick_run_measures_every_part(bench: ModuleType, ran: dict[str, Any]) -> None:
    assert ran["quick"] is True and ran["configuration"]["clock"] == "processor"
    assert all(math.isfinite(number) for number in numbers(ran))
    size = bench.QUICK
    cases = {(row["shape"], row["tokens"], row["batch"]) for row in ran["attention"]}
    assert cases == {(shape, n, b) for shape in size["shapes"] for n, b in ((30, 1), (300, 1), (30, 2))}
    assert sum("300 tokens, batch 2" in text for text in ran["left_out"]) == 2
    for row in ran["attention"]:
        if row["way"] == "plain":
            assert row["of_plain"] == row["of_layer"] == 1
        assert (row["seconds"] is None) is (row["refused"] is not None)
        assert row["seconds"] is None or min(row["seconds"], row["of_plain"], row["of_layer"]) > 0
    assert [row["method"].removeprefix("pool@keep=1/3") for row in ran["layer"]] == 2 * list(SUFFIXES)
    assert {(row["method"].split("@")[0], row["batch"]) for row in ran["cost"]} == {
        (method, batch) for method in ("ward", "optimal") for batch in size["cost_batches"]
    }


def test_a_kernel_that_is_not_there_says_so(ran: dict[str, Any]) -> None:
    for row in ran["attention"]:
        if row["way"].endswith(", efficient"):  # CUDA's alone
            assert row["refused"].startswith("RuntimeError: No viable backend")


@pytest.mark.parametrize("source", ("ran", "committed"))
def test_log_s_is_exact_in_one_layer(source: str, request: pytest.FixtureRequest) -> None:
    result = request.getfixturevalue(source)
    ways = {row["way"] for row in result["exact"] if row["told"] and row["difference"] is not None}
    assert {"mask", "mask in parts", "dims", "dims in the cache", "dims at each step", "flex"} <= ways
    for row in result["exact"]:
        if row["difference"] is not None and row["dtype"] == "float32":
            assert row["difference"] <= 1e-5 if row["told"] else row["difference"] > 1e-2
    for run in result["depth"]:
        first, *later = run["by_layer"]
        assert first["told"]["largest"] <= 1e-5 < first["untold"]["mean"]
        assert all(1e-5 < row["told"]["mean"] < row["untold"]["mean"] for row in later)


@pytest.mark.parametrize("source", ("ran", "committed"))
def test_verdicts_follow_from_the_rows(source: str, bench: ModuleType, request: pytest.FixtureRequest) -> None:
    result = request.getfixturevalue(source)
    assert result["choices"] == bench.choices(result["attention"])
    assert result["bars"] == bench.bars(result)
    for row in result["cost"]:
        assert row["met"] is (None if row["bar"] is None else row["share_of_prefill_saved"] <= row["bar"])
    for row in result["objective"]:
        assert row["ward_over_optimal"] >= 1 - 1e-6
        assert row["met"] is (row["ward_over_optimal"] <= bench.OBJECTIVE_BAR)


def test_the_committed_result_is_of_this_bench(
    bench: ModuleType, ran: dict[str, Any], committed: dict[str, Any]
) -> None:
    assert committed["quick"] is False
    asked = json.loads(json.dumps(bench.FULL))
    assert {name: committed["configuration"][name] for name in asked} == asked
    assert committed.keys() == ran.keys()
    for part in ("exact", "objective", "depth", "attention", "choices", "cost", "layer", "bars"):
        assert form(committed[part][0]) == form(ran[part][0])


def test_every_bar_is_judged_by_the_worst_row(bench: ModuleType) -> None:
    exact = {"shape": "s", "phase": "prefill", "way": "mask", "told": True, "dtype": "float32", "difference": 1e-6}
    first = [{"told": {"largest": 1e-7}}]
    choice = {"shape": "s", "phase": "decode", "tokens": 9, "batch": 1, "fastest": "dims", "mask_over_fastest": 1.1}
    cost = {"method": "ward@keep=1/3", "shape": "s", "batch": 32, "share_of_prefill_saved": 0.02, "bar": 0.02}
    result: dict[str, Any] = {
        "exact": [exact, exact | {"told": False, "difference": 1.0}, exact | {"dtype": "bfloat16", "difference": 1.0}],
        "depth": [{"weights": "pocket", "tokens": "t", "by_layer": first}],
        "choices": [choice],
        "cost": [cost, cost | {"method": "optimal@keep=1/3", "share_of_prefill_saved": 1.0, "bar": None}],
        "objective": [{"keep": "1/3", "ward_over_optimal": 1.05}],
    }
    assert [bar["met"] for bar in bench.bars(result)] == [True] * 5
    result["exact"].append(exact | {"difference": 2e-5, "way": "flex"})
    result["depth"][0]["by_layer"] = [{"told": {"largest": 1e-3}}]
    result["choices"].append(choice | {"mask_over_fastest": 1.2, "tokens": 99})
    result["cost"].append(cost | {"share_of_prefill_saved": 0.03, "batch": 1})
    result["objective"].append({"keep": "1/10", "ward_over_optimal": 1.06})
    assert [bar["met"] for bar in bench.bars(result)] == [False] * 5
    assert [bar["where"] for bar in bench.bars(result)] == [
        "s, prefill, flex",
        "pocket, t",
        "s, decode, dims, tokens 99, batch 1",
        "s, ward@keep=1/3, batch 1",
        "keep 1/10",
    ]


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_more_dimensions_add_log_s(bench: ModuleType, dtype: torch.dtype) -> None:
    source = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 4, n, 128, generator=source).to(dtype) for n in (3, 7))
    log_sizes = torch.randint(1, 9, (2, 7), generator=source).log()
    scale = 128**-0.5
    wide_query, wide_key = widened(query, key, log_sizes, scale)
    assert wide_query.shape[-1] == wide_key.shape[-1] == 136 and wide_key.dtype == dtype
    added = (wide_query.double() @ wide_key.double().mT - query.double() @ key.double().mT) * scale
    torch.testing.assert_close(added, log_sizes[:, None, None].double().expand_as(added), atol=1e-4, rtol=0)


def test_without_the_dev_lists_it_says_how_they_are_made(bench: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=r"no dev lists in .* python -m recipes\.pocket\.manifests"):
        bench.main(out=tmp_path / "told.json", device="cpu", manifests=tmp_path)
