"""Stage 2: a byte-level BPE tokenizer with the special tokens of the model's family, and the processor around it.

Byte-level, so no text fails; a few hundred merges, learnt on the training sentences and on the words of the prompts.

    python -m recipes.pocket.tokenizer [--size tiny]
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .config import REQUESTS, RUNS, SIZES, cache
from .corpus import VOICE, voice_question
from .data import Bank
from .family import Family, of_size
from .sounds import SOUNDS, captions, draw_scene, question

# Qwen2's own rule: contractions, words with a leading space, single digits, punctuation, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FRAME = "system\nYou are a helpful assistant.\nuser\nAudio 1: \nassistant\n"  # the chat template's own words


def texts(size: str) -> list[str]:
    """What the model will write and be asked."""
    bank = Bank(cache(size))
    rows = bank.rows
    # Word strings put a space before most words, which the single words of the cache lack.
    words = [" " + r["text"] for r in rows if "text" in r and " " not in r["text"]]
    rng = random.Random(0)
    clips = {label: [{"id": "", "begin": 0.0, "end": 5.0}] for label in SOUNDS}
    scenes = [draw_scene(rng, clips) for _ in range(3000)]
    described = [caption for scene in scenes for caption in captions(scene, rng)]
    asked = [question(scene, rng.choice(("which", "first", "count")), rng) for scene in scenes]
    # The frame is in every example: whole words for it keep prompts short.
    asked += [
        voice_question(kind, answer) for kind, (_, options) in VOICE.items() for answer in options for _ in range(60)
    ]
    requests = [request for some in REQUESTS.values() for request in some for _ in range(300)]
    written = [r["text"] for r in rows if "text" in r] + [en for r in rows for en in r.get("english", ())]
    return written + words + described + [ask for ask, _, _ in asked] + [FRAME] * 2000 + requests


def train_tokenizer(texts: list[str], vocab: int, family: Family) -> PreTrainedTokenizerFast:
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(family.special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tok.train_from_iterator(texts, trainer)
    tok.add_special_tokens(list(family.special))
    return PreTrainedTokenizerFast(
        tokenizer_object=tok, padding_side="left", model_max_length=2048, clean_up_tokenization_spaces=False,
        extra_special_tokens=[token for token in family.special if token not in family.roles.values()],
        **family.roles,
    )  # fmt: skip


def make(size: str) -> Path:
    """Write the processor (tokenizer, feature extractor, chat template) to the run's directory."""
    out = RUNS / size / "processor"
    if not (out / "tokenizer.json").exists():
        family = of_size(size)
        family.processor(train_tokenizer(texts(size), SIZES[size].vocab, family)).save_pretrained(out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    print(make(parser.parse_args().size))


if __name__ == "__main__":
    main()
