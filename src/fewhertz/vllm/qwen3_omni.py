"""Qwen3-Omni's thinker under vLLM."""

from typing import Any

from vllm.model_executor.models import qwen3_omni_moe_thinker as upstream
from vllm.multimodal import MULTIMODAL_REGISTRY

from fewhertz.vllm.choice import family_named
from fewhertz.vllm.mixins import CompressedModel, CompressedProcessor
from fewhertz.vllm.qwen2_5_omni import OmniPositions


class _Family:
    family: Any = family_named("qwen3-omni")


class Processor(_Family, CompressedProcessor, upstream.Qwen3OmniMoeThinkerMultiModalProcessor):
    """Lays out the compressed number of audio tokens."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor,
    info=upstream.Qwen3OmniMoeThinkerProcessingInfo,
    dummy_inputs=upstream.Qwen3OmniMoeThinkerDummyInputsBuilder,
)
class Qwen3Omni(_Family, OmniPositions, CompressedModel, upstream.Qwen3OmniMoeThinkerForConditionalGeneration):
    """Embeds it."""
