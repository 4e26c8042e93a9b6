"""The server of `fewhertz serve`, with OpenAI's own client over loopback."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import httpx
import numpy as np
import openai
import pytest
import soundfile
import soxr
from engines import server

import fewhertz
from fewhertz import audio, parse
from fewhertz.checkpoint import load_processor, open_checkpoint
from fewhertz.pocket import path
from fewhertz.run import sample_rate
from fewhertz.vllm.serve import command

SAMPLES = sorted((Path(path()) / "samples").glob("*.flac"))
ATTACHED = "ward@keep=1/3+time+sizes"
SMALL = ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "8", "--kv-cache-memory-bytes", "200000000"]


def client_of(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=address, api_key="none", max_retries=0, http_client=httpx.Client(trust_env=False))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve") / "server.log"


@pytest.fixture(scope="module")
def client(log: Path) -> Iterator[openai.OpenAI]:
    options = ["--method", ATTACHED, "--max-model-len", "2048", "--trust-request-mm-kwargs"]
    with server("pocket", log, *options, *SMALL) as (address, _):
        yield client_of(address)


def encoded(wave: np.ndarray, rate: int, kind: str) -> str:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind.upper())
    return base64.b64encode(file.getvalue()).decode()


def chat(
    client: openai.OpenAI, data: str, kind: str, spec: object = None, tokens: int = 32, model: str = "pocket"
) -> Any:
    content = [
        {"type": "input_audio", "input_audio": {"data": data, "format": kind}},
        {"type": "text", "text": "Transcribe the speech."},
    ]
    asked = {} if spec is None else {"mm_processor_kwargs": {"audio_compression": spec}}
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": content}],  # type: ignore[list-item,misc]
        temperature=0,
        max_tokens=tokens,
        extra_body=asked,
    )


def said(wave: np.ndarray, spec: str) -> tuple[str, int]:
    """What transformers makes of it, and the length of its prompt."""
    processor = load_processor(open_checkpoint("pocket"))
    model = fewhertz.load("pocket")[0]
    talk = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Transcribe the speech."}]}]
    text = processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=text, audio=[wave], sampling_rate=sample_rate(processor), return_tensors="pt")
    with fewhertz.compress(model, spec) as handle:
        out = model.generate(**inputs, max_new_tokens=32, do_sample=False)
    length = inputs["input_ids"].shape[1]
    answer = processor.batch_decode(out[:, length:], skip_special_tokens=True)[0]
    return answer, length - handle.last.before[0] + handle.last.after[0]


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3"])
@pytest.mark.parametrize("spec", [None, "segmentwise@keep=1/2"])
def test_chat(client: openai.OpenAI, kind: str, spec: str | None) -> None:
    """Audio at 44.1 kHz: the answer of transformers, and usage that counts compressed tokens."""
    wave = soxr.resample(audio.load(SAMPLES[0], 16000), 16000, 44100)
    data = encoded(wave, 44100, kind)
    answer = chat(client, data, kind, spec)
    text, length = said(audio.load(io.BytesIO(base64.b64decode(data)), 16000), spec or ATTACHED)
    assert answer.usage.prompt_tokens == length
    assert answer.choices[0].message.content == text


def test_usage_follows_keep(client: openai.OpenAI) -> None:
    data = encoded(audio.load(SAMPLES[0], 16000), 16000, "wav")
    counts = {k: chat(client, data, "wav", f"pool@keep={k}", 1).usage.prompt_tokens for k in ("1", "1/2", "1/4")}
    n = 72  # audio tokens of the sample
    for keep, count in counts.items():
        assert counts["1"] - count == n - parse(f"pool@keep={keep}").num_tokens(n)


HOURS = 2 * 3600
CLIP = encoded(np.zeros(16000, dtype=np.float32), 16000, "wav")
BAD = {
    "base64": (lambda: "this is no base64!", None, "base64|Invalid|padding|character"),
    "not audio": (lambda: base64.b64encode(b"no audio at all" * 100).decode(), None, "(?i)audio"),
    "empty": (lambda: "", None, "(?i)audio|empty|input"),
    "a path": (lambda: str(SAMPLES[0]), None, "(?i)base64|Invalid|padding|audio"),
    "a URL of a file": (lambda: f"file://{SAMPLES[0]}", None, "(?i)base64|Invalid|padding|audio"),
    "two hours": (lambda: encoded(np.zeros(HOURS * 8000, dtype=np.float32), 8000, "flac"), None, "duration|long"),
    "over a window": (lambda: encoded(np.zeros(31 * 16000, dtype=np.float32), 16000, "flac"), None, "31.0 s long"),
    "unknown method": (lambda: CLIP, "none-such@keep=1/2", "no method named 'none-such'"),
    "keep=0": (lambda: CLIP, "pool@keep=0", r"in \(0, 1\]"),
    "keep=2": (lambda: CLIP, "pool@keep=2", r"in \(0, 1\]"),
    "no string": (lambda: CLIP, 3, "is a spec such as"),
    "unseg": (lambda: CLIP, "unseg", "unseg cannot be served.*segment"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_400_and_the_server_lives_on(client: openai.OpenAI, name: str) -> None:
    data, spec, complaint = BAD[name]
    with pytest.raises(openai.BadRequestError, match=complaint) as refusal:
        chat(client, data(), "wav", spec)
    assert refusal.value.status_code == 400
    assert len(str(refusal.value)) < 1000
    assert chat(client, CLIP, "wav", tokens=1).usage.prompt_tokens > 0


def test_what_the_log_says(client: openai.OpenAI, log: Path) -> None:
    chat(client, CLIP, "wav", "divprune@keep=1/5", tokens=1)
    assert "audio tokens 25 → 5 (divprune@keep=1/5)" in log.read_text()


def test_transcriptions(tmp_path: Path) -> None:
    """Where the family has the end point: Qwen3-ASR's, with random weights."""
    model = tmp_path / "asr"
    model.mkdir()
    checkpoints.write("qwen3-asr", model)
    clip = "<|audio_start|> <|audio_pad|> <|audio_end|>"
    talk = "{% for m in messages %}{% for c in m['content'] %}" + clip + "{% endfor %}{% endfor %}"
    (model / "chat_template.jinja").write_text(talk)
    with server(str(model), tmp_path / "log", "--method", "pool@keep=1/3", "--max-model-len", "2048", *SMALL) as (
        address,
        _,
    ):
        client = client_of(address)
        wave = soxr.resample(checkpoints.wave(3.0, 0), 16000, 44100)
        file = ("a.flac", base64.b64decode(encoded(wave, 44100, "flac")))
        short = {"max_completion_tokens": 8}
        answer = client.audio.transcriptions.create(model=str(model), file=file, temperature=0, extra_body=short)
        assert isinstance(answer.text, str)
        assert "audio tokens 39 → 13 (pool@keep=1/3)" in (tmp_path / "log").read_text()
        # vLLM takes no wishes from clients that it does not trust
        with pytest.raises(openai.BadRequestError, match="--trust-request-mm-kwargs"):
            chat(client, CLIP, "wav", "pool@keep=1/2", model=str(model))
        with pytest.raises(openai.BadRequestError):
            client.audio.transcriptions.create(model=str(model), file=("a.wav", b"no audio" * 100))
        # segments are for models that write times themselves; fewhertz batch has them for all
        with pytest.raises(openai.BadRequestError, match="do not support verbose_json"):
            client.audio.transcriptions.create(model=str(model), file=file, response_format="verbose_json")


def test_the_command(tmp_path: Path) -> None:
    """What is handed to vLLM, and what is refused before."""
    made = command("pocket", "pool@keep=1/3", ["--hf-overrides", '{"a": 1}', "--port", "1"])
    assert made[made.index("--hf-overrides") + 1] == '{"a": 1, "audio_compression": {"method": "pool@keep=1/3"}}'
    assert made[made.index("--model") + 1] == path().__str__()
    assert made[-2:] == ["--port", "1"]
    assert made[made.index("--served-model-name") + 1] == "pocket"
    for model, method, options, complaint in [
        ("pocket", "unseg", [], "unseg cannot be served"),
        ("pocket", "pool(site=encoder)@keep=1/3", [], "site=encoder"),
        ("pocket", "pool@keep=3", [], r"\(0, 1\]"),
        ("pocket", "conv@keep=1/3x", [], "number or a fraction"),
        ("pocket", None, ["--hf-overrides=[]"], "is a JSON object"),
        ("pocket", None, ["--hf-overrides", '{"audio_compression": "pool"}'], "got 'pool'"),
        (str(tmp_path), None, [], "no config.json"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            command(model, method, options)
