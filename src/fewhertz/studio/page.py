"""`fewhertz show --html`: a clip's tokens under several methods as one page, to see and to hear, without network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from jaxtyping import Float

from fewhertz.compare import Lane
from fewhertz.files import Record
from fewhertz.page import fill, packed, policy
from fewhertz.words import cut

MAX_SECONDS = 120.0  # of audio in a page: 4 MB of it, and some thousand boxes a lane


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
        "token_rate": token_rate,
        "bands": len(mel),
        "mel": base64.b64encode(shades.tobytes()).decode(),
        "wav": _wav(wave, sample_rate),
        "lanes": [lane_record(lane, seconds) for lane in lanes],
    }


def check_length(seconds: float) -> None:
    """Refuse audio that a page does not hold.

    Raises:
        ValueError: for more than `MAX_SECONDS`.
    """
    if seconds > MAX_SECONDS:
        raise ValueError(f"it has {seconds:.1f} s, and a page holds {MAX_SECONDS:g} s: cut a piece out of it")


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
        "text": lane.text,
        "differences": lane.differences,
        "errors": lane.errors,
    }


def _wav(wave: Float[np.ndarray, " samples"], rate: int) -> str:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()


def page(clip: Record) -> str:
    """The page of a clip: one file, no network, no script but its own.

    Args:
        clip: what `record` made.
    """
    here = resources.files("fewhertz.studio")
    parts = {name: here.joinpath(f"lanes.{name}").read_text("utf-8") for name in ("html", "css", "js")}
    values = {"style": parts["css"], "script": parts["js"], "title": html.escape(f"{clip['name']}: fewhertz")}
    text = fill(parts["html"], values | {"data": packed(clip)})
    # what a damaged name holds of half characters is replaced, as in any page
    text = text.encode("utf-8", "replace").decode()
    return text.replace("$policy", policy(text), 1)
