"""The model: an ordinary `Qwen2AudioForConditionalGeneration`, and a forward for training without 30 s of padding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder

from .config import HEAD_DIM, N_MELS, Size


def model_config(size: Size, ids: dict[str, int]) -> Qwen2AudioConfig:
    """``ids``: token ids by special token."""
    heads = size.d_llm // HEAD_DIM
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
        text_config={
            "model_type": "qwen2",
            "vocab_size": size.vocab,
            "hidden_size": size.d_llm,
            "intermediate_size": size.llm_ffn,
            "num_hidden_layers": size.llm_layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            **end,
        },
        audio_token_index=ids["<|AUDIO|>"],
        tie_word_embeddings=False,
        **end,
    )


def sinusoids(length: int, width: int) -> Tensor:
    """Whisper's fixed positions, ``[length, width]``."""
    rates = torch.exp(-math.log(10_000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


def build(config: Qwen2AudioConfig) -> Qwen2AudioForConditionalGeneration:
    """A fresh model.

    Encoder keys start as copies of the queries: then a frame attends first to frames like it and near it (sinusoids of
    near positions have the larger product), which is what speech needs and would otherwise have to be learnt.
    """
    model = Qwen2AudioForConditionalGeneration(config)
    tower = model.model.audio_tower
    with torch.no_grad():
        tower.embed_positions.weight.copy_(sinusoids(*tower.embed_positions.weight.shape))
        for conv in (tower.conv1, tower.conv2):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            conv.bias.zero_()
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and "lm_head" not in name:
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    module.bias.zero_()
        depth = {id(tower): len(tower.layers), id(model.model.language_model): config.text_config.num_hidden_layers}
        for layer in tower.layers:
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
            for out in (layer.self_attn.out_proj, layer.fc2):
                out.weight.mul_((2 * depth[id(tower)]) ** -0.5)
        for layer in model.model.language_model.layers:
            for out in (layer.self_attn.o_proj, layer.mlp.down_proj):
                out.weight.mul_((2 * depth[id(model.model.language_model)]) ** -0.5)
        model.model.language_model.embed_tokens.weight.normal_(std=0.5)
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


class CTCHead(nn.Module):
    """Phoneme logits at 50 Hz from the encoder's states. Used in training only and not shipped."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, classes + 1)  # class 0 is the blank

    def forward(self, states: Tensor) -> Tensor:
        return self.linear(self.norm(states))
