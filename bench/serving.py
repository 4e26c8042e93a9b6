"""pocket under vLLM on this machine: transformers' words through the server, many clients at once, many clips at once.

    .venv-vllm/bin/python -m bench.serving words --out results/bench/serving-words.json    # about 4 minutes on 2 cores
    .venv-vllm/bin/python -m bench.serving load  --out results/bench/serving-load.json     # about 10
    .venv-vllm/bin/python -m bench.serving batch --out results/bench/serving-batch.json    # about 15

words: every clip of two test lists through a server, against what `fewhertz eval` has in results/ for the same clips.
load: 32 clients; each request says its own method, and methods take turns, so that whatever else the machine does falls
    on all of them: all tokens, and half and a quarter of them after and inside the encoder. With a recording of its own
    for every request, of 5 and of 25 s; and with few of 5 s that come again and again: vLLM's caches are made for that.
batch: `fewhertz batch` over 500 clips, killed once and started again, against transformers, one clip at a time.

Manifests are those of `python -m recipes.pocket.manifests --split test --limit 325 --out out/test`, for words of
`--limit 100 --out out/fourth`.
"""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import psutil
import soundfile
import typer
import vllm
from openai import AsyncOpenAI, OpenAIError

import fewhertz
from bench.clock import wall
from bench.record import environment, save
from fewhertz import audio, run
from fewhertz.evaluation.metrics import METRICS
from fewhertz.evaluation.results import BASELINE
from fewhertz.method import IDENTITY

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO / "tests_vllm"))
from engines import server  # noqa: E402

from recipes.research.packed import Packed  # noqa: E402

FEWHERTZ = str(Path(sys.executable).with_name("fewhertz"))
RATE = 16_000  # samples per second that pocket reads
PROMPT = run.PROMPTS["transcribe"]
LONGEST = 64  # new tokens, as recipes/research/tasks.py has it
MEMORY_EVERY = 1.0  # seconds
WORDS = ("far-new-voices-test", "strings-test")
LISTS = ("synthetic-test", "strings-test")
SPECS = (IDENTITY, "pool@keep=1/2", "ward@keep=1/3+time+sizes")  # a server made for the last takes all
AFTER, INSIDE = "ward", "ward(site=encoder.3)"  # of pocket's six layers
LOADS = (f"{AFTER}@keep=1", *(f"{site}@keep={keep}+time+sizes" for keep in ("1/2", "1/4") for site in (AFTER, INSIDE)))
# eager: what vLLM compiles at its start takes minutes of a CPU
ENGINE = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "32"]
# a cache of processed audio that is full soon: one that fills up looks like memory that leaks
SERVER = [*ENGINE, "--kv-cache-memory-bytes", "200000000", "--mm-processor-cache-gb", "0.2"]

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None)
OUT = Annotated[Path, typer.Option(help="Result file (JSON).")]
MANIFESTS = Annotated[Path, typer.Option(help="Folder of the manifests.")]
CLIENTS = Annotated[int, typer.Option(help="Requests at once.")]


def about(what: str, **configuration: Any) -> dict[str, Any]:
    """The head of a result file."""
    machine = environment("cpu") | {"vllm": vllm.__version__}
    return {"what": what, "configuration": {"model": "pocket", **configuration}, "environment": machine}


@contextmanager
def served(method: str) -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """A server of pocket, and the seconds after which it was up."""
    log = Path(tempfile.mkstemp(prefix="fewhertz-serving-", suffix=".log")[1])
    began = wall()
    with server("pocket", log, "--method", method, "--trust-request-mm-kwargs", *SERVER) as (address, process):
        yield address, process, wall() - began
    log.unlink()


def client_of(address: str) -> AsyncOpenAI:
    # a connection each: the server closes one that was idle, maybe just as it is used again
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    http = httpx.AsyncClient(trust_env=False, timeout=300, limits=limits)
    return AsyncOpenAI(base_url=address, api_key="none", max_retries=0, http_client=http)


