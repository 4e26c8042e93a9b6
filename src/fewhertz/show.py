"""The picture: a spectrogram, and over it what each output token stands for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from fewhertz.errors import need
from fewhertz.mel import log_mel
from fewhertz.palette import DROPPED, TOKENS
from fewhertz.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW_SECONDS = 10.0  # of audio in one row of the picture: a token of 25 Hz is then some 4 pixels wide
MAX_ROWS = 12
MAX_LANES = 8  # tokens that overlap in time stand above each other, in so many lanes


def _lanes(spans: Float[np.ndarray, "m 2"]) -> Int[np.ndarray, " m"]:
    """A lane for each span, so that spans of one lane do not overlap while there are lanes left."""
    ends = np.full(MAX_LANES, -np.inf)
    lanes = np.zeros(len(spans), dtype=int)
    for i in np.argsort(spans[:, 0], kind="stable"):
        free = np.flatnonzero(ends <= spans[i, 0] + 1e-6)
        lane = int(free[0]) if len(free) else int(ends.argmin())
        ends[lane] = spans[i, 1]
        lanes[i] = lane
    return lanes


def _runs(group: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, " r"], Int[np.ndarray, " r"]]:
    """Stretches of input tokens of one group: first, one past the last, group."""
    first = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
    return first, np.append(first[1:], len(group)), group[first]


def picture(wave: Float[np.ndarray, " samples"], rate: int, plan: Plan, token_rate: float, title: str) -> Figure:
    """Draw the plan of one clip over its log-mel spectrogram.

    Above each row of the spectrogram stand the output tokens: a thick bar where a token has members, a thin line
    through what it leaves out. Dropped stretches are greyed in the spectrogram.

    Args:
        wave: mono audio.
        rate: its samples per second, in Hz.
        plan: of one clip (`b = 1`).
        token_rate: the plan's input tokens per second, in Hz.
        title: of the picture.
    """
    need("matplotlib")
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    seconds = len(wave) / rate
    row = max(ROW_SECONDS, seconds / MAX_ROWS)
    rows = max(1, math.ceil(seconds / row - 1e-6))
    width = min(row, seconds)

    group = plan.group[0].cpu().numpy()
    spans = plan.spans(token_rate)[0].cpu().numpy()
    lanes = _lanes(spans)
    used = int(lanes.max()) + 1
    first, end, owner = _runs(group)
    mel = log_mel(wave, rate)

    strip = 0.1 + 0.12 * used  # inches
    layout = ConstrainedLayoutEngine(h_pad=0.02, hspace=0.0)
    figure = Figure(figsize=(12, 1.0 + rows * (1.75 + strip)), layout=layout, dpi=150)
    axes = figure.subplots(
        2 * rows, 1, squeeze=False, gridspec_kw={"height_ratios": [strip, 1.45] * rows, "hspace": 0.0}
    )
    for i in range(rows):
        above, below = axes[2 * i, 0], axes[2 * i + 1, 0]
        _draw_mel(below, mel, seconds)
        _draw_tokens(above, first, end, owner, spans, lanes, token_rate)
        _draw_cuts(below, first, end, owner, token_rate)
        above.set_ylim(used, 0)
        above.set_yticks([])
        above.set_xticks([])
        above.set_ylabel("tokens", rotation=0, ha="right", va="center", fontsize=8)
        above.spines[:].set_visible(False)
        for axis in (above, below):
            axis.set_xlim(i * row, i * row + width)
    axes[-1, 0].set_xlabel("time (s)")
    handles: list[Any] = [Patch(color=TOKENS[0], label="one output token (neighbours differ in colour)")]
    kept = owner >= 0
    if kept.sum() > plan.m:
        handles.append(Line2D([], [], color=TOKENS[0], lw=1, label="between its members"))
    if not kept.all():
        handles.append(Patch(color=DROPPED, label="dropped"))
    figure.suptitle(title, fontsize=11)
    figure.legend(handles=handles, loc="outside lower right", ncols=3, fontsize=8, frameon=False)
    return figure


def _draw_mel(axis: Axes, mel: Float[np.ndarray, "80 frames"], seconds: float) -> None:
    axis.imshow(mel, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, len(mel)))
    axis.set_yticks([0, 40, 80])
    axis.set_ylabel("mel band")


def _draw_tokens(
    axis: Axes,
    first: Int[np.ndarray, " r"],
    end: Int[np.ndarray, " r"],
    owner: Int[np.ndarray, " r"],
    spans: Float[np.ndarray, "m 2"],
    lanes: Int[np.ndarray, " m"],
    token_rate: float,
) -> None:
    from matplotlib.collections import PolyCollection

    colours = np.array(TOKENS)
    kept = owner >= 0
    first, end, owner = first[kept] / token_rate, end[kept] / token_rate, owner[kept]
    # 6 % of a token is left free, so that neighbours stay apart; its seconds end where the axis ends
    gap = 0.06 / token_rate
    axis.hlines(lanes + 0.5, spans[:, 0], spans[:, 1] - gap, colors=colours[np.arange(len(spans)) % len(colours)], lw=1)
    low, high = lanes[owner] + 0.12, lanes[owner] + 0.88
    left, right = first, end - gap
    corners = np.stack([left, low, right, low, right, high, left, high], axis=-1).reshape(-1, 4, 2)
    axis.add_collection(PolyCollection(list(corners), facecolors=colours[owner % len(colours)], linewidths=0))


def _draw_cuts(
    axis: Axes,
    first: Int[np.ndarray, " r"],
    end: Int[np.ndarray, " r"],
    owner: Int[np.ndarray, " r"],
    token_rate: float,
) -> None:
    for start, stop in zip(first[owner < 0], end[owner < 0], strict=True):
        axis.axvspan(start / token_rate, stop / token_rate, color=DROPPED, alpha=0.75, lw=0)
    axis.vlines(first[1:] / token_rate, 0, 80, colors="white", lw=0.4, alpha=0.6)


def show(model: Any, processor: Any, file: str | Path, out: str | Path) -> Plan:
    """Write the picture of one file's tokens; returns the plan that it draws.

    Args:
        model: a model with a method attached.
        processor: the model's own.
        file: an audio file within the model's window.
        out: a .png, .svg or .pdf file.

    Raises:
        ImportError: without matplotlib.
        ValueError: for a learned method, which has no plan, and for audio beyond the model's window.
    """
    from fewhertz.attach import attached
    from fewhertz.run import read_whole, reply, sample_rate

    need("matplotlib")
    handle = attached(model)
    if handle is None:
        raise ValueError("no method is attached to the model: there is nothing to show")
    rate = sample_rate(processor)
    wave = read_whole(file, rate, handle.family, chunks=False)
    reply(model, processor, [wave], max_new_tokens=1)
    (plan,) = handle.last.plans
    if plan is None:
        raise ValueError(f"{handle.asked.spec} is learned and has no plan to draw")
    token_rate = plan.per * float(handle.family.rate(model.config))
    seconds, before = len(wave) / rate, handle.last.before[0]
    title = (
        f"{Path(file).name}, {seconds:.1f} s: {handle.asked.spec}, {before} → {plan.m} audio tokens "
        f"({before / seconds:.3g} → {plan.m / seconds:.3g} Hz)"
    )
    picture(wave, rate, plan, token_rate, title).savefig(out)
    return plan
