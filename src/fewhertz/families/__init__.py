"""All families: importing this package registers them. A new family is one file and one line here."""

from __future__ import annotations

from torch import nn

from fewhertz.families import audio_flamingo_3 as audio_flamingo_3
from fewhertz.families import glm_asr as glm_asr
from fewhertz.families import granite_speech as granite_speech
from fewhertz.families import music_flamingo as music_flamingo
from fewhertz.families import omni_asr as omni_asr
from fewhertz.families import qwen2_5_omni as qwen2_5_omni
from fewhertz.families import qwen2_audio as qwen2_audio
from fewhertz.families import qwen3_asr as qwen3_asr
from fewhertz.families import qwen3_omni as qwen3_omni
from fewhertz.families import voxtral as voxtral
from fewhertz.families.base import FAMILIES, REFUSED, Config, Family


def known() -> str:
    """The families, for error messages."""
    return ", ".join(f"{f.name} ({'/'.join(f.model_classes)})" for f in FAMILIES)


def _unknown(what: str, names: set[str]) -> TypeError:
    for name in names & REFUSED.keys():
        return TypeError(f"{name} cannot be compressed: {REFUSED[name]}")
    return TypeError(
        f"fewhertz does not know {what}; known: {known()}. "
        "To add one, write a file like fewhertz/families/qwen2_audio.py (CONTRIBUTING.md)."
    )


def family_of(model: nn.Module) -> Family:
    """The family of a model.

    Raises:
        TypeError: for an unknown one, naming those that are known and how to add one, and for one that cannot be
            compressed, saying why.
    """
    names = {cls.__name__ for cls in type(model).__mro__}
    for family in FAMILIES:
        if names & set(family.model_classes):
            return family
    raise _unknown(f"the audio model {type(model).__name__}", names)


def family_of_config(config: Config) -> Family:
    """The family of a configuration, without a model.

    Raises:
        TypeError: as `family_of`.
    """
    for family in FAMILIES:
        if config.model_type in family.model_types:
            return family
    raise _unknown(f"the model type {config.model_type!r}", {config.model_type})
