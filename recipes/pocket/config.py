"""What the recipe is made of: paths, voices, requests, shares, sizes. Everything else reads it from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
DATA = REPO.parent / "shared" / "data"  # real recordings; optional
RUNS = HERE / "runs"
SPLITS = HERE / "splits"
RESULTS = HERE / "results"
SHIPPED = REPO / "src" / "fewhertz" / "pocket"

SAMPLE_RATE = 16_000  # Hz
HOP = 160  # samples: 100 mel frames a second
N_MELS = 80
FRAME_HZ = 100

# "espeak:<language>+<variant>" or "flite:<voice>". Unseen voices are never trained on.
SEEN_VOICES = {
    "en": (
        "espeak:en-us", "espeak:en-us+f1", "espeak:en-us+f2", "espeak:en-us+m3", "espeak:en-us+f4", "espeak:en-us+m8",
        "espeak:en", "espeak:en+m1", "espeak:en+f3", "espeak:en+m7", "espeak:en-gb-x-rp+f1", "espeak:en-gb-x-rp+m3",
        "espeak:en-gb-scotland+m4", "espeak:en-gb-scotland+f3", "espeak:en-029+m2", "espeak:en-029+m6",
        "espeak:en-029+f4", "flite:slt", "flite:rms", "flite:kal16",
    ),
    "fr": ("espeak:fr", "espeak:fr+f2", "espeak:fr+m3", "espeak:fr+f4", "espeak:fr-ch+m7"),
    "de": (
        "espeak:de", "espeak:de+f2", "espeak:de+m3", "espeak:de+f4", "espeak:de+m7", "espeak:de+f1", "espeak:de+m1",
    ),
}  # fmt: skip
UNSEEN_VOICES = {
    "en": ("espeak:en-us+m5", "espeak:en+f5", "espeak:en-029+f2", "flite:awb"),
    "fr": ("espeak:fr+m5", "espeak:fr+f5"),
    "de": ("espeak:de+m5", "espeak:de+f5"),
}
FLITE_COST = 0.5  # share of sentences of a flite voice beside an espeak-ng one: flite is some 15 times slower
SPEED = {"en": (145, 190), "fr": (150, 200), "de": (165, 220)}  # words a minute

# recordings with transcripts, by the language that is written down
RECORDED = {
    "en": ("speechocean762", "commonvoice-en", "librispeech", "ljspeech"),
    "fr": ("commonvoice-fr",),
    "de": ("kerstin",),
}
WORDS = "speech_commands"

# The first of each is what `fewhertz.run.PROMPTS` asks and what is measured; the others are for training.
REQUESTS = {
    "transcribe": (
        "Transcribe the speech.",
        "Transcribe the audio.",
        "Transcribe this recording.",
        "Write down what is said.",
        "What does the speaker say?",
        "What is said in the audio?",
        "Please transcribe what you hear.",
        "Give the words that are spoken.",
    ),
    "translate": (
        "Translate the speech into English.",
        "Translate the audio into English.",
        "What does the speaker say, in English?",
        "Give an English translation of the speech.",
    ),
    "describe": (
        "Describe the audio.",
        "Describe the sounds.",
        "What can be heard?",
        "Write a caption for the audio.",
    ),
}

# Share of each kind among training examples once all are mixed.
SHARES = {
    "english": 0.2,  # synthetic Tatoeba sentences, one to eight of one voice
    "long": 0.04,  # synthetic sentences of other corpora, longer ones
    "words": 0.16,  # strings of spoken words of one speaker
    "recorded": 0.03,  # people's English sentences
    "french": 0.03,
    "german": 0.07,
    "translate": 0.22,
    "describe": 0.09,
    "answer": 0.16,
}


@dataclass(frozen=True)
class Size:
    """One setting of the dial. Widths in channels."""

    d_encoder: int
    encoder_layers: int
    encoder_heads: int
    d_llm: int
    llm_layers: int
    llm_ffn: int
    vocab: int
    sentences: int  # at most so many English sentences, and German ones
    renderings: int  # times that each English sentence is spoken, each time by another draw of voices
    mix_from: int  # step from which everything is mixed in; before it, short synthetic English alone
    steps: int


SIZES = {
    "tiny": Size(64, 2, 2, 64, 2, 128, 1024, 300, 1, 30, 60),
    "small": Size(192, 5, 3, 192, 4, 512, 1024, 50_000, 4, 600, 12_000),
    # another shape, to see what is of the shape of `small`: a thinner encoder, a wider LLM of fewer layers
    "wide": Size(160, 4, 4, 256, 3, 512, 1024, 50_000, 4, 400, 4_000),
    "large": Size(320, 5, 5, 320, 3, 864, 1024, 50_000, 4, 600, 30_000),  # for a GPU: all that 25 MB hold
}


def cache(size: str) -> Path:
    """Where the features of a size are: those of the tiny one are few, the others share theirs."""
    return HERE / "cache" / ("tiny" if size == "tiny" else "full")


def spoken_parts(size: str, kind: str) -> list[Path]:
    """The indices of a kind's synthetic training speech (english, long, german, french), a file a voice."""
    return [path for engine in ("espeak", "flite") for path in sorted(cache(size).glob(f"{kind}-{engine}-*.jsonl"))]


SPOKEN = ("english", "long", "german", "french")
HEAD_DIM = 64  # of the LLM; vLLM's CPU attention needs 64
