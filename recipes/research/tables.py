"""Differences with their intervals, verdicts on several of them, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Gain:
    """How much better one run is than another, in units of the metric (above 0: better), with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1: better, −1: worse, 0: the interval holds 0."""
        return int(self.low > 0) - int(self.high < 0)

    @property
    def plain(self) -> str:
        """Without a mark."""
        digits = 2 if max(abs(self.low), abs(self.high)) < 2 else 1
        return signed(self.value, self.low, self.high, digits)

    def __str__(self) -> str:
        return self.plain + {1: " ✓", -1: " ✗", 0: ""}[self.sign]


@dataclass(frozen=True)
class Loss:
    """What is lost, with its 95 % interval."""

    value: float
    low: float
    high: float
    unit: str

    def verdict(self, target: float) -> str:
        return "**met**" if self.high <= target else "**missed**" if self.low > target else "inconclusive"

    def __str__(self) -> str:
        digits = 2 if self.unit == "BLEU" else 1
        return f"{signed(self.value, self.low, self.high, digits)} {self.unit}".rstrip()


@dataclass(frozen=True)
class Claim:
    """A row of docs/research/claims.md."""

    title: str
    source: str  # who claims it or asks it
    did: str  # what was measured
    verdict: str


def signed(value: float, low: float, high: float, digits: int) -> str:
    """A difference and its interval."""
    # rounded first, and then nothing is −0
    shown, *ends = (f"{round(x, digits) + 0.0:+.{digits}f}" for x in (value, low, high))
    return f"{shown} [{', '.join(ends)}]"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    first, *lines = (f"| {' | '.join(map(str, line))} |" for line in (heads, *rows))
    return "\n".join([first, f"|{'---|' * len(heads)}", *lines])


def arxiv(number: str) -> str:
    """A link to a paper."""
    return f"[{number}](https://arxiv.org/abs/{number})"


def counts(gains: Sequence[Gain]) -> str:
    """Better/tied/worse."""
    better, worse = (sum(one.sign == sign for one in gains) for sign in (1, -1))
    return f"{better}/{len(gains) - better - worse}/{worse}"


def verdict(gains: Sequence[Gain]) -> str:
    """On "one is better than the other", over several comparisons."""
    signs = {gain.sign for gain in gains}
    if signs == {1}:
        return "**holds**"
    if signs == {-1}:
        return "**does not hold**: the contrary"
    if signs == {0}:
        return "**inconclusive**"
    if 2 * sum(not gain.sign for gain in gains) > len(gains):
        return "mostly **inconclusive**"
    if 1 not in signs:
        return "**does not hold**"
    return "**holds in part**" if -1 not in signs else "**mixed**"


def at_most(low: float, high: float, limit: float) -> str:
    """Whether what lies in an interval is at most so much."""
    return "holds" if high <= limit else "does not hold" if low > limit else "inconclusive"


def listed(lines: Iterable[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)
