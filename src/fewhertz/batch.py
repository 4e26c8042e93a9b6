"""Many clips through vLLM, on one machine or a cluster: Ray Data reads the audio and feeds the engines.

    DIR/journal.jsonl   what is done so far; with it the same command goes on where it was
    DIR/outputs.jsonl   at the end, a line a row that has an answer, in the manifest's order
    DIR/errors.jsonl    at the end, a line a row that has none, and why

Audio is read on all nodes, by the paths that the manifest gives; answers are written where the command runs.

Transcripts are made as `fewhertz run` makes them (fewhertz.transcription): what is longer than a window goes through an
engine window by window, a batch of windows in memory at a time, and the journal keeps each.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewhertz import audio
from fewhertz.checkpoint import Checkpoint, load_processor, open_checkpoint, weights_sha256
from fewhertz.errors import need, one_line
from fewhertz.files import Journal, Record, read_journal, replace
from fewhertz.method import Method, parse
from fewhertz.run import Reply, Wave, read_whole, request, sample_rate, texts_of
from fewhertz.segments import Kept, Segment, written
from fewhertz.tasks.base import Failed, Task
from fewhertz.training.data import unlabelled
from fewhertz.transcription import LONGEST, Chunk, answered, comfortable
from fewhertz.vllm.serve import check_version

FORMAT = 2
SAY_EVERY = 10.0  # seconds
NOT_STARTED, BROKE_OFF = -1, -2  # the "row" of an engine that answers no more


class Stopped(Exception):
    """The engines broke off; what they answered is written, and the same command goes on."""


@dataclass(frozen=True)
class Done:
    """What a run came to.

    Attributes:
        rows: rows that have an answer, of this run and of those before it.
        failed: rows that have none.
        hours: hours of audio that were answered in this run.
        seconds: how long this run took, the start of the engines included.
    """

    rows: int
    failed: int
    hours: float
    seconds: float


@dataclass(frozen=True)
class Engine:
    """How an engine is made, wherever it runs.

    Attributes:
        model: a hub id, a directory that all nodes have, or `pocket`.
        method: spec of the method; `None`: the one that the checkpoint carries, if any.
        options: vLLM's own, as on its command line.
    """

    model: str
    method: str | None
    options: tuple[str, ...] = ()

    def arguments(self) -> Any:
        """What `fewhertz serve` would start, as vLLM's `EngineArgs`.

        Raises:
            ValueError: for a model, a method or options that cannot be served.
        """
        from vllm import EngineArgs
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        from fewhertz.vllm.serve import command

        parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
        parser.error = _refuse
        _python, _module, _server, *options = command(self.model, self.method, list(self.options))
        return EngineArgs.from_cli_args(parser.parse_args(options))


def _refuse(text: str) -> None:
    raise ValueError(f"vLLM: {text}")


def batch(
    task: Task,
    engine: Engine,
    out: Path,
    *,
    address: str | None = None,
    engines: int | None = None,
    batch_size: int = 32,
    max_new_tokens: int | None = None,
    chunk: Chunk = None,
    say: Callable[[str], None] = lambda _: None,
) -> Done:
    """Ask about every row of a manifest, greedily; what was answered before is not asked again.

    A row that fails is written down and the others go on; the next run tries it again.

    Args:
        task: the manifest.
        engine: what answers.
        out: folder of the answers.
        address: of a Ray cluster's head, `"host:port"`; `None`: this machine alone.
        engines: how many; `None`: as many as there are GPUs for, one where there are none.
        batch_size: rows, or windows of long ones, that an engine is given at once.
        max_new_tokens: longest answer, to a window where there are several, in tokens; `None`: by its length.
        chunk: seconds of a transcript's longest window; `None` and `"auto"`: as `transcribe`. Audio of rows with a
            prompt of their own is one piece.
        say: gets a line about how far it is.

    Raises:
        ImportError: where Ray or vLLM is missing.
        ValueError: where model, method, options, manifest or journal are not what they should be, or no engine starts.
        TypeError: for an unknown family.
        Stopped: where the engines break off.
    """
    check_version()
    need("ray.data", "batch")
    checkpoint = open_checkpoint(engine.model)
    spec = checkpoint.method if engine.method is None else parse(engine.method).spec
    arguments = engine.arguments()
    seconds = comfortable(checkpoint.family, checkpoint.config, chunk)
    samples = unlabelled(task)
    identity = {
        "format": FORMAT,
        "manifest_sha256": hashlib.sha256(Path(task.source()).read_bytes()).hexdigest(),
        "prompt": task.ask,
        "model": engine.model,
        "weights_sha256": weights_sha256(checkpoint),
        "method": spec,
        "max_new_tokens": max_new_tokens,
        "longest_window_s": seconds,
        "dtype": str(arguments.dtype),
        "quantization": arguments.quantization,
    }
    journal = Journal(out / "journal.jsonl", identity)
    try:
        records, windows = _done(read_journal(out / "journal.jsonl", identity))
        todo = []
        for sample in samples:
            if "text" in records.get(sample.row, {}):
                continue
            if isinstance(sample, Failed):
                records[sample.row] = {"row": sample.row, "id": sample.id, "audio": None, "error": sample.error}
                continue
            assert isinstance(sample.sound, Path)  # what a manifest names
            asked: Record = {"id": sample.id, "audio": os.path.abspath(sample.sound), "prompt": sample.prompt}
            asked["done"] = windows.get(sample.row, [])
            todo.append({"row": sample.row, "asked": json.dumps(asked)})
        began, done_s = time.monotonic(), 0.0
        said, before, new = began, len(samples) - len(todo), 0
        gpus = arguments.tensor_parallel_size * arguments.pipeline_parallel_size
        how = _How(engine, seconds, batch_size, max_new_tokens)
        for part in _answers(todo, how, gpus, address, engines):
            journal.add(part)
            some = [record for record in part if "window" not in record]
            records |= {record["row"]: record for record in some}
            new += len(some)
            done_s += sum(record["seconds"] for record in some if "text" in record)
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                rate = done_s / (said - began)
                say(f"{before + new} of {len(samples)} rows, {rate:.3g} hours of audio per hour")
    finally:
        journal.close()
    kept = [records[sample.row] for sample in samples]
    answered = [record for record in kept if "text" in record]
    failed = [record for record in kept if "text" not in record]
    for name, lines in (("outputs", answered), ("errors", failed)):
        text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines)
        replace(out / f"{name}.jsonl", text.encode("utf-8", "backslashreplace"))
    return Done(len(answered), len(failed), done_s / 3600, time.monotonic() - began)


def _done(journal: list[Record]) -> tuple[dict[int, Record], dict[int, list[Record]]]:
    """The records of rows, and those of windows of rows that have none yet."""
    records: dict[int, Record] = {}
    windows: dict[int, list[Record]] = {}
    for record in journal:
        if "window" in record:
            windows.setdefault(record["row"], []).append(record)
        else:
            records[record["row"]] = record
            windows.pop(record["row"], None)  # a row that failed is begun anew: its audio may be another now
    return records, windows


@dataclass(frozen=True)
class _How:
    """How rows are answered, wherever that is."""

    engine: Engine
    seconds: float | None  # of the longest window of a transcript
    batch_size: int
    max_new_tokens: int | None


def _answers(
    todo: list[Record], how: _How, gpus: int, address: str | None, engines: int | None
) -> Iterator[list[Record]]:
    """The records of rows, some at a time, as they come."""
    if not todo:
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what it says is not for the user
    import ray

    ray.init(
        address=address or "local",
        log_to_driver=False,
        logging_level=logging.ERROR,
        **({} if address else {"include_dashboard": False}),
    )
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.target_max_block_size = 1  # what an engine yields is here at once, to be kept
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        there = int(ray.cluster_resources().get("GPU", 0))
        if there and there < gpus:
            raise ValueError(f"an engine wants {gpus} GPUs, Ray has {there}")
        count = engines or max(1, there // gpus)
        # Where engines have GPUs, Ray reads the next ones beside them;
        # on CPUs alone, which both want, it reads them in the engine's process.
        rows = ray.data.from_items(todo, override_num_blocks=math.ceil(len(todo) / how.batch_size))
        heard = rows.map(hear, fn_kwargs={"model": how.engine.model, "seconds": how.seconds})
        answers = heard.map_batches(
            Answers,
            fn_constructor_args=(how,),
            batch_size=how.batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=count),
            num_gpus=gpus if there else 0,
            num_cpus=1,
        )
        for table in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
            found = table.to_pylist()
            for one in found:
                if one["row"] in (NOT_STARTED, BROKE_OFF):
                    raise (ValueError if one["row"] == NOT_STARTED else Stopped)(one["record"])
            yield [json.loads(one["record"]) for one in found]
    except ray.exceptions.RayError as error:
        raise Stopped(f"Ray broke off: {one_line(getattr(error, 'cause', None) or error)}") from error
    finally:
        ray.shutdown()


@functools.lru_cache(maxsize=1)
def _opened(model: str) -> tuple[Checkpoint, Any]:
    checkpoint = open_checkpoint(model, weights=False)
    return checkpoint, load_processor(checkpoint)


def hear(row: Record, model: str, seconds: float | None) -> Record:
    """Read a row's audio and lay out its prompt, on any node; not that of a transcript of several windows.

    Args:
        row: as `batch` makes it.
        model: as `Engine`.
        seconds: of the longest window of a transcript; `None`: audio is one piece.

    Returns:
        The row with `wave` (float32 samples at the model's rate, as bytes; of several windows none), `ids` (the prompt
        with one placeholder for the clip), `before` (audio tokens without a method) and `error` (none: empty).
    """
    checkpoint, processor = _opened(model)
    asked = json.loads(row["asked"])
    found = row | {"wave": b"", "ids": [], "before": 0, "error": ""}
    try:
        if asked["prompt"] is None and seconds is not None and audio.duration(asked["audio"]) > seconds:
            return found
        wave = read_whole(asked["audio"], sample_rate(processor), checkpoint.family, chunks=False)
        ids, before = _laid_out(model, wave, asked["prompt"])
    except Exception as error:  # of any kind: a decoder's or a processor's own checks
        return found | {"error": one_line(error)}
    return found | {"wave": wave.tobytes(), "ids": ids, "before": before}


def _laid_out(model: str, wave: Wave, prompt: str | None) -> tuple[list[int], int]:
    """The prompt with one placeholder for the clip, and the audio tokens that the clip has without a method."""
    checkpoint, processor = _opened(model)
    ids = request(processor, [wave], prompt)["input_ids"][0].tolist()
    placeholder = checkpoint.family.placeholder(checkpoint.config)
    # vLLM lays out as many placeholders as there will be tokens, for each one that it finds
    single = [token for i, token in enumerate(ids) if token != placeholder or ids[i - 1 : i] != [placeholder]]
    return single, ids.count(placeholder)


class _Sent(Kept):
    """Windows that are done: those of an earlier run, and those that are on their way to the journal."""

    def __init__(self, rows: list[Record]) -> None:
        self.rows = [row["row"] for row in rows]
        self.long = [not row["wave"] for row in rows]
        asked = [json.loads(row["asked"])["done"] for row in rows]
        self.done = {(i, one["window"]): one["segments"] for i, done in enumerate(asked) for one in done}
        self.new: list[Record] = []

    def write(self, records: list[Record]) -> None:
        self.new += [
            {"row": self.rows[one["file"]], "window": one["window"], "segments": one["segments"]}
            for one in records
            if self.long[one["file"]]
        ]

    def taken(self) -> list[Record]:
        """What is done since the last call."""
        new, self.new = self.new, []
        return new


class Answers:
    """A vLLM engine in an actor of Ray's: tables of rows that `hear` has read to tables of records."""

    def __init__(self, how: _How) -> None:
        self.failed: str | None = None
        self.how = how
        try:
            self._start(how.engine)
        except Exception as error:  # of any kind; Ray would start the engine again and again
            self.failed = f"vLLM does not start with {how.engine.model}: {one_line(error)}"

    def _start(self, engine: Engine) -> None:
        from vllm import LLM

        self.checkpoint, self.processor = _opened(engine.model)
        self.rate = sample_rate(self.processor)
        self.placeholder = self.checkpoint.family.placeholder(self.checkpoint.config)
        spec = engine.method or self.checkpoint.method
        self.method: Method | None = self.checkpoint.fit(spec) if spec else None
        self.llm = LLM.from_engine_args(engine.arguments())
        self.params = self.llm.get_default_sampling_params()  # the checkpoint's, as transformers has them
        self.params.temperature = 0.0

    def __call__(self, table: Any) -> Iterator[dict[str, Any]]:
        """Answer rows, as they are done; those that cannot be answered say why."""
        if self.failed is not None:
            yield {"row": np.array([NOT_STARTED]), "record": [self.failed]}
            return
        try:
            for records in self._answer(table.to_pylist()):
                yield {"row": np.array([one["row"] for one in records]), "record": [*map(json.dumps, records)]}
        except Exception as error:  # of any kind: no row's own. Ray would make a hundred lines of it
            yield {"row": np.array([BROKE_OFF]), "record": [f"vLLM broke off: {one_line(error)}"]}

    def _answer(self, rows: list[Record]) -> Iterator[list[Record]]:
        prompts = {row["row"]: json.loads(row["asked"])["prompt"] for row in rows}
        failed = [_named(row) | {"error": row["error"]} for row in rows if row["error"]]
        if failed:
            yield failed
        heard = [row for row in rows if not row["error"]]
        whole = [row for row in heard if prompts[row["row"]] is not None]
        if whole:
            yield self._whole(whole)
        yield from self._transcripts([row for row in heard if prompts[row["row"]] is None])

    def _whole(self, rows: list[Record]) -> list[Record]:
        """Answer rows with a prompt of their own."""
        waves = [np.frombuffer(row["wave"], np.float32) for row in rows]
        asked = [(wave, row["ids"], row["before"]) for wave, row in zip(waves, rows, strict=True)]
        records = []
        for row, wave, reply in zip(
            rows, waves, self._replies(asked, self.how.max_new_tokens or LONGEST, False), strict=True
        ):
            said = {"error": reply} if isinstance(reply, str) else _counted(reply.text, len(wave) / self.rate, [reply])
            records.append(_named(row) | said)
        return records

    def _transcripts(self, rows: list[Record]) -> Iterator[list[Record]]:
        """Answer the others; windows of long ones are sent ahead of their rows."""
        waves = [np.frombuffer(row["wave"], np.float32) for row in rows]
        known = {len(wave): (row["ids"], row["before"]) for wave, row in zip(waves, rows, strict=True) if len(wave)}

        def ask(windows: list[Wave], longest: int, _tokens: list[int] | None) -> list[Reply | str]:
            asked = []
            for wave in windows:
                if len(wave) not in known:  # the processor counts by the length alone
                    known[len(wave)] = _laid_out(self.how.engine.model, np.zeros_like(wave), None)
                asked.append((wave, *known[len(wave)]))
            return self._replies(asked, longest, True)

        sent = _Sent(rows)
        paths = [json.loads(row["asked"])["audio"] for row in rows]
        stream = answered(
            ((wave, self.rate) if len(wave) else (path, None) for wave, path in zip(waves, paths, strict=True)),
            ask,
            self.checkpoint.family,
            self.rate,
            self.how.seconds,
            transcript=True,
            batch_size=self.how.batch_size,
            max_new_tokens=self.how.max_new_tokens,
            kept=sent,
            ahead=1,  # vLLM pads nothing
        )
        ahead, segments = iter(rows), list[Segment]()
        for piece in stream:
            if new := sent.taken():
                yield new
            if piece.segment is not None:
                segments.append(piece.segment)
            if piece.last:
                text = " ".join(segment.text for segment in segments if segment.text)
                replies = [segment.reply for segment in segments if segment.reply is not None]
                said = _counted(text, piece.seconds, replies) | {"segments": [*map(written, segments)]}
                yield [_named(next(ahead)) | (said if piece.error is None else {"error": piece.error})]
                segments = []

    def _replies(self, asked: list[tuple[Wave, list[int], int]], longest: int, transcript: bool) -> list[Reply | str]:
        """The reply to each clip with its prompt and its audio tokens without a method, or why there is none."""
        from vllm.exceptions import VLLMClientError

        params = self.params.clone()
        params.max_tokens = longest
        replies: list[Reply | str] = []
        places = []
        for place, (wave, ids, _) in enumerate(asked):
            prompt = {"prompt_token_ids": ids, "multi_modal_data": {"audio": [(wave, self.rate)]}}
            replies.append("")
            try:
                self.llm.enqueue(prompt, params, use_tqdm=False)
            except (ValueError, VLLMClientError) as error:  # this clip's own: too long for the model, say
                replies[place] = one_line(error)
                continue
            places.append(place)
        # in the order in which they were asked
        for place, out in zip(places, self.llm.wait_for_completion(use_tqdm=False), strict=True):
            replies[place] = self._reply(out, asked[place][2], transcript)
        return replies

    def _reply(self, out: Any, before: int, transcript: bool) -> Reply | str:
        said = out.outputs[0]
        if said.finish_reason not in ("stop", "length"):
            return f"vLLM broke it off ({said.finish_reason})"
        after = out.prompt_token_ids.count(self.placeholder)
        wanted = after  # a count from the log-mel is the processor's alone to know
        if self.method is None or self.method.fixed_budget:
            wanted = before if self.method is None else self.method.num_tokens(before)
        if after != wanted:
            raise RuntimeError(f"vLLM laid out {after} audio tokens, {wanted} were asked for: is its plugin there?")
        (text,) = texts_of(self.processor, torch.tensor([list(said.token_ids)]), transcript)
        return Reply(text, before, after, len(said.token_ids), 0.0, 0.0, 0.0, said.finish_reason == "stop")


def _named(row: Record) -> Record:
    asked = json.loads(row["asked"])
    return {"row": row["row"], "id": asked["id"], "audio": asked["audio"]}


def _counted(text: str, seconds: float, replies: list[Reply]) -> Record:
    return {
        "text": text,
        "seconds": round(seconds, 3),
        "audio_tokens_before": sum(reply.before for reply in replies),
        "audio_tokens": sum(reply.after for reply in replies),
        "new_tokens": sum(reply.new_tokens for reply in replies),
    }
