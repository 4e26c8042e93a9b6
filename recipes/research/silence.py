"""Lists with as much silence as sound: near silence around each clip, or in it where it is quiet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

from fewhertz import audio
from fewhertz.windows import halves

RATE = 16_000
LEVEL = 1e-4  # of the noise that stands for silence, about −80 dBFS


def silenced(manifest: Path, out: Path, inside: bool = False) -> Path:
    """Write the audio and manifest of a list with silence; what is there stays.

    Args:
        manifest: a list with `audio` and what goes with it, a line a clip.
        out: the manifest to write; its audio goes into a folder beside it.
        inside: three equal silences, one near each quarter of the clip, instead of one before it and one behind.
    """
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, line in enumerate(manifest.read_text("utf-8").splitlines()):
        row = json.loads(line)
        file = folder / f"{number:04d}.wav"
        if not file.exists():
            wave = audio.load(manifest.parent / row["audio"], RATE)
            noise = np.random.default_rng(number).normal(0, LEVEL, len(wave)).astype(np.float32)
            pieces = _spread(wave, noise) if inside else [noise[: len(wave) // 2], wave, noise[len(wave) // 2 :]]
            soundfile.write(file, np.concatenate(pieces), RATE, subtype="FLOAT")
        lines.append(json.dumps(row | {"audio": f"{folder.name}/{file.name}"}, ensure_ascii=False))
    out.write_text("\n".join(lines) + "\n", "utf-8")
    return out


def _spread(wave: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
    """Cut in two at the quietest tenth of a second of the middle third, and each half again; noise between."""
    whole = halves(wave, RATE)
    first = halves(wave[:whole], RATE)
    parts = np.split(wave, [first, whole, whole + halves(wave[whole:], RATE)])
    gaps = [*np.array_split(noise, len(parts) - 1), noise[:0]]
    return [piece for pair in zip(parts, gaps, strict=True) for piece in pair]
