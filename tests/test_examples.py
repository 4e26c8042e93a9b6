"""The examples run as they stand, on pocket and its clips."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewhertz.pocket import path

ROOT = Path(__file__).parents[1]
SAMPLES = Path(path()) / "samples"


def run(name: str, *args: object) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *map(str, args)],
        capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A manifest of six bundled clips."""
    lines = (SAMPLES / "samples.jsonl").read_text("utf-8").splitlines()[:6]
    for file in SAMPLES.glob("*.flac"):
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "clips.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return tmp_path / "clips.jsonl"


def test_compress() -> None:
    lines = run("compress.py", SAMPLES / "01.flac").splitlines()
    assert lines[0].startswith("none: ") and lines[2].startswith("ward@keep=1/2+time+sizes: ")
    assert "(100 %)" in lines[1] and "with +time+sizes" in lines[3]


def test_evaluate(few: Path, tmp_path: Path) -> None:
    shown = run("evaluate.py", few, tmp_path / "out")
    assert "ward@tolerance=0.3+time+sizes" in shown and "best at half" in shown
    assert (tmp_path / "out" / "curve.png").stat().st_size > 10_000
    assert "ward@tolerance=0.3+time+sizes" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_fine_tune(few: Path, tmp_path: Path) -> None:
    shown = run("fine_tune.py", few, tmp_path / "out")
    first, last = (float(part) for part in shown.split("loss ")[-1].split("→"))
    assert last < first
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_every_example_is_run() -> None:
    there = {file.name for file in (ROOT / "examples").glob("*.py")} - {"my_method.py"}  # in test_contract
    assert there == {"compress.py", "evaluate.py", "fine_tune.py"}
