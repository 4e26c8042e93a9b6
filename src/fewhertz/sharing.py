"""A budget of a whole recording, shared among its windows before any of them is encoded.

The encoder's own tokens would say best where tokens are needed, but the last window would have to be encoded before
the first is answered, and all of them held. The log-mel says it nearly as well, costs next to nothing, and leaves
behind one number a merge: what it costs. One price for the whole recording is then the one at which so many merges are
left undone as there are tokens to spend; 3 hours at 25 Hz are 270,000 numbers. The windows that run together spend what
the price gives them, where their own tokens say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

import torch
from torch.nn.functional import adaptive_avg_pool1d

from fewhertz.mel import log_mel
from fewhertz.method import Method
from fewhertz.windows import Window


def total_of(method: Method, hertz: Fraction | None, seconds: float, counts: Sequence[int]) -> int:
    """Audio tokens that all windows of a recording keep: one each at least, and no more than they have.

    Args:
        method: as `shared_out`.
        hertz: likewise.
        seconds: length of the recording.
        counts: audio tokens of each window before compression, none of silences.
    """
    asked = method.num_tokens(sum(counts)) if hertz is None else round(hertz * Fraction(seconds))
    return min(max(asked, len(counts)), sum(counts))


def shared_out(
    method: Method, hertz: Fraction | None, windows: Iterable[Window], *, native: float, rate: int
) -> list[int]:
    """Audio tokens that each window of a recording keeps; 0 for a silence that is left out.

    Args:
        method: with a shared budget, bound to the model's rate.
        hertz: tokens a second of the whole recording, silences included; `None`: the method's `keep` of the tokens
            that there are.
        windows: of the recording, one in memory at a time.
        native: audio tokens per second before compression, in Hz.
        rate: samples per second, in Hz.

    Returns:
        Counts that add up to the budget to the token, but that each window keeps one token at least, and no more than
        it has.
    """
    counts: list[int] = []
    prices: list[torch.Tensor] = []
    seconds = 0.0
    for window in windows:
        seconds = window.until
        n = 0 if window.wave is None else max(1, round(len(window.wave) / rate * native))
        counts.append(n)
        if window.wave is not None:
            # not about its mean, as count=mel has it: beside other windows, hiss is to stay dull
            mel = torch.from_numpy(log_mel(window.wave, rate)).float()
            prices.append(method.prices(adaptive_avg_pool1d(mel[None], n)[0].T))
    if not any(counts):
        return counts
    total = total_of(method, hertz, seconds, [n for n in counts if n])
    all_prices = torch.cat(prices)
    dear = all_prices.argsort(descending=True, stable=True)[: total - len(prices)]
    undone = torch.zeros(len(all_prices), dtype=torch.long).index_fill_(0, dear, 1)
    kept = iter(1 + int(own.sum()) for own in undone.split([len(one) for one in prices]))
    return [next(kept) if n else 0 for n in counts]
