"""Stage 7: the bundled sample clips: our own sentences spoken by synthesis, which no training example contains or is
near to, and word strings of people who are in no training clip.

python -m recipes.pocket.samples
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile as sf

from . import config
from .config import SAMPLE_RATE, SHIPPED, SPLITS
from .corpus import audio, english_training, normalise_text, read_jsonl, write_jsonl
from .speech import synthesise
from .texts import Near

# name, voice, words a minute, pitch (espeak-ng), what is said: our own sentences
PLAN = (
    ("01", "espeak:en-us", 160, 50, "The coffee is too hot. I want some milk."),
    ("02", "flite:slt", 170, 50, "We missed the last bus. We are walking home."),
    ("03", "espeak:en+f3", 165, 55, "My sister sings well. She sings at work."),
    ("04", "flite:kal16", 165, 50, "The old dog is asleep. He had a long day."),
    ("05", "espeak:en-029+m2", 160, 45, "I lost my red hat. Can you see it?"),
    ("06", "espeak:en-us+f2", 170, 50, "The rain is over. We can play outside now."),
    ("07", "espeak:en-gb-scotland+m4", 160, 50, "He reads old books. I read them too."),
    ("08", "flite:rms", 170, 50, "Please close that door. It is cold in here today."),
    ("09", "espeak:en-gb-x-rp+f1", 165, 50, "The soup smells good. What did you put in it?"),
    ("10", "espeak:en-us+m5", 160, 50, "Tom has two small boys. They like to swim."),
    (
        "11", "espeak:en-us+m3", 165, 45,
        "I woke up at six today. I made a pot of tea. The sun was out already. "
        "I walked to the park. It was a fine day.",
    ),
    (
        "12", "espeak:en", 160, 50,
        "Mary called me after work. She wants to move. Her house is too small. She needs one more room. "
        "I said I can help.",
    ),
)  # fmt: skip
SECONDS = 15.0  # no clip is longer
PEOPLE = 4  # word strings of so many speakers of test, with few words each
WORDS_AT_MOST = 5


def synthetic() -> Iterator[tuple[dict, np.ndarray]]:
    """Our own sentences."""
    for name, voice, speed, pitch, raw in PLAN:
        yield (
            {
                "audio": f"{name}.flac",
                "text": normalise_text(raw),
                "raw_text": raw,
                "voice": voice.split(":")[1],
                "synthesiser": {"espeak": "espeak-ng", "flite": "flite"}[voice.split(":")[0]],
                "voice_in_training": voice in config.SEEN_VOICES["en"],
                "kind": "synthetic",
                "licence": "Apache-2.0",
            },
            synthesise(raw, voice, speed, pitch),
        )


def people(data: Path) -> Iterator[tuple[dict, np.ndarray]]:
    """The first short word string of some speakers of test."""
    first: dict[str, dict] = {}
    for row in read_jsonl(SPLITS / "strings-test.jsonl"):
        if len(row["pieces"]) <= WORDS_AT_MOST and len(set(row["references"][0].split())) > 2:
            first.setdefault(row["group"], row)
    chosen = [first[speaker] for speaker in sorted(first)[:PEOPLE]]
    for i, (row, wave) in enumerate(audio(data, chosen)):
        yield (
            {
                "audio": f"{len(PLAN) + 1 + i:02d}.flac",
                "text": row["references"][0],
                "voice": f"speaker {row['group']} of Speech Commands",
                "voice_in_training": False,
                "kind": "recorded",
                "licence": "CC BY 4.0",
            },
            wave,
        )


def make_samples(data: Path, out: Path) -> int:
    """Write the clips and `samples.jsonl`; returns the bytes written."""
    known = Near(t for kind in english_training(data, 60_000).values() for _, t in kind)
    out.mkdir(parents=True, exist_ok=True)
    rows, size = [], 0
    for row, wave in (*synthetic(), *people(data)):
        if row["kind"] == "synthetic" and known.of([row["text"]]).any():
            raise ValueError(f"sample {row['audio']} is near to a training sentence")
        if len(wave) > SECONDS * SAMPLE_RATE:
            raise ValueError(f"sample {row['audio']} lasts {len(wave) / SAMPLE_RATE:.1f} s")
        path = out / row["audio"]
        sf.write(path, wave, SAMPLE_RATE, subtype="PCM_16")
        size += path.stat().st_size
        rows.append(row | {"duration": round(len(wave) / SAMPLE_RATE, 3)})
    write_jsonl(out / "samples.jsonl", rows)
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=config.DATA)
    parser.add_argument("--out", type=Path, default=SHIPPED / "samples")
    args = parser.parse_args()
    print(json.dumps({"bytes": make_samples(args.data, args.out)}))


if __name__ == "__main__":
    main()
