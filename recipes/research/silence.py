"""Lists with as much silence as sound: each clip between two halves of near silence, together as long as itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

from fewhertz import audio

LEVEL = 1e-4  # of the noise that stands for silence, about −80 dBFS


def silenced(manifest: Path, out: Path) -> Path:
    """Write the audio and manifest of a list with silence; what is there stays.

    Args:
        manifest: a list with `audio` and what goes with it, a line a clip.
        out: the manifest to write; its audio goes into a folder beside it.
    """
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, line in enumerate(manifest.read_text("utf-8").splitlines()):
        row = json.loads(line)
        file = folder / f"{number:04d}.wav"
        if not file.exists():
            wave = audio.load(manifest.parent / row["audio"], 16_000)
            noise = np.random.default_rng(number).normal(0, LEVEL, len(wave)).astype(np.float32)
            half = len(wave) // 2
            soundfile.write(file, np.concatenate([noise[:half], wave, noise[half:]]), 16_000, subtype="FLOAT")
        lines.append(json.dumps(row | {"audio": f"{folder.name}/{file.name}"}, ensure_ascii=False))
    out.write_text("\n".join(lines) + "\n", "utf-8")
    return out
