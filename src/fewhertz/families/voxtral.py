"""Voxtral."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from fewhertz.families.base import MEL_HZ, Config, Family, Windows
from fewhertz.scores import attention_received, token_means


class Voxtral(Family, name="voxtral"):
    """Whisper encoder at 50 Hz, four frames stacked to 12.5 Hz, two linear layers, Llama.

    Audio of any length is padded to whole windows of 30 s, and the padding is audio to the LLM: no mask goes with it.
    So it has its tokens, is compressed with the rest, and counts in the scores.
    """

    model_classes = ("VoxtralForConditionalGeneration",)
    model_types = ("voxtral",)
    audio_inputs = ("input_features",)
    sites = ("llm",)
    not_inside = "its encoder hears padding as audio, and four frames are stacked to one token behind it"

    def _stacked(self, config: Config) -> int:
        return config.audio_config.intermediate_size // config.audio_config.hidden_size

    def rate(self, config: Config) -> Fraction:
        return Fraction(MEL_HZ, 2) / self._stacked(config)

    def encode(
        self, model: nn.Module, audio: dict[str, Any], input_ids: Int[Tensor, "b l"], site: str, scores: bool
    ) -> Windows:
        core: Any = model.base_model
        layer = core.audio_tower.layers[-1].self_attn
        with attention_received(layer) if scores else nullcontext() as received:
            tokens = core.get_audio_features(audio["input_features"], return_dict=True).pooler_output
        windows = len(audio["input_features"])
        full = len(tokens) // windows
        return Windows(
            tokens=tokens,
            lengths=[full] * windows,
            full=full,
            scores=token_means(received.scores, self._stacked(core.config)).flatten() if received else None,
        )
