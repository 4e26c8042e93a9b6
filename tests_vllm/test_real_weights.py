"""The plugin on real weights: pocket, a model of Qwen2-Audio's class."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import reference
from engines import STEPS, answers, distance, engine, logprobs, rows
from safetensors.torch import load_file, save_file

import fewhertz
from fewhertz import parse
from fewhertz.checkpoint import LEARNED, open_checkpoint, save_compressed
from fewhertz.methods.conv import Conv
from fewhertz.pocket import path

SPECS = [
    f"{name}@keep={k}" for name in ("pool", "stride", "segment", "ltbm", "segmentwise") for k in ("1", "1/2", "1/4")
]
NEAR = 1e-4
POCKET = Path(path())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `fewhertz compress` writes it."""
    return save_compressed("pocket", "pool@keep=1/3", tmp_path_factory.mktemp("models") / "third")


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> Iterator[Any]:
    with engine(checkpoint, limit_mm_per_prompt={"audio": 2}, enable_mm_embeds=True) as made:
        yield made


def prompt(processor: Any, clips: int) -> str:
    content = [{"type": "audio"}] * clips + [{"type": "text", "text": "Transcribe the speech."}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )


def ask(processor: Any, waves: list[Any], spec: str | None = None) -> dict[str, Any]:
    made = {"prompt": prompt(processor, len(waves)), "multi_modal_data": {"audio": [(w, 16000) for w in waves]}}
    return made | ({"mm_processor_kwargs": {"audio_compression": spec}} if spec else {})


@cache
def pocket() -> Any:
    return fewhertz.load("pocket")[0]


def wanted(processor: Any, waves: list[Any], spec: str, model: Any = None, steps: int = STEPS) -> Any:
    """What transformers says, and how long the compressed prompt is."""
    net = pocket() if model is None else model
    inputs = processor(text=prompt(processor, len(waves)), audio=waves, sampling_rate=16000, return_tensors="pt")
    tokens, logs = reference(net, dict(inputs), spec, steps)
    counts = [round(int(n) / 4) for n in inputs["feature_attention_mask"].sum(1)]
    length = inputs["input_ids"].shape[1] - sum(n - parse(spec).num_tokens(n) for n in counts)
    return tokens, logs, length


def test_logprobs_by_request(llm: Any, processor: Any, waves: list[Any], parity: list[dict[str, Any]]) -> None:
    """Methods, keeps, one clip and two, in one batch: the same clips again and again, so that caches are asked."""
    cases = [(clips, spec) for clips in (waves[:1], waves[1:]) for spec in SPECS]
    got = answers(llm, [ask(processor, clips, spec) for clips, spec in cases])
    far: dict[str, list[float]] = {spec: [] for spec in SPECS}
    for (clips, spec), answer in zip(cases, got, strict=True):
        tokens, logs, length = wanted(processor, clips, spec)
        assert abs(len(answer.prompt_token_ids) - length) <= len(clips), spec
        far[spec].append(distance(answer, tokens, logs))
    parity += rows("pocket", far)
    assert max(map(max, far.values())) < NEAR


def test_the_checkpoint_says_which(llm: Any, processor: Any, waves: list[Any]) -> None:
    (plain,) = answers(llm, [ask(processor, waves[:1])], steps=20)
    assert distance(plain, *wanted(processor, waves[:1], "pool@keep=1/3", steps=20)[:2]) < NEAR


def test_caches_keep_methods_apart(llm: Any, processor: Any, waves: list[Any]) -> None:
    clip = np.concatenate([*waves] * 4)[: 28 * 16000]  # 350 tokens at 1/2: pages of the cache hold 128
    specs = ["stride@keep=1/2", "segment@keep=1/2", "stride@keep=2/3", "stride@keep=0.5"]
    first = [answers(llm, [ask(processor, [clip], spec)])[0] for spec in specs]
    again = answers(llm, [ask(processor, [clip], spec) for spec in specs])
    assert [one.num_cached_tokens for one in first[:3]] == [0, 0, 0]
    assert first[3].num_cached_tokens >= 128  # 0.5 is 1/2: the same entries
    assert all(one.num_cached_tokens >= 128 for one in again)
    for one, other in zip(first, again, strict=True):
        assert (logprobs(one) - logprobs(other)).abs().max() < NEAR
    assert (logprobs(first[0]) - logprobs(first[1])).abs().max() > 0.01


