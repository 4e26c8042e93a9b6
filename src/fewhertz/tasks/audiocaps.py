"""AudioCaps: captions of YouTube's sounds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fewhertz.tasks.base import Captioning, Row, Sample, Task, clip_of, column, text


@dataclass(frozen=True, kw_only=True)
class AudioCaps(Captioning, Task, name="audiocaps"):
    """AudioCaps (Kim et al., NAACL 2019): captions of ten seconds of sound, five references each. CIDEr-D.

    Its lists carry no audio: `--data test.csv --audio FOLDER`, a file a clip, named by its youtube_id, alone or with
    its start_time in seconds (`7fmOlUlwoNg.wav`, `7fmOlUlwoNg_20.flac`).
    """

    citation = "Kim et al., AudioCaps: generating captions for audios in the wild, NAACL 2019"
    hub = "d0rj/audiocaps"

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
        name = row["youtube_id"]
        stems = (f"{name}_{row['start_time']}", name)
        file = clip_of(self.audio, stems, "AudioCaps")
        return Sample(index, stems[0], file, row["captions"], prompt=self.prompt)
