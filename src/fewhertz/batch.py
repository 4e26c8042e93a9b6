"""Many clips through vLLM, on one machine or a cluster: Ray Data reads the audio and feeds the engines.

    DIR/journal.jsonl   what is done so far; with it the same command goes on where it was
    DIR/outputs.jsonl   at the end, a line a row that has an answer, in the manifest's order
    DIR/errors.jsonl    at the end, a line a row that has none, and why

Audio is read on all nodes, by the paths that the manifest gives; answers are written where the command runs.
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

from fewhertz.checkpoint import Checkpoint, load_processor, open_checkpoint, weights_sha256
from fewhertz.errors import need, one_line
from fewhertz.files import Journal, Record, read_journal, replace
from fewhertz.method import Method, parse
from fewhertz.run import read_whole, request, sample_rate, texts_of
from fewhertz.tasks.base import Failed, Task
from fewhertz.training.data import unlabelled
from fewhertz.vllm.serve import check_version

FORMAT = 1
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
    max_new_tokens: int = 256,
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
        batch_size: rows that an engine is given at once.
        max_new_tokens: longest answer, in tokens.
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
    samples = unlabelled(task)
    identity = {
        "format": FORMAT,
        "manifest_sha256": hashlib.sha256(Path(task.source()).read_bytes()).hexdigest(),
        "prompt": task.ask,
        "model": engine.model,
        "weights_sha256": weights_sha256(checkpoint),
        "method": spec,
        "max_new_tokens": max_new_tokens,
        "dtype": str(arguments.dtype),
        "quantization": arguments.quantization,
    }
    journal = Journal(out / "journal.jsonl", identity)
    try:
        records = {record["row"]: record for record in read_journal(out / "journal.jsonl", identity)}
        todo = []
        for sample in samples:
            if "text" in records.get(sample.row, {}):
                continue
            if isinstance(sample, Failed):
                records[sample.row] = {"row": sample.row, "id": sample.id, "audio": None, "error": sample.error}
                continue
            assert isinstance(sample.sound, Path)  # what a manifest names
            asked = {"id": sample.id, "audio": os.path.abspath(sample.sound), "prompt": sample.prompt}
            todo.append({"row": sample.row, "asked": json.dumps(asked)})
        began, done_s = time.monotonic(), 0.0
        said, before, new = began, len(samples) - len(todo), 0
        gpus = arguments.tensor_parallel_size * arguments.pipeline_parallel_size
        for some in _answers(todo, engine, gpus, address, engines, batch_size, max_new_tokens):
            journal.add(some)
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


def _answers(
    todo: list[Record],
    engine: Engine,
    gpus: int,
    address: str | None,
    engines: int | None,
    batch_size: int,
    max_new_tokens: int,
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
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        there = int(ray.cluster_resources().get("GPU", 0))
        if there and there < gpus:
            raise ValueError(f"an engine wants {gpus} GPUs, Ray has {there}")
        count = engines or max(1, there // gpus)
        # A block is what an engine is given at once. Where engines have GPUs, Ray reads the next ones beside them;
        # on CPUs alone, which both want, it reads them in the engine's process.
        rows = ray.data.from_items(todo, override_num_blocks=math.ceil(len(todo) / batch_size))
        done_s = rows.map(hear, fn_kwargs={"model": engine.model})
        answers = done_s.map_batches(
            Answers,
            fn_constructor_args=(engine, max_new_tokens),
            batch_size=None,  # a block
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


def hear(row: Record, model: str) -> Record:
    """Read a row's audio and lay out its prompt, on any node.

    Returns:
        The row with `wave` (float32 samples at the model's rate, as bytes), `seconds`, `ids` (the prompt with one
        placeholder for the clip), `before` (audio tokens without a method) and `error` (none: empty).
    """
    checkpoint, processor = _opened(model)
    asked = json.loads(row["asked"])
    family, rate = checkpoint.family, sample_rate(processor)
    found = row | {"wave": b"", "seconds": 0.0, "ids": [], "before": 0, "error": ""}
    try:
        wave = read_whole(asked["audio"], rate, family, chunks=False)
        ids = request(processor, [wave], asked["prompt"])["input_ids"][0].tolist()
    except Exception as error:  # of any kind: a decoder's or a processor's own checks
        return found | {"error": one_line(error)}
    placeholder = family.placeholder(checkpoint.config)
    # vLLM lays out as many placeholders as there will be tokens, for each one that it finds
    single = [token for i, token in enumerate(ids) if token != placeholder or ids[i - 1 : i] != [placeholder]]
    before = ids.count(placeholder)
    return found | {"wave": wave.tobytes(), "seconds": len(wave) / rate, "ids": single, "before": before}


class Answers:
    """A vLLM engine in an actor of Ray's: tables of rows that `hear` has read to tables of records."""

    def __init__(self, engine: Engine, max_new_tokens: int) -> None:
        self.failed: str | None = None
        try:
            self._start(engine, max_new_tokens)
        except Exception as error:  # of any kind; Ray would start the engine again and again
            self.failed = f"vLLM does not start with {engine.model}: {one_line(error)}"

    def _start(self, engine: Engine, max_new_tokens: int) -> None:
        from vllm import LLM

        self.checkpoint, self.processor = _opened(engine.model)
        self.rate = sample_rate(self.processor)
        self.placeholder = self.checkpoint.family.placeholder(self.checkpoint.config)
        spec = engine.method or self.checkpoint.method
        self.method: Method | None = self.checkpoint.fit(spec) if spec else None
        self.llm = LLM.from_engine_args(engine.arguments())
        self.params = self.llm.get_default_sampling_params()  # the checkpoint's, as transformers has them
        self.params.temperature = 0.0
        self.params.max_tokens = max_new_tokens

    def __call__(self, table: Any) -> dict[str, Any]:
        """Answer rows; those that cannot be answered say why."""
        if self.failed is not None:
            return {"row": np.array([NOT_STARTED]), "record": [self.failed]}
        try:
            records = self._answer(table.to_pylist())
        except Exception as error:  # of any kind: no row's own. Ray would make a hundred lines of it
            return {"row": np.array([BROKE_OFF]), "record": [f"vLLM broke off: {one_line(error)}"]}
        return {"row": np.array([one["row"] for one in records]), "record": [json.dumps(one) for one in records]}

    def _answer(self, rows: list[Record]) -> list[Record]:
        from vllm.exceptions import VLLMClientError

        records, asked = [], []
        for row in rows:
            asked_for = json.loads(row["asked"])
            record = {"row": row["row"], "id": asked_for["id"], "audio": asked_for["audio"]}
            records.append(record)
            if row["error"]:
                record["error"] = row["error"]
                continue
            prompt = {
                "prompt_token_ids": row["ids"],
                "multi_modal_data": {"audio": [(np.frombuffer(row["wave"], np.float32), self.rate)]},
            }
            try:
                self.llm.enqueue(prompt, self.params, use_tqdm=False)
            except (ValueError, VLLMClientError) as error:  # this row's own: too long for the model, say
                record["error"] = one_line(error)
                continue
            asked.append((record, row, asked_for["prompt"] is None))
        # in the order in which they were asked
        for (record, row, transcript), reply in zip(asked, self.llm.wait_for_completion(use_tqdm=False), strict=True):
            record |= self._record(row, reply, transcript)
        return records

    def _record(self, row: Record, reply: Any, transcript: bool) -> Record:
        said = reply.outputs[0]
        if said.finish_reason not in ("stop", "length"):
            return {"error": f"vLLM broke it off ({said.finish_reason})"}
        after = reply.prompt_token_ids.count(self.placeholder)
        wanted = after  # a count from the log-mel is the processor's alone to know
        if self.method is None or self.method.fixed_budget:
            wanted = row["before"] if self.method is None else self.method.num_tokens(row["before"])
        if after != wanted:
            raise RuntimeError(f"vLLM laid out {after} audio tokens, {wanted} were asked for: is its plugin there?")
        (text,) = texts_of(self.processor, torch.tensor([list(said.token_ids)]), transcript)
        return {
            "text": text,
            "seconds": round(row["seconds"], 3),
            "audio_tokens_before": row["before"],
            "audio_tokens": after,
            "new_tokens": len(said.token_ids),
        }
