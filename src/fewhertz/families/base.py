"""What a family has to say about its architecture, and the registry of families."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Protocol

from jaxtyping import Float
from torch import Tensor, nn

FAMILIES: list[Family] = []


@dataclass(frozen=True)
class Windows:
    """Encoded audio, a row for each encoder window, in the order of the placeholders.

    Args:
        tokens: audio tokens at the method's site, padded on the right.
        lengths: audio tokens that are real, per window.
        full: audio tokens of a full window. A full window and the one that follows it without text between them
            are the same clip.
        scores: attention received by each token, where it was asked for.
    """

    tokens: Float[Tensor, "w t d"]
    lengths: list[int]
    full: int
    scores: Float[Tensor, "w t"] | None = None


class Config(Protocol):
    """A transformers configuration: attributes differ by family."""

    def __getattr__(self, name: str) -> Any: ...


class Family:
    """One architecture: where its audio tokens come from and how they enter the LLM.

    A subclass is one file: it fills the class variables, `rate`, `placeholder` and `encode`, and is registered by
    `class MyFamily(Family, name="my-family")` plus an import line in `families/__init__.py`.
    """

    name: ClassVar[str]
    model_classes: ClassVar[tuple[str, ...]]  # names of the transformers classes that are compressed
    model_types: ClassVar[tuple[str, ...]]  # their `config.model_type`
    audio_inputs: ClassVar[tuple[str, ...]]  # arguments of forward that carry audio: consumed here
    sites: ClassVar[tuple[str, ...]] = ("llm", "encoder")
    max_seconds: ClassVar[float | None] = None  # longest clip that the processor reads without cutting; None: any
    window_seconds: ClassVar[float] = 30.0

    def __init_subclass__(cls, name: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name
        FAMILIES.append(cls())

    def rate(self, config: Config) -> Fraction:
        """Audio tokens per second before compression, in Hz."""
        raise NotImplementedError

    def placeholder(self, config: Config) -> int:
        """Token id that stands for one audio token in `input_ids`."""
        return config.audio_token_id

    def encode(self, model: nn.Module, audio: dict[str, Any], site: str, scores: bool) -> Windows:
        """Run the audio encoder as the stock model does, bit for bit.

        Args:
            audio: the arguments of the call named in `audio_inputs`.
            site: `"llm"`: tokens after the projector; `"encoder"`: before it.
            scores: whether to capture attention received in the last encoder layer, at the LLM's rate.
        """
        raise NotImplementedError

    def project(self, model: nn.Module, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n e"]:
        """Bring tokens of the site `"encoder"` into the LLM's input space."""
        raise NotImplementedError

    def refuse(self, call: dict[str, Any]) -> None:
        """Raise `NotImplementedError`, by name, for calls that cannot be compressed."""

    def finish(self, model: nn.Module, call: dict[str, Any], generating: bool) -> dict[str, Any]:
        """Last changes to the call's arguments once `input_ids` are trimmed and `inputs_embeds` are merged."""
        return call


def known() -> str:
    """The families, for error messages."""
    return ", ".join(f"{f.name} ({'/'.join(f.model_classes)})" for f in FAMILIES)


def family_of(model: nn.Module) -> Family:
    """The family of a model.

    Raises:
        TypeError: for an unknown one; names those that are known and says how to add one.
    """
    import fewhertz.families  # noqa: F401  (fills FAMILIES; here, since the families import this module)

    names = {cls.__name__ for cls in type(model).__mro__}
    for family in FAMILIES:
        if names & set(family.model_classes):
            return family
    raise TypeError(
        f"fewhertz does not know the audio model {type(model).__name__}; known: {known()}. "
        "To add one, write a file like fewhertz/families/qwen2_audio.py (CONTRIBUTING.md)."
    )


def family_of_config(config: Config) -> Family:
    """The family of a configuration, without a model.

    Raises:
        TypeError: for an unknown one; names those that are known.
    """
    import fewhertz.families  # noqa: F401

    for family in FAMILIES:
        if config.model_type in family.model_types:
            return family
    raise TypeError(f"fewhertz does not know the model type {config.model_type!r}; known: {known()}")