def test_embeddings_stay_as_they_are(llm: Any, processor: Any, waves: list[Any]) -> None:
    """What `fewhertz embed` compressed is not compressed again."""
    width = open_checkpoint("pocket").config.text_config.hidden_size
    request = {"prompt": prompt(processor, 1), "multi_modal_data": {"audio": [torch.randn(33, width)]}}
    whole = len(answers(llm, [ask(processor, waves[:1], "pool@keep=1")])[0].prompt_token_ids)
    n = round(len(waves[0]) / 640)
    (answer,) = answers(llm, [request])
    assert abs(len(answer.prompt_token_ids) - (whole - n + 33)) <= 1


def test_one_line_of_the_log(llm: Any, processor: Any, waves: list[Any]) -> None:
    said: list[str] = []
    logger, handler = logging.getLogger("vllm.fewhertz"), logging.Handler(logging.INFO)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        answers(llm, [ask(processor, waves[:1], "evs@keep=1/3"), ask(processor, waves[1:2], "evs@keep=1/3")])
    finally:
        logger.removeHandler(handler)
    assert said == ["audio tokens 72 → 24 (evs@keep=1/3)"]


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("pool@keep=0", "in \\(0, 1\\]"),
        ("pool@keep=2", "in \\(0, 1\\]"),
        ("pool@keep=1/0", "number or a fraction"),
        ("nothing@keep=1/2", "no method named 'nothing'"),
        ("unseg", "unseg cannot be served.*segment"),
        ("affinity", "affinity cannot be served.*segment"),
        ("pool@keep=1/2+time", "\\+time"),
        ("pool@keep=1/2+sizes", "\\+sizes"),
        ("pool(site=encoder)@keep=1/2", "site=encoder"),
        ("conv@keep=1/2", "conv is learned, and this model carries no weights"),
        ("pool@99Hz", "nothing to compress"),
        ("pool" * 100, "is a spec such as"),
        (0.25, "is a spec such as"),
        ({"method": "pool@keep=1/2"}, "is a spec such as"),
    ],
)
def test_a_request_is_refused_by_name(llm: Any, processor: Any, waves: list[Any], spec: object, complaint: str) -> None:
    request = ask(processor, waves[:1]) | {"mm_processor_kwargs": {"audio_compression": spec}}
    with pytest.raises(ValueError, match=complaint):
        answers(llm, [request])


def test_other_refusals(llm: Any, processor: Any, waves: list[Any]) -> None:
    scoped = {"mm_processor_kwargs": {"audio_kwargs": {"audio_compression": "pool@keep=1/2"}}}
    with pytest.raises(ValueError, match="beside audio_kwargs"):
        answers(llm, [ask(processor, waves[:1]) | scoped])
    with pytest.raises(ValueError, match=r"35\.0 s long, qwen2-audio reads 30 s"):
        answers(llm, [ask(processor, [torch.zeros(35 * 16000).numpy()])])
    assert answers(llm, [ask(processor, waves[:1])])  # and it lives on


def test_chunked_prefill(checkpoint: Path, processor: Any, waves: list[Any]) -> None:
    """A prompt read in pieces of 64 tokens, which end within clips."""
    with engine(checkpoint, limit_mm_per_prompt={"audio": 2}, max_num_batched_tokens=64, max_num_seqs=4) as llm:
        got = answers(llm, [ask(processor, waves[:2], spec) for spec in ("pool@keep=1/2", "segmentwise@keep=1")])
    for spec, answer in zip(("pool@keep=1/2", "segmentwise@keep=1"), got, strict=True):
        assert len(answer.prompt_token_ids) > 64
        assert distance(answer, *wanted(processor, waves[:2], spec)[:2]) < NEAR


