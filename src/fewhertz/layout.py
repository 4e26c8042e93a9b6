"""Where the audio stands in a batch of prompts, and the same batch with fewer placeholders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

IGNORE = -100  # label of positions that carry no loss, in all of transformers


@dataclass(frozen=True)
class ClipSpan:
    """One clip: placeholders [start, start + n) of a row, filled by the windows [first, last)."""

    row: int
    start: int
    n: int
    first: int
    last: int


def find_clips(placeholders: Bool[Tensor, "b l"], lengths: list[int], full: int | None) -> list[ClipSpan]:
    """Give each encoder window its placeholders, in order, and join the windows of one audio into a clip.

    The true lengths rule, not runs of placeholders: a window ends where its length says, and continues the clip
    before it only where that one's last window is full and no text stands between them. A window too short for a
    token (the last one of an audio of 30.01 s) is in no clip.

    Args:
        placeholders: where the prompts hold audio.
        lengths: audio tokens of each window.
        full: audio tokens of a full window; None: every window is a clip.

    Raises:
        ValueError: where placeholders and audio tokens disagree in number or place.
    """
    rows, columns = placeholders.nonzero(as_tuple=True)
    if len(rows) != sum(lengths):
        raise ValueError(
            f"the prompt has {len(rows)} audio placeholders, the audio has {sum(lengths)} tokens "
            f"({', '.join(map(str, lengths))} per window): use the model's own processor for both, "
            "and one prompt row for each item"
        )
    row_list, column_list = rows.tolist(), columns.tolist()
    clips: list[ClipSpan] = []
    offset = 0
    for window, n in enumerate(lengths):
        if n == 0:
            continue
        row, start = row_list[offset], column_list[offset]
        if row_list[offset + n - 1] != row or column_list[offset + n - 1] != start + n - 1:
            raise ValueError(f"the {n} placeholders of audio window {window} are not one run in one row of the prompt")
        offset += n
        before = clips[-1] if clips else None
        if (
            before is not None
            and lengths[window - 1] == full
            and before.row == row
            and before.start + before.n == start
        ):
            clips[-1] = ClipSpan(row, before.start, before.n + n, before.first, window + 1)
        else:
            clips.append(ClipSpan(row, start, n, window, window + 1))
    return clips


@dataclass(frozen=True)
class Trim:
    """How a batch of prompts loses its surplus placeholders: positions that stay, and where they go.

    The padding side stays what it was, and so does the padding that all rows share, so that a batch from which
    nothing is dropped keeps its exact shape.
    """

    source: Int[Tensor, "b w"]  # column that each new position is taken from
    padding: Bool[Tensor, "b w"]  # new positions that are padding

    @classmethod
    def plan(cls, dropped: Bool[Tensor, "b l"], attention_mask: Tensor | None) -> Trim:
        """Lay out a batch without its `dropped` positions.

        Raises:
            ValueError: where some rows are padded on the left and some on the right, or the mask has another shape.
        """
        b, length = dropped.shape
        if attention_mask is not None and attention_mask.shape != dropped.shape:
            raise ValueError(
                f"attention_mask is {tuple(attention_mask.shape)}, input_ids are {(b, length)}: pass a 2-d one"
            )
        columns = torch.arange(length, device=dropped.device).expand(b, length)
        real = torch.ones_like(dropped) if attention_mask is None else attention_mask.bool()
        first = torch.where(real, columns, length).amin(1, keepdim=True)
        last = torch.where(real, columns, -1).amax(1, keepdim=True)
        core = (columns >= first) & (columns <= last)
        left, right = bool((first > 0).any()), bool((last < length - 1).any())
        if left and right:
            raise ValueError("the batch is padded on both sides: pad all rows on the same side")

        stay = core & ~dropped
        counts = stay.sum(1)
        width = int(counts.max()) + length - int(core.sum(1).max())
        # stable sort on "stays": positions that stay keep their order and come first (padding right) or last (left)
        order = (stay if left else ~stay).long().argsort(dim=1, stable=True)
        source = order[:, length - width :] if left else order[:, :width]
        place = torch.arange(width, device=dropped.device)[None]
        padding = place < width - counts[:, None] if left else place >= counts[:, None]
        return cls(source, padding)

    def apply(self, values: Tensor, fill: int) -> Tensor:
        """A (b, l) tensor in the new layout, `fill` at padding."""
        return values.gather(1, self.source).masked_fill(self.padding, fill)
