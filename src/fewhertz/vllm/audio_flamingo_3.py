"""Audio Flamingo 3 under vLLM, which takes one clip a prompt."""

from vllm.model_executor.models import audioflamingo3 as upstream
from vllm.multimodal import MULTIMODAL_REGISTRY

from fewhertz.vllm.choice import family_named
from fewhertz.vllm.mixins import NEW_NAMES, CompressedModel, CompressedProcessor, WhisperScores


class _Family:
    family = family_named("audio-flamingo-3")
    scores = True  # the encoder is made of transformers' own layers


class Processor(_Family, CompressedProcessor, upstream.AudioFlamingo3MultiModalProcessor):
    """Lays out the compressed number of audio tokens."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=upstream.AudioFlamingo3ProcessingInfo, dummy_inputs=upstream.AudioFlamingo3DummyInputsBuilder
)
class AudioFlamingo3(_Family, WhisperScores, CompressedModel, upstream.AudioFlamingo3ForConditionalGeneration):
    """Embeds it."""

    renamed = NEW_NAMES
