"""How many of the audio tokens that a run keeps stand for speech, silence apart: results/speech.json.

    python -m recipes.research.speech --lists out/fourth --results results

Of the samples that were measured, clips are encoded once more and each run's plan is made: nothing is generated. An
audio token of the uncompressed model is speech where it is louder than 30 dB below the loudest of its clip; a kept
token counts by the share that speech has in it, so that one of two tokens of speech and two of silence is half a one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fewhertz
from fewhertz import audio
from fewhertz.checkpoint import open_checkpoint, weights_sha256
from fewhertz.compare import Heard
from fewhertz.evaluation.results import BASELINE
from fewhertz.files import replace
from fewhertz.windows import levels_of

from .grids import BOTH, at
from .grids.training_free import CHOSEN, COMPARED, SENTENCES, SHARES, grid, priced
from .measured import Measured
from .tasks import LISTS, MODEL, RESULTS, Asked

RATE, FRAME = 16_000, 640  # Hz; samples of an audio token at 25 Hz
QUIETER = 30.0  # dB below the loudest audio token: silence
FILE = "speech.json"


def spoken(wave: np.ndarray, tokens: int) -> np.ndarray:
    """Which of a clip's audio tokens are speech, as booleans, (tokens,)."""
    levels = levels_of(wave, FRAME)
    loud = np.zeros(tokens, bool)
    loud[: len(levels)] = (levels > levels.max() - QUIETER)[:tokens]
    return loud


def planned(task: Asked) -> list[str]:
    """The runs of a list that are counted, without corrections: those change no plan."""
    wanted = [*(at(method, keep) for method in COMPARED for keep in SHARES), priced(CHOSEN)]
    return list(dict.fromkeys(run.removesuffix(BOTH) for run in wanted if run in grid(task)))


def counted(loaded: tuple[Any, Any], wave: np.ndarray, runs: Sequence[str]) -> tuple[int, list[float]]:
    """Audio tokens of a clip, and how many stand for speech: without compression, and under each run."""
    heard = Heard(*loaded, wave, methods=runs)
    plans = [plan for run in runs if (plan := heard.draw(run).plan) is not None]
    loud = spoken(wave, plans[0].n)
    return len(loud), [float(loud.sum()), *(round(float(plan.shares()[0].numpy()[loud].sum()), 3) for plan in plans)]


def measure(loaded: tuple[Any, Any], measured: Measured, task: Asked, lists: Path) -> dict[str, Any]:
    """Of a list's samples that were measured, by columns."""
    rows = {row["id"]: row for row in map(json.loads, (lists / f"{task.label}.jsonl").read_text("utf-8").splitlines())}
    ids, runs = measured.run(task, BASELINE).column("id"), planned(task)
    found = [counted(loaded, audio.load(lists / rows[one]["audio"], RATE), runs) for one in ids]
    by_run = zip(*(counts for _, counts in found), strict=True)
    speech = dict(zip([BASELINE, *runs], map(list, by_run), strict=True))
    return {"id": ids, "tokens": [n for n, _ in found], "speech": speech}


@dataclass(frozen=True)
class Counted:
    """The counts of a list: ids, audio tokens with silence, and those of speech by run, a value a sample."""

    id: list[str]
    tokens: list[int]
    speech: dict[str, list[float]]


def read(measured: Measured) -> dict[str, Counted]:
    """The counts by list; none where they are missing.

    Raises:
        ValueError: where they are of other weights than the runs.
    """
    file = measured.packed.root / FILE
    if not file.exists():
        return {}
    found = json.loads(file.read_text("utf-8"))
    for task in SENTENCES:
        run = measured.found(task, BASELINE)
        if run and run.record["weights_sha256"] != found["weights_sha256"]:
            raise ValueError(f"{file} is of other weights than the runs of {task.label}: `make training-free`")
    return {label: Counted(**one) for label, one in found["lists"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=Path, default=LISTS / "fourth")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of packed results")
    args = parser.parse_args()
    loaded = fewhertz.load(MODEL, device="cpu", dtype="float32")
    measured = Measured(args.results)
    found = {
        "what": __doc__.splitlines()[0],
        "weights_sha256": weights_sha256(open_checkpoint(MODEL)),
        "lists": {task.label: measure(loaded, measured, task, args.lists) for task in SENTENCES},
    }
    replace(args.results / FILE, (json.dumps(found) + "\n").encode())
    print(args.results / FILE)


if __name__ == "__main__":
    main()
