"""Recordings of any length: windows cut where it is quiet, segments with times, loops, journals."""

from __future__ import annotations

import itertools
import json
import resource
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import fewhertz
from fewhertz import audio, run
from fewhertz.cli import app
from fewhertz.demo import word_errors
from fewhertz.pocket import path
from fewhertz.segments import Segment, join, repeats
from fewhertz.transcription import longest_window, pieces, transcribe
from fewhertz.windows import MARGIN, halves, windows

RATE = 16_000
FOLDER = path() / "samples"
ROWS = [json.loads(line) for line in (FOLDER / "samples.jsonl").read_text("utf-8").splitlines()][:10]


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return fewhertz.load("pocket", device="cpu", dtype="float32")


Truth = list[tuple[float, float, str]]


def with_pauses(count: int, seed: int = 0) -> tuple[np.ndarray, Truth]:
    """Bundled clips with pauses of 0.2 to 2 s before each: the whole, and when what is said."""
    pauses = np.random.default_rng(seed).uniform(0.2, 2.0, count)
    parts, truth, at = [], [], 0
    for row, pause in zip(ROWS, pauses, strict=False):
        wave = audio.load(FOLDER / row["audio"])
        gap = round(pause * RATE)
        parts += [np.zeros(gap, np.float32), wave]
        truth.append(((at + gap) / RATE, (at + gap + len(wave)) / RATE, row["text"]))
        at += gap + len(wave)
    return np.concatenate(parts), truth


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips with pauses."""
    file = tmp_path_factory.mktemp("talk") / "talk.flac"
    soundfile.write(file, with_pauses(6)[0], RATE)
    return file


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files of one window."""
    folder = tmp_path_factory.mktemp("short")
    found = []
    for row, length in zip(ROWS, (32_000, 20_000), strict=False):
        found.append(folder / f"{length}.wav")
        soundfile.write(found[-1], audio.load(FOLDER / row["audio"])[:length], RATE, subtype="FLOAT")
    return found


def fewhertz_(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="fewhertz")


def bursts(seed: int, loud: float = 0.1, hiss: float = 0.0) -> np.ndarray:
    """Noise in bursts, as if words, with gaps of 0.05 to 4 s."""
    generator = np.random.default_rng(seed)
    parts = []
    for _ in range(60):
        parts.append(generator.normal(0, loud, int(generator.uniform(0.1, 1.5) * RATE)))
        parts.append(generator.normal(0, hiss, int(generator.choice([0.05, 0.2, 0.5, 1.2, 4.0]) * RATE)))
    return np.concatenate(parts).clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.5, 3.0, 4.0, 30.0])
@pytest.mark.parametrize("hiss", [0.0, 0.002])
def test_all_sound_is_in_a_window_and_none_in_two(seconds: float, hiss: float) -> None:
    wave = bursts(1, hiss=hiss)
    found = list(windows(wave, seconds, RATE, source_rate=RATE))
    covered = np.zeros(len(wave), int)
    for window in found:
        if window.wave is None:
            continue
        at = round(window.offset * RATE)
        assert 0.1 * RATE <= len(window.wave) <= seconds * RATE + 2 * MARGIN * RATE
        assert np.array_equal(window.wave, wave[at : at + len(window.wave)])
        covered[at + round(window.shared * RATE) : at + len(window.wave)] += 1
    loud = np.abs(wave) > 6 * hiss + 1e-4
    assert (covered[loud] >= 1).all()
    # margins of neighbours meet in the quiet between them
    assert (covered[loud] == 1).all()
    assert [window.until for window in found] == sorted(window.until for window in found)
    assert found[-1].until == pytest.approx(len(wave) / RATE)
    silent = sum(window.end - window.start for window in found if window.wave is None)
    assert silent > 30 and all(window.shared == 0 for window in found if not window.blind)


def test_windows_do_not_depend_on_the_kind_of_source(tmp_path: Path) -> None:
    wave = bursts(2)
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    ours, theirs = windows(wave, 4.0, RATE, source_rate=RATE), windows(tmp_path / "a.wav", 4.0, RATE)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.start, one.end) == (other.start, other.end)


