"""Stage 8: the model card, with its figures from `results/test-shipped.json`.

python -m recipes.pocket.card
"""

from __future__ import annotations

import hashlib
import json
import textwrap
from pathlib import Path

from .config import NEW_VOICES, RESULTS, SEEN_VOICES, SHIPPED
from .evaluate import TARGETS, ends, figure

WHAT = {
    "far": "English, synthetic, sentences far from all that was heard or written in training, voices of training",
    "far-new-voices": "the same sentences, 26 voices never trained on",
    "passages": "far sentences one after the other, 20–30 s, short pauses, half of the voices new",
    "pauses": "the same voices, as much silence as speech",
    "pace-110": "100 far sentences, 110 words a minute",
    "pace-150": "the same sentences and voices, 150 words a minute",
    "pace-190": "the same, 190 words a minute",
    "strings": "strings of 3–8 spoken words of one unseen speaker (Speech Commands, 14 speakers)",
    "digits": "strings of 2–6 digits of one unseen speaker (Speech Commands, 20 speakers)",
    "speechocean762": "read English by Mandarin speakers, half of them children, unseen speakers",
    "commonvoice-en": "read English, all accents, unseen speakers",
    "librispeech": "English audiobooks, unseen speakers",
    "ljspeech": "read English, one speaker, who is in training too",
    "german-transcribed": "German written down, synthetic sentences, held-out text",
    "german": "German to English, synthetic sentences, held-out text, voices of training",
    "german-new-voices": "the same, voices never trained on",
    "describe": "scenes of one to three sounds, held-out source clips",
    "answer": "questions of sounds, words, speakers, orders: four options; held-out clips and speakers",
    "voice": "questions of pace, pitch, tone, speakers, loudness, accent; far sentences in new voices",
}
KINDS = {
    "which": "which sound", "first": "which first", "count": "how many", "word": "which word",
    "who": "child, adult, dog or rooster", "order": "which drink or size",
}  # fmt: skip

CARD = """# Pocket

A small audio language model, {parameters:.1f} million parameters ({megabytes:.1f} MB in float16), trained from
scratch. It is an ordinary `Qwen2AudioForConditionalGeneration`: log-mel (80 channels) → encoder ({encoder}) →
25 audio tokens a second → projector → causal LLM ({llm}). It exists so that methods that shorten the audio-token
sequence can be tried, tested and measured anywhere in seconds, through the code that a 7-billion-parameter model runs
through. It is a wind tunnel, and no product.

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
| task | asked by | answers |
|---|---|---|
| transcribe | "Transcribe the speech." | English or German as it is spoken; lower case, no punctuation |
| translate | "Translate the speech into English." | English, of spoken German |
| describe | "Describe the audio." | a caption of up to three of ten environmental sounds |
| answer | "Which sound comes first: rain, dog, clock or fire?", "Is the speech fast or slow?" | one of the options |

## What was measured
Greedy decoding, float32. WER: lower is better; BLEU, chrF, CIDEr-D and accuracy: higher is better. WER and BLEU are
of texts in lower case without punctuation. 95 % intervals by bootstrap over voices or speakers (speech), sentences
(German), scenes and questions' groups; where there are fewer than 30 groups they are too narrow. The word strings are
drawn from 14 speakers' clips, the scenes from 46 clips, the coffee orders from 66: their intervals say nothing of other
clips. Choices were made on dev, none on test. Synthetic speech is easier than people's.

{table}

{begun}

{right:.0f} % of the captions name all sounds of the scene and no others; CIDEr-D is {cider:.2f}, that of one reference
against the other four {one:.2f}. Captions, questions and their answers are templates of ours, not people's words.
Answers by kind, % right: {kinds}. Questions of voices, % right (chance 50, accent 25): {voices}.

**Does it listen?** On dev, {n_far} far sentences and {n_answer} questions:

{sensitivity}

Reproduced by `python -m recipes.pocket.prepare` and `python -m recipes.pocket.evaluate --split test --shipped`; that
nothing of test was trained on, by `python -m recipes.pocket.leaks`. Every answer is in `recipes/pocket/results/`.
SHA-256 of `model.safetensors`: `{sha}`.

{course}

## What it is not for
It is a test piece: no speech recogniser, no translator. It knows synthetic voices, strings of the common words of
Speech Commands and ten environmental sounds; the table says how far it gets with people's sentences. It writes
lower-case words only. Do not use it to decide anything about a person:
"child or adult" is there to be measured.

## Training data
| data | licence |
|---|---|
| synthetic English: sentences of Tatoeba and others of its words, {seen} voices of espeak-ng and flite | CC BY 2.0 FR |
| synthetic English: sentences of the recordings below, random words, numbers, spelled words | as below |
| synthetic German, sentences of Tatoeba with English translations | CC BY 2.0 FR |
| Speech Commands v0.02: single words, joined into strings while training | CC BY 4.0 |
| speechocean762: read English | free for commercial and other use (OpenSLR 101) |
| Common Voice, English | CC0 |
| LibriSpeech, one utterance a speaker | CC BY 4.0 |
| LJSpeech | public domain |
| Kerstin: read German, one speaker | CC0 |
| ESC-10: environmental sounds | CC0 / CC BY, per clip |
| Picovoice's coffee orders | Apache-2.0 |

{unseen}
The weights are under Apache-2.0; the sets above are named in NOTICE. How it was made: `recipes/pocket/`.

`samples/` holds a dozen clips of our own sentences, spoken by espeak-ng and flite (Apache-2.0), and four word strings
of people (Speech Commands, CC BY 4.0), with references in `samples.jsonl`; the model has trained on none of them.
"""


