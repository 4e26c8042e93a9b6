"""Errors in a line: what went wrong, what is missing and how to get it."""

from __future__ import annotations

import importlib
from typing import Any


def one_line(error: BaseException) -> str:
    """An error as one line of text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def need(module: str, extra: str = "eval") -> Any:
    """Import a module of an extra.

    Raises:
        ImportError: where it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f"{module.partition('.')[0]} is not installed: pip install 'fewhertz[{extra}]'") from None
