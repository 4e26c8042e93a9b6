"""Tiny random models of the real classes as directories that vLLM loads, and prompts for them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import pad

WORDS = [f"w{i}" for i in range(100)]
HEAD = 64  # vLLM's attention on the CPU has no smaller heads


@dataclass(frozen=True)
class Layout:
    """How a family's prompts are written.

    Args:
        arch: vLLM's name of the architecture.
        processor: transformers' processor class.
        marks: the audio token, and those before and after it.
        clips: how many clips a prompt may have.
        longest: seconds of a clip beyond one window; `None`: the family reads none.
        scores: whether its encoder's attention can be captured under vLLM.
    """

    arch: str
    processor: str
    marks: tuple[str, str, str]
    clips: int = 2
    longest: float | None = None
    scores: bool = False
    one_text: bool = False  # its processor takes one clip a text


LAYOUTS = {
    "qwen2-audio": Layout(
        "Qwen2AudioForConditionalGeneration",
        "Qwen2AudioProcessor",
        ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"),
        scores=True,
    ),
    "audio-flamingo-3": Layout(
        "AudioFlamingo3ForConditionalGeneration",
        "AudioFlamingo3Processor",
        ("<sound>", "<|sound_bos|>", "<|sound_eos|>"),
        clips=1,
        longest=35.3,
        scores=True,
    ),
    "glm-asr": Layout(
        "GlmAsrForConditionalGeneration",
        "GlmAsrProcessor",
        ("<|pad|>", "<|begin_of_audio|>", "<|end_of_audio|>"),
        clips=1,  # with two, vLLM 0.32 calls the processor in a way that it refuses
        longest=35.3,
    ),
    "qwen3-asr": Layout(
        "Qwen3ASRForConditionalGeneration",
        "Qwen3ASRProcessor",
        ("<|audio_pad|>", "<|audio_start|>", "<|audio_end|>"),
        longest=35.3,
        one_text=True,
    ),
    "qwen2.5-omni": Layout(
        "Qwen2_5OmniForConditionalGeneration",
        "Qwen2_5OmniProcessor",
        ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"),
        longest=35.3,
        scores=True,
    ),
    "qwen3-omni": Layout(
        "Qwen3OmniMoeForConditionalGeneration",
        "Qwen3OmniMoeProcessor",
        ("<|audio_pad|>", "<|audio_start|>", "<|audio_end|>"),
        longest=35.3,
    ),
}
VISION = {
    "vision_bos_token": ("<|vision_bos|>", tiny.VISION_BOS),
    "vision_eos_token": ("<|vision_eos|>", tiny.VISION_EOS),
    "image_token": ("<|IMAGE|>", tiny.IMAGE),
    "video_token": ("<|VIDEO|>", tiny.VIDEO),
}


def tokenizer_of(family: str) -> Any:
    """Words w0 to w99, and the special tokens at the ids that tiny's models have."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    named = dict(zip(("audio_token", "audio_bos_token", "audio_eos_token"), LAYOUTS[family].marks, strict=True))
    vocab = {word: i for i, word in enumerate(WORDS)} | {"<pad>": tiny.PAD}
    vocab |= dict(zip(named.values(), (tiny.AUDIO, tiny.AUDIO_BOS, tiny.AUDIO_EOS), strict=True))
    if family.endswith("omni"):
        vocab |= dict(VISION.values())
        named |= {name: token for name, (token, _) in VISION.items()}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="w0", extra_special_tokens=named
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(named.values())})
    tokenizer.padding_side = "left"
    return tokenizer


def processor_of(family: str) -> Any:
    """The family's own processor."""
    import transformers

    cls = getattr(transformers, LAYOUTS[family].processor)
    seconds = 40 if family == "qwen2.5-omni" else 30  # the published one reads 300, and pads to them
    extractor: Any = transformers.WhisperFeatureExtractor(feature_size=tiny.MELS, chunk_length=seconds)
    if family == "qwen3-asr":
        extractor = transformers.Qwen3ASRFeatureExtractor(feature_size=tiny.MELS)
    if not family.endswith("omni"):
        return cls(extractor, tokenizer_of(family))
    patches = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 8 * 8, "longest_edge": 64 * 64}
    return cls(
        image_processor=transformers.Qwen2VLImageProcessor(size=size, **patches),
        video_processor=transformers.Qwen2VLVideoProcessor(size=size, **patches),
        feature_extractor=extractor,
        tokenizer=tokenizer_of(family),
    )


