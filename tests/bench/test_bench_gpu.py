"""`bench/gpu.py` runs whole on a CPU with tiny shapes, and a part that fails ends no other."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import benches
import pytest
import torch
from typer.testing import CliRunner

import fewhertz
from fewhertz.cost import kv_bytes, prefill_flops


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return benches.load("gpu")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu") / "new" / "gpu.json"


@pytest.fixture(scope="module")
def result(written: Path) -> dict[str, Any]:
    flags = ("--seconds=100000", "--commit=0123abc")  # however slow the machine is
    return benches.quick("gpu", written, *flags)[1]


@pytest.fixture
def model(bench: ModuleType) -> Any:
    torch.manual_seed(0)
    shape = bench.QUICK["models"][bench.SMALL]
    return bench.build(bench.configuration(shape), "cpu", torch.float32)


def test_all_is_measured(bench: ModuleType, result: dict[str, Any]) -> None:
    assert result["errors"] == [] and result["left_out"] == {}
    assert result["environment"]["commit"] == "0123abc" and result["quick"] is True
    assert min(result["ceilings"].values()) > 0
    for name, size in bench.QUICK["models"].items():
        config, model = bench.configuration(size), result["models"][name]
        assert [case["case"] for case in model["cases"]] == [str(case) for case in size["cases"]]
        assert all(case["rounds"] == 1 and case["encoder_seconds"] > 0 for case in model["cases"])
        assert [(r["case"], r["method"]) for r in model["rows"]] == [
            (str(case), spec) for case in size["cases"] for spec in bench.SPECS
        ]
        for row in model["rows"]:
            n = row["prompt_tokens"]
            assert row["fits"] and row["warmed_up"] and row["no_graph"] is None
            assert row["flops"] == row["batch"] * prefill_flops(config.text_config, n)
            assert row["kv_bytes"] == kv_bytes(config.text_config, row["batch"] * n, torch.float32)
            assert min(row["seconds"][part] for part in ("merge", "prefill", "decode_eager", "decode_device")) > 0
            assert (row["seconds"]["compression"] == 0) == (row["method"] == bench.NONE)
        base = model["rows"][0]
        assert set(base["speedup"].values()) == {1.0}
        assert model["rows"][1]["speedup"]["prefill_predicted"] > 1


def test_ways_are_timed_and_right(bench: ModuleType, result: dict[str, Any]) -> None:
    for into in ("ways", "flex"):
        assert {(r["phase"], r["tokens"], r["batch"]) for r in result[into]} == set(bench.QUICK[into])
        ran = [row for row in result[into] if row["seconds"] is not None]
        assert all(row["seconds"] > 0 for row in ran)
        assert all(row["difference"] < 1e-5 for row in ran if row["told"])
    assert {"mask", "dims", "dims in the cache"} <= {row["way"] for row in result["ways"]}
    assert {row["way"] for row in result["flex"]} == {"flex"}
    assert all(row["difference"] < 1e-5 for row in result["exact"] if row["told"] and row["difference"] is not None)


def test_the_picture_is_drawn_from_the_result(bench: ModuleType, written: Path, result: dict[str, Any]) -> None:
    out = written.with_name("gpu.png")
    bench.main(out=written, picture=out)
    assert out.read_bytes().startswith(b"\x89PNG") and out.stat().st_size > 10_000
    assert json.loads(written.read_text("utf-8")) == result


def test_no_library_that_reads_audio_is_needed(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    code = (
        "import runpy, sys\n"
        "sys.modules.update(soundfile=None, soxr=None)\n"
        f"sys.argv = ['gpu.py', '--quick', '--device=cpu', '--seconds=1', '--out={out}']\n"
        "runpy.run_module('bench.gpu', run_name='__main__')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=benches.ROOT)
    assert run.returncode == 0, run.stderr
    # the second was over when all was loaded
    assert "s were left" in json.loads(out.read_text("utf-8"))["left_out"]["ceilings"]


@pytest.mark.parametrize("spec", ["none", "pool@keep=1/3", "ward@keep=1/3+time+sizes"])
def test_a_step_in_place_is_the_step(bench: ModuleType, model: Any, spec: str) -> None:
    inputs = bench.request(model.config, bench.Case(2, 2), "cpu", torch.float32)
    given = []
    with torch.inference_mode(), bench.nullcontext() if spec == "none" else fewhertz.compress(model, spec):
        for place in (bench.in_place, lambda cache: None):
            cache = model(**inputs, use_cache=True).past_key_values
            before = cache.get_seq_length()
            place(cache)
            given.append([model(input_ids=inputs["input_ids"][:, i : i + 1], past_key_values=cache) for i in (0, 0)])
    (first, again), (right, _) = ([out.logits for out in outs] for outs in given)
    assert torch.equal(first, right) and torch.equal(first, again)
    assert cache.get_seq_length() == before + 2  # the other grows


def test_logits_of_the_last_position_alone(bench: ModuleType, model: Any) -> None:
    inputs = bench.request(model.config, bench.Case(1, 2), "cpu", torch.float32)
    with torch.inference_mode():
        whole = model(**inputs).logits
        with bench.last_logits(model):
            last = model(**inputs).logits
        assert model(**inputs).logits.shape == whole.shape
    assert last.shape[1] == 1
    torch.testing.assert_close(last[:, 0], whole[:, -1])


def test_what_fails_is_told_and_ends_nothing_else(
    bench: ModuleType, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not run out on a CPU, so it is said to."""
    real, case = bench.sample, bench.Case(1, 1)

    def failing(model: Any, inputs: Any, spec: str, *args: Any, **kwargs: Any) -> Any:
        if spec == bench.NONE:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if spec == "pool@keep=1/3":
            raise RuntimeError("something else")
        return real(model, inputs, spec, *args, **kwargs)

    monkeypatch.setattr(bench, "sample", failing)
    samples, failed, traces = bench.measure(model, case, 1, 1e5, bench.Budget(1e5), "cpu", torch.float32)
    assert set(failed) == {bench.NONE, "pool@keep=1/3"} and len(traces) == 1 and "something else" in traces[0]
    whole, rows = bench.rows_of(model.config, case, samples, failed)
    by_method = {row["method"]: row for row in rows}
    assert by_method[bench.NONE]["fits"] is False and by_method["pool@keep=1/3"]["fits"] is True
    assert by_method["pool@keep=1/3"]["failed"] == "RuntimeError: something else"
    assert whole["encoder_seconds"] > 0 and by_method["pool@keep=1/2"]["first_token_seconds"] > 0
    assert "speedup" not in by_method["pool@keep=1/2"]


