"""Encode audio once, whichever methods are attached one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fewhertz.families.base import Windows
from fewhertz.steps import Call, Steps, changed


@dataclass(frozen=True)
class _Encoded:
    """What is remembered; holding the features keeps their identity theirs."""

    features: Any
    site: str
    trim: bool
    scores: bool
    windows: Windows
    seconds: float


@contextmanager
def encode_once(model: nn.Module, scores: bool = False) -> Iterator[None]:
    """Within it, the same features are encoded once a site, whichever methods are attached one after the other.

    The same tensor is meant, not an equal one: move inputs to the device and dtype before. All that was encoded is held
    until the end. It holds for the calls of this thread. Only what is compressed is remembered: a model without a
    method encodes each time. Not for training the encoder: its gradients would be those of the first call.

    Args:
        model: the model.
        scores: whether to capture attention scores at the first time, for methods that come later and need them.
    """
    done: list[_Encoded] = []

    def once(encode: Callable[[Call], tuple[Windows, float]], call: Call) -> tuple[Windows, float]:
        for one in done:
            same = one.features is call.features and (one.site, one.trim) == (call.site, call.trim)
            # capturing scores leaves the tokens as they are, bit for bit
            if same and one.scores >= call.scores:
                return one.windows, one.seconds
        call = replace(call, scores=call.scores or scores)
        start = time.perf_counter()
        windows, spared = encode(call)
        if windows.tokens.is_cuda:
            torch.cuda.synchronize(windows.tokens.device)
        took = spared or time.perf_counter() - start
        done.append(_Encoded(call.features, call.site, call.trim, call.scores, windows, took))
        return windows, spared

    def change(steps: Steps) -> Steps:
        return replace(steps, encode=lambda call: once(steps.encode, call))

    with changed(change, model):
        yield
