"""The shapes of models that are measured, made of random weights, and what they are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding

LAYER = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
RATE = 25.0  # audio tokens per second
TEXT_BEFORE, TEXT_PER_CLIP, TEXT_AFTER = 15, 8, 20  # about a system prompt, "Audio 1: <bos><eos>\n", a question
ID_LIMIT = 100  # text tokens of the prompts are drawn below

# the LLM and the encoder of Qwen2-Audio-7B
TEXT_7B: dict[str, int] = {
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 156_032,
}
AUDIO_7B: dict[str, int] = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
}
LAYERS = TEXT_7B["num_hidden_layers"]
QWEN2_7B: dict[str, int] = {
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
LAYERS_QWEN2_7B = QWEN2_7B["num_hidden_layers"]
QWEN3_06B = {  # huggingface.co/Qwen/Qwen3-0.6B/blob/main/config.json
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
}
# for tests: shows that a bench runs
TINY_TEXT: dict[str, int] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 128,
}
TINY_AUDIO: dict[str, int] = {
    "d_model": 32,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "num_mel_bins": 8,
    "max_source_positions": 120,
}


def layer_of(text: dict[str, int]) -> dict[str, int]:
    """The shape of one decoder layer of an LLM."""
    return {name: text[name] for name in LAYER}


@dataclass(frozen=True)
class Case:
    """`batch` prompts with `clips` pieces of audio of 30 s each."""

    clips: int
    batch: int

    def __str__(self) -> str:
        return f"{self.clips} × 30 s, batch {self.batch}"

    def prompt(self, tokens_per_clip: int) -> int:
        """Tokens of one prompt."""
        return TEXT_BEFORE + self.clips * (TEXT_PER_CLIP + tokens_per_clip) + TEXT_AFTER


def configuration(size: dict[str, Any]) -> Qwen2AudioConfig:
    text, audio = size["text"], size["audio"]
    return Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder"} | audio,
        text_config={"model_type": "qwen2", "max_position_embeddings": 8192, "rms_norm_eps": 1e-5} | text,
        audio_token_index=min(151_646, text["vocab_size"] - 1),
    )


def build(config: Qwen2AudioConfig, device: str, dtype: torch.dtype) -> Any:
    """The model with random weights, made where and as they are to be: no copy in float32 on the way."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return Qwen2AudioForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)


def tokens_of_clip(config: Qwen2AudioConfig) -> int:
    return config.audio_config.max_source_positions // 2


def request(config: Qwen2AudioConfig, case: Case, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random prompts laid out as the processor does, the audio as mel spectrograms of full windows."""
    mels, frames = config.audio_config.num_mel_bins, 2 * config.audio_config.max_source_positions
    audio = [config.audio_token_id] * tokens_of_clip(config)

    def text(n: int) -> list[int]:
        return torch.randint(0, ID_LIMIT, (n,)).tolist()

    def prompt() -> list[int]:
        ids = text(TEXT_BEFORE)
        for _ in range(case.clips):
            ids += text(TEXT_PER_CLIP // 2) + audio + text(TEXT_PER_CLIP - TEXT_PER_CLIP // 2)
        return ids + text(TEXT_AFTER)

    ids = torch.tensor([prompt() for _ in range(case.batch)], device=device)
    windows = case.clips * case.batch
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "input_features": torch.randn(windows, mels, frames, device=device, dtype=dtype),
        "feature_attention_mask": torch.ones(windows, frames, device=device, dtype=torch.long),
    }


def decoder_layer(shape: dict[str, int], sequences: int, tokens: int, like: dict[str, Any]) -> Callable[[], object]:
    """A prefill pass of one decoder layer of random weights."""
    config = Qwen2Config(**shape, attn_implementation="sdpa")
    layer = Qwen2DecoderLayer(config, 0).to(**like).eval()
    x = torch.randn(sequences, tokens, config.hidden_size, **like)
    positions = torch.arange(tokens, device=x.device)[None]
    rotary = Qwen2RotaryEmbedding(config).to(x.device)(x, positions)
    return lambda: layer(x, position_ids=positions, position_embeddings=rotary)
