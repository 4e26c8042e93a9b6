"""Errors in a line: what went wrong, what is missing and how to get it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class AudioError(ValueError):
    """Audio that cannot be read as asked. The text names it, what is wrong, and what to do."""


class Unavailable(ValueError):
    """A metric that cannot be measured here and now."""


def one_line(error: BaseException) -> str:
    """An error as one line of text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def squeezed(error: BaseException, most: int = 200) -> str:
    """All that an error says in one line, cut to `most` characters: where its first line alone says nothing."""
    return (" ".join(str(error).split()) or type(error).__name__)[:most]


def or_singly(work: Callable[[list[Item]], Sequence[Result]], items: list[Item]) -> list[Result | str]:
    """What `work` makes of all items at once, or of one at a time where that fails, whatever it raises.

    So a bad item does not take the others with it: in its place is the error as one line.
    """
    if not items:
        return []
    try:
        return [*work(items)]
    except Exception as error:  # of any kind: out of memory, a model's own checks
        if len(items) == 1:
            return [one_line(error)]
    # out here, where the error holds no memory any more
    return [one for item in items for one in or_singly(work, [item])]


def need(module: str, extra: str = "eval") -> Any:
    """Import a module of an extra.

    Raises:
        ImportError: where it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f"{module.partition('.')[0]} is not installed: pip install 'fewhertz[{extra}]'") from None
