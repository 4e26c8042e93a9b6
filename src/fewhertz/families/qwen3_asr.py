"""Qwen3-ASR."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from fewhertz.families.base import MEL_HZ, Config, Family, Windows
from fewhertz.scores import attention_received

CHUNK_TOKENS = 13  # audio tokens of one chunk of 2·n_window mel frames: 100, halved three times, rounded up


def tokens_of(mel_frames: int, n_window: int) -> int:
    """Audio tokens of `mel_frames` mel frames: the encoder of the Qwen3 models convolves chunk by chunk."""
    chunks, rest = divmod(mel_frames, 2 * n_window)
    return chunks * CHUNK_TOKENS + -(-rest // 8)


class Qwen3Asr(Family, name="qwen3-asr"):
    """Encoder at 13 Hz that attends within 8 s, two linear layers, Qwen3. Audio of any length is one row."""

    model_classes = ("Qwen3ASRForConditionalGeneration",)
    model_types = ("qwen3_asr",)
    audio_inputs = ("input_features", "input_features_mask")
    padding = "left out"
    not_inside = (
        "its encoder's frames are audio tokens already, and it attends within chunks laid out before its layers"
    )

    def rate(self, config: Config) -> Fraction:
        return Fraction(CHUNK_TOKENS * MEL_HZ, 2 * config.audio_config.n_window)

    def encode(
        self, model: nn.Module, audio: dict[str, Any], input_ids: Int[Tensor, "b l"], site: str, scores: bool
    ) -> Windows:
        core: Any = model.base_model
        mel = audio["input_features_mask"].sum(-1).tolist()
        layer = core.audio_tower.layers[-1].self_attn
        with attention_received(layer) if scores else nullcontext() as received:
            out = core.get_audio_features(**audio, return_dict=True)
        return Windows(
            tokens=out.last_hidden_state if site == "encoder" else out.pooler_output,
            lengths=[tokens_of(frames, core.config.audio_config.n_window) for frames in mel],
            full=None,
            scores=received.scores[0] if received else None,
        )

    def project(self, model: nn.Module, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n e"]:
        core: Any = model.base_model
        return core.multi_modal_projector(tokens)
