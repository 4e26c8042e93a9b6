"""MusicCaps: captions of music by musicians."""

from dataclasses import dataclass
from pathlib import Path

from fewhertz.tasks.base import Captioning, Row, Sample, Task, clip_of, column, text


@dataclass(frozen=True, kw_only=True)
class MusicCaps(Captioning, Task, name="musiccaps"):
    """MusicCaps (Agostinelli et al., arXiv 2301.11325): captions of ten seconds of music, one reference each. CIDEr-D.

    Its list carries no audio: `--data musiccaps-public.csv --audio FOLDER`, a file a clip, named by its ytid, alone or
    with its start in seconds (`-0Gj8-vB1q4.wav`, `-0Gj8-vB1q4_30.flac`).
    """

    citation = "Agostinelli et al., MusicLM: generating music from text, arXiv 2301.11325"
    hub = "google/MusicCaps"
    own_split = "train"

    def sample(self, index: int, row: Row, base: Path | None) -> Sample:
        name, start = text(row, "ytid"), column(row, "start_s")
        file = clip_of(self.audio, (f"{name}_{start}", name), "MusicCaps")
        return Sample(index, f"{name}_{start}", file, [text(row, "caption")], prompt=self.prompt)
