"""Clotho: captions of Freesound's sounds."""

from dataclasses import dataclass
from pathlib import Path

from fewhertz.tasks.base import Captioning, Row, Sample, Task, sound, text


@dataclass(frozen=True, kw_only=True)
class Clotho(Captioning, Task, name="clotho"):
    """Clotho (Drossos et al., ICASSP 2020): captions of 15 to 30 s of sound, five references each. CIDEr-D.

    Zenodo's release: `--data clotho_captions_evaluation.csv --audio evaluation`.
    """

    citation = "Drossos et al., Clotho: an audio captioning dataset, ICASSP 2020"

    def sample(self, index: int, row: Row, base: Path | None) -> Sample:
        name = text(row, "file_name")
        captions = [text(row, f"caption_{i}") for i in range(1, 6)]
        return Sample(index, name, sound(name, base), captions, prompt=self.prompt)
