"""Pocket: the small audio language model that ships inside the package. See MODEL_CARD.md beside this file."""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The model's directory, for `from_pretrained`."""
    return Path(__file__).parent
