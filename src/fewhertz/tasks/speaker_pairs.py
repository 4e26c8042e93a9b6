"""Speaker verification: do two recordings have the same voice?"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from fewhertz import audio
from fewhertz.evaluation.heard import EqualErrors
from fewhertz.evaluation.metrics import Metric
from fewhertz.tasks.base import Row, Sample, Sound, Task, column, question, read, sound

RATE = 16_000
PAUSE = 1.0  # seconds between the two
LONGEST = 14.0  # seconds of each: both fit into a window of 30 s
_SAME = {"1": "yes", "0": "no", "target": "yes", "nontarget": "no"}
_CHOICES = ["yes", "no"]


@dataclass(frozen=True, kw_only=True)
class SpeakerPairs(Task, name="speaker-pairs"):
    """Pairs of recordings of one voice or two, as one clip with a second of silence between. Equal error rate.

    VoxCeleb's own lists of trials (Nagrani et al., Interspeech 2017) are read as they are: `--data veri_test2.txt
    --audio wav`, a line `1 id10270/5r0dWxy17C8/00001.wav id10270/GWXujl-xAVM/00017.wav`; others as a list with `label`
    (1 or 0), `enrol` and `test`. Of each recording the first 14 s are heard.
    """

    citation = "Nagrani et al., VoxCeleb: a large-scale speaker identification dataset, Interspeech 2017"

    def metrics(self) -> list[Metric]:
        return [EqualErrors()]

    def rows(self, where: str) -> tuple[Iterator[Row | ValueError], Path | None]:
        path = Path(where).expanduser()
        if path.suffix != ".txt" or not path.is_file():
            return read(where, self.part, self.split or self.own_split)
        return map(_trial, filter(str.strip, path.read_text("utf-8").splitlines())), path.parent

    def sample(self, index: int, row: Row, base: Path | None) -> Sample:
        label = str(column(row, "label"))
        if label not in _SAME:
            raise ValueError(f"its label is 1 or 0, target or nontarget, got {label!r:.40}")
        one, two = (sound(column(row, name), base) for name in ("enrol", "test"))
        prompt = question(_CHOICES, self.ask or "Two recordings follow each other. Is it the same person who speaks?")
        name = str(row.get("id") or f"{index}: {row['enrol']} {row['test']}")
        return Sample(index, name, lambda: joined(one, two), [_SAME[label]], _CHOICES, prompt)


def _trial(line: str) -> Row | ValueError:
    parts = line.split()
    if len(parts) != 3:
        return ValueError(f"a trial is a label and two files, got {line!r:.80}")
    return dict(zip(("label", "enrol", "test"), parts, strict=True))


def joined(one: Sound, two: Sound) -> bytes:
    """Two recordings, a pause between, as a WAV file.

    Raises:
        AudioError: where one cannot be read.
    """
    waves = [audio.load(part() if callable(part) else part, RATE)[: round(LONGEST * RATE)] for part in (one, two)]
    pause = np.zeros(round(PAUSE * RATE), np.float32)
    with io.BytesIO() as file:
        soundfile.write(file, np.concatenate([waves[0], pause, waves[1]]), RATE, format="WAV", subtype="FLOAT")
        return file.getvalue()
