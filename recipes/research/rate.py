"""docs/long.svg: the audio tokens per second of a recording over time, beside how loud it is.

python -m recipes.research.rate --out docs/long.svg

The recording is made of clips that are shipped with pocket, with pauses of 0.2 to 2 s, a stretch of hiss and a silence;
its windows are those of `fewhertz run`. Each token counts in equal parts over what it stands for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import fewhertz
from fewhertz import demo, run
from fewhertz.method import DEFAULT
from fewhertz.palette import GREY, LINES
from fewhertz.transcription import longest_window
from fewhertz.windows import Window, levels_of, windows

RATE = 16_000
CLIPS, HISS, SILENCE = 6, 4.0, 6.0  # clips; seconds
STEP = 0.5  # seconds that a rate is taken over


def recording() -> np.ndarray:
    """Speech with pauses, hiss, a silence, speech."""
    draw = np.random.default_rng(0)
    parts = []
    for place, clip in enumerate(demo.bundled(CLIPS)):
        parts += [clip.wave, np.zeros(round(RATE * draw.uniform(0.2, 2.0)), np.float32)]
        if place == CLIPS // 2:
            parts += [0.01 * draw.standard_normal(round(RATE * HISS)), np.zeros(round(RATE * SILENCE))]
    return np.concatenate(parts).astype(np.float32)


def rates(found: list[tuple[float, np.ndarray]], seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the steps, in seconds, and tokens per second in each, in Hz.

    Args:
        found: where each window begins, in seconds, and what its tokens stand for, (m, 2), in seconds from there.
        seconds: of the whole.
    """
    edges = np.arange(0, seconds + STEP, STEP)
    before = np.zeros(len(edges))  # tokens until each edge
    for offset, spans in found:
        begin, end = (offset + spans).T
        share = (edges[:, None] - begin) / (end - begin)
        before += share.clip(0, 1).sum(1)
    return edges, np.diff(before) / STEP


def tokens_of(loaded: tuple[Any, Any], window: Window, handle: fewhertz.Attached) -> np.ndarray:
    """What each token of a window stands for, (m, 2), in seconds from its beginning."""
    assert window.wave is not None
    run.reply(*loaded, [window.wave], max_new_tokens=1)
    (plan,) = handle.last.plans
    assert plan is not None
    return plan.spans(float(handle.family.rate(loaded[0].config)))[0].numpy()


def main(
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("docs/long.svg"),
    method: Annotated[str, typer.Option("--method", "-m", metavar="SPEC", help="A tolerance.")] = DEFAULT,
) -> None:
    """Run the windows of the recording through pocket, and draw."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    loaded = fewhertz.load("pocket", device="cpu", dtype="float32")
    wave = recording()
    seconds = len(wave) / RATE
    longest = longest_window(loaded[0], None, None)
    assert longest is not None
    with fewhertz.compress(loaded[0], method) as handle:
        native = float(handle.family.rate(loaded[0].config))
        heard = [window for window in windows(wave, longest, RATE, source_rate=RATE) if window.wave is not None]
        found = [(window.offset, tokens_of(loaded, window, handle)) for window in heard]
    edges, hertz = rates(found, seconds)
    tokens = sum(len(spans) for _, spans in found)

    mpl.rcParams.update({"svg.hashsalt": "fewhertz", "svg.fonttype": "none"})
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    levels = levels_of(wave, RATE // 20)
    above.fill_between(np.arange(len(levels)) / 20, -80, levels.clip(-80), color=GREY, lw=0)
    above.set(ylabel="loudness (dBFS)", ylim=(-80, 0))
    for window in heard:
        below.axvspan(window.start, window.end, color=GREY, alpha=0.15, lw=0)
    below.axhline(native, color=GREY, ls="--", lw=1)
    below.text(seconds, native, "all tokens ", ha="right", va="bottom", fontsize=8)
    below.stairs(hertz, edges, color=LINES[0], lw=1.5)
    below.set(ylabel="audio tokens (Hz)", xlabel="time (s); grey: windows", ylim=(0, native + 5), xlim=(0, seconds))
    figure.suptitle(f"{method}: {tokens} tokens in {seconds:.0f} s, {tokens / seconds:.1f} Hz", fontsize=10)
    figure.savefig(out, metadata={"Date": None})
    print(out)


if __name__ == "__main__":
    typer.run(main)
