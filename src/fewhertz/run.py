"""Audio and a prompt to text: what the command line and the demo run."""

from __future__ import annotations

import base64
import inspect
import io
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from fewhertz import audio
from fewhertz.attach import attached
from fewhertz.families import family_of
from fewhertz.families.base import Family

# of `generate`, whatever a checkpoint's generation_config.json samples with
GREEDY: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
PROMPTS = {
    "transcribe": "Transcribe the speech.",  # the wording that pocket is trained on (recipes/pocket)
    "translate": "Translate the speech into English.",
    "describe": "Describe the audio.",
}

Wave = Float[np.ndarray, " samples"]

_PADDED = {"padding": True, "padding_side": "left"}  # of text alone: encoders want their own padding


@dataclass(frozen=True)
class Reply:
    """What a model said about one piece of audio, and what that took.

    Attributes:
        before: audio tokens that the encoder made.
        after: audio tokens that the LLM read.
        encode: seconds up to the LLM's first step: audio encoder (also where `encode_once` spares it), method, merging.
            A batch's time over its pieces.
        prefill: seconds in which the LLM read the prompt. A batch's time over its pieces.
        decode: seconds for the new tokens after the first. A batch's time over its pieces.
        ended: whether the model ended the text by itself; otherwise it was stopped at the longest answer, or in a loop.
    """

    text: str
    before: int
    after: int
    new_tokens: int
    encode: float
    prefill: float
    decode: float
    ended: bool = True


