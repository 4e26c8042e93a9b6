"""fewhertz: fewer audio tokens per second, the same answer."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewhertz.attach import Attached, attached, compress
    from fewhertz.audio import AudioError
    from fewhertz.evaluation.api import Results, evaluate
    from fewhertz.loading import load
    from fewhertz.method import Chain, Clip, Method, parse
    from fewhertz.plan import Plan
    from fewhertz.segments import Segment
    from fewhertz.training import train
    from fewhertz.transcription import transcribe
    from fewhertz.tuning import tune

__version__ = "0.1.0"
__all__ = [
    "Attached",
    "AudioError",
    "Chain",
    "Clip",
    "Method",
    "Plan",
    "Results",
    "Segment",
    "attached",
    "compress",
    "evaluate",
    "load",
    "parse",
    "train",
    "transcribe",
    "tune",
]

# Names are looked up at first use: `import fewhertz` and `fewhertz --help` then need no torch.
_HOME = {
    "Attached": "attach",
    "attached": "attach",
    "compress": "attach",
    "AudioError": "audio",
    "Results": "evaluation.api",
    "evaluate": "evaluation.api",
    "load": "loading",
    "Chain": "method",
    "Clip": "method",
    "Method": "method",
    "parse": "method",
    "Plan": "plan",
    "Segment": "segments",
    "train": "training",
    "tune": "tuning",
    "transcribe": "transcription",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fewhertz' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"fewhertz.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
