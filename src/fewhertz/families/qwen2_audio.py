"""Qwen2-Audio (and pocket, which is a model of this class)."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewhertz.families.base import Config, Family, Windows
from fewhertz.scores import attention_received

MEL_HZ = 100  # mel frames per second of Whisper's front end: 16,000 samples over hops of 160


class Qwen2Audio(Family, name="qwen2-audio"):
    """Whisper encoder at 50 Hz, average pooling to 25 Hz, one linear layer, Qwen2. A clip is one 30 s window."""

    model_classes = ("Qwen2AudioForConditionalGeneration",)
    model_types = ("qwen2_audio",)
    audio_inputs = ("input_features", "feature_attention_mask")
    max_seconds = 30.0

    def rate(self, config: Config) -> Fraction:
        return Fraction(MEL_HZ, 4)

    def encode(self, model: nn.Module, audio: dict[str, Any], site: str, scores: bool) -> Windows:
        from transformers.masking_utils import create_bidirectional_mask

        core = model.model
        tower = core.audio_tower
        features = audio["input_features"].to(tower.device)
        mel_mask = audio["feature_attention_mask"].to(tower.device)
        frames, lengths = tower._get_feat_extract_output_lengths(mel_mask.sum(-1))
        steps = (features.shape[-1] - 2) // 2 + 1
        valid = torch.arange(steps, device=frames.device) < frames[:, None]
        # the mask takes its shape and dtype from here
        dummy = torch.zeros(len(valid), steps, 1, dtype=model.get_input_embeddings().weight.dtype, device=valid.device)
        mask = create_bidirectional_mask(config=tower.config, inputs_embeds=dummy, attention_mask=valid.long())

        capture = attention_received(tower.layers[-1].self_attn, valid) if scores else nullcontext()
        with capture as received:
            hidden = tower(features, attention_mask=mask).last_hidden_state
        return Windows(
            tokens=hidden if site == "encoder" else core.multi_modal_projector(hidden),
            lengths=lengths.tolist(),
            full=steps // 2,
            scores=halve(received.scores) if received else None,
        )

    def project(self, model: nn.Module, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n e"]:
        return model.model.multi_modal_projector(tokens)


def halve(scores: Float[Tensor, "w t"]) -> Float[Tensor, "w t/2"]:
    """Average pairs of frames: the encoder's 50 Hz to the LLM's 25 Hz."""
    return nn.functional.avg_pool1d(scores[:, None], 2)[:, 0]
