"""Music Flamingo."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewhertz.families.audio_flamingo_3 import AudioFlamingo3


class MusicFlamingo(AudioFlamingo3, name="music-flamingo"):
    """Audio Flamingo 3 with rotary time embeddings before the projector, up to 20 minutes.

    The site `"encoder"` stands after the time embeddings, so a token carries the mean of those of its members. Behind
    the sites `"encoder.k"` it gets the embedding of its mean time.
    """

    model_classes = ("MusicFlamingoForConditionalGeneration",)
    model_types = ("musicflamingo",)
    max_seconds = 1200.0

    def trimmed(
        self, model: nn.Module, audio: dict[str, Any], input_ids: Int[Tensor, "b l"]
    ) -> tuple[nn.Module, dict[str, Any]]:
        config: Any = model.config
        places = (input_ids == config.audio_token_id).int()
        runs = (places.diff(dim=1, prepend=torch.zeros_like(places[:, :1])) == 1).sum()
        # a window behind another in a run of placeholders is later by the width of a window: it stays as it is
        whole = int(runs) != len(audio["input_features"])
        return (model, audio) if whole else super().trimmed(model, audio, input_ids)

    def features(self, core: Any, audio: dict[str, Any], input_ids: Int[Tensor, "b l"]) -> Float[Tensor, "n e"]:
        # window times are read off the runs of placeholders
        return core.get_audio_features(**audio, input_ids=input_ids, return_dict=True).pooler_output

    def timed(self, model: nn.Module, tokens: Float[Tensor, "n d"], times: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Turned by the window that they stand in, their place in it and their seconds, as the model's `pos_emb` does.

        That one knows whole places alone; the arithmetic is its own, in its order.
        """
        from transformers.models.musicflamingo.modeling_musicflamingo import apply_rotary_time_emb

        core: Any = model.base_model
        turns, config = core.pos_emb, core.config
        full, step = config.audio_config.max_source_positions // 2, 4 * config.audio_frame_step
        times = times.to(turns.inv_freq)
        window = ((times + 0.5) / full).floor()  # a window's first frame stands a quarter of a token before its place 0
        place = times - window * full
        axes = torch.stack([window / turns.max_seq_len_cached, place / turns.max_seq_len_cached * (2 * math.pi)], dim=1)
        speeds = (axes[..., None] * turns.inv_freq).repeat_interleave(2, dim=-1).flatten(1)
        seconds = window * full * step + place * step
        angles = speeds * (-seconds * 2 * math.pi)[:, None]
        return apply_rotary_time_emb(tokens, angles.cos(), angles.sin())
