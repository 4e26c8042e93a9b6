"""Tiny random models of the real classes, and prompts for them.

Every family of `fewhertz.families` has one builder of its model and one rule of how its processor lays out audio,
followed from the processor's source: features of the true shapes with random values, and the placeholders that
belong to them. (`test_families.py` also runs those real processors that can be built without network.)
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

DEVICE = os.environ.get("FEWHERTZ_TEST_DEVICE", "cpu")  # where models and inputs are: cuda on a machine with a GPU
MELS = 16
VOCAB = 112  # ids below 100 are text
AUDIO, AUDIO_BOS, AUDIO_EOS, VISION_BOS, VISION_EOS, IMAGE, VIDEO, PAD = range(100, 108)
WINDOW = 3000  # mel frames of 30 s

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": VOCAB,
    "max_position_embeddings": 8192,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": None,
}
WHISPER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_mel_bins": MELS,
}
CHUNKED = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "num_mel_bins": MELS,
    "output_dim": 32,
}
VISION = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
}
OMNI = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "audio_token_id": AUDIO,
    "audio_start_token_id": AUDIO_BOS,
    "vision_start_token_id": VISION_BOS,
}


def _made(name: str, config: Callable[[Any], Any], seed: int = 0) -> Any:
    """A model of transformers' class `name`, or a skipped test where this transformers has none."""
    import transformers

    cls = getattr(transformers, name, None)
    if cls is None:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    torch.manual_seed(seed)
    model = cls(config(cls.config_class)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:  # the usual 0.02 would leave logits so flat that argmax hardly depends on the audio
            nn.init.normal_(parameter, std=0.25)
    model.generation_config.pad_token_id = PAD
    return model.to(DEVICE)


def qwen2_audio(layers: int = 2) -> Any:
    audio = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    audio |= {"model_type": "qwen2_audio_encoder", "num_mel_bins": MELS}
    text = TEXT | {"model_type": "qwen2", "num_hidden_layers": layers}
    return _made(
        "Qwen2AudioForConditionalGeneration",
        lambda config: config(audio_config=audio, text_config=text, audio_token_index=AUDIO),
    )


def _flamingo(name: str) -> Any:
    audio = WHISPER | {"model_type": "audioflamingo3_encoder"}
    text = TEXT | {"model_type": "qwen2"}
    return _made(name, lambda config: config(audio_config=audio, text_config=text, audio_token_id=AUDIO))


def _voxtral() -> Any:
    audio = WHISPER | {"model_type": "voxtral_encoder"}
    text = TEXT | {"model_type": "llama", "head_dim": 16}
    return _made(
        "VoxtralForConditionalGeneration",
        lambda config: config(audio_config=audio, text_config=text, audio_token_id=AUDIO),
    )


def _glm_asr() -> Any:
    audio = WHISPER | {"model_type": "glmasr_encoder"}
    text = TEXT | {"model_type": "llama"}
    return _made(
        "GlmAsrForConditionalGeneration",
        lambda config: config(audio_config=audio, text_config=text, audio_token_id=AUDIO),
    )


def granite_speech(name: str = "GraniteSpeechForConditionalGeneration", **more: Any) -> Any:
    encoder = {"hidden_dim": 16, "input_dim": 2 * MELS, "num_layers": 2, "num_heads": 2, "dim_head": 8, "output_dim": 8}
    encoder |= {"context_size": 20, "max_pos_emb": 32, "feedforward_mult": 2} | more
    width = 16 * (1 + len(more.get("cat_hidden_layers", ())))
    projector = {"model_type": "blip_2_qformer", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    projector |= {"intermediate_size": 32, "encoder_hidden_size": width, "use_qformer_text_input": False}
    return _made(
        name,
        lambda config: config(
            encoder_config=encoder,
            projector_config=projector,
            text_config=TEXT | {"model_type": "granite"},
            audio_token_id=AUDIO,
            has_lora_adapter=False,
        ),
    )


def _omni_asr() -> Any:
    audio = {"hidden_size": 16, "conv_dim": [8] * 7, "num_hidden_layers": 2, "num_attention_heads": 2}
    audio |= {"intermediate_size": 32, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    text = TEXT | {"model_type": "llama"}
    return _made(
        "OmniASRForConditionalGeneration",
        lambda config: config(
            audio_config=audio | {"model_type": "omniasr_audio"},
            text_config=text,
            audio_token_id=AUDIO,
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=None,
        ),
        seed=1,  # of 0, greedy decoding writes a placeholder
    )


def _qwen3_asr() -> Any:
    audio = CHUNKED | {"model_type": "qwen3_asr_encoder", "downsample_hidden_size": 8}
    text = TEXT | {"model_type": "qwen3", "head_dim": 16}
    return _made(
        "Qwen3ASRForConditionalGeneration",
        lambda config: config(
            audio_config=audio, text_config=text, audio_token_id=AUDIO, pad_token_id=PAD, eos_token_id=109
        ),
    )


def _qwen2_5_omni() -> Any:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = VISION | {"window_size": 16, "fullatt_block_indexes": [1]}
    names = {name.replace("token_id", "token_index") if "start" not in name else name: v for name, v in OMNI.items()}
    return _made(
        "Qwen2_5OmniThinkerForConditionalGeneration",
        lambda config: config(
            audio_config=CHUNKED, text_config=TEXT | {"rope_parameters": rope}, vision_config=vision, **names
        ),
    )


def _qwen3_omni() -> Any:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = TEXT | {"rope_parameters": rope, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    vision = VISION | {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    return _made(
        "Qwen3OmniMoeThinkerForConditionalGeneration",
        lambda config: config(
            audio_config=CHUNKED | {"downsample_hidden_size": 8},
            text_config=text | {"head_dim": 16},
            vision_config=vision,
            **OMNI,
        ),
    )


@dataclass(frozen=True)
class Tiny:
    """One family: how its tiny model is made, and how its processor lays audio out.

    Args:
        build: makes the model; the same weights every time.
        mask: name of the argument that marks real mel frames; None: the model has none.
        window: mel frames of an encoder window; None: a row is as long as the longest clip.
        multiple: rows are padded to a multiple of this many mel frames.
        tokens: audio tokens of a window of so many mel frames.
        longest: mel frames of the longest clip that the processor takes; None: any.
        samples: of the wave that the model hears, a mel frame; None: it hears mel frames.
        pairs: whether the model hears mel frames stacked by two, and the mask is one of audio tokens.
    """

    build: Callable[[], Any]
    mask: str | None
    window: int | None
    tokens: Callable[[int], int]
    multiple: int = 1
    longest: int | None = None
    samples: int | None = None
    pairs: bool = False

    def windows(self, mel: int) -> list[int]:
        """Mel frames of each window of a clip of `mel` mel frames."""
        if self.window is None:
            return [mel]
        return [min(self.window, mel - start) for start in range(0, mel, self.window)]

    def count(self, mel: int) -> int:
        """Audio tokens of a clip of `mel` mel frames."""
        return sum(self.tokens(part) for part in self.windows(mel))


def _halved_twice(mel: int) -> int:
    return ((mel - 1) // 2 + 1) // 2


def _convolved(mel: int) -> int:
    return (160 * mel - 400) // 320 + 1


def _by_chunks(mel: int) -> int:
    return mel // 100 * 13 + -(-(mel % 100) // 8)


TINY = {
    "qwen2-audio": Tiny(qwen2_audio, "feature_attention_mask", WINDOW, _halved_twice, longest=WINDOW),
    "audio-flamingo-3": Tiny(
        lambda: _flamingo("AudioFlamingo3ForConditionalGeneration"), "input_features_mask", WINDOW, _halved_twice
    ),
    "music-flamingo": Tiny(
        lambda: _flamingo("MusicFlamingoForConditionalGeneration"), "input_features_mask", WINDOW, _halved_twice
    ),
    "voxtral": Tiny(_voxtral, None, WINDOW, lambda mel: 375),
    "glm-asr": Tiny(_glm_asr, "input_features_mask", WINDOW, lambda mel: ((mel - 1) // 2 + 1) // 4),
    "granite-speech": Tiny(
        granite_speech, "input_features_mask", None, lambda mel: -(-(mel // 2) // 15) * 3, pairs=True
    ),
    "omni-asr": Tiny(_omni_asr, "padding_mask", None, _convolved, samples=160),
    "qwen2.5-omni": Tiny(_qwen2_5_omni, "feature_attention_mask", None, _halved_twice),
    "qwen3-asr": Tiny(_qwen3_asr, "input_features_mask", None, _by_chunks, multiple=100),
    "qwen3-omni": Tiny(_qwen3_omni, "feature_attention_mask", None, _by_chunks),
}


def audio_of(tiny: Tiny, mels: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    """The audio arguments of forward for clips of so many mel frames each, in order."""
    if tiny.samples is not None:
        return _waves(tiny, [tiny.samples * mel for mel in mels], generator)
    if tiny.pairs:
        return _pairs(tiny, mels, generator)
    windows = [part for mel in mels for part in tiny.windows(mel)]
    width = tiny.window or -(-max(windows) // tiny.multiple) * tiny.multiple
    mask = torch.arange(width)[None] < torch.tensor(windows)[:, None]
    features = torch.randn(len(windows), MELS, width, generator=generator) * mask[:, None]
    found = {"input_features": features} | ({} if tiny.mask is None else {tiny.mask: mask.long()})
    return {name: value.to(DEVICE) for name, value in found.items()}


def _waves(tiny: Tiny, lengths: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    waves = torch.randn(len(lengths), 1, max(lengths), generator=generator) * mask[:, None]
    return {"input_values": waves.to(DEVICE), str(tiny.mask): mask.long().to(DEVICE)}


def _pairs(tiny: Tiny, mels: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    real = torch.arange(max(mels) // 2)[None] < torch.tensor(mels)[:, None] // 2
    features = torch.randn(len(mels), max(mels) // 2, 2 * MELS, generator=generator) * real[..., None]
    counts = torch.tensor([tiny.count(mel) for mel in mels])
    mask = torch.arange(int(counts.max()))[None] < counts[:, None]
    return {"input_features": features.to(DEVICE), str(tiny.mask): mask.to(DEVICE)}


def prompts(
    family: str, rows: list[list[int]], side: str = "left", seed: int = 0, image: bool = False
) -> dict[str, Tensor]:
    """A batch: each row is text with clips of so many mel frames, padded on `side`.

    With `image`, an image of four placeholders stands before the first clip of each row (Omni models).
    """
    tiny = TINY[family]
    generator = torch.Generator().manual_seed(seed)

    def text(n: int) -> list[int]:
        return torch.randint(0, 100, (n,), generator=generator).tolist()

    ids = []
    for row in rows:
        prompt = text(2)
        if image:
            prompt += [VISION_BOS, *[IMAGE] * 4, VISION_EOS, *text(1)]
        for mel in row:
            prompt += [AUDIO_BOS, *[AUDIO] * tiny.count(mel), AUDIO_EOS, *text(2)]
        ids.append(prompt + text(3))
    length = max(map(len, ids))
    pads = [[PAD] * (length - len(row)) for row in ids]
    real = [[1] * len(row) for row in ids]
    blank = [[0] * len(pad) for pad in pads]
    joined = (lambda a, b: b + a) if side == "left" else (lambda a, b: a + b)
    batch = {
        "input_ids": torch.tensor([joined(row, pad) for row, pad in zip(ids, pads, strict=True)]),
        "attention_mask": torch.tensor([joined(row, pad) for row, pad in zip(real, blank, strict=True)]),
    }
    if image:
        batch["pixel_values"] = torch.randn(16 * len(rows), 3 * 2 * 4 * 4, generator=generator)
        batch["image_grid_thw"] = torch.tensor([[1, 4, 4]] * len(rows))
    batch = {name: value.to(DEVICE) for name, value in batch.items()}
    return batch | audio_of(tiny, [mel for row in rows for mel in row], generator)


def labels_of(batch: dict[str, Tensor]) -> Tensor:
    """Labels that carry loss on text alone."""
    ids = batch["input_ids"]
    return ids.masked_fill((ids >= 100) | (batch["attention_mask"] == 0), -100)


def cache_of(out: Any) -> Any:
    """The cache in a model's output, by the name that this transformers has for it."""
    return out["cache"] if "cache" in out else out["past_key_values"]


def with_cache(model: Any, cache: Any) -> dict[str, Any]:
    """The argument of forward that hands over a cache: `cache` from transformers 5.24 on, `past_key_values` before."""
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    return {name: cache}
