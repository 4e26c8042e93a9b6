"""Common Voice: read speech of any language."""

from dataclasses import dataclass
from pathlib import Path

from fewhertz.evaluation.metrics import Metric
from fewhertz.tasks.base import Row, Sample, Task, column, sound, text, transcript_metrics


@dataclass(frozen=True, kw_only=True)
class CommonVoice(Task, name="commonvoice"):
    """Common Voice (Ardila et al., LREC 2020): read speech. WER; CER for languages without spaces; English: `meaning`.

    The subset is the language's code. Mozilla's own release is read as it is:
    `--data cv-corpus/de/test.tsv --audio cv-corpus/de/clips --subset de`. Intervals draw speakers.
    """

    citation = "Ardila et al., Common Voice: a massively-multilingual speech corpus, LREC 2020"
    hub = "mozilla-foundation/common_voice_17_0"
    own_subset = "en"

    def metrics(self) -> list[Metric]:
        return transcript_metrics(self.subset or self.own_subset, self.normaliser)

    def sample(self, index: int, row: Row, base: Path | None) -> Sample:
        return Sample(
            index,
            Path(str(row.get("path") or index)).stem,
            sound(column(row, "audio", "path"), base),
            [text(row, "sentence")],
            prompt=self.prompt,
            group=row.get("client_id"),
        )
