"""GLM-ASR."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fewhertz.families.base import MEL_HZ, Config, Family, Windows
from fewhertz.scores import attention_received, token_means

STACKED = 4  # encoder frames in one audio token
FULL = 30 * MEL_HZ // 2 // STACKED  # audio tokens of a 30 s window


class GlmAsr(Family, name="glm-asr"):
    """Whisper-like encoder with rotary positions at 50 Hz, four frames stacked to 12.5 Hz, two linear layers, Llama.

    Windows of 30 s, up to 655 s. The encoder attends to the padding of its last window; as queries that padding does
    not count in the scores.
    """

    model_classes = ("GlmAsrForConditionalGeneration",)
    model_types = ("glmasr",)
    audio_inputs = ("input_features", "input_features_mask")
    sites = ("llm",)
    not_inside = "its encoder attends to padding, and four frames are stacked to one token behind it"
    max_seconds = 655.0

    def rate(self, config: Config) -> Fraction:
        return Fraction(MEL_HZ, 2 * STACKED)

    def encode(
        self, model: nn.Module, audio: dict[str, Any], input_ids: Int[Tensor, "b l"], site: str, scores: bool
    ) -> Windows:
        core: Any = model.base_model
        frames = (audio["input_features_mask"].sum(-1) - 1) // 2 + 1
        lengths = frames // STACKED
        steps = (audio["input_features"].shape[-1] - 1) // 2 + 1
        valid = torch.arange(steps, device=frames.device) < frames[:, None]
        layer = core.audio_tower.layers[-1].self_attn
        with attention_received(layer, valid, masked=False) if scores else nullcontext() as received:
            tokens = core.get_audio_features(**audio, return_dict=True).pooler_output
        captured = None
        if received:
            captured = token_means(received.scores, STACKED)
            real = torch.arange(captured.shape[1], device=lengths.device) < lengths[:, None]
            captured = captured[real.to(captured.device)]
        return Windows(tokens=tokens, lengths=lengths.tolist(), full=FULL, scores=captured)
