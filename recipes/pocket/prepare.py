"""Stage 1, data: the lists of dev and test, synthetic speech, recordings, and their audio in `cache/`.

Each part is one pair of files: `<part>.i16` (mono, 16 kHz, clip after clip) and `<part>.jsonl` (one row a clip: the row
of its list or data set, phonemes, start and samples). A part that is there is not made again.

    python -m recipes.pocket.prepare [--size tiny] [--data ../shared/data] [--workers 2]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from . import config, corpus
from .config import SAMPLE_RATE, SIZES, SPLITS, WORDS
from .corpus import read_jsonl, write_jsonl
from .manifests import compared, differing
from .speech import phonemes, synthesise

FEW = 40  # items of a list of dev that the tiny size takes; it takes none of test
ROWS = 3000  # synthetic clips of a part at most
ESPEAK = {"en": "en-us", "de": "de"}  # voices that give the phonemes of recordings


def write_part(part: Path, clips: Iterable[tuple[dict, np.ndarray]]) -> str:
    """Write one part of the cache; the index is renamed into place last, so that a broken part is made again."""
    done = part.with_suffix(".jsonl")
    start, rows = 0, []
    with open(part.with_suffix(".i16"), "wb") as out:
        for row, wave in clips:
            out.write(np.clip(np.round(wave * 32767), -32768, 32767).astype("<i2").tobytes())
            rows.append(row | {"start": start, "samples": len(wave)})
            start += len(wave)
    write_jsonl(done.with_suffix(".part"), rows)
    done.with_suffix(".part").rename(done)
    return f"{part.name}: {len(rows)} clips, {start / SAMPLE_RATE / 3600:.2f} h"


def synthetic(rows: list[dict]) -> Iterator[tuple[dict, np.ndarray]]:
    """Training clips, with the phonemes that their voice speaks."""
    for row in rows:
        said = row["say"]
        wave = synthesise(**said, fresh=False)
        if len(wave) >= SAMPLE_RATE // 4:
            engine, voice = said["voice"].split(":", 1)
            spoken = phonemes(said["raw"], voice if engine == "espeak" else "en-us")
            facts = {
                "voice": said["voice"],
                "speed": said["speed"],
                "pitch": said["pitch"],
                "asks": said["raw"][-1] == "?",
            }
            yield {k: row[k] for k in row if k not in ("say", "id", "lang")} | facts | {"phonemes": spoken}, wave


def synthetic_part(part: Path, rows: list[dict]) -> str:
    return write_part(part, synthetic(rows))


def recording_part(part: Path, data: Path, tar: str, lang: str) -> str:
    """Training clips of one data set."""
    if tar == "esc10":
        sounds = {c["id"]: c | {"label": label} for label, cs in corpus.sound_clips(data, "train").items() for c in cs}
        rows = [r for r in corpus.manifest(data) if r["audio"] in sounds]
        return write_part(part, ((sounds[r["audio"]], wave) for r, wave in corpus.read_clips(data, rows)))
    if tar == "picovoice-barista":
        rows = [r for r in corpus.manifest(data) if r["tar"] == f"{tar}.tar" and r["split"] == "train"]
        kept = ("slots",)
    else:
        rows, kept = corpus.recordings(data, tar, "train", lang), ("text", "speaker", "age")
        rows = [r for r in rows if not corpus.near(data).of([r["text"]]).any()] if lang == "en" else rows

    def clips() -> Iterator[tuple[dict, np.ndarray]]:
        for row, wave in corpus.read_clips(data, rows):
            spoken = phonemes(row["text"], ESPEAK[lang]) if row.get("text") else []
            yield {"id": row["audio"]} | {k: row[k] for k in kept if k in row} | {"phonemes": spoken}, wave

    return write_part(part, clips())


def list_part(part: Path, data: Path, few: bool) -> str:
    rows = read_jsonl(SPLITS / f"{part.name}.jsonl")
    rows = rows[:: max(1, len(rows) // FEW)] if few else rows
    other: list[dict] = []
    return "\n".join([write_part(part, compared(data, rows, other)), *differing(part.name, other, len(rows))])


def jobs(size: str, data: Path, lists: tuple[str, ...] = ("dev", "test"), share: float = 1.0) -> list[tuple]:
    """What has to be made, the slow first. ``share``: of the synthetic utterances."""
    folder, few = config.cache(size), size == "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    recorded = bool(corpus.manifest(data))
    names = [p.stem for p in sorted(SPLITS.glob("*.jsonl")) if p.stem.rpartition("-")[2] in lists]
    names = [n for n in names if n.rpartition("-")[0] in corpus.lists(data, n.rpartition("-")[2])]
    names = [n for n in names if not (needed := corpus.tars_of(n)) or all((data / t).exists() for t in needed)]
    if not recorded:
        print(f"no recordings at {data}: synthetic speech alone", flush=True)
    found: list[tuple] = [(list_part, folder / name, data, few) for name in names]
    if recorded:
        sets = [(n, lang) for lang, tars in config.RECORDED.items() for n in tars if not few]
        for tar, lang in [*sets, (WORDS, "en"), ("esc10", "en"), ("picovoice-barista", "en")]:
            if not (data / f"{tar}.tar").exists():
                print(f"no {tar}.tar at {data}: left out", flush=True)
                continue
            found.append((recording_part, folder / f"real-{tar}", data, tar, lang))
    for name, rows in corpus.synthetic_training(size, data).items():
        rows = rows[:: round(1 / share)]
        every = ROWS if "flite" not in name else ROWS // 6
        for i in range(0, len(rows), every):
            found.append((synthetic_part, folder / f"{name}-{i // every:03d}", rows[i : i + every]))
    found.sort(key=lambda job: "flite" not in job[1].name)  # the slow ones first
    return [job for job in found if not job[1].with_suffix(".jsonl").exists()]


def prepare(size: str, data: Path, workers: int, lists: tuple[str, ...] = ("dev", "test"), share: float = 1.0) -> None:
    if lists:
        corpus.make_lists(data)
    todo = jobs(size, data, lists, share)
    with ProcessPoolExecutor(workers) as pool:
        futures = [pool.submit(*job) for job in todo]
        for i, future in enumerate(as_completed(futures), 1):
            print(f"{i} of {len(futures)}: {future.result()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--data", type=Path, default=config.DATA)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--lists", nargs="*", choices=("dev", "test"), default=("dev", "test"), help="of which splits")
    parser.add_argument("--share", type=float, default=1.0, help="of the synthetic utterances, for a smaller machine")
    args = parser.parse_args()
    prepare(args.size, args.data, args.workers, tuple(args.lists), args.share)


if __name__ == "__main__":
    main()
