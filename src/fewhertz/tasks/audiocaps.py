"""AudioCaps: captions of YouTube's sounds."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fewhertz.audio import AudioError
from fewhertz.evaluation.metrics import METRICS, Metric
from fewhertz.run import PROMPTS
from fewhertz.tasks.base import Row, Sample, Task, column, sound, text


@dataclass(frozen=True, kw_only=True)
class AudioCaps(Task, name="audiocaps"):
    """AudioCaps (Kim et al., NAACL 2019): captions of ten seconds of sound, five references each. CIDEr-D.

    Its lists carry no audio: `--data test.csv --audio FOLDER`, a file a clip, named by its youtube_id, alone or with
    its start_time in seconds (`7fmOlUlwoNg.wav`, `7fmOlUlwoNg_20.flac`).
    """

    citation = "Kim et al., AudioCaps: generating captions for audios in the wild, NAACL 2019"
    hub = "d0rj/audiocaps"

    @property
    def prompt(self) -> str | None:
        return self.ask or PROMPTS["describe"]

    def metrics(self) -> list[Metric]:
        return [METRICS["cider"]]

    def merged(self, rows: Iterator[Row | ValueError]) -> Iterator[Row | ValueError]:
        clips: dict[object, Row | ValueError] = {}
        for index, row in enumerate(rows):
            try:
                if isinstance(row, ValueError):
                    raise row
                key = (str(column(row, "youtube_id")), str(column(row, "start_time")))
                clip = clips.setdefault(key, {"youtube_id": key[0], "start_time": key[1], "captions": []})
                assert isinstance(clip, dict)
                clip["captions"].append(text(row, "caption"))
            except ValueError as error:
                clips[index] = error
        return iter(clips.values())

    def sample(self, index: int, row: Row, base: Path | None) -> Sample:
        if self.audio is None:
            raise ValueError("AudioCaps carries no audio: --audio FOLDER")
        name = row["youtube_id"]
        stems = (f"{name}_{row['start_time']}", name)
        files = [
            self.audio / f"{stem}{suffix}" for stem in stems for suffix in (".wav", ".flac", ".ogg", ".opus", ".mp3")
        ]
        file = next((file for file in files if os.path.isfile(file)), None)  # no error for a long name
        if file is None:
            raise AudioError(f"{self.audio / name}: no .wav, .flac, .ogg, .opus or .mp3 of this name")
        return Sample(index, stems[0], sound(str(file), None), row["captions"], prompt=self.prompt)