def test_times_are_those_of_the_sound() -> None:
    wave, truth = with_pauses(10)
    found = list(windows(wave, 6.0, RATE, source_rate=RATE))
    spoken = [window for window in found if window.wave is not None]
    for begin, end, _ in truth:  # a clip of two sentences may be cut between them
        first = next(window for window in spoken if window.end > begin)
        last = [window for window in spoken if window.start < end][-1]
        assert first.start < begin + 0.2 and last.end > end - 0.2
        assert not any(w.wave is None and w.start < end - 0.2 and w.end > begin + 0.2 for w in found)
    edges = np.array([edge for begin, end, _ in truth for edge in (begin, end)])
    for one, other in itertools.pairwise(spoken):
        near = [np.abs(edges - edge).min() for edge in (one.end, other.start)]
        inside = any(begin < one.end and other.start < end for begin, end, _ in truth)
        assert inside or max(near) < 0.2


def test_where_nothing_is_quiet_windows_overlap_or_are_cut() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 20 * RATE).astype(np.float32)
    found = list(windows(wave, 6.0, RATE, source_rate=RATE))
    assert [window.blind for window in found] == [False, *[True] * (len(found) - 1)]
    assert all(0.5 < window.shared <= 1.2 for window in found[1:])
    for one, other in itertools.pairwise(found):
        assert other.offset + other.shared == pytest.approx(one.until)
    cut = list(windows(wave, 6.0, RATE, overlap=False, source_rate=RATE))
    assert all(window.blind and not window.shared for window in cut[1:])
    assert np.array_equal(np.concatenate([window.wave for window in cut]), wave)


def test_a_quiet_place_further_back_spares_an_overlap() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 20 * RATE).astype(np.float32)
    wave[int(2.6 * RATE) : int(2.8 * RATE)] = 0
    first, second, *_ = windows(wave, 6.0, RATE, source_rate=RATE)
    assert first.end == pytest.approx(2.6, abs=0.03) and second.start == pytest.approx(2.8, abs=0.03)
    assert not second.blind and not second.shared


def test_halves_meet_in_the_quiet() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    wave[int(1.4 * RATE) : int(1.6 * RATE)] = 0
    assert 1.4 < halves(wave, RATE) / RATE < 1.6


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """An hour of silence with a clip here and there."""
    file = tmp_path_factory.mktemp("hour") / "hour.flac"
    clip, starts = audio.load(FOLDER / ROWS[0]["audio"]), [5.0, 1805.0, 3580.0]
    with soundfile.SoundFile(file, "w", RATE, 1, "PCM_16") as out:
        at = 0
        for start in [*starts, 3600.0]:
            while at < start * RATE:
                step = min(60 * RATE, round(start * RATE) - at)
                out.write(np.zeros(step, np.float32))
                at += step
            if start < 3600:
                out.write(clip)
                at += len(clip)
    return file, starts


