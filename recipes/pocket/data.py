"""Batches of examples from the bank of clips. Rounds of batches are a function of (seed, round) alone, so that a
resumed run hears what an uninterrupted one would have heard, with no state to store.
"""

from __future__ import annotations

import functools
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from . import config, corpus, sounds
from .config import LONGEST, N_MELS, REQUESTS, SAMPLE_RATE, SHARES, SIZES, WORDS
from .corpus import read_jsonl
from .family import Family, of_size
from .features import frames_of
from .hear import BANDS, COLOURS, NOISE_SECONDS, STRETCHES, Clips

BATCHES = 8  # of a round, about


class Bank:
    """All clips to train on, or those of the lists, one after the other. Rows keep what is known of each; `parts` holds
    the rows of each part.

    The audio is read once, into memory or onto a GPU, by `load`: processes that plan batches need the rows alone.
    """

    def __init__(self, folder: Path, lists: bool = False) -> None:
        self.files: list[Path] = []
        self.rows: list[dict] = []
        self.parts: dict[str, list[int]] = {}
        self.size = 0
        for index in sorted(folder.glob("*.jsonl")):
            if lists != index.stem.endswith(("-dev", "-test")):
                continue
            rows = read_jsonl(index)
            for row in rows:
                row["start"] += self.size
            self.parts[index.stem] = [*range(len(self.rows), len(self.rows) + len(rows))]
            self.rows += rows
            self.files.append(index.with_suffix(".i16"))
            self.size += self.files[-1].stat().st_size // 2

    def kind(self, kind: str) -> list[list[int]]:
        """Rows of synthetic speech of a kind, by voice, the slow first."""
        found: dict[str, list[int]] = {}
        for name, rows in self.parts.items():
            if name.startswith((f"{kind}-espeak", f"{kind}-flite")):
                for i in rows:
                    found.setdefault(self.rows[i]["voice"], []).append(i)
        return [*found.values()]

    def load(self, device: str) -> Tensor:
        """The audio of all clips, int16."""
        out = torch.empty(self.size, dtype=torch.int16, device=device)
        at = 0
        for file in self.files:
            wave = np.fromfile(file, "<i2")
            out[at : at + len(wave)] = torch.from_numpy(wave).to(device)
            at += len(wave)
        return out


@dataclass(frozen=True)
class Stretch:
    """A stretch of a clip of the bank at its place in an example; times in samples, gain in dB."""

    row: int
    begin: int
    samples: int
    at: int
    gain: float = 0.0


@dataclass
class Item:
    """One example: one clip or several of a prompt, each of its stretches, and how long it is."""

    clips: list[list[Stretch]]
    request: str  # what is asked
    text: str  # what is to be answered
    phonemes: list[list[str]] | None = None  # of each clip; None: speech whose words are not known
    people: bool = False  # whether people are heard
    row: dict = field(default_factory=dict)  # of the list that it comes from
    tail: int = 0  # samples of silence after the last stretch

    def samples(self, clip: int) -> int:
        return max(s.at + s.samples for s in self.clips[clip]) + self.tail

    @property
    def longest(self) -> int:
        return max(self.samples(i) for i in range(len(self.clips)))


@dataclass
class Batch:
    clips: Clips
    frames: Tensor  # [c] what the encoder reads of it, by `Family.frames_of`
    ids: Tensor  # [b, n] prompt with its audio placeholders, then (in training) the answer; padded
    valid: Tensor  # [b, n] bool
    answer: Tensor  # [b, n] bool: positions whose token is to be predicted
    known: Tensor  # [c] bool: whether the phonemes are known
    phonemes: Tensor  # [sum of lengths] CTC targets, 1-based
    phoneme_lengths: Tensor  # [c]
    seconds: float  # of audio

    def to(self, device: str) -> Batch:
        def moved(value: object) -> object:
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        clips = Clips(**{k: moved(v) for k, v in vars(self.clips).items()})
        return Batch(clips, **{k: moved(v) for k, v in vars(self).items() if k != "clips"})


