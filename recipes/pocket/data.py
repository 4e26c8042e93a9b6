"""Batches of examples from the cache. A batch is a function of (seed, step) alone, so that a resumed run sees what an
uninterrupted one would have seen, with no state to store.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from . import config
from .config import CACHE, FRAME_HZ, INSTRUCTIONS, N_MELS, SENTENCE_SETS, SIZES
from .features import FLOOR, TAIL, normalise, silence
from .model import frame_lengths
from .prepare import read_jsonl


class Part:
    """One part of the cache: rows and their features."""

    def __init__(self, name: str, split: str | None = None) -> None:
        self.name = name
        rows = read_jsonl(CACHE / f"{name}.jsonl")
        self.rows = [r for r in rows if split is None or r["split"] == split]
        self.features = np.memmap(CACHE / f"{name}.f16", np.float16, "r").reshape(-1, N_MELS)

    def raw(self, i: int, tail: bool) -> Tensor:
        """Raw log-mel of clip i ``[frames (+ TAIL), n_mels]``, float32."""
        row = self.rows[i]
        end = row["start"] + row["frames"] + (TAIL if tail else 0)
        return torch.from_numpy(self.features[row["start"] : end].astype(np.float32))


STRINGS, REAL = 0.5, 0.08  # shares of the examples once mixed; the rest are synthetic sentences
AUGMENT = 0.4  # strength of warps, noise and masks at the end of their fading in


@dataclass
class Item:
    """One example before its features are read: clips of one part, each after some silence."""

    part: Part
    clips: list[int]
    gaps: list[int]  # frames of silence before each clip
    frames: int
    text: str
    phonemes: list[str]


def join(part: Part, clips: list[int], gaps: list[int]) -> Item:
    rows = [part.rows[i] for i in clips]
    return Item(
        part,
        clips,
        gaps,
        sum(r["frames"] for r in rows) + sum(gaps),
        " ".join(r["text"] for r in rows),
        [p for r in rows for p in r["phonemes"]],
    )


def lead(rng: np.random.Generator) -> int:
    """Frames of silence before a training example: none for most, else up to 1 s, so that no time is special."""
    return int(rng.integers(1, 100)) if rng.random() < 0.25 else 0


def single_items(part: Part) -> list[Item]:
    return [join(part, [i], [0]) for i in range(len(part.rows))]


@dataclass
class Batch:
    mel: Tensor  # [b, t, n_mels], padded with each clip's silence, t a multiple of 4
    frames: Tensor  # [b] valid frames
    ids: Tensor  # [b, n] prompt with its audio placeholders, then (in training) the answer; padded
    valid: Tensor  # [b, n] bool
    answer: Tensor  # [b, n] bool: positions whose token is to be predicted
    phonemes: Tensor  # [sum of lengths] CTC targets, 1-based
    phoneme_lengths: Tensor  # [b]
    texts: list[str]


def stack(features: list[Tensor], lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Normalised features of different lengths (with what follows the clip) → one padded tensor and the lengths."""
    longest = math.ceil((max(lengths) + TAIL) / 4) * 4
    mel = torch.empty(len(features), longest, N_MELS)
    for i, x in enumerate(features):
        mel[i, : len(x)] = x
        mel[i, len(x) :] = silence(x)
    return mel, torch.tensor(lengths)


