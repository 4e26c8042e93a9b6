"""Audio Flamingo 3 under vLLM, which takes one clip a prompt."""

from torch import Tensor
from vllm.model_executor.models import audioflamingo3 as upstream
from vllm.multimodal import MULTIMODAL_REGISTRY

from fewhertz.vllm.choice import family_named
from fewhertz.vllm.mixins import NEW_NAMES, CompressedModel, CompressedProcessor, WhisperTower


class _Family:
    family = family_named("audio-flamingo-3")
    scores = True  # the encoder is made of transformers' own layers


class Processor(_Family, CompressedProcessor, upstream.AudioFlamingo3MultiModalProcessor):
    """Lays out the compressed number of audio tokens."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=upstream.AudioFlamingo3ProcessingInfo, dummy_inputs=upstream.AudioFlamingo3DummyInputsBuilder
)
class AudioFlamingo3(_Family, WhisperTower, CompressedModel, upstream.AudioFlamingo3ForConditionalGeneration):
    """Embeds it."""

    renamed = NEW_NAMES

    def _encode_audio_features(self, input_features: Tensor, feature_attention_mask: Tensor) -> Tensor:
        width = self.width(feature_attention_mask)  # the tower takes windows of any length
        return super()._encode_audio_features(input_features[..., :width], feature_attention_mask[..., :width])
