"""Qwen2-Audio (and pocket) under vLLM."""

from typing import Any

from vllm.model_executor.models import qwen2_audio as upstream
from vllm.multimodal import MULTIMODAL_REGISTRY

from fewhertz.families.whisper import shallow, shortened
from fewhertz.vllm.choice import family_named
from fewhertz.vllm.mixins import NEW_NAMES, CompressedModel, CompressedProcessor, WhisperTower


class _Family:
    family = family_named("qwen2-audio")
    scores = True  # the encoder is transformers' own


class Processor(_Family, CompressedProcessor, upstream.Qwen2AudioMultiModalProcessor):
    """Lays out the compressed number of audio tokens."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=upstream.Qwen2AudioProcessingInfo, dummy_inputs=upstream.Qwen2AudioDummyInputsBuilder
)
class Qwen2Audio(_Family, WhisperTower, CompressedModel, upstream.Qwen2AudioForConditionalGeneration):
    """Embeds it."""

    renamed = NEW_NAMES

    def _process_audio_input(self, audio_input: Any) -> Any:
        if audio_input["type"] == "audio_embeds":
            return super()._process_audio_input(audio_input)
        features, mask = audio_input["input_features"], audio_input["feature_attention_mask"]
        width = self.width(mask)
        if width == mask.shape[-1]:
            return super()._process_audio_input(audio_input)
        model = shallow(self, audio_tower=shortened(self.audio_tower, width // 2))
        cut = {"type": audio_input["type"], "input_features": features[..., :width]}
        return super(Qwen2Audio, model)._process_audio_input(cut | {"feature_attention_mask": mask[..., :width]})
