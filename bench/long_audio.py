"""Long recordings: what windows cost in words, whether seams lose or double any, how far times are off, speed, memory.

python -m recipes.pocket.manifests --lists synthetic unseen-voices pace-110 pace-150 pace-190 --out out/dev
python -m bench.long_audio --lists out/dev --out results/bench/long-audio.json

Clips of synthetic sentences are joined with pauses of 0.2 to 2 s: 2 and 20 minutes. The same clips alone are what the
words are compared with. A word counts as lost at a seam where it is right alone, missing in the joined text and the
first or last of its window; as doubled where it is there once more, beside itself at a seam.

An hour and three hours of the same clips, in other orders, the latter with pauses of up to 40 s, are read from files:
what the process holds beyond the model. The encoder leaves out the padding of windows under all methods, "none" too
(`--trim`).
"""

from __future__ import annotations

import json
import resource
import statistics
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import typer
from rich.console import Console

import fewhertz
from bench.clock import processor, wall
from bench.options import DEVICE, LISTS_FOLDER, OUT, QUICK_RUN, THREADS, begin
from bench.record import environment, save
from fewhertz import audio, run
from fewhertz.method import RECOMMENDED, parse
from fewhertz.segments import Segment
from fewhertz.transcription import longest_window, transcribe

RATE = 16_000
LISTS = ("synthetic", "unseen-voices", "pace-110", "pace-150", "pace-190")
PAUSES = (0.2, 2.0)  # seconds
SLIVER = 0.05  # seconds of a clip that a window may hold without having part in it
RECOMMENDED_AT = parse(RECOMMENDED, "1/2").spec
SHARED = "ward(shared=true)@8Hz+time+sizes"
LONG: dict[str, Any] = {
    "recordings": [[2, "none"], [2, RECOMMENDED_AT], [20, "none"], [20, RECOMMENDED_AT]],
    "hours": [[60, 2, RECOMMENDED_AT], [180, 40, SHARED]],  # minutes, longest pause in seconds
    "mark_minutes": 10,
    "batch_size": 8,
    "timed_rounds": 2,
}
QUICK: dict[str, Any] = LONG | {
    "recordings": [[0.2, "none"], [0.2, RECOMMENDED_AT]],
    "hours": [[0.3, 2, RECOMMENDED_AT], [0.3, 2, SHARED]],
    "mark_minutes": 0.1,
    "timed_rounds": 1,
}
console = Console(width=120)


@dataclass(frozen=True)
class Clip:
    """A sentence: its audio and its words."""

    wave: np.ndarray
    words: list[str]


@dataclass(frozen=True)
class Placed:
    """When a clip stands in the whole, in seconds."""

    start: float
    end: float
    words: list[str]


def clips_of(folder: Path) -> list[Clip]:
    """All clips of the lists that are there, in an order by chance."""
    found = []
    for name in LISTS:
        file = folder / f"{name}-dev.jsonl"
        for line in file.read_text("utf-8").splitlines():
            row = json.loads(line)
            found.append(Clip(audio.load(folder / row["audio"]), row["text"].lower().split()))
    order = np.random.default_rng(0).permutation(len(found))
    return [found[i] for i in order]


def bundled() -> list[Clip]:
    """The clips that are shipped with pocket."""
    from fewhertz import demo

    return [Clip(clip.wave, clip.text.lower().split()) for clip in demo.bundled(4)]


def joined(clips: list[Clip], seconds: float) -> tuple[np.ndarray, list[Placed], list[Clip]]:
    """Clips with pauses, up to a length; the whole, when each stands in it, and those that are in it."""
    pauses = np.random.default_rng(1).uniform(*PAUSES, len(clips))
    parts: list[np.ndarray] = []
    placed: list[Placed] = []
    at = 0
    for clip, pause in zip(clips, pauses, strict=True):
        gap = round(pause * RATE)
        if placed and at + gap + len(clip.wave) > seconds * RATE:
            break
        parts += [np.zeros(gap, np.float32), clip.wave]
        placed.append(Placed((at + gap) / RATE, (at + gap + len(clip.wave)) / RATE, clip.words))
        at += gap + len(clip.wave)
    return np.concatenate(parts), placed, clips[: len(placed)]