class _Clock:
    """When the LLM's first step begins and ends, read by hooks on the LLM while `generate` runs."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.began = self.read = 0.0

    def __enter__(self) -> _Clock:
        llm = self.model.get_decoder()
        self.hooks = [llm.register_forward_pre_hook(self._begin), llm.register_forward_hook(self._end)]
        self.start = self._now()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        for hook in self.hooks:
            hook.remove()
        self.stop = self._now()

    def _now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()

    def _begin(self, *_: object) -> None:
        self.began = self.began or self._now()

    def _end(self, *_: object) -> None:
        self.read = self.read or self._now()


def sample_rate(processor: Any) -> int:
    """Samples per second that the processor reads, in Hz."""
    # Granite Speech's processor calls it so, and those of all models are to
    extractor = getattr(processor, "feature_extractor", None) or processor.audio_processor
    return int(extractor.sampling_rate)


def request(processor: Any, waves: list[Wave] | list[list[Wave]], prompt: str | list[str] | None = None) -> Any:
    """A batch of prompts, one for each piece of audio, padded on the left.

    Args:
        processor: the model's own.
        waves: mono audio at the processor's rate; a list of several pieces goes into one prompt, which has to be given.
        prompt: what to ask of all, or of each; `None`: transcribe, by the processor's own transcription request where
            it has one.
    """
    rate = sample_rate(processor)
    own = getattr(processor, "apply_transcription_request", None)
    if own is not None and prompt is None:
        takes = inspect.signature(own).parameters
        if "model_id" in takes:  # Voxtral: by mistral-common, which reads audio in a container
            return own(audio=waves, model_id="voxtral", sampling_rate=rate, format="WAV", return_tensors="pt")
        if "prompt" not in takes:  # OmniASR: asks for nothing else, and of itself neither pads nor makes tensors
            return own(audio=waves, processor_kwargs={"text_kwargs": _PADDED, "return_tensors": "pt"})
        return own(audio=waves)
    text = PROMPTS["transcribe"] if prompt is None else prompt
    asked = [text] * len(waves) if isinstance(text, str) else text
    pieces = [one if isinstance(one, list) else [one] for one in waves]
    if _speaks_mistral(processor):
        sounds = [[{"type": "audio", "base64": _wav(wave, rate)} for wave in clips] for clips in pieces]
        talks = [conversation(sound, one) for sound, one in zip(sounds, asked, strict=True)]
        return processor.apply_chat_template(talks, return_tensors="pt")
    sound = {"type": "audio", "audio": ""}
    talks = [conversation([sound] * len(clips), one) for clips, one in zip(pieces, asked, strict=True)]
    return processor(
        text=[processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False) for talk in talks],
        audio=[wave for clips in pieces for wave in clips],
        sampling_rate=rate,
        text_kwargs=_PADDED,
        return_tensors="pt",
    )


def _speaks_mistral(processor: Any) -> bool:
    return type(processor.tokenizer).__name__.startswith("MistralCommon")


def conversation(sounds: list[dict[str, str]], text: str) -> list[dict[str, Any]]:
    """A chat of one turn: audio, then text."""
    return [{"role": "user", "content": [*sounds, {"type": "text", "text": text}]}]


def _wav(wave: Wave, rate: int) -> str:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV", subtype="FLOAT")
    return base64.b64encode(buffer.getvalue()).decode()


def texts_of(processor: Any, ids: torch.Tensor, transcript: bool) -> list[str]:
    """Text of each row of new tokens; of a transcript, without the frame that some models put around it.

    Args:
        processor: the model's own.
        ids: new tokens, (batch, length).
        transcript: whether a transcript was asked for.
    """
    options: dict[str, Any] = {"skip_special_tokens": True}
    takes = inspect.signature(processor.decode).parameters
    if transcript and "strip_prefix" in takes:
        options["strip_prefix"] = True
    if transcript and "return_format" in takes:
        options["return_format"] = "transcription_only"
    decode = processor.decode if len(options) > 1 else processor.batch_decode
    return [text.strip() for text in decode(ids, **options)]


def reply(
    model: Any,
    processor: Any,
    waves: list[Wave],
    prompt: str | None = None,
    *,
    max_new_tokens: int = 256,
    stop_loops: bool = False,
) -> list[Reply]:
    """Ask the same of each piece of audio, greedily, in one batch.

    Args:
        model: an audio language model of a known family, with or without a method.
        processor: the model's own.
        waves: mono audio at the processor's rate, each within the model's window.
        prompt: what to ask; `None`: transcribe.
        max_new_tokens: longest reply, in tokens.
        stop_loops: whether to end a reply that goes round in circles.
    """
    inputs = request(processor, waves, prompt)
    return answer(
        model,
        processor,
        inputs,
        transcript=prompt is None,
        max_new_tokens=max_new_tokens,
        stop_loops=stop_loops,
    )


class _Loops:
    """Stopping criterion: the last tokens of a row are one block of at most 12, over and over, for 16 or more."""

    LONGEST, LEAST, TIMES, EVERY = 12, 16, 4, 4

    def __init__(self, ends: set[int]) -> None:
        self.ends, self.start, self.found = torch.tensor(sorted(ends)), 0, torch.zeros(0, dtype=torch.bool)

    def __call__(self, ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        if not self.start:  # the prompt is trimmed where a method is attached, and ends one token before
            self.start = ids.shape[1] - 1
            self.found, self.ends = torch.zeros_like(ids[:, 0], dtype=torch.bool), self.ends.to(ids.device)
        new = ids[:, self.start :]
        if new.shape[1] % self.EVERY:
            return self.found
        for period in range(1, self.LONGEST + 1):
            span = max(self.LEAST, self.TIMES * period)
            if new.shape[1] < span:
                continue
            tail = new[:, -span:]
            # what ended is padded with one token, over and over
            self.found |= (tail[:, period:] == tail[:, :-period]).all(1) & ~torch.isin(tail, self.ends).any(1)
        return self.found


@torch.no_grad()
def answer(
    model: Any, processor: Any, inputs: Any, *, transcript: bool, max_new_tokens: int, stop_loops: bool = False
) -> list[Reply]:
    """Run a batch of prompts that `request` has made.

    Args:
        model: an audio language model of a known family, with or without a method.
        processor: the model's own.
        inputs: the batch, one piece of audio a row.
        transcript: whether a transcript was asked for: some processors strip what the model writes around it.
        max_new_tokens: longest reply, in tokens.
        stop_loops: whether to end a reply that goes round in circles.
    """
    family = family_of(model)
    inputs = inputs.to(model.device, model.dtype)
    ends = _ends(model, processor)
    loops = _Loops(ends)
    stop = {"stopping_criteria": [loops]} if stop_loops else {}
    with _Clock(model) as clock:
        out = model.generate(**inputs, max_new_tokens=max_new_tokens, **GREEDY, **stop)
    new = out[:, inputs["input_ids"].shape[1] :]
    texts = texts_of(processor, new, transcript)

    before = (inputs["input_ids"] == family.placeholder(model.config)).sum(1).tolist()
    handle = attached(model)
    after = before if handle is None else handle.last.after  # one clip a row
    counts = [sum(i not in ends for i in row) for row in new.tolist()]
    looped = loops.found.tolist() or [False] * len(texts)
    ended = [n < new.shape[1] and not loop for n, loop in zip(counts, looped, strict=True)]
    share = 1 / len(texts)
    encode, prefill, decode = clock.began - clock.start, clock.read - clock.began, clock.stop - clock.read
    encode += 0 if handle is None else handle.last.spared
    return [
        Reply(text, b, a, n, encode * share, prefill * share, decode * share, end)
        for text, b, a, n, end in zip(texts, before, after, counts, ended, strict=True)
    ]


def _ends(model: Any, processor: Any) -> set[int]:
    """Tokens that end a text or stand after its end."""
    own = getattr(model.generation_config, "eos_token_id", None)
    known = {processor.tokenizer.pad_token_id, processor.tokenizer.eos_token_id}
    return (known | (set(own) if isinstance(own, list) else {own})) - {None}


def read_whole(
    source: audio.Source, rate: int, family: Family, *, source_rate: int | None = None, chunks: bool = True
) -> Wave:
    """Audio as one piece.

    Args:
        source: what to read.
        rate: of the samples, in Hz.
        family: of the model that is to read it.
        source_rate: of samples that are given as such.
        chunks: whether an error may say how to cut it.

    Raises:
        ValueError: where it is none, or is beyond the model's window.
    """
    limit = family.max_seconds
    if limit is not None and (seconds := audio.duration(source, source_rate=source_rate)) > limit:
        raise ValueError(too_long(seconds, family, chunks=chunks))
    return audio.load(source, rate, source_rate=source_rate)


def too_long(seconds: float, family: Family, *, chunks: bool = False) -> str:
    """Says that audio is beyond a model's window and, where it can be cut into chunks, what to do about it."""
    limit = f"{family.max_seconds:g}"
    advice = f": --chunk {limit} runs it in windows" if chunks else ""
    return f"{seconds:.1f} s of audio, {family.name} reads {limit} s at once{advice}"
