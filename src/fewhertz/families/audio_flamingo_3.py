"""Audio Flamingo 3."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewhertz.families.base import MEL_HZ, Config, Family, Windows, inputs_of
from fewhertz.families.whisper import WhisperTower, before
from fewhertz.scores import attention_received, token_means
from fewhertz.specs import layers_of


class AudioFlamingo3(WhisperTower, Family, name="audio-flamingo-3"):
    """Whisper encoder at 50 Hz, average pooling to 25 Hz, two linear layers, Qwen2. Windows of 30 s, up to 600 s."""

    model_classes = ("AudioFlamingo3ForConditionalGeneration",)
    model_types = ("audioflamingo3",)
    audio_inputs = ("input_features", "input_features_mask")
    max_seconds = 600.0

    def rate(self, config: Config) -> Fraction:
        return Fraction(MEL_HZ, 4)

    def features(self, core: Any, audio: dict[str, Any], input_ids: Int[Tensor, "b l"]) -> Float[Tensor, "n e"]:
        """Audio tokens in the LLM's input space, by the model's own method."""
        return core.get_audio_features(**audio, return_dict=True).pooler_output

    def encode(
        self, model: nn.Module, audio: dict[str, Any], input_ids: Int[Tensor, "b l"], site: str, scores: bool
    ) -> Windows:
        core: Any = model.base_model
        frames = (audio["input_features_mask"].sum(-1) - 1) // 2 + 1
        lengths = frames // 2
        steps = (audio["input_features"].shape[-1] - 1) // 2 + 1
        valid = torch.arange(steps, device=frames.device) < frames[:, None]
        full = core.config.audio_config.max_source_positions // 2
        if layers := layers_of(site):
            hidden = before(core.audio_tower, layers[0])(**audio).last_hidden_state
            return self.frames_of(hidden, frames, lengths, full)
        with (
            attention_received(core.audio_tower.layers[-1].self_attn, valid) if scores else nullcontext() as received,
            inputs_of(core.multi_modal_projector) as projected,
        ):
            tokens = self.features(core, audio, input_ids)
        real = torch.arange(steps // 2, device=lengths.device) < lengths[:, None]
        if site == "encoder":
            (hidden,) = projected
            tokens = hidden[real.to(hidden.device)]
        return Windows(
            tokens=tokens,
            lengths=lengths.tolist(),
            full=full,
            scores=token_means(received.scores, 2)[real.to(tokens.device)] if received else None,
        )
