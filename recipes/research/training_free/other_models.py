"""Is it an artefact of one small model? Two more of pocket's kind, trained apart from it, under the main rows."""

from __future__ import annotations

from fewhertz.evaluation.results import BASELINE

from ..grids import BOTH, at
from ..grids.other_models import MIDDLE, OTHERS, TASKS
from ..measured import Measured
from ..tables import table
from ..tasks import OTHER_MODELS
from .targets import lost

HALVES = ("+time", "+sizes")


def section(measured: Measured) -> str:
    """What each model loses at a third, list by list."""
    rows = []
    for other in OTHERS:
        own = measured.of(OTHER_MODELS, other.name)
        for task in TASKS:
            losses = [lost(own, task, at(spec, MIDDLE), "") for spec in ("pool", f"ward{BOTH}")]
            halves = [own.gain(task, at(f"ward{half}", MIDDLE), at("ward", MIDDLE)).plain for half in HALVES]
            rows.append([f"`{other.name}`, {task.name}", own.number(task, BASELINE), *losses, *halves])
    notes = measured.packed.trainings(OTHER_MODELS)
    sizes = ", ".join(f"`{o.name}` ({o.what}; {notes[o.name]['parameters'] / 1e6:.1f} M)" for o in OTHERS)
    heads = [f"WER at {MIDDLE}", "all tokens", "`pool` loses", f"`ward{BOTH}` loses"]
    return f"Trained apart from pocket, and less: {sizes}.\n\n" + table(
        [*heads, *(f"`{half}` gains" for half in HALVES)], rows
    )
