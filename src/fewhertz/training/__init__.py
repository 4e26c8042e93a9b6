"""LoRA recovery: an adapter that teaches the LLM to live with fewer audio tokens. `loop` trains, `data` feeds it."""

import importlib
from typing import TYPE_CHECKING, Any

from fewhertz.training.settings import Settings as Settings
from fewhertz.training.settings import keep_range as keep_range

if TYPE_CHECKING:
    from fewhertz.training.loop import Stopped as Stopped
    from fewhertz.training.loop import Trained as Trained
    from fewhertz.training.loop import train as train


def __getattr__(name: str) -> Any:
    """The rest at first use: settings alone need no torch."""
    if name not in ("Stopped", "Trained", "train"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module("fewhertz.training.loop"), name)
    return value
