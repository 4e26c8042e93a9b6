"""AudioSet: which sounds are heard."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fewhertz.evaluation.heard import Tags
from fewhertz.evaluation.metrics import Metric
from fewhertz.tasks.base import Row, Sample, Sound, Task, clip_of, column, sound, texts

NAMES = "class_labels_indices.csv"


@dataclass(frozen=True, kw_only=True)
class AudioSet(Task, name="audioset"):
    """AudioSet (Gemmeke et al., ICASSP 2017): the sounds of ten seconds, any of 527 classes. F1 of what is named.

    A model that answers in words ranks no classes, so mean average precision is not to be had (`heard.Tags`).
    Its own lists carry no audio: `--data eval_segments.csv --audio FOLDER`, a file a clip, named by its YouTube id,
    alone or with its start in seconds, and beside the list its `class_labels_indices.csv`. Copies that carry audio
    have `audio`, `video_id` and `human_labels`.
    """

    citation = "Gemmeke et al., Audio Set: an ontology and human-labeled dataset for audio events, ICASSP 2017"
    hub = "agkphysics/AudioSet"
    own_subset = "balanced"

    @property
    def prompt(self) -> str | None:
        return self.ask or "Which sounds are heard? Name them, separated by commas."

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        """Display names by machine id, in the order of the ontology; none where the list carries names itself."""
        file = Path(self.source()).expanduser().parent / NAMES
        if not file.is_file():
            return {}
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return {row["mid"]: row["display_name"] for row in csv.DictReader(lines)}

    def metrics(self) -> list[Metric]:
        return [Tags(classes=tuple(dict.fromkeys(self._names.values())))]

    def merged(self, rows: Iterator[Row | ValueError]) -> Iterator[Row | ValueError]:
        """Rows of its own lists, which begin with three lines of remarks and quote ids after a blank, made plain."""
        for row in rows:
            first = next(iter(row), "") if isinstance(row, dict) else ""
            if not isinstance(row, dict) or not str(first).startswith("#"):
                yield row
                continue
            values = [str(row[first]), *map(str, row.get("") or [])]
            if values[0].startswith("#"):
                continue
            if len(values) < 4:
                yield ValueError(
                    f"a segment has a YouTube id, its start, its end and labels, got {', '.join(values):.80}"
                )
                continue
            labels = [value.strip().strip('"') for value in values[3:]]
            yield {"video_id": values[0].strip(), "start": float(values[1]), "labels": labels}

    def sample(self, index: int, row: Row, base: Path | None) -> Sample:
        name = str(column(row, "video_id"))
        if row.get("human_labels") is not None:
            labels = texts(row, "human_labels")
        elif not self._names:
            raise ValueError(f"its labels are machine ids: put {NAMES} beside the list")
        else:
            ids = texts(row, "labels")
            unknown = [one for one in ids if one not in self._names]
            if unknown:
                raise ValueError(f"no name of {unknown[0]!r:.40} in {NAMES}")
            labels = [self._names[one] for one in ids]
        own: Sound
        if row.get("audio") is not None:
            own, identity = sound(row["audio"], base), name
        else:
            start = float(column(row, "start"))
            own, identity = clip_of(self.audio, (f"{name}_{start:g}", name), "AudioSet"), f"{name}_{start:g}"
        return Sample(index, identity, own, labels, prompt=self.prompt)
