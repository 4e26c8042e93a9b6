"""Stage 8: the model card, with its figures from `results/test-shipped.json`.

python -m recipes.pocket.card
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from .config import RESULTS, SEEN_VOICES, SHIPPED, UNSEEN_VOICES
from .evaluate import BARS

WHAT = {
    "strings": "strings of 3–6 spoken words of one unseen speaker (Speech Commands, test speakers)",
    "synthetic": "synthetic sentences, held-out text, voices seen in training",
    "unseen-voices": "synthetic sentences, held-out text, voices never trained on",
    "speechocean762": "read English by Mandarin speakers, half of them children, unseen speakers",
    "commonvoice-en": "read English, all accents, unseen speakers",
    "librispeech": "audiobooks, unseen speakers",
}

CARD = """# Pocket

A small audio language model, {parameters:.1f} million parameters ({megabytes:.1f} MB in float16), trained from
scratch. It is an ordinary `Qwen2AudioForConditionalGeneration`: log-mel (80 channels) → encoder ({encoder}) →
25 audio tokens a second → projector → causal LLM ({llm}). It exists so that methods that shorten the audio-token
sequence can be tried, tested and measured anywhere in seconds, through the code that a 7-billion-parameter model runs
through.

```python
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration
import fewhertz.pocket, soundfile

folder = fewhertz.pocket.path()
processor = AutoProcessor.from_pretrained(folder)
model = Qwen2AudioForConditionalGeneration.from_pretrained(folder, dtype="float32")
wave, rate = soundfile.read(folder / "samples" / "01.flac", dtype="float32")  # 16 kHz, mono
content = [{{"type": "audio", "audio": "01.flac"}}, {{"type": "text", "text": "Transcribe the speech."}}]
chat = [{{"role": "user", "content": content}}]
prompt = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
inputs = processor(text=prompt, audio=wave, sampling_rate=rate, return_tensors="pt")
out = model.generate(**inputs)
print(processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

## What it does
It writes down English speech in lower case, without punctuation. That is the only task of this version.

## What was measured
Word error rate in %, greedy decoding, float32, prompt "{instruction}", clips up to 30 s. 95 % intervals
by bootstrap, over sentences for synthetic speech and over speakers for recordings (the word strings come from 300
drawings of 14 speakers' clips, hence the width). Choices were made on dev, none on test.

{table}

Reproduced by `python -m recipes.pocket.prepare` and `python -m recipes.pocket.evaluate --split test --shipped`. Every
answer is in `recipes/pocket/results/`. SHA-256 of `model.safetensors`:
`{sha}`.

Trained for {steps} steps ({heard:.0f} h of audio heard, repeats included) in {minutes:.0f} minutes
on 2 virtual CPU cores that other work shared.

## What it is not for
It is a test piece and no speech recogniser. It knows synthetic voices reading short sentences (four words on average,
one to eight in a row) and strings of the ten or so common words of Speech Commands. It gets most words of people's
sentences wrong (the last three rows above). Sentences of ten words or more come out badly too: half their words, in a
first set of clips that we made. Above some 8 s it may leave out or repeat a stretch. It knows no language but English,
and writes lower-case words only. Do not use it to decide anything about a person.

## Training data
| data | what | licence |
|---|---|---|
| synthetic speech | 35,000 sentences of Tatoeba, 10 espeak-ng and 3 flite voices, 11 h | sentences CC BY 2.0 FR |
| Speech Commands v0.02 | 12 single words, joined into strings while training, 1.0 h | CC BY 4.0 |
| speechocean762 | read sentences, 4.6 h | free for commercial and other use (OpenSLR 101) |
| Common Voice, English | read sentences, 3.3 h | CC0 |
| LibriSpeech | one utterance a speaker, 0.8 h | CC BY 4.0 |

Voices heard in training: {seen}. Held out: {unseen}. No synthetic sentence and no speaker is in both training and test.
The weights are under Apache-2.0; the sets above are named in NOTICE. How it was made: `recipes/pocket/`.

`samples/` holds a dozen clips of our own sentences, spoken by espeak-ng and flite (Apache-2.0), with references in
`samples.jsonl`; the model has trained on none of them.
"""


def table(result: dict) -> str:
    lines = ["| set | what | WER | 95 % | clips | words | bar |", "|---|---|---|---|---|---|---|"]
    for name, row in sorted(result["sets"].items(), key=lambda kv: list(WHAT).index(kv[0])):
        bar = f"≤ {BARS[name]:.0f}" if name in BARS else ""
        split = "" if result["split"] == "test" else f" ({result['split']})"
        lines.append(
            f"| {name}{split} | {WHAT[name]} | **{row['wer']:.1f}** | {row['low']:.1f}–{row['high']:.1f} "
            f"| {row['clips']} | {row['words']} | {bar} |"
        )
    return "\n".join(lines)


def card(folder: Path) -> str:
    sha = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    test = json.loads((RESULTS / "test-shipped.json").read_text("utf-8"))
    dev = json.loads((RESULTS / "dev-shipped.json").read_text("utf-8"))
    if {test["weights_sha256"], dev["weights_sha256"]} != {sha}:
        raise ValueError("the results are of other weights: run python -m recipes.pocket.evaluate --shipped again")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    audio, text = config["audio_config"], config["text_config"]
    # Sets without test clips are reported on dev.
    only_dev = dev | {"sets": {k: v for k, v in dev["sets"].items() if k not in test["sets"]}}
    return CARD.format(
        parameters=(folder / "model.safetensors").stat().st_size / 2e6,
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        encoder=f"{audio['encoder_layers']} layers, {audio['d_model']} wide",
        llm=f"{text['num_hidden_layers']} layers, {text['hidden_size']} wide",
        instruction=test["instruction"],
        table=table(test) + "\n" + "\n".join(table(only_dev).splitlines()[2:]),
        sha=sha,
        steps=test["step"],
        heard=test["heard_s"] / 3600,
        minutes=test["spent_s"] / 60,
        seen=", ".join(SEEN_VOICES),
        unseen=", ".join(UNSEEN_VOICES),
    )


def main() -> None:
    (SHIPPED / "MODEL_CARD.md").write_text(card(SHIPPED), "utf-8")


if __name__ == "__main__":
    main()
