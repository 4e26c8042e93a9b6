"""Qwen3-ASR under vLLM."""

from vllm.model_executor.models import qwen3_asr as upstream
from vllm.multimodal import MULTIMODAL_REGISTRY

from fewhertz.vllm.choice import family_named
from fewhertz.vllm.mixins import CompressedModel, CompressedProcessor


class _Family:
    family = family_named("qwen3-asr")


class Processor(_Family, CompressedProcessor, upstream.Qwen3ASRMultiModalProcessor):
    """Lays out the compressed number of audio tokens."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=upstream.Qwen3ASRProcessingInfo, dummy_inputs=upstream.Qwen3ASRDummyInputsBuilder
)
class Qwen3Asr(_Family, CompressedModel, upstream.Qwen3ASRForConditionalGeneration):
    """Embeds it."""
