"""The benches of bench/: imported, and run as their users run them."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    """A bench as a module."""
    return importlib.import_module(f"bench.{name}")


def quick(name: str, out: Path, *flags: str) -> tuple[subprocess.CompletedProcess, dict[str, Any]]:
    """A run that shows that it runs, and its result."""
    run = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", "--quick", "--device=cpu", *flags, f"--out={out}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run, json.loads(out.read_text(encoding="utf-8"))
