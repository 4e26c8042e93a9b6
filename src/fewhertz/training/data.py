"""What the LLM reads while it is trained: samples in an order, their audio encoded once, batches with answers."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewhertz.families.base import Family, Windows
from fewhertz.files import replace
from fewhertz.layout import IGNORE
from fewhertz.method import Method
from fewhertz.steps import Call
from fewhertz.tasks.base import Failed, Sample, Task, column, read, sound
from fewhertz.tasks.manifest import Manifest

POOL = 16  # batches whose samples are sorted by length, so that those of a batch are alike


def unlabelled(task: Task) -> list[Sample | Failed]:
    """The samples of a task, or of a manifest whose rows hold audio, and maybe a prompt, and nothing else."""
    try:
        return task.samples()
    except ValueError:
        if not isinstance(task, Manifest):
            raise
    rows, base = read(task.source(), None, "")
    found: list[Sample | Failed] = []
    for index, row in enumerate(rows):
        try:
            if isinstance(row, ValueError):
                raise row
            source, asked = sound(column(row, "audio"), task.audio or base), row.get("prompt", task.ask)
            found.append(Sample(index, str(row.get("id", index)), source, [], prompt=asked))
        except ValueError as error:
            found.append(Failed(index, None, f"{task.source()}, row {index + 1}: {error}"))
    return found


class Stream:
    """Which samples a step takes: a function of seed and step.

    Every epoch has another order. Samples of a batch have like lengths, for the sake of padding.

    Args:
        seconds: length of each sample.
        size: samples of a batch.
        seed: of the order.
    """

    def __init__(self, seconds: Sequence[float], size: int, seed: int) -> None:
        self.seconds, self.size, self.seed = seconds, size, seed
        self._order = functools.lru_cache(2)(self._shuffled)

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Samples of a step, and the epoch in which each is taken."""
        places = range(step * self.size, (step + 1) * self.size)
        n = len(self.seconds)
        taken = [(self._order(place // n)[place % n], place // n) for place in places]
        return sorted(taken, key=lambda one: (self.seconds[one[0]], one))

    def _shuffled(self, epoch: int) -> list[int]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.seconds)).tolist()
        head = -epoch * len(order) % self.size  # these fill up the batch that the epoch before began
        order, rest = order[:head], order[head:]
        runs = []
        for start in range(0, len(rest), POOL * self.size):
            pool = sorted(rest[start : start + POOL * self.size], key=lambda i: self.seconds[i])
            runs += [pool[i : i + self.size] for i in range(0, len(pool), self.size)]
        short = runs.pop() if runs and len(runs[-1]) < self.size else []  # the next epoch fills it up
        return order + [i for run in rng.permutation(len(runs)).tolist() for i in runs[run]] + short


@dataclass(frozen=True)
class Encoded:
    """A prompt with one audio, and what the frozen encoder made of it, alone."""

    ids: Tensor
    windows: Windows

    @classmethod
    def of(cls, net: Any, family: Family, inputs: dict[str, Any], site: str, scores: bool) -> Encoded:
        """Encode a batch of one prompt.

        Raises:
            ValueError: where the audio is too short for a single audio token.
        """
        sound = {name: inputs[name] for name in family.audio_inputs}
        with torch.no_grad():
            windows = family.encode(net, sound, inputs["input_ids"], site, scores)
        scores_of = None if windows.scores is None else windows.scores.cpu()
        # a GPU has less room
        windows = Windows(windows.tokens.cpu(), windows.lengths, windows.full, scores_of, windows.frames)
        if not sum(windows.lengths):
            raise ValueError("the audio is too short for a single audio token")
        mask = inputs.get("attention_mask")
        ids = inputs["input_ids"][0]
        return cls(ids if mask is None else ids[mask[0].bool()], windows)

    @classmethod
    def read(cls, file: Path, place: torch.device) -> Encoded:
        """What `write` wrote, with the prompt where the model is.

        Raises:
            ValueError: where it is damaged; names the file.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt") as held:
                tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 (no dictionary)
                layout = json.loads(held.metadata()["windows"])
            kept = (tensors["tokens"], layout["lengths"], layout["full"], tensors.get("scores"), layout.get("frames"))
            windows = Windows(*kept)
            return cls(tensors["ids"].to(place), windows)
        except (SafetensorError, ValueError, KeyError, TypeError):
            raise ValueError(f"{file} is damaged: remove it") from None

    def write(self, file: Path) -> None:
        """Keep it for a later training."""
        from safetensors.torch import save

        tensors = {"ids": self.ids.cpu(), "tokens": self.windows.tokens}
        if self.windows.scores is not None:
            tensors["scores"] = self.windows.scores
        layout = json.dumps({name: getattr(self.windows, name) for name in ("lengths", "full", "frames")})
        replace(file, save({name: one.contiguous() for name, one in tensors.items()}, {"windows": layout}))

    @property
    def size(self) -> int:
        """Bytes."""
        return self.windows.tokens.nbytes


class EncodedAudio:
    """What the encoder makes of samples; encodes nothing twice.

    Its `encode` is a step of a model whose calls name samples where they would pass their features (fewhertz.steps).

    Args:
        encode_one: encodes one sample at a site, with or without scores.
        room: bytes to keep.
    """

    def __init__(self, encode_one: Callable[[int, str, bool], Encoded], room: float) -> None:
        self._encode_one, self._room = encode_one, room
        self._kept: dict[tuple[int, str, bool], Encoded] = {}
        self._now: dict[tuple[int, str, bool], Encoded] = {}

    def prompts(self, samples: list[int], method: Method) -> list[Tensor]:
        """The prompts of a batch that is about to run."""
        site, scores = method.encoded_to, "scores" in method.needs
        self._now = {key: found for key, found in self._now.items() if key[0] in samples}
        return [self._encoded(sample, site, scores).ids for sample in samples]

    def encode(self, call: Call) -> tuple[Windows, float]:
        """The windows of samples by their numbers. Never trimmed: each is encoded alone, once for all methods."""
        several = [self._encoded(sample, call.site, call.scores).windows for sample in call.features]
        place = call.ids.device
        windows = Windows(
            torch.cat([one.tokens for one in several]).to(place),
            [n for one in several for n in one.lengths],
            several[0].full,
            torch.cat([one.scores for one in several if one.scores is not None]).to(place) if call.scores else None,
            None if several[0].frames is None else [n for one in several for n in one.frames or ()],
        )
        return windows, 0.0

    def _encoded(self, sample: int, site: str, scores: bool) -> Encoded:
        key = (sample, site, scores)
        found = self._kept.get(key) or self._now.get(key)
        if found is None:
            found = self._now[key] = self._encode_one(*key)
            if found.size <= self._room:
                self._room -= found.size
                self._kept[key] = found
        return found


def batch_of(
    family: Family, samples: list[int], prompts: list[Tensor], answers: list[list[int]], pad: int
) -> tuple[dict[str, Any], Tensor]:
    """A call of the model, and what its last positions are to say, (b, t), `IGNORE` before an answer begins.

    Rows are padded on the left, so that answers end together, however many audio tokens are dropped before them.
    """
    rows = [[*prompt.tolist(), *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    length, longest, place = max(map(len, rows)), max(map(len, answers)), prompts[0].device

    def padded(values: list[list[int]], width: int, fill: int) -> Tensor:
        return torch.tensor([[fill] * (width - len(row)) + row for row in values], device=place)

    call: dict[str, Any] = {name: samples for name in family.audio_inputs}
    call["input_ids"] = padded(rows, length, pad)
    call["attention_mask"] = padded([[1] * len(row) for row in rows], length, 0)
    return call, padded(answers, longest, IGNORE)


def end_of_turn(net: Any, processor: Any) -> int:
    """The token that ends an answer: of those that end generation, the one that the chat template writes."""
    tokenizer = processor.tokenizer
    ends = net.generation_config.eos_token_id
    ends = [tokenizer.eos_token_id] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    if len(ends) > 1 and getattr(processor, "chat_template", None):
        talk = [{"role": who, "content": [{"type": "text", "text": "x"}]} for who in ("user", "assistant")]
        written = tokenizer(processor.apply_chat_template(talk, tokenize=False), add_special_tokens=False).input_ids
        last = [token for token in written if token in ends]
        ends = last[-1:] or ends
    if ends[0] is None:
        raise ValueError("neither the model nor its tokenizer says which token ends an answer")
    return int(ends[0])
