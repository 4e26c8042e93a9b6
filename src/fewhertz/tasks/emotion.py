"""Emotions of voices, of any corpus."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fewhertz.evaluation.metrics import METRICS, Metric
from fewhertz.tasks.base import Row, Sample, Task, column, question, sound, text, texts

_CREMA_D = re.compile(r"(?P<speaker>\d{4})_[A-Z]{3}_(?P<code>[A-Z]{3})_[A-Z]{2}")
_RAVDESS = re.compile(r"03-01-(?P<code>\d\d)-\d\d-\d\d-\d\d-(?P<speaker>\d\d)")  # speech; 02 in its place is song
_NAMES = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
_NUMBERED = ("neutral", "calm", "happiness", "sadness", "anger", "fear", "disgust", "surprise")
_CODED = ((_CREMA_D, _NAMES), (_RAVDESS, {f"{i:02}": name for i, name in enumerate(_NUMBERED, 1)}))


@dataclass(frozen=True, kw_only=True)
class Emotion(Task, name="emotion"):
    """Which emotion a voice expresses, of those that the data has. Accuracy; intervals draw speakers.

    Folders of CREMA-D (Cao et al., 2014) and RAVDESS (Livingstone and Russo, 2018; speech alone) are read by the codes
    of their file names: `--data AudioWAV`. Any other corpus comes as a list or a data set with `audio`, `emotion` (or
    `label`) and perhaps `speaker`.
    """

    citation = "of its corpus; CREMA-D: Cao et al., IEEE TAC 2014; RAVDESS: Livingstone and Russo, PLOS ONE 2018"

    def metrics(self) -> list[Metric]:
        return [METRICS["accuracy"]]

    def rows(self, where: str) -> tuple[Iterator[Row | ValueError], Path | None]:
        folder = Path(where).expanduser()
        files = sorted(folder.rglob("*.wav")) if folder.is_dir() else []
        for pattern, names in _CODED:
            found: list[Row | ValueError] = []
            for file in files:
                match = pattern.fullmatch(file.stem)
                if match is None:
                    continue
                emotion = names.get(match["code"])
                said: Row | ValueError = ValueError(f"{file.name} has no known emotion")
                if emotion is not None:
                    said = {"audio": str(file.relative_to(folder)), "emotion": emotion, "speaker": match["speaker"]}
                found.append(said)
            if found:
                return iter(found), folder
        return super().rows(where)

    def merged(self, rows: Iterator[Row | ValueError]) -> Iterator[Row | ValueError]:
        several = [*rows]
        named = {row.get("emotion") or row.get("label") for row in several if isinstance(row, dict)}
        choices = sorted(one.lower() for one in named if isinstance(one, str))
        return (row | {"choices": choices} if isinstance(row, dict) else row for row in several)

    def sample(self, index: int, row: Row, base: Path | None) -> Sample:
        emotion, choices = text(row, "emotion", "label").lower(), texts(row, "choices")
        prompt = question(choices, self.ask or "Which emotion does the voice express?")
        speaker, audio = row.get("speaker", row.get("speaker_id")), column(row, "audio", "path")
        name = str(row.get("id") or (audio if isinstance(audio, str) else index))
        own = None if speaker is None else str(speaker)
        return Sample(index, name, sound(audio, base), [emotion], choices, prompt, group=own)
