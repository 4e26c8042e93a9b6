"""The shipped model, and the promises that its recipe makes."""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile as sf
import torch
import transformers
from safetensors import safe_open
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

import fewhertz
from fewhertz import pocket
from fewhertz.method import parse
from recipes.pocket import (
    config,
    corpus,
    data,
    evaluate,
    export,
    family,
    features,
    flex,
    hear,
    leaks,
    model,
    optimiser,
    pack,
    sounds,
    texts,
    train,
)

REPO = Path(__file__).resolve().parents[2]
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
    longest = max(map(len, waves))
    mel = features.log_mel(torch.stack([torch.from_numpy(np.pad(w, (0, longest - len(w)))) for w in waves]))
    frames = torch.tensor([features.frames_of(len(w)) for w in waves])
    assert frames.tolist() == stock.attention_mask.sum(-1).tolist()
    assert torch.equal(mel.mT, stock.input_features[:, :, : mel.shape[1]])
    ids = processor(text=[chat(processor)] * 3, audio=waves, sampling_rate=16_000, return_tensors="pt", padding=True)
    caught = []
    hook = shipped.model.multi_modal_projector.register_forward_hook(lambda _m, _i, out: caught.append(out))
    with torch.inference_mode():
        shipped(**ids)
        hook.remove()
        ours = shipped.model.multi_modal_projector(model.encode(shipped.model.audio_tower, mel, frames)[1])
    for i, n in enumerate(model.frame_lengths(frames)[1].tolist()):
        assert (caught[0][i, :n] - ours[i, :n]).abs().max() < 1e-4


LISTS = {p.stem: corpus.read_jsonl(p) for p in sorted(config.SPLITS.glob("*.jsonl"))}
NO_DATA = not corpus.manifest(config.DATA)


@pytest.fixture(scope="module")
def training() -> leaks.Inventory:
    if NO_DATA:
        pytest.skip("no ../shared/data: nothing to compare the lists with")
    return leaks.training("small", config.DATA)


def test_nothing_of_the_lists_is_in_training(training: leaks.Inventory) -> None:
    assert leaks.check(training, LISTS, config.DATA) == []


@pytest.mark.parametrize("kind", ["sentences", "translations", "speakers", "clips", "sources", "voices"])
def test_a_planted_leak_is_found(training: leaks.Inventory, kind: str) -> None:
    manifest = corpus.manifest(config.DATA)
    trained = [r for r in manifest if r["split"] == "train"]
    if kind in ("sentences", "voices"):
        name, row = "unseen-voices-test", dict(LISTS["unseen-voices-test"][0])
        planted = {"raw": corpus.english(config.DATA)["train"][0]} if kind == "sentences" else {"voice": "espeak:en-us"}
        row["say"] = row["say"] | planted
    elif kind == "translations":
        name, row = "german-test", dict(LISTS["german-test"][0])
        row["references"] = [*row["references"], corpus.german(config.DATA)["train"][0][1][0]]
    elif kind == "sources":  # another take of a trained source recording
        name, row = "describe-test", dict(LISTS["describe-test"][0])
        other = leaks.source(next(r["audio"] for r in trained if r["tar"] == "esc10.tar"))
        row["pieces"] = [row["pieces"][0] | {"audio": f"env/esc10/5-{other}-Z.opus"}]
    else:
        name, row = "strings-test", dict(LISTS["strings-test"][0])
        clip = next(r for r in trained if r["tar"] == "speech_commands.tar" and r["speaker"] in training.speakers)
        row["pieces"] = [*row["pieces"], {"tar": clip["tar"], "audio": clip["audio"], "at": 0.0}]
    found = leaks.check(training, LISTS | {name: [*LISTS[name], row]}, config.DATA)
    assert any(line.startswith(name) and kind.replace("translations", "sentences") in line for line in found)


def test_held_out_voices_are_never_trained_on() -> None:
    for lang, voices in config.UNSEEN_VOICES.items():
        assert not set(voices) & set(config.SEEN_VOICES[lang])
        assert not set(config.NEW_VOICES[lang]) & set(config.SEEN_VOICES[lang])
    assert not set(config.VARIANTS) & set(config.NEW_VARIANTS)
    assert len(config.SEEN_VOICES["en"]) >= 500 and len(config.NEW_VOICES["en"]) >= 20
    heard = {r["say"]["voice"] for r in LISTS["unseen-voices-test"]}
    assert heard == set(config.UNSEEN_VOICES["en"])


