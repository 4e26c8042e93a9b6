"""What differs between the classes of model that the recipe trains; data, losses and steps are shared."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from .config import SIZES, Size
from .hear import Clips
from .model import Qwen2Audio
from .omni import OmniAsr


class Family(Protocol):
    """One class of model.

    Attributes:
        special: tokens of its processor that no text has.
        roles: which of them ends an answer, pads, and the like, by the tokenizer's names for it.
        hz: audio tokens a second.
        several: whether a prompt may hold several clips.
        comfortable_seconds: longest window of a long recording.
    """

    special: tuple[str, ...]
    roles: dict[str, str]
    hz: float
    several: bool
    comfortable_seconds: float

    def processor(self, tokenizer: PreTrainedTokenizerFast) -> Any:
        """The class's own processor around a tokenizer."""

    def blank(self, size: Size, ids: dict[str, int]) -> Any:
        """The model, to load weights into. ``ids``: token ids by special token."""

    def build(self, size: Size, ids: dict[str, int]) -> Any:
        """A fresh model."""

    def drop(self, tower: nn.Module, share: float) -> None:
        """Set the dropout of the encoder."""

    def frames_of(self, samples: int) -> int:
        """How much the encoder reads of a clip of so many samples."""

    def lengths(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states and audio tokens of clips of which the encoder reads so much."""

    def heard(self, bank: Tensor, noise: Tensor, clips: Clips) -> Tensor:
        """What the encoder reads of a batch, as the processor would give it."""

    def encode(self, tower: nn.Module, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """States ``[b, t, d]`` for CTC, and audio tokens ``[b, n, d]`` before the projector; padded."""


FAMILIES: dict[str, Family] = {"qwen2_audio": Qwen2Audio(), "omniasr": OmniAsr()}


def of(model: nn.Module) -> Family:
    """The family of a model."""
    return FAMILIES[model.config.model_type]


def of_size(name: str) -> Family:
    """The family of a size of `config.SIZES`."""
    return FAMILIES[SIZES[name].family]


def special_ids(family: Family, tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Ids of its special tokens."""
    return {token: tokenizer.convert_tokens_to_ids(token) for token in family.special}
