"""A judge model behind an address: real requests to a real server that speaks the protocol, well and badly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import test_cli
from test_cli import fewhertz_
from test_evaluate import manifest as manifest  # a fixture
from test_evaluate import run

from fewhertz.errors import Unavailable
from fewhertz.evaluation import judge
from fewhertz.evaluation.also import also
from fewhertz.evaluation.curves import groups
from fewhertz.evaluation.results import BASELINE, gather, read_samples

tiny = test_cli.tiny  # a fixture


def completion(content: object, model: str = "j") -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps({"model": model, "choices": [{"message": {"content": content}}]}).encode()


class Server(ThreadingHTTPServer):
    """Answers as a test says; keeps what it was asked."""

    daemon_threads = True
    answer: Callable[[dict[str, Any], int], tuple[int, dict[str, str], bytes]]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.now = self.most = 0
        self.answer = lambda texts, count: completion("4")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def spec(self) -> str:
        return f"judge=j@{self.address}"

    @property
    def texts(self) -> list[dict[str, str]]:
        """What was to be rated, without the trial."""
        found = [one["texts"] for one in self.asked]
        return [texts for texts in found if texts["reference"] != judge._TRIAL[0][0]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (message,) = body["messages"]
        assert message["content"].startswith(judge.PROMPT) and message["role"] == "user"
        texts = json.loads(message["content"][len(judge.PROMPT) :])
        with server.lock:
            server.asked.append({"path": self.path, "headers": dict(self.headers), "body": body, "texts": texts})
            count = len(server.asked)
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            status, headers, answer = server.answer(texts, count)
        finally:
            with server.lock:
                server.now -= 1
        try:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(answer)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)
        except OSError:
            pass  # who asked waits no more

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(judge, "WAIT", 0.01)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv(judge.KEY, raising=False)
    judge._tried.cache_clear()
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


def measure(server: Server, n: int = 1) -> list[float]:
    (metric,) = also([server.spec])
    return metric.measure([[f"text {i}"] for i in range(n)], [f"said {i}" for i in range(n)])[:, 0].tolist()


def test_ratings_are_those_of_the_judge(server: Server) -> None:
    server.answer = lambda texts, count: completion(" 5\n" if texts["hypothesis"] == 'a "dog" ran\u2028' else "2")
    (metric,) = also([server.spec + "/"])
    references = [['a "dog" ran\u2028', "not this one"], ["it rains"], ["it rains"], ["it rains"]]
    stats = metric.measure(references, ['a "dog" ran\u2028', "it snows", "it snows", " "])
    assert stats.tolist() == [[5], [2], [2], [1]] and metric.score(stats) == 2.5
    trial, *asked = server.asked
    assert trial["path"] == "/v1/chat/completions" and "Authorization" not in trial["headers"]
    assert trial["body"]["temperature"] == 0 and trial["body"]["model"] == "j"
    # a pair of texts once, what says nothing never, the first of several references
    assert sorted(one["texts"]["reference"] for one in asked) == ['a "dog" ran\u2028', "it rains"]


def test_the_key_goes_to_the_judge_and_nowhere_else(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(judge.KEY, "sk-secret\n")
    assert measure(server) == [4]
    assert {one["headers"]["Authorization"] for one in server.asked} == {"Bearer sk-secret"}
    judge._tried.cache_clear()
    server.answer = lambda texts, count: (401, {}, b'{"error": "no such key:\n\x1b[31msk-secret"}')
    asked = len(server.asked)
    with pytest.raises(Unavailable, match=r"/v1/chat/completions says 401: .*no such key: \[31m…") as error:
        measure(server)
    assert "sk-secret" not in str(error.value) and len(server.asked) == asked + 1  # not tried again
    monkeypatch.setenv(judge.KEY, "sk-sec\nret")
    with pytest.raises(Unavailable, match=r"^OPENAI_API_KEY has characters that no key has$"):
        measure(server)


def test_several_at_a_time_and_no_more(server: Server) -> None:
    def slowly(texts: dict[str, Any], count: int) -> Any:
        time.sleep(0.05)
        number = texts["reference"].rpartition(" ")[2]
        return completion(str(1 + int(number) % 5) if number.isdecimal() else "1")

    server.answer = slowly
    assert measure(server, 40) == [1 + i % 5 for i in range(40)]  # in the order of the samples, whoever is first
    assert 2 <= server.most <= judge.AT_ONCE


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    server.answer = lambda texts, count: (status, {"Retry-After": "0"}, b"busy") if count % 3 else completion("3")
    assert measure(server) == [3] and len(server.asked) == 6


def test_it_waits_as_long_as_it_is_told_to_and_not_for_ever(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(judge.time, "sleep", waits.append)
    told = iter(["7", "3600", "Fri, 31 Dec 1999 23:59:59 GMT"])
    server.answer = lambda texts, count: (429, {"Retry-After": next(told)}, b"") if count < 4 else completion("3")
    assert measure(server) == [3] and waits == [7, 30, 30]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("I would say 4", "'I would say 4', not a digit"),
        ("6", "'6', not a digit"),
        ("4.5", "'4.5', not a digit"),
        ("٤", "not a digit"),
        ("<think>4</think>4", "not a digit"),
        (4, "answers 4, not a digit"),
        (None, "answers None, not a digit"),
    ],
)
def test_only_one_digit_is_an_answer(server: Server, content: object, why: str) -> None:
    server.answer = lambda texts, count: completion(content)
    with pytest.raises(Unavailable, match=why):
        measure(server)
    assert len(server.asked) == judge.TRIES


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": 7}', b"[" * 100_000, b"\xff"]
)
def test_what_is_no_chat_completion(server: Server, body: bytes) -> None:
    server.answer = lambda texts, count: (200, {}, body)
    with pytest.raises(Unavailable, match=r"cannot be used: it answers with what is no chat completion: ") as error:
        measure(server)
    assert len(str(error.value)) < 300


def test_a_slow_and_a_huge_and_a_broken_off_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "TIMEOUT", 0.1)

    def slow(texts: dict[str, Any], count: int) -> Any:
        time.sleep(0.3)
        return completion("4")

    server.answer = slow
    with pytest.raises(Unavailable, match=r"doesn't answer: timed out$"):
        measure(server)
    monkeypatch.setattr(judge, "TIMEOUT", 10.0)
    monkeypatch.setattr(judge, "LARGEST", 1 << 16)
    server.answer = lambda texts, count: completion("4" * (1 << 24))
    with pytest.raises(Unavailable, match=r"answers with more than"):
        measure(server)
    server.answer = lambda texts, count: (200, {"Content-Length": "1000"}, completion("4")[2])
    with pytest.raises(Unavailable, match=r"doesn't answer: IncompleteRead"):
        measure(server)


def test_a_redirect_is_not_followed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(judge.KEY, "sk-secret")
    for status in (301, 302, 307, 308):
        with Server() as other:  # nobody answers there; nothing may come
            there = other.address
            server.answer = lambda texts, count, status=status, there=there: (status, {"Location": there}, b"")
            with pytest.raises(Unavailable, match=rf"says {status}: it is at '{there}' now, which is not followed"):
                measure(server)


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/v1",
        "http:///v1",
        "http://user:pass@127.0.0.1/v1",
        "http://127.0.0.1/v1?key=pass",
        "http://127.0.0.1/v1#x",
        "http://127.0.0.1/v1\r\nX: y",
        "http://127.0.0.1:port/v1",
        "http://127.0.0.1/ü",
    ],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ValueError, match=r"^judge takes =MODEL@ADDRESS with an address such as ") as error:
        also([f"judge=j@{address}"])
    assert "pass" not in str(error.value).replace("password", "")


def test_what_else_is_refused(server: Server) -> None:
    for spec in ("judge", "judge=", "judge=j", "judge=@http://x/v1"):
        with pytest.raises(ValueError, match=r"judge takes =MODEL@ADDRESS"):
            also([spec])
    with pytest.raises(ValueError, match=r"0-65535"):
        also(["judge=j@http://127.0.0.1:65536/v1"])
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9/v1/chat/completions doesn't answer: .*refused"):
        also(["judge=org/j@2@http://127.0.0.1:9/v1"])


def test_the_judge_is_told_apart_and_its_address_is_not(server: Server) -> None:
    one, two = (judge.Judge(judge=f"{name}@{server.address}") for name in ("j", "k"))
    assert repr(one) != repr(two) and server.address not in repr(one)
    assert one.signature() == f"judge|j|prompt:{judge.PROMPT_SHA256}|temperature:0"
    assert two.signature() == f"judge|k (j)|prompt:{judge.PROMPT_SHA256}|temperature:0"  # who answers to that name


def test_an_evaluation_with_a_judge_goes_on_where_it_was(
    server: Server, tiny: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(judge.KEY, "sk-secret")
    out, how = tmp_path / "out", ("-m", "pool@keep=1/2", "--also", server.spec)
    monkeypatch.setattr(judge, "AT_ONCE", 1)

    def until(last: int) -> Callable[[dict[str, Any], int], Any]:
        return lambda texts, count: completion("4") if count <= last else (500, {}, b"gone")

    server.answer = until(4)
    broken = run(tiny, manifest, out, *how)
    assert broken.exit_code == 2 and "says 500: gone; 3 of 12 are rated; what is there is kept" in broken.stderr
    assert not gather(out)[0]

    # a judge that rambles about one: it is said and refused, not left out
    references = [json.loads(line)["text"] for line in manifest.read_text("utf-8").splitlines()]
    server.answer = lambda texts, count: completion("?" if texts["reference"] == references[7] else "4")
    left = run(tiny, manifest, out, *how)
    assert left.exit_code == 2 and "left 1 of 12 unrated, such as where it answers '?', not a digit" in left.stderr
    assert not gather(out)[0]
    asked = [texts["reference"] for texts in server.texts]
    assert asked.count(references[7]) == judge.TRIES and all(asked.count(text) == 1 for text in references[:3])

    before = len(server.texts)
    server.answer = lambda texts, count: completion("2" if texts["reference"] == references[7] else "5")
    done = run(tiny, manifest, out, *how)
    assert done.exit_code == 0, done.stderr
    found = {result["method"]: (file, result) for file, result in gather(out)[0]}
    file, result = found[BASELINE]
    ratings = [line["stats"]["judge"] for line in read_samples(file)]
    assert ratings == [[2 if i == 7 else 4] for i in range(12)]  # those of before, not asked anew
    score = result["scores"]["judge"]
    assert score["score"] == pytest.approx((11 * 4 + 2) / 12, abs=1e-6)
    assert score["signature"] == f"judge|j|prompt:{judge.PROMPT_SHA256}|temperature:0"
    # outputs that a method left as they were are rated as they were
    pairs = {(line["references"][0], line["output"]) for f, _ in found.values() for line in read_samples(f)}
    rated = [(texts["reference"], texts["hypothesis"]) for texts in server.texts]
    assert set(rated) == {pair for pair in pairs if pair[1].strip()}
    assert len(rated[before:]) == len(set(rated[before:]))
    kept = b"".join(file.read_bytes() for file in out.rglob("*") if file.is_file())
    assert b"sk-secret" not in kept and str(server.server_port).encode() not in kept

    # nothing is asked but whether it is there, and another judge is another result
    before, asked_before = len(server.texts), len(server.asked)
    assert run(tiny, manifest, out, *how).exit_code == 0
    assert len(server.texts) == before and len(server.asked) <= asked_before + 1
    other = run(tiny, manifest, out, "--also", f"judge=other@{server.address}")
    assert other.exit_code == 2 and "another metrics ([\"Judge(model='j'" in other.stderr
    assert "now [\"Judge(model='other'" in other.stderr
    (group,), _ = groups(out)
    assert "judge" in group.metrics


def test_a_wrong_address_ends_before_any_work(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"audio": "a.wav", "text": "Hello."}\n', "utf-8")
    server.answer = lambda texts, count: (404, {}, b"not found")
    ended = fewhertz_(
        "eval", "pocket", "--task", tmp_path / "mine.jsonl", "--out", tmp_path / "out", "--also", f"{server.spec}/wrong"
    )  # fmt: skip
    assert ended.exit_code == 2 and "/v1/wrong/chat/completions says 404: not found" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()
