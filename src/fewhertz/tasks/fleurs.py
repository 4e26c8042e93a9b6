"""FLEURS: sentences of Wikipedia read in 102 languages."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fewhertz.evaluation.metrics import Metric
from fewhertz.tasks.base import Row, Sample, Task, column, read, sound, text, transcript_metrics
from fewhertz.tasks.covost2 import language_name, translation_metrics


@dataclass(frozen=True, kw_only=True)
class Fleurs(Task, name="fleurs"):
    """FLEURS (Conneau et al., SLT 2022): transcription, or translation between two of its languages.

    A subset is a language (`de_de`: WER, CER for languages without spaces) or a pair (`de_de-en_us`: BLEU and chrF
    against the same sentence's text in the other language). Intervals draw sentences: several people read each.
    """

    citation = "Conneau et al., FLEURS: few-shot learning evaluation of universal representations of speech, SLT 2022"
    hub = "google/fleurs"
    own_subset = "en_us"

    @property
    def _languages(self) -> list[str]:
        return (self.subset or self.own_subset or "").split("-")

    @property
    def part(self) -> str | None:
        return self._languages[0]

    @property
    def prompt(self) -> str | None:
        if self.ask is not None or len(self._languages) == 1:
            return self.ask
        return f"Translate the speech into {language_name(self._languages[1])}."

    def metrics(self) -> list[Metric]:
        spoken, *target = self._languages
        return translation_metrics(target[0]) if target else transcript_metrics(spoken, self.normaliser)

    def merged(self, rows: Iterator[Row | ValueError]) -> Iterator[Row | ValueError]:
        if len(self._languages) == 1:
            return rows
        others, _ = read(self.source(), self._languages[1], self.split or self.own_split)
        written = {row.get("id"): row.get("raw_transcription") for row in others if isinstance(row, dict)}
        return (row | {"translation": written.get(row.get("id"))} if isinstance(row, dict) else row for row in rows)

    def sample(self, index: int, row: Row, base: Path | None) -> Sample:
        sentence = str(column(row, "id"))
        return Sample(
            index,
            f"{sentence}-{index}",
            sound(column(row, "audio"), base),
            [text(row, "translation" if len(self._languages) > 1 else "transcription")],
            prompt=self.prompt,
            group=sentence,
        )
