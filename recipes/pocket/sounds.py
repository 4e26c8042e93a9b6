"""Scenes of environmental sounds, and what can truly be said and asked of them.

A scene is one to four clips of ESC-10, one after the other or two at once. Captions and questions are made from what
was put into it, so they are right by construction; they are templates and not people's words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

# label of the data set → name in questions, clauses, noun phrase
SOUNDS = {
    "dog bark": ("dog", ("a dog is barking", "a dog barks"), "a barking dog"),
    "rain": ("rain", ("rain is falling", "it is raining"), "falling rain"),
    "sea waves": ("waves", ("sea waves roll in", "waves are crashing on the shore"), "ocean waves"),
    "baby cry": ("baby", ("a baby is crying", "an infant cries"), "a crying baby"),
    "clock tick": ("clock", ("a clock is ticking", "a clock ticks"), "a ticking clock"),
    "person sneeze": ("sneeze", ("a person sneezes", "someone is sneezing"), "a sneeze"),
    "helicopter": ("helicopter", ("a helicopter is flying", "a helicopter flies overhead"), "helicopter rotors"),
    "chainsaw": ("chainsaw", ("a chainsaw is running", "someone cuts wood with a chainsaw"), "a chainsaw"),
    "rooster": ("rooster", ("a rooster is crowing", "a rooster crows"), "a crowing rooster"),
    "fire crackling": ("fire", ("a fire is crackling", "a fire burns and crackles"), "a crackling fire"),
}
NUMBERS = ("one", "two", "three", "four")


@dataclass(frozen=True)
class Piece:
    """A stretch of one clip in a scene; times in seconds, gain in dB."""

    clip: str
    label: str
    begin: float  # in the clip
    seconds: float
    at: float  # in the scene
    gain: float


@dataclass(frozen=True)
class Scene:
    pieces: tuple[Piece, ...]  # in order of their beginning
    mixed: bool

    @property
    def labels(self) -> list[str]:
        return [p.label for p in self.pieces]

    @property
    def seconds(self) -> float:
        return max(p.at + p.seconds for p in self.pieces)


def draw_scene(rng: random.Random, clips: dict[str, list[dict]], most: int = 3) -> Scene:
    """Clips by label; a clip is {id, begin, end}: where its sound is, in seconds. 5 to 15 s, all labels different."""
    count = rng.choices(range(1, most + 1), (0.35, 0.4, 0.25, 0.25)[:most])[0]
    mixed = count == 2 and rng.random() < 0.35
    pieces, at = [], 0.0
    for label in rng.sample(sorted(clips), count):
        clip = rng.choice(clips[label])
        seconds = min(clip["end"] - clip["begin"], 5.0 if count == 1 or mixed else rng.uniform(2.0, 4.0))
        begin = clip["begin"] + rng.uniform(0.0, clip["end"] - clip["begin"] - seconds)
        pieces.append(Piece(clip["id"], label, round(begin, 2), round(seconds, 2), round(at, 2), rng.uniform(-4, 4)))
        at = rng.uniform(0.0, 0.5) if mixed else at + seconds + rng.uniform(0.2, 0.8)
    return Scene(tuple(pieces), mixed)


def captions(scene: Scene, rng: random.Random) -> list[str]:
    """Five captions of different form."""
    a, b, c = (lambda k=k: rng.choice(SOUNDS[scene.labels[k]][1]) for k in range(3))
    nouns = [SOUNDS[label][2] for label in scene.labels]
    if len(nouns) == 1:
        clauses = list(SOUNDS[scene.labels[0]][1])
        return [*clauses, f"the sound of {nouns[0]}", f"{nouns[0]} can be heard", f"{clauses[0]} all the time"]
    if scene.mixed:
        return [
            f"{a()} while {b()}",
            f"{a()} and {b()}",
            f"{b()} while {a()}",
            f"the sound of {nouns[0]} and {nouns[1]} at the same time",
            f"{a()} with {nouns[1]} in the background",
        ]
    if len(nouns) == 2:
        return [
            f"{a()} then {b()}",
            f"first {a()} and then {b()}",
            f"{a()} followed by {nouns[1]}",
            f"the sound of {nouns[0]} and then {nouns[1]}",
            f"{a()} before {b()}",
        ]
    return [
        f"{a()} then {b()} and then {c()}",
        f"first {a()} then {b()} and then {c()}",
        f"{a()} followed by {nouns[1]} and {nouns[2]}",
        f"the sound of {nouns[0]} then {nouns[1]} and then {nouns[2]}",
        f"{a()} before {b()} and {c()}",
    ]


def label_of(name: str) -> str:
    """The label of a sound by its name in questions."""
    return next(label for label, (known, _, _) in SOUNDS.items() if known == name)


def named(caption: str) -> set[str]:
    """Labels of the sounds that a caption names."""
    return {label for label, (_, clauses, noun) in SOUNDS.items() if any(t in caption for t in (*clauses, noun))}


def choose(rng: random.Random, answer: str, others: list[str]) -> list[str]:
    """Four options in random order, one of them right."""
    options = [answer, *rng.sample(sorted(set(others) - {answer}), 3)]
    rng.shuffle(options)
    return options


def ask(question: str, choices: list[str]) -> str:
    return f"{question}: {', '.join(choices[:3])} or {choices[3]}?"


def question(scene: Scene, kind: str, rng: random.Random) -> tuple[str, list[str], str]:
    """Question, four choices and the right one. ``kind``: which, first or count."""
    names = [SOUNDS[label][0] for label in scene.labels]
    every = [name for name, _, _ in SOUNDS.values()]
    if kind == "count":
        choices = list(NUMBERS)
        return ask("How many different sounds are heard", choices), choices, NUMBERS[len(names) - 1]
    if kind == "first" and len(names) > 1:
        # the later ones are among the choices: it must hear the order
        choices = [*names, *rng.sample(sorted(set(every) - set(names)), 4 - len(names))]
        rng.shuffle(choices)
        return ask("Which sound comes first", choices), choices, names[0]
    answer = rng.choice(names)
    choices = choose(rng, answer, sorted(set(every) - set(names)))
    return ask("Which sound is heard", choices), choices, answer
