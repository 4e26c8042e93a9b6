"""Music Flamingo."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewhertz.families.audio_flamingo_3 import AudioFlamingo3


class MusicFlamingo(AudioFlamingo3, name="music-flamingo"):
    """Audio Flamingo 3 with rotary time embeddings before the projector, up to 20 minutes.

    The site `"encoder"` stands after the time embeddings, so a token carries the mean of those of its members.
    """

    model_classes = ("MusicFlamingoForConditionalGeneration",)
    model_types = ("musicflamingo",)
    max_seconds = 1200.0
    not_inside = "its time embeddings stand behind the encoder, at whole windows of audio tokens"

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
