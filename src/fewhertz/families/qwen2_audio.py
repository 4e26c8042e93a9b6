"""Qwen2-Audio (and pocket, which is a model of this class)."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fewhertz.families.base import MEL_HZ, Config, Family, Windows
from fewhertz.families.whisper import WhisperTower, before
from fewhertz.scores import attention_received, token_means
from fewhertz.specs import layers_of


class Qwen2Audio(WhisperTower, Family, name="qwen2-audio"):
    """Whisper encoder at 50 Hz, average pooling to 25 Hz, one linear layer, Qwen2. A clip is one 30 s window."""

    model_classes = ("Qwen2AudioForConditionalGeneration",)
    model_types = ("qwen2_audio",)
    audio_inputs = ("input_features", "feature_attention_mask")
    max_seconds = 30.0

    def rate(self, config: Config) -> Fraction:
        return Fraction(MEL_HZ, 4)

    def encode(
        self, model: nn.Module, audio: dict[str, Any], input_ids: Int[Tensor, "b l"], site: str, scores: bool
    ) -> Windows:
        from transformers.masking_utils import create_bidirectional_mask

        core: Any = model.base_model
        layer = next(iter(layers_of(site)), None)
        tower = core.audio_tower if layer is None else before(core.audio_tower, layer)
        features = audio["input_features"].to(tower.device)
        frames = (audio["feature_attention_mask"].to(tower.device).sum(-1) - 1) // 2 + 1
        lengths = frames // 2
        steps = (features.shape[-1] - 2) // 2 + 1
        valid = torch.arange(steps, device=frames.device) < frames[:, None]
        # the mask takes its shape and dtype from here
        embeddings: Any = core.get_input_embeddings()
        dummy = torch.zeros(len(valid), steps, 1, dtype=embeddings.weight.dtype, device=valid.device)

        scores = scores and layer is None  # those of the last layer, which has not run before another
        with attention_received(tower.layers[-1].self_attn, valid) if scores else nullcontext() as received:
            mask = create_bidirectional_mask(config=tower.config, inputs_embeds=dummy, attention_mask=valid.long())
            hidden = tower(features, attention_mask=mask).last_hidden_state
        if layer is not None:
            return self.frames_of(hidden, frames, lengths, None)
        real = torch.arange(steps // 2, device=lengths.device) < lengths[:, None]
        # the projector runs on whole windows, as in the stock model: other shapes may round differently
        tokens = hidden if site == "encoder" else core.multi_modal_projector(hidden)
        return Windows(
            tokens=tokens[real.to(tokens.device)],
            lengths=lengths.tolist(),
            full=None,
            scores=token_means(received.scores, 2)[real] if received else None,
        )