def test_a_sentence_keeps_its_split_whatever_its_case() -> None:
    raw = LISTS["synthetic-test"][0]["say"]["raw"]
    assert corpus.split_of(raw.upper() + " !!") == "test"


def test_lists_are_as_long_as_the_card_says() -> None:
    for name, count in (("german-test", 1000), ("far-test", 300), ("far-new-voices-test", 300), ("passages-test", 100)):
        assert len(LISTS[name]) >= count
    assert len({r["say"]["voice"] for r in LISTS["far-new-voices-test"]}) >= 20
    assert all(len(r["references"]) == 5 for r in LISTS["describe-test"])
    for row in LISTS["answer-test"]:
        assert len(set(row["choices"])) == 4 and row["references"][0] in row["choices"]
        assert all(choice in row["prompt"] for choice in row["choices"])
    assert all(len(r["sha256"]) == 16 for rows in LISTS.values() for r in rows)


def test_listed_audio_is_still_what_it_was() -> None:
    if NO_DATA:
        pytest.skip("no ../shared/data: recordings not read")
    rows = [LISTS[name][0] for name in ("strings-test", "describe-test", "speechocean762-test")]
    made = {row["id"]: corpus.sha256(wave) for row, wave in corpus.audio(config.DATA, rows)}
    assert made == {row["id"]: row["sha256"] for row in rows}


CLIPS = {label: [{"id": label, "begin": 0.5, "end": 4.5}] for label in sounds.SOUNDS}


@pytest.mark.parametrize("seed", range(20))
def test_scenes_are_what_is_said_of_them(seed: int) -> None:
    rng = random.Random(seed)
    scene = sounds.draw_scene(rng, CLIPS, most=3)
    assert scene.seconds <= 15.0 and len(set(scene.labels)) == len(scene.pieces)
    assert all(p.begin >= 0.5 and p.begin + p.seconds <= 4.51 for p in scene.pieces)
    assert scene.mixed or all(a.at + a.seconds < b.at for a, b in itertools.pairwise(scene.pieces))
    captions = sounds.captions(scene, rng)
    assert len(captions) == 5
    for caption in captions:
        for label in scene.labels:
            _, clauses, noun = sounds.SOUNDS[label]
            assert any(text in caption for text in (*clauses, noun))
    for kind in ("which", "first", "count"):
        _, choices, answer = sounds.question(scene, kind, rng)
        names = [sounds.SOUNDS[label][0] for label in scene.labels]
        right = {"count": [sounds.NUMBERS[len(names) - 1]], "first": names[:1]}.get(kind, names)
        assert answer in right or (kind == "first" and len(names) == 1)
        assert kind == "first" or [c for c in choices if c in right] == [answer]


def bank_of(*waves: np.ndarray) -> data.Bank:
    """A bank of clips in memory."""
    made = object.__new__(data.Bank)
    starts = np.cumsum([0, *map(len, waves)])
    made.rows = [{"start": int(at), "samples": len(w)} for at, w in zip(starts, waves, strict=False)]
    made.waves = torch.from_numpy(np.concatenate(waves))
    return made


def test_stretches_are_laid_out_and_added() -> None:
    bank = bank_of(np.full(100, 8192, np.int16), np.full(50, 16384, np.int16))
    clip = [data.Stretch(0, 10, 40, 0), data.Stretch(1, 0, 50, 20), data.Stretch(1, 0, 10, 90, -20.0)]
    items = [data.Item([clip], "", "", tail=5), data.Item([[data.Stretch(1, 0, 50, 0)]], "", "")]
    wave = hear.laid_out(bank.waves, data.planned(items, bank, None, 0.0))
    assert wave.shape == (2, 105)
    assert wave[0, [0, 19, 20, 39, 40, 69, 70]].tolist() == [0.25, 0.25, 0.75, 0.75, 0.5, 0.5, 0.0]
    assert wave[0, 92] == pytest.approx(0.05) and (wave[0, 100:] == 0).all()
    assert (wave[1, :50] == 0.5).all() and (wave[1, 50:] == 0).all()


def test_a_quicker_clip_is_shorter_and_higher() -> None:
    time = np.arange(16_000) / 16_000
    bank = bank_of((8000 * np.sin(2 * np.pi * 400 * time)).astype(np.int16))
    item = data.Item([[data.Stretch(0, 0, 16_000, 0)]], "", "")
    clips = data.planned([item], bank, None, 0.0)
    clips.step[:] = 1.25
    clips.count[:] = clips.samples[:] = 12_000
    wave = hear.laid_out(bank.waves, clips)[0]
    assert torch.fft.rfft(wave).abs().argmax() * 16_000 / len(wave) == pytest.approx(500, abs=2)


