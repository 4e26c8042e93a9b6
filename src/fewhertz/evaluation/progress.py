"""How far long work is, in a line of text now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

SAY_EVERY = 10.0  # seconds between two lines


class Progress:
    """How far work of so many steps is, and what time is left."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self.total = total
        self.say = say
        self.done = self.skipped = 0
        self.began = self.said = time.monotonic()

    def skip(self, n: int) -> None:
        """Steps that are done already, or by another process."""
        self.skipped += n

    def advance(self, label: str, n: int) -> None:
        """Steps that were done here."""
        self.done += n
        now = time.monotonic()
        left = self.total - self.skipped - self.done
        if now - self.said < SAY_EVERY and left > 0:
            return
        self.said = now
        seconds = (now - self.began) / self.done * left
        self.say(f"{label}: {self.done + self.skipped} of {self.total}, {_duration(seconds)} left")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
