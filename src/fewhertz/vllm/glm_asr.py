"""GLM-ASR under vLLM."""

from vllm.model_executor.models import glmasr as upstream
from vllm.multimodal import MULTIMODAL_REGISTRY

from fewhertz.vllm.choice import family_named
from fewhertz.vllm.mixins import NEW_NAMES, CompressedModel, CompressedProcessor


class _Family:
    family = family_named("glm-asr")


class Processor(_Family, CompressedProcessor, upstream.GlmAsrMultiModalProcessor):
    """Lays out the compressed number of audio tokens."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=upstream.GlmAsrProcessingInfo, dummy_inputs=upstream.GlmAsrDummyInputsBuilder
)
class GlmAsr(_Family, CompressedModel, upstream.GlmAsrForConditionalGeneration):
    """Embeds it."""

    renamed = NEW_NAMES