def test_no_clip_is_planned_longer_than_the_encoder_hears() -> None:
    bank = bank_of(np.zeros(int(29.4 * 16_000), np.int16))
    item = data.Item([[data.Stretch(0, 0, bank.rows[0]["samples"], 0)]], "", "", people=True)
    clips = data.planned([item] * 60, bank, np.random.default_rng(0), 1.0)
    assert clips.samples.max() <= 29.5 * 16_000 and clips.samples.min() < 27 * 16_000


def test_what_is_heard_follows_from_the_plan() -> None:
    """Rooms, noise, tilts and masks: drawn when planned, the same each time; the batch row is the row alone."""
    rng = np.random.default_rng(0)
    waves = [(3000 * rng.standard_normal(n)).astype(np.int16) for n in (9000, 16_000, 30_000)]
    bank = bank_of(*waves)
    noise = hear.noises(torch.device("cpu"))
    items = [data.Item([[data.Stretch(i, 0, len(w), 0)]], "", "", people=True) for i, w in enumerate(waves)]
    plain, frames = hear.heard(bank.waves, noise, data.planned(items, bank, None, 0.0))
    for i, item in enumerate(items):
        alone, n = hear.heard(bank.waves, noise, data.planned([item], bank, None, 0.0))
        assert int(n) == int(frames[i]) == features.frames_of(len(waves[i]))
        torch.testing.assert_close(alone[0, : int(n)], plain[i, : int(n)], atol=1e-5, rtol=0)
    plans = [data.planned(items, bank, np.random.default_rng(3), 1.0) for _ in range(2)]
    made = []
    for plan in plans:
        torch.manual_seed(0)
        made.append(hear.heard(bank.waves, noise, plan)[0])
    assert torch.equal(*made) and torch.isfinite(made[0]).all()
    assert made[0].shape != plain.shape or (made[0] - plain).abs().max() > 0.1


def test_reverberation_adds_its_level_and_decays() -> None:
    bank = bank_of(np.zeros(16_000, np.int16))
    bank.waves[1000] = 16384
    clips = data.planned([data.Item([[data.Stretch(0, 0, 16_000, 0)]], "", "")], bank, None, 0.0)
    clips.room[:], clips.wet[:] = 0.3, 0.1
    torch.manual_seed(0)
    wet = hear.through(hear.laid_out(bank.waves, clips), clips)[0] / 0.5
    assert wet[1000] == pytest.approx(1.0, abs=2e-2) and wet[:950].abs().max() < 2e-2
    tail = wet[1040:].pow(2)
    assert float(tail.sum()) == pytest.approx(0.1, rel=0.1)
    assert tail[:800].sum() > 5 * tail[1600:2400].sum() > 10 * tail[3200:4000].sum()


def test_noise_is_as_loud_as_planned() -> None:
    power = hear.noises(torch.device("cpu")).pow(2).mean(1)
    torch.testing.assert_close(power, torch.ones(hear.COLOURS), atol=1e-3, rtol=0)


def test_targets_are_read_the_right_way() -> None:
    wer, bleu = evaluate.Target("wer", 8, 3), evaluate.Target("bleu", 15, 35)
    assert wer.met(7.9) and not wer.met(8.1) and bleu.met(15) and not bleu.met(14.9)


@pytest.mark.parametrize(
    ("one", "other", "is_near"),
    [
        ("he works for a bank", "he works for a bank", True),
        ("he works for a bank", "she works for a bank", True),
        ("he works for a bank", "she works in a bank", False),  # two of five: a third and more
        ("the old man sat down by the river and slept", "an old man sat near the river and slept", False),
        ("the old man sat down by the river and slept", "the old man sat by a river and slept", True),
        ("he cheats", "she cheats", False),
        ("stop", "go", False),
    ],
)
def test_what_is_near(one: str, other: str, is_near: bool) -> None:
    assert texts.Near([one]).of([other]).tolist() == [is_near] == texts.Near([other]).of([one]).tolist()
    assert texts.far_from_each_other([one, other]) == ([one] if is_near else [one, other])


