"""All tasks: importing this package registers them. A new task is one file and one line here."""

from __future__ import annotations

from typing import Any

from fewhertz.tasks import audiocaps as audiocaps
from fewhertz.tasks import audioset as audioset
from fewhertz.tasks import clotho as clotho
from fewhertz.tasks import clotho_aqa as clotho_aqa
from fewhertz.tasks import commonvoice as commonvoice
from fewhertz.tasks import covost2 as covost2
from fewhertz.tasks import emotion as emotion
from fewhertz.tasks import fleurs as fleurs
from fewhertz.tasks import gtzan as gtzan
from fewhertz.tasks import librispeech as librispeech
from fewhertz.tasks import manifest as manifest
from fewhertz.tasks import mmau as mmau
from fewhertz.tasks import musiccaps as musiccaps
from fewhertz.tasks import speaker_pairs as speaker_pairs
from fewhertz.tasks.base import TASKS, Task


def named(name: str, **options: Any) -> Task:
    """A task by its name, or a .jsonl manifest.

    Args:
        name: of the task, or of the manifest's file.
        options: fields of the task; a manifest's `data` is its file.

    Raises:
        ValueError: for an unknown name; says which are known.
    """
    if name.endswith(".jsonl"):
        return TASKS["manifest"](**options | {"data": name})
    if name not in TASKS:
        raise ValueError(f"no task {name!r}; known: {', '.join(sorted(TASKS))}, or a .jsonl file of your own")
    return TASKS[name](**options)