def model_of(family: str) -> Any:
    """tests/tiny.py's model with an LLM of two heads of 64, and weights so much smaller that rounding does not grow."""
    made = tiny._made

    def wide(name: str, config: Any, seed: int = 0) -> Any:
        def widened(config_class: Any) -> Any:
            result = config(config_class)
            text = result.get_text_config()
            text.head_dim, text.tie_word_embeddings = HEAD, False
            rope = text.rope_parameters or {}
            if "mrope_section" in rope:
                rope["mrope_section"] = [4 * n for n in rope["mrope_section"]]  # they add up to half a head
            return result

        model = made(name, widened, seed)
        with torch.no_grad():
            for weight in model.get_decoder().parameters():
                if weight.dim() > 1:
                    weight *= 0.5
        return model

    with (
        mock.patch.dict(tiny.TEXT, hidden_size=2 * HEAD),
        mock.patch.dict(tiny.CHUNKED, output_dim=2 * HEAD),
        mock.patch.dict(tiny.VISION, out_hidden_size=2 * HEAD),
        mock.patch.object(tiny, "_made", wide),
    ):
        return tiny.TINY[family].build()


def write(family: str, folder: Path) -> Any:
    """Write the family's checkpoint into `folder`; gives its model."""
    model = model_of(family)
    model.save_pretrained(folder)
    processor_of(family).save_pretrained(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    if family.endswith("omni"):  # a published checkpoint is the whole model, of which vLLM takes the thinker
        # published ones have these, and vLLM reads them
        config["vision_config"] = {"image_size": 16, "apply_vit_abs_pos_embed": True} | config["vision_config"]
        config = {"model_type": config["model_type"].removesuffix("_thinker"), "thinker_config": config}
        weights = load_file(folder / "model.safetensors")
        save_file({f"thinker.{name}": w for name, w in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    config["architectures"] = [LAYOUTS[family].arch]
    file.write_text(json.dumps(config))
    return model


def text_of(family: str, clips: int, image: bool = False) -> str:
    """A prompt of words with so many clips, and an image before them."""
    audio, bos, eos = LAYOUTS[family].marks
    seen = [" ".join(VISION[name][0] for name in ("vision_bos_token", "image_token", "vision_eos_token"))] * image
    return " ".join(["w1 w2", *seen, *[f"{bos} {audio} {eos} w{7 + i}" for i in range(clips)], "w3 w4 w5"])


def inputs_of(family: str, processor: Any, waves: list[np.ndarray], image: Any = None) -> dict[str, Any]:
    """The same prompt with its audio, by the processor, for transformers."""
    text = text_of(family, len(waves), image is not None)
    if not LAYOUTS[family].one_text:
        seen = {} if image is None else {"images": [image]}
        inputs = processor(text=text, audio=waves, sampling_rate=16000, return_tensors="pt", **seen)
        inputs.pop("num_audio_tokens", None)
        return dict(inputs)
    mark = LAYOUTS[family].marks[1]
    before, *parts = text.split(mark)
    each = [
        processor(text=mark + part, audio=w, sampling_rate=16000, return_tensors="pt")
        for part, w in zip(parts, waves, strict=True)
    ]
    start = processor.tokenizer(before, return_tensors="pt")
    width = max(one["input_features"].shape[-1] for one in each)
    return {
        name: torch.cat([start[name], *[one[name] for one in each]], dim=1) for name in ("input_ids", "attention_mask")
    } | {
        name: torch.cat([pad(one[name], (0, width - one[name].shape[-1])) for one in each])
        for name in ("input_features", "input_features_mask")
    }


def wave(seconds: float, seed: int) -> np.ndarray:
    """Noise whose loudness changes, mono at 16 kHz."""
    generator = np.random.default_rng(seed)
    n = int(seconds * 16000)
    loud = np.interp(np.arange(n), np.linspace(0, n, 12), generator.uniform(0.01, 1, 12))
    return (generator.standard_normal(n) * loud * 0.3).astype(np.float32)


def reference(model: Any, inputs: Any, method: str | None, steps: int) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens of transformers, on whole windows, and the log probabilities of all tokens, (steps, vocabulary)."""
    import fewhertz

    model.generation_config.eos_token_id = None
    handle = fewhertz.compress(model, method, trim=False) if method else None
    try:
        out = model.generate(
            **inputs, max_new_tokens=steps, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    finally:
        if handle:
            handle.remove()
    logits = torch.stack([step[0] for step in out.logits]).float()
    return out.sequences[0, -steps:].tolist(), logits.log_softmax(-1)