def test_an_hour_of_silence_costs_no_memory_and_no_encoder(
    hour: tuple[Path, list[float]], loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, starts = hour
    real, asked = run.reply, []

    def counted(model: Any, processor: Any, waves: list[np.ndarray], *rest: Any, **more: Any) -> list[run.Reply]:
        asked.extend(waves)
        return real(model, processor, waves, *rest, **more)

    monkeypatch.setattr(run, "reply", counted)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    segments = list(transcribe(*loaded, file))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    said = [segment for segment in segments if segment.reply is not None]
    assert len(asked) == len(said) == 3 and len({segment.text for segment in said}) == 1
    assert [segment.start for segment in said] == pytest.approx(starts, abs=0.1)
    silences = [segment for segment in segments if segment.flags == ("silence",)]
    assert len(silences) == 4 and silences[-1].end == 3600
    assert all(segment.text == "" and segment.tokens == 0 and segment.hz == 0 for segment in silences)
    assert grown < 300_000  # KiB; most of it is the first pass through the model

    tracemalloc.start()
    for _ in windows(file, 30.0, RATE):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # an hour is 230 MB


def test_joined_clips_are_heard_as_alone(loaded: tuple[Any, Any]) -> None:
    wave, truth = with_pauses(10)
    texts = [text for *_, text in truth]
    alone = [run.reply(*loaded, [audio.load(FOLDER / row["audio"])])[0].text for row in ROWS]
    segments = list(transcribe(*loaded, wave, source_rate=RATE, batch_size=4))
    text = " ".join(segment.text for segment in segments if segment.text)
    words = sum(len(text.split()) for text in texts)
    errors = sum(wrong for wrong, _ in word_errors(texts, alone))
    joined = word_errors([" ".join(texts)], [text])[0][0]
    assert joined / words <= errors / words + 0.1
    assert not [flag for segment in segments for flag in segment.flags if flag != "silence"]
    for one, other in itertools.pairwise(segments):
        assert one.start <= one.end <= other.start
    for segment in segments:
        if segment.reply is not None:
            assert segment.tokens == segment.reply.after > 0
            assert segment.hz == pytest.approx(segment.tokens / (segment.end - segment.start), rel=0.01)


def test_a_clip_of_one_window_is_what_reply_says(loaded: tuple[Any, Any]) -> None:
    wave = audio.load(FOLDER / ROWS[0]["audio"])
    (segment,) = transcribe(*loaded, wave, source_rate=RATE)
    assert segment.reply is not None and segment.text == run.reply(*loaded, [wave])[0].text
    assert (segment.start, segment.end, segment.flags) == (0.0, round(len(wave) / RATE, 3), ())


def test_a_method_is_attached_while_segments_are_taken(loaded: tuple[Any, Any], short: list[Path]) -> None:
    model, processor = loaded
    (segment,) = transcribe(model, processor, short[0], method="pool@keep=1/2")
    assert segment.reply is not None and segment.tokens == (segment.reply.before + 1) // 2
    assert fewhertz.attached(model) is None
    with fewhertz.compress(model, "pool@keep=1/2"):
        (same,) = transcribe(model, processor, short[0])
        assert (same.text, same.tokens) == (segment.text, segment.tokens)
        with pytest.raises(ValueError, match="pool@keep=1/2 is attached"):
            transcribe(model, processor, short[0], method="pool@keep=1/3")
    with pytest.raises(ValueError, match="no method named"):
        transcribe(model, processor, short[0], method="nope@keep=1/2")
    with pytest.raises(fewhertz.AudioError, match="no such file"):
        list(transcribe(model, processor, "nowhere.wav"))


def test_the_comfortable_length_stands_in_the_config(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded[0]
    own = json.loads((path() / "config.json").read_text("utf-8"))["comfortable_seconds"]
    assert longest_window(model, None, None) == longest_window(model, None, "auto") == own < 30
    assert longest_window(model, "What is this?", None) is None
    assert longest_window(model, "What is this?", "auto") == own
    with pytest.raises(ValueError, match="30 s that qwen2-audio"):
        longest_window(model, None, 31.0)
    for wrong in ("many", 31.0, 0.0, float("nan")):
        monkeypatch.setattr(model.config, "comfortable_seconds", wrong)
        with pytest.raises(ValueError, match="comfortable_seconds"):
            longest_window(model, None, None)
    monkeypatch.delattr(model.config, "comfortable_seconds")
    assert longest_window(model, None, None) == 30.0


def said(text: str, start: float = 0.0, end: float = 4.0) -> Segment:
    return Segment(start, end, text)


JOINS = {
    "one word in both": ("we walk home and", "and then we sleep", "we walk home and", "then we sleep", "overlap"),
    "cut words are left out": ("we walk home an", "ome and then", "we walk home an", "ome and then", "seam"),
    "a cut word at each side": (
        "they walk home now an",
        "ome now and then",
        "they walk home now",
        "and then",
        "overlap",
    ),
    "signs and capitals": ("So it goes, on", "it goes. On and on", "So it goes, on", "and on", "overlap"),
    "nothing in common": ("one two", "three four", "one two", "three four", "seam"),
    "nothing after": ("one two", "", "one two", "", "overlap"),
    "without spaces": ("今天天气", "天气很好", "今天天气", "很好", "overlap"),
}


@pytest.mark.parametrize(("before", "after", "first", "second", "flag"), JOINS.values(), ids=JOINS.keys())
def test_seams(before: str, after: str, first: str, second: str, flag: str) -> None:
    one, other = join(said(before), said(after, 3.0, 7.0), 1.0)
    assert (one.text, other.text, other.flags) == (first, second, (flag,))
    assert one.end == other.start == 3.5


def test_only_what_is_shared_is_joined() -> None:
    one, other = join(said("the end of it all is far from here to see"), said("so the end of it all"), 0.5)
    assert one.text.endswith("to see") and other.text.startswith("so the end") and other.flags == ("seam",)


def test_circles_are_told_from_speech() -> None:
    assert repeats("the in " * 10) and repeats("go " * 12)
    assert not repeats("off on off on off off off on") and not repeats("no no no no")
    assert not any(repeats(row["text"]) for row in ROWS)
    assert not repeats(" ".join(row["text"] for row in ROWS))


def test_loops_are_stopped_halved_and_flagged(loaded: tuple[Any, Any]) -> None:
    """Really: pocket goes round in circles on what is too long for it."""
    wave = with_pauses(9, seed=1)[0][: 29 * RATE]
    (plain,) = run.reply(*loaded, [wave], max_new_tokens=256)
    (stopped,) = run.reply(*loaded, [wave], max_new_tokens=256, stop_loops=True)
    segments = [segment for segment in transcribe(*loaded, wave, chunk=30.0, source_rate=RATE) if segment.reply]
    if plain.new_tokens < 256:
        assert stopped == plain or stopped.text == plain.text
    else:
        assert not stopped.ended and stopped.new_tokens < 100
        assert all("halved" in segment.flags for segment in segments)


class _Loops:
    """A model's replies that go in circles on windows longer than `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.asked = seconds, []

    def __call__(self, model: Any, processor: Any, waves: list[np.ndarray], *_: Any, **how: Any) -> list[run.Reply]:
        self.asked.append([len(wave) / RATE for wave in waves])
        return [
            run.Reply("the in " * 12, 25, 25, 30, 0.1, 0.1, 0.1, False)
            if len(wave) > self.seconds * RATE
            else run.Reply("so it goes", 25, 25, 3, 0.1, 0.1, 0.1, True)
            for wave in waves
        ]


@pytest.mark.parametrize(("seconds", "flags"), [(3.0, ("halved",)), (1.0, ("halved", "loop"))])
def test_a_window_that_loops_is_decoded_again_in_halves(
    seconds: float, flags: tuple[str, ...], loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "reply", _Loops(seconds))
    wave = np.random.default_rng(0).normal(0, 0.1, 4 * RATE).astype(np.float32)
    one, other = transcribe(*loaded, wave, chunk=4.0, source_rate=RATE)
    assert one.flags == other.flags == flags and one.end == other.start
    assert one.reply is not None and one.reply.new_tokens >= 30 + 3  # the answer that is not used was work too
    (whole,) = transcribe(*loaded, wave, prompt="What is it?", source_rate=RATE)
    assert whole.flags == ("loop",)  # the halves of an answer are no answer


def test_a_longest_answer_that_is_asked_for_is_said(loaded: tuple[Any, Any], short: list[Path]) -> None:
    (segment,) = transcribe(*loaded, short[0], max_new_tokens=2)
    assert segment.flags == ("length",) and segment.reply is not None and segment.reply.new_tokens == 2


def test_files_come_in_order_and_a_bad_one_takes_no_other_with_it(
    loaded: tuple[Any, Any], short: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF no audio")
    asked = [short[0], bad, tmp_path / "nowhere.wav", short[1]]
    found = list(pieces(*loaded, asked, batch_size=3, max_new_tokens=4))
    ends = [piece for piece in found if piece.last]
    assert [piece.file for piece in ends] == asked
    assert [piece.error is None for piece in ends] == [True, False, False, True]
    assert [piece.readable for piece in ends] == [True, False, False, True]
    assert [piece.file for piece in found if piece.segment] == short and ends[3].seconds == 1.25


def test_a_window_that_fails_does_not_fail_its_batch(
    loaded: tuple[Any, Any], short: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run.reply

    def fails_on_the_long_one(model: Any, processor: Any, some: list[np.ndarray], *rest: Any, **more: Any) -> Any:
        if any(len(wave) > 30_000 for wave in some):
            raise RuntimeError("out of memory\nand much more of it")
        return real(model, processor, some, *rest, **more)

    monkeypatch.setattr(run, "reply", fails_on_the_long_one)
    one, two, end = pieces(*loaded, short, batch_size=2, max_new_tokens=4)
    assert one.error == "out of memory" and one.segment is None and one.last and one.readable
    assert two.segment is not None and end.last and end.error is None
    with pytest.raises(RuntimeError, match="out of memory"):
        list(transcribe(*loaded, short[0]))


def test_windows_after_a_failed_one_are_not_passed_off_as_the_whole(
    loaded: tuple[Any, Any], short: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = run.reply, []

    def fails_once(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("broken")
        return real(*args, **more)

    monkeypatch.setattr(run, "reply", fails_once)
    found = list(pieces(*loaded, short, chunk=0.5, max_new_tokens=1))
    first = [piece for piece in found if piece.file == short[0]]
    assert len(first) == 2 and first[0].segment is not None and first[-1].error == "broken" and first[-1].last
    assert not any(piece.error for piece in found if piece.file == short[1])
    assert found[-1].file == short[1] and found[-1].last


def test_other_questions_are_asked_of_the_whole(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    long = tmp_path / "long.wav"
    noise = np.random.default_rng(0).normal(0, 0.01, 31 * RATE).astype(np.float32)
    soundfile.write(long, noise, RATE)
    (piece,) = pieces(*loaded, [long], "What is it?")
    assert piece.error is not None and "31.0 s" in piece.error and "--chunk 30" in piece.error
    *windows_, end = pieces(*loaded, [long], "What is it?", chunk=30.0, batch_size=2, max_new_tokens=2)
    assert len(windows_) == 2 and end.last and end.seconds == pytest.approx(31)
    assert windows_[1].segment is not None and "cut" in windows_[1].segment.flags


def test_a_recording_in_one_prompt(loaded: tuple[Any, Any], talk: Path) -> None:
    """Its windows as clips, as docs/long.md has it."""
    model, processor = loaded
    clips = [window.wave for window in windows(talk, 4.0) if window.wave is not None]
    inputs = run.request(processor, [clips], "Transcribe the speech.")
    width = inputs["input_ids"].shape[1]
    with fewhertz.compress(model, f"ward@keep=1/2+time(fit={width - 100})+sizes") as handle:
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert len(clips) > 4 and len(handle.last.after) == len(clips)
    assert out.shape[1] > width and handle.last.after == [(n + 1) // 2 for n in handle.last.before]


SHARED = "ward(shared=true)@8Hz+time+sizes"


def without_times(line: str) -> dict[str, Any]:
    return {key: value for key, value in json.loads(line).items() if not key.endswith("_s")}


@pytest.mark.parametrize(("at", "batch", "method"), [(1, 1, "pool@keep=1/2"), (3, 1, "pool@keep=1/2"), (2, 2, SHARED)])
def test_interrupted_and_resumed_is_the_same(
    at: int, batch: int, method: str, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("run", "pocket", talk, "--json", "--device", "cpu", "--dtype", "float32", "--batch-size", batch)
    options = (*options, "--chunk", 4, "--method", method)
    whole, out = tmp_path / "whole.json", tmp_path / "talk.json"
    assert fewhertz_(*options, "--out", whole).exit_code == 0
    real, calls = run.reply, []

    def broken_off(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(run, "reply", broken_off)
        done = fewhertz_(*options, "--out", out)
        assert done.exit_code == 130 and not out.exists() and "--resume" in done.stderr
    journal = tmp_path / "talk.json.journal"
    assert len(journal.read_text().splitlines()) == 1 + at * batch
    with journal.open("a") as cut:
        cut.write('{"file": 0, "wind')  # as `kill -9` leaves it
    refused = fewhertz_(*options, "--out", out)
    assert refused.exit_code == 2 and "--resume" in refused.stderr and not out.exists()
    other = fewhertz_(*options[:-1], "pool@keep=1/3", "--out", out, "--resume")
    assert other.exit_code == 2 and "another method" in other.stderr
    calls.clear()
    monkeypatch.setattr(run, "reply", lambda *args, **more: calls.append(1) or real(*args, **more))
    done = fewhertz_(*options, "--out", out, "--resume")
    assert done.exit_code == 0 and not journal.exists() and done.stdout == ""
    first, again = without_times(whole.read_text()), without_times(out.read_text())
    assert again == first and len(calls) == -(-first["windows"] // batch) - at
    assert first["text"] == " ".join(one["text"] for one in first["segments"] if one["text"])
    assert set(first["segments"][0]) == {"start", "end", "text", "tokens", "hz", "flags"}


def seconds_of(clock: str) -> float:
    hours, minutes, seconds = clock.replace(",", ".").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def test_subtitles_are_read_by_public_parsers(talk: Path, tmp_path: Path) -> None:
    srt, webvtt = pytest.importorskip("srt"), pytest.importorskip("webvtt")
    options = ("run", "pocket", talk, "--device", "cpu", "--dtype", "float32", "--batch-size", 4)
    spoken = [one for one in json.loads(fewhertz_(*options, "--json").stdout)["segments"] if one["text"]]
    expected = [
        (pytest.approx(one["start"], abs=1e-3), pytest.approx(one["end"], abs=1e-3), one["text"]) for one in spoken
    ]
    cues = list(srt.parse(fewhertz_(*options, "--format", "srt").stdout))
    assert [(c.start.total_seconds(), c.end.total_seconds(), c.content) for c in cues] == expected
    assert [cue.index for cue in cues] == list(range(1, len(spoken) + 1))
    done = fewhertz_(*options, "--format", "vtt", "--out", tmp_path / "talk.vtt")
    assert done.exit_code == 0 and done.stdout == ""
    captions = webvtt.read(tmp_path / "talk.vtt")
    assert [(seconds_of(c.start), seconds_of(c.end), c.text) for c in captions] == expected
    head, *rows = fewhertz_(*options, "--format", "tsv").stdout.splitlines()
    assert head == "start\tend\ttext"
    assert [(int(a) / 1000, int(b) / 1000, text) for a, b, text in (row.split("\t") for row in rows)] == expected
    assert fewhertz_(*options).stdout == " ".join(text for *_, text in expected) + "\n"


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    texts = iter(["one --> two & <three>", "four\n\nfive"])
    reply = lambda *_, **__: [run.Reply(next(texts), 25, 25, 3, 0.1, 0.1, 0.1)]  # noqa: E731
    monkeypatch.setattr(run, "reply", reply)
    yield


def test_what_a_model_says_cannot_break_subtitles(writers: None, tmp_path: Path) -> None:
    two = tmp_path / "two.wav"
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE)
    noise[int(0.8 * RATE) : int(1.2 * RATE)] = 0
    soundfile.write(two, noise, RATE)
    done = fewhertz_("run", "pocket", two, "--chunk", 1.1, "--format", "vtt")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:00.8")
    assert "one --&gt; two &amp; &lt;three&gt;\n\n" in done.stdout and "four five\n\n" in done.stdout


BAD = {
    "a word for seconds": ["--chunk", "long"],
    "two formats": ["--json", "--format", "srt"],
    "subtitles of two": ["--format", "vtt", str(FOLDER / "02.flac")],
    "resume of nothing": ["--resume"],
    "no folder": ["--out", "nowhere/at/all.srt"],
    "a folder": ["--out", str(FOLDER)],
}


@pytest.mark.parametrize("options", BAD.values(), ids=BAD.keys())
def test_bad_usage(options: list[str]) -> None:
    done = fewhertz_("run", "pocket", FOLDER / "01.flac", *options)
    assert done.exit_code == 2 and done.stdout == "" and len(done.stderr.splitlines()) <= 2, done.output


def test_progress_is_in_lines_where_it_is_piped(talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewhertz.cli import run as command

    monkeypatch.setattr(command, "EVERY", 0.0)
    options = ("--chunk", 4, "--device", "cpu", "--dtype", "float32", "--max-new-tokens", 1)
    done = fewhertz_("run", "pocket", talk, *options)
    lines = [line for line in done.stderr.splitlines() if "of audio a second" in line]
    length = round(audio.duration(talk))
    assert len(lines) > 3 and all(f" of {length} s, " in line for line in lines)
