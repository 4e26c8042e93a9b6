"""Qwen3-Omni, its thinker."""

from __future__ import annotations

from fractions import Fraction

from jaxtyping import Float
from torch import Tensor

from fewhertz.families.base import MEL_HZ, Config
from fewhertz.families.qwen2_5_omni import Qwen2_5Omni
from fewhertz.families.qwen3_asr import CHUNK_TOKENS, Qwen3Asr, tokens_of


class Qwen3Omni(Qwen2_5Omni, name="qwen3-omni"):
    """The encoder of Qwen3-ASR, its projection inside, and a mixture-of-experts LLM; positions as in Qwen2.5-Omni.

    DeepStack features go from the vision encoder to the LLM's first layers at image and video positions alone, so
    audio is not concerned.
    """

    model_classes = ("Qwen3OmniMoeThinkerForConditionalGeneration",)
    model_types = ("qwen3_omni_moe_thinker",)
    max_seconds = None
    not_inside = Qwen3Asr.not_inside

    def rate(self, config: Config) -> Fraction:
        return Fraction(CHUNK_TOKENS * MEL_HZ, 2 * config.audio_config.n_window)

    def tokens_of(self, config: Config, mel_frames: int) -> int:
        return tokens_of(mel_frames, config.audio_config.n_window)

    def mel_frames(self, config: Config, tokens: int) -> int:
        chunks, rest = divmod(tokens, CHUNK_TOKENS)
        return chunks * 2 * config.audio_config.n_window + 8 * rest

    def token_scores(self, scores: Float[Tensor, " f"], mel_frames: list[int]) -> Float[Tensor, " n"]:
        return scores
