"""Whisper towers that mask their padding: Qwen2-Audio's and Audio Flamingo's. They can read valid frames alone.

A clip of 5 s is padded to 30 s and the padding hidden from attention: the layers compute it for nothing. `trimmed`
cuts it off before the tower, whose own forward then runs on what is left.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

REACH = 2  # mel frames behind the last valid one that its encoder frame sees through both convolutions
STEP = 16  # mel frames: cuts come in eights of encoder frames, as kernels on GPUs like them


class _FirstRows(nn.Module):
    """The first rows of an embedding table; read where they are used, so what shards or moves weights goes first."""

    def __init__(self, table: nn.Module, rows: int) -> None:
        super().__init__()
        self.table = table
        self.rows = rows

    @property
    def weight(self) -> Float[Tensor, "rows d"]:
        table: Any = self.table
        return table.weight[: self.rows]


def cut_of(lengths: Int[Tensor, " windows"], full: int) -> int:
    """Mel frames of a window, of `full`, that a batch needs whose windows have so many valid ones."""
    return min(full, -(-(int(lengths.max()) + REACH) // STEP) * STEP)


def shallow(module: Any, **children: nn.Module) -> Any:
    """The same module, its parameters and hooks included, but for some of its children."""
    other = copy.copy(module)  # modules leave out what they compiled for themselves
    other.__dict__["_modules"] = {**module._modules, **children}
    return other


def shortened(tower: Any, frames: int) -> Any:
    """The tower for windows of `frames` encoder frames, on the same weights."""
    other = shallow(tower, embed_positions=_FirstRows(tower.embed_positions, frames))
    # its submodules have accelerate's hooks of their own; the tower's would call the tower that was copied
    for name in ("forward", "_old_forward", "_hf_hook"):
        other.__dict__.pop(name, None)
    other.config = copy.copy(tower.config)
    other.config.max_source_positions = frames
    # hooks that record them would be put on the shared layers at every call
    other.config.output_hidden_states = other.config.output_attentions = False
    return other


def trimmed(model: Any, audio: dict[str, Any], mask: str) -> tuple[Any, dict[str, Any]]:
    """A model and its audio, cut to the longest clip of the batch; as they are where there is nothing to cut.

    The audio tokens are those of the whole windows but for rounding: convolutions see the mel frames that they saw,
    and attention hides the frames that are left of the padding, as it hid them all. Nothing of `model` is changed,
    and the copy shares its weights: gradients arrive there.

    Args:
        model: the model, with `audio_tower` in its base model.
        audio: `"input_features"`, (windows, mels, frames), and the mask over its frames, (windows, frames).
        mask: the mask's name.
    """
    core, features, lengths = model.base_model, audio["input_features"], audio[mask].sum(-1)
    tower = core.audio_tower
    known = "embed_positions" in tower._modules and ("forward" not in tower.__dict__ or hasattr(tower, "_hf_hook"))
    if not known or not len(features):  # somebody has wrapped the tower: it reads whole windows
        return model, audio
    full = 2 * tower.config.max_source_positions
    width = cut_of(lengths, full)
    if width == full or features.shape[-1] != full:
        return model, audio
    valid = torch.arange(width, device=lengths.device) < lengths[:, None]
    cut = audio | {"input_features": features[..., :width], mask: valid.to(audio[mask].dtype)}
    core = shallow(core, audio_tower=shortened(tower, width // 2))
    return shallow(model, **{model.base_model_prefix: core}), cut
