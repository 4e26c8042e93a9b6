"""Lists of speech as audio files and manifests: those of dev or test for `fewhertz eval`, training ones for `train`.

python -m recipes.pocket.manifests --split dev --out out/pocket-dev
python -m recipes.pocket.manifests --split train --limit 2000 --out out/pocket-train
fewhertz eval pocket --task out/pocket-dev/strings-dev.jsonl --method pool --method ward+time+sizes --keep 1 1/2 1/3
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile as sf

from . import config, corpus, speech
from .config import SAMPLE_RATE, SEEN_VOICES, SPLITS
from .corpus import read_jsonl, write_jsonl

FRENCH_VOICES = ("espeak:fr", "espeak:fr+f2", "espeak:fr+m3", "espeak:fr+f4", "espeak:fr-ch+m7")
TRAINING = ("french-synthetic", "strings", "synthetic")
LISTED_BY = "1.51"  # the espeak-ng that the lists' sha256 are of
STRINGS = 20_000  # of training, to take some of
FIELD = {"transcribe": "text", "translate": "translation", "describe": "captions", "answer": "answer"}


def training(name: str, data: Path) -> list[dict]:
    """Speech of the training split: no list of it is kept."""
    if name == "strings":
        return corpus.word_strings(data, "train", STRINGS)
    if name == "french-synthetic":
        return corpus.listed(corpus.say(french(data), "fr", FRENCH_VOICES, f"train-{name}"))
    sentences = corpus.without_near(data, corpus.english(data)["train"])
    return corpus.listed(corpus.say(sentences, "en", SEEN_VOICES["en"], f"train-{name}"))


def french(data: Path) -> list[str]:
    """Sentences of training recordings: a language to adapt to."""
    rows = corpus.recordings(data, "commonvoice-fr", "train", "fr")
    found = {row["text"]: row.get("raw_text") or row["text"] for row in rows}
    return [found[key] for key in corpus.by_hash(found) if corpus.speakable(found[key], "fr")]


def write(name: str, data: Path, out: Path, limit: int | None = None) -> Path:
    """Write a list's clips (FLAC, 16 kHz) and its manifest; returns the manifest. At most `limit`, evenly spaced."""
    rows: list[dict] = []
    other: list[dict] = []
    (out / name).mkdir(parents=True, exist_ok=True)
    stem, _, split = name.rpartition("-")
    listed = training(stem, data) if split == "train" else read_jsonl(SPLITS / f"{name}.jsonl")
    count = min(limit or len(listed), len(listed))
    chosen = [listed[i * len(listed) // count] for i in range(count)]
    for i, (row, wave) in enumerate(compared(data, chosen, other)):
        audio = f"{name}/{i:04d}.flac"
        sf.write(out / audio, wave, SAMPLE_RATE, subtype="PCM_16")
        right = row["references"] if row["task"] in ("translate", "describe") else row["references"][0]
        kept = {"id": row["id"], "audio": audio, "group": row["group"], FIELD[row["task"]]: right}
        asked = (
            {"question": row["prompt"], "prompt": row["prompt"], "choices": row["choices"]} if "prompt" in row else {}
        )
        rows.append(kept | asked)
    manifest = out / f"{name}.jsonl"
    write_jsonl(manifest, sorted(rows, key=lambda r: r["id"]))
    for line in differing(name, other, len(rows)):
        print(line, file=sys.stderr)
    return manifest


def compared(data: Path, rows: list[dict], other: list[dict]) -> Iterator[tuple[dict, np.ndarray]]:
    """`corpus.audio`; rows whose audio has another sha256 than the list has are added to `other`."""
    for row, wave in corpus.audio(data, rows):
        if "sha256" in row and corpus.sha256(wave) != row["sha256"]:
            other.append(row)
        yield row, wave


def differing(name: str, rows: list[dict], count: int) -> list[str]:
    """What to say of the items whose audio has another sha256 than the list has, of `count` items."""
    if not rows:
        return []
    makers = Counter(said[0]["voice"].split(":")[0] if (said := spoken(row)) else "recordings" for row in rows)
    by = ", ".join(f"{n} of {maker}" for maker, n in makers.items())
    lines = [f"{name}: the audio of {len(rows)} of {count} items is not what the list was made of ({by})."]
    if "espeak" in makers:
        lines.append(f"The lists are of Debian's espeak-ng {LISTED_BY}; here is another build, {speech.version()}.")
    return [*lines, "Scores on them compare with scores on this machine's audio alone."]


def spoken(row: dict) -> list[dict]:
    """What is said in an item, none of a recording."""
    return [row["say"]] if "say" in row else row.get("says", [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("train", "dev", "test"), default="dev")
    parser.add_argument("--lists", nargs="*", help="such as strings answer; all by default")
    parser.add_argument("--limit", type=int, help="items a list, evenly spaced; all by default")
    parser.add_argument("--data", type=Path, default=config.DATA)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    there = sorted(path.stem.removesuffix(f"-{args.split}") for path in SPLITS.glob(f"*-{args.split}.jsonl"))
    for name in TRAINING if args.split == "train" else there:
        if not args.lists or name in args.lists:
            print(write(f"{name}-{args.split}", args.data, args.out, args.limit))


if __name__ == "__main__":
    main()
