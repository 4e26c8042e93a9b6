"""The shipped model, and the promises that its recipe makes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile as sf
import torch
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from fewhertz import pocket

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))  # the recipe lives beside the package, not in it

from recipes.pocket import config, data, evaluate, features, model, prepare, train  # noqa: E402

SAMPLES = pocket.path() / "samples"
MAX_WER = 0.40  # on the bundled clips together
KNOWN = [json.loads(line) for line in (SAMPLES / "samples.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def processor() -> object:
    return AutoProcessor.from_pretrained(pocket.path())


@pytest.fixture(scope="module")
def shipped() -> Qwen2AudioForConditionalGeneration:
    return Qwen2AudioForConditionalGeneration.from_pretrained(pocket.path(), dtype=torch.float32).eval()


def chat(processor: object, text: str = "Transcribe the speech.") -> str:
    content = [{"type": "audio", "audio": "clip.flac"}, {"type": "text", "text": text}]
    chat = [{"role": "user", "content": content}]
    return processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)


def read(row: dict) -> np.ndarray:
    wave, rate = sf.read(SAMPLES / row["audio"], dtype="float32")
    assert rate == 16_000
    return wave


def test_size(shipped: Qwen2AudioForConditionalGeneration) -> None:
    assert sum(p.numel() for p in shipped.parameters()) <= 12_000_000
    assert (pocket.path() / "model.safetensors").stat().st_size <= 25_000_000
    assert sum(p.stat().st_size for p in SAMPLES.iterdir()) < 2_000_000


def test_shape_of_a_qwen2_audio(shipped: Qwen2AudioForConditionalGeneration, processor: object) -> None:
    text = shipped.config.text_config
    assert text.hidden_size // text.num_attention_heads == 64
    assert shipped.config.audio_config.max_source_positions == 1500
    one_second = np.zeros(16_000, np.float32)
    second = processor(text=chat(processor), audio=one_second, sampling_rate=16_000, return_tensors="pt")
    assert (second["input_ids"] == shipped.config.audio_token_id).sum() == 25
    assert len(processor.tokenizer) == text.vocab_size


@pytest.mark.parametrize("text", ["they're here", "", "Zürich 42 – ß!", "日本語 😀", "<|im_end|> tab\tline\n"])
def test_tokenizer_fails_on_no_text(processor: object, text: str) -> None:
    ids = processor.tokenizer(text)["input_ids"]
    assert processor.tokenizer.decode(ids) == text


def test_transcribes_with_plain_transformers(shipped: Qwen2AudioForConditionalGeneration, processor: object) -> None:
    answers = []
    for row in KNOWN[:6]:
        inputs = processor(text=chat(processor), audio=read(row), sampling_rate=16_000, return_tensors="pt")
        out = shipped.generate(**inputs)
        answers.append(processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    assert jiwer.wer([row["text"] for row in KNOWN[:6]], answers) <= MAX_WER, answers


def test_short_batches_equal_the_stock_forward(shipped: Qwen2AudioForConditionalGeneration, processor: object) -> None:
    waves = [read(row)[: 16_000 * 2 + 137 * i] for i, row in enumerate(KNOWN[:3])]
    stock = processor.feature_extractor(
        waves, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True, padding="max_length"
    )
    raw = [features.raw_log_mel(wave) for wave in waves]
    lengths = [len(r) - features.TAIL for r in raw]
    mel, frames = data.stack([features.normalise(r) for r in raw], lengths)
    assert frames.tolist() == stock.attention_mask.sum(-1).tolist()
    ids = processor(text=[chat(processor)] * 3, audio=waves, sampling_rate=16_000, return_tensors="pt", padding=True)
    caught = []
    hook = shipped.model.multi_modal_projector.register_forward_hook(lambda _m, _i, out: caught.append(out))
    with torch.inference_mode():
        shipped(**ids)
        hook.remove()
        ours = shipped.model.multi_modal_projector(model.encode(shipped.model.audio_tower, mel, frames)[1])
    for i, n in enumerate(model.frame_lengths(frames)[1].tolist()):
        assert (caught[0][i, :n] - ours[i, :n]).abs().max() < 1e-4


def test_splits_share_no_sentence_and_no_speaker() -> None:
    test, dev, unseen = (
        {r["text"] for r in prepare.read_jsonl(config.SPLITS / f"{name}.jsonl")}
        for name in ("synthetic-test", "synthetic-dev", "unseen-voices-test")
    )
    assert not test & dev and not test & unseen and not dev & unseen
    assert {prepare.split_of(t) for t in test | unseen} == {"test"} and {prepare.split_of(t) for t in dev} == {"dev"}
    assert not set(config.SEEN_VOICES) & set(config.UNSEEN_VOICES)
    speakers = [
        {r["speaker"] for r in prepare.read_jsonl(config.SPLITS / f"strings-{name}.jsonl")} for name in ("dev", "test")
    ]
    assert not speakers[0] & speakers[1]
    manifest = config.DATA / "manifest.jsonl"
    if not manifest.exists():
        pytest.skip("no ../shared/data: training speakers not checked")
    words = [r for r in prepare.read_jsonl(manifest) if r["tar"] == "speech_commands.tar"]
    trained = {r["speaker"] for r in words if r["split"] == "train"}
    assert not trained & (speakers[0] | speakers[1])
    assert not {prepare.normalise_text(t) for t in prepare.sentences(config.DATA)["train"]} & (test | dev | unseen)


def test_a_planted_leak_is_found() -> None:
    """The split is a function of the normalised text: case and punctuation cannot move a sentence to training."""
    row = prepare.read_jsonl(config.SPLITS / "synthetic-test.jsonl")[0]
    assert prepare.split_of(row["raw"].upper() + " !!") == "test"


@pytest.mark.parametrize(
    ("raw", "good"),
    [("Tom's here.", True), ("It cost 5 dollars.", False), ("I saw Dr. Who.", False), ("The USA won.", False)],
)
def test_only_what_is_spoken_as_written(raw: str, good: bool) -> None:
    assert prepare.speakable(raw) is good


def test_orthogonalise() -> None:
    matrices = torch.randn(2, 8, 24, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(train.orthogonalise(matrices))
    assert values.min() > 0.4 and values.max() < 1.4


def test_wer_interval_holds_the_estimate() -> None:
    counts = np.array([[1, 4], [0, 5], [2, 4], [0, 6]] * 20)
    low, high = evaluate.wer_interval(counts, [str(i) for i in range(80)])
    assert low < 100 * 3 / 19 < high


def test_exported_files_are_all_there() -> None:
    names = "config.json generation_config.json processor_config.json tokenizer.json tokenizer_config.json"
    for name in [*names.split(), "chat_template.jinja", "MODEL_CARD.md"]:
        assert (pocket.path() / name).stat().st_size
