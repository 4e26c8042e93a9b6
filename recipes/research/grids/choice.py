"""The runs on dev by which the default was chosen: methods, tolerances, and what else was tried.

python -m recipes.pocket.manifests --split dev --lists far-new-voices strings german describe answer --out out/dev
python -m recipes.research.run dev
"""

from __future__ import annotations

from dataclasses import replace

from .training_free import ANSWERS, FAR, FIVE, SOUNDS, STRINGS

ON_DEV = {
    task: replace(
        task,
        label=task.label.replace("-test", "-dev"),
        rows={STRINGS: 60, SOUNDS: 60, ANSWERS: 195}.get(task, 100),
    )
    for task in FIVE
}
CANDIDATES, KEEPS = ("ward", "optimal", "pool", "segment", "ltbm"), ("1/2", "1/3", "1/4")
NARROW = ("1/3", "1/4")
ALPHAS, PLACES = (0.5, 0.75, 1.25, 1.5), ("first", "last")
TUNED = tuple(f"ward-told({value})" for value in (*(f"alpha={a}" for a in ALPHAS), *(f"place={p}" for p in PLACES)))
IDEAS = {
    "ward-by-attention": "means inside a segment weighted by the attention received",
    "ward(site=encoder)": "the objective on the encoder's output instead of the LLM's input",
    "optimal": "the exact objective, to compare the next rows with",
    "optimal-cut(weighted=true)": "tokens weigh in the objective what attention they received",
    "optimal-cut(shortest=0.5)": "no segment shorter than half the mean one",
    "optimal-cut(shortest=0.75)": "nor than three quarters of it",
    "optimal(longest=2.0)": "no segment longer than two mean ones",
    "optimal(longest=1.5)": "nor than one and a half",
    "optimal(longest=1.25)": "nor than one and a quarter",
    "ward-silence": "a tenth more segments, of which those like the longest one share its token",
}
TRIED_ON = (FAR, STRINGS, SOUNDS)  # ideas; other multiples of log s and positions on the first two
TUNED_ON = TRIED_ON[:2]
