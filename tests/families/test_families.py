"""Every family, as a tiny random model of the real class: exact where nothing is merged, right where something is.

Real processors (feature extractor and an in-memory tokenizer) lay out the audio of Qwen2-Audio, Audio Flamingo 3,
Music Flamingo, GLM-ASR, OmniASR and Qwen3-ASR in `test_real_processor`; everywhere else, and for Voxtral (its processor
needs mistral-common), Granite Speech (torchaudio) and the Omni models (image and video processors), `tiny.prompts`
follows their source.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version
from tiny import AUDIO, AUDIO_BOS, AUDIO_EOS, MELS, PAD, TINY, VIDEO, WINDOW, granite_speech, labels_of, prompts
from torch import Tensor

import fewhertz
import fewhertz.families
from fewhertz.checkpoint import Mismatch
from fewhertz.families import family_of_config
from fewhertz.families.base import FAMILIES, Family

# peft asks transformers for a name that transformers has renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

FAMILY = {kind.name: kind for kind in FAMILIES}
OMNI = ["qwen2.5-omni", "qwen3-omni"]
BATCHES: dict[str, dict[str, Any]] = {
    "one": {"rows": [[500]]},
    "left": {"rows": [[800], [301]]},
    "right": {"rows": [[800], [301]], "side": "right"},
    "several": {"rows": [[400, 203], [317]]},
}
LONG = {"rows": [[WINDOW + 450]]}
GENERATION: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beam": {"do_sample": False, "num_beams": 3},
    "sampled": {"do_sample": True, "num_return_sequences": 2},
    "static cache": {"do_sample": False, "cache_implementation": "static"},
}


@pytest.fixture(scope="session")
def half(model: Any) -> Any:
    return copy.deepcopy(model).to(torch.bfloat16)


@pytest.fixture
def lora(model: Any) -> Any:
    """A function that wraps a model: LoRA on the LLM alone, with adapters that do something."""
    peft = pytest.importorskip("peft")

    def wrap(base: Any) -> Any:
        torch.manual_seed(1)
        targets = r"^(?!.*(audio_tower|visual)).*\.(q_proj|v_proj)$"
        config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
        return peft.get_peft_model(base, config)

    return wrap


def batch_of(family: str, layout: dict[str, Any], **options: Any) -> dict[str, torch.Tensor]:
    return prompts(family, **layout, **options)


def layouts(family: str) -> dict[str, dict[str, Any]]:
    """The batches that the family's processor can make: Qwen2-Audio's knows no clip above one window."""
    return BATCHES if TINY[family].longest is not None else BATCHES | {"long": LONG}


def generated(model: Any, batch: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
    torch.manual_seed(7)
    return model.generate(**batch, max_new_tokens=5, **options)


@torch.no_grad()
def assert_exact(model: Any, batch: dict[str, torch.Tensor], method: str = "pool@keep=1") -> None:
    stock = model(**batch, labels=labels_of(batch))
    with fewhertz.compress(model, method) as handle:
        ours = model(**batch, labels=labels_of(batch))
    assert sum(handle.last.before) == int((batch["input_ids"] == AUDIO).sum()) > 0
    assert torch.equal(ours.logits, stock.logits)
    assert torch.equal(ours.loss, stock.loss)


# --- keep=1


def test_forward_is_exact(family: str, model: Any) -> None:
    for layout in layouts(family).values():
        assert_exact(model, batch_of(family, layout))


def test_the_exactness_test_can_fail(family: str, model: Any) -> None:
    with pytest.raises(AssertionError):
        assert_exact(model, batch_of(family, BATCHES["left"]), "pool@keep=0.99")


@torch.no_grad()
def test_forward_without_mask_is_exact(family: str, model: Any) -> None:
    batch = batch_of(family, BATCHES["one"])
    del batch["attention_mask"]
    stock = model(**batch).logits
    with fewhertz.compress(model, "none"):
        assert torch.equal(model(**batch).logits, stock)


@pytest.mark.parametrize("mode", GENERATION)
def test_generate_is_exact(family: str, model: Any, mode: str) -> None:
    # greedy takes several clips a prompt too; where sequences are repeated (beams), the stock models repeat clips in an
    # order that fits one window a prompt alone
    layout = {"rows": [*BATCHES["left"]["rows"], [150, 203]]} if mode == "greedy" else BATCHES["left"]
    batch, options = batch_of(family, layout), GENERATION[mode]
    stock = generated(model, batch, **options)
    with fewhertz.compress(model, "none"):
        assert torch.equal(generated(model, batch, **options), stock)
    assert stock.shape[1] == batch["input_ids"].shape[1] + 5


def test_bf16_is_exact(family: str, half: Any) -> None:
    batch = batch_of(family, BATCHES["left"])
    heard = FAMILY[family].audio_inputs[0]
    batch[heard] = batch[heard].bfloat16()
    assert_exact(half, batch)
    stock = generated(half, batch, do_sample=False)
    with fewhertz.compress(half, "none"):
        assert torch.equal(generated(half, batch, do_sample=False), stock)


@pytest.mark.parametrize("order", ["compress, then wrap", "wrap, then compress"])
def test_peft_is_exact(family: str, model: Any, lora: Any, order: str) -> None:
    batch = batch_of(family, BATCHES["left"])
    wrapped = lora(copy.deepcopy(model)).eval()
    with torch.no_grad():
        stock = wrapped(**batch, labels=labels_of(batch))
    new = generated(wrapped, batch, do_sample=False)
    base = copy.deepcopy(model)
    if order == "compress, then wrap":
        fewhertz.compress(base, "none")
    wrapped = lora(base).eval()
    if order == "wrap, then compress":
        fewhertz.compress(wrapped, "none")
    handle = fewhertz.attached(wrapped)
    assert handle is not None
    with torch.no_grad():
        ours = wrapped(**batch, labels=labels_of(batch))
    assert handle.last.before
    assert torch.equal(ours.logits, stock.logits)
    assert torch.equal(ours.loss, stock.loss)
    assert torch.equal(generated(wrapped, batch, do_sample=False), new)


# --- keep=1/3


def test_counts_and_prompt(family: str, model: Any) -> None:
    tiny = TINY[family]
    for layout in layouts(family).values():
        if layout.get("side") == "right":
            continue
        batch = batch_of(family, layout)
        clips = [tiny.count(mel) for row in layout["rows"] for mel in row]
        with fewhertz.compress(model, "pool@keep=1/3") as handle:
            out = generated(model, batch, do_sample=False)
        assert handle.last.before == clips  # the windows of a long audio are one clip
        assert handle.last.after == [handle.method.num_tokens(n) for n in clips]
        assert [plan.m for plan in handle.last.plans if plan is not None] == handle.last.after
        length = batch["input_ids"].shape[1]
        assert torch.equal(out[:, :length], batch["input_ids"])
        assert out.shape[1] == length + 5


def test_qwen2_audio_has_no_clip_above_one_window() -> None:
    from transformers import WhisperFeatureExtractor

    assert FAMILY["qwen2-audio"].max_seconds == 30.0
    extractor = WhisperFeatureExtractor(feature_size=MELS)
    audio = np.zeros(40 * 16000, dtype=np.float32)  # what Qwen2AudioProcessor does with it:
    out = extractor(audio, sampling_rate=16000, padding="max_length", return_attention_mask=True)
    assert out["attention_mask"].sum() == WINDOW  # ten seconds are gone


def row_alone(family: str, batch: dict[str, torch.Tensor], rows: list[list[int]], i: int) -> dict[str, torch.Tensor]:
    """Row `i` of a left-padded batch, without its padding."""
    windows = [sum(len(TINY[family].windows(mel)) for mel in row) for row in rows]
    start = sum(windows[:i])
    real = batch["attention_mask"][i].bool()
    alone = {name: batch[name][i : i + 1, real] for name in ("input_ids", "attention_mask")}
    return alone | {k: v[start : start + windows[i]] for k, v in batch.items() if k not in alone}


@torch.no_grad()
def test_row_of_a_batch_is_the_row_alone(family: str, model: Any) -> None:
    rows = BATCHES["several"]["rows"]
    batch = prompts(family, rows)
    with fewhertz.compress(model, "ltbm@keep=1/3") as handle:
        together = model(**batch).logits[:, -1]
        plans = handle.last.plans
        for i in range(len(rows)):
            alone = model(**row_alone(family, batch, rows, i)).logits[0, -1]
            for plan in handle.last.plans:
                assert torch.equal(plan.group, plans.pop(0).group)
            torch.testing.assert_close(together[i], alone, atol=1e-4, rtol=0)


def check_decoding_agrees_with_one_forward(model: Any, batch: dict[str, Tensor]) -> None:
    """The logits of each decoding step are those of a forward over the prompt and what was generated."""
    out = generated(model, batch, do_sample=False, return_dict_in_generate=True, output_logits=True)
    new = out.sequences[:, batch["input_ids"].shape[1] :]
    whole = batch | {
        "input_ids": out.sequences,
        "attention_mask": torch.cat([batch["attention_mask"], torch.ones_like(new)], dim=1),
    }
    logits = model(**whole).logits[:, -6:-1]
    torch.testing.assert_close(torch.stack(out.logits, dim=1), logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_decoding_agrees_with_one_forward(family: str, model: Any) -> None:
    """Positions and cache of each decoding step are those of a forward over the prompt and what was generated."""
    batch = batch_of(family, BATCHES["left"])
    with fewhertz.compress(model, "pool@keep=1/3"):
        check_decoding_agrees_with_one_forward(model, batch)


def test_gradient_reaches_lora(family: str, model: Any, lora: Any) -> None:
    batch = batch_of(family, BATCHES["right"])
    wrapped = lora(copy.deepcopy(model)).train()
    fewhertz.compress(wrapped, "pool@keep=1/3")
    wrapped(**batch, labels=labels_of(batch)).loss.backward()
    adapters = {name: p for name, p in wrapped.named_parameters() if "lora_" in name}
    assert adapters
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters.values())


@torch.no_grad()
def test_text_alone_passes_untouched(family: str, model: Any) -> None:
    batch = prompts(family, [[400]])
    text = {"input_ids": batch["input_ids"][:, :2], "attention_mask": batch["attention_mask"][:, :2]}
    stock, new = model(**text).logits, generated(model, text, do_sample=False)
    with fewhertz.compress(model, "pool@keep=1/3") as handle:
        model(**batch)  # leaves nothing behind that a later call without audio would see
        report = handle.last
        assert torch.equal(model(**text).logits, stock)
        assert torch.equal(model(text["input_ids"], attention_mask=text["attention_mask"]).logits, stock)
        assert torch.equal(generated(model, text, do_sample=False), new)
        assert handle.last is report


def test_audio_matters(family: str, model: Any) -> None:
    """The tiny models listen, so that the tests above say something; and a merged clip is not the whole one."""
    batch = batch_of(family, BATCHES["one"])
    heard = FAMILY[family].audio_inputs[0]
    other = batch | {heard: batch[heard].flip(-1)}
    with torch.no_grad():
        stock = model(**batch).logits[:, -1]
        assert not torch.allclose(stock, model(**other).logits[:, -1], atol=1e-3)
        with fewhertz.compress(model, "pool@keep=1/3"):
            assert not torch.allclose(stock, model(**batch).logits[:, -1], atol=1e-3)


# --- the handle


def test_save_pretrained_carries_the_choice(family: str, model: Any, tmp_path: Any) -> None:
    from safetensors import safe_open

    with fewhertz.compress(model, "pool@keep=1/3"):
        model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["audio_compression"] == {"method": "pool@keep=1/3"}
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert not [key for key in file.keys() if "audio_compression" in key]  # noqa: SIM118 (no mapping)
    again = type(model).from_pretrained(tmp_path)
    assert again.config.audio_compression == {"method": "pool@keep=1/3"}
    with pytest.warns(Mismatch, match="carries pool@keep=1/3"):  # transformers alone loaded it
        fewhertz.compress(again, "pool@keep=1/2").remove()
    assert again.config.audio_compression == {"method": "pool@keep=1/3"}


@torch.no_grad()
def test_remove_restores_everything(family: str, model: Any) -> None:
    batch = batch_of(family, BATCHES["left"])
    before = (model.config.to_json_string(), repr(model), set(model.__dict__), set(model._modules))
    stock, new = model(**batch).logits, generated(model, batch, do_sample=False)
    handle = fewhertz.compress(model, "pool@keep=1/3")
    assert "pool@keep=1/3" in repr(model)
    assert model(**batch).logits.shape != stock.shape
    handle.remove()
    handle.remove()
    assert (model.config.to_json_string(), repr(model), set(model.__dict__), set(model._modules)) == before
    assert torch.equal(model(**batch).logits, stock)
    assert torch.equal(generated(model, batch, do_sample=False), new)
    assert fewhertz.attached(model) is None


@torch.no_grad()
def test_copies_are_their_own(family: str, model: Any) -> None:
    batch = batch_of(family, BATCHES["one"])
    with fewhertz.compress(model, "pool@keep=1/3"):
        other = copy.deepcopy(model)
        other.lm_head.weight = torch.nn.Parameter(torch.zeros_like(other.lm_head.weight))
        assert model(**batch).logits.abs().max() > 0
        silent = other(**batch).logits
        assert silent.abs().max() == 0
        assert silent.shape == model(**batch).logits.shape
    handle = fewhertz.attached(other)
    assert handle is not None
    assert handle.model is other


# --- sites


def test_sites(family: str, model: Any) -> None:
    if "encoder" not in FAMILY[family].sites:
        with pytest.raises(ValueError, match=f"{family} can be compressed at llm only"):
            fewhertz.compress(model, "pool(site=encoder)@keep=1/3")
        return
    batch = batch_of(family, BATCHES["several"])
    with fewhertz.compress(model, "pool(site=encoder)@keep=1/3") as handle:
        out = generated(model, batch, do_sample=False)
    assert handle.last.after == [handle.method.num_tokens(n) for n in handle.last.before]
    assert out.shape[1] == batch["input_ids"].shape[1] + 5
    assert_exact(model, batch, "pool(site=encoder)@keep=1")


@torch.no_grad()
def test_projected_encoder_tokens_are_llm_tokens(family: str, model: Any) -> None:
    kind: Family = FAMILY[family]
    if "encoder" not in kind.sites:
        pytest.skip(f"{family} has no site before its projector")
    batch = batch_of(family, BATCHES["several"])
    audio = {name: batch[name] for name in kind.audio_inputs}
    before, after = (kind.encode(model, audio, batch["input_ids"], site, scores=False) for site in ("encoder", "llm"))
    projected = kind.project(model, before.tokens[None])[0]
    torch.testing.assert_close(projected, after.tokens, atol=1e-5, rtol=1e-5)


# --- what a family declares


def test_declarations(family: str, model: Any) -> None:
    kind = FAMILY[family]
    assert family_of_config(model.config) is kind
    assert kind.placeholder(model.config) == AUDIO
    tiny = TINY[family]
    seconds = 30  # whole windows and whole chunks: no rounding at the end
    unpadded = tiny.samples is not None  # the kernels over the wave end within it: one token fewer
    assert tiny.count(100 * seconds) == kind.rate(model.config) * seconds - unpadded
    for mel in (301, 800):
        encoded = kind.encode(
            model,
            {name: prompts(family, [[mel]])[name] for name in kind.audio_inputs},
            prompts(family, [[mel]])["input_ids"],
            "llm",
            scores=False,
        )
        assert sum(encoded.lengths) == len(encoded.tokens) == tiny.count(mel)


def test_a_last_window_too_short_for_a_token(family: str, model: Any) -> None:
    if TINY[family].longest is not None:
        pytest.skip(f"the processor of {family} knows no clip above one window")
    mel = WINDOW + 1
    batch = prompts(family, [[mel]])
    if family == "music-flamingo":
        with pytest.raises(IndexError):  # the stock model cannot place a window without tokens in time
            model(**batch)
        return
    assert_exact(model, batch)
    with fewhertz.compress(model, "pool@keep=1/3") as handle, torch.no_grad():
        model(**batch)
    assert handle.last.before == [TINY[family].count(mel)]


@pytest.mark.parametrize("family", ["omni-asr", "granite-speech"])
def test_what_is_no_log_mel_is_not_taken_for_one(family: str) -> None:
    with pytest.raises(ValueError, match=f"{family} reads no plain log-mel, which count=mel needs"):
        fewhertz.compress(TINY[family].build(), "ward(count=mel)@tolerance=0.3")


@pytest.mark.parametrize("family", ["omni-asr", "music-flamingo"])
def test_vllm_is_refused_by_name(family: str, tmp_path: Any) -> None:
    from fewhertz.vllm.serve import command

    TINY[family].build().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{family} cannot be served: vLLM has no class for it"):
        command(str(tmp_path), "pool@keep=1/3", [])


# --- Granite Speech


def test_granite_speech_plus_is_exact() -> None:
    model = granite_speech("GraniteSpeechPlusForConditionalGeneration", cat_hidden_layers=[1])
    batch = batch_of("granite-speech", BATCHES["several"])
    assert_exact(model, batch)
    with fewhertz.compress(model, "pool@keep=1/3") as handle:
        generated(model, batch, do_sample=False)
    assert handle.last.after == [handle.method.num_tokens(n) for n in handle.last.before]


@torch.no_grad()
def test_the_lora_of_granite_speech_stays_on() -> None:
    """Its checkpoints bring one for audio, which its own `generate` switches by whether it is given features."""
    peft = pytest.importorskip("peft")
    from transformers.integrations.peft import MIN_PEFT_VERSION

    if Version(peft.__version__) < Version(MIN_PEFT_VERSION):
        pytest.skip(f"transformers asks for peft {MIN_PEFT_VERSION}")
    model = copy.deepcopy(TINY["granite-speech"].build())
    batch = batch_of("granite-speech", BATCHES["left"])
    without = generated(model, batch, do_sample=False)
    torch.manual_seed(3)
    targets = r".*language_model.*\.(q_proj|v_proj)$"
    model.add_adapter(peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    text = {name: batch[name][:, -3:] for name in ("input_ids", "attention_mask")}
    stock, plain = generated(model, batch, do_sample=False), generated(model, text, do_sample=False)
    assert not torch.equal(stock, without)
    with fewhertz.compress(model, "none"):
        assert torch.equal(generated(model, text, do_sample=False), plain)
        assert torch.equal(generated(model, batch, do_sample=False), stock)


# --- Omni models


@pytest.mark.parametrize("family", OMNI, indirect=True)
def test_an_image_beside_the_audio(family: str, model: Any) -> None:
    batch = batch_of(family, BATCHES["left"], image=True)
    assert_exact(model, batch)
    for mode in ("greedy", "beam"):
        stock = generated(model, batch, **GENERATION[mode])
        with fewhertz.compress(model, "none"):
            assert torch.equal(generated(model, batch, **GENERATION[mode]), stock)


@torch.no_grad()
@pytest.mark.parametrize("family", OMNI, indirect=True)
def test_positions_beside_an_image(family: str, model: Any) -> None:
    """At keep=1/3 forward and generate place the prompt alike, and text goes on where the merged audio ends."""
    batch = batch_of(family, BATCHES["left"], image=True)
    with fewhertz.compress(model, "pool@keep=1/3") as handle:
        check_decoding_agrees_with_one_forward(model, batch)
        model(**batch)
    # an image of 2×2 tokens takes 2 positions instead of 4; whatever is merged takes one position a token
    assert model.base_model.rope_deltas.flatten().tolist() == [-2, -2]
    assert handle.last.after == [handle.method.num_tokens(n) for n in handle.last.before]


@torch.no_grad()
@pytest.mark.parametrize("family", OMNI, indirect=True)
def test_audio_inside_video_is_refused(family: str, model: Any) -> None:
    batch = batch_of(family, BATCHES["one"])
    with fewhertz.compress(model, "pool@keep=1/3"):
        with pytest.raises(NotImplementedError, match=f"{family} cannot compress audio inside a video"):
            model(**batch, use_audio_in_video=True)
        ids = batch["input_ids"].clone()
        ids[0, (ids[0] == AUDIO_EOS).nonzero()[0]] = VIDEO
        with pytest.raises(NotImplementedError, match="audio inside a video"):
            model.generate(**(batch | {"input_ids": ids}), max_new_tokens=2)


@torch.no_grad()
@pytest.mark.parametrize("family", OMNI, indirect=True)
def test_positions_do_not_leak_into_the_next_call(family: str, model: Any) -> None:
    image, plain = batch_of(family, BATCHES["left"], image=True), batch_of(family, BATCHES["left"])
    stock = model(**plain).logits
    with fewhertz.compress(model, "none"):
        model(**image)
        assert torch.equal(model(**plain).logits, stock)


# --- real processors

WORDS = [f"w{i}" for i in range(100)]
SPECIAL = {
    "qwen2-audio": ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"),
    "audio-flamingo-3": ("<sound>", "<|sound_bos|>", "<|sound_eos|>"),
    "music-flamingo": ("<sound>", "<|sound_bos|>", "<|sound_eos|>"),
    "glm-asr": ("<|pad|>", "<|begin_of_audio|>", "<|end_of_audio|>"),
    "qwen3-asr": ("<|audio_pad|>", "<|audio_start|>", "<|audio_end|>"),
    "omni-asr": ("<extra_id_1>", "<extra_id_2>", "<extra_id_3>"),
}
PROCESSOR = {
    "qwen2-audio": "Qwen2AudioProcessor",
    "audio-flamingo-3": "AudioFlamingo3Processor",
    "music-flamingo": "MusicFlamingoProcessor",
    "glm-asr": "GlmAsrProcessor",
    "qwen3-asr": "Qwen3ASRProcessor",
    "omni-asr": "OmniASRProcessor",
}


def processor_of(family: str) -> Any:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    audio, bos, eos = SPECIAL[family]
    vocab = {word: i for i, word in enumerate(WORDS)} | {audio: AUDIO, bos: AUDIO_BOS, eos: AUDIO_EOS, "<pad>": PAD}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="w0")
    tokenizer.add_special_tokens({"additional_special_tokens": [audio, bos, eos]})
    tokenizer.padding_side = "left"
    if family == "qwen3-asr":
        tokenizer.audio_token, tokenizer.audio_bos_token, tokenizer.audio_eos_token = audio, bos, eos
        extractor = transformers.Qwen3ASRFeatureExtractor(feature_size=MELS)
    elif family == "omni-asr":
        extractor = transformers.OmniASRFeatureExtractor()
    else:
        extractor = transformers.WhisperFeatureExtractor(feature_size=MELS)
    return getattr(transformers, PROCESSOR[family])(extractor, tokenizer)


@pytest.mark.parametrize("family", PROCESSOR, indirect=True)
def test_real_processor(family: str, model: Any) -> None:
    audio_token, bos, eos = SPECIAL[family]
    generator = np.random.default_rng(0)
    seconds = [3.21, 1.07] if family == "qwen2-audio" else [31.3, 1.07]
    audio = [generator.standard_normal(int(s * 16000), dtype=np.float32) for s in seconds]
    marks = (" ", " ") if family == "music-flamingo" else (f" {bos} ", f" {eos} ")  # it writes the marks itself
    text = [f"w1{marks[0]}{audio_token}{marks[1]}w2 w3", f"w4 w5{marks[0]}{audio_token}{marks[1]}w6"]
    processor = processor_of(family)
    batch = dict(processor(text=text, audio=audio, sampling_rate=16000, return_tensors="pt", padding=True))
    batch.pop("num_audio_tokens", None)
    assert_exact(model, batch)
    stock = generated(model, batch, do_sample=False)
    with fewhertz.compress(model, "none"):
        assert torch.equal(generated(model, batch, do_sample=False), stock)
    with fewhertz.compress(model, "pool@keep=1/3") as handle:
        out = generated(model, batch, do_sample=False)
    counts = (batch["input_ids"] == AUDIO).sum(1).tolist()
    assert handle.last.before == counts  # 31.3 s, two windows, is one clip
    assert handle.last.after == [handle.method.num_tokens(n) for n in counts]
    for n, s in zip(counts, seconds, strict=True):
        assert abs(n - s * FAMILY[family].rate(model.config)) <= 1.5
    assert torch.equal(out[:, :-5], batch["input_ids"])
