"""What the tests under vLLM share. They run in .venv-vllm: make test-vllm."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# the engine in this process: it starts in seconds, and its logs and errors are here. Before vLLM is imported
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["VLLM_NO_USAGE_STATS"] = "1"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
for folder in ("tests", "tests/cli", "tests/families"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))  # tiny.py


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity", type=Path, help="write the largest differences of log probabilities to this file")


@pytest.fixture(scope="session")
def processor() -> Any:
    """Of pocket."""
    from fewhertz.checkpoint import load_processor, open_checkpoint

    return load_processor(open_checkpoint("pocket"))


@pytest.fixture(scope="session")
def waves() -> list[Any]:
    """Speech of three speakers' turns, mono at 16 kHz."""
    from fewhertz import audio
    from fewhertz.pocket import path

    return [audio.load(file, 16000) for file in sorted((path() / "samples").glob("*.flac"))[:3]]


@pytest.fixture(scope="session")
def parity(request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    """Rows of the table of differences: family, method, prompts, difference."""
    rows: list[dict[str, Any]] = []
    yield rows
    if (file := request.config.getoption("--parity")) is not None:
        import torch
        import transformers
        import vllm

        what = "largest difference of log probabilities, vLLM's to transformers', all tokens of four greedy steps"
        versions = {one.__name__: one.__version__ for one in (vllm, transformers, torch)}
        made = {"what": what, "device": "cpu", "dtype": "float32", "versions": versions, "rows": rows}
        file.write_text(json.dumps(made, indent=1) + "\n", "utf-8")