class Prompts:
    """Token ids of the chat template around a clip; each instruction is tokenised once."""

    def __init__(self, processor: object) -> None:
        self.tok: PreTrainedTokenizerBase = processor.tokenizer
        self.audio = self.tok.convert_tokens_to_ids("<|AUDIO|>")
        self.end = self.tok.convert_tokens_to_ids("<|im_end|>")
        self.pad = self.tok.pad_token_id
        self.parts = [self._split(processor, text) for text in INSTRUCTIONS]

    def _split(self, processor: object, instruction: str) -> tuple[list[int], list[int]]:
        content = [{"type": "audio", "audio": ""}, {"type": "text", "text": instruction}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        before, after = text.split("<|AUDIO|>")
        return self.tok(before)["input_ids"], self.tok(after)["input_ids"]

    def __call__(self, which: int, audio_tokens: int) -> list[int]:
        before, after = self.parts[which]
        return before + [self.audio] * audio_tokens + after


def phoneme_table(parts: list[Part]) -> dict[str, int]:
    """Phoneme names to classes, 1-based; rare ones (fewer than 20 uses) are left out and dropped from targets."""
    count = Counter(p for part in parts for r in part.rows for p in r["phonemes"])
    return {name: i + 1 for i, name in enumerate(sorted(n for n, c in count.items() if c >= 20))}


def load_table(path: Path, parts: list[Part]) -> dict[str, int]:
    """The table of a run: made once, then read, since the CTC head depends on it."""
    if not path.exists():
        path.write_text(json.dumps(phoneme_table(parts)))
    return json.loads(path.read_text())


class Training:
    """Draws training batches.

    Stage 0 (until the size's ``mix_from``): single synthetic sentences, first short ones, so that the
    LLM finds the alignment.
    Stage 1: synthetic sentences (also two to eight of one voice in a row), word strings, real sentences.
    """

    def __init__(self, size: str, processor: object, seed: int, seconds: float) -> None:
        self.seed, self.budget, self.mix_from = seed, int(seconds * FRAME_HZ), SIZES[size].mix_from
        self.synthetic = [Part(p.stem) for p in sorted(CACHE.glob(f"{size}-train-*.jsonl"))]
        found = [s for s in config.REAL_SETS if SIZES[size].real and (CACHE / f"real-{s}.jsonl").exists()]
        self.real = [Part(f"real-{s}", "train") for s in found if s in SENTENCE_SETS]
        self.words = Part("real-speech_commands", "train") if "speech_commands" in found else None
        self.speakers: list[list[int]] = []
        if self.words:
            by_speaker: dict[str, list[int]] = {}
            for i, r in enumerate(self.words.rows):
                by_speaker.setdefault(r["speaker"], []).append(i)
            self.speakers = [v for _, v in sorted(by_speaker.items())]
        self.prompts = Prompts(processor)
        self.parts = self.synthetic + self.real + ([self.words] if self.words else [])
        if not self.synthetic:
            raise FileNotFoundError(f"no features in {CACHE}: run python -m recipes.pocket.prepare --size {size}")
        sizes = np.array([len(p.rows) for p in self.synthetic], float)
        self.synthetic_share = sizes / sizes.sum()
        counts = np.array([len(p.rows) for p in self.real], float)
        self.real_share = counts / max(1.0, counts.sum())
        self.table: dict[str, int] = {}

    def _sentence(self, rng: np.random.Generator, count: int) -> Item:
        part = self.synthetic[rng.choice(len(self.synthetic), p=self.synthetic_share)]
        clips = rng.integers(len(part.rows), size=count).tolist()
        return join(part, clips, [lead(rng), *rng.integers(5, 40, size=count - 1).tolist()])

    def _string(self, rng: np.random.Generator) -> Item:
        clips = self.speakers[rng.integers(len(self.speakers))]
        if rng.random() < 0.3:  # the same words again and again: to be counted, not continued
            clips = rng.choice(clips, size=rng.integers(1, 4)).tolist()
        clips = rng.choice(clips, size=rng.integers(2, 8)).tolist()
        return join(self.words, clips, [lead(rng) // 2, *rng.integers(0, 31, size=len(clips) - 1).tolist()])

    def _real(self, rng: np.random.Generator) -> Item:
        part = self.real[rng.choice(len(self.real), p=self.real_share)]
        return join(part, [int(rng.integers(len(part.rows)))], [lead(rng)])

    def _draw(self, rng: np.random.Generator, step: int) -> Item:
        if step < self.mix_from:
            item = self._sentence(rng, 1)
            limit = 100 + 150 * step // max(1, self.mix_from // 2)  # frames: from 1 s on
            while item.frames > limit:
                item = self._sentence(rng, 1)
            return item
        kind = rng.random()
        if kind < STRINGS and self.words:
            return self._string(rng)
        if kind < STRINGS + REAL and self.real:
            item = self._real(rng)
            while item.frames > 1200:
                item = self._real(rng)
            return item
        return self._sentence(rng, int(rng.choice([1, 2, 3, 4, 6, 8], p=[0.4, 0.3, 0.2, 0.04, 0.03, 0.03])))

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
            raw, frames = assemble(item)
            target = [self.table[p] for p in item.phonemes if p in self.table]
            repeats = sum(a == b for a, b in itertools.pairwise(target))
            slack = (frames // 2) / (len(target) + repeats + 1)  # CTC needs a state for each phoneme
            raw, frames = warp(raw, frames, rng, augment, fastest=min(1.2, slack))
            features.append(mask(normalise(raw), frames, rng, augment))
            lengths.append(frames)
            phones.append(target)
            which = int(rng.integers(len(INSTRUCTIONS))) if rng.random() < 0.5 else 0
            prompt = self.prompts(which, int(frame_lengths(torch.tensor(frames))[1]))
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
        flat = torch.tensor([p for row in phones for p in row])
        return Batch(
            mel, frames_t, ids, valid, answer, flat, torch.tensor([len(p) for p in phones]), [i.text for i in items]
        )


def assemble(item: Item) -> tuple[Tensor, int]:
    """Raw log-mel of an item with the TAIL after its last clip, and its frames."""
    pieces = []
    for k, clip in enumerate(item.clips):
        pieces.append(torch.full((item.gaps[k], N_MELS), FLOOR))
        pieces.append(item.part.raw(clip, tail=k == len(item.clips) - 1))
    return torch.cat(pieces), item.frames


def warp(raw: Tensor, frames: int, rng: np.random.Generator, augment: float, fastest: float) -> tuple[Tensor, int]:
    """Tempo (time axis), voice (mel axis) and noise, each on a share of the clips."""
    if augment == 0.0:
        return raw, frames
    tempo = min(float(rng.uniform(0.85, 1.2)), fastest) if rng.random() < 0.5 * augment else 1.0
    voice = float(rng.uniform(0.9, 1.1)) if rng.random() < 0.5 * augment else 1.0
    if tempo != 1.0 or voice != 1.0:
        size = (round(len(raw) / tempo), round(N_MELS * voice))
        grid = torch.nn.functional.interpolate(raw[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        extra = N_MELS - grid.shape[1]
        raw = torch.cat([grid, grid[:, -1:].expand(-1, extra)], 1) if extra > 0 else grid[:, :N_MELS]
        frames = len(raw) - TAIL
    if rng.random() < 0.25 * augment:
        level = float(raw.max()) - float(rng.uniform(1.5, 4.0))  # decades below the loudest point: 15–40 dB
        tilt = torch.linspace(0.0, float(rng.uniform(-1.5, 0.5)), N_MELS)
        wobble = torch.from_numpy(rng.standard_normal(raw.shape, dtype=np.float32)) * 0.2
        raw = torch.logaddexp(raw * 2.302585, (level + tilt + wobble) * 2.302585) / 2.302585
    return raw, frames


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


def evaluation_batches(
    items: list[Item], prompts: Prompts, seconds: float, which: int = 0
) -> list[tuple[list[int], Batch]]:
    """Batches for generation (left-padded prompts, no answer), with the indices of their items."""
    order = sorted(range(len(items)), key=lambda i: items[i].frames)
    groups: list[list[int]] = [[]]
    for i in order:
        if groups[-1] and items[i].frames * (len(groups[-1]) + 1) > seconds * FRAME_HZ:
            groups.append([])
        groups[-1].append(i)
    out = []
    for group in groups:
        assembled = [assemble(items[i]) for i in group]
        mel, frames = stack([normalise(raw) for raw, _ in assembled], [n for _, n in assembled])
        rows = [prompts(which, int(n)) for n in frame_lengths(frames)[1]]
        width = max(map(len, rows))
        ids = torch.tensor([[prompts.pad] * (width - len(r)) + r for r in rows])
        valid = torch.tensor([[False] * (width - len(r)) + [True] * len(r) for r in rows])
        empty = torch.zeros(0, dtype=torch.long)
        texts = [items[i].text for i in group]
        out.append((group, Batch(mel, frames, ids, valid, torch.zeros_like(valid), empty, empty, texts)))
    return out