def left_padded(rows: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Rows of token ids as one tensor, and which of it are theirs."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows])
    valid = torch.tensor([[False] * (width - len(r)) + [True] * len(r) for r in rows])
    return ids, valid


class Prompts:
    """Token ids of the chat template around clips; each request is tokenised once."""

    def __init__(self, processor: object) -> None:
        self.tok: PreTrainedTokenizerBase = processor.tokenizer
        self.audio = self.tok.convert_tokens_to_ids(processor.audio_token)
        self.end = self.tok.eos_token_id
        self.pad = self.tok.pad_token_id
        self.processor = processor
        self.parts = functools.cache(self._parts)

    def _parts(self, request: str, clips: int) -> list[list[int]]:
        """What stands before, between and after the clips."""
        content = [{"type": "audio", "audio": ""}] * clips + [{"type": "text", "text": request}]
        chat = [{"role": "user", "content": content}]
        frame = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        return [self.tok(part)["input_ids"] for part in frame.split(self.processor.audio_token)]

    def __call__(self, request: str, *audio_tokens: int) -> list[int]:
        parts = self.parts(request, len(audio_tokens))
        out = [*parts[0]]
        for count, part in zip(audio_tokens, parts[1:], strict=True):
            out += [self.audio] * count + part
        return out


def load_table(path: Path, rows: list[dict]) -> dict[str, int]:
    """Phoneme names to classes, 1-based; rare ones (fewer than 20 uses) are dropped from targets.

    Made once for a run, then read, since the CTC head depends on it.
    """
    if not path.exists():
        count = Counter(p for r in rows for p in r.get("phonemes", ()))
        names = sorted(name for name, n in count.items() if n >= 20)
        path.write_text(json.dumps({name: i + 1 for i, name in enumerate(names)}))
    return json.loads(path.read_text())


def listed_items(bank: Bank, name: str) -> list[Item]:
    """The items of a list of dev or test, from its part of the bank."""
    out = []
    for i in bank.parts[name]:
        row = bank.rows[i]
        asked = row.get("prompt") or REQUESTS[row["task"]][0]
        whole = Stretch(i, 0, row["samples"], 0)
        out.append(Item([[whole]], asked, row["references"][0], row=row))
    return out


def planned(items: list[Item], bank: Bank, rng: np.random.Generator | None, augment: float) -> Clips:
    """How the clips of `items` are heard: as they are, or with `augment` in 0..1 (more for people)."""
    stretches, clips = [], []
    for item in items:
        strong = augment * (1.0 if item.people else 0.75)
        for clip, some in enumerate(item.clips):
            row = _heard_as(rng, strong) if rng is not None and augment else _as_it_is()
            step = row.pop("step")
            if item.samples(clip) / step > LONGEST * SAMPLE_RATE:
                step = 1.0  # slower, it would be longer than the encoder hears
            size = int(item.samples(clip) / step)
            for s in some:
                at = int(s.at / step)
                count = s.samples if step == 1 else int((s.samples - 2) / step)
                count = min(count, size - at)
                if count > 0:
                    start = bank.rows[s.row]["start"] + s.begin
                    stretches.append((start, count, step, len(clips), at, 10 ** (s.gain / 20)))
            clips.append(row | {"samples": size} | _masks(rng, strong, frames_of(size)))
    columns = [*zip(*stretches, strict=True)]
    kinds = (torch.long, torch.long, torch.double, torch.long, torch.long, torch.float)
    spans = [torch.tensor(c, dtype=k) for c, k in zip(columns, kinds, strict=True)]
    whole = {k: torch.tensor([c[k] for c in clips]) for k in clips[0]}
    return Clips(*spans, **{k: v.float() if v.is_floating_point() else v for k, v in whole.items()})


def _as_it_is() -> dict:
    return {"step": 1.0, "noise": float("inf"), "colour": 0, "offset": 0, "room": 0.0, "wet": 0.0,
            "cutoff": SAMPLE_RATE / 2, "tilt": 0.0, "warp": 1.0}  # fmt: skip


def _heard_as(rng: np.random.Generator, strong: float) -> dict:
    out = _as_it_is()
    chance = rng.random(6)
    if chance[0] < 0.6 * strong:
        out["step"] = float(rng.uniform(0.88, 1.14))
    if chance[1] < 0.7 * strong:
        out |= {"noise": float(rng.uniform(8, 50)), "colour": int(rng.integers(COLOURS))}
        out["offset"] = int(rng.integers(NOISE_SECONDS * SAMPLE_RATE))
    if chance[2] < 0.25 * strong:
        out |= {"room": float(rng.uniform(0.1, 0.7)), "wet": float(rng.uniform(0.02, 0.5))}
    if chance[3] < 0.2 * strong:
        out["cutoff"] = float(rng.uniform(3200, 7600))
    if chance[4] < 0.3 * strong:
        out["tilt"] = float(rng.uniform(-3, 3))
    if chance[5] < 0.4 * strong:
        out["warp"] = float(rng.uniform(0.88, 1.12))
    return out


def _masks(rng: np.random.Generator | None, strong: float, frames: int) -> dict:
    bands, gaps = np.zeros((BANDS, 2), int), np.zeros((STRETCHES, 2), int)
    if rng is not None and strong:
        for band in bands:
            width = int(rng.integers(0, 1 + round(14 * strong)))
            band[:] = (start := int(rng.integers(0, N_MELS - width))), start + width
        for gap in gaps[: min(STRETCHES, 1 + frames // 250)]:
            width = int(rng.integers(0, 1 + round(min(22, frames // 8) * strong)))
            gap[:] = (start := int(rng.integers(0, max(1, frames - width)))), start + width
    return {"bands": bands.tolist(), "gaps": gaps.tolist()}


class Training:
    """Plans training batches.

    Until the size's ``mix_from``: single synthetic English sentences, first short ones, so that the LLM finds the
    alignment. Then everything, by ``shares``; examples grow to their full length over as many steps again.
    """

    def __init__(
        self, size: str, processor: object, seed: int, seconds: float, shares: dict[str, float] = SHARES
    ) -> None:
        self.seed, self.budget, self.mix_from = seed, int(seconds * SAMPLE_RATE), SIZES[size].mix_from
        self.family = of_size(size)
        folder = config.cache(size)
        self.bank = bank = Bank(folder)
        self.rows = bank.rows
        self.spoken = {kind: bank.kind(kind) for kind in config.SPOKEN}
        if not self.spoken["english"]:
            raise FileNotFoundError(f"no audio in {folder}: run python -m recipes.pocket.prepare --size {size}")
        self.prompts = Prompts(processor)
        self.table: dict[str, int] = {}
        self.speakers = [*self._grouped(f"real-{WORDS}", "speaker").values()]
        self.digits = [d for d in (self._digits(s) for s in self.speakers) if d]
        self.words = corpus.common_words([self.rows[i] for i in bank.parts.get(f"real-{WORDS}", [])])
        self.people = {
            lang: [[*self._grouped(f"real-{tar}", "speaker").values()] for tar in tars if f"real-{tar}" in bank.parts]
            for lang, tars in config.RECORDED.items()
        }
        self.sounds = {
            label: [self.rows[i] | {"id": str(i)} for i in clips]
            for label, clips in self._grouped("real-esc10", "label").items()
        }
        self.orders = bank.parts.get("real-picovoice-barista", [])
        self.menu = corpus.order_menu([self.rows[i] for i in self.orders])
        self.ages = self._ages()
        self.by_voice = self._voices()
        draws: dict[str, tuple[Callable[[np.random.Generator], Item], object]] = {
            "english": (self._english, self.spoken["english"]),
            "spell": (self._spell, self.spoken["spell"]),
            "words": (self._words, self.speakers),
            "recorded": (self._recorded, self.people["en"]),
            "german": (self._german, self.spoken["german"]),
            "translate": (self._translate, self.spoken["german"]),
            "describe": (self._describe, self.sounds),
            "answer": (self._answer, self.sounds),
            "voice": (self._voice, self.spoken["tone"]),
        }
        found = {k: draw for k, (draw, needed) in draws.items() if needed and k in shares}
        self.draws = [*found.values()]
        self.shares = np.array([shares[k] for k in found])
        self.shares /= self.shares.sum()

    def _grouped(self, part: str, field: str) -> dict[str, list[int]]:
        out: dict[str, list[int]] = {}
        for i in self.bank.parts.get(part, []):
            out.setdefault(self.rows[i][field], []).append(i)
        return dict(sorted(out.items()))

    def _digits(self, speaker: list[int]) -> list[int]:
        return [i for i in speaker if self.rows[i]["text"] in corpus.ONES]

    def _ages(self) -> dict[str, list[int]]:
        out: dict[str, list[int]] = {"child": [], "adult": []}
        for i in self.bank.parts.get("real-speechocean762", []):
            if who := corpus.who_of(self.rows[i]):
                out[who].append(i)
        return out

    def _voices(self) -> dict[str, list[int]]:
        """Rows of synthetic English for paralinguistic questions, by what they are an example of."""
        out: dict[str, list[int]] = {}
        for rows in (r for kind in ("english", "tone") for r in self.spoken[kind]):
            for i in rows:
                row = self.rows[i]
                plain = row["voice"].startswith("espeak")
                accent = corpus.ACCENT.get(row["voice"].split(":")[1].split("+")[0]) if plain else None
                for name, is_one in (
                    ("fast", row["speed"] >= corpus.FAST[0]),
                    ("slow", row["speed"] <= corpus.SLOW[1]),
                    ("high", row["pitch"] >= corpus.HIGH[0] and corpus.is_mans(row["voice"])),
                    ("low", row["pitch"] <= corpus.LOW[1] and corpus.is_mans(row["voice"])),
                    (accent or "", accent is not None),
                ):
                    if is_one:
                        out.setdefault(name, []).append(i)
        for rows in self.spoken["tone"]:
            for i in rows:
                out.setdefault("question" if self.rows[i]["asks"] else "statement", []).append(i)
        return out

    def _request(self, rng: np.random.Generator, task: str) -> str:
        """The first wording for half of the examples."""
        words = REQUESTS[task]
        return words[rng.integers(len(words))] if rng.random() < 0.5 else words[0]

    def _speech(
        self,
        rng: np.random.Generator,
        rows: list[int],
        gaps: list[float],
        task: str = "transcribe",
        people: bool = False,
    ) -> Item:
        """Whole clips, each after its gap in seconds; now and then as several clips of one prompt."""
        lead = float(rng.uniform(0, 1.0)) if rng.random() < 0.4 else 0.0  # so that no time is special
        parted = len(rows) > 1 and rng.random() < 0.06 and self.family.several
        cut = int(rng.integers(1, len(rows))) if parted else None
        clips: list[list[Stretch]] = [[]]
        spoken: list[list[str]] = [[]]
        at = 0
        for k, (i, gap) in enumerate(zip(rows, [lead, *gaps], strict=True)):
            if k == cut:
                clips, spoken, at = [*clips, []], [*spoken, []], 0
            at += int(gap * SAMPLE_RATE) if clips[-1] or k == 0 else 0
            clips[-1].append(Stretch(i, 0, self.rows[i]["samples"], at))
            spoken[-1] += self.rows[i]["phonemes"]
            at += self.rows[i]["samples"]
        known = [self.rows[i] for i in rows]
        texts = [r["text"] if task == "transcribe" else r["english"][rng.integers(len(r["english"]))] for r in known]
        if task == "transcribe" and rng.random() < 0.08 and not people and self.sounds:
            clips = [self._over(rng, clip) for clip in clips]
        item = Item(clips, self._request(rng, task), " ".join(texts), spoken, people)
        item.tail = int(rng.uniform(0, 1.2) * SAMPLE_RATE) if rng.random() < 0.4 else 0
        return item

    def _over(self, rng: np.random.Generator, clip: list[Stretch]) -> list[Stretch]:
        """A clip with a sound softly behind it."""
        label = [*self.sounds][rng.integers(len(self.sounds))]
        row = self.sounds[label][rng.integers(len(self.sounds[label]))]
        end = max(s.at + s.samples for s in clip)
        begin = int(row["begin"] * SAMPLE_RATE)
        size = min(end, int((row["end"] - row["begin"]) * SAMPLE_RATE))
        return [
            *clip,
            Stretch(int(row["id"]), begin, size, int(rng.integers(0, end - size + 1)), float(rng.uniform(-30, -14))),
        ]

    def _gaps(self, rng: np.random.Generator, count: int) -> list[float]:
        """Pauses in seconds: short ones, or true ones."""
        most = 0.4 if rng.random() < 0.45 else 2.0
        return rng.uniform(0.05, most, size=count).tolist()

    def _several(
        self, rng: np.random.Generator, voice: list[int], seconds: float, most: int
    ) -> tuple[list[int], list[float]]:
        """Clips of one voice and of like pace, and their pauses, until so many seconds are full."""
        near = min(len(voice), 60)
        first = int(rng.integers(len(voice) - near + 1))
        rows: list[int] = []
        gaps = self._gaps(rng, most)
        length = 0.0
        for k in rng.permutation(near)[:most]:
            i = voice[first + int(k)]
            more = self.rows[i]["samples"] / SAMPLE_RATE + (gaps[len(rows) - 1] if rows else 0.0)
            if rows and length + more > seconds:
                break
            rows.append(i)
            length += more
        return rows, gaps[: len(rows) - 1]

    def _voice_of(self, rng: np.random.Generator, kind: str) -> list[int]:
        some = self.spoken[kind]
        return some[rng.integers(len(some))]

    def _english(self, rng: np.random.Generator) -> Item:
        chance = rng.random()
        seconds, most = (
            (0.0, 1)
            if chance < 0.4
            else (float(rng.uniform(4, 12)), 4)
            if chance < 0.7
            else (float(rng.uniform(10, 27.5)), 14)
        )
        return self._speech(rng, *self._several(rng, self._voice_of(rng, "english"), seconds, most))

    def _first(self, rng: np.random.Generator) -> Item:
        return self._speech(rng, *self._several(rng, self._voice_of(rng, "english"), 0.0, 1))

    def _spell(self, rng: np.random.Generator) -> Item:
        return self._speech(rng, *self._several(rng, self._voice_of(rng, "spell"), float(rng.uniform(0, 9)), 3))

    def _words(self, rng: np.random.Generator) -> Item:
        digits = self.digits and rng.random() < 0.3
        some = self.digits if digits else self.speakers
        clips = some[rng.integers(len(some))]
        if rng.random() < 0.3:  # the same words again and again: to be counted, not continued
            clips = rng.choice(clips, size=rng.integers(1, 4)).tolist()
        clips = rng.choice(clips, size=rng.integers(1, 11)).tolist()
        return self._speech(rng, clips, rng.uniform(0, 0.5, size=len(clips) - 1).tolist(), people=True)

    def _people_say(self, rng: np.random.Generator, lang: str) -> Item:
        """One or several utterances of one speaker; speakers are drawn alike, of larger sets more often."""
        sets = self.people[lang]
        size = np.array([len(speakers) for speakers in sets], float) ** 0.7
        speakers = sets[rng.choice(len(sets), p=size / size.sum())]
        speaker = speakers[rng.integers(len(speakers))]
        seconds, most = (0.0, 1) if rng.random() < 0.65 else (float(rng.uniform(6, 27.5)), 8)
        return self._speech(rng, *self._several(rng, speaker, seconds, most), people=True)

    def _recorded(self, rng: np.random.Generator) -> Item:
        return self._people_say(rng, "en")

    def _german(self, rng: np.random.Generator) -> Item:
        if rng.random() < 0.2 and self.people["de"]:
            return self._people_say(rng, "de")
        return self._speech(rng, *self._several(rng, self._voice_of(rng, "german"), float(rng.uniform(0, 10)), 4))

    def _translate(self, rng: np.random.Generator) -> Item:
        rows, gaps = self._several(rng, self._voice_of(rng, "german"), float(rng.uniform(0, 8)), 3)
        return self._speech(rng, rows, gaps, "translate")

    def _scene(self, scene: sounds.Scene) -> list[Stretch]:
        hz = SAMPLE_RATE
        return [
            Stretch(int(p.clip), round(p.begin * hz), round(p.seconds * hz), round(p.at * hz), p.gain)
            for p in scene.pieces
        ]

    def _describe(self, rng: np.random.Generator) -> Item:
        draw = random.Random(int(rng.integers(2**32)))
        scene = sounds.draw_scene(draw, self.sounds)
        said = draw.choice(sounds.captions(scene, draw))
        return Item([self._scene(scene)], self._request(rng, "describe"), said, [[]], people=True)

    def _answer(self, rng: np.random.Generator) -> Item:
        draw = random.Random(int(rng.integers(2**32)))
        kind = draw.choices(("which", "first", "count", "word", "who", "order"), (3, 2, 2, 3, 1, 2))[0]
        phonemes: list[list[str]] | None
        if kind == "order" and self.orders:
            i = draw.choice(self.orders)
            clip, phonemes = [Stretch(i, 0, self.rows[i]["samples"], 0)], None
            asked = draw.choice(corpus.order_questions(self.rows[i], self.menu, draw))
        elif kind == "word" and self.words:
            item = self._words(rng)
            clip = item.clips[0][:3]
            rows = [self.rows[s.row] for s in clip]
            phonemes = [[p for r in rows for p in r["phonemes"]]]
            asked = corpus.word_question([r["text"] for r in rows], self.words, draw)
        elif kind == "who" and self.ages["child"]:
            who = draw.choice(("child", "child", "adult", "adult", "dog", "rooster"))
            if who in self.ages:
                i = draw.choice(self.ages[who])
                clip, phonemes = [Stretch(i, 0, self.rows[i]["samples"], 0)], [self.rows[i]["phonemes"]]
            else:
                label = sounds.label_of(who)
                clip = self._scene(sounds.draw_scene(draw, {label: self.sounds[label]}, most=1))
                phonemes = [[]]
            asked = corpus.who_question(who, draw)
        else:
            scene = sounds.draw_scene(draw, self.sounds, most=4 if kind == "count" else 3)
            clip, phonemes = self._scene(scene), [[]]
            asked = sounds.question(scene, kind, draw)
        return Item([clip], asked[0], asked[2], phonemes, people=True)

    def _voice(self, rng: np.random.Generator) -> Item:
        """Paralinguistic questions of synthetic speech."""
        kinds = [*corpus.VOICE]
        kind = kinds[rng.integers(len(kinds))]
        options = corpus.VOICE[kind][1]
        answer = options[rng.integers(len(options))]
        if answer in self.by_voice:
            rows = [self.by_voice[answer][rng.integers(len(self.by_voice[answer]))]]
        else:
            voice = self._voice_of(rng, "english")
            rows = rng.choice(voice, size=2).tolist()
            if answer == "two":
                rows[1] = int(rng.choice(self._voice_of(rng, "english")))
                while self.rows[rows[1]]["voice"] == self.rows[rows[0]]["voice"]:
                    rows[1] = int(rng.choice(self._voice_of(rng, "english")))
        item = self._speech(rng, rows, rng.uniform(0.2, 1.0, size=len(rows) - 1).tolist())
        clips = [s for clip in item.clips for s in clip if s.row in rows]  # none of what may sound behind them
        if len(clips) > 1:  # in one clip whatever was drawn, one after the other
            gain = float(rng.uniform(*corpus.LOUDER)) if kind == "loudness" else float(rng.uniform(-2, 2))
            first = Stretch(clips[0].row, 0, clips[0].samples, 0, -gain if answer == "louder" else 0.0)
            at = first.samples + int(rng.uniform(0.2, 1.0) * SAMPLE_RATE)
            clips = [first, Stretch(clips[1].row, 0, clips[1].samples, at, 0.0 if answer == "louder" else -gain)]
        asked = corpus.voice_question(kind, answer)
        phonemes = [[p for s in clips for p in self.rows[s.row]["phonemes"]]]
        return Item([clips], asked[0], answer, phonemes)

    def _longest(self, step: int) -> int:
        """Samples of the longest clip."""
        seconds = 1.0 + 3.0 * step / max(1, self.mix_from)  # from 1 s on
        if step >= self.mix_from:
            grown = min(1.0, (step - self.mix_from) / max(1, self.mix_from)) if self.mix_from else 1.0
            seconds = 4.0 + (LONGEST - 4.0) * grown
        return int(seconds * SAMPLE_RATE)

    def _draw(self, rng: np.random.Generator, step: int) -> Item:
        limit = self._longest(step)
        while True:
            kind = self._first if step < self.mix_from else self.draws[rng.choice(len(self.draws), p=self.shares)]
            for _ in range(100):  # then another kind: this one may have none as short
                item = kind(rng)
                if item.longest <= limit:
                    return item

    def round(self, number: int, step: int, augment: float, rank: int = 0) -> list[Batch]:
        """Batches of clips of like length, in random order. ``augment`` in 0..1; ``rank`` of a training process."""
        rng = np.random.default_rng([self.seed, number, rank])
        items, full = [], 0
        while full < BATCHES * self.budget * 0.9:
            items.append(self._draw(rng, step))
            full += items[-1].longest * len(items[-1].clips)
        items.sort(key=lambda item: item.longest)
        groups: list[list[Item]] = [[]]
        for item in items:
            clips = sum(len(i.clips) for i in groups[-1]) + len(item.clips)
            if groups[-1] and clips * item.longest > self.budget:
                groups.append([])
            groups[-1].append(item)
        order = rng.permutation(len(groups))
        return [self._collate(groups[k], self.bank, rng, augment) for k in order]

    def _collate(self, items: list[Item], bank: Bank, rng: np.random.Generator | None, augment: float) -> Batch:
        clips = planned(items, bank, rng, augment)
        lengths = clips.samples.tolist()
        frames = torch.tensor([self.family.frames_of(n) for n in lengths])
        tokens = self.family.lengths(frames)[1].tolist()
        rows, answers, targets, known = [], [], [], []
        at = 0
        for item in items:
            prompt = self.prompts(item.request, *tokens[at : at + len(item.clips)])
            at += len(item.clips)
            answer = [*self.prompts.tok(item.text)["input_ids"], self.prompts.end]
            rows.append(prompt + answer)
            answers.append(len(answer))
            for spoken in item.phonemes if item.phonemes is not None else [[] for _ in item.clips]:
                targets.append([self.table[p] for p in spoken if p in self.table])
                known.append(item.phonemes is not None)
        width = max(map(len, rows))
        ids = torch.tensor([r + [self.prompts.pad] * (width - len(r)) for r in rows])
        place = torch.arange(width)[None]
        size, spoken = torch.tensor([[len(r)] for r in rows]), torch.tensor([[n] for n in answers])
        valid = place < size
        answer = valid & (place >= size - spoken)
        flat = torch.tensor([p for row in targets for p in row], dtype=torch.long)
        return Batch(clips, frames, ids, valid, answer, torch.tensor(known), flat,
                     torch.tensor([len(t) for t in targets]), sum(lengths) / SAMPLE_RATE)  # fmt: skip


def evaluation_batches(
    items: list[Item], bank: Bank, prompts: Prompts, family: Family, seconds: float
) -> list[tuple[list[int], Batch]]:
    """Batches for generation (left-padded prompts, no answer), with the indices of their items."""
    order = sorted(range(len(items)), key=lambda i: items[i].longest)
    groups: list[list[int]] = [[]]
    for i in order:
        if groups[-1] and items[i].longest * (len(groups[-1]) + 1) > seconds * SAMPLE_RATE:
            groups.append([])
        groups[-1].append(i)
    out = []
    for group in groups:
        clips = planned([items[i] for i in group], bank, None, 0.0)
        frames = torch.tensor([family.frames_of(n) for n in clips.samples.tolist()])
        tokens = family.lengths(frames)[1].tolist()
        rows = [prompts(items[i].request, n) for i, n in zip(group, tokens, strict=True)]
        ids, valid = left_padded(rows, prompts.pad)
        none = torch.zeros(0, dtype=torch.long)
        known = torch.zeros(len(group), dtype=torch.bool)
        out.append((group, Batch(clips, frames, ids, valid, torch.zeros_like(valid), known, none, none, 0.0)))
    return out
