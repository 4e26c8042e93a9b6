"""`bench/prefill.py` runs, counts tokens, bytes and operations exactly, and judges its bars by its rows."""

import subprocess
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import benches
import pytest
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2AudioForConditionalGeneration
from typer.testing import CliRunner

import fewhertz
from fewhertz.cost import kv_bytes

METHODS = ["pool", "ward+time+sizes"]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return benches.load("prefill")


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    """Whatever the machine's CPU would be given."""
    return request.param


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, dtype: str) -> tuple[subprocess.CompletedProcess, dict[str, Any]]:
    flags = [f"--dtype={dtype}", "--threads=1", "--budget=100000"]  # however slow the machine is
    flags += [f"--method={method}" for method in METHODS]
    return benches.quick("prefill", tmp_path_factory.mktemp("prefill") / "new" / "prefill.json", *flags)


def test_every_case_method_and_keep_has_a_row(bench: ModuleType, ran: tuple) -> None:
    rows = {(row["clips"], row["batch"], row["method"].split("@")[0], row["keep"]) for row in ran[1]["rows"]}
    names = {method.split("+")[0] for method in METHODS}
    assert rows == {(c, b, name, keep) for c in (1, 2) for b in (1, 2) for name in names for keep in bench.KEEPS}
    assert len(rows) == len(ran[1]["rows"]) and ran[1]["left_out"] == []


def test_tokens_and_bytes_are_exact(bench: ModuleType, ran: tuple, dtype: str) -> None:
    size = bench.QUICK
    clip = size["audio"]["max_source_positions"] // 2
    for row in ran[1]["rows"]:
        kept = max(1, int(clip * Fraction(row["keep"]) + Fraction(1, 2)))
        assert row["audio_tokens"] == row["clips"] * kept
        around = bench.TEXT_BEFORE + row["clips"] * bench.TEXT_PER_CLIP + bench.TEXT_AFTER
        assert row["prompt_tokens"] == around + row["audio_tokens"]
        each = 2 * size["text"]["num_hidden_layers"] * size["text"]["hidden_size"] * getattr(torch, dtype).itemsize
        assert row["kv_bytes"] == each * row["batch"] * row["prompt_tokens"]


def test_ratios_follow_from_the_rows(bench: ModuleType, ran: tuple) -> None:
    text = bench.configuration(bench.QUICK).text_config
    encoders = {case["case"]: case["encoder_seconds"] for case in ran[1]["cases"]}
    whole = {}
    for row in ran[1]["rows"]:
        name = row["method"].split("@")[0]
        if row["keep"] == "1":
            whole[row["case"], name] = row
            assert row["speedup"] == 1 and row["prefill_saved"] == 0 and row["compression_over_saved"] is None
        base, seconds = whole[row["case"], name], row["seconds"]
        assert min(*seconds.values(), encoders[row["case"]]) > 0
        parts = seconds["compression"] + seconds["merge"] + seconds["prefill"]
        assert row["first_token_seconds"] == pytest.approx(encoders[row["case"]] + parts)
        assert row["flops"] == row["batch"] * bench.flops(text, row["prompt_tokens"])
        assert row["speedup_predicted"] == pytest.approx(base["flops"] / row["flops"])
        assert row["measured_over_predicted"] == pytest.approx(row["speedup"] / row["speedup_predicted"])
        if row["prefill_saved"] > 0:
            share = seconds["compression"] / row["prefill_saved"]
            assert row["compression_over_saved"] == pytest.approx(share)
            assert row[bench.SCALED] == pytest.approx(share * 2 / 32)
        assert row["peak_bytes"] is None or row["peak_bytes"] > 0


