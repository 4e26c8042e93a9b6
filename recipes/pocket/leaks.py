"""Does anything of a test or dev list occur in training? Prints what was compared; exits with 1 where it does.

    python -m recipes.pocket.leaks [--size fourth] [--data ../shared/data] [--lists recipes/pocket/splits]
    python -m recipes.pocket.leaks --begun-from start.txt --near recipes/pocket/results/near-start.json

Sentences are compared by their normalised text, in every language and on both sides of a translation; single words of
Speech Commands are no sentences. Far lists are held against all English of training, heard or written, by the rule of
`texts.py`: no sentence of either side may be near one of the other. Speakers: LJSpeech has one, who is in both splits
of the data set, and Picovoice does not name its own; both are left out of that comparison. Environmental sounds are
compared by their source recording too, from which several clips may be cut.

A run that begins from other weights has also heard what they heard. ``--begun-from`` names a file of those sentences,
normalised, one a line. None of them may be in a list; the items that are near to one are named in ``--near``, so that
figures can be had with and without them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import config, corpus
from .config import SIZES, SPLITS, WORDS
from .corpus import normalise_text, read_jsonl
from .texts import Near

ONE_SPEAKER = ("ljspeech", "kerstin")
FAR = ("far", "passages", "pauses", "pace", "voice")  # lists of far sentences, by the beginning of their names
NEW = "-voices"  # in the names of lists whose voices are in no training clip


@dataclass
class Inventory:
    """What a split holds."""

    sentences: set[str] = field(default_factory=set)
    speakers: set[str] = field(default_factory=set)
    english: set[str] = field(default_factory=set)  # those of the sentences that are
    voices: set[str] = field(default_factory=set)
    clips: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)  # of environmental sounds

    def add_recordings(self, rows: Iterable[dict]) -> None:
        for row in rows:
            name = row["tar"].removesuffix(".tar")
            self.clips.add(row["audio"])
            if name == "esc10":
                self.sources.add(source(row["audio"]))
            if row.get("speaker") and name not in ONE_SPEAKER:
                self.speakers.add(row["speaker"])


def source(audio: str) -> str:
    """ESC-10 names a clip fold-source-take: the source is a recording of freesound.org."""
    return Path(audio).stem.split("-")[1]


def training(size: str, data: Path) -> Inventory:
    found = Inventory()
    for rows in corpus.synthetic_training(size, data).values():
        for row in rows:
            english = {row["text"]} if row["kind"] != "german" else set(row["english"])
            found.sentences |= {row["text"], *english}
            found.english |= english
            found.voices.add(row["say"]["voice"])
    for lang, names in config.RECORDED.items():
        for name in names:
            rows = corpus.recordings(data, name, "train", lang)
            found.add_recordings(rows)
            found.sentences |= {r["text"] for r in rows}
            found.english |= {r["text"] for r in rows if lang == "en"}
    found.add_recordings(corpus.recordings(data, WORDS, "train"))
    others = ("esc10.tar", "picovoice-barista.tar")
    found.add_recordings(r for r in corpus.manifest(data) if r["tar"] in others and r["split"] == "train")
    return found


def listed(rows: list[dict], data: Path) -> Inventory:
    """What the items of one list hold."""
    found = Inventory()
    known = {r["audio"]: r for r in corpus.manifest(data)}
    for row in rows:
        if spoken := row.get("says") or ([row["say"]] if "say" in row else []):
            found.voices |= {s["voice"] for s in spoken}
            said = {normalise_text(s["raw"], row["lang"]) for s in spoken}
        else:
            pieces = [known.get(p["audio"], {}) | p for p in row["pieces"]]
            found.add_recordings(pieces)
            texts = [p["text"] for p in pieces if "text" in p and p["tar"] != f"{WORDS}.tar"]
            said = {normalise_text(t, row["lang"]) for t in texts}
        if row["task"] == "translate":
            said |= set(row["references"])
        found.sentences |= said
    return found


def shared(train: Inventory, held_out: Inventory, unseen_voices: bool) -> dict[str, set[str]]:
    """What is in both, by kind; voices only where the list is one of unseen voices."""
    kinds = ("sentences", "speakers", "clips", "sources", *(("voices",) if unseen_voices else ()))
    return {kind: getattr(train, kind) & getattr(held_out, kind) for kind in kinds}


def check(train: Inventory, lists: dict[str, list[dict]], data: Path) -> list[str]:
    """One line for each thing that is shared: with training, or between a dev and a test list."""
    found = {name: listed(rows, data) for name, rows in lists.items()}
    out = []
    for name, inventory in found.items():
        against = {"training": train} | {
            other: found[other] for other in found if name.endswith("-test") and other.endswith("-dev")
        }
        for other, have in against.items():
            same = shared(have, inventory, NEW in name and other == "training")
            out += [f"{name}: {kind} shared with {other}: {', '.join(sorted(s)[:5])}" for kind, s in same.items() if s]
        if name.partition("-")[0] in FAR:
            english = sorted(train.english)
            close = [t for t, no in zip(english, Near(inventory.sentences).of(english), strict=True) if no]
            out += [f"{name}: {len(close)} near ones in training: {', '.join(close[:5])}"] if close else []
    return out


def near_items(texts: list[str], lists: dict[str, list[dict]]) -> dict[str, list[str]]:
    """Ids of the items of far lists that say a sentence near to one of ``texts`` (normalised)."""
    known, out = Near(texts), {}
    for name, rows in lists.items():
        if name.partition("-")[0] in FAR:
            said = [[normalise_text(s["raw"], r["lang"]) for s in r.get("says") or [r["say"]]] for r in rows]
            out[name] = [r["id"] for r, some in zip(rows, said, strict=True) if known.of(some).any()]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="fourth")
    parser.add_argument("--data", type=Path, default=config.DATA)
    parser.add_argument("--lists", type=Path, default=SPLITS)
    parser.add_argument("--begun-from", type=Path, help="sentences that the weights begun from were trained on")
    parser.add_argument("--near", type=Path, help="write the ids of the items that are near to one of those")
    args = parser.parse_args()
    lists = {p.stem: read_jsonl(p) for p in sorted(args.lists.glob("*.jsonl"))}
    train = training(args.size, args.data)
    kinds = ("sentences", "speakers", "voices", "clips", "sources")
    print(f"{'list':27}" + "".join(f"{k:>11}" for k in kinds))
    for name, inventory in {"training": train, **{n: listed(r, args.data) for n, r in lists.items()}}.items():
        print(f"{name:27}" + "".join(f"{len(getattr(inventory, k)):11,}" for k in kinds))
    found = check(train, lists, args.data)
    if args.begun_from:
        texts = args.begun_from.read_text("utf-8").splitlines()
        earlier = Inventory(sentences=set(texts))
        same = {name: shared(earlier, listed(rows, args.data), False)["sentences"] for name, rows in lists.items()}
        found += [
            f"{name}: sentences shared with what was begun from: {', '.join(sorted(some)[:5])}"
            for name, some in same.items()
            if some
        ]
        near = near_items(texts, lists)
        print(
            "\n".join(
                f"{name}: {len(ids)} of {len(lists[name])} items near to one begun from" for name, ids in near.items()
            )
        )
        if args.near:
            heard = {"sentences": len(texts), "items": near, "shared": {n: sorted(s) for n, s in same.items() if s}}
            args.near.write_text(json.dumps(heard, indent=1) + "\n", "utf-8")
    print("\n".join(found) or f"nothing of {len(lists)} lists is in training, nothing of a test list in a dev list")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
