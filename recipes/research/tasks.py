"""The tasks of the pages, where results and pages are, and what a part of the results is called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
RESULTS, DOCS = REPO / "results", REPO / "docs" / "research"
RUNS, LISTS = REPO / "out" / "runs" / "results", REPO / "out"  # run files before they are packed; lists to measure on
MODEL = "pocket"
PARAMETERS, LARGER = "4.9", "11.9"  # millions, of pocket until its fourth version was made anew, and since
MAIN, RECOVERY, DEV, OTHER_MODELS = "", "recovery", "training-free/dev", "other-models"  # parts: folders of results
SMALLER = "smaller"  # the runs of `fourth` by the model of `PARAMETERS`
TOLERANCE, ENCODER, DEPTH, LORA = "tolerance", "encoder", "depth", "lora"
FOURTH, FLEX, OMNI = "fourth", "flex", "omni"
BATCH, LONGEST, DRAWS = 50, 64, 2000  # samples together, new tokens, bootstrap draws


@dataclass(frozen=True)
class Asked:
    """A task of a page: its list in `recipes/pocket/splits`, how many rows, its metric and how it is called."""

    label: str
    rows: int
    metric: str
    name: str
    unit: str


STRINGS = Asked("strings-test", 200, "wer", "word strings", "WER, %")
SENTENCES = Asked("synthetic-test", 200, "wer", "sentences", "WER, %")
GERMAN = Asked("german-test", 200, "bleu", "German → English", "BLEU")
SOUNDS = Asked("describe-test", 200, "cider", "captions", "CIDEr-D")
ANSWERS = Asked("answer-test", 325, "accuracy", "answers", "accuracy, %")
TASKS = (STRINGS, SENTENCES, GERMAN, SOUNDS, ANSWERS)
SPEECH, SPOKEN = (STRINGS, SENTENCES), (STRINGS, SENTENCES, GERMAN)
FRENCH = Asked("french-synthetic-test", 200, "wer", "French", "WER, %")
# what the default is chosen from and tuned on
ON_DEV = {
    task: replace(task, label=task.label.replace("-test", "-dev"), rows=rows)
    for task, rows in zip(TASKS, (60, 200, 200, 60, 195), strict=True)
}
