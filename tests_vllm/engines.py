"""vLLM engines in this process, and how their answers are compared with transformers'."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

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
