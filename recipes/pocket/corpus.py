"""Who says what in which split: sentences, voices, recordings, scenes, questions. No audio is kept here.

A list of test or dev items is a JSONL file in `splits/`, under version control. A row: `id`, what is to be heard
(`say`: a sentence, a voice, speed and pitch; or `pieces`: stretches of recordings, placed and scaled), `task`,
`references`, for questions `prompt`, `choices` and the one reference; `group` (drawn as a whole by the bootstrap) and
`sha256` of the audio as it was made when the list was written.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from . import config
from .config import NEW_VOICES, PITCH, SAMPLE_RATE, SEEN_VOICES, SPEED, SPLITS, WORDS
from .sounds import Scene, ask, captions, choose, draw_scene, label_of, question
from .speech import can_say, synthesise
from .texts import ONES, Near, Recombined, dictionary, far_from_each_other, linked, renamed, spelled

LETTERS = {"en": "a-z'", "fr": "a-zàâæçéèêëîïôœùûüÿ'", "de": "a-zäöüß"}  # French in lists of earlier versions alone
SPEAKABLE = {
    "en": re.compile(r"[A-Za-z' ,.?!\"\-]+"),
    "de": re.compile(r"[A-Za-zÄÖÜäöüß ,.?!\"\-]+"),
    "fr": re.compile(r"[A-Za-zÀ-ÖØ-öø-ÿœŒ' ,.?!\"\-;:«»]+"),
}
ITEMS = {"far": 300, "passages": 100, "pace": 100, "german": 1000, "strings": 300, "digits": 200, "describe": 300}
DEV = {"far": 100, "passages": 40, "pace": 40, "german": 200, "strings": 60, "digits": 100, "describe": 60}
PACES = (110, 150, 190)  # words a minute
PASSAGE = (20.0, 29.0)  # seconds
ROOM = -55.0  # dB of full scale: the noise in pauses that are made
VOICE_ITEMS = {"test": 100, "dev": 40}  # of each kind of paralinguistic question
QUESTIONS = {
    "test": {"which": 100, "first": 100, "count": 100, "word": 150, "who": 100, "order": 120},
    "dev": {"which": 25, "first": 25, "count": 25, "word": 40, "who": 40, "order": 40},
}
SLOTS = {"coffeeDrink": "Which drink is ordered", "size": "Which size is ordered"}  # of a coffee order
CHILD, ADULT = 12, 18  # years: at most, at least


def normalise_text(text: str, lang: str = "en") -> str:
    """Lower case, letters of the language, apostrophe and single spaces: the form of references and of outputs."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("-", " ")
    return " ".join(re.sub(rf"[^{LETTERS[lang]} ]+", " ", text).split())


def speakable(raw: str, lang: str = "en") -> bool:
    """Whether a synthesiser says just these words: no digits, abbreviations or spelled-out capitals."""
    words = raw.split()
    return (
        SPEAKABLE[lang].fullmatch(raw) is not None
        and not any(len(w) > 1 and w.isupper() for w in re.findall(r"[^\W\d_]+", raw))
        and not any("." in w.rstrip(".!?\"'") or w in ("Mr.", "Mrs.", "Dr.", "St.", "Ms.") for w in words)
        and 1 <= len(words) <= 30
    )


def bucket(text: str) -> int:
    """0..999, a function of the normalised text alone, so that one sentence is in one split whatever its row."""
    return int.from_bytes(hashlib.sha256(normalise_text(text).encode()).digest()[:4], "big") % 1000


def split_of(text: str) -> str:
    """The split of an English sentence of Tatoeba."""
    return "test" if (b := bucket(text)) < 30 else "dev" if b < 45 else "samples" if b < 50 else "train"


def by_hash(texts: Iterable[str]) -> list[str]:
    return sorted(texts, key=lambda t: hashlib.sha256(b"order " + t.encode()).digest())


@cache
def pairs(data: Path) -> tuple[tuple[str, str], ...]:
    """English and German sentences as Tatoeba has them."""
    source = data / "text" / "tatoeba_en_de.tsv"
    if not source.exists():
        return own_pairs()
    rows = (line.split("\t") for line in source.read_text("utf-8").splitlines()[2:])
    return tuple((r[0].strip(), r[1].strip()) for r in rows)


