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
LONGEST = 29.5  # seconds of a training clip
HOP = 160  # samples: 100 mel frames a second
N_MELS = 80

# "espeak:<language>+<variant>" or "flite:<voice>". Unseen voices are never trained on.
ACCENTS = (
    "en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-us-nyc", "en-gb-x-gbclan", "en-gb-x-gbcwmd",
)  # fmt: skip
PLAIN = ("f1", "f2", "f3", "f4", "m1", "m2", "m3", "m4", "m6", "m7", "m8")  # of them a voice is drawn more often
VARIANTS = (
    *PLAIN, "Alex", "Andrea", "Andy", "Denis", "Diogo", "Gene2", "Henrique", "Hugo", "Marco", "Mario", "Mike", "Nguyen",
    "RicishayMax", "RicishayMax2", "RicishayMax3", "Tweaky", "announcer", "antonio", "aunty", "benjamin", "croak",
    "david", "ed", "edward2", "grandma", "grandpa", "gustave", "iven2", "iven3", "iven4", "john", "kaukovalta",
    "klatt", "klatt2", "klatt3", "klatt4", "klatt5", "klatt6", "marcelo", "max", "michel", "miguel", "norbert", "paul",
    "pedro", "robert", "robosoft", "robosoft2", "robosoft3", "robosoft4", "robosoft5", "robosoft6", "robosoft7",
    "robosoft8", "sandro", "shelby", "steph2", "steph3",
)  # fmt: skip
NEW_VARIANTS = (  # of no voice that is trained on, in any language
    "m5", "f5", "adam", "Alicia", "Annie", "anika", "belinda", "boris", "caleb", "edward", "Gene", "iven", "Jacky",
    "Lee", "linda", "Michael", "pablo", "quincy", "rob", "steph", "Storm", "travis", "victor", "zac",
)  # fmt: skip
UNSEEN_VOICES = {
    "en": ("espeak:en-us+m5", "espeak:en+f5", "espeak:en-029+f2", "flite:awb"),
    "de": ("espeak:de+m5", "espeak:de+f5"),
}
NEW_VOICES = {
    "en": (*UNSEEN_VOICES["en"], *(f"espeak:{ACCENTS[i % 5]}+{v}" for i, v in enumerate(NEW_VARIANTS[2:]))),
    "de": (*UNSEEN_VOICES["de"], *(f"espeak:de+{v}" for v in NEW_VARIANTS[2:])),
}
SEEN_VOICES = {
    "en": (
        *(v for a in ACCENTS for v in (f"espeak:{a}", *(f"espeak:{a}+{x}" for x in VARIANTS))
          if v not in UNSEEN_VOICES["en"]),
        "flite:slt", "flite:rms", "flite:kal16",
    ),
    "de": ("espeak:de", *(f"espeak:de+{x}" for x in VARIANTS)),
}  # fmt: skip
FLITE_SHARE = 0.06  # of English sentences that flite speaks: it is some 15 times slower
SPEED = (90, 220)  # words a minute
PITCH = (15, 85)  # of espeak-ng's 0..99

# recordings with transcripts, by the language that is written down
RECORDED = {
    "en": ("speechocean762", "commonvoice-en", "librispeech", "ljspeech"),
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
    "english": 0.22,  # synthetic English: one sentence, several, or a passage with pauses
    "spell": 0.05,  # synthetic: numbers, spelled words, random words of a dictionary
    "words": 0.09,  # strings of words and digits of one speaker, people's
    "recorded": 0.34,  # people's English sentences
    "german": 0.04,
    "translate": 0.11,
    "describe": 0.04,
    "answer": 0.07,
    "voice": 0.04,  # paralinguistic questions
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
    english: int  # synthetic English utterances to train on
    german: int  # and German ones
    mix_from: int  # step from which everything is mixed in; before it, short synthetic English alone
    steps: int
    family: str = "qwen2_audio"  # `model_type` of the class that is trained: `family.FAMILIES`


SIZES = {
    "tiny": Size(64, 2, 2, 64, 2, 128, 1024, 300, 60, 30, 60),
    "small": Size(192, 5, 3, 192, 4, 512, 1024, 60_000, 20_000, 600, 12_000),
    # another shape, to see what is of the shape of `small`: a thinner encoder, a wider LLM of fewer layers
    "wide": Size(160, 4, 4, 256, 3, 512, 1024, 60_000, 20_000, 400, 4_000),
    # the shape of `small`, so that it can begin from the third version's weights, on the audio of `large`
    "fourth": Size(192, 5, 3, 192, 4, 512, 1024, 420_000, 70_000, 500, 12_000),
    "large": Size(320, 6, 5, 256, 4, 640, 1024, 420_000, 70_000, 500, 8_000),  # for a GPU: all that 25 MB hold
    # another class, which reads the wave: 50 audio tokens a second instead of 25, an LLM of the shape of `fourth`
    "omni": Size(192, 5, 3, 192, 4, 512, 1024, 420_000, 70_000, 500, 12_000, "omniasr"),
}


def cache(size: str) -> Path:
    """Where the audio of a size is: that of the tiny one is little, `large` hears more voices and sentences."""
    return HERE / "cache" / {"tiny": "tiny", "fourth": "large", "large": "large", "omni": "large"}.get(size, "full")


SPOKEN = ("english", "spell", "tone", "german")  # kinds of synthetic speech
HEAD_DIM = 64  # of the LLM; vLLM's CPU attention needs 64
