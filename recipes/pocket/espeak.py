"""The C library of espeak-ng, and a process of it that says every utterance in a fork of itself.

The library carries state from one utterance to the next (phases of its oscillators, the noise it draws), and starting
it anew in one process does not clear that. A fork of a process that has never spoken does: what it says depends on
nothing but the request. `speech.py` starts this file as that process; it imports the standard library alone.

A request is a line of JSON on standard input: text, voice, speed, pitch. The answer is a count of bytes (32 bits,
little endian) and that much audio (mono, 16 bits); the count FAILED where nothing can be said.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys

FAILED = 0xFFFFFFFF
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_SYNCHRONOUS, _UTF8 = 2, 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_STRESS = re.compile(r"['`,%=|~;\-\"]")


class Espeak:
    """The library of this process: its file, and the folder of its voices ("" for the one that it was built with)."""

    def __init__(self, library: str, voices: str = "") -> None:
        self.lib = ctypes.CDLL(library)
        self.lib.espeak_Info.restype = self.lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self.lib.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int,
            ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self.rate = self.lib.espeak_Initialize(_SYNCHRONOUS, 0, voices.encode() or None, 0)  # Hz
        if self.rate <= 0:
            raise RuntimeError("espeak-ng did not start")
        self.version = self.lib.espeak_Info(None).decode()
        self.audio = bytearray()

        def collect(samples: ctypes._Pointer, count: int, _events: int) -> int:
            if count > 0:
                self.audio += ctypes.string_at(samples, 2 * count)
            return 0

        self.callback = _CALLBACK(collect)  # kept: ctypes does not hold a reference
        self.lib.espeak_SetSynthCallback(self.callback)
        self.voice = ""

    def set_voice(self, voice: str) -> None:
        if voice != self.voice:
            if self.lib.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(f"espeak-ng has no voice {voice!r}")
            self.voice = voice

    def say(self, text: str, voice: str, speed: int, pitch: int) -> bytes:
        """Mono audio of 16 bits at `rate`. It depends on what this process has said before."""
        self.set_voice(voice)
        self.lib.espeak_SetParameter(_RATE, speed, 0)
        self.lib.espeak_SetParameter(_PITCH, pitch, 0)
        self.audio.clear()
        data = text.encode() + b"\0"
        self.lib.espeak_Synth(data, len(data), 0, 0, 0, _UTF8, None, None)
        return bytes(self.audio)

    def phonemes(self, text: str, voice: str) -> list[str]:
        self.set_voice(voice)
        pointer = ctypes.c_char_p(text.encode())
        out: list[str] = []
        while pointer.value:  # one clause a call; the library moves the pointer
            found = self.lib.espeak_TextToPhonemes(ctypes.byref(pointer), _UTF8, ord("_") << 8)
            out += (found or b"").decode().replace(" ", "_").split("_")
        return [p for p in (_STRESS.sub("", p) for p in out) if p and not p.startswith("(")]


def serve(engine: Espeak) -> None:
    """Answer requests until standard input ends. This process itself never speaks."""
    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            try:
                audio = engine.say(*json.loads(line))
            except ValueError as err:
                print(err, file=sys.stderr, flush=True)
                os._exit(1)
            out.write(len(audio).to_bytes(4, "little") + audio)
            out.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            out.write(FAILED.to_bytes(4, "little"))
            out.flush()


if __name__ == "__main__":
    serve(Espeak(*sys.argv[1:]))
