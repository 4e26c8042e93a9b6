"""A JSONL file of one's own."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from pathlib import Path

from fewhertz.evaluation.metrics import METRICS, Metric
from fewhertz.run import PROMPTS
from fewhertz.tasks.base import Row, Sample, Task, column, question, read, sound, text, texts, transcript_metrics
from fewhertz.tasks.covost2 import translation_metrics

# What a row asks for, by the first of these fields that it has.
_KINDS = {"answer": "answer", "captions": "describe", "translation": "translate", "text": "transcribe"}


@dataclass(frozen=True, kw_only=True)
class Manifest(Task, name="manifest"):
    """Rows of a .jsonl file, measured by what they hold; audio paths are relative to the file.

    `{"audio", "text"}`: WER or, for languages without spaces, CER. `{"audio", "captions"}`: CIDEr-D.
    `{"audio", "question", "choices", "answer"}`: accuracy (choices may be left out). `{"audio", "translation"}`: BLEU
    and chrF. Each may have an `id`, a `speaker` or `group` (drawn whole for intervals), a `prompt` of its own and a
    `lang`, the language of its text or translation, which says the normaliser: Whisper's English one for `"en"`, its
    basic one for others; without `lang` texts are compared as they are. All rows hold the same.
    """

    citation = "its author's"

    @property
    def label(self) -> str:
        return Path(self.source()).stem

    @functools.cached_property
    def _rows(self) -> list[Row]:
        if Path(self.source()).suffix != ".jsonl":
            raise ValueError(f"a manifest is a .jsonl file, got {self.source()}")
        rows = itertools.islice(read(self.source(), None, "")[0], self.limit)
        return [row for row in rows if isinstance(row, dict)]

    @functools.cached_property
    def kind(self) -> str:
        """What is asked: `"answer"`, `"describe"`, `"translate"` or `"transcribe"`.

        Raises:
            ValueError: where no row says.
        """
        kinds = (_kind(row) for row in self._rows)
        found = next((kind for kind in kinds if kind), None)
        if found is None:
            held = f"its first row has {', '.join(self._rows[0])}" if self._rows else "no row is a JSON object"
            raise ValueError(f"{self.source()}: no row has {', '.join(_KINDS)}; {held}")
        return found

    @functools.cached_property
    def _language(self) -> str | None:
        named = {row.get("lang") for row in self._rows}
        return str(named.pop()) if len(named) == 1 and None not in named else None

    @property
    def prompt(self) -> str | None:
        if self.ask is not None or self.kind in ("answer", "transcribe"):
            return self.ask
        return PROMPTS[self.kind]

    def metrics(self) -> list[Metric]:
        if self.kind == "answer":
            closed = all(row.get("choices") for row in self._rows)
            return [METRICS["accuracy"], *([METRICS["accuracy-nearest"]] if closed else [])]
        if self.kind == "describe":
            return [METRICS["cider"]]
        if self.kind == "translate":
            return translation_metrics(self._language or "en")
        plain = None if self._language else "plain"
        return transcript_metrics(self._language, self.normaliser or plain)

    def sample(self, index: int, row: Row, base: Path | None) -> Sample:
        if (kind := _kind(row)) not in (None, self.kind):
            raise ValueError(f"it asks to {kind}, rows before it to {self.kind}: a manifest holds one kind")
        choices: list[str] = []
        prompt = self.prompt
        if self.kind == "answer":
            choices = texts(row, "choices") if row.get("choices") else []
            prompt = prompt or question(choices, text(row, "question"))
        field = next(name for name, kind in _KINDS.items() if kind == self.kind)
        group = row.get("group", row.get("speaker"))
        return Sample(
            index,
            str(row.get("id", index)),
            sound(column(row, "audio"), base),
            texts(row, field),
            choices,
            prompt if row.get("prompt") is None else text(row, "prompt"),
            None if group is None else str(group),
        )


def _kind(row: Row) -> str | None:
    return next((kind for name, kind in _KINDS.items() if row.get(name) is not None), None)
