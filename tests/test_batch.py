"""`fewhertz batch` where Ray or vLLM is missing. What it does where they are: tests_vllm/test_batch.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fewhertz.cli import app


def refused(out: Path) -> str:
    done = CliRunner().invoke(app, ["batch", "clips.jsonl", "--model", "pocket", "--out", str(out)])
    assert done.exit_code == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert not out.exists()
    return done.stderr


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "vllm" else find(name, *a))
    assert "vLLM is not installed" in refused(tmp_path / "out")
    monkeypatch.setattr("fewhertz.batch.check_version", lambda: None)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'fewhertz[batch]'" in refused(tmp_path / "out")


def test_help() -> None:
    done = CliRunner().invoke(app, ["batch", "--help"])
    assert done.exit_code == 0 and "fewhertz batch" in done.stdout.split("Show this message", 1)[1]
