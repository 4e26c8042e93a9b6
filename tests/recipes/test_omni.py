"""The second class that the recipe trains: what it hears in training is what its processor hands over, and a run of a
few steps comes out as a folder that transformers and fewhertz load.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import transformers
from transformers import AutoModelForMultimodalLM, AutoProcessor

import fewhertz
from fewhertz.evaluation.results import read_samples
from fewhertz.run import request
from recipes.pocket import config, corpus, data, export, family, hear, omni, prepare, tokenizer, train
from recipes.research.grids.omni import PARAMETERS

if not hasattr(transformers, "OmniASRConfig"):
    pytest.skip(f"transformers {transformers.__version__} has no OmniASR", allow_module_level=True)

TINY = config.Size(48, 2, 2, 64, 1, 128, 400, 0, 0, 0, 24, "omniasr")
FAMILY = omni.OmniAsr()
SAID = ("yes", "no", "two dogs run", "a red hat", "the sun is up", "he reads", "we go home", "an old book")


@pytest.fixture(scope="module")
def processor() -> object:
    return FAMILY.processor(tokenizer.train_tokenizer([*SAID] * 20, TINY.vocab, FAMILY))


@pytest.fixture(scope="module")
def model(processor: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return FAMILY.build(TINY, family.special_ids(FAMILY, processor.tokenizer)).eval()


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Two clips of other lengths and loudness, one with an offset; 16 bits."""
    rng = np.random.default_rng(0)
    return [(loud * rng.standard_normal(n) + 300).astype(np.int16) for loud, n in ((3000, 20_123), (500, 12_345))]


def test_the_page_says_how_many_parameters_it_has(processor: object) -> None:
    model = FAMILY.blank(config.SIZES["omni"], family.special_ids(FAMILY, processor.tokenizer))
    assert f"{sum(one.numel() for one in model.parameters()) / 1e6:.1f}" == PARAMETERS


def planned(clips: list[np.ndarray]) -> tuple[torch.Tensor, hear.Clips]:
    bank = object.__new__(data.Bank)
    starts = np.cumsum([0, *map(len, clips)])
    bank.rows = [{"start": int(at), "samples": len(clip)} for at, clip in zip(starts, clips, strict=False)]
    items = [data.Item([[data.Stretch(i, 0, len(clip), 0)]], "", "") for i, clip in enumerate(clips)]
    return torch.from_numpy(np.concatenate(clips)), data.planned(items, bank, None, 0.0)


@torch.inference_mode()
def test_training_hears_what_the_processor_hands_over(
    processor: object, model: torch.nn.Module, clips: list[np.ndarray]
) -> None:
    """The audio tokens of a training batch are those of the stock class, whose clips come alone or in a batch."""
    bank, plan = planned(clips)
    features = FAMILY.heard(bank, torch.zeros(hear.COLOURS, 1), plan)
    frames = torch.tensor([FAMILY.frames_of(len(clip)) for clip in clips])
    _, tokens = FAMILY.encode(model.model.audio_tower, features, frames)
    ours = model.model.multi_modal_projector(tokens)
    counts = FAMILY.lengths(frames)[1].tolist()
    waves = [clip.astype(np.float32) / 32768 for clip in clips]
    for i, wave in enumerate(waves):
        alone = request(processor, [wave])
        stock = model.get_audio_features(alone["input_values"], alone["padding_mask"]).pooler_output
        assert len(stock) == counts[i] == (alone["input_ids"] == model.config.audio_token_id).sum()
        assert stock.std() > 0.1 and (stock - ours[i, : counts[i]]).abs().max() < 1e-4
    both = request(processor, waves)
    together = model.get_audio_features(both["input_values"], both["padding_mask"]).pooler_output
    assert (together - torch.cat([ours[i, :n] for i, n in enumerate(counts)])).abs().max() < 1e-4


def test_a_prompt_is_the_processors_own(processor: object, clips: list[np.ndarray]) -> None:
    """Whatever training asks, the class is asked for a transcript: audio, language, BOS."""
    prompts = data.Prompts(processor)
    counts = FAMILY.lengths(torch.tensor([len(clip) for clip in clips]))[1].tolist()
    for clip, count in zip(clips, counts, strict=True):
        own = request(processor, [clip.astype(np.float32) / 32768])["input_ids"][0].tolist()
        assert own == prompts("Write down what is said.", count) == prompts("Transcribe the speech.", count)
    assert processor.tokenizer.convert_ids_to_tokens(own[-3:]) == [omni.AUDIO, omni.LANGUAGE, omni.BOS]
    assert prompts.end == processor.tokenizer.convert_tokens_to_ids(omni.EOS)
    with pytest.raises(ValueError, match="Unknown `language='en'`"):
        processor.apply_transcription_request(np.zeros(16_000, np.float32), language="en")


