"""vLLM engines in this process, servers in their own, and how answers are compared with transformers'."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch

UP = 240.0  # seconds that a server may take to start
STEPS = 4  # new tokens that are compared, each by the log probabilities of all tokens


@contextmanager
def engine(model: str | Path, method: str | None = None, **options: Any) -> Iterator[Any]:
    """An engine; `method` by hf_overrides."""
    from vllm import LLM

    over = {"audio_compression": {"method": method}} if method else {}
    usual = {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 200_000_000}
    options = usual | {"max_model_len": 2048, "max_num_seqs": 8} | options
    llm = LLM(str(model), hf_overrides=over, max_logprobs=-1, **options)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


@contextmanager
def server(model: str, log: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A running server of `fewhertz serve`; gives its address and its process. What it says goes to `log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("fewhertz")), "serve", model, *options]
    address = ["--host", "127.0.0.1", "--port", str(port)]
    # the engine in a process of its own, as with any user
    environment = {k: v for k, v in os.environ.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*command, *address], stdout=said, stderr=said, env=environment, start_new_session=True
        )
        try:
            end = time.monotonic() + UP
            while True:
                assert process.poll() is None and time.monotonic() < end, log.read_text()[-4000:]
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1", process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # its workers too
                process.wait()


def answers(llm: Any, prompts: list[dict[str, Any]], steps: int = STEPS) -> list[Any]:
    """Greedy answers with the log probabilities of all tokens."""
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0, max_tokens=steps, logprobs=-1, ignore_eos=True, detokenize=False)
    return llm.generate(prompts, greedy, use_tqdm=False)


def logprobs(answer: Any) -> torch.Tensor:
    """Log probabilities, (steps, vocabulary)."""
    rows = answer.outputs[0].logprobs
    return torch.tensor([[row[i].logprob for i in range(len(row))] for row in rows])


def distance(answer: Any, tokens: list[int], wanted: torch.Tensor) -> float:
    """Largest difference of log probabilities to a reference whose greedy tokens are the same."""
    assert list(answer.outputs[0].token_ids) == tokens
    return float((logprobs(answer) - wanted).abs().max())


def rows(family: str, far: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Rows of the table of differences, from those of each prompt by method."""
    return [
        {"family": family, "method": spec, "prompts": len(each), "difference": max(each)} for spec, each in far.items()
    ]
