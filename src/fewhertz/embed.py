"""Compressed audio as embeddings on the disk, for a vLLM without the plugin.

    DIR/<name>-<hash>.safetensors   a clip: `audio_embeds`, (audio tokens, hidden size), as the LLM reads them
    DIR/embeddings.jsonl            first what made them, then a line a clip: whose it is, where, how long

Names hold a hash of the audio, so inputs of one name do not collide, and what is there is not made again. vLLM's own
classes of Qwen2-Audio, Audio Flamingo 3 and GLM-ASR take embeddings, of methods too whose count follows the content
(they read weights by the names of checkpoints on the Hub; the names of transformers 5, pocket's, need the plugin):

    import json
    from safetensors.torch import load_file
    from transformers import AutoProcessor
    from vllm import LLM, SamplingParams

    model = "Qwen/Qwen2-Audio-7B-Instruct"
    talk = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Transcribe the speech."}]}]
    prompt = AutoProcessor.from_pretrained(model).apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
    llm = LLM(model, enable_mm_embeds=True)
    made, *clips = map(json.loads, open("embeddings/embeddings.jsonl"))
    for clip in clips:
        embeds = load_file(f"embeddings/{clip['file']}")["audio_embeds"]
        request = {"prompt": prompt, "multi_modal_data": {"audio": [embeds]}}
        answers = llm.generate(request, SamplingParams(temperature=0, max_tokens=256))
        print(clip["audio"], answers[0].outputs[0].text)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fewhertz import audio
from fewhertz.attach import Attached, attached
from fewhertz.checkpoint import Checkpoint, weights_sha256
from fewhertz.errors import one_line, or_singly
from fewhertz.families import family_of
from fewhertz.families.base import Family
from fewhertz.files import Journal, Record, read_journal, replace, safe_name, sha256_of
from fewhertz.run import Wave, read_whole, request, sample_rate

FORMAT = 1
JOURNAL = "embeddings.jsonl"
TENSOR = "audio_embeds"  # vLLM's name


@dataclass(frozen=True)
class Embedded:
    """One window of one file: its embeddings, or why there are none.

    Attributes:
        audio: the file.
        last: whether nothing more comes of it.
        record: its line in `embeddings.jsonl`.
        error: why there is none.
        readable: whether the audio could be read, so that an error is the model's.
    """

    audio: str | Path
    last: bool
    record: Record | None = None
    error: str | None = None
    readable: bool = False


@dataclass(frozen=True)
class _Window:
    """A window on its way: there already, to be encoded, or without audio."""

    index: int  # of the file
    done: Embedded
    wave: Wave | None = None


def identity(model: Any, checkpoint: Checkpoint, name: str, chunk: float | None) -> Record:
    """What embeddings depend on, beside the audio: the first line of `embeddings.jsonl`.

    Args:
        model: with the method attached.
        checkpoint: where the model comes from.
        name: what the user calls it.
        chunk: seconds of a window; `None`: a file is one clip.

    Raises:
        ValueError: where nothing is attached to the model, or a method that embeddings cannot carry.
    """
    handle = attached(model)
    if handle is None:
        raise ValueError(f'{name} has no method: give one, --method "pool@keep=1/3"')
    asked = handle.asked
    if asked.corrected:
        raise ValueError(f"{asked.spec}: embeddings carry no corrections to vLLM: leave +time and +sizes out")
    embeddings = model.get_input_embeddings().weight
    return {
        "format": FORMAT,
        "model": name,
        "weights_sha256": weights_sha256(checkpoint),
        "learned_sha256": _learned_sha256(handle),
        "method": asked.spec,
        "hidden_size": embeddings.shape[1],
        "dtype": str(embeddings.dtype).removeprefix("torch."),
        "chunk": chunk,
    }


def _learned_sha256(handle: Attached) -> str | None:
    if handle.learned is None:
        return None
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in handle.learned.state_dict().items()}
    return hashlib.sha256(save(tensors)).hexdigest()


@torch.no_grad()
def clips(model: Any, inputs: Any) -> list[tuple[int, Float[Tensor, "m d"]]]:
    """The audio of a batch as the LLM would read it.

    Args:
        model: with a method attached.
        inputs: what `fewhertz.run.request` made of the audio.

    Returns:
        Of each clip, the count before compression and its embeddings, in the dtype of the LLM's own.

    Raises:
        ValueError: where nothing is attached to the model, or the audio gives no token.
    """
    handle = attached(model)
    if handle is None:
        raise ValueError("no method is attached to the model")
    inputs = inputs.to(model.device, model.dtype)
    ids = inputs["input_ids"]
    audio = {name: inputs[name] for name in handle.family.audio_inputs}
    tokens, spans = handle.audio_tokens(audio, ids, ids == handle.family.placeholder(model.config))
    dtype = model.get_input_embeddings().weight.dtype
    return [(span.n, one.to(dtype)) for span, one in zip(spans, tokens, strict=True)]


def embed(
    model: Any,
    processor: Any,
    files: Iterable[str | Path],
    out: Path,
    made: Record,
    *,
    chunk: float | None = None,
    batch_size: int = 1,
) -> Iterator[Embedded]:
    """Write the embeddings of files, window by window, in order; a file that fails is reported and the others go on.

    What is in `out` already is not made again. One batch of windows is in memory at a time.

    Args:
        model: with a method attached.
        processor: the model's own.
        files: audio files.
        out: folder of the embeddings.
        made: what `identity` says.
        chunk: seconds of a window; `None`: a file is one clip, which must fit the model.
        batch_size: windows that are encoded together.

    Raises:
        ValueError: where `out` holds what was made otherwise, or a chunk is longer than what the model reads.
    """
    family = family_of(model)
    if chunk is not None and family.max_seconds is not None and chunk > family.max_seconds:
        raise ValueError(
            f"--chunk {chunk:g} is more than the {family.max_seconds:g} s that {family.name} reads at once"
        )
    store = _Store(out, made)
    rate = sample_rate(processor)
    return _run(model, processor, store, _todo(files, store, rate, family, chunk), batch_size)


class _Store:
    """The folder: embeddings, each whole or not at all, and the journal of them."""

    def __init__(self, out: Path, made: Record) -> None:
        self.out, self.made = out, made
        self.journal = Journal(out / JOURNAL, made)
        self.records = {(one["audio"], one["file"]): one for one in read_journal(out / JOURNAL, made)}
        self.files = {name: one for (_, name), one in self.records.items()}

    def find(self, audio: str | Path, name: str) -> Record | None:
        """The record of embeddings that are there; those of the same audio elsewhere become this file's too."""
        if name not in self.files or not (self.out / name).is_file():
            return None
        return self.add(self.files[name] | {"audio": str(audio)})

    def add(self, record: Record) -> Record:
        """Keep a record, once."""
        key = record["audio"], record["file"]
        if self.records.get(key) != record:
            self.journal.add([record])
        self.records[key] = self.files[record["file"]] = record
        return record

    def write(self, record: Record, tokens: Tensor) -> Record:
        """Write embeddings, and after them their record."""
        from safetensors.torch import save

        metadata = {"made": json.dumps(self.made | record)}  # one entry: the order of several is not fixed
        replace(self.out / record["file"], save({TENSOR: tokens.cpu().contiguous()}, metadata))
        return self.add(record)