def test_gaps_are_silent_and_left_out_of_nothing_else(clips: list[np.ndarray]) -> None:
    bank, plan = planned(clips)
    noise = torch.zeros(hear.COLOURS, 1)
    whole = hear.sounded(bank, noise, plan)
    plan.gaps[1, 0] = torch.tensor([10, 30])  # of mel frames
    wave = hear.with_gaps(whole, plan)
    assert torch.equal(wave[0], whole[0]) and (wave[1, 1600:4800] == 0).all()
    assert torch.equal(wave[1, :1600], whole[1, :1600]) and torch.equal(wave[1, 4800:], whole[1, 4800:])
    heard = FAMILY.heard(bank, noise, plan)
    for row, clip in zip(heard, clips, strict=True):
        assert row[: len(clip)].mean() == pytest.approx(0, abs=1e-4)
        assert row[: len(clip)].std() == pytest.approx(1, abs=5e-2) and (row[len(clip) :] == 0).all()


def test_gradients_are_those_of_the_stock_layers(processor: object, model: torch.nn.Module) -> None:
    """Laying gradients out in another order changes none of them."""
    plain = FAMILY.blank(TINY, family.special_ids(FAMILY, processor.tokenizer)).eval()
    plain.load_state_dict(model.state_dict())
    wave = torch.randn(2, 1, 8000, generator=torch.Generator().manual_seed(0))
    found = []
    for one in (model, plain):
        one.model.audio_tower(wave).last_hidden_state.square().sum().backward()
        found.append({name: p.grad for name, p in one.model.audio_tower.named_parameters()})
        one.zero_grad()
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-3, rtol=1e-4)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The recipe in a folder of its own, with a few seconds of speech: sentences of two voices, and their words."""
    monkeypatch.setitem(config.SIZES, "omni-tiny", TINY)
    monkeypatch.setattr(config, "HERE", tmp_path)
    for module in (train, tokenizer, export):
        monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    cache = config.cache("omni-tiny")
    cache.mkdir(parents=True)
    for voice in ("en-us", "en"):
        speeds = (180, 200, 220)  # phonemes count from twenty uses on
        says = [{"raw": text, "voice": f"espeak:{voice}", "speed": s, "pitch": 50} for s in speeds for text in SAID]
        rows = [{"say": say, "text": say["raw"], "kind": "english"} for say in says]
        prepare.synthetic_part(cache / f"english-espeak-{voice}-000", rows)
        made = prepare.synthetic([{"say": says[i], "text": SAID[i]} for i in (0, 1)])
        part = cache / f"real-{config.WORDS}"
        if voice == "en":
            prepare.write_part(part, (({**row, "speaker": "one"}, wave) for row, wave in made))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


def trained(monkeypatch: pytest.MonkeyPatch, name: str, *more: str) -> dict:
    """Train on one thread; returns the checkpoint."""
    options = ["--size", "omni-tiny", "--name", name, "--shares", "words=0.6", "english=0.4", "--batch-seconds", "6"]
    options += ["--threads", "1", "--log-every", "4", "--save-every", "1", "--warmup", "5", *more]
    monkeypatch.setattr(sys, "argv", ["train", *options])
    threads = torch.get_num_threads()
    train.main()
    torch.set_num_threads(threads)
    return torch.load(train.RUNS / name / "checkpoint.pt", weights_only=True)


def test_a_run_learns_goes_on_and_is_exported(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(monkeypatch, "whole")
    parted = trained(monkeypatch, "parted", "--stop-at", "10")
    assert 10 <= parted["step"] < whole["step"]
    parted = trained(monkeypatch, "parted")
    assert parted["step"] == whole["step"] >= 24
    assert all(torch.equal(weight, whole["last"][name]) for name, weight in parted["last"].items())
    rows = [json.loads(line) for line in (train.RUNS / "whole" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert rows[-1]["ce"] < 0.8 * rows[0]["ce"] and rows[-1]["ctc"] < rows[0]["ctc"]

    out = recipe / "exported"
    export.export(train.RUNS / "whole", out)
    processor = AutoProcessor.from_pretrained(out)
    model = AutoModelForMultimodalLM.from_pretrained(out).eval()
    assert type(model).__name__ == "OmniASRForConditionalGeneration" and model.dtype == torch.float32
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, whole["model"][name], atol=1e-3, rtol=1e-3)
    row = corpus.read_jsonl(config.cache("omni-tiny") / "english-espeak-en-us-000.jsonl")[4]
    wave = np.fromfile(config.cache("omni-tiny") / "english-espeak-en-us-000.i16", "<i2")
    sf.write(recipe / "clip.flac", wave[row["start"] : row["start"] + row["samples"]], 16_000, subtype="PCM_16")
    (recipe / "task.jsonl").write_text(json.dumps({"audio": "clip.flac", "text": row["text"]}) + "\n", "utf-8")
    sound, _ = sf.read(recipe / "clip.flac", dtype="float32")
    inputs = processor.apply_transcription_request(sound, processor_kwargs={"return_tensors": "pt"})
    plain = model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    results = fewhertz.evaluate(
        out, recipe / "task.jsonl", ["pool"], ["1/3"], recipe / "results", device="cpu", max_new_tokens=8
    )
    assert not results.errors
    assert [run.rate for run in results.runs] == pytest.approx([50, 50 / 3], rel=0.05)
    said = read_samples(results.files[0])[0]["output"]
    assert said == processor.decode(plain, skip_special_tokens=True).strip() != ""
