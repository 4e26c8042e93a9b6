"""Granite Speech, and Granite Speech Plus."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from fewhertz.families.base import MEL_HZ, Config, Family, Windows
from fewhertz.method import Method

_NO_SCORES = "its audio tokens are queries of a Q-Former, and its encoder keeps no attention that they received"


class GraniteSpeech(Family, name="granite-speech"):
    """Conformer at 50 Hz, a Q-Former that makes three tokens of each 15 frames (10 Hz), Granite. A clip is one row.

    The encoder hears the padding of its batch. The LoRA that checkpoints bring for audio stays on.
    """

    model_classes = ("GraniteSpeechForConditionalGeneration", "GraniteSpeechPlusForConditionalGeneration")
    model_types = ("granite_speech", "granite_speech_plus")
    audio_inputs = ("input_features", "input_features_mask")
    sites = ("llm",)
    not_inside = "its encoder attends within blocks of frames, and to the padding of its batch"
    log_mel = False  # pairs of frames, stacked

    def rate(self, config: Config) -> Fraction:
        return Fraction(MEL_HZ, 2 * config.downsample_rate)

    def fit(self, method: Method, config: Config) -> Method:
        if "scores" in method.needs:
            raise ValueError(f"{method.name} needs attention scores, which {self.name} has not: {_NO_SCORES}")
        return super().fit(method, config)

    def encode(
        self, model: nn.Module, audio: dict[str, Any], input_ids: Int[Tensor, "b l"], site: str, scores: bool
    ) -> Windows:
        if scores:
            raise NotImplementedError(f"{self.name} has no attention scores: {_NO_SCORES}")
        core: Any = model.base_model
        mask = audio["input_features_mask"].bool()
        tokens = core.get_audio_features(audio["input_features"].to(core.dtype), return_dict=True).pooler_output
        return Windows(tokens=tokens[mask.to(tokens.device)], lengths=mask.sum(-1).tolist(), full=None)

    def generate(self, model: nn.Module, original: Callable[..., Any], call: dict[str, Any]) -> Any:
        net: Any = model
        if getattr(net, "_hf_peft_config_loaded", False):
            # its own `generate` switches the LoRA for audio off where it is given no features
            from transformers import GenerationMixin

            net.enable_adapters()
            original = functools.partial(GenerationMixin.generate, net)
        return original(**call)