def table(test: dict, dev: dict) -> str:
    """Every set of the table, of dev where there is no test list."""
    lines = [
        "| set | what | metric | score | 95 % | items, groups | target (stretch) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, what in WHAT.items():
        split, row = next((s, r["sets"][name]) for s, r in (("test", test), ("dev", dev)) if name in r["sets"])
        score = f"**{row['score']:.1f}**" if row["metric"] != "cider" else f"**{row['score']:.2f}**"
        metric = {"wer": "WER, %", "bleu": "BLEU", "cider": "CIDEr-D", "accuracy": "accuracy, %"}[row["metric"]]
        target = ""
        if name in TARGETS:
            reached = figure(name, row)
            shown = (
                ""
                if TARGETS[name].metric == row["metric"]
                else f"{TARGETS[name].metric.replace('_', ' ')} {reached:.0f}: "
            )
            target = f"{TARGETS[name]}: {shown}{'met' if TARGETS[name].met(reached) else 'missed'}"
        where = "" if split == "test" else " (dev)"
        counts = f"{row['items']}, {row['groups']}"
        lines.append(f"| {name}{where} | {what} | {metric} | {score} | {ends(row)} | {counts} | {target} |")
    return "\n".join(lines)


def begun_from(near: dict) -> str:
    """What the weights begun from had heard of the lists.

    Raises:
        ValueError: where some of a far list was near to it: the card would have to say what figures are without.
    """
    if any(near["items"].values()):
        raise ValueError("what was begun from had heard near copies of far sentences: say so in the card")
    lists = [
        f"{len(some):,} of {name}"
        for name, some in near["shared"].items()
        if name.removesuffix("-test") in WHAT or name == "speechocean762-dev"
    ]
    return textwrap.fill(
        f"Training began from weights that had heard or written {near['sentences']:,} sentences, made before a rule of "
        "`leaks`. None is near to one of a far list. Some English sentences of other lists were among them, by chance: "
        f"{', '.join(lists)} (of German, translations that were heard as English speech).",
        118,
    )


def sensitivity_table(rows: dict[str, dict]) -> str:
    lines = ["| | metric | score | 95 % |", "|---|---|---|---|"]
    for name, row in rows.items():
        metric = "WER, %" if row["metric"] == "wer" else "accuracy, %"
        lines.append(f"| {name} | {metric} | {row['score']:.1f} | {ends(row)} |")
    return "\n".join(lines)


def card(folder: Path) -> str:
    sha = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    names = ("test", "dev", "sensitivity-dev")
    test, dev, sensitive = (json.loads((RESULTS / f"{n}-shipped.json").read_text("utf-8")) for n in names)
    near = json.loads((RESULTS / "near-start.json").read_text("utf-8"))
    if {r["weights_sha256"] for r in (test, dev, sensitive)} != {sha}:
        raise ValueError("the results are of other weights: run python -m recipes.pocket.evaluate --shipped again")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    audio, text = config["audio_config"], config["text_config"]
    return CARD.format(
        parameters=(folder / "model.safetensors").stat().st_size / 2e6,
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        encoder=f"{audio['encoder_layers']} layers, {audio['d_model']} wide",
        llm=f"{text['num_hidden_layers']} layers, {text['hidden_size']} wide",
        table=table(test, dev),
        begun=begun_from(near) if test["before"] else "Training began from nothing.",
        one=test["sets"]["describe"]["one_reference"],
        cider=test["sets"]["describe"]["score"],
        right=test["sets"]["describe"]["right_sounds"],
        kinds=", ".join(f"{KINDS[k]} {v:.0f} %" for k, v in test["sets"]["answer"]["by_kind"].items()),
        voices=", ".join(f"{k} {v:.0f} %" for k, v in test["sets"]["voice"]["by_kind"].items()),
        n_far=sensitive["sets"]["far"]["items"],
        n_answer=sensitive["sets"]["answer"]["items"],
        sensitivity=sensitivity_table(sensitive["sets"]),
        sha=sha,
        course=textwrap.fill(
            f"Trained for {test['step']} steps ({test['heard_s'] / 3600:.0f} h of audio heard, repeats included). "
            f"{test['before']} `recipes/pocket/LOG.md` tells the course.",
            118,
        ),
        seen=len(SEEN_VOICES["en"]),
        unseen=textwrap.fill(
            "Voices held out: " + ", ".join(v for some in NEW_VOICES.values() for v in some) + ".", 118
        ),
    )


def main() -> None:
    (SHIPPED / "MODEL_CARD.md").write_text(card(SHIPPED), "utf-8")


if __name__ == "__main__":
    main()
