"""The sentence encoder all-MiniLM-L6-v2: how its files are had, and the embeddings it makes of texts."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fewhertz.errors import Unavailable, one_line

# Apache-2.0. The hashes are the Hub's own, at this revision.
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
_LOCAL = "FEWHERTZ_MINILM"  # environment variable: a directory of these files, for machines without network


def encoder_name() -> str:
    _encoder_folder()
    return f"all-MiniLM-L6-v2 (sha256 {_SHA256['model.safetensors'][:12]})"


def _encoder_folder() -> Path:
    """Where the files of the sentence encoder are: fetched from the Hub once, and the published ones.

    Raises:
        Unavailable: where they cannot be had, or are others; says how to get them.
    """
    how = f"fetch it where there is a network (hf download {ENCODER} --revision {REVISION}), or name its directory in "
    try:
        return _published(os.environ.get(_LOCAL))
    except (OSError, ValueError) as error:
        raise Unavailable(f"{ENCODER} cannot be had ({error}): {how}{_LOCAL}") from None


@functools.cache
def _published(local: str | None) -> Path:
    if local is not None:
        folder = Path(local).expanduser()
    else:
        from huggingface_hub import snapshot_download

        names = [*_SHA256, "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]
        fetch = functools.partial(snapshot_download, ENCODER, revision=REVISION, allow_patterns=names)
        try:
            try:
                folder = Path(fetch(local_files_only=True))
            except FileNotFoundError:
                folder = Path(fetch())
        except Exception as error:  # of many unrelated classes, over many lines
            raise ValueError(f"neither from the Hub nor from its cache: {one_line(error)}") from None
    for name, sha256 in _SHA256.items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}")
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise ValueError(f"{folder / name} is not the published one")
    return folder


@functools.cache
def _encoder(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder, dtype="float32", use_safetensors=True, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def embed(texts: list[str], batch_size: int = 64) -> Float[np.ndarray, "n width"]:
    """Sentence embeddings of unit length by all-MiniLM-L6-v2, on the CPU: the mean of its token vectors.

    Args:
        texts: at most 256 word pieces of each are read.
        batch_size: texts that run together.

    Raises:
        Unavailable: where the encoder cannot be had.
    """
    import torch

    model, tokenizer = _encoder(_encoder_folder())
    found = np.zeros((len(texts), model.config.hidden_size), np.float32)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer([texts[i] for i in rows], padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            states = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        mean = (states * mask).sum(1) / mask.sum(1)
        found[rows] = torch.nn.functional.normalize(mean).numpy()
    return found


def vectors(texts: Iterable[str]) -> dict[str, Float[np.ndarray, " width"]]:
    """Embeddings of what differs. References come again with every method, as the same set, and are embedded once; as
    sets, and not text by text, since the last digits of an embedding depend on what runs beside it.
    """
    unique = tuple(sorted(set(texts)))
    return dict(zip(unique, _embed_again(unique), strict=True))


@functools.lru_cache(maxsize=4)
def _embed_again(texts: tuple[str, ...]) -> Float[np.ndarray, "n width"]:
    return embed(list(texts))
