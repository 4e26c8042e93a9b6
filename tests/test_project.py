"""What a user meets first: public names, a light import, the README's own code and table."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
        "Results",
        "Segment",
        "attached",
        "compress",
        "evaluate",
        "load",
        "parse",
        "train",
        "transcribe",
        "tune",
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


def test_readme_code_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """All of it, on pocket in place of a 7B model."""
    from fewhertz.pocket import path

    monkeypatch.chdir(tmp_path)
    shutil.copy(path() / "samples" / "01.flac", "talk.flac")
    snippet, *_ = python_blocks()
    assert '"Qwen/Qwen2-Audio-7B-Instruct"' in snippet
    names: dict[str, Any] = {}
    exec(compile(snippet.replace('"Qwen/Qwen2-Audio-7B-Instruct"', repr(str(path()))), "README.md", "exec"), names)
    attached = fewhertz.attached(names["model"])
    assert attached is not None and attached.last is not None
    spec = "ward@keep=1/2+time+sizes"
    assert spec in snippet and attached.last.after == [parse(spec).num_tokens(n) for n in attached.last.before]
    prompt = names["inputs"].input_ids.shape[1]
    said = names["processor"].batch_decode(names["out"][:, prompt:], skip_special_tokens=True)[0]
    assert said and capsys.readouterr().out == said + "\n"


def test_the_method_table_is_the_one_made_from_the_code() -> None:
    table = methods_markdown()
    assert len(table.splitlines()) == 2 + len(METHODS)
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert table in page, "run: fewhertz methods --markdown, and paste it into docs/methods.md"
    assert f"**{len(METHODS)} methods**" in README


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    words = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE).split()
    assert len(words) <= 900
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_a_card(name: str) -> None:
    text = METHODS[name].__doc__ or ""
    assert re.search(r"arXiv \d{4}\.\d{5}|our own", text), f"{name}: the docstring names no source"
    assert "Cost" in text, f"{name}: the docstring says nothing of its cost"


def test_the_reference_pages_are_made_from_the_code() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None and spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    for name, page in (("cli.md", reference.cli()), ("api.md", reference.api())):
        assert page == (ROOT / "docs" / name).read_text("utf-8"), "run: python docs/reference.py"
