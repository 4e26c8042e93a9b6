"""`fewhertz show --html`: a clip's tokens under several methods as one page, to see and to hear, without network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from fewhertz.files import Record
from fewhertz.page import document, packed
from fewhertz.words import cut

if TYPE_CHECKING:
    from fewhertz.compare import Lane

MAX_SECONDS = 120.0  # of a clip: 4 MB of it in the page, and some thousand boxes a lane


def record(
    name: str,
    wave: Float[np.ndarray, " samples"],
    sample_rate: int,
    token_rate: float,
    lanes: Sequence[Lane],
    *,
    model: str,
    prompt: str,
    reference: str | None = None,
    start: float = 0.0,
    timeline: Record | None = None,
) -> Record:
    """All that the page shows of a clip, as JSON.

    Args:
        name: of the clip.
        wave: mono audio.
        sample_rate: its samples per second, in Hz.
        token_rate: audio tokens per second before any plan, in Hz.
        lanes: what the methods made of it; all tokens first.
        model: its name.
        prompt: what was asked.
        reference: what the answer should be.
        start: where in its recording the clip begins, in seconds.
        timeline: of the recording that it is a window of (`fewhertz.studio.recording`).

    Raises:
        ValueError: for more than `MAX_SECONDS` of audio.
    """
    from fewhertz.mel import log_mel

    seconds = len(wave) / sample_rate
    check_length(seconds)
    mel = log_mel(wave, sample_rate)
    low, high = float(mel.min()), float(mel.max())
    shades = ((mel - low) * (255 / max(high - low, 1e-6))).round().astype(np.uint8)
    return {
        "name": cut(name, 300),
        "model": cut(model, 300),
        "prompt": cut(prompt),
        "reference": None if reference is None else cut(reference),
        "seconds": seconds,
        "start": start,
        "timeline": timeline,
        "token_rate": token_rate,
        "bands": len(mel),
        "mel": base64.b64encode(shades.tobytes()).decode(),
        "wav": _wav(wave, sample_rate),
        "lanes": [lane_record(lane, seconds) for lane in lanes],
    }


def check_length(seconds: float, most: float = MAX_SECONDS) -> None:
    """Refuse audio that a page does not hold.

    Raises:
        ValueError: for more than `most` seconds.
    """
    if seconds > most:
        raise ValueError(f"it has {seconds:.1f} s, and a page holds {most:g} s: cut a piece out of it")


def lane_record(lane: Lane, seconds: float) -> dict[str, Any]:
    """A lane of a clip of so many seconds, as JSON."""
    return {
        "method": lane.spec,
        "audio_tokens_before": lane.before,
        "audio_tokens": lane.tokens,
        "rate_hz": round(lane.tokens / seconds, 3),
        "kv_bytes": lane.kv,
        "prefill_flops": lane.flops,
        "group": None if lane.plan is None else lane.plan.group[0].tolist(),
        "per": 1 if lane.plan is None else lane.plan.per,
        "text": lane.text,
        "differences": lane.differences,
        "errors": lane.errors,
    }


def _wav(wave: Float[np.ndarray, " samples"], rate: int) -> str:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()


def page(*clips: Record) -> str:
    """A page of its own: one file, no network, no script but its own.

    Args:
        clips: what `record` made: one, or those of the windows of a recording, of which it shows one at a time.
    """
    style, script = parts()
    return document(f"{clips[0]['name']}: fewhertz", style, script, main(*clips))


def parts() -> tuple[str, str]:
    """The style and the script that draw every `main` of a page."""
    here = resources.files("fewhertz.studio")
    style, script = (here.joinpath(f"lanes.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return style, script


def main(*clips: Record, level: int = 1) -> str:
    """The HTML that a clip, or a recording in windows, is drawn in.

    Args:
        clips: as for `page`.
        level: of its heading.
    """
    data = "\n".join(f'<script type="application/json"{_window(clip)}>{packed(clip)}</script>' for clip in clips)
    tag = "main" if level == 1 else "div"
    note = "<noscript><p>This page draws and plays with JavaScript, its own alone.</p></noscript>"
    return f'<svg hidden></svg>\n{note}\n<{tag} class="clip" data-level="{level}">\n{data}\n</{tag}>'


def _window(clip: Record) -> str:
    return "" if clip["timeline"] is None else f' data-window="{int(clip["timeline"]["shown"])}"'
