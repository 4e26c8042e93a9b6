"""The other class: an ordinary `OmniASRForConditionalGeneration` (transformers 5.24), a Wav2Vec2 encoder on the wave.

Every frame of its encoder, 50 a second, is an audio token. Nothing is asked in words: a prompt is the audio, the marker
of the language (here always `auto`) and BOS, as the class's processor closes it; the answer is the transcript and EOS.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from .config import LONGEST, Size
from .hear import Clips, sounded, with_gaps
from .model import initialise, llm_config

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)  # those of the class: what fits, 320 samples a frame
# of the encoder's width, in twelfths. A convolution costs as many frames as it makes, 3,200 a second at first; the ten
# samples that the first one sees have no more than ten dimensions
WIDTHS = (1, 2, 4, 8, 12, 12, 12)
NEAR, GROUPS = 64, 16  # frames of the convolution that gives positions, and its groups
EPSILON = 1e-5  # of the feature extractor's variance
PAD, BOS, EOS, AUDIO, LANGUAGE = "<pad>", "<s>", "</s>", "<extra_id_1>", "<|lang:auto|>"
TEMPLATE = (
    "{% for message in messages %}{% for item in message['content'] if item['type'] == 'audio' %}" + AUDIO
    + "{% endfor %}" + LANGUAGE + BOS + "{% endfor %}"
)  # fmt: skip


def of_transformers(name: str) -> Any:
    """A class of OmniASR.

    Raises:
        RuntimeError: where this transformers has none.
    """
    if not hasattr(transformers, name):
        raise RuntimeError(f"transformers {transformers.__version__} has no {name}: OmniASR came with 5.24")
    return getattr(transformers, name)


def model_config(size: Size, ids: dict[str, int]) -> Any:
    """``ids``: token ids by special token."""
    ends = {"bos_token_id": ids[BOS], "eos_token_id": ids[EOS], "pad_token_id": ids[PAD]}
    return of_transformers("OmniASRConfig")(
        audio_config={
            "model_type": "omniasr_audio",
            "hidden_size": size.d_encoder,
            "conv_dim": [size.d_encoder * width // 12 for width in WIDTHS],
            "conv_kernel": list(KERNELS),
            "conv_stride": list(STRIDES),
            "num_hidden_layers": size.encoder_layers,
            "num_attention_heads": size.encoder_heads,
            "intermediate_size": 4 * size.d_encoder,
            "num_conv_pos_embeddings": NEAR,
            "num_conv_pos_embedding_groups": GROUPS,
            "hidden_dropout": 0.0,
            "activation_dropout": 0.0,
            "layerdrop": 0.0,
        },
        text_config={"model_type": "llama"} | llm_config(size) | ends,
        audio_token_id=ids[AUDIO],
        tie_word_embeddings=False,
        **ends,
    )


def normalised(waves: Tensor, samples: Tensor) -> Tensor:
    """Zero mean and unit variance of each clip ``[b, t]`` over its own samples ``[b]``, zeros behind it: what
    `OmniASRFeatureExtractor` does.
    """
    inside = torch.arange(waves.shape[1], device=waves.device) < samples[:, None]
    mean = (waves * inside).sum(1, keepdim=True) / samples[:, None]
    variance = ((waves - mean) ** 2 * inside).sum(1, keepdim=True) / samples[:, None]
    return (waves - mean) / (variance + EPSILON).sqrt() * inside


def _laid_out_alike(module: nn.Module, inputs: tuple, out: Tensor) -> None:
    """Lay the gradient of a layer's output out as that output is, channels last: GELU's backward is several times
    slower where it has to read the two in other orders.
    """
    if out.requires_grad:
        out.register_hook(lambda gradient: gradient.mT.contiguous().mT)


class OmniAsr:
    """A `family.Family`: see the head of the file."""

    special = (PAD, BOS, EOS, AUDIO, LANGUAGE)
    roles: ClassVar[dict[str, str]] = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS}
    hz = 50.0
    several = False
    comfortable_seconds = LONGEST

    def processor(self, tokenizer: PreTrainedTokenizerFast) -> Any:
        made = of_transformers("OmniASRFeatureExtractor")()
        return of_transformers("OmniASRProcessor")(
            made, tokenizer, TEMPLATE, audio_token=AUDIO, conv_kernel=list(KERNELS), conv_stride=list(STRIDES)
        )

    def blank(self, size: Size, ids: dict[str, int]) -> Any:
        return of_transformers("OmniASRForConditionalGeneration")(model_config(size, ids))

    def build(self, size: Size, ids: dict[str, int]) -> Any:
        model = self.blank(size, ids)
        tower = model.model.audio_tower
        layers = tower.subsampling.conv_layers
        ends = [
            (x.attention.q_proj, x.attention.k_proj, x.attention.out_proj, x.feed_forward.output_dense)
            for x in tower.layers
        ]
        initialise(model, [*(layer.conv for layer in layers), tower.encode_positions.conv], ends)
        for layer in layers[1:]:
            # All taps alike: each convolution smooths what the one before has rectified, as a filter bank would. From
            # random taps CTC stays for long at what blanks alone give
            taps = layer.conv.weight.detach()
            taps.copy_(taps.mean(2, keepdim=True).expand_as(taps))
        for layer in layers:
            layer.register_forward_hook(_laid_out_alike)
        return model

    def drop(self, tower: Any, share: float) -> None:
        tower.hidden_dropout = share
        for module in tower.modules():
            if isinstance(module, nn.Dropout):
                module.p = share

    def frames_of(self, samples: int) -> int:
        return samples

    def lengths(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            frames = (frames - kernel) // stride + 1
        return frames, frames

    def heard(self, bank: Tensor, noise: Tensor, clips: Clips) -> Tensor:
        return normalised(with_gaps(sounded(bank, noise, clips), clips), clips.samples)

    def encode(self, tower: Any, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        inside = torch.arange(features.shape[1], device=features.device) < frames[:, None]
        states = tower(features[:, None], padding_mask=inside.long()).last_hidden_state
        return states, states
