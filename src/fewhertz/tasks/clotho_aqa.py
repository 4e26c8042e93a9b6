"""Clotho-AQA: questions about Freesound's sounds."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fewhertz.evaluation.metrics import METRICS, Metric
from fewhertz.tasks.base import Row, Sample, Task, question, sound, text

_YES_NO = ["yes", "no"]


@dataclass(frozen=True, kw_only=True)
class ClothoAqa(Task, name="clotho_aqa"):
    """Clotho-AQA (Lipping et al., EUSIPCO 2022): questions with three people's answers. Accuracy.

    Right is what most of the three say; where all differ, any of them. Questions that are answered by yes or no have
    these as options, the others none and want a single word. Intervals draw recordings.
    Zenodo's release: `--data clotho_aqa_test.csv --audio audio_files`.
    """

    citation = "Lipping et al., Clotho-AQA: a crowdsourced dataset for audio question answering, EUSIPCO 2022"

    def metrics(self) -> list[Metric]:
        return [METRICS["accuracy"]]

    def merged(self, rows: Iterator[Row | ValueError]) -> Iterator[Row | ValueError]:
        asked: dict[object, Row | ValueError] = {}
        for index, row in enumerate(rows):
            try:
                if isinstance(row, ValueError):
                    raise row
                key = (text(row, "file_name"), text(row, "QuestionText"))
                one = asked.setdefault(key, {"file_name": key[0], "QuestionText": key[1], "answers": []})
                assert isinstance(one, dict)
                one["answers"].append(text(row, "answer").strip().lower())
            except ValueError as error:
                asked[index] = error
        return iter(asked.values())

    def sample(self, index: int, row: Row, base: Path | None) -> Sample:
        name, asked = row["file_name"], row["QuestionText"]
        counts: Counter[str] = Counter(row["answers"])
        most = max(counts.values())
        choices = _YES_NO if set(counts) <= set(_YES_NO) else []
        prompt = self.ask or question(choices, asked if choices else f"{asked}\nAnswer with a single word.")
        right = [answer for answer, count in counts.items() if count == most]
        return Sample(index, f"{name}: {asked}", sound(name, base), right, choices, prompt, group=name)
