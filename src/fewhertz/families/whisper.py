"""Whisper towers that mask their padding: Qwen2-Audio's and Audio Flamingo's. They can run on fewer frames.

A clip of 5 s is padded to 30 s and the padding hidden from attention: the layers compute it for nothing. `trimmed`
cuts it off before the tower, whose own forward then runs on what is left. And the later layers can run on merged
frames (site `"encoder.k"`): the tower's own forward ends `before` layer k, `through` runs the rest.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fewhertz.corrections import HIDDEN
from fewhertz.families.base import Windows

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


def _tower(tower: Any, **children: nn.Module) -> Any:
    """The tower on the same weights, but for some of its children, and with a configuration of its own."""
    other = shallow(tower, **children)
    # its submodules have accelerate's hooks of their own; the tower's would call the tower that was copied
    for name in ("forward", "_old_forward", "_hf_hook"):
        other.__dict__.pop(name, None)
    other.config = copy.copy(tower.config)
    # hooks that record them would be put on the shared layers at every call
    other.config.output_hidden_states = other.config.output_attentions = False
    return other


def _known(tower: Any) -> bool:
    """Whether the tower's class says what a call of it does: nobody has wrapped it, but accelerate may have."""
    return "embed_positions" in tower._modules and ("forward" not in tower.__dict__ or hasattr(tower, "_hf_hook"))


def shortened(tower: Any, frames: int) -> Any:
    """The tower for windows of `frames` encoder frames, on the same weights."""
    other = _tower(tower, embed_positions=_FirstRows(tower.embed_positions, frames))
    other.config.max_source_positions = frames
    return other


def before(tower: Any, layer: int) -> Any:
    """The tower up to layer `layer`, on the same weights: its output are the frames that the layer would read.

    Raises:
        NotImplementedError: where somebody has wrapped the tower's `forward`.
    """
    if not _known(tower):
        raise NotImplementedError("the audio encoder's forward is wrapped: nothing can be merged inside it")
    return _tower(tower, layers=tower.layers[:layer], avg_pooler=nn.Identity(), layer_norm=nn.Identity())


def through(
    tower: Any, layers: slice, windows: list[Float[Tensor, "_ d"]], sizes: list[Int[Tensor, " _"]]
) -> list[Float[Tensor, "_ d"]]:
    """Some of the tower's layers, over merged frames of each window.

    log s is added to the attention logits of a frame that stands for s (fewhertz.corrections).

    Raises:
        NotImplementedError: where the encoder runs another kernel than sdpa or eager.
    """
    kernel = tower.config._attn_implementation
    if kernel not in ("sdpa", "eager"):
        raise NotImplementedError(
            f"frames are merged before layers of sdpa or eager attention, the audio encoder runs {kernel!r}: "
            "load the model with attn_implementation={'audio_config': 'sdpa'}"
        )
    hidden = pad_sequence(windows, batch_first=True)
    much = pad_sequence([one.float().log().to(hidden) for one in sizes], batch_first=True, padding_value=HIDDEN)
    mask = much[:, None, None].expand(-1, 1, hidden.shape[1], -1)
    for one in tower.layers[layers]:
        hidden = one(hidden, mask)
    return [row[: len(one)] for row, one in zip(hidden, windows, strict=True)]


class WhisperTower:
    """What Qwen2-Audio and the Audio Flamingos share of `Family`; goes before it."""

    padding: ClassVar[Literal["masked", "heard", "left out"]] = "masked"
    not_inside: ClassVar[str | None] = None
    audio_inputs: ClassVar[tuple[str, ...]]

    def trimmed(
        self, model: nn.Module, audio: dict[str, Any], input_ids: Int[Tensor, "b l"]
    ) -> tuple[nn.Module, dict[str, Any]]:
        """See `Family`."""
        return trimmed(model, audio, self.audio_inputs[1])

    def project(self, model: nn.Module, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n e"]:
        """See `Family`."""
        core: Any = model.base_model
        return core.multi_modal_projector(tokens)

    def run_layers(
        self,
        model: nn.Module,
        layers: slice,
        windows: list[Float[Tensor, "_ d"]],
        sizes: list[Int[Tensor, " _"]],
    ) -> list[Float[Tensor, "_ d"]]:
        """See `Family`."""
        core: Any = model.base_model
        return through(core.audio_tower, layers, windows, sizes)

    def finish_encoding(
        self, model: nn.Module, windows: list[Float[Tensor, "_ d"]], times: list[Float[Tensor, " _"]]
    ) -> list[Float[Tensor, "_ e"]]:
        """See `Family`. No pairs are averaged: what is merged is of the count that the LLM reads."""
        core: Any = model.base_model
        hidden = self.timed(model, core.audio_tower.layer_norm(torch.cat(windows)), torch.cat(times))
        return [*self.project(model, hidden[None])[0].split([len(one) for one in windows])]

    def timed(self, model: nn.Module, tokens: Float[Tensor, "n d"], times: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """What the encoder gives, with what the model adds of time before its projector: nothing."""
        return tokens

    @staticmethod
    def frames_of(
        hidden: Float[Tensor, "w t d"], frames: Int[Tensor, " w"], lengths: Int[Tensor, " w"], full: int | None
    ) -> Windows:
        """Encoder frames of the windows that have a token."""
        frames = frames.where(lengths > 0, 0)
        real = torch.arange(hidden.shape[1], device=frames.device) < frames[:, None]
        tokens = hidden[real.to(hidden.device)]
        return Windows(tokens=tokens, lengths=lengths.tolist(), full=full, frames=frames.tolist())


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
    if not _known(tower) or not len(features):  # wrapped: it reads whole windows
        return model, audio
    full = 2 * tower.config.max_source_positions
    width = cut_of(lengths, full)
    if width == full or features.shape[-1] != full:
        return model, audio
    valid = torch.arange(width, device=lengths.device) < lengths[:, None]
    cut = audio | {"input_features": features[..., :width], mask: valid.to(audio[mask].dtype)}
    core = shallow(core, audio_tower=shortened(tower, width // 2))
    return shallow(model, **{model.base_model_prefix: core}), cut