def asked(data: bytes, spec: str) -> dict[str, Any]:
    """A chat request for a transcript."""
    clip = {"data": base64.b64encode(data).decode(), "format": "wav"}
    content = [{"type": "input_audio", "input_audio": clip}, {"type": "text", "text": PROMPT}]
    return {
        "model": "pocket",
        "messages": [{"role": "user", "content": content}],
        "max_completion_tokens": LONGEST,
        "temperature": 0,
        "extra_body": {"mm_processor_kwargs": {"audio_compression": spec}},
    }


def rows_of(manifest: Path, count: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text("utf-8").splitlines()[:count]]


def wav(wave: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


@app.command()
def words(
    out: OUT,
    manifests: MANIFESTS = REPO / "out" / "fourth",
    rows: Annotated[int, typer.Option(help="Of each list, its first ones.")] = 100,
    clients: CLIENTS = 32,
) -> None:
    """Word error rates through the server, against transformers' on the same clips."""

    async def answers(address: str, files: list[Path], spec: str) -> list[str]:
        client, turn = client_of(address), asyncio.Semaphore(clients)

        async def one(file: Path) -> str:
            async with turn:
                said = await client.chat.completions.create(**asked(wav(audio.load(file, RATE)), spec))
            return (said.choices[0].message.content or "").strip()

        found = await asyncio.gather(*map(one, files))
        await client.close()
        return found

    wer, compared, packed = METRICS["wer"], [], Packed(REPO / "results")
    with served(SPECS[-1]) as (address, _, _):
        for name, spec in itertools.product(WORDS, SPECS):
            done = packed.runs("", name, "pocket")["pocket", BASELINE if spec == IDENTITY else spec]
            theirs = dict(zip(done.column("id"), done.column("output"), strict=True))
            some = rows_of(manifests / f"{name}.jsonl", rows)
            ours = asyncio.run(answers(address, [manifests / one["audio"] for one in some], spec))
            others = [theirs[one["id"]] for one in some]
            right = [[one["text"]] for one in some]
            differ = [
                {"id": one["id"], "vllm": a, "transformers": b}
                for one, a, b in zip(some, ours, others, strict=True)
                if a != b
            ]
            compared.append(
                {
                    "list": name,
                    "method": spec,
                    "clips": len(some),
                    "wer_vllm": round(wer.score(wer.measure(right, ours)), 4),
                    "wer_transformers": round(wer.score(wer.measure(right, others)), 4),
                    "texts_that_differ": differ,
                }
            )
            print(json.dumps(compared[-1] | {"texts_that_differ": len(differ)}), flush=True)
    what = "word error rate (%) of pocket through fewhertz serve, against fewhertz eval's result files, same clips"
    save(
        about(what, method=SPECS[-1], server=SERVER, prompt=PROMPT, clients=clients, longest=LONGEST)
        | {"rows": compared},
        out,
    )


@dataclass
class Tally:
    """What the requests of one method came to."""

    first: list[float] = field(default_factory=list)  # seconds to the first token
    whole: list[float] = field(default_factory=list)  # seconds to the last
    prompt_tokens: list[int] = field(default_factory=list)
    new_tokens: int = 0
    busy: float = 0.0  # seconds of its blocks
    errors: list[str] = field(default_factory=list)

    def figures(self, seconds: float) -> dict[str, Any]:
        """The figures; `seconds`: of a recording."""
        return {
            "requests": len(self.first),
            "failed": len(self.errors),
            "errors": self.errors[:5],
            "requests_per_second": round(len(self.first) / self.busy, 3),
            "audio_seconds_per_second": round(seconds * len(self.first) / self.busy, 2),
            "first_token_s": {"median": _rounded(statistics.median(self.first)), "p95": _rounded(_p95(self.first))},
            "last_token_s": {"median": _rounded(statistics.median(self.whole)), "p95": _rounded(_p95(self.whole))},
            "prompt_tokens": statistics.mean(self.prompt_tokens),
            "new_tokens": round(self.new_tokens / len(self.first), 2),
        }


def _rounded(seconds: float) -> float:
    return round(seconds, 4)


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


class Recordings:
    """Speech of a fixed length, of clips that follow each other from a place drawn at random."""

    def __init__(self, manifest: Path, seconds: float, few: int | None) -> None:
        waves = [audio.load(manifest.parent / one["audio"], RATE) for one in rows_of(manifest, 325)]
        self.speech = np.concatenate(waves)
        self.length = round(seconds * RATE)
        self.draw = np.random.default_rng(0)
        self.few = None if few is None else [self._new() for _ in range(few)]

    def _new(self) -> bytes:
        start = int(self.draw.integers(len(self.speech) - self.length))
        return wav(self.speech[start : start + self.length])

    def next(self) -> bytes:
        """One that was never sent, or any of the few."""
        return self._new() if self.few is None else self.few[int(self.draw.integers(len(self.few)))]


async def ask(client: AsyncOpenAI, data: bytes, spec: str, tally: Tally) -> None:
    """One request, timed."""
    request = asked(data, spec) | {"stream": True, "stream_options": {"include_usage": True}}
    began, first, usage = wall(), None, None
    try:
        async for part in await client.chat.completions.create(**request):
            if part.choices and part.choices[0].delta.content and first is None:
                first = wall() - began
            usage = part.usage or usage
    except OpenAIError as error:
        tally.errors.append(f"{type(error).__name__}: {error}"[:300])
        return
    if usage is None:
        tally.errors.append("a stream without its end")
        return
    whole = wall() - began
    tally.first.append(whole if first is None else first)  # an empty answer: its end
    tally.whole.append(whole)
    tally.prompt_tokens.append(usage.prompt_tokens)
    tally.new_tokens += usage.completion_tokens


async def block(client: AsyncOpenAI, made: Recordings, spec: str, clients: int, seconds: float, tally: Tally) -> None:
    """Clients that each ask again as soon as they are answered; then all are waited for."""
    began = wall()

    async def one() -> None:
        while wall() - began < seconds:
            await ask(client, made.next(), spec, tally)

    await asyncio.gather(*(one() for _ in range(clients)))
    tally.busy += wall() - began


async def watch(pid: int, seen: list[int]) -> None:
    """Resident memory of a server and all that it started, in bytes."""
    server = psutil.Process(pid)
    while True:
        total = 0
        for one in [server, *server.children(recursive=True)]:
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        seen.append(total)
        await asyncio.sleep(MEMORY_EVERY)


async def under_load(
    address: str, pid: int, made: Recordings, clients: int, seconds: float, turn: float
) -> tuple[dict[str, Tally], list[int]]:
    client = client_of(address)
    for spec in LOADS:  # what is slow the first time is not what is measured
        await block(client, made, spec, clients, 1.0, Tally())
    tallies: dict[str, Tally] = defaultdict(Tally)
    memory: list[int] = []
    watching = asyncio.create_task(watch(pid, memory))
    for spec in itertools.cycle(LOADS):
        if spec == LOADS[0] and sum(tally.busy for tally in tallies.values()) >= seconds:
            break
        await block(client, made, spec, clients, turn, tallies[spec])
    watching.cancel()
    await client.close()
    return tallies, memory


@app.command()
def load(
    out: OUT,
    manifests: MANIFESTS = REPO / "out" / "test",
    clients: CLIENTS = 32,
    seconds: Annotated[float, typer.Option(help="Of load, all methods together, for each kind of recordings.")] = 150.0,
    turn: Annotated[float, typer.Option(help="Seconds of a method's turn.")] = 15.0,
) -> None:
    """Throughput, time to the first token and memory under load, all audio tokens against half and a quarter."""
    parts = {}
    kinds = (("5 s, each new", 5.0, None), ("25 s, each new", 25.0, None), ("16 of 5 s, again and again", 5.0, 16))
    with served(LOADS[-1]) as (address, server, up):
        for name, recording, few in kinds:
            made = Recordings(manifests / "synthetic-test.jsonl", recording, few)
            tallies, memory = asyncio.run(under_load(address, server.pid, made, clients, seconds, turn))
            figures = {spec: tally.figures(recording) for spec, tally in tallies.items()}
            base = figures[LOADS[0]]
            third = len(memory) // 3
            parts[name] = {
                "methods": figures,
                "over_all_tokens": {
                    spec: {
                        "throughput": round(one["requests_per_second"] / base["requests_per_second"], 3),
                        "first_token_median": round(
                            one["first_token_s"]["median"] / base["first_token_s"]["median"], 3
                        ),
                        "prompt_tokens": round(one["prompt_tokens"] / base["prompt_tokens"], 3),
                    }
                    for spec, one in figures.items()
                },
                "most_memory_by_thirds_mb": [
                    round(max(memory[i : i + third]) / 1e6, 1) for i in (0, third, len(memory) - third)
                ],
            }
            print(name, json.dumps(parts[name]["over_all_tokens"]), flush=True)
        alive = server.poll() is None
    what = "fewhertz serve under load on loopback: streaming, greedy; clients and server share the machine"
    configuration = {"clients": clients, "seconds": seconds, "turn": turn}
    head = about(what, server=SERVER, prompt=PROMPT, longest=LONGEST, **configuration)
    save(head | {"server_up_after_s": round(up, 1), "alive_at_the_end": alive, "parts": parts}, out)


@dataclass(frozen=True)
class Run:
    """One start of `fewhertz batch`."""

    exit_status: int
    seconds: float
    rows_done: int
    said: str


@app.command()
def batch(
    out: OUT,
    manifests: MANIFESTS = REPO / "out" / "test",
    clips: Annotated[int, typer.Option(help="As many of each list.")] = 500,
    method: Annotated[str, typer.Option(help="Spec.")] = "pool@keep=1/2",
    kill_at: Annotated[int, typer.Option(help="Rows after which the first run is killed.")] = 150,
) -> None:
    """`fewhertz batch`, killed once and started again: every clip once, and transformers' texts."""
    with tempfile.TemporaryDirectory() as folder:
        manifest, answers = Path(folder) / "clips.jsonl", Path(folder) / "answers"
        some = [
            {"id": one["id"], "audio": str((manifests / one["audio"]).resolve())}
            for name in LISTS
            for one in rows_of(manifests / f"{name}.jsonl", clips // len(LISTS))
        ]
        manifest.write_text("".join(json.dumps(one) + "\n" for one in some), "utf-8")
        engine = [*ENGINE, "--kv-cache-memory-bytes", "200000000"]
        command = [FEWHERTZ, "batch", str(manifest), "--model", "pocket", "--method", method, "--out", str(answers)]
        command += ["--max-new-tokens", str(LONGEST), *engine]
        journal = answers / "journal.jsonl"
        runs = []
        for kill in (kill_at, None):
            began = wall()
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
            while kill is not None and process.poll() is None and _done(journal) < kill:
                time.sleep(0.1)
            if kill is not None:
                os.kill(process.pid, signal.SIGKILL)
            said = (process.communicate()[1] or "").strip().splitlines()
            runs.append(Run(process.returncode, wall() - began, _done(journal), said[-1] if said else ""))
            print(runs[-1], flush=True)
        found = [json.loads(line) for line in (answers / "outputs.jsonl").read_text("utf-8").splitlines()]
        written = Counter(one["row"] for one in map(json.loads, journal.read_text().splitlines()) if "text" in one)
    model, processor = fewhertz.load("pocket", method, device="cpu", dtype="float32")
    differ = []
    for i, one in enumerate(found):
        (reply,) = run.reply(model, processor, [audio.load(one["audio"], RATE)], max_new_tokens=LONGEST)
        if (reply.text, reply.before, reply.after) != (one["text"], one["audio_tokens_before"], one["audio_tokens"]):
            differ.append({"id": one["id"], "batch": one["text"], "transformers": reply.text})
        if i % 50 == 49:
            print(f"{i + 1} of {len(found)} clips by transformers, {len(differ)} differ", flush=True)
    what = "fewhertz batch, killed by kill -9 and started again, against transformers at batch 1"
    head = about(what, lists=LISTS, clips=len(some), method=method, engine=engine, longest=LONGEST)
    body = {
        "runs": [asdict(one) for one in runs],
        "rows_answered": len(found),
        "every_clip_once": [one["id"] for one in found] == [one["id"] for one in some] and set(written.values()) == {1},
        "answers_that_differ": differ,
    }
    save(head | body, out)


def _done(journal: Path) -> int:
    return journal.read_bytes().count(b'"text"') if journal.exists() else 0


if __name__ == "__main__":
    app()