def test_the_result_says_what_ran(bench: ModuleType, ran: tuple, dtype: str) -> None:
    run, result = ran
    asked = result["configuration"]
    assert result["quick"] is True and asked["device"] == "cpu" and asked["attention"] == "sdpa"
    assert asked["whole"] == {"text": bench.TEXT_7B, "audio": bench.AUDIO_7B}
    assert asked["dtype"] == dtype
    assert any("float32 for bfloat16" in text for text in result["reduced"]) is (dtype == "float32")
    assert result["environment"]["threads"] == 1
    assert {"cpu", "gpu", "torch", "transformers", "fewhertz", "commit"} <= set(result["environment"])
    assert "text num_hidden_layers: 2 for 32" in result["reduced"]
    assert "reduced: text num_hidden_layers: 2 for 32" in run.stdout
    assert "quick: tiny shapes" in run.stdout and "arXiv 2511.14293" in run.stdout
    assert "1 × 30 s, batch 1: round 2 of 2" in run.stderr
    assert result["bars"] == bench.bars(result["rows"], 2 * 2 * 64 * getattr(torch, dtype).itemsize)


@pytest.mark.parametrize(
    ("flags", "picked"),
    [
        ("fpu avx2 avx512f avx512_bf16 amx_tile", True),
        ("fp asimd bf16 i8mm", True),  # Arm's name
        ("fpu avx2 avx512f avx512_vnni", False),
        ("", False),
    ],
)
def test_bfloat16_is_picked_by_the_flags_of_the_cpu(
    bench: ModuleType, tmp_path: Path, flags: str, picked: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n", "utf-8")
    assert bench.has_bfloat16(tmp_path / "cpuinfo") is picked
    assert not bench.has_bfloat16(tmp_path / "none")  # no such file: not on Linux


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--method=nothing", "no method named 'nothing'"),
        ("--method=unseg", "unseg takes no budget"),
        ("--device=tpu", "--device is cpu"),
        ("--dtype=int8", "--dtype is bfloat16 or float32"),
    ],
)
def test_bad_usage_is_told_before_any_work(bench: ModuleType, tmp_path: Path, argument: str, said: str) -> None:
    app = typer.Typer()
    app.command()(bench.main)
    out = tmp_path / "out.json"
    run = CliRunner().invoke(app, [argument, "--quick", f"--out={out}"])
    assert run.exit_code == 2 and said in " ".join(run.output.replace("│", " ").split())
    assert not out.exists()


@pytest.fixture
def model(bench: ModuleType) -> Any:
    torch.manual_seed(0)
    return bench.build(bench.configuration(bench.QUICK), "cpu", torch.float32)


