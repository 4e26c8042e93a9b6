"""Batches of examples from the cache. A batch is a function of (seed, step) alone, so that a resumed run sees what an
uninterrupted one would have seen, with no state to store.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
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
from .config import FRAME_HZ, N_MELS, REQUESTS, SHARES, SIZES, WORDS
from .corpus import read_jsonl
from .features import FLOOR, TAIL, normalise, silence
from .model import frame_lengths


class Part:
    """One part of the cache: rows and their features."""

    def __init__(self, path: Path) -> None:
        self.rows = read_jsonl(path.with_suffix(".jsonl"))
        self.features = np.memmap(path.with_suffix(".f16"), np.float16, "r").reshape(-1, N_MELS)

    def raw(self, clip: int, begin: int, frames: int) -> Tensor:
        """Raw log-mel of a stretch of a clip and what follows it ``[frames + TAIL, n_mels]``, float32."""
        start = self.rows[clip]["start"] + begin
        return torch.from_numpy(self.features[start : start + frames + TAIL].astype(np.float32))


class Parts:
    """Parts of which one is drawn, each as often as it has clips."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        sizes = np.array([len(p.rows) for p in parts], float)
        self.shares = sizes / max(1.0, sizes.sum())

    def draw(self, rng: np.random.Generator) -> Part:
        return self.parts[rng.choice(len(self.parts), p=self.shares)]


AUGMENT = 0.4  # strength of warps, noise and masks at the end of their fading in
LONGEST = 15  # seconds of a training example
SHORT = 2.5  # seconds of the longest one where they grow, once all kinds are mixed


@dataclass
class Stretch:
    """A stretch of a cached clip at its place in an example; times in frames, gain in dB."""

    part: Part
    clip: int
    begin: int
    frames: int
    at: int
    gain: float = 0.0


@dataclass
class Item:
    """One example before its features are read."""

    stretches: list[Stretch]
    request: str  # what is asked
    text: str  # what is to be answered
    phonemes: list[str] | None = None  # None: speech whose words are not known
    row: dict = field(default_factory=dict)  # of the list that it comes from

    @property
    def frames(self) -> int:
        return max(s.at + s.frames for s in self.stretches)


def whole(part: Part, clip: int, at: int = 0) -> Stretch:
    return Stretch(part, clip, 0, part.rows[clip]["frames"], at)


def in_a_row(part: Part, clips: list[int], gaps: list[int]) -> list[Stretch]:
    """Whole clips, each after its gap in frames."""
    out, at = [], 0
    for clip, gap in zip(clips, gaps, strict=True):
        out.append(whole(part, clip, at + gap))
        at += gap + out[-1].frames
    return out


def listed_items(path: Path) -> list[Item]:
    """The items of a list of dev or test, from its part of the cache."""
    part = Part(path)
    asked = ((r, r.get("prompt") or REQUESTS[r["task"]][0]) for r in part.rows)
    return [Item([whole(part, i)], ask, row["references"][0], row=row) for i, (row, ask) in enumerate(asked)]


@dataclass
class Batch:
    mel: Tensor  # [b, t, n_mels], padded with each clip's silence, t a multiple of 4
    frames: Tensor  # [b] valid frames
    ids: Tensor  # [b, n] prompt with its audio placeholders, then (in training) the answer; padded
    valid: Tensor  # [b, n] bool
    answer: Tensor  # [b, n] bool: positions whose token is to be predicted
    known: Tensor  # [b] bool: whether the phonemes are known
    phonemes: Tensor  # [sum of lengths] CTC targets, 1-based
    phoneme_lengths: Tensor  # [b]


