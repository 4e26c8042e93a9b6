"""LibriSpeech: read English."""

from dataclasses import dataclass
from pathlib import Path

from fewhertz.evaluation.metrics import Metric
from fewhertz.tasks.base import Row, Sample, Task, column, sound, text, transcript_metrics


@dataclass(frozen=True, kw_only=True)
class LibriSpeech(Task, name="librispeech"):
    """LibriSpeech (Panayotov et al., ICASSP 2015): read English. WER, Whisper's English normaliser; `meaning`.

    Subsets of the Hub's data set: `clean`, `other`. Intervals draw speakers.
    """

    citation = "Panayotov et al., LibriSpeech: an ASR corpus based on public domain audio books, ICASSP 2015"
    hub = "openslr/librispeech_asr"
    own_subset = "clean"

    def metrics(self) -> list[Metric]:
        return transcript_metrics("en", self.normaliser)

    def sample(self, index: int, row: Row, base: Path | None) -> Sample:
        return Sample(
            index,
            str(column(row, "id")),
            sound(column(row, "audio", "file"), base),
            [text(row, "text")],
            prompt=self.prompt,
            group=str(column(row, "speaker_id")),
        )