def own_pairs() -> tuple[tuple[str, str], ...]:
    """A few hundred plain sentences of our own, for a machine that has no data: enough for the tiny size alone."""
    who = (("I", "Ich", "e"), ("Tom", "Tom", "t"), ("my sister", "Meine Schwester", "t"), ("he", "Er", "t"))
    does = (("hear", "hör"), ("see", "seh"), ("find", "find"), ("draw", "mal"), ("love", "lieb"))
    what = (
        ("dog", "einen Hund"), ("cat", "eine Katze"), ("house", "ein Haus"), ("tree", "einen Baum"),
        ("bird", "einen Vogel"), ("flower", "eine Blume"), ("boat", "ein Boot"), ("bridge", "eine Brücke"),
        ("garden", "einen Garten"), ("window", "ein Fenster"), ("clock", "eine Uhr"), ("friend", "einen Freund"),
    )  # fmt: skip
    german = {("seh", "t"): "sieht", ("find", "t"): "findet"}
    return tuple(
        (
            f"{a[:1].upper()}{a[1:]} {v}{'s' if ending == 't' else ''} a {n}.",
            f"{de} {german.get((stem, ending), stem + ending)} {obj}.",
        )
        for a, de, ending in who
        for v, stem in does
        for n, obj in what
    )


@cache
def tatoeba(data: Path) -> frozenset[str]:
    return frozenset(normalise_text(en) for en, _ in pairs(data))


@cache
def manifest(data: Path) -> tuple[dict, ...]:
    path = data / "manifest.jsonl"
    return tuple(read_jsonl(path)) if path.exists() else ()


def recordings(data: Path, name: str, split: str, lang: str = "en") -> list[dict]:
    """Rows of the manifest, their text normalised. Of dev and test, those are left out whose text a training row has
    too, or Tatoeba.
    """
    rows = [r | {"text": normalise_text(r["text"], lang)} for r in manifest(data) if r["tar"] == f"{name}.tar"]
    if split != "train" and name != WORDS:
        known = {r["text"] for r in rows if r["split"] == "train"} | tatoeba(data)
        rows = [r for r in rows if r["text"] not in known]
    away = {s for some in digit_speakers(data).values() for s in some} if name == WORDS and split == "train" else set()
    return [r for r in rows if r["split"] == split and r["text"] and r.get("speaker") not in away]


@cache
def digit_speakers(data: Path) -> dict[str, tuple[str, ...]]:
    """Speakers of single words who are kept from training for the lists of digits: dev and test have no digits."""
    known: dict[str, set[str]] = {}
    for row in manifest(data):
        if row["tar"] == f"{WORDS}.tar" and row["split"] == "train" and row["text"] in ONES[:10]:
            known.setdefault(row["speaker"], set()).add(row["text"])
    several = by_hash(speaker for speaker, digits in known.items() if len(digits) >= 2)
    return {"test": tuple(several[:20]), "dev": tuple(several[20:28])}


def english(data: Path) -> dict[str, list[str]]:
    """English sentences of Tatoeba by split, each normalised text once, in an order that is fixed by their hash.

    Of dev and test, those that somebody reads in a training recording are left out.
    """
    read = {r["text"] for name in (*config.RECORDED["en"], WORDS) for r in recordings(data, name, "train")}
    seen: dict[str, str] = {}
    for raw, _ in pairs(data):
        if speakable(raw) and len(raw.split()) <= 14:
            seen.setdefault(normalise_text(raw), raw)
    out: dict[str, list[str]] = {"train": [], "dev": [], "test": [], "samples": []}
    for key in by_hash(seen):
        split = split_of(key)
        if split == "train" or key not in read:
            out[split].append(seen[key])
    return out


def german(data: Path) -> dict[str, list[tuple[str, list[str]]]]:
    """German sentences of Tatoeba by split, each with its English translations (normalised).

    A German sentence belongs to a split where all its translations do, by the rule for English; others are left out.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for en, de in pairs(data):
        if speakable(de, "de") and normalise_text(en):
            known = found.setdefault(normalise_text(de, "de"), (de, []))[1]
            if normalise_text(en) not in known:
                known.append(normalise_text(en))
    out: dict[str, list[tuple[str, list[str]]]] = {"train": [], "dev": [], "test": [], "samples": []}
    for key in by_hash(found):
        splits = {split_of(en) for en in found[key][1]}
        if len(splits) == 1:
            out[splits.pop()].append(found[key])
    return out


def longer(data: Path) -> list[str]:
    """English sentences of the training recordings, to be spoken by synthesis: they are longer than Tatoeba's."""
    found: dict[str, str] = {}
    for name in config.RECORDED["en"]:
        for r in recordings(data, name, "train"):
            if split_of(r["text"]) == "train":
                found.setdefault(r["text"], r.get("raw_text") or r["text"])
    return [found[k] for k in by_hash(found) if speakable(found[k])]