def align(truth: list[str], said: list[str]) -> list[tuple[int | None, int | None]]:
    """Pairs of places of words, in order; `None`: the one has no word there. By the fewest errors."""
    cost = np.zeros((len(truth) + 1, len(said) + 1), int)
    cost[:, 0], cost[0] = np.arange(len(truth) + 1), np.arange(len(said) + 1)
    for i, word in enumerate(truth, 1):
        changed = cost[i - 1, :-1] + [word != other for other in said]
        best = np.minimum(cost[i - 1, 1:] + 1, changed)
        for j in range(len(said)):
            cost[i, j + 1] = min(best[j], cost[i, j] + 1)
    pairs: list[tuple[int | None, int | None]] = []
    i, j = len(truth), len(said)
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + (truth[i - 1] != said[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]


def errors(pairs: list[tuple[int | None, int | None]], truth: list[str], said: list[str]) -> int:
    """Words that are wrong, missing or too many."""
    return sum(i is None or j is None or truth[i] != said[j] for i, j in pairs)


def seams(placed: list[Placed], alone: list[list[str]], segments: list[Segment]) -> dict[str, int]:
    """Words that only the joined recording loses or doubles at a window's end, and how many seams there are."""
    truth = [word for clip in placed for word in clip.words]
    right_alone = {
        at + i
        for clip, said, at in zip(placed, alone, np.cumsum([0, *(len(c.words) for c in placed)])[:-1], strict=True)
        for i, j in align(clip.words, said)
        if i is not None and j is not None and clip.words[i] == said[j]
    }
    texts = [segment.text.lower().split() for segment in segments if segment.reply is not None]
    said = [word for text in texts for word in text]
    ends = set(np.cumsum([len(text) for text in texts]).tolist())  # places in `said` where a window begins
    lost = doubled = 0
    at = 0  # where the next word of `said` is
    pairs = align(truth, said)
    for i, j in pairs:
        if j is None:
            lost += int(i in right_alone and at in ends | {0})
        else:
            at = j + 1
            beside = {said[k] for k in (j - 1, j + 1) if 0 <= k < len(said)}
            doubled += int(i is None and bool({j, j + 1} & ends) and said[j] in beside)
    return {"seams": max(0, len(texts) - 1), "words_lost": lost, "words_doubled": doubled}


def times(placed: list[Placed], segments: list[Segment]) -> dict[str, Any]:
    """How far the ends of segments are from the ends of the clips that they hold; those within a clip are counted."""
    spoken = [segment for segment in segments if segment.reply is not None]
    off, cut = [], 0
    for place, segment in enumerate(spoken):
        inside = [clip for clip in placed if clip.start < segment.end and clip.end > segment.start]
        if not inside:
            continue
        first, last = inside[0], inside[-1]
        goes_on = place > 0 and spoken[place - 1].end > first.start + SLIVER
        comes = place + 1 < len(spoken) and spoken[place + 1].start < last.end - SLIVER
        cut += goes_on + comes
        off += [] if goes_on else [abs(segment.start - first.start)]
        off += [] if comes else [abs(segment.end - last.end)]
    return {
        "edges": len(off),
        "median_error_s": statistics.median(off),
        "largest_error_s": max(off),
        "beyond_1_s": sum(one > 1 for one in off),
        "within_a_clip": cut,
    }


def measure(
    loaded: tuple[Any, Any], clips: list[Clip], minutes: float, spec: str, size: dict[str, Any], texts: list[list[str]]
) -> dict[str, Any]:
    """One recording under one method; `texts`: what is said to the clips alone, in order, which grows."""
    wave, placed, used = joined(clips, 60 * minutes)
    batch = size["batch_size"]
    handle = fewhertz.compress(loaded[0], spec, trim=True)
    for at in range(len(texts), len(used), batch):
        replies = run.reply(*loaded, [clip.wave for clip in used[at : at + batch]])
        texts += [reply.text.lower().split() for reply in replies]
    alone = texts[: len(used)]
    began, start = processor(), wall()
    segments = list(transcribe(*loaded, wave, batch_size=batch, source_rate=RATE))
    cpu, waited = processor() - began, wall() - start
    handle.remove()
    truth = [word for clip in placed for word in clip.words]
    said = [word for segment in segments for word in segment.text.lower().split()]
    wrong_alone = sum(errors(align(c.words, s), c.words, s) for c, s in zip(placed, alone, strict=True))
    wrong = errors(align(truth, said), truth, said)
    spoken = [segment for segment in segments if segment.reply is not None]
    new = sum(segment.reply.new_tokens for segment in spoken if segment.reply)
    looped = sum(s.reply.new_tokens for s in spoken if s.reply and "loop" in s.flags)
    return {
        "method": spec,
        "minutes": round(len(wave) / RATE / 60, 2),
        "clips": len(placed),
        "windows": len(spoken),
        "words": len(truth),
        "wer_alone": 100 * wrong_alone / len(truth),
        "wer_joined": 100 * wrong / len(truth),
        "difference": 100 * (wrong - wrong_alone) / len(truth),
        **seams(placed, alone, segments),
        **times(placed, segments),
        "flags": dict(sorted(Counter(flag for segment in segments for flag in segment.flags).items())),
        "new_tokens": new,
        "new_tokens_in_loops": looped,
        "silence_s": sum(segment.end - segment.start for segment in segments if segment.reply is None),
        "cpu_s": cpu,
        "wall_s": waited,
    }


def speed(loaded: tuple[Any, Any], clips: list[Clip], minutes: float, size: dict[str, Any]) -> list[dict[str, Any]]:
    """Windows in batches and one by one, in turns."""
    wave, *_ = joined(clips, 60 * minutes)
    seconds = len(wave) / RATE
    rows = []
    for spec in ("none", RECOMMENDED_AT):
        took: dict[int, list[float]] = {1: [], size["batch_size"]: []}
        with fewhertz.compress(loaded[0], spec, trim=True):
            for _ in range(size["timed_rounds"]):
                for batch, found in took.items():
                    began = processor()
                    for _segment in transcribe(*loaded, wave, batch_size=batch, source_rate=RATE):
                        pass
                    found.append(processor() - began)
        rows += [
            {
                "method": spec,
                "batch_size": batch,
                "cpu_s": min(found),
                "audio_s_per_cpu_s": seconds / min(found),
                "over_one": min(took[1]) / min(found),
            }
            for batch, found in took.items()
        ]
    return rows


def written(clips: list[Clip], minutes: float, pause: float, file: Path) -> Path:
    """A recording of any length: the clips again and again, in other orders, with pauses of at most so many seconds."""
    draw = np.random.default_rng(2)
    with soundfile.SoundFile(file, "w", RATE, 1, "PCM_16") as out:
        at = 0
        while at < 60 * minutes * RATE:
            for i in draw.permutation(len(clips)):
                parts = [np.zeros(round(draw.uniform(PAUSES[0], pause) * RATE), np.float32), clips[i].wave]
                part = np.concatenate(parts)[: round(60 * minutes * RATE) - at]
                out.write(part)
                at += len(part)
    return file


def resident() -> float:
    """Memory that the process holds, in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def memory(loaded: tuple[Any, Any], file: Path, spec: str, size: dict[str, Any]) -> dict[str, Any]:
    """A recording from a file: the most that is held beyond the model, at each mark, and what it comes to."""
    before, peak, peaks = resident(), 0.0, []
    step = 60 * size["mark_minutes"]
    began, start = processor(), wall()
    tokens = windows = 0
    done = first = 0.0
    flags: Counter[str] = Counter()
    with fewhertz.compress(loaded[0], spec, trim=True):
        for segment in transcribe(*loaded, file, batch_size=size["batch_size"]):
            first = first or processor() - began
            peak = max(peak, resident() - before)
            tokens, windows, done = tokens + segment.tokens, windows + (segment.reply is not None), segment.end
            flags.update(segment.flags)
            if done >= step * (len(peaks) + 1):
                peaks.append(peak)
                peak = 0.0
    cpu, seconds = processor() - began, audio.duration(file)
    return {
        "method": spec,
        "minutes": seconds / 60,
        "windows": windows,
        "audio_tokens": tokens,
        "hz": tokens / seconds,
        "flags": dict(sorted(flags.items())),
        "peaks_mib": peaks,
        "cpu_s": cpu,
        "cpu_s_to_the_first_segment": first,
        "wall_s": wall() - start,
        "audio_s_per_cpu_s": seconds / cpu,
    }


def show(result: dict[str, Any]) -> None:
    """Print the figures."""
    for row in result["recordings"]:
        console.print(
            f"{row['minutes']:g} min, {row['method']}: WER {row['wer_alone']:.1f} alone, {row['wer_joined']:.1f} "
            f"joined ({row['difference']:+.1f}); {row['seams']} seams, {row['words_lost']} words "
            f"lost, {row['words_doubled']} doubled; times off by {row['median_error_s']:.3f} s "
            f"(largest {row['largest_error_s']:.2f}, "
            f"{row['beyond_1_s']} of {row['edges']} beyond 1 s); flags {row['flags']}; "
            f"{row['new_tokens_in_loops']} of {row['new_tokens']} new tokens in loops"
        )
    for row in result["hours"]:
        console.print(
            f"{row['minutes']:.1f} min, {row['method']}: {row['hz']:.3f} Hz, {row['windows']} windows, flags "
            f"{row['flags']}; MiB beyond the model, at each mark: {[round(one) for one in row['peaks_mib']]}; "
            f"{row['audio_s_per_cpu_s']:.1f} s of audio a second of processor time"
        )
    for row in result["speed"]:
        console.print(
            f"{row['method']}, batches of {row['batch_size']}: {row['audio_s_per_cpu_s']:.1f} s of audio a second of "
            f"processor time, {row['over_one']:.2f} times one by one"
        )


def main(
    out: OUT,
    lists: LISTS_FOLDER = None,
    quick: QUICK_RUN = False,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """Measure, write the result file, print the figures."""
    begin(lists, quick, threads)
    size = QUICK if quick else LONG
    clips = bundled() if lists is None else clips_of(lists)
    folder = tempfile.TemporaryDirectory()
    files = [
        (written(clips, minutes, pause, Path(folder.name) / f"{place}.wav"), spec)
        for place, (minutes, pause, spec) in enumerate(size["hours"])
    ]
    loaded = fewhertz.load("pocket", device=device, dtype="float32")
    result: dict[str, Any] = {
        "what": "words, seams, times, loops, speed and memory of long recordings made of clips with pauses",
        "notes": [
            "speed is by processor time, best of the rounds in turns: the machine was not idle",
            "a word is lost at a seam where it is right alone, missing joined, and at a window's end; doubled where it "
            "is once more beside itself there",
            "times: the ends of windows against the ends of the clips that they hold; where a clip goes on in the next "
            "window there is no end to compare with (within_a_clip)",
            "peaks_mib: the most that the process held since the last mark, beyond what it held with the model loaded",
        ],
        "quick": quick,
        "configuration": {
            **size,
            "lists": list(LISTS),
            "pauses_s": list(PAUSES),
            "longest_window_s": longest_window(loaded[0], None, None),
            "device": device,
        },
        "environment": environment(device),
        "recordings": [],
    }
    with folder:
        result["hours"] = [memory(loaded, file, spec, size) for file, spec in files]
    (shortest, _), *_ = size["recordings"]
    result["speed"] = speed(loaded, clips, shortest, size)
    alone: dict[str, list[list[str]]] = {}
    for minutes, spec in size["recordings"]:
        result["recordings"].append(measure(loaded, clips, minutes, spec, size, alone.setdefault(spec, [])))
        save(result, out)  # what is there stays where it is broken off
    show(result)
    console.print(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
