"""Qwen2.5-Omni, its thinker."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewhertz.families.base import MEL_HZ, Config, Family, Windows
from fewhertz.scores import attention_received, token_means

_GRIDS = ("image_grid_thw", "video_grid_thw")


class Qwen2_5Omni(Family, name="qwen2.5-omni"):
    """Whisper-like encoder at 50 Hz that attends within 2 s, pairs averaged to 25 Hz, one linear layer, Qwen2.5.

    Audio up to 300 s is one row. Images and videos beside the audio pass as they are; audio inside a video does not:
    its placeholders are woven into the video's. Speech output of the whole model is not supported, since the talker
    reads the uncompressed prompt: generate text alone (`generation_mode="text"`).
    """

    model_classes = ("Qwen2_5OmniThinkerForConditionalGeneration",)
    model_types = ("qwen2_5_omni_thinker",)
    audio_inputs = ("input_features", "feature_attention_mask")
    sites = ("llm",)
    max_seconds: ClassVar[float | None] = 300.0
    padding = "left out"
    not_inside = "its encoder attends within chunks of 2 s, whose bounds are laid out before its first layer"

    def rate(self, config: Config) -> Fraction:
        return Fraction(MEL_HZ, 4)

    def tokens_of(self, config: Config, mel_frames: int) -> int:
        """Audio tokens of `mel_frames` mel frames."""
        return ((mel_frames - 1) // 2 + 1) // 2

    def mel_frames(self, config: Config, tokens: int) -> int:
        """Mel frames that would give `tokens` audio tokens: how the model's own positions learn of a new length."""
        return 4 * tokens

    def token_scores(self, scores: Float[Tensor, " f"], mel_frames: list[int]) -> Float[Tensor, " n"]:
        """Scores of packed encoder frames, averaged to the LLM's rate."""
        frames = [(mel - 1) // 2 + 1 for mel in mel_frames]
        return torch.cat([token_means(clip, 2) for clip in scores.split(frames)])

    def refuse(self, model: nn.Module, call: dict[str, Any]) -> None:
        config: Any = model.config
        ids = call.get("input_ids")
        woven = ids is not None and bool(
            ((ids[:, :-1] == config.audio_token_id) & (ids[:, 1:] == config.video_token_id)).any()
            or ((ids[:, :-1] == config.video_token_id) & (ids[:, 1:] == config.audio_token_id)).any()
        )
        if woven or call.get("use_audio_in_video"):
            raise NotImplementedError(
                f"{self.name} cannot compress audio inside a video (use_audio_in_video): pass the sound track as audio"
            )

    def encode(
        self, model: nn.Module, audio: dict[str, Any], input_ids: Int[Tensor, "b l"], site: str, scores: bool
    ) -> Windows:
        core: Any = model.base_model
        mel = audio["feature_attention_mask"].sum(-1).tolist()
        layer = core.audio_tower.layers[-1].self_attn
        with attention_received(layer) if scores else nullcontext() as received:
            tokens = core.get_audio_features(**audio, return_dict=True).last_hidden_state
        return Windows(
            tokens=tokens,
            lengths=[self.tokens_of(core.config, frames) for frames in mel],
            full=None,
            scores=self.token_scores(received.scores[0], mel) if received else None,
        )

    def finish(self, model: nn.Module, call: dict[str, Any], counts: list[int], generating: bool) -> dict[str, Any]:
        thinker: Any = model
        call.pop("audio_feature_lengths", None)
        # ids stay in any case: they say where images and videos go
        if call.get("position_ids") is not None:
            return call
        if generating:
            # generate works out positions and the offset for decoding from the ids; audio counts only beside vision
            if any(call.get(name) is not None for name in _GRIDS):
                call["audio_feature_lengths"] = self._mel(model, call, counts)
            return call
        call["position_ids"], thinker.base_model.rope_deltas = self._rope(model, call, counts)
        return call

    def positions(self, model: nn.Module, call: dict[str, Any], counts: list[int]) -> Tensor:
        return self._rope(model, call, counts)[0]

    def _mel(self, model: nn.Module, call: dict[str, Any], counts: list[int]) -> Tensor:
        return torch.tensor([self.mel_frames(model.config, n) for n in counts], device=call["input_ids"].device)

    def _rope(self, model: nn.Module, call: dict[str, Any], counts: list[int]) -> tuple[Tensor, Tensor]:
        """Positions, (3, b, l), and by how much decoding is ahead of the number of tokens, (b, 1)."""
        thinker: Any = model
        ids, mask = call["input_ids"], call.get("attention_mask")
        return thinker.get_rope_index(
            ids,
            **{name: call.get(name) for name in _GRIDS},
            attention_mask=torch.ones_like(ids) if mask is None else mask,
            audio_seqlens=self._mel(model, call, counts),
            second_per_grids=call.get("video_second_per_grid"),
        )
