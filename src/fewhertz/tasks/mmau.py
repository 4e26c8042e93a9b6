"""MMAU: multiple-choice questions about speech, sounds and music."""

from dataclasses import dataclass
from pathlib import Path

from fewhertz.evaluation.metrics import METRICS, Metric
from fewhertz.tasks.base import Row, Sample, Task, question, sound, text, texts


@dataclass(frozen=True, kw_only=True)
class Mmau(Task, name="mmau"):
    """MMAU (Sakshi et al., arXiv 2410.19168): multiple choice. Accuracy by its own string match and by nearest option.

    Its own file of questions, `--data mmau-test-mini.json`, names audio beside it (`audio_id`).
    """

    citation = "Sakshi et al., MMAU: a massive multi-task audio understanding and reasoning benchmark, arXiv 2410.19168"
    own_split = "test-mini"

    def metrics(self) -> list[Metric]:
        return [METRICS["accuracy"], METRICS["accuracy-nearest"]]

    def sample(self, index: int, row: Row, base: Path | None) -> Sample:
        choices, answer = texts(row, "choices"), text(row, "answer")
        if answer not in choices:
            raise ValueError(f"its answer {answer!r} is none of its choices")
        prompt = self.ask or question(choices, text(row, "question"))
        return Sample(index, text(row, "id"), sound(text(row, "audio_id"), base), [answer], choices, prompt)
