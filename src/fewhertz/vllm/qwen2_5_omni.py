"""Qwen2.5-Omni's thinker under vLLM."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from vllm.model_executor.models import qwen2_5_omni_thinker as upstream
from vllm.multimodal import MULTIMODAL_REGISTRY

from fewhertz.scores import attention_received
from fewhertz.vllm.choice import family_named
from fewhertz.vllm.mixins import CompressedModel, CompressedProcessor


class OmniPositions:
    """M-RoPE spans of compressed clips: vLLM works them out from mel frames, so it is given as many as would do."""

    family: Any
    config: Any

    def iter_mm_features(self, mm_features: list[Any]) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Items of the prompt in order, as vLLM has it."""
        upstream: Any = super()
        tokens = {item.mm_position.offset: item.mm_position.length for item in mm_features}
        for offset, modality, data in upstream.iter_mm_features(mm_features):
            if modality == "audio":
                data = {"audio_feature_length": self.family.mel_frames(self.config, tokens[offset])}
            yield offset, modality, data


class _Family:
    family: Any = family_named("qwen2.5-omni")
    scores = upstream.flash_attn is None  # with flash-attn installed, vLLM lets the encoder run on that


class Processor(_Family, CompressedProcessor, upstream.Qwen2_5OmniThinkerMultiModalProcessor):
    """Lays out the compressed number of audio tokens."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor,
    info=upstream.Qwen2_5OmniThinkerProcessingInfo,
    dummy_inputs=upstream.Qwen2_5OmniThinkerDummyInputsBuilder,
)
class Qwen2_5Omni(_Family, OmniPositions, CompressedModel, upstream.Qwen2_5OmniThinkerForConditionalGeneration):
    """Embeds it."""

    @contextmanager
    def scored(self, audio: dict[str, Any]) -> Iterator[list[Tensor]]:
        """See `CompressedModel.scored`."""
        mel = [int(frames) for frames in audio["audio_feature_lengths"]]
        scores: list[Tensor] = []
        with attention_received(self.audio_tower.layers[-1].self_attn) as received:
            yield scores
        counts = [self.family.tokens_of(self.config, frames) for frames in mel]
        scores += self.family.token_scores(received.scores[0], mel).split(counts)
