"""Music Flamingo."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from fewhertz.families.audio_flamingo_3 import AudioFlamingo3


class MusicFlamingo(AudioFlamingo3, name="music-flamingo"):
    """Audio Flamingo 3 with rotary time embeddings before the projector, up to 20 minutes.

    The site `"encoder"` stands after the time embeddings, so a token carries the mean of those of its members.
    """

    model_classes = ("MusicFlamingoForConditionalGeneration",)
    model_types = ("musicflamingo",)
    max_seconds = 1200.0

    def features(self, core: Any, audio: dict[str, Any], input_ids: Int[Tensor, "b l"]) -> Float[Tensor, "n e"]:
        # window times are read off the runs of placeholders
        return core.get_audio_features(**audio, input_ids=input_ids, return_dict=True).pooler_output