@pytest.mark.parametrize(
    ("n", "said"),
    [(0, "zero"), (17, "seventeen"), (40, "forty"), (99, "ninety nine"), (305, "three hundred five"),
     (21_100, "twenty one thousand one hundred"), (999_000, "nine hundred ninety nine thousand")],
)  # fmt: skip
def test_numbers_in_words(n: int, said: str) -> None:
    assert texts.number(n) == said


def test_a_planted_near_copy_is_found(training: leaks.Inventory) -> None:
    """In both directions: a near copy in the list of what is trained on, and one in training of what is in the list."""
    row = dict(LISTS["far-test"][0])
    heard = next(t for t in sorted(training.english) if len(t.split()) >= 8)
    row["say"] = row["say"] | {"raw": f"{heard} too"}
    found = leaks.check(training, {"far-test": [*LISTS["far-test"], row]}, config.DATA)
    assert any(line.startswith("far-test: 1 near") for line in found)
    near = corpus.normalise_text(LISTS["far-test"][0]["say"]["raw"]) + " again"
    more = replace(training, english=training.english | {near})
    assert any(near in line for line in leaks.check(more, {"far-test": LISTS["far-test"]}, config.DATA))


def test_digits_are_of_people_who_are_not_trained_on(training: leaks.Inventory) -> None:
    speakers = {split: {r["group"] for r in LISTS[f"digits-{split}"]} for split in ("dev", "test")}
    assert len(speakers["test"]) == 20 and len(speakers["dev"]) == 8
    assert not (speakers["test"] | speakers["dev"]) & training.speakers and not speakers["test"] & speakers["dev"]


def test_paralinguistic_questions_are_right_by_construction() -> None:
    for row in LISTS["voice-test"]:
        answer, said = row["references"][0], row["says"]
        assert answer in row["choices"] and len(said) == 1 + (row["kind"] in ("speakers", "loudness"))
        if row["kind"] == "pace":
            low, high = corpus.FAST if answer == "fast" else corpus.SLOW
            assert low <= said[0]["speed"] <= high
        elif row["kind"] == "tone":
            assert said[0]["raw"].endswith("?") == (answer == "question")
        elif row["kind"] == "speakers":
            assert (said[0]["voice"] == said[1]["voice"]) == (answer == "one")
        elif row["kind"] == "loudness":
            assert (row["gains"][1] > row["gains"][0]) == (answer == "louder")
        elif row["kind"] == "accent":
            assert corpus.ACCENT[said[0]["voice"].split(":")[1].split("+")[0]] == answer


@pytest.mark.parametrize(
    ("raw", "lang", "good"),
    [
        ("Tom's here.", "en", True), ("It cost 5 dollars.", "en", False), ("I saw Dr. Who.", "en", False),
        ("The USA won.", "en", False), ("Schöne Grüße!", "de", True),
    ],
)  # fmt: skip
def test_only_what_is_spoken_as_written(raw: str, lang: str, good: bool) -> None:
    assert corpus.speakable(raw, lang) is good