@cache
def far(data: Path) -> dict[str, tuple[str, ...]]:
    """Everyday English sentences of dev and test that are far from each other and from every recorded one.

    Half of them are two of Tatoeba's made one by a word between them, since Tatoeba's are short.
    """
    texts, rng = english(data), random.Random("far")
    read = Near(r["text"] for name in config.RECORDED["en"] for r in recordings(data, name, "train"))
    out: dict[str, tuple[str, ...]] = {}
    taken: list[str] = []
    for split, size in (("test", ITEMS["far"]), ("dev", DEV["far"])):
        fine = [t for t in texts[split] if len(t.split()) >= 4]
        statements = [t for t in fine if t.endswith(".")]
        both = [linked(rng, a, b) for a, b in zip(statements[::2], statements[1::2], strict=False)]
        found: list[str] = []
        for some, most in ((both, size // 2), (fine, size)):
            keys = {normalise_text(t): t for t in some if speakable(t)}
            kept = [k for k, near in zip(keys, read.of([*keys]), strict=True) if not near]
            more = far_from_each_other([*taken, *kept])[len(taken) :][: most - len(found)]
            taken += more
            found += [keys[k] for k in more]
        out[split] = tuple(found)
    return out


@cache
def near(data: Path) -> Near:
    """Finds what is near to a sentence of a far list: no such text is trained on, neither heard nor written."""
    listed = [r["references"][0] for path in SPLITS.glob("far-[dt]*.jsonl") for r in read_jsonl(path)]
    return Near([*listed, *(normalise_text(t) for some in far(data).values() for t in some)])


@cache
def read_in_lists(data: Path) -> frozenset[str]:
    """What people read in recordings of dev and test."""
    english = {f"{name}.tar" for name in config.RECORDED["en"]}
    rows = (r for r in manifest(data) if r["tar"] in english and r["split"] != "train")
    return frozenset(normalise_text(r["text"]) for r in rows)


def is_trained(data: Path, text: str) -> bool:
    """Whether a normalised English text that we make up may be trained on: others may have it in a list, by chance."""
    return split_of(text) == "train" and text not in read_in_lists(data)


def without_near(data: Path, texts: list[str]) -> list[str]:
    """Those that are near to no sentence of a far list, and in no list."""
    texts = [t for t in texts if is_trained(data, normalise_text(t))]
    return [t for t, no in zip(texts, near(data).of([normalise_text(t) for t in texts]), strict=True) if not no]


def english_training(data: Path, count: int, seed: str = "4") -> dict[str, list[tuple[str, str]]]:
    """What is spoken in English for training, by kind: (raw, normalised), about `count` in all, repeats included."""
    rng = random.Random(f"english-training-{seed}")
    real, others = without_near(data, english(data)["train"]), without_near(data, longer(data))
    words = dictionary([normalise_text(t) for t in real])
    trigrams = Recombined([t for t in [*real, *others] if not t.isupper()])
    out: dict[str, list[tuple[str, str]]] = {"english": [], "spell": [], "tone": []}

    def add(kind: str, texts: list[str]) -> None:
        out[kind] += [(t, normalise_text(t)) for t in texts]

    names = [renamed(rng, real[i % len(real)]) for i in range(round(0.32 * count))]
    add("english", without_near(data, names))
    add("english", [others[i % len(others)] for i in range(round(0.1 * count))] if others else [])
    statements = [t for t in real if t.endswith(".")]
    pairs_of = (
        linked(rng, renamed(rng, rng.choice(statements)), renamed(rng, rng.choice(statements)))
        for _ in range(round(0.17 * count))
    )
    add("english", without_near(data, [t for t in pairs_of if speakable(t)]))
    drawn = {trigrams.draw(rng) for _ in range(round(0.5 * count))}
    fine = [t for t in sorted(drawn) if speakable(t) and len(t.split()) >= 3 and rng.random() < len(t.split()) / 10]
    add("english", without_near(data, [renamed(rng, t) for t in fine]))
    swapped = []
    for _ in range(round(0.08 * count)):
        parts = rng.choice(real).split()
        for _ in range(rng.choice((1, 1, 2))):
            i = rng.randrange(len(parts))
            parts[i] = rng.choice(words) + "".join(c for c in parts[i][-1:] if c in ".,?!")
        swapped.append(" ".join(parts))
    add("english", without_near(data, [t for t in swapped if speakable(t)]))
    said = [spelled(rng, words) for _ in range(round(0.1 * count))]
    fine = near(data).of([text for _, text in said])
    out["spell"] = [pair for pair, no in zip(said, fine, strict=True) if not no and is_trained(data, pair[1])]
    plain = [t for t in real if t.endswith(".") and len(t.split()) <= 8]
    for text in rng.choices(plain, k=round(0.02 * count)):
        add("tone", [text, f"{text[:-1]}?"])
    return out


def say(texts: list[str], lang: str, voices: tuple[str, ...], name: str, speed: tuple[int, int] = SPEED) -> list[dict]:
    """One row a sentence: voice, speed and pitch drawn by a generator that `name` seeds."""
    rng = random.Random(name)
    flite = [v for v in voices if v.startswith("flite")]
    others = [v for v in voices if v not in flite]
    plain = [v for v in others if v.rpartition("+")[2] in (*config.PLAIN, v)] or others  # of no or a plain variant
    rows = []
    for i, text in enumerate(texts):
        some = flite if flite and rng.random() < config.FLITE_SHARE else plain if rng.random() < 0.35 else others
        voice = rng.choice(some)
        said = {"raw": text, "voice": voice, "speed": rng.randint(*speed), "pitch": rng.randint(*PITCH)}
        rows.append({"id": f"{name}-{i:05d}", "lang": lang, "say": said, "text": normalise_text(text, lang)})
    return rows


def synthetic_training(size: str, data: Path) -> dict[str, list[dict]]:
    """Rows of synthetic speech for training, by the part of the bank that will hold them."""
    dial, parts = config.SIZES[size], {}
    voices = {lang: tuple(v for v in names if can_say(v)) for lang, names in SEEN_VOICES.items()}
    pairs = german(data)["train"]
    close = iter(near(data).of([en for _, translations in pairs for en in translations]).tolist())
    fine = [pair for pair in pairs if not sum([next(close) for _ in pair[1]])]
    chosen = [fine[i % len(fine)] for i in range(dial.german)]
    spoken = say([de for de, _ in chosen], "de", voices["de"], "train-german")
    rows = [r | {"english": en, "kind": "german"} for r, (_, en) in zip(spoken, chosen, strict=True)]
    for kind, texts in english_training(data, dial.english).items():
        spoken = say([raw for raw, _ in texts], "en", voices["en"], f"train-{kind}")
        rows += [r | {"text": text, "kind": kind} for r, (_, text) in zip(spoken, texts, strict=True)]
    for row in rows:
        part = f"{row['kind']}-{row['say']['voice'].split('+')[0].replace(':', '-')}"
        parts.setdefault(part, []).append(row)
    for some in parts.values():  # one voice after another, the slow first: neighbours are of like pace
        some.sort(key=lambda r: (r["say"]["voice"], r["say"]["speed"]))
    return parts


def piece(row: dict, at: float = 0.0) -> dict:
    return {"tar": row["tar"], "audio": row["audio"], "at": at}


def listed(rows: Iterable[dict], task: str = "transcribe") -> list[dict]:
    """Rows of synthetic speech as items of a list."""
    return [
        {k: r[k] for k in ("id", "lang", "say")} | {"task": task, "references": [r["text"]], "group": r["text"]}
        for r in rows
    ]


def word_strings(data: Path, split: str, count: int) -> list[dict]:
    """Strings of 3–8 words of one speaker, with gaps of digital silence."""
    rng = random.Random(f"strings-{split}-2")
    speakers: dict[str, list[dict]] = {}
    for row in recordings(data, WORDS, split):
        speakers.setdefault(row["speaker"], []).append(row)
    names = sorted(s for s, rows in speakers.items() if len(rows) >= 2)
    out = []
    for i in range(count if names else 0):
        out.append(string_of(f"strings-{split}-{i:04d}", speakers[names[i % len(names)]], rng, 3, 8))
    return out


def string_of(name: str, clips: list[dict], rng: random.Random, least: int, most: int) -> dict:
    """Single words of one speaker, one after the other."""
    rows = rng.choices(clips, k=rng.randint(least, most))
    at, pieces = 0.0, []
    for row in rows:
        pieces.append(piece(row, round(at, 3)))
        at += row["duration"] + rng.uniform(0.0, 0.3)
    text = " ".join(r["text"] for r in rows)
    item = {"id": name, "lang": "en", "pieces": pieces, "references": [text]}
    return item | {"group": rows[0]["speaker"], "task": "transcribe"}


def recorded(data: Path, name: str, split: str, lang: str) -> list[dict]:
    rows = [r for r in recordings(data, name, split, lang) if r["duration"] <= 30.0]
    shown = {"lang": lang, "task": "transcribe"}
    return [
        {"id": r["audio"], "pieces": [piece(r)], "references": [r["text"]], "group": r["speaker"]} | shown for r in rows
    ]


def sound_clips(data: Path, split: str) -> dict[str, list[dict]]:
    """Clips of environmental sounds by label: {id, begin, end}, in seconds, without the silence around the sound."""
    rows = [r for r in manifest(data) if r["tar"] == "esc10.tar" and r["split"] == split]
    out: dict[str, list[dict]] = {}
    for row, wave in read_clips(data, rows):
        begin, end = active(wave)
        out.setdefault(row["label"], []).append({"id": row["audio"], "begin": begin, "end": end})
    return {k: sorted(v, key=lambda c: c["id"]) for k, v in out.items()}


def active(wave: np.ndarray) -> tuple[float, float]:
    """Seconds of the first and last 10 ms within 40 dB of the loudest; at least half a second."""
    blocks = wave[: len(wave) // 160 * 160].reshape(-1, 160)
    level = (blocks**2).mean(1)
    (loud,) = np.nonzero(level > 1e-4 * level.max())
    begin, end = loud[0] / 100, (loud[-1] + 1) / 100
    if end - begin < 0.5:
        begin = max(0.0, min(begin, len(wave) / SAMPLE_RATE - 0.5))
        end = begin + 0.5
    return float(begin), float(end)


def scene_item(name: str, scene: Scene) -> dict:
    pieces = [
        {
            "tar": "esc10.tar",
            "audio": p.clip,
            "begin": p.begin,
            "seconds": p.seconds,
            "at": p.at,
            "gain": round(p.gain, 1),
        }
        for p in scene.pieces
    ]
    return {"id": name, "lang": "en", "pieces": pieces, "group": name}


def described(clips: dict[str, list[dict]], split: str, count: int) -> list[dict]:
    rng = random.Random(f"describe-{split}")
    out = []
    for i in range(count if clips else 0):
        scene = draw_scene(rng, clips)
        out.append(
            scene_item(f"describe-{split}-{i:04d}", scene) | {"task": "describe", "references": captions(scene, rng)}
        )
    return out


def answered(name: str, item: dict, asked: tuple[str, list[str], str]) -> dict:
    prompt, choices, answer = asked
    return item | {"id": name, "task": "answer", "prompt": prompt, "choices": choices, "references": [answer]}


def order_questions(row: dict, menu: dict[str, list[str]], rng: random.Random) -> list[tuple[str, list[str], str]]:
    """What can be asked of a coffee order: its drink, and its size where it names one."""
    asked = []
    for slot, words in SLOTS.items():
        if value := row["slots"].get(slot):
            choices = choose(rng, value, menu[slot])
            asked.append((ask(words, choices), choices, value))
    return asked


def order_menu(rows: Iterable[dict]) -> dict[str, list[str]]:
    """What orders name, by slot."""
    menu: dict[str, set[str]] = {slot: set() for slot in SLOTS}
    for row in rows:
        for slot in menu.keys() & row["slots"].keys():
            menu[slot].add(row["slots"][slot])
    return {slot: sorted(found) for slot, found in menu.items()}


def common_words(rows: Iterable[dict]) -> list[str]:
    """The common words of the strings. A rare one among the choices could be ruled out unheard."""
    count = Counter(r["text"] for r in rows)
    return sorted(word for word, n in count.items() if n >= 100)


def word_question(words: list[str], known: list[str], rng: random.Random) -> tuple[str, list[str], str]:
    answer = rng.choice(words)
    choices = choose(rng, answer, sorted(set(known) - set(words)))
    return ask("Which of these words is said", choices), choices, answer


WHO = ["child", "adult", "dog", "rooster"]


def who_question(answer: str, rng: random.Random) -> tuple[str, list[str], str]:
    choices = rng.sample(WHO, 4)
    return ask("Who is heard", choices), choices, answer


def who_of(row: dict) -> str | None:
    """Child or adult, from the age of a speaker of speechocean762; None in between."""
    age = int(row["age"])
    return "child" if age <= CHILD else "adult" if age >= ADULT else None


def questions(data: Path, clips: dict[str, list[dict]], split: str) -> list[dict]:
    """Multiple choice: sounds (which, which first, how many), words, who is heard, coffee orders."""
    out: list[dict] = []
    for kind, count in QUESTIONS[split].items():
        rng = random.Random(f"answer-{split}-{kind}")
        made: list[dict] = []
        if kind in ("which", "first", "count"):
            while clips and len(made) < count:
                scene = draw_scene(rng, clips, most=4 if kind == "count" else 3)
                if kind != "first" or (len(scene.pieces) > 1 and not scene.mixed):
                    made.append(answered("", scene_item("", scene), question(scene, kind, rng)))
        elif kind == "word":
            known = common_words(recordings(data, WORDS, "train"))
            for item in word_strings(data, split, count):
                words = item["references"][0].split()[:3]
                item["pieces"] = item["pieces"][: len(words)]
                made.append(answered("", item, word_question(words, known, rng)))
        elif kind == "who":
            people = recordings(data, "speechocean762", split)
            for who in WHO if clips else ():
                label = None if who in ("child", "adult") else label_of(who)
                rows = [r for r in people if who_of(r) == who]
                for _ in range(count * 3 // 10 if label is None else count // 5):
                    if label is None:
                        row = rows.pop(rng.randrange(len(rows)))
                        item = {"lang": "en", "pieces": [piece(row)], "group": row["speaker"]}
                    else:
                        item = scene_item("", draw_scene(rng, {label: clips[label]}, most=1))
                    made.append(answered("", item, who_question(who, rng)))
        else:
            orders = [r for r in manifest(data) if r["tar"] == "picovoice-barista.tar"]
            menu = order_menu(orders)
            for row in (r for r in orders if r["split"] == split):
                for asked in order_questions(row, menu, rng):
                    item = {"lang": "en", "pieces": [piece(row)], "group": row["audio"]}
                    made.append(answered("", item, asked))
            made = rng.sample(made, min(count, len(made)))
        for i, item in enumerate(made):
            name = f"answer-{split}-{kind}-{i:03d}"
            out.append(item | {"id": name, "group": item["group"] or name, "kind": kind})
    return out


VOICE = {  # kind → question, options
    "pace": ("Is the speech fast or slow", ("fast", "slow")),
    "pitch": ("Is the voice high or low", ("high", "low")),
    "tone": ("Is it a question or a statement", ("question", "statement")),
    "speakers": ("Is it one speaker or two", ("one", "two")),
    "loudness": ("Is the second sentence louder or softer", ("louder", "softer")),
    "accent": ("Which accent is heard", ("american", "british", "scottish", "caribbean")),
}
ACCENT = {
    "en-us": "american",
    "en": "british",
    "en-gb-x-rp": "british",
    "en-gb-scotland": "scottish",
    "en-029": "caribbean",
}
FAST, SLOW = (185, 220), (90, 120)  # words a minute
HIGH, LOW = (72, 85), (15, 28)  # of espeak-ng's 0..99, by voices that are a man's
LOUDER = (6.0, 14.0)  # dB


def voice_question(kind: str, answer: str) -> tuple[str, list[str], str]:
    words, options = VOICE[kind]
    return (ask(words, [*options]) if len(options) == 4 else f"{words}?"), [*options], answer


def is_mans(voice: str) -> bool:
    """Whether a voice of espeak-ng is an accent's own or one of the plain men's."""
    return voice.startswith("espeak") and voice.rpartition("+")[2][:1] in ("m", "e") and "+max" not in voice


def voice_questions(data: Path, split: str) -> list[dict]:
    """Paralinguistic questions of far sentences in new voices, right by construction."""
    texts, voices = far(data)[split], [v for v in NEW_VOICES["en"] if can_say(v)]
    espeak = [v for v in voices if v.startswith("espeak")]
    out = []
    for kind, (_, options) in VOICE.items():
        rng = random.Random(f"voice-{split}-{kind}")
        for i in range(VOICE_ITEMS[split]):
            answer, gains = options[i % len(options)], [0.0, 0.0]
            voice = rng.choice(
                [v for v in espeak if ACCENT.get(v.split(":")[1].split("+")[0]) == answer]
                if kind == "accent"
                else [f"espeak:{a}+m5" for a in config.ACCENTS[:5]]
                if kind == "pitch"
                else espeak
            )
            speed = rng.randint(*(FAST if answer == "fast" else SLOW if answer == "slow" else (130, 170)))
            pitch = rng.randint(*(HIGH if answer == "high" else LOW if answer == "low" else (35, 65)))
            two = kind in ("speakers", "loudness")
            said = [{"raw": rng.choice(texts), "voice": voice, "speed": speed, "pitch": pitch} for _ in range(1 + two)]
            if kind == "tone":
                plain = rng.choice([t for t in texts if t.endswith(".") and len(t.split()) <= 9])
                said[0]["raw"] = plain if answer == "statement" else f"{plain[:-1]}?"
            if answer == "two":
                said[1]["voice"] = rng.choice([v for v in espeak if v.split("+")[1] != voice.split("+")[1]])
            if kind == "loudness":
                gains[answer == "softer"] = -round(rng.uniform(*LOUDER), 1)
            item = {
                "lang": "en",
                "says": said,
                "gaps": [round(rng.uniform(0.3, 0.8), 2)] * (len(said) - 1),
                "gains": gains[: len(said)],
                "group": voice,
                "kind": kind,
            }
            out.append(answered(f"voice-{split}-{kind}-{i:03d}", item, voice_question(kind, answer)))
    return out


def passages(data: Path, split: str, name: str, share: float) -> list[dict]:
    """Far sentences one after the other by one voice. ``share``: of the passage that is pauses, the rest being speech.

    Speech is reckoned at 14 characters a second at 150 words a minute; what is made may be a little shorter or longer.
    """
    texts, out = far(data)[split], []
    voices = [v for v in (*SEEN_VOICES["en"][:60], *NEW_VOICES["en"]) if can_say(v)]
    for i in range((ITEMS if split == "test" else DEV)["passages"]):
        rng = random.Random(f"passages-{split}-{i}")  # the same text and voice whatever the share
        voice, speed, target = rng.choice(voices), rng.randint(130, 180), rng.uniform(*PASSAGE)
        pick, said, length = rng.sample(texts, min(len(texts), 30)), [], 0.0
        for text in pick:
            seconds = len(text) / 14 * 150 / speed
            if said and length + seconds > 0.85 * target * (1 - share if share > 0.3 else 1):
                break
            said.append({"raw": text, "voice": voice, "speed": speed, "pitch": 50})
            length += seconds
        if share > 0.3:
            gap = length * share / (1 - share) / max(1, len(said) - 1)
            gaps = [round(gap * rng.uniform(0.6, 1.4), 2) for _ in said[1:]]
        else:
            gaps = [round(rng.uniform(0.1, 0.6), 2) for _ in said[1:]]
        text = " ".join(normalise_text(s["raw"]) for s in said)
        item = {"id": f"{name}-{split}-{i:03d}", "lang": "en", "says": said, "gaps": gaps, "gains": [0.0] * len(said)}
        out.append(item | {"task": "transcribe", "references": [text], "group": voice})
    return out


def paced(data: Path, split: str, pace: int) -> list[dict]:
    """The same far sentences in the same voices at a given pace, words a minute."""
    texts = far(data)[split][: (ITEMS if split == "test" else DEV)["pace"]]
    voices = tuple(f"espeak:{a}{v}" for a in config.ACCENTS[:5] for v in ("", "+m3", "+f2", "+f4"))
    voices = tuple(v for v in voices if v in SEEN_VOICES["en"])
    rows = say([*texts], "en", voices, f"pace-{split}", (pace, pace))
    return [r | {"id": r["id"].replace("pace", f"pace-{pace}"), "group": r["say"]["voice"]} for r in listed_as(rows)]


def listed_as(rows: list[dict]) -> list[dict]:
    """Rows of synthetic speech as items whose group is the voice."""
    return [r | {"group": r["say"]["voice"]} for r in listed(rows)]


def digit_strings(data: Path, split: str, count: int) -> list[dict]:
    """Strings of 2–6 digits of one speaker, with gaps."""
    rng = random.Random(f"digits-{split}")
    speakers = digit_speakers(data)[split]
    clips = {
        s: [r for r in manifest(data) if r["tar"] == f"{WORDS}.tar" and r["speaker"] == s and r["text"] in ONES[:10]]
        for s in speakers
    }
    out = []
    for i in range(count):
        out.append(string_of(f"digits-{split}-{i:04d}", clips[speakers[i % len(speakers)]], rng, 2, 6))
    return out


def lists(data: Path, split: str) -> dict[str, Callable[[], list[dict]]]:
    """Every list of a split by name, to be made, without the hashes of its audio."""
    size = ITEMS if split == "test" else DEV
    texts = [*far(data)[split]]
    out: dict[str, Callable[[], list[dict]]] = {
        "far": lambda: listed_as(say(texts, "en", SEEN_VOICES["en"], f"far-{split}", (130, 180))),
        "far-new-voices": lambda: listed_as(say(texts, "en", NEW_VOICES["en"], f"far-new-{split}", (130, 180))),
        "passages": lambda: passages(data, split, "passages", 0.1),
        "pauses": lambda: passages(data, split, "pauses", 0.5),
        **{f"pace-{pace}": lambda pace=pace: paced(data, split, pace) for pace in PACES},
        "voice": lambda: voice_questions(data, split),
        "german": lambda: translated(data, split, "german", SEEN_VOICES["de"], size["german"]),
        "german-new-voices": lambda: translated(data, split, "german-new", NEW_VOICES["de"], size["german"] // 2),
    }
    if manifest(data):
        out |= {
            "strings": lambda: word_strings(data, split, size["strings"]),
            "digits": lambda: digit_strings(data, split, size["digits"]),
            "describe": lambda: described(sound_clips(data, split), split, size["describe"]),
            "answer": lambda: questions(data, sound_clips(data, split), split),
            **{name: lambda name=name: recorded(data, name, split, "en") for name in config.RECORDED["en"]},
        }
    return out


def translated(data: Path, split: str, name: str, voices: tuple[str, ...], count: int) -> list[dict]:
    chosen = german(data)[split][:count]
    items = listed(say([de for de, _ in chosen], "de", voices, f"{name}-{split}", (130, 190)), "translate")
    return [
        r | {"references": en, "transcript": r["group"], "group": r["group"]}
        for r, (_, en) in zip(items, chosen, strict=True)
    ]


def read_clips(data: Path, rows: Iterable[dict]) -> Iterator[tuple[dict, np.ndarray]]:
    """Recordings as 16 kHz mono float32, tar by tar."""
    by_tar: dict[str, dict[str, dict]] = {}
    for row in rows:
        by_tar.setdefault(row["tar"], {})[row["audio"]] = row
    for name, wanted in sorted(by_tar.items()):
        with tarfile.open(data / name) as tar:
            for member in tar:
                row = wanted.get(member.name.removeprefix("./"))
                if row is None:
                    continue
                wave, rate = sf.read(io.BytesIO(tar.extractfile(member).read()), dtype="float32", always_2d=True)
                mono = wave.mean(1)
                yield row, soxr.resample(mono, rate, SAMPLE_RATE) if rate != SAMPLE_RATE else mono


def place(pieces: list[dict], waves: dict[str, np.ndarray]) -> np.ndarray:
    """Stretches of recordings at their places; silence between them, sums where they overlap."""
    cut = []
    for p in pieces:
        wave = waves[p["audio"]]
        if "seconds" in p:
            begin = round(p["begin"] * SAMPLE_RATE)
            wave = wave[begin : begin + round(p["seconds"] * SAMPLE_RATE)] * 10 ** (p["gain"] / 20)
        cut.append((round(p["at"] * SAMPLE_RATE), wave))
    out = np.zeros(max(at + len(w) for at, w in cut), np.float32)
    for at, wave in cut:
        out[at : at + len(wave)] += wave
    return out


def joined(row: dict) -> np.ndarray:
    """Sentences with pauses between them, in a room that is not quite silent."""
    parts = [synthesise(**said) * 10 ** (gain / 20) for said, gain in zip(row["says"], row["gains"], strict=True)]
    gaps = [np.zeros(round(g * SAMPLE_RATE), np.float32) for g in row["gaps"]]
    wave = np.concatenate([x for pair in zip(parts, [*gaps, gaps[:0]], strict=True) for x in pair if len(x)])
    noise = np.random.default_rng(len(wave)).standard_normal(len(wave), np.float32)
    return wave + noise * 10 ** (ROOM / 20)


def audio(data: Path, rows: list[dict]) -> Iterator[tuple[dict, np.ndarray]]:
    """The waveform of every row of a list, float32 at 16 kHz. Rows of one voice come together."""
    said = [r for r in rows if "say" in r and can_say(r["say"]["voice"])]
    for row in sorted(said, key=lambda r: r["say"]["voice"]):  # the library keeps one voice at a time
        wave = synthesise(**row["say"])
        if len(wave) >= SAMPLE_RATE // 4:
            yield row, wave
    for row in rows:
        if "says" in row and all(can_say(s["voice"]) for s in row["says"]):
            yield row, joined(row)
    placed = [r for r in rows if "pieces" in r]
    clips = {p["audio"]: p for r in placed for p in r["pieces"]}
    waves = {p["audio"]: wave for p, wave in read_clips(data, clips.values())}
    for row in placed:
        yield row, place(row["pieces"], waves)


def tars_of(name: str) -> set[str]:
    """Data sets that a list is made of."""
    return {p["tar"] for row in read_jsonl(SPLITS / f"{name}.jsonl") for p in row.get("pieces", ())}


def sha256(wave: np.ndarray) -> str:
    """Of the samples as 16-bit integers; its first 16 digits."""
    samples = np.clip(np.round(wave * 32767), -32768, 32767).astype("<i2")
    return hashlib.sha256(samples.tobytes()).hexdigest()[:16]


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def make_lists(data: Path, folder: Path = SPLITS) -> None:
    """The lists of dev and test, each made once and kept under version control."""
    for split in ("dev", "test"):
        for name, make in lists(data, split).items():
            path = folder / f"{name}-{split}.jsonl"
            if path.exists() or not (rows := make()):
                continue
            hashes = {row["id"]: sha256(wave) for row, wave in audio(data, rows)}
            write_jsonl(path, [row | {"sha256": hashes[row["id"]]} for row in rows if row["id"] in hashes])
