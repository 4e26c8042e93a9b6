"""Audio and a prompt to text: what the command line and the demo run."""

from __future__ import annotations

import base64
import inspect
import io
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from fewhertz import audio
from fewhertz.attach import attached
from fewhertz.errors import one_line
from fewhertz.families import family_of
from fewhertz.families.base import Family

PROMPTS = {
    "transcribe": "Transcribe the speech.",  # the wording that pocket is trained on (recipes/pocket)
    "translate": "Translate the speech into English.",
    "describe": "Describe the audio.",
}

Wave = Float[np.ndarray, " samples"]


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
    """

    text: str
    before: int
    after: int
    new_tokens: int
    encode: float
    prefill: float
    decode: float


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
    return int(processor.feature_extractor.sampling_rate)


def request(processor: Any, waves: list[Wave], prompt: str | list[str] | None = None) -> Any:
    """A batch of prompts, one for each piece of audio, padded on the left.

    Args:
        processor: the model's own.
        waves: mono audio at the processor's rate.
        prompt: what to ask of all, or of each; `None`: transcribe, by the processor's own transcription request where
            it has one.
    """
    rate = sample_rate(processor)
    own = getattr(processor, "apply_transcription_request", None)
    if own is not None and prompt is None:
        takes = inspect.signature(own).parameters
        if "model_id" in takes:  # Voxtral: by mistral-common, which reads audio in a container
            return own(audio=waves, model_id="voxtral", sampling_rate=rate, format="WAV", return_tensors="pt")
        return own(audio=waves)
    text = PROMPTS["transcribe"] if prompt is None else prompt
    asked = [text] * len(waves) if isinstance(text, str) else text
    if _speaks_mistral(processor):
        sounds = [{"type": "audio", "base64": _wav(wave, rate)} for wave in waves]
        talks = [_conversation(sound, one) for sound, one in zip(sounds, asked, strict=True)]
        return processor.apply_chat_template(talks, return_tensors="pt")
    talks = [_conversation({"type": "audio", "audio": ""}, one) for one in asked]
    return processor(
        text=[processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False) for talk in talks],
        audio=waves,
        sampling_rate=rate,
        text_kwargs={"padding": True, "padding_side": "left"},  # of text alone: encoders want their own padding
        return_tensors="pt",
    )


def _speaks_mistral(processor: Any) -> bool:
    return type(processor.tokenizer).__name__.startswith("MistralCommon")


def _conversation(sound: dict[str, str], text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [sound, {"type": "text", "text": text}]}]


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
    model: Any, processor: Any, waves: list[Wave], prompt: str | None = None, *, max_new_tokens: int = 256
) -> list[Reply]:
    """Ask the same of each piece of audio, greedily, in one batch.

    Args:
        model: an audio language model of a known family, with or without a method.
        processor: the model's own.
        waves: mono audio at the processor's rate, each within the model's window.
        prompt: what to ask; `None`: transcribe.
        max_new_tokens: longest reply, in tokens.
    """
    inputs = request(processor, waves, prompt)
    return answer(model, processor, inputs, transcript=prompt is None, max_new_tokens=max_new_tokens)


@torch.no_grad()
def answer(model: Any, processor: Any, inputs: Any, *, transcript: bool, max_new_tokens: int) -> list[Reply]:
    """Run a batch of prompts that `request` has made.

    Args:
        model: an audio language model of a known family, with or without a method.
        processor: the model's own.
        inputs: the batch, one piece of audio a row.
        transcript: whether a transcript was asked for: some processors strip what the model writes around it.
        max_new_tokens: longest reply, in tokens.
    """
    family = family_of(model)
    inputs = inputs.to(model.device, model.dtype)
    with _Clock(model) as clock:
        # greedy, whatever a checkpoint's generation_config.json samples with
        out = model.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, temperature=None, top_p=None, top_k=None
        )
    new = out[:, inputs["input_ids"].shape[1] :]
    texts = texts_of(processor, new, transcript)

    before = (inputs["input_ids"] == family.placeholder(model.config)).sum(1).tolist()
    handle = attached(model)
    after = before if handle is None else handle.last.after  # one clip a row
    pads = {processor.tokenizer.pad_token_id, processor.tokenizer.eos_token_id}
    counts = [sum(i not in pads for i in row) for row in new.tolist()]
    share = 1 / len(texts)
    encode, prefill, decode = clock.began - clock.start, clock.read - clock.began, clock.stop - clock.read
    encode += 0 if handle is None else handle.last.spared
    return [
        Reply(text, b, a, n, encode * share, prefill * share, decode * share)
        for text, b, a, n in zip(texts, before, after, counts, strict=True)
    ]


@dataclass(frozen=True)
class Piece:
    """One window of one file: the reply, or why there is none.

    Attributes:
        seconds: length of the audio.
        last: whether the file ends with it.
        heard: whether the audio could be read, so that an error is the model's.
    """

    file: str | Path
    seconds: float
    last: bool
    reply: Reply | None = None
    error: str | None = None

    @property
    def heard(self) -> bool:
        return self.seconds > 0


@dataclass(frozen=True)
class Window:
    """One window of one file, or why there is none.

    Attributes:
        index: the file's place among all.
        wave: mono audio; `None` where there is an error.
        last: whether the file ends with it.
    """

    index: int
    file: str | Path
    wave: Wave | None
    last: bool
    error: str | None = None


def pieces(
    model: Any,
    processor: Any,
    files: Iterable[str | Path],
    prompt: str | None = None,
    *,
    chunk: float | None = None,
    batch_size: int = 1,
    max_new_tokens: int = 256,
) -> Iterator[Piece]:
    """Run a prompt over files, window by window, in order; a file that fails is reported and the others go on.

    Args:
        model: an audio language model of a known family, with or without a method.
        processor: the model's own.
        files: audio files.
        prompt: what to ask; `None`: transcribe.
        chunk: seconds of a window; `None`: a file is one piece, which must fit the model.
        batch_size: windows that run together.
        max_new_tokens: longest reply to a window, in tokens.

    Raises:
        ValueError: where a chunk is longer than what the model reads.
    """
    family = family_of(model)
    limit = family.max_seconds
    if chunk is not None and limit is not None and chunk > limit:
        raise ValueError(f"--chunk {chunk:g} is more than the {limit:g} s that {family.name} reads at once")
    windows = windows_of(files, sample_rate(processor), family, chunk)
    return _run_windows(model, processor, windows, prompt, batch_size, max_new_tokens)


def _run_windows(
    model: Any, processor: Any, windows: Iterator[Window], prompt: str | None, batch_size: int, max_new_tokens: int
) -> Iterator[Piece]:
    rate = sample_rate(processor)
    failed = -1
    while batch := list(islice(windows, batch_size)):
        for window, answer in zip(batch, _answers(model, processor, batch, prompt, max_new_tokens), strict=True):
            if window.index == failed:
                continue  # an earlier window of this file failed: it is reported, the rest would read as the whole
            error = answer if isinstance(answer, str) else None
            if error is not None:
                failed = window.index
            yield Piece(
                window.file,
                0.0 if window.wave is None else len(window.wave) / rate,
                window.last or error is not None,
                None if isinstance(answer, str) else answer,
                error,
            )


def windows_of(files: Iterable[str | Path], rate: int, family: Family, chunk: float | None) -> Iterator[Window]:
    """Read files window by window, in order; one that cannot be read ends with a window that says why.

    Args:
        files: audio files.
        rate: of the windows, in Hz.
        family: says how long a file may be without `chunk`.
        chunk: seconds of a window; `None`: a file is one.
    """
    for index, file in enumerate(files):
        try:
            if chunk is None:
                yield Window(index, file, read_whole(file, rate, family), last=True)
                continue
            wave = None
            for block in audio.chunks(file, chunk, rate):
                if wave is not None:
                    yield Window(index, file, wave, last=False)
                wave = block
            if wave is None:
                raise ValueError("no audio in it")
            yield Window(index, file, wave, last=True)
        except (OSError, ValueError) as error:
            yield Window(index, file, None, last=True, error=one_line(error))


def read_whole(file: str | Path, rate: int, family: Family) -> Wave:
    """A file as one piece, at `rate`.

    Raises:
        ValueError: where it is longer than what the family reads at once, or cannot be read.
    """
    limit = family.max_seconds
    if limit is not None and (seconds := audio.duration(file)) > limit:
        raise ValueError(too_long(seconds, family, chunks=True))
    return audio.load(file, rate)


def too_long(seconds: float, family: Family, *, chunks: bool = False) -> str:
    """Says that audio is beyond a model's window and, where it can be cut into chunks, what to do about it."""
    limit = f"{family.max_seconds:g}"
    advice = f": --chunk {limit} runs it in windows" if chunks else ""
    return f"{seconds:.1f} s of audio, {family.name} reads {limit} s at once{advice}"


def _answers(
    model: Any, processor: Any, batch: list[Window], prompt: str | None, max_new_tokens: int
) -> Iterator[Reply | str]:
    """The reply to each window, or why there is none. One bad window does not take the others with it."""
    waves = [window.wave for window in batch if window.wave is not None]

    def ask(some: list[Wave]) -> list[Reply | str]:
        try:
            return [*reply(model, processor, some, prompt, max_new_tokens=max_new_tokens)]
        except Exception as error:  # of any kind: out of memory, a model's own checks
            return [one_line(error)] * len(some)

    answers = ask(waves) if waves else []
    if len(waves) > 1 and isinstance(answers[0], str):
        answers = [ask([wave])[0] for wave in waves]
    found = iter(answers)
    for window in batch:
        yield next(found) if window.wave is not None else window.error or ""
