"""OmniASR."""

from __future__ import annotations

import math
from contextlib import nullcontext
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewhertz.families.base import Config, Family, Windows
from fewhertz.scores import attention_received

SAMPLE_HZ = 16000  # of the waves that its encoder reads


def tokens_of(config: Config, samples: Int[Tensor, " clips"]) -> Int[Tensor, " clips"]:
    """Audio tokens of waves of so many samples: each convolution gives one where its kernel fits."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = ((samples - kernel) // stride + 1).clamp(min=0)
    return samples


class OmniAsr(Family, name="omni-asr"):
    """Wav2Vec2 encoder over raw waves at 50 Hz, no pairs averaged, one linear layer, Llama. A clip is one row.

    A frame of the encoder is an audio token. Its convolutions and attention hide the padding behind a clip, whose rows
    are as long as the longest of the batch already: there is something to trim only where a batch is padded beyond.
    """

    model_classes = ("OmniASRForConditionalGeneration",)
    model_types = ("omniasr",)
    audio_inputs = ("input_values", "padding_mask")
    log_mel = False
    max_seconds = 40.0  # of its makers' own inference; the processor in transformers reads any
    padding = "masked"
    not_inside = "its frames are audio tokens already: no pairs are averaged behind the encoder"

    def rate(self, config: Config) -> Fraction:
        return Fraction(SAMPLE_HZ, math.prod(config.audio_config.conv_stride))

    def encode(
        self, model: nn.Module, audio: dict[str, Any], input_ids: Int[Tensor, "b l"], site: str, scores: bool
    ) -> Windows:
        core: Any = model.base_model
        values, mask = audio["input_values"], audio["padding_mask"]
        config = core.config.audio_config
        lengths = tokens_of(config, mask.sum(-1))
        (steps,) = tokens_of(config, torch.tensor([values.shape[-1]])).tolist()
        valid = torch.arange(steps, device=lengths.device) < lengths[:, None]
        layer = core.audio_tower.layers[-1].attention
        with attention_received(layer, valid) if scores else nullcontext() as received:
            out = core.get_audio_features(values, mask, return_dict=True)
        real = valid.to(out.pooler_output.device)
        return Windows(
            tokens=out.last_hidden_state[real] if site == "encoder" else out.pooler_output,
            lengths=lengths.tolist(),
            full=None,
            scores=received.scores[real] if received else None,
        )

    def trimmed(
        self, model: nn.Module, audio: dict[str, Any], input_ids: Int[Tensor, "b l"]
    ) -> tuple[nn.Module, dict[str, Any]]:
        longest = int(audio["padding_mask"].sum(-1).max())
        return model, {name: value[..., :longest] for name, value in audio.items()}

    def project(self, model: nn.Module, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n e"]:
        core: Any = model.base_model
        return core.multi_modal_projector(tokens)
