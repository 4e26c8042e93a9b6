"""compress(): what it takes, what it refuses, what it leaves behind. Qwen2-Audio stands for all families."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
from tiny import AUDIO, PAD, TINY, labels_of, prompts, with_cache

import fewhertz
from fewhertz.families import family_of, family_of_config
from fewhertz.layout import Trim, find_clips
from fewhertz.once import encode_once

ROWS = [[800], [301]]


@pytest.fixture(scope="module")
def model() -> Any:
    return TINY["qwen2-audio"].build()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return prompts("qwen2-audio", ROWS)


def test_second_compress_replaces_the_first(model: Any, batch: dict[str, torch.Tensor]) -> None:
    first = fewhertz.compress(model, "pool@keep=1/2")
    second = fewhertz.compress(model, "pool@keep=1/4")
    with torch.no_grad():
        model(**batch)
    assert second.last.before == [200, 75]
    assert second.last.after == [50, 19]
    assert first.last.before == []
    first.remove()  # does nothing: it is off already
    assert fewhertz.attached(model) is second
    second.remove()
    assert fewhertz.attached(model) is None
    assert "forward" not in model.__dict__
    assert "generate" not in model.__dict__


def test_a_failed_compress_leaves_the_model_alone(model: Any) -> None:
    with fewhertz.compress(model, "pool@keep=1/2") as handle:
        with pytest.raises(ValueError, match="no method named"):
            fewhertz.compress(model, "magic@keep=1/2")
        with pytest.raises(ValueError, match="nothing to compress"):
            fewhertz.compress(model, "pool@26Hz")
        assert fewhertz.attached(model) is handle


def test_encode_once_spares_the_encoder_and_changes_nothing(model: Any, batch: dict[str, torch.Tensor]) -> None:
    # one run for the site "llm", one more where scores are asked for, one for the site "encoder"
    specs = {"pool@keep=1/2": 1, "stride@keep=1/3+sizes": 1, "topk@keep=1/4": 2, "pool@keep=1/4": 2,
             "pool(site=encoder)@keep=1/2": 3}  # fmt: skip
    apart = {}
    for spec in specs:
        with fewhertz.compress(model, spec), torch.no_grad():
            apart[spec] = model(**batch).logits
    runs = []
    hook = model.model.audio_tower.register_forward_hook(lambda *_: runs.append(1))
    with encode_once(model), torch.no_grad():
        for spec, encoded in specs.items():
            before = len(runs)
            with fewhertz.compress(model, spec) as handle:
                assert torch.equal(model(**batch).logits, apart[spec])
            assert len(runs) == encoded
            assert (handle.last.spared > 0) == (before == encoded)
        other = {**batch, "input_features": batch["input_features"].clone()}  # equal, but not the same
        with fewhertz.compress(model, "pool@keep=1/2"):
            model(**other)
        assert len(runs) == 4
    runs.clear()
    with encode_once(model, scores=True), torch.no_grad():
        for spec in ("pool@keep=1/2", "topk@keep=1/4"):
            with fewhertz.compress(model, spec):
                assert torch.equal(model(**batch).logits, apart[spec])
    assert len(runs) == 1
    hook.remove()
    with fewhertz.compress(model, "pool@keep=1/2") as handle, torch.no_grad():
        model(**batch)
    assert handle.last.spared == 0


def test_budget_in_hz(model: Any, batch: dict[str, torch.Tensor]) -> None:
    with fewhertz.compress(model, "pool@5Hz") as handle, torch.no_grad():
        model(**batch)
    assert handle.last.after == [40, 15]
    assert model.config.__dict__.get("audio_compression") is None


def test_signatures_stay(model: Any) -> None:
    before = inspect.signature(model.forward), inspect.signature(model.generate)
    with fewhertz.compress(model, "pool@keep=1/2"):
        assert (inspect.signature(model.forward), inspect.signature(model.generate)) == before


@torch.no_grad()
def test_positional_arguments(model: Any, batch: dict[str, torch.Tensor]) -> None:
    rest = {name: value for name, value in batch.items() if name not in ("input_ids", "input_features")}
    with fewhertz.compress(model, "pool@keep=1/2"):
        logits = model(**batch).logits
        assert torch.equal(model(batch["input_ids"], batch["input_features"], **rest).logits, logits)
        out = model.generate(**batch, max_new_tokens=3)
        ids = batch.pop("input_ids")
        assert torch.equal(model.generate(ids, **batch, max_new_tokens=3), out)


def test_gradient_free_generate_and_training_forward(model: Any, batch: dict[str, torch.Tensor]) -> None:
    trained = copy.deepcopy(model).train()
    fewhertz.compress(trained, "pool@keep=1/3")
    trained(**batch, labels=labels_of(batch)).loss.backward()
    assert trained.base_model.audio_tower.conv1.weight.grad.abs().sum() > 0


def test_a_transformers_newer_than_tested_is_told_of_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    from fewhertz.attach import _check_version

    monkeypatch.setattr(transformers, "__version__", "5.25.0.dev0")
    _check_version.cache_clear()
    with pytest.warns(UserWarning, match=r"transformers 5\.25\.0\.dev0 is newer than 5\.24"):
        fewhertz.compress(model, "pool@keep=1/3").remove()
    fewhertz.compress(model, "pool@keep=1/3").remove()  # warnings are errors here
    _check_version.cache_clear()


# --- lengths that count the prompt


@pytest.mark.parametrize("via", ["argument", "config", "model"])
def test_max_length_means_the_users_prompt(model: Any, batch: dict[str, torch.Tensor], via: str) -> None:
    limits = {"max_length": batch["input_ids"].shape[1] + 4, "min_length": batch["input_ids"].shape[1] + 4}
    own = copy.deepcopy(model.generation_config)
    config = copy.deepcopy(own)
    config.update(**limits)
    with fewhertz.compress(model, "pool@keep=1/3"):
        if via == "argument":
            out = model.generate(**batch, **limits, do_sample=False)
        elif via == "config":
            out = model.generate(**batch, generation_config=config, do_sample=False)
            assert config.max_length == limits["max_length"]
        else:
            model.generation_config = config
            try:
                out = model.generate(**batch, do_sample=False)
            finally:
                model.generation_config = own
    assert out.shape[1] == limits["max_length"]


def test_rich_output(model: Any, batch: dict[str, torch.Tensor]) -> None:
    length = batch["input_ids"].shape[1]
    with fewhertz.compress(model, "pool@keep=1/3"):
        out = model.generate(
            **batch,
            max_new_tokens=3,
            num_beams=2,
            num_return_sequences=2,
            do_sample=False,
            return_dict_in_generate=True,
        )
    assert out.sequences.shape == (4, length + 3)
    assert torch.equal(out.sequences[:, :length], batch["input_ids"].repeat_interleave(2, dim=0))


# --- what is refused


def test_refusals(model: Any, batch: dict[str, torch.Tensor]) -> None:
    from transformers import DynamicCache

    ids, mask = batch["input_ids"], batch["attention_mask"]
    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        model(ids[:, -2:], attention_mask=mask[:, -2:], **with_cache(model, cache))
    with fewhertz.compress(model, "pool@keep=1/3"), torch.no_grad():
        with pytest.raises(ValueError, match="has 274 audio placeholders, the audio has 275 tokens"):
            model(**(batch | {"input_ids": torch.where(torch.arange(ids.shape[1]) == 10, 1, ids)}))
        swapped = batch | {k: batch[k].flip(0) for k in ("input_features", "feature_attention_mask")}
        with pytest.raises(ValueError, match="are not one run in one row"):
            model(**swapped)
        with pytest.raises(ValueError, match="leave them out"):
            model(**batch, position_ids=mask.cumsum(1) - 1)
        embeds = model.get_input_embeddings()(ids)
        with pytest.raises(ValueError, match="pass input_ids, not inputs_embeds"):
            model(**batch, inputs_embeds=embeds)
        with pytest.raises(ValueError, match="pass input_ids, not inputs_embeds"):
            model.generate(inputs_embeds=embeds, **{k: v for k, v in batch.items() if k != "input_ids"})
        with pytest.raises(ValueError, match="feature_attention_mask is missing"):
            model(**{k: v for k, v in batch.items() if k != "feature_attention_mask"})
        with pytest.raises(NotImplementedError, match="pass the whole prompt and an empty cache"):
            model(**batch, **with_cache(model, cache))
        both = mask.clone()
        both[0, -1] = 0
        with pytest.raises(ValueError, match="padded on both sides"):
            model(**(batch | {"attention_mask": both}))
        with pytest.raises(ValueError, match="pass a 2-d one"):
            model(**(batch | {"attention_mask": mask[:, None, None].bool()}))


def test_unknown_families_are_named() -> None:
    from torch import nn
    from transformers import BertConfig

    with pytest.raises(TypeError, match=r"does not know the audio model Linear; known: .*qwen3-omni.*To add one"):
        fewhertz.compress(nn.Linear(2, 2), "pool@keep=1/2")
    with pytest.raises(TypeError, match="does not know the model type 'bert'"):
        family_of_config(BertConfig())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Qwen2_5OmniForConditionalGeneration", r"compress\(model.thinker, …\)"),
        ("Qwen3OmniMoeForConditionalGeneration", r"compress\(model.thinker, …\)"),
        ("VoxtralRealtimeForConditionalGeneration", "adds audio to the embedding of every text token"),
        ("KyutaiSpeechToTextForConditionalGeneration", "adds audio to the embedding of every text token"),
        ("Gemma3nForConditionalGeneration", "embeds every token id again for each of its layers"),
        ("Gemma4ForConditionalGeneration", "embeds every token id again for each of its layers"),
        ("Phi4MultimodalForCausalLM", "encodes, projects and merges audio in one step"),
        ("VibeVoiceAsrForConditionalGeneration", "drawn with noise at each call"),
    ],
)
def test_models_that_cannot_be_compressed_are_refused_by_name(name: str, why: str) -> None:
    import transformers

    cls = getattr(transformers, name, None)
    if cls is None:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    with pytest.raises(TypeError, match=f"{name} cannot be compressed: .*{why}"):
        family_of(cls.__new__(cls))  # the class decides, no weights are needed
    with pytest.raises(TypeError, match=f"{cls.config_class.model_type} cannot be compressed"):
        family_of_config(cls.config_class())


@pytest.mark.parametrize("spec", ["pool@keep=1/3", "ward@keep=1/2+time+sizes", "conv@keep=1/2"])
@pytest.mark.parametrize("way", ["pickle", "torch.save", "deepcopy", "pickle of the handle"])
def test_a_compressed_model_is_copied_whole(spec: str, way: str, batch: dict[str, torch.Tensor]) -> None:
    model = TINY["qwen2-audio"].build()
    handle = fewhertz.compress(model, spec)
    with torch.no_grad():
        expected = model(**batch).logits
    if way == "torch.save":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    elif way == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        twin = pickle.loads(pickle.dumps(model if way == "pickle" else handle))
        twin = twin if way == "pickle" else twin.model
    theirs = fewhertz.attached(twin)
    assert theirs is not None and theirs is not handle and theirs.model is twin
    with torch.no_grad():
        assert torch.equal(twin(**batch).logits, expected)
        assert twin.generate(**batch, max_new_tokens=2).shape[1] == batch["input_ids"].shape[1] + 2
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(twin(**batch).logits, expected)  # by its own weights
    theirs.remove()
    assert fewhertz.attached(model) is handle and "forward" not in twin.__dict__


def test_calls_that_hold_nothing_or_too_little_are_refused(model: Any, batch: dict[str, torch.Tensor]) -> None:
    empty = {name: value[:0] for name, value in batch.items()}
    labels = labels_of(batch)
    with fewhertz.compress(model, "pool@keep=1/3"):
        for call in (model, model.generate):
            with pytest.raises(ValueError, match="the batch is empty"):
                call(**empty)
        for short in (labels[:, :50], labels[:1], torch.cat([labels, labels], dim=1)):
            with pytest.raises(ValueError, match=r"labels .*: they are \(.*\), input_ids \(2, 209\)"):
                model(**batch, labels=short)


def test_a_model_without_numbers_is_refused(batch: dict[str, torch.Tensor]) -> None:
    model = TINY["qwen2-audio"].build().to("meta")
    fewhertz.compress(model, "conv@keep=1/3")
    for inputs in (batch, {name: value.to("meta") for name, value in batch.items()}):
        for call in (model, model.generate):
            with pytest.raises(ValueError, match="on the meta device"):
                call(**inputs)


def test_data_parallel_is_refused_by_name(model: Any) -> None:
    with pytest.raises(TypeError, match="DataParallel"):
        fewhertz.compress(torch.nn.DataParallel(model), "pool@keep=1/3")


# --- layout


def placeholders(*rows: str) -> torch.Tensor:
    return torch.tensor([[c == "A" for c in row] for row in rows])


def spans(*args: Any) -> list[tuple[int, int, int, int, int]]:
    return [(c.row, c.start, c.n, c.first, c.last) for c in find_clips(*args)]


def test_find_clips() -> None:
    prompt = placeholders(".AAAAA.AA", "AAAA.AAA.")
    # full, short; short; full; short
    assert spans(prompt, [3, 2, 2, 4, 3], 3) == [(0, 1, 5, 0, 2), (0, 7, 2, 2, 3), (1, 0, 4, 3, 4), (1, 5, 3, 4, 5)]
    # no window continues another
    assert spans(prompt, [3, 2, 2, 4, 3], None)[:2] == [(0, 1, 3, 0, 1), (0, 4, 2, 1, 2)]
    # a short window ends its clip, even where the next one follows at once
    assert spans(placeholders("AAAAA"), [2, 3], 3) == [(0, 0, 2, 0, 1), (0, 2, 3, 1, 2)]
    # a full window, text, and another clip
    assert spans(placeholders("AAA.AA"), [3, 2], 3) == [(0, 0, 3, 0, 1), (0, 4, 2, 1, 2)]
    # windows without a token, alone and at the end of an audio
    assert spans(placeholders("AAA.AA"), [3, 0, 0, 2], 3) == [(0, 0, 3, 0, 1), (0, 4, 2, 3, 4)]
    assert find_clips(placeholders("..."), [0], 3) == []
    # a full window ends a row, the next row begins with audio
    assert spans(placeholders("AA", "AA"), [2, 2], 2) == [(0, 0, 2, 0, 1), (1, 0, 2, 1, 2)]


@pytest.mark.parametrize("side", ["left", "right", "none"])
def test_trim(side: str) -> None:
    ids = torch.tensor([[1, AUDIO, AUDIO, 2, PAD], [3, AUDIO, AUDIO, AUDIO, 4]])
    mask = (ids != PAD).long()
    if side == "left":
        ids[0], mask[0] = ids[0].roll(1), mask[0].roll(1)
    dropped = torch.zeros_like(ids, dtype=torch.bool)
    dropped[1, 2:4] = True
    if side == "none":
        ids, mask, dropped = ids[1:], None, dropped[1:]
    trim = Trim.plan(dropped, mask)
    out = trim.apply(ids, PAD).tolist()
    if side == "none":
        assert out == [[3, AUDIO, 4]]
    else:
        short = [PAD, 3, AUDIO, 4] if side == "left" else [3, AUDIO, 4, PAD]
        assert out == [[1, AUDIO, AUDIO, 2], short]
        assert mask is not None
        assert trim.apply(mask, 0).tolist() == [[1, 1, 1, 1], [int(i != PAD) for i in short]]


def test_an_unmasked_batch_gets_a_mask_once_rows_differ(model: Any) -> None:
    batch = prompts("qwen2-audio", [[400], [400, 203]])
    ids = batch["input_ids"].clone()
    ids[batch["attention_mask"] == 0] = 5  # text instead of padding: rows of equal length, unequal audio
    call = {k: v for k, v in batch.items() if k != "attention_mask"} | {"input_ids": ids}
    with fewhertz.compress(model, "pool@keep=1/3"), torch.no_grad():
        logits = model(**call).logits
        alone = model(
            input_ids=ids[1:], **{k: batch[k][1:] for k in ("input_features", "feature_attention_mask")}
        ).logits
    assert logits.shape[1] > alone.shape[1]
    torch.testing.assert_close(logits[1, : alone.shape[1]], alone[0], atol=1e-4, rtol=0)


def test_audio_too_short_for_a_token(model: Any) -> None:
    batch = prompts("qwen2-audio", [[1]])
    assert AUDIO not in batch["input_ids"]
    with (
        fewhertz.compress(model, "pool@keep=1/3"),
        pytest.raises(ValueError, match="too short for a single audio token"),
    ):
        model(**batch)


def test_a_padded_batch_without_its_mask_is_refused() -> None:
    model = TINY["qwen2-audio"].build()
    batch = prompts("qwen2-audio", [[400], [200]])
    del batch["attention_mask"]
    with fewhertz.compress(model, "pool@keep=1/2"), pytest.raises(ValueError, match="attention_mask"):
        model.generate(**batch, max_new_tokens=2, do_sample=False)
