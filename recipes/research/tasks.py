"""The tasks of the pages, where results and pages are, and what a part of the results is called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
RESULTS, DOCS = REPO / "results", REPO / "docs" / "research"
RUNS, LISTS = REPO / "out" / "runs" / "results", REPO / "out"  # run files before they are packed; lists to measure on
MODEL, WEIGHTS = "pocket", LISTS / "models"  # the shipped one, and where others are
PARAMETERS, LARGER = "4.9", "11.9"  # millions, of pocket until its fourth version was made anew, and since
MAIN, DEV, LORA = "", "dev", "lora"  # parts: folders of results
SMALLER = "smaller"  # the main grid's runs by the model of `PARAMETERS`
ENCODER, DEPTH, FLEX, OMNI = "encoder", "depth", "flex", "omni"
BATCH, LONGEST, DRAWS = 50, 64, 2000  # samples together, new tokens, bootstrap draws


@dataclass(frozen=True)
class Asked:
    """A task of a page: its list in `recipes/pocket/splits`, how many rows, its metric and how it is called."""

    label: str
    rows: int
    metric: str
    name: str
    unit: str


STRINGS = Asked("strings-test", 100, "wer", "word strings", "WER, %")
SENTENCES = Asked("synthetic-test", 200, "wer", "sentences", "WER, %")
GERMAN = Asked("german-test", 100, "bleu", "German → English", "BLEU")
SOUNDS = Asked("describe-test", 100, "cider", "captions", "CIDEr-D")
ANSWERS = Asked("answer-test", 100, "accuracy", "answers", "accuracy, %")