def test_a_part_that_fails_is_told(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(bench, "ceilings", broken)
    monkeypatch.setattr(bench, "measure", broken)
    out = tmp_path / "gpu.json"
    bench.main(out=out, seconds=1e5, quick=True, device="cpu", commit="", picture=None)
    result = json.loads(out.read_text("utf-8"))
    cases = [f"{name}, {case}" for name, size in bench.QUICK["models"].items() for case in size["cases"]]
    assert [error["part"] for error in result["errors"]] == ["ceilings", *cases]
    assert all("RuntimeError: broken" in error["traceback"] for error in result["errors"])
    assert result["ceilings"] is None and result["ways"]
    bench.draw(result, tmp_path / "empty.png")


def test_the_budget_leaves_out_by_name(bench: ModuleType, model: Any) -> None:
    case = bench.Case(1, 1)
    samples, failed, _ = bench.measure(model, case, 1, 1e5, bench.Budget(0), "cpu", torch.float32)
    assert not any(samples.values()) and set(failed) == set(bench.SPECS)
    whole, rows = bench.rows_of(model.config, case, samples, failed)
    assert whole["encoder_seconds"] is None and all(row["failed"] == "no time was left" for row in rows)


def test_the_small_shape_is_that_of_a_06b(bench: ModuleType) -> None:
    with torch.device("meta"):
        made = bench.build(bench.configuration(bench.FULL["models"][bench.SMALL]), "meta", torch.bfloat16)
    # Qwen3-0.6B has 0.44 billion parameters beside its embeddings
    layers = sum(p.numel() for p in made.model.language_model.layers.parameters())
    assert layers == pytest.approx(0.44e9, rel=0.01)


@pytest.mark.parametrize("flag", ["--device=cpu", "--device=tpu"])
def test_bad_usage_is_told(bench: ModuleType, tmp_path: Path, flag: str) -> None:
    app = bench.typer.Typer()
    app.command()(bench.main)
    run = CliRunner().invoke(app, [flag, f"--out={tmp_path / 'out.json'}"])
    assert run.exit_code == 2 and "--device is cuda" in " ".join(run.output.replace("│", " ").split())
