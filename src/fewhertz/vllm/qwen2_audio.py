"""Qwen2-Audio (and pocket) under vLLM."""

from vllm.model_executor.models import qwen2_audio as upstream
from vllm.multimodal import MULTIMODAL_REGISTRY

from fewhertz.vllm.choice import family_named
from fewhertz.vllm.mixins import NEW_NAMES, CompressedModel, CompressedProcessor, WhisperScores


class _Family:
    family = family_named("qwen2-audio")
    scores = True  # the encoder is transformers' own


class Processor(_Family, CompressedProcessor, upstream.Qwen2AudioMultiModalProcessor):
    """Lays out the compressed number of audio tokens."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=upstream.Qwen2AudioProcessingInfo, dummy_inputs=upstream.Qwen2AudioDummyInputsBuilder
)
class Qwen2Audio(_Family, WhisperScores, CompressedModel, upstream.Qwen2AudioForConditionalGeneration):
    """Embeds it."""

    renamed = NEW_NAMES
