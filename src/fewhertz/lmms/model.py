"""The model that lmms-eval runs: any family, with or without a method."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms

from fewhertz import audio
from fewhertz.attach import attached
from fewhertz.families import family_of
from fewhertz.loading import load
from fewhertz.run import Wave, request, sample_rate, texts_of

log = logging.getLogger(__name__)

MAX_NEW_TOKENS = 256  # of a task that says nothing of it, as lmms-eval's own models have it
SAMPLING = ("temperature", "top_p", "top_k", "num_beams", "do_sample", "repetition_penalty")  # passed on to `generate`


class Fewhertz(lmms):
    """A model with a method, answering tasks of lmms-eval whose documents are audio.

    A clip beyond the model's window goes into the prompt as several clips, cut where it is quiet.

    Args:
        pretrained: a hub id, a directory, or `pocket`.
        method: its spec; `None`: the one that the adapter or the checkpoint carries, if any. A spec with commas goes
            into quotes.
        adapter: a LoRA adapter.
        device: where to; under `accelerate launch` each process takes its own.
        dtype: of the weights; `None`: the checkpoint's own.
        batch_size: documents that are answered together.
        max_batch_size: ignored; lmms-eval hands it to every model.

    Raises:
        ValueError, TypeError: as `fewhertz.load`; for a batch size that is no number.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        method: str | None = None,
        adapter: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"--batch_size is a number from 1 on, got {batch_size!r}")
        accelerator = Accelerator()
        if accelerator.num_processes > 1:
            self.accelerator = accelerator
            self._rank, self._world_size = accelerator.process_index, accelerator.num_processes
            device = str(accelerator.device)
        spec = None if method is None else str(method).strip("'\"")
        self.model, self.processor = load(pretrained, spec, adapter=adapter, device=device, dtype=dtype)
        self.device = self.model.device
        self.batch_size = int(batch_size)
        self.before = self.after = 0  # audio tokens so far, without and with the method

    @property
    def tokenizer(self) -> Any:
        """The model's own."""
        return self.processor.tokenizer

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not to be had: tasks are answered by generation."""
        raise NotImplementedError("fewhertz answers by generate_until; this task asks for loglikelihood")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not to be had: a document is one prompt."""
        raise NotImplementedError("fewhertz answers one prompt a document; this task asks for several rounds")

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answer each document, in order.

        Raises:
            ValueError: where a document holds no audio or something else beside it; for audio that cannot be read.
        """
        answers = [""] * len(requests)
        for members in self._batches(requests):
            options = dict(requests[members[0]].args[1])
            texts = self._answer([self._document(requests[i]) for i in members], options)
            for i, text in zip(members, texts, strict=True):
                answers[i] = text
                context, given = requests[i].args[:2]
                self.cache_hook.add_partial("generate_until", (context, given), text)
        if self.before:
            share = 100 * self.after / self.before
            log.warning("audio tokens %d → %d (%.1f %%)", self.before, self.after, share)
        return answers

    def _batches(self, requests: list[Instance]) -> Iterator[list[int]]:
        """Documents that are answered together: they share their options."""
        alike: dict[str, list[int]] = {}
        for i, one in enumerate(requests):
            alike.setdefault(repr(one.args[1]), []).append(i)
        for members in alike.values():
            yield from (members[k : k + self.batch_size] for k in range(0, len(members), self.batch_size))

    def _document(self, one: Instance) -> tuple[list[Wave], str]:
        """The clips and the text of a prompt."""
        context, _, visuals, index, task, split = one.args
        sounds = visuals(self.task_dict[task][split][index])
        if not sounds:
            raise ValueError(f"{task}, document {index}: no audio in it")
        rate, limit = sample_rate(self.processor), family_of(self.model).max_seconds
        clips: list[Wave] = []
        for sound in sounds:
            source, own = _source(sound, f"{task}, document {index}")
            if limit is None:
                clips.append(audio.load(source, rate, source_rate=own))
            else:
                clips += audio.chunks(source, limit, rate, source_rate=own)
        return clips, context

    @torch.no_grad()
    def _answer(self, documents: list[tuple[list[Wave], str]], options: dict[str, Any]) -> list[str]:
        model: Any = self.model
        inputs = request(self.processor, [clips for clips, _ in documents], [text for _, text in documents])
        inputs = inputs.to(model.device, model.dtype)
        ends = options.get("until") or []
        sampling = {name: options[name] for name in SAMPLING if options.get(name) is not None}
        sampling.setdefault("do_sample", sampling.get("temperature", 0) > 0)
        if not sampling["do_sample"]:  # greedy, whatever a checkpoint's generation_config.json samples with
            sampling |= {"temperature": None, "top_p": None, "top_k": None}
        out = model.generate(**inputs, max_new_tokens=options.get("max_new_tokens") or MAX_NEW_TOKENS, **sampling)
        handle = attached(model)
        placeholder = family_of(model).placeholder(model.config)
        before = int((inputs["input_ids"] == placeholder).sum())
        self.before += before
        self.after += before if handle is None else sum(handle.last.after)
        texts = texts_of(self.processor, out[:, inputs["input_ids"].shape[1] :], transcript=False)
        for end in [ends] if isinstance(ends, str) else ends:
            texts = [text.split(end)[0] if end else text for text in texts]
        return texts


def _source(sound: Any, where: str) -> tuple[Any, int | None]:
    """Audio as tasks hand it over, and its rate where it does not say it itself: in Hz.

    Args:
        sound: of `datasets` (a decoder of its own, or a dictionary of samples, bytes or a path), or a path.
        where: for the error.
    """
    if hasattr(sound, "get_all_samples"):  # datasets from 4.0 on
        samples = sound.get_all_samples()
        return samples.data.T.numpy(), int(samples.sample_rate)
    if isinstance(sound, dict):
        if sound.get("array") is not None:
            return np.asarray(sound["array"]), int(sound["sampling_rate"])
        sound = sound.get("bytes") or sound.get("path")
    if isinstance(sound, str | bytes):
        return sound, None
    raise ValueError(f"{where}: fewhertz hears audio alone, this is {type(sound).__name__}")
