"""What a user meets first: public names, a light import, the README's own code and table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fewhertz
import fewhertz.methods
from fewhertz.cli import methods_markdown
from fewhertz.method import METHODS, parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_public_names_are_these() -> None:
    assert sorted(fewhertz.__all__) == [
        "Attached",
        "AudioError",
        "Chain",
        "Clip",
        "Method",
        "Plan",
        "attached",
        "compress",
        "load",
        "parse",
        "train",
    ]
    for name in fewhertz.__all__:
        assert getattr(fewhertz, name).__doc__, name


def test_importing_is_free_of_side_effects_and_optional_dependencies() -> None:
    code = """
import sys, torch
before = torch.random.get_rng_state()
import fewhertz
for name in fewhertz.__all__: getattr(fewhertz, name)
optional = {"peft", "accelerate", "matplotlib", "jiwer", "scipy", "vllm", "pandas", "datasets", "sacrebleu"}
optional &= set(sys.modules)
assert not optional, optional
assert torch.equal(before, torch.random.get_rng_state())
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
assert not [name for name in ALL_ATTENTION_FUNCTIONS if "fewhertz" in name]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_readme_code_runs_on_a_random_qwen2_audio() -> None:
    from transformers import AutoConfig, AutoProcessor, Qwen2AudioForConditionalGeneration

    from fewhertz.pocket import path
    from fewhertz.run import request

    torch.manual_seed(0)
    model = Qwen2AudioForConditionalGeneration(AutoConfig.from_pretrained(path())).eval()  # random weights
    processor = AutoProcessor.from_pretrained(path())
    wave = torch.randn(2 * 16_000).numpy()
    inputs = request(processor, [wave, wave[:20_000]])
    names = {"model": model, "processor": processor, "inputs": inputs}
    snippet, *_ = python_blocks()
    exec(compile(snippet.replace("max_new_tokens=100", "max_new_tokens=5"), "README.md", "exec"), names)
    out, prompt = names["out"], inputs.input_ids.shape[1]
    assert torch.equal(out[:, :prompt], inputs.input_ids)
    assert out.shape[1] <= prompt + 5
    assert names["text"] == processor.batch_decode(out[:, prompt:], skip_special_tokens=True)
    worn = fewhertz.attached(model)
    assert worn is not None
    assert worn.last.after == [parse("pool@keep=1/3").num_tokens(n) for n in worn.last.before] == [17, 10]


def test_readme_method_table_is_the_one_made_from_the_code() -> None:
    table = methods_markdown()
    assert len(table.splitlines()) == 2 + len(METHODS)
    assert table in README, "run: fewhertz methods --markdown, and paste it into README.md"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_a_card(name: str) -> None:
    text = METHODS[name].__doc__ or ""
    assert re.search(r"arXiv \d{4}\.\d{5}|our own", text), f"{name}: the docstring names no source"
    assert "Cost" in text, f"{name}: the docstring says nothing of its cost"
