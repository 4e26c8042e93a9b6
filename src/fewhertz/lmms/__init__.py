"""The lmms-eval plugin: other people's benchmarks, on compressed audio (docs/evaluate.md).

lmms-eval calls `manifest` by the entry point `lmms_eval.models`, and imports the model where it is asked for by name:

    lmms-eval --model fewhertz --model_args pretrained=MODEL,method=SPEC --tasks librispeech_test_clean
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What lmms-eval has to know of the model: its name and its class."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("fewhertz", simple_class_path="fewhertz.lmms.model.Fewhertz")