def stack(features: list[Tensor], lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Normalised features of different lengths (with what follows the clip) → one padded tensor and the lengths."""
    longest = math.ceil((max(lengths) + TAIL) / 4) * 4
    mel = torch.empty(len(features), longest, N_MELS)
    for i, x in enumerate(features):
        mel[i, : len(x)] = x
        mel[i, len(x) :] = silence(x)
    return mel, torch.tensor(lengths)


def left_padded(rows: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Rows of token ids as one tensor, and which of it are theirs."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows])
    valid = torch.tensor([[False] * (width - len(r)) + [True] * len(r) for r in rows])
    return ids, valid


class Prompts:
    """Token ids of the chat template around a clip; each request is tokenised once."""

    def __init__(self, processor: object) -> None:
        self.tok: PreTrainedTokenizerBase = processor.tokenizer
        self.audio = self.tok.convert_tokens_to_ids("<|AUDIO|>")
        self.end = self.tok.convert_tokens_to_ids("<|im_end|>")
        self.pad = self.tok.pad_token_id
        content = [{"type": "audio", "audio": ""}, {"type": "text", "text": "{request}"}]
        self.frame = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        self.parts = functools.cache(self._parts)

    def _parts(self, request: str) -> tuple[list[int], list[int]]:
        before, after = self.frame.replace("{request}", request).split("<|AUDIO|>")
        return self.tok(before)["input_ids"], self.tok(after)["input_ids"]

    def __call__(self, request: str, audio_tokens: int) -> list[int]:
        before, after = self.parts(request)
        return before + [self.audio] * audio_tokens + after


def load_table(path: Path, parts: list[Part]) -> dict[str, int]:
    """Phoneme names to classes, 1-based; rare ones (fewer than 20 uses) are dropped from targets.

    Made once for a run, then read, since the CTC head depends on it.
    """
    if not path.exists():
        count = Counter(p for part in parts for r in part.rows for p in r.get("phonemes", ()))
        names = sorted(name for name, n in count.items() if n >= 20)
        path.write_text(json.dumps({name: i + 1 for i, name in enumerate(names)}))
    return json.loads(path.read_text())


class Training:
    """Draws training batches.

    Stage 0 (until the size's ``mix_from``): single synthetic English sentences, first short ones, so that the LLM finds
    the alignment. Stage 1: everything, by ``shares``; over its first ``lengthen`` steps the longest grow as well.
    """

    def __init__(
        self, size: str, processor: object, seed: int, seconds: float, shares: dict[str, float] = SHARES
    ) -> None:
        self.seed, self.budget, self.mix_from = seed, int(seconds * FRAME_HZ), SIZES[size].mix_from
        self.lengthen = 0
        folder = config.cache(size)
        self.spoken = {kind: Parts([Part(p) for p in config.spoken_parts(size, kind)]) for kind in config.SPOKEN}
        if not self.spoken["english"].parts:
            raise FileNotFoundError(f"no features in {folder}: run python -m recipes.pocket.prepare --size {size}")
        tars = (*itertools.chain(*config.RECORDED.values()), WORDS, "esc10", "picovoice-barista")
        self.real = {t: Part(path) for t in tars if (path := folder / f"real-{t}.jsonl").exists()}
        self.people_say = {
            lang: Parts([self.real[t] for t in tars if t in self.real]) for lang, tars in config.RECORDED.items()
        }
        self.parts = [p for some in self.spoken.values() for p in some.parts] + [*self.real.values()]
        self.prompts = Prompts(processor)
        self.table: dict[str, int] = {}
        self.speakers = [*self._grouped(WORDS, "speaker").values()]
        self.words = corpus.common_words(self.real[WORDS].rows) if WORDS in self.real else []
        self.sounds = {
            label: [self.real["esc10"].rows[i] | {"id": str(i)} for i in clips]
            for label, clips in self._grouped("esc10", "label").items()
        }
        self.menu = corpus.order_menu(self.real["picovoice-barista"].rows if "picovoice-barista" in self.real else [])
        self.people = self._people()
        draws: dict[str, tuple[Callable[[np.random.Generator], Item], object]] = {
            "english": (self._english, self.spoken["english"].parts),
            "long": (self._long, self.spoken["long"].parts),
            "words": (self._words, self.speakers),
            "recorded": (self._recorded, self.people_say["en"].parts),
            "french": (self._french, self.spoken["french"].parts),
            "german": (self._german, self.spoken["german"].parts),
            "translate": (self._translate, self.spoken["german"].parts),
            "describe": (self._describe, self.sounds),
            "answer": (self._answer, self.sounds),
        }
        found = {k: draw for k, (draw, needed) in draws.items() if needed and k in shares}
        self.draws = [*found.values()]
        self.shares = np.array([shares[k] for k in found])
        self.shares /= self.shares.sum()

    def _grouped(self, tar: str, field: str) -> dict[str, list[int]]:
        out: dict[str, list[int]] = {}
        for i, row in enumerate(self.real[tar].rows if tar in self.real else []):
            out.setdefault(row[field], []).append(i)
        return dict(sorted(out.items()))

    def _people(self) -> dict[str, list[int]]:
        out: dict[str, list[int]] = {"child": [], "adult": []}
        for i, row in enumerate(self.real["speechocean762"].rows if "speechocean762" in self.real else []):
            if (who := corpus.who_of(row)) and row["frames"] <= LONGEST * FRAME_HZ:
                out[who].append(i)
        return out

    def _request(self, rng: np.random.Generator, task: str) -> str:
        """The first wording for half of the examples."""
        words = REQUESTS[task]
        return words[rng.integers(len(words))] if rng.random() < 0.5 else words[0]

    def _speech(
        self, rng: np.random.Generator, part: Part, clips: list[int], gaps: list[int], task: str = "transcribe"
    ) -> Item:
        rows = [part.rows[i] for i in clips]
        lead = int(rng.integers(1, 100)) if rng.random() < 0.25 else 0  # so that no time is special
        texts = [r["text"] if task == "transcribe" else r["english"][rng.integers(len(r["english"]))] for r in rows]
        phonemes = [p for r in rows for p in r["phonemes"]]
        return Item(in_a_row(part, clips, [lead, *gaps]), self._request(rng, task), " ".join(texts), phonemes)

    def _sentences(self, rng: np.random.Generator, kind: str, count: int, task: str = "transcribe") -> Item:
        part = self.spoken[kind].draw(rng)
        clips = rng.integers(len(part.rows), size=count).tolist()
        return self._speech(rng, part, clips, rng.integers(5, 40, size=count - 1).tolist(), task)

    def _english(self, rng: np.random.Generator) -> Item:
        return self._sentences(
            rng, "english", int(rng.choice([1, 2, 3, 4, 6, 8], p=[0.45, 0.3, 0.15, 0.04, 0.03, 0.03]))
        )

    def _long(self, rng: np.random.Generator) -> Item:
        return self._sentences(rng, "long", 1)

    def _words(self, rng: np.random.Generator) -> Item:
        clips = self.speakers[rng.integers(len(self.speakers))]
        if rng.random() < 0.3:  # the same words again and again: to be counted, not continued
            clips = rng.choice(clips, size=rng.integers(1, 4)).tolist()
        clips = rng.choice(clips, size=rng.integers(2, 9)).tolist()
        return self._speech(rng, self.real[WORDS], clips, rng.integers(0, 31, size=len(clips) - 1).tolist())

    def _people_say(self, rng: np.random.Generator, lang: str) -> Item:
        part = self.people_say[lang].draw(rng)
        return self._speech(rng, part, [int(rng.integers(len(part.rows)))], [])

    def _recorded(self, rng: np.random.Generator) -> Item:
        return self._people_say(rng, "en")

    def _french(self, rng: np.random.Generator) -> Item:
        real = rng.random() < 0.4 and "commonvoice-fr" in self.real
        return self._people_say(rng, "fr") if real else self._sentences(rng, "french", 1)

    def _german(self, rng: np.random.Generator) -> Item:
        real = rng.random() < 0.1 and "kerstin" in self.real
        return self._people_say(rng, "de") if real else self._sentences(rng, "german", int(rng.integers(1, 3)))

    def _translate(self, rng: np.random.Generator) -> Item:
        return self._sentences(rng, "german", int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])), "translate")

    def _stretches(self, scene: sounds.Scene) -> list[Stretch]:
        part, hz = self.real["esc10"], FRAME_HZ
        return [
            Stretch(part, int(p.clip), round(p.begin * hz), round(p.seconds * hz), round(p.at * hz), p.gain)
            for p in scene.pieces
        ]

    def _describe(self, rng: np.random.Generator) -> Item:
        draw = random.Random(int(rng.integers(2**32)))
        scene = sounds.draw_scene(draw, self.sounds)
        return Item(
            self._stretches(scene), self._request(rng, "describe"), draw.choice(sounds.captions(scene, draw)), []
        )

    def _answer(self, rng: np.random.Generator) -> Item:
        draw = random.Random(int(rng.integers(2**32)))
        kind = draw.choice(("which", "first", "count", "word", "who", "order"))
        if kind == "order" and self.menu["size"]:
            part = self.real["picovoice-barista"]
            clip = draw.randrange(len(part.rows))
            stretches, phonemes = [whole(part, clip)], None
            asked = draw.choice(corpus.order_questions(part.rows[clip], self.menu, draw))
        elif kind == "word" and self.words:
            item = self._words(rng)
            stretches = item.stretches[:3]
            rows = [s.part.rows[s.clip] for s in stretches]
            phonemes = [p for r in rows for p in r["phonemes"]]
            asked = corpus.word_question([r["text"] for r in rows], self.words, draw)
        elif kind == "who" and self.people["child"]:
            who = draw.choice(("child", "child", "adult", "adult", "dog", "rooster"))
            if who in self.people:
                part, clip = self.real["speechocean762"], draw.choice(self.people[who])
                stretches, phonemes = [whole(part, clip)], part.rows[clip]["phonemes"]
            else:
                label = sounds.label_of(who)
                scene = sounds.draw_scene(draw, {label: self.sounds[label]}, most=1)
                stretches, phonemes = self._stretches(scene), []
            asked = corpus.who_question(who, draw)
        else:
            scene = sounds.draw_scene(draw, self.sounds, most=4 if kind == "count" else 3)
            stretches, phonemes = self._stretches(scene), []
            asked = sounds.question(scene, kind, draw)
        return Item(stretches, asked[0], asked[2], phonemes)

    def _kind(self, rng: np.random.Generator, step: int) -> Callable[[np.random.Generator], Item]:
        if step < self.mix_from:
            return functools.partial(self._sentences, kind="english", count=1)
        return self.draws[rng.choice(len(self.draws), p=self.shares)]

    def _longest(self, step: int) -> int:
        """Frames of the longest example."""
        if step < self.mix_from:
            return 100 + 150 * step // max(1, self.mix_from // 2)  # from 1 s on
        grown = min(1.0, (step - self.mix_from) / self.lengthen) if self.lengthen else 1.0
        return round((SHORT + (LONGEST - SHORT) * grown) * FRAME_HZ)

    def _draw(self, rng: np.random.Generator, step: int) -> Item:
        limit = self._longest(step)
        while True:
            kind = self._kind(rng, step)
            for _ in range(100):  # then another kind: this one may have none as short
                item = kind(rng)
                if item.frames <= limit:
                    return item

    def batch(self, step: int, augment: float, rank: int = 0) -> Batch:
        """``augment`` in 0..1 scales the warps, noise and masks; ``rank`` of one of several training processes."""
        rng = np.random.default_rng([self.seed, step, rank])
        pool = sorted((self._draw(rng, step) for _ in range(160)), key=lambda item: item.frames)
        # A random stretch of the sorted pool: clips of one batch are of like length, and all are about equally likely.
        first = int(rng.integers(len(pool)))
        chosen = [pool[first]]
        low, high = first - 1, first + 1
        while low >= 0 or high < len(pool):
            nearest_up = high < len(pool) and (low < 0 or rng.random() < 0.5)
            item = pool[high] if nearest_up else pool[low]
            longest = max(c.frames for c in [*chosen, item])
            if longest * (len(chosen) + 1) > self.budget:
                break
            chosen.append(item)
            high, low = (high + 1, low) if nearest_up else (high, low - 1)
        return self._collate(chosen, rng, augment)

    def _collate(self, items: list[Item], rng: np.random.Generator, augment: float) -> Batch:
        features, lengths, targets, phones = [], [], [], []
        for item in items:
            target = [self.table[p] for p in item.phonemes or () if p in self.table]
            repeats = sum(a == b for a, b in itertools.pairwise(target))
            slack = (item.frames // 2) / (len(target) + repeats + 1)  # CTC needs a state for each phoneme
            raw, frames = warp(assemble(item), rng, augment, fastest=min(1.2, slack))
            features.append(mask(normalise(raw), frames, rng, augment))
            lengths.append(frames)
            phones.append(target)
            prompt = self.prompts(item.request, int(frame_lengths(torch.tensor(frames))[1]))
            targets.append((prompt, self.prompts.tok(item.text)["input_ids"] + [self.prompts.end]))
        mel, frames_t = stack(features, lengths)
        width = max(len(p) + len(t) for p, t in targets)
        ids = torch.full((len(items), width), self.prompts.pad)
        valid = torch.zeros(len(items), width, dtype=torch.bool)
        answer = torch.zeros_like(valid)
        for i, (prompt, target) in enumerate(targets):
            n = len(prompt) + len(target)
            ids[i, :n] = torch.tensor(prompt + target)
            valid[i, :n] = True
            answer[i, len(prompt) : n] = True
        known = torch.tensor([item.phonemes is not None for item in items])
        flat = torch.tensor([p for row in phones for p in row], dtype=torch.long)
        return Batch(mel, frames_t, ids, valid, answer, known, flat, torch.tensor([len(p) for p in phones]))


def assemble(item: Item) -> Tensor:
    """Raw log-mel of an item ``[frames + TAIL, n_mels]``: silence, its stretches, powers added where they overlap."""
    canvas = torch.full((item.frames + TAIL, N_MELS), FLOOR)
    for s in item.stretches:
        x = s.part.raw(s.clip, s.begin, s.frames) + s.gain / 10
        here = canvas[s.at : s.at + len(x)]
        x = x[: len(here)]
        here.copy_(torch.where(here == FLOOR, x, torch.logaddexp(here * LN10, x * LN10) / LN10))
    return canvas


LN10 = math.log(10)


def warp(raw: Tensor, rng: np.random.Generator, augment: float, fastest: float) -> tuple[Tensor, int]:
    """Tempo (time axis), voice (mel axis), reverberation, band limit and noise, each on a share of the clips."""
    if augment == 0.0:
        return raw, len(raw) - TAIL
    tempo = min(float(rng.uniform(0.85, 1.2)), fastest) if rng.random() < 0.5 * augment else 1.0
    voice = float(rng.uniform(0.9, 1.1)) if rng.random() < 0.5 * augment else 1.0
    if tempo != 1.0 or voice != 1.0:
        size = (round(len(raw) / tempo), round(N_MELS * voice))
        grid = torch.nn.functional.interpolate(raw[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        extra = N_MELS - grid.shape[1]
        raw = torch.cat([grid, grid[:, -1:].expand(-1, extra)], 1) if extra > 0 else grid[:, :N_MELS]
    if rng.random() < 0.15 * augment:
        raw = reverberate(raw, seconds=float(rng.uniform(0.1, 0.6)), level=float(rng.uniform(0.02, 0.2)))
    if rng.random() < 0.15 * augment:
        raw = raw.clone()
        raw[:, int(rng.integers(54, 74)) :] = FLOOR  # from 3.3 to 6.8 kHz up
    if rng.random() < 0.25 * augment:
        level = float(raw.max()) - float(rng.uniform(1.5, 4.0))  # decades below the loudest point: 15–40 dB
        tilt = torch.linspace(0.0, float(rng.uniform(-1.5, 0.5)), N_MELS)
        wobble = torch.from_numpy(rng.standard_normal(raw.shape, dtype=np.float32)) * 0.2
        raw = torch.logaddexp(raw * LN10, (level + tilt + wobble) * LN10) / LN10
    return raw, len(raw) - TAIL


def reverberate(raw: Tensor, seconds: float, level: float) -> Tensor:
    """A late tail that falls by 60 dB in ``seconds``, of ``level`` times the energy of the sound itself."""
    frames = torch.arange(1, int(seconds * FRAME_HZ) + 1)
    tail = 10 ** (-6 * frames / (seconds * FRAME_HZ))
    kernel = torch.cat([torch.ones(1), level * tail / tail.sum()])
    power = torch.nn.functional.pad((10**raw).T[:, None], (len(frames), 0))
    return torch.nn.functional.conv1d(power, kernel.flip(0)[None, None])[:, 0].T.log10()


def mask(x: Tensor, frames: int, rng: np.random.Generator, augment: float) -> Tensor:
    """SpecAugment: bands of mel channels and stretches of time set to the clip's mean."""
    if augment == 0.0:
        return x
    mean = float(x.mean())
    for _ in range(2):
        width = int(rng.integers(0, 1 + round(10 * augment)))
        start = int(rng.integers(0, N_MELS - width))
        x[:, start : start + width] = mean
    for _ in range(max(1, frames // 200)):
        width = int(rng.integers(0, 1 + round(min(16, frames // 8) * augment)))
        start = int(rng.integers(0, max(1, frames - width)))
        x[start : start + width] = mean
    return x


def evaluation_batches(items: list[Item], prompts: Prompts, seconds: float) -> list[tuple[list[int], Batch]]:
    """Batches for generation (left-padded prompts, no answer), with the indices of their items."""
    order = sorted(range(len(items)), key=lambda i: items[i].frames)
    groups: list[list[int]] = [[]]
    for i in order:
        if groups[-1] and items[i].frames * (len(groups[-1]) + 1) > seconds * FRAME_HZ:
            groups.append([])
        groups[-1].append(i)
    out = []
    for group in groups:
        features = [normalise(assemble(items[i])) for i in group]
        mel, frames = stack(features, [items[i].frames for i in group])
        tokens = frame_lengths(frames)[1].tolist()
        rows = [prompts(items[i].request, n) for i, n in zip(group, tokens, strict=True)]
        ids, valid = left_padded(rows, prompts.pad)
        none = torch.zeros(0, dtype=torch.long)
        known = torch.zeros(len(group), dtype=torch.bool)
        out.append((group, Batch(mel, frames, ids, valid, torch.zeros_like(valid), known, none, none)))
    return out