def test_training_begins_where_another_model_ended(
    shipped: Qwen2AudioForConditionalGeneration, processor: object
) -> None:
    """Same tokens, one more layer: the same answer, since a new layer begins as the identity."""
    size = replace(config.SIZES["large"], llm_layers=config.SIZES["large"].llm_layers + 1)
    ids = {t: processor.tokenizer.convert_tokens_to_ids(t) for t in model.Qwen2Audio.special}
    deeper = model.build(model.model_config(size, ids)).eval()
    train.start_from(deeper, processor, pocket.path())
    inputs = processor(text=chat(processor), audio=read(KNOWN[0]), sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        assert torch.allclose(deeper(**inputs).logits, shipped(**inputs).logits, atol=1e-4)
    with safe_open(pocket.path() / "model.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["training"])
    assert f"trained for {facts['step']} steps" in train.begun_from(pocket.path())


@pytest.mark.parametrize("name", config.SIZES)
def test_every_size_may_be_shipped(name: str) -> None:
    kind = family.of_size(name)
    if config.SIZES[name].family == "omniasr" and not hasattr(transformers, "OmniASRConfig"):
        pytest.skip(f"transformers {transformers.__version__} has no OmniASR")
    with torch.device("meta"):
        made = kind.blank(config.SIZES[name], {token: i for i, token in enumerate(kind.special, 1000)})
    count = sum(p.numel() for p in made.parameters())
    assert count <= 12_000_000 and 2 * count <= export.MAX_BYTES


def test_shifted_positions() -> None:
    """Text keeps steps of 1, all audio of a row has one step of its own, and gaps open on either side of it only."""
    audio = torch.zeros(64, 30, dtype=torch.bool)
    audio[:, 5:25] = True
    torch.manual_seed(0)
    assert torch.equal(train.shifted(audio, 0.0), torch.arange(30.0).expand(64, 30))
    steps = train.shifted(audio, 1.0).diff()
    inside = steps[:, 5:24]
    assert torch.allclose(inside, inside[:, :1].expand_as(inside), atol=1e-4)
    assert inside.min() >= train.STRETCH[0] - 1e-4 and inside.max() <= train.STRETCH[1] + 1e-4
    assert inside[:, 0].std() > 0.2  # each row has its own
    assert torch.allclose(steps[:, :4], torch.ones(64, 4)) and torch.allclose(steps[:, 25:], torch.ones(64, 4))
    for gap in (steps[:, 4] - inside[:, 0], steps[:, 24] - 1):
        assert gap.min() > -1e-4 and gap.max() <= train.GAP and gap.std() > 5
    assert 10 < (train.shifted(audio, 0.5)[:, -1] != 29).sum() < 54


def test_shifted_positions_leave_the_audio_in_sight(processor: object) -> None:
    """A gap is no border between sequences: what is heard still tells in the loss, at positions that do so too."""
    prompts = data.Prompts(processor)
    ids = {t: processor.tokenizer.convert_tokens_to_ids(t) for t in model.Qwen2Audio.special}
    torch.manual_seed(0)
    made = model.build(model.model_config(config.SIZES["tiny"], ids)).eval()
    head = model.CTCHead(config.SIZES["tiny"].d_encoder, 3)
    row = [*prompts(config.REQUESTS["transcribe"][0], 25), 300, 301, prompts.end]
    none = torch.zeros(0, dtype=torch.long)
    answer = torch.zeros(1, len(row), dtype=torch.bool)
    answer[:, -3:] = True
    known = torch.tensor([False])
    mel = 2 * torch.randn(2, 1, 100, config.N_MELS)

    def ce(which: int, shift: float, seed: int = 1) -> float:
        batch = data.Batch(
            None, torch.tensor([100]), torch.tensor([row]), answer | True, answer, known, none, torch.tensor([0]), 1.0
        )
        torch.manual_seed(seed)
        with torch.inference_mode():
            return float(train.losses(made, head, batch, mel[which], prompts.audio, 0.0, shift)[0])

    assert ce(0, 1e-9) == pytest.approx(ce(0, 0.0), abs=1e-5)  # all positions as they were
    assert abs(ce(0, 1.0) - ce(1, 1.0)) > 5e-5
    assert abs(ce(0, 1.0) - ce(0, 1.0, seed=2)) > 5e-5


@pytest.mark.parametrize("spec", ["pool@keep=1/2", "ward@keep=1/3+time+sizes", "ward@tolerance=0.5+time+sizes"])
def test_training_at_any_rate_reads_what_the_library_would(processor: object, spec: str) -> None:
    """`--flex` lays a batch out as `compress` does: the same loss, for clips of several lengths."""
    prompts = data.Prompts(processor)
    ids = {t: processor.tokenizer.convert_tokens_to_ids(t) for t in model.Qwen2Audio.special}
    torch.manual_seed(0)
    made = model.build(model.model_config(config.SIZES["tiny"], ids)).eval()
    head = model.CTCHead(config.SIZES["tiny"].d_encoder, 3)
    frames = torch.tensor([100, 68])
    counts = model.frame_lengths(frames)[1].tolist()
    rows = [[*prompts(config.REQUESTS["transcribe"][0], n), 300, 301 + n, prompts.end] for n in counts]
    width = max(map(len, rows))
    tokens = torch.tensor([row + [prompts.pad] * (width - len(row)) for row in rows])
    place, length = torch.arange(width)[None], torch.tensor([[len(row)] for row in rows])
    valid = place < length
    answer = valid & (place >= length - 3)
    mel = torch.randn(2, 100, config.N_MELS).cumsum(1) / 4
    mel[1, 68:] = 0
    none, known = torch.zeros(0, dtype=torch.long), torch.tensor([False, False])
    batch = data.Batch(None, frames, tokens, valid, answer, known, none, torch.tensor([0, 0]), 1.0)
    with torch.inference_mode():
        ours = train.losses(made, head, batch, mel, prompts.audio, 0.0, method=parse(spec))[0]
        whole = torch.nn.functional.pad(mel, (0, 0, 0, 2900)).transpose(1, 2)
        heard = (torch.arange(3000)[None] < frames[:, None]).long()
        labels = tokens.masked_fill(~answer, -100)
        with fewhertz.compress(made, spec) as handle:
            library = made(
                input_ids=tokens, attention_mask=valid.long(), input_features=whole, feature_attention_mask=heard,
                labels=labels,
            ).loss  # fmt: skip
            assert sum(handle.last.after) < sum(counts)
    assert float(ours) == pytest.approx(float(library), abs=1e-5)


def test_rates_are_drawn_anew_for_every_batch() -> None:
    drawn = [flex.drawn(seed) for seed in range(300)]
    assert len({one.spec for one in drawn}) > 250 and 100 < sum(one.corrected for one in drawn) < 200
    keeps = [float(one.keep) for one in drawn if one.keep is not None]
    assert min(keeps) < 0.25 and max(keeps) > 0.8 and all(flex.LEAST - 1e-3 <= keep <= 1 for keep in keeps)
    assert flex.drawn(7).spec == drawn[7].spec


def test_examples_grow_longer() -> None:
    """Short sentences first, then all kinds, growing to 29.5 s; a kind that has none as short is given up."""

    def of(low: float, high: float) -> Callable[[np.random.Generator], data.Item]:
        def draw(rng: np.random.Generator) -> data.Item:
            return data.Item([[data.Stretch(0, 0, int(16_000 * rng.uniform(low, high)), 0)]], "ask", "answer")

        return draw

    made = object.__new__(data.Training)
    made.mix_from = 100
    made.draws, made.shares = [of(1.5, 40), of(9, 40)], np.array([0.5, 0.5])
    made._first = of(0.5, 4)
    assert [made._longest(step) / 16_000 for step in (0, 50, 100, 150, 200, 10_000)] == [1, 2.5, 4, 16.75, 29.5, 29.5]
    for step in (0, 60, 100, 300, 10_000):
        drawn = [made._draw(np.random.default_rng(i), step).longest for i in range(40)]
        assert 0.5 * made._longest(step) < max(drawn) <= made._longest(step)
    made.mix_from = 0
    assert made._longest(0) == 29.5 * 16_000


def test_shares_are_of_known_kinds() -> None:
    assert train.share("words=0.6") == ("words", 0.6)
    with pytest.raises(argparse.ArgumentTypeError, match="no kind of example: 'songs'"):
        train.share("songs=1")


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a machine of one core
def test_a_loader_keeps_the_order_of_rounds() -> None:
    class Numbers:
        mix_from = 10

        def round(self, number: int, step: int, augment: float) -> tuple[int, int, float]:
            return number, step, augment

    for workers in (0, 2):
        loader = torch.utils.data.DataLoader(train.Rounds(Numbers(), 1), batch_size=None, num_workers=workers)
        got = list(itertools.islice(iter(loader), 12))
        assert [number for number, _, _ in got] == list(range(1, 13))
        assert all(step == number * data.BATCHES for number, step, _ in got)
        assert got[0][2] == 0.0 and got[-1][2] == 1.0


def test_packed_folders_stay_within_their_limit(tmp_path: Path) -> None:
    files = []
    for i, size in enumerate((50, 30, 30, 20, 5)):
        files.append(tmp_path / str(i))
        files[-1].write_bytes(b"x" * size)
    groups = pack.pieces(files, 60)
    assert sorted(f.name for g in groups for f in g) == list("01234")
    assert all(sum(f.stat().st_size for f in g) <= 60 for g in groups) and len(groups) == 3
    with pytest.raises(ValueError, match="alone has"):
        pack.pieces(files, 40)


def test_a_caption_names_its_sounds() -> None:
    assert sounds.named("a dog barks followed by falling rain") == {"dog bark", "rain"}
    assert sounds.named("nothing at all") == set()


def test_orthogonalise() -> None:
    matrices = torch.randn(2, 8, 24, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(optimiser.orthogonalise(matrices))
    assert values.min() > 0.4 and values.max() < 1.4


def test_exported_files_are_all_there() -> None:
    names = "config.json generation_config.json processor_config.json tokenizer.json tokenizer_config.json"
    for name in [*names.split(), "chat_template.jinja", "MODEL_CARD.md"]:
        assert (pocket.path() / name).stat().st_size
