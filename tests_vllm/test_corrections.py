"""+time and +sizes under vLLM: log probabilities are those of transformers, wherever a clip's tokens come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import LAYOUTS, reference
from engines import STEPS, answers, distance, engine, logprobs, rows
from PIL import Image
from test_parity import NEAR, clips_of, request, runs
from test_real_weights import POCKET, ask, pocket, prompt, wanted

from fewhertz.method import parse

CORRECTIONS = ["+time", "+sizes", "+time+sizes"]
BEST = "ward@keep=1/3+time+sizes"
NAMES = ["pool", "ward", "segment", "ltbm", "segmentwise"]


@pytest.fixture(scope="module")
def llm() -> Iterator[Any]:
    with engine(POCKET, BEST, limit_mm_per_prompt={"audio": 2}, enable_mm_embeds=True) as made:
        yield made


def test_pocket(llm: Any, processor: Any, waves: list[Any], parity: list[dict[str, Any]]) -> None:
    """Real weights: methods, keeps and corrections side by side in one batch, one clip and two a prompt."""
    specs = [f"{name}@keep={keep}{suffix}" for name in NAMES for keep in ("1/2", "1/4") for suffix in CORRECTIONS]
    specs += [f"ward@keep=1{suffix}" for suffix in ("", *CORRECTIONS)] + ["ward@keep=1/4", "pool@keep=1/2"]
    cases = [(clips, spec) for clips in (waves[:1], waves[1:]) for spec in specs]
    got = answers(llm, [ask(processor, clips, spec) for clips, spec in cases])
    far: dict[str, list[float]] = {spec: [] for spec in specs}
    for (clips, spec), answer in zip(cases, got, strict=True):
        far[spec].append(distance(answer, *wanted(processor, clips, spec)[:2]))
    parity += rows("pocket", far)
    assert max(map(max, far.values())) < NEAR
    said = {spec: logprobs(answer) for (_, spec), answer in zip(cases[: len(specs)], got, strict=False)}
    for name in ("ward@keep=1/4", "pool@keep=1/2"):  # each half says something
        for one, other in (("", "+time"), ("", "+sizes"), ("+time", "+time+sizes"), ("+sizes", "+time+sizes")):
            assert (said[name + one] - said[name + other]).abs().max() > 100 * NEAR, (name, one, other)
    for suffix in CORRECTIONS:  # where nothing is merged, nothing changes
        assert (said["ward@keep=1"] - said[f"ward@keep=1{suffix}"]).abs().max() < NEAR


def test_caches(llm: Any, processor: Any, waves: list[Any]) -> None:
    """Keys of the prefix cache hold sizes and times, and are shared by no other corrections."""
    clip = np.concatenate([*waves] * 4)[: 28 * 16000]  # 350 tokens at 1/2: pages of the cache hold 128
    specs = ["ward@keep=1/2" + suffix for suffix in ("", *CORRECTIONS)]
    first = [answers(llm, [ask(processor, [clip], spec)])[0] for spec in specs]
    again = answers(llm, [ask(processor, [clip], spec) for spec in specs])
    assert [one.num_cached_tokens for one in first] == [0] * len(specs)
    assert all(one.num_cached_tokens >= 128 for one in again)
    for spec, *both in zip(specs, first, again, strict=True):
        right = wanted(processor, [clip], spec)[:2]
        for one in both:
            assert distance(one, *right) < NEAR, spec


def test_nothing_to_correct(llm: Any, processor: Any) -> None:
    """Embeddings that a request brings, and no audio at all: as they are, one position each."""
    model = pocket()
    audio = torch.randn(33, model.config.get_text_config().hidden_size)
    ids = processor.tokenizer(prompt(processor, 1), return_tensors="pt")["input_ids"][0]
    place = ids.tolist().index(processor.tokenizer.convert_tokens_to_ids("<|AUDIO|>"))
    with torch.no_grad():
        embeds = model.get_input_embeddings()(ids)
    for brought, inputs in (
        (audio, torch.cat([embeds[:place], audio, embeds[place + 1 :]])),
        (None, torch.cat([embeds[:place], embeds[place + 1 :]])),
    ):
        asked: dict[str, Any] = {"prompt_token_ids": ids.tolist(), "multi_modal_data": {"audio": [brought]}}
        if brought is None:
            asked = {"prompt_token_ids": [i for k, i in enumerate(ids.tolist()) if k != place]}
        alone = {"inputs_embeds": inputs[None], "attention_mask": torch.ones(1, len(inputs), dtype=torch.long)}
        (answer,) = answers(llm, [asked])
        assert len(answer.prompt_token_ids) == len(inputs)
        assert distance(answer, *reference(model, alone, None, STEPS)) < NEAR


@pytest.mark.parametrize("suffix", ["+time", "+sizes"])
def test_one_half(suffix: str, processor: Any, waves: list[Any]) -> None:
    """An engine that is made for one of the two, by its method, and refuses the other."""
    other = {"+time": "+sizes", "+sizes": "+time"}[suffix]
    with engine(POCKET, f"ward@keep=1/3{suffix}", limit_mm_per_prompt={"audio": 2}) as llm:
        specs = [None, f"pool@keep=1/4{suffix}", "ltbm@keep=1/2"]
        got = answers(llm, [ask(processor, waves[:2], spec) for spec in specs])
        with pytest.raises(ValueError, match=rf"has no \{other}; start the engine with .*@keep=1/2\{other}"):
            answers(llm, [ask(processor, waves[:1], f"ward@keep=1/2{other}")])
    for spec, answer in zip(specs, got, strict=True):
        assert distance(answer, *wanted(processor, waves[:2], spec or f"ward@keep=1/3{suffix}")[:2]) < NEAR, spec


@pytest.mark.parametrize("family", LAYOUTS)
def test_family(family: str, tmp_path: Path, parity: list[dict[str, Any]]) -> None:
    """Every family: one clip, two, one beyond a window, and beside an image, whose three axes differ."""
    layout = LAYOUTS[family]
    omni = family.endswith("omni")
    model = checkpoints.write(family, tmp_path)
    made = checkpoints.processor_of(family)
    clips = clips_of(layout)
    names = ["pool", "ward"] + ["segmentwise"] * layout.scores
    specs = [f"{name}@keep={keep}+time+sizes" for name in names for keep in ("1", "1/2", "1/4")]
    specs += ["ward@keep=1/4+time", "ward@keep=1/4+sizes", "ward@keep=1/4"]
    cases: list[tuple[list[Any], str, Any]] = [(waves, spec, None) for waves in clips for spec in specs]
    if omni:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 24, 3), dtype=np.uint8))
        cases += [(clips[1], spec, image) for spec in specs]
    limits = {"audio": layout.clips} | ({"image": 1, "video": 0} if omni else {})
    with engine(tmp_path, BEST, limit_mm_per_prompt=limits) as llm:
        got = answers(llm, [seen(family, made, *case) for case in cases])
    far: dict[str, list[float]] = {spec: [] for spec in specs}
    for (waves, spec, image), answer in zip(cases, got, strict=True):
        inputs = checkpoints.inputs_of(family, made, waves, image)
        tokens, logs = reference(model, inputs, spec, STEPS)
        dropped = sum(n - parse(spec).num_tokens(n) for n in runs(inputs))
        assert len(answer.prompt_token_ids) == inputs["input_ids"].shape[1] - dropped, spec
        far[spec].append(distance(answer, tokens, logs))
    parity += rows(family, far)
    assert max(map(max, far.values())) < NEAR, far
    for one, other in ((-1, -2), (-1, -3), (-2, -3)):  # plain, +sizes, +time
        assert (logprobs(got[one]) - logprobs(got[other])).abs().max() > 10 * NEAR, (one, other)


def seen(family: str, made: Any, waves: list[Any], spec: str, image: Any) -> dict[str, Any]:
    """A prompt with its clips, and an image before them."""
    asked = request(family, made, waves, spec)
    if image is None:
        return asked
    asked["prompt_token_ids"] = made.tokenizer(checkpoints.text_of(family, len(waves), image=True))["input_ids"]
    asked["multi_modal_data"]["image"] = image
    return asked


def test_chunked_prefill(processor: Any, waves: list[Any]) -> None:
    """Prompts read in pieces of 64 tokens, which end within clips."""
    specs = ["ward@keep=1/2+time+sizes", "segmentwise@keep=1+time", "pool@keep=1/2"]
    with engine(POCKET, BEST, limit_mm_per_prompt={"audio": 2}, max_num_batched_tokens=64, max_num_seqs=4) as llm:
        got = answers(llm, [ask(processor, waves[:2], spec) for spec in specs])
    for spec, answer in zip(specs, got, strict=True):
        assert len(answer.prompt_token_ids) > 64
        assert distance(answer, *wanted(processor, waves[:2], spec)[:2]) < NEAR, spec


def test_compiled(processor: Any, waves: list[Any]) -> None:
    """As `fewhertz serve` runs without --enforce-eager."""
    specs = [BEST, "pool@keep=1/4+time", "segmentwise@keep=1/2"]
    with engine(POCKET, BEST, enforce_eager=False, limit_mm_per_prompt={"audio": 2}) as llm:
        assert llm.llm_engine.vllm_config.compilation_config.mode
        got = answers(llm, [ask(processor, waves[:2], spec) for spec in specs])
    for spec, answer in zip(specs, got, strict=True):
        assert distance(answer, *wanted(processor, waves[:2], spec)[:2]) < NEAR, spec


def test_bfloat16(processor: Any, waves: list[Any]) -> None:
    """Corrections are not rounded with the weights: with or without, bfloat16 is as far from float32."""
    specs = ["ward@keep=1/4" + suffix for suffix in ("", *CORRECTIONS)]
    with engine(POCKET, BEST, dtype="bfloat16") as llm:
        got = [logprobs(one)[0] for one in answers(llm, [ask(processor, waves[:1], spec) for spec in specs])]
    exact = [wanted(processor, waves[:1], spec)[1][0] for spec in specs]
    off = [float((one - right).abs().mean()) for one, right in zip(got, exact, strict=True)]
    apart = [[float((one - other).abs().mean()) for other in exact if other is not one] for one in exact]
    assert all(own < min(others) / 3 for own, others in zip(off, apart, strict=True)), (off, apart)


def test_preemption(processor: Any, waves: list[Any]) -> None:
    """A request whose keys were dropped for another's, and are made again with what it had generated."""
    clip = np.concatenate([*waves] * 4)[: 27 * 16000]  # prompts of three blocks, which grow into a fourth
    steps = 60
    options = {"num_gpu_blocks_override": 8, "max_model_len": 640, "disable_log_stats": False}
    with engine(POCKET, BEST, enable_prefix_caching=False, **options) as llm:
        specs = ["ward@keep=1/2+time+sizes", "segment@keep=1/2+time+sizes"]
        got = answers(llm, [ask(processor, [clip], spec) for spec in specs], steps)
        dropped = sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions")
    assert dropped > 0
    for spec, answer in zip(specs, got, strict=True):
        assert distance(answer, *wanted(processor, [clip], spec, steps=steps)[:2]) < NEAR, spec


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"pipeline_parallel_size": 2, "distributed_executor_backend": "mp"}, "--pipeline-parallel-size"),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}, "--speculative-config"),
    ],
)
def test_settings_that_are_refused(options: dict[str, Any], complaint: str) -> None:
    from vllm import EngineArgs

    over = {"audio_compression": {"method": BEST}}
    with pytest.raises(ValueError, match=f"time.sizes cannot be served with {complaint}"):
        EngineArgs(str(POCKET), hf_overrides=over, **options).create_engine_config()
