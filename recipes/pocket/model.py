"""The model: an ordinary `Qwen2AudioForConditionalGeneration`, and a forward for training without 30 s of padding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
)
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

from .config import HEAD_DIM, N_MELS, Size
from .features import extractor, frames_of
from .hear import Clips, heard


def llm_config(size: Size) -> dict[str, object]:
    """Of the LLM, whatever its class."""
    heads = size.d_llm // HEAD_DIM
    return {
        "vocab_size": size.vocab,
        "hidden_size": size.d_llm,
        "intermediate_size": size.llm_ffn,
        "num_hidden_layers": size.llm_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "tie_word_embeddings": False,
    }


def model_config(size: Size, ids: dict[str, int]) -> Qwen2AudioConfig:
    """``ids``: token ids by special token."""
    end = {"bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    return Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": N_MELS,
            "d_model": size.d_encoder,
            "encoder_layers": size.encoder_layers,
            "encoder_attention_heads": size.encoder_heads,
            "encoder_ffn_dim": 4 * size.d_encoder,
            "max_source_positions": 1500,
        },
        text_config={"model_type": "qwen2", "use_sliding_window": False} | llm_config(size) | end,
        audio_token_index=ids["<|AUDIO|>"],
        tie_word_embeddings=False,
        **end,
    )


def sinusoids(length: int, width: int) -> Tensor:
    """Whisper's fixed positions, ``[length, width]``."""
    rates = torch.exp(-math.log(10_000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


@torch.no_grad()
def initialise(
    model: nn.Module, convs: Iterable[nn.Conv1d], layers: Sequence[tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]]
) -> None:
    """Draw the weights of a fresh model.

    Encoder keys start as copies of the queries: then a frame attends first to frames like it and near it (sinusoids of
    near positions have the larger product), which is what speech needs and would otherwise have to be learnt.

    Args:
        model: all of it.
        convs: of its encoder.
        layers: of its encoder: queries, keys, and what attention and MLP end with.
    """
    for conv in convs:
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        conv.bias.zero_()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "lm_head" not in name:
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                module.bias.zero_()
    for queries, keys, *ends in layers:
        keys.weight.copy_(queries.weight)
        for end in ends:
            end.weight.mul_((2 * len(layers)) ** -0.5)
    llm = model.model.language_model
    for layer in llm.layers:
        for end in (layer.self_attn.o_proj, layer.mlp.down_proj):
            end.weight.mul_((2 * len(llm.layers)) ** -0.5)
    llm.embed_tokens.weight.normal_(std=0.5)


def build(config: Qwen2AudioConfig) -> Qwen2AudioForConditionalGeneration:
    """A fresh model."""
    model = Qwen2AudioForConditionalGeneration(config)
    tower = model.model.audio_tower
    with torch.no_grad():
        tower.embed_positions.weight.copy_(sinusoids(*tower.embed_positions.weight.shape))
    ends = [(x.self_attn.q_proj, x.self_attn.k_proj, x.self_attn.out_proj, x.fc2) for x in tower.layers]
    initialise(model, (tower.conv1, tower.conv2), ends)
    return model


def frame_lengths(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Mel frames at 100 Hz → encoder states at 50 Hz, audio tokens at 25 Hz: the lengths of the stock model."""
    states = (frames - 1) // 2 + 1
    return states, (states - 2) // 2 + 1


def encode(tower: Qwen2AudioEncoder, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """The encoder on a batch of any length: states ``[b, t/2, d]`` before pooling, and ``[b, t/4, d]`` after it.

    ``mel [b, t, n_mels]``, t a multiple of 4, padded as the feature extractor pads; ``frames [b]`` valid frames. The
    stock forward does the same thing but refuses anything other than 30 s, most of which would be padding here.
    """
    x = nn.functional.gelu(tower.conv1(mel.transpose(1, 2)))
    x = nn.functional.gelu(tower.conv2(x)).transpose(1, 2)
    x = x + tower.embed_positions.weight[: x.shape[1]]
    x = nn.functional.dropout(x, p=tower.dropout, training=tower.training)
    states, _ = frame_lengths(frames)
    mask = torch.arange(x.shape[1], device=x.device)[None, :] < states[:, None]  # as the stock model: padding is no key
    for layer in tower.layers:
        x = layer(x, mask[:, None, None, :])
    pooled = tower.layer_norm(tower.avg_pooler(x.transpose(1, 2)).transpose(1, 2))
    return x, pooled


class Qwen2Audio:
    """A `family.Family`: log-mel features, Whisper's encoder, pairs of its states averaged."""

    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    roles: ClassVar[dict[str, str]] = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    hz = 25.0
    several = True
    # on dev's passages 4 to 15 s are alike; where voices change, the shortest has the fewest errors (bench.long_audio)
    comfortable_seconds = 4.0

    def processor(self, tokenizer: PreTrainedTokenizerFast) -> Qwen2AudioProcessor:
        template = Qwen2AudioProcessor.default_chat_template.fget(None)  # written out so that it is saved
        return Qwen2AudioProcessor(extractor(), tokenizer, chat_template=template)

    def blank(self, size: Size, ids: dict[str, int]) -> Qwen2AudioForConditionalGeneration:
        return Qwen2AudioForConditionalGeneration(model_config(size, ids))

    def build(self, size: Size, ids: dict[str, int]) -> Qwen2AudioForConditionalGeneration:
        return build(model_config(size, ids))

    def drop(self, tower: Qwen2AudioEncoder, share: float) -> None:
        for module in (tower, *tower.layers):
            module.dropout = share

    def frames_of(self, samples: int) -> int:
        return frames_of(samples)

    def lengths(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return frame_lengths(frames)

    def heard(self, bank: Tensor, noise: Tensor, clips: Clips) -> Tensor:
        return heard(bank, noise, clips)[0]

    def encode(self, tower: Qwen2AudioEncoder, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        return encode(tower, features, frames)


class CTCHead(nn.Module):
    """Phoneme logits at 50 Hz from the encoder's states. Used in training only and not shipped."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, classes + 1)  # class 0 is the blank

    def forward(self, states: Tensor) -> Tensor:
        return self.linear(self.norm(states))
