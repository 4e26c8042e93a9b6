"""Speech synthesis with espeak-ng (its C library) and flite (its command). An utterance is the same whatever was said
before it: espeak-ng says each in a fresh process (see `espeak.py`).
"""

from __future__ import annotations

import atexit
import ctypes.util
import io
import json
import os
import shutil
import subprocess
import sys
from functools import cache

import espeakng_loader
import numpy as np
import soundfile as sf
import soxr

from . import espeak
from .config import SAMPLE_RATE


def _library() -> tuple[str, str]:
    """The library of espeak-ng and the folder of its voices: the system's, or else the wheel of the dev extra. They are
    other builds, whose speech differs.
    """
    if name := ctypes.util.find_library("espeak-ng"):
        return name, ""
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()


@cache
def _engine() -> espeak.Espeak:
    """The library in this process, for what is not audio."""
    return espeak.Espeak(*_library())


@cache
def _speaker(process: int) -> subprocess.Popen[bytes]:
    """The process that forks for each utterance: one for each process of ours, whose pipes are not shared."""
    command = [sys.executable, "-I", espeak.__file__, *_library()]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def stop() -> None:
        if os.getpid() == process:
            started.communicate()

    atexit.register(stop)
    return started


def version() -> str:
    """Of the espeak-ng that speaks here."""
    return _engine().version


def phonemes(text: str, voice: str = "en-us") -> list[str]:
    """espeak-ng's phoneme names without stress marks. They are targets of the CTC loss in training, nothing else."""
    return _engine().phonemes(text, voice)


@cache
def can_say(voice: str) -> bool:
    """Whether the synthesiser of a voice is there; says once what is missing."""
    if voice.startswith("espeak:") or shutil.which("flite"):
        return True
    print(f"no flite here, so nothing by {voice}: apt install flite", flush=True)
    return False


def synthesise(raw: str, voice: str, speed: int = 170, pitch: int = 50, fresh: bool = True) -> np.ndarray:
    """Mono float32 waveform at 16 kHz. ``speed`` in words a minute; ``pitch`` 0..99 (espeak-ng only).

    ``fresh=False`` is four times as fast, and what was said before tells in the last bits: for training alone.
    """
    engine, name = voice.split(":", 1)
    if engine == "espeak" and not fresh:
        wave, rate = (
            np.frombuffer(_engine().say(raw, name, speed, pitch), "<i2").astype(np.float32) / 32768,
            _engine().rate,
        )
    elif engine == "espeak":
        speaker, rate = _speaker(os.getpid()), _engine().rate
        assert speaker.stdin and speaker.stdout
        speaker.stdin.write(json.dumps([raw, name, speed, pitch]).encode() + b"\n")
        speaker.stdin.flush()
        size = int.from_bytes(speaker.stdout.read(4) or b"\xff" * 4, "little")
        if size == espeak.FAILED:
            raise ValueError(f"espeak-ng cannot say {raw!r} by {name!r}")
        wave = np.frombuffer(speaker.stdout.read(size), "<i2").astype(np.float32) / 32768
    elif engine == "flite":
        stretch = f"duration_stretch={170 / speed:.3f}"
        command = ["flite", "-voice", name, "--setf", stretch, "-t", raw, "-o", "/dev/stdout"]
        spoken = subprocess.run(command, check=True, capture_output=True).stdout
        wave, rate = sf.read(io.BytesIO(spoken), dtype="float32")
    else:
        raise ValueError(f"unknown synthesiser in voice {voice!r}")
    return soxr.resample(wave, rate, SAMPLE_RATE) if rate != SAMPLE_RATE else wave