def test_a_learned_method(tmp_path: Path, processor: Any, waves: list[Any]) -> None:
    """The weights of conv come from the checkpoint, for any keep; without them the model is not served."""
    folder = save_compressed("pocket", "conv@keep=1/2", tmp_path / "conv")
    with pytest.raises(Exception, match="conv is learned, and its weights are missing"), engine(folder):
        pass
    kernel = Conv(keep="1/2").build(open_checkpoint("pocket").config.text_config.hidden_size)
    generator = torch.Generator().manual_seed(0)
    for weight in kernel.parameters():
        torch.nn.init.normal_(weight, std=0.05, generator=generator)
    save_file(kernel.state_dict(), folder / LEARNED)
    model = fewhertz.load(folder)[0]
    with engine(folder) as llm:
        got = answers(llm, [ask(processor, waves[:1]), ask(processor, waves[:1], "conv@keep=1/4")])
        with pytest.raises(ValueError, match=r"carries no weights of conv\(taps=5\)"):
            answers(llm, [ask(processor, waves[:1], "conv(taps=5)@keep=1/4")])
    for spec, answer in zip(("conv@keep=1/2", "conv@keep=1/4"), got, strict=True):
        tokens, logs, _ = wanted(processor, waves[:1], spec, model)
        assert distance(answer, tokens, logs) < NEAR
        plain = wanted(processor, waves[:1], spec.replace("conv", "pool"))[1]
        assert (logs[0] - plain[0]).abs().max() > 0.01


def published_names(folder: Path) -> Path:
    """The files of pocket with the names of weights that stock vLLM knows."""
    shutil.copytree(POCKET, folder, ignore=shutil.ignore_patterns("samples", "__pycache__", "*.py"))
    weights = load_file(POCKET / "model.safetensors")

    def name(new: str) -> str:
        if new.startswith("lm_head."):
            return f"language_model.{new}"
        return new.replace("model.language_model.", "model.language_model.model.").removeprefix("model.")

    save_file({name(key): value for key, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


ALONE = """
import json, sys
sys.path[:0] = sys.argv[1].split(":")
import conftest
from engines import answers, engine, logprobs
from fewhertz import audio
from fewhertz.checkpoint import load_processor, open_checkpoint
from test_real_weights import POCKET, ask
options = json.loads(sys.argv[3])
wave = audio.load(sorted((POCKET / "samples").glob("*.flac"))[0], 16000)
processor = load_processor(open_checkpoint("pocket"))
made = [ask(processor, [wave], spec) for spec in options.pop("specs")]
with engine(sys.argv[2], **options) as llm:
    for one in made:
        answer, = answers(llm, [one], steps=12)
        ids = answer.prompt_token_ids
        print("ANSWER", json.dumps([ids, list(answer.outputs[0].token_ids), logprobs(answer).tolist()]))
"""


def alone(model: Path, environment: dict[str, str], **options: Any) -> list[Any]:
    """The answers of an engine in a process of its own, one after the other."""
    places = ":".join(str(Path(__file__).parents[i] / name) for i, name in ((0, ""), (1, "tests")))
    done = subprocess.run(
        [sys.executable, "-c", ALONE, places, str(model), json.dumps(options)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert done.returncode == 0 and said, done.stderr[-3000:]
    return said


def test_without_a_method_nothing_changes(tmp_path: Path) -> None:
    """The plugin installed and nothing asked of it: to the bit what vLLM says without it."""
    model = published_names(tmp_path / "pocket")
    (stock,) = alone(model, {"VLLM_PLUGINS": ""}, specs=[None])
    plain, short = alone(model, {}, specs=[None, "pool@keep=1/3"])
    assert plain == stock
    assert len(short[0]) < len(stock[0])  # though the plugin was there
