"""`train --flex`: every batch has its audio tokens merged at a random rate, so that the model learns any rate."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from fewhertz.corrections import PromptLayout, lay_out
from fewhertz.layout import Trim, find_clips
from fewhertz.method import Clip, Method, parse

from .data import Batch

LEAST = 1 / 6  # of the keeps, drawn log-uniformly up to 1
TOLERANCES = (0.1, 0.9)


def drawn(seed: int) -> Method:
    """`pool` or `ward` at a keep, or `ward` at a tolerance; half of them with corrections."""
    draw = random.Random(seed)
    kind = draw.choice(("pool@keep", "ward@keep", "ward@tolerance"))
    budget = draw.uniform(*TOLERANCES) if kind.endswith("tolerance") else math.exp(draw.uniform(math.log(LEAST), 0))
    return parse(f"{kind}={budget:.3f}{draw.choice(('', '+time+sizes'))}")


def merged(
    method: Method, audio: Tensor, lengths: Tensor, batch: Batch, audio_id: int, hz: float
) -> tuple[Tensor, Trim, PromptLayout]:
    """The audio tokens of a batch after merging, and its prompts with as many placeholders.

    Args:
        method: `pool` or `ward`, with a budget.
        audio: tokens of each clip, (c, n, d), padded.
        lengths: how many are a clip's own, (c,).
        batch: the prompts of all tokens.
        audio_id: token id of a placeholder.
        hz: audio tokens a second with all of them.

    Returns:
        The tokens of all clips, one behind the other, (k, d); the layout of the shorter prompts; and how the LLM is to
        read them.
    """
    counts = lengths.tolist()
    rows = [one[None, :n] for one, n in zip(audio, counts, strict=True)]
    with torch.no_grad():
        plans = [method.plan(row.float(), Clip(hz)) for row in rows]
    tokens = torch.cat([plan.apply(row)[0] for plan, row in zip(plans, rows, strict=True)])
    clips = find_clips(batch.ids == audio_id, counts, None)
    dropped = torch.zeros_like(batch.valid)
    for clip, plan in zip(clips, plans, strict=True):
        dropped[clip.row, clip.start + plan.m : clip.start + clip.n] = True
    trim = Trim.plan(dropped, batch.valid)
    places = torch.arange(dropped.shape[1], device=dropped.device).expand_as(dropped)
    return tokens, trim, lay_out(method, places, clips, plans, trim, batch.valid)