def _todo(
    files: Iterable[str | Path], store: _Store, rate: int, family: Family, chunk: float | None
) -> Iterator[_Window]:
    for index, file in enumerate(files):
        sha = sha256_of(Path(file))
        there = _whole(store, file, sha)
        if there is not None:
            yield from (_Window(index, Embedded(file, record["last"], record)) for record in there)
            continue
        try:
            for number, (wave, last) in enumerate(_waves(file, rate, family, chunk)):
                name = _name(file, sha, number)
                record = store.find(file, name)
                if record is not None:
                    yield _Window(index, Embedded(file, last, record))
                    continue
                record = {"audio": str(file), "file": name, "audio_sha256": sha, "window": number, "last": last}
                record["seconds"] = round(len(wave) / rate, 3)
                yield _Window(index, Embedded(file, last, record), wave)
        except (OSError, ValueError) as error:
            yield _Window(index, Embedded(file, True, error=one_line(error)))


def _waves(file: str | Path, rate: int, family: Family, chunk: float | None) -> Iterator[tuple[Wave, bool]]:
    """The windows of a file, and whether it ends with each."""
    if chunk is None:
        yield read_whole(file, rate, family), True
        return
    wave = None
    for block in audio.chunks(file, chunk, rate):
        if wave is not None:
            yield wave, False
        wave = block
    if wave is None:
        raise ValueError("no audio in it")
    yield wave, True


def _name(file: str | Path, sha: str, number: int) -> str:
    return f"{safe_name(Path(file).stem)}-{sha[:16]}-{number}.safetensors"


def _whole(store: _Store, file: str | Path, sha: str) -> list[Record] | None:
    """The records of a file whose windows are all there."""
    found: list[Record] = []
    while sha and (record := store.find(file, _name(file, sha, len(found)))) is not None:
        found.append(record)
        if record["last"]:
            return found
    return None


def _run(model: Any, processor: Any, store: _Store, windows: Iterator[_Window], batch_size: int) -> Iterator[Embedded]:
    failed = -1
    try:
        while batch := list(islice(windows, batch_size)):
            waves = [window.wave for window in batch if window.wave is not None]
            made = iter(_encoded(model, processor, waves))
            for window in batch:
                done = window.done
                tokens = next(made) if window.wave is not None else None
                if window.index == failed:
                    continue  # an earlier window of this file failed: it is reported, the rest would read as the whole
                if isinstance(tokens, str):
                    done = Embedded(done.audio, True, error=tokens, readable=True)
                elif tokens is not None:
                    before, embeds = tokens
                    counts = {"audio_tokens_before": before, "audio_tokens": len(embeds)}
                    assert done.record is not None
                    done = Embedded(done.audio, done.last, store.write(done.record | counts, embeds))
                if done.error is not None:
                    failed = window.index
                yield done
    finally:
        store.journal.close()


def _encoded(model: Any, processor: Any, waves: list[Wave]) -> list[tuple[int, Tensor] | str]:
    """The embeddings of each window, or why there are none."""

    def encode(some: list[Wave]) -> list[tuple[int, Tensor]]:
        made = clips(model, request(processor, some))
        if len(made) != len(some):
            raise ValueError("the audio is too short for a single audio token")
        return made

    return or_singly(encode, waves)