@pytest.mark.parametrize("keep", ["1", "1/3"])
def test_flops_are_those_that_torch_counts(bench: ModuleType, model: Any, keep: str) -> None:
    """In the call that is timed. Eager attention is counted in full; the half after each token is no work for sdpa."""
    model.set_attn_implementation("eager")
    inputs = bench.request(model.config, bench.Case(2, 3), "cpu", torch.float32)
    with torch.no_grad(), fewhertz.compress(model, f"pool@keep={keep}"), FlopCounterMode(display=False) as counter:
        out = model(**inputs, use_cache=True)
    counted = {name.split(".", 1)[-1]: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    angles = counted.get("model.language_model.rotary_emb", 0)  # a product by its form, no work of the network

    text, n = model.config.text_config, out.past_key_values.get_seq_length()
    after = 2 * text.num_hidden_layers * text.hidden_size * n * (n - 1)
    assert counted["model.language_model"] + counted["lm_head"] - angles == 3 * (bench.flops(text, n) + after)


def test_attention_skips_what_comes_after_a_token(bench: ModuleType, model: Any) -> None:
    """As `flops` has it: the kernel knows that attention is causal, and gets no mask that it would have to read."""
    inputs = bench.request(model.config, bench.Case(2, 3), "cpu", torch.float32)
    calls = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append((kwargs.get("is_causal"), kwargs.get("attn_mask") is None))
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode(), fewhertz.compress(model, "pool@keep=1/3"):
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        model(**inputs, use_cache=True)
    assert calls == [(False, True)] + [(True, True)] * model.config.text_config.num_hidden_layers  # encoder, LLM


def test_the_whole_shape_is_the_7b(bench: ModuleType) -> None:
    config = bench.configuration(bench.WHOLE)
    with torch.device("meta"):
        model = Qwen2AudioForConditionalGeneration(config)
    # 16.79 GB of bfloat16 in five files at huggingface.co/Qwen/Qwen2-Audio-7B
    assert 2 * sum(p.numel() for p in model.parameters()) == pytest.approx(16.79e9, abs=0.01e9)
    assert kv_bytes(config.text_config, 1, torch.bfloat16) == 2**19
    assert config.audio_token_id == 151_646
    read = [*model.model.language_model.layers.parameters(), *model.lm_head.parameters()]
    weights = sum(p.numel() for p in read if p.dim() == 2)
    assert bench.flops(config.text_config, 1000) == 2 * 1000 * weights + 32 * 2 * 4096 * 1000 * 1001


def test_weights_are_made_in_their_dtype(bench: ModuleType) -> None:
    made = bench.build(bench.configuration(bench.QUICK), "cpu", torch.bfloat16)
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert made.lm_head.weight.std() > 0


def test_what_does_not_fit_is_left_out_by_name(bench: ModuleType) -> None:
    methods = [fewhertz.parse(name, "1") for name in ("pool", "segment")]
    cases = [bench.Case(1, 1), bench.Case(10, 1), bench.Case(1, 16), bench.Case(10, 16)]
    works, left_out = bench.plan(cases, methods, _calls, budget=600, most=5)
    first, second, third = works
    assert (first.case, len(first.methods), first.keeps) == (cases[0], 2, bench.KEEPS)
    assert (second.case, len(second.methods), second.keeps) == (cases[1], 1, bench.KEEPS)
    assert (third.case, len(third.methods), third.keeps) == (cases[2], 1, ("1", "1/3"))
    assert sum(work.rounds * _calls(work.case, work.methods, work.keeps) for work in works) <= 600
    assert (first.rounds, second.rounds, third.rounds) == (4, 2, 2)
    assert [(left["case"], left["what"]) for left in left_out] == [
        (str(cases[1]), "segment"),
        (str(cases[2]), "segment; keeps but 1 and 1/3"),
        (str(cases[3]), "everything"),
    ]


def _calls(case: Any, methods: Any, keeps: Any) -> float:
    return 2.5 * case.clips * case.batch * len(methods) * len(keeps)


def _row(keep: str, **values: Any) -> dict[str, Any]:
    row = {"case": "c", "method": f"pool@keep={keep}", "keep": keep, "batch": 2, "prompt_tokens": 50, "kv_bytes": 800}
    return row | {"measured_over_predicted": 1.0} | values


def test_bars_are_judged_by_the_worst_row(bench: ModuleType) -> None:
    share = bench.SCALED

    def met(*rows: dict[str, Any]) -> list[bool | None]:
        return [bar["met"] for bar in bench.bars([_row("1", **{share: None}), *rows], 8)]

    assert met(_row("1/3", **{share: 0.01}, measured_over_predicted=0.85)) == [True, True, True]
    assert met(_row("1/3", **{share: 0.001}), _row("1/2", **{share: 0.011})) == [False, True, True]
    assert met(_row("1/3", **{share: 0.001}), _row("1/2", **{share: None})) == [False, True, True]  # saved no time
    low = _row("1/2", **{share: 0.0}, measured_over_predicted=0.1)  # not a row of that bar
    assert met(low) == [True, None, True]
    assert met(_row("1/3", **{share: 0.0}, measured_over_predicted=0.849), low) == [True, False, True]
    assert met(_row("1/3", **{share: 0.0}, kv_bytes=801)) == [True, True, False]
    assert [bar["met"] for bar in bench.bars([], 8)] == [None, None, None]


def test_the_paper_is_judged_by_the_formula(bench: ModuleType) -> None:
    found = bench.paper([])
    text = bench.configuration(bench.WHOLE).text_config
    assert found["reported_speedup"] > found["limit_at_any_length"] > found["predicted_speedup_10x30s"]
    assert found["predicted_speedup_30s"] < found["predicted_speedup_10x30s"]
    assert found["fewer_flops_can_explain_it"] is False
    assert all(bench.flops(text, 2 * n) < 4 * bench.flops(text, n) for n in (1, 750, 10**5, 10**9))
    left = bench.PAPER_MS["1"] / found["predicted_speedup_30s"] - bench.PAPER_MS["1/2"]
    assert found["share_of_other_effects_30s"] == pytest.approx(left / found["ms_saved"])
