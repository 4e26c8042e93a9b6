"""What the recipe is made of: paths, voices, sizes. Everything else reads it from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
DATA = REPO.parent / "shared" / "data"  # real recordings; optional
CACHE = HERE / "cache"
RUNS = HERE / "runs"
SPLITS = HERE / "splits"
RESULTS = HERE / "results"
SHIPPED = REPO / "src" / "fewhertz" / "pocket"

SAMPLE_RATE = 16_000  # Hz
HOP = 160  # samples: 100 mel frames a second
N_MELS = 80
FRAME_HZ = 100

# "espeak:<language>+<variant>" or "flite:<voice>". Unseen voices are never trained on.
SEEN_VOICES = (
    "espeak:en-us",
    "espeak:en-us+f2",
    "espeak:en-us+m3",
    "espeak:en-us+f4",
    "espeak:en",
    "espeak:en+f3",
    "espeak:en+m7",
    "espeak:en-gb-x-rp+f1",
    "espeak:en-gb-scotland+m4",
    "espeak:en-029+m2",
    "flite:slt",
    "flite:rms",
    "flite:kal16",
)
UNSEEN_VOICES = ("espeak:en-us+m5", "espeak:en+f5", "espeak:en-029+f2", "flite:awb")
FLITE_COST = 0.5  # share of sentences of a flite voice beside an espeak-ng one: flite is some 15 times slower

REAL_SETS = ("speechocean762", "commonvoice-en", "librispeech", "speech_commands")
SENTENCE_SETS = ("speechocean762", "commonvoice-en", "librispeech")

INSTRUCTIONS = (
    "Transcribe the speech.",
    "Transcribe the audio.",
    "Transcribe this recording.",
    "Write down what is said.",
    "What does the speaker say?",
    "What is said in the audio?",
    "Please transcribe what you hear.",
    "Give the words that are spoken.",
)


@dataclass(frozen=True)
class Size:
    """One setting of the dial. Widths in channels; ``sentences`` bounds the synthetic training sentences."""

    d_encoder: int
    encoder_layers: int
    encoder_heads: int
    d_llm: int
    llm_layers: int
    llm_ffn: int
    vocab: int
    sentences: int
    real: bool  # recordings of ../shared/data too
    mix_from: int  # step from which real and longer clips are mixed in
    steps: int


SIZES = {
    "tiny": Size(64, 2, 2, 64, 2, 128, 768, 600, False, 30, 60),
    "small": Size(192, 5, 3, 192, 3, 512, 768, 40_000, True, 600, 6_000),
}
HEAD_DIM = 64  # of the LLM; vLLM's CPU attention needs 64
