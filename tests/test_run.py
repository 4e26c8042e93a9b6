"""Audio and a prompt to text, the demo's functions, and the picture."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from test_families import PROCESSOR, SPECIAL, processor_of
from tiny import PAD, TINY

import fewhertz
from fewhertz import audio, demo, run, show
from fewhertz.evaluation.metrics import METRICS
from fewhertz.plan import Plan
from fewhertz.pocket import path
from recipes.pocket.config import REQUESTS

SAMPLES = sorted((path() / "samples").glob("*.flac"))


@pytest.fixture(scope="module")
def loaded() -> tuple[object, object]:
    return fewhertz.load("pocket", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def waves() -> list[np.ndarray]:
    return [audio.load(SAMPLES[0])[:32_000], audio.load(SAMPLES[1])[:20_000]]


@pytest.fixture
def files(tmp_path: Path, waves: list[np.ndarray]) -> list[Path]:
    named = [tmp_path / "one.wav", tmp_path / "two.wav"]
    for name, wave in zip(named, waves, strict=True):
        soundfile.write(name, wave, 16_000, subtype="FLOAT")
    return named


def test_pocket_is_asked_what_it_was_trained_on() -> None:
    assert {task: words[0] for task, words in REQUESTS.items()} == run.PROMPTS


def test_questions_that_differ_are_asked_together(loaded: tuple[object, object], waves: list[np.ndarray]) -> None:
    questions = ["Transcribe the speech.", "Is the speech fast or slow? Choose one of: fast, slow."]
    batch = run.request(loaded[1], waves, questions)
    together = run.answer(*loaded, batch, transcript=False, max_new_tokens=12)
    alone = [run.reply(*loaded, [w], q, max_new_tokens=12)[0] for w, q in zip(waves, questions, strict=True)]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert together[0].text != run.reply(*loaded, waves[:1], questions[1], max_new_tokens=12)[0].text


@pytest.mark.parametrize("spec", [None, "pool@keep=1/2", "segmentwise@keep=1/3"])
def test_reply_is_what_plain_transformers_generates(
    loaded: tuple[object, object], waves: list[np.ndarray], spec: str | None
) -> None:
    model, processor = loaded
    handle = None if spec is None else fewhertz.compress(model, spec)
    try:
        replies = run.reply(model, processor, waves, "What is said in the audio?", max_new_tokens=12)
        content = [{"type": "audio", "audio": "x"}, {"type": "text", "text": "What is said in the audio?"}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        for wave, reply in zip(waves, replies, strict=True):
            inputs = processor(text=[prompt], audio=[wave], sampling_rate=16_000, return_tensors="pt")
            out = model.generate(**inputs, max_new_tokens=12, do_sample=False)
            new = out[:, inputs["input_ids"].shape[1] :]
            assert reply.text == processor.batch_decode(new, skip_special_tokens=True)[0].strip()
            before = int((inputs["input_ids"] == model.config.audio_token_id).sum())
            assert reply.before == before
            assert reply.after == (before if handle is None else handle.method.num_tokens(before))
            assert min(reply.encode, reply.prefill) > 0 and reply.decode >= 0
    finally:
        if handle is not None:
            handle.remove()


@pytest.mark.parametrize("family", PROCESSOR)
@pytest.mark.parametrize("prompt", [None, "w9 w8"])
def test_each_family_is_asked_through_its_own_processor(family: str, prompt: str | None) -> None:
    model, processor = TINY[family].build(), processor_of(family)
    audio_token, begin, end = SPECIAL[family]
    marked = audio_token if family == "music-flamingo" else f"{begin} {audio_token} {end}"  # it writes them itself
    processor.chat_template = (
        "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
        f"{{% if c['type'] == 'audio' %}} {marked} {{% else %}} {{{{ c['text'] }}}} {{% endif %}}"
        "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %} w7 {% endif %}"
    )
    generator = np.random.default_rng(0)
    waves = [generator.standard_normal(n, dtype=np.float32) for n in (32_000, 17_000)]
    ids = run.request(processor, waves, prompt)["input_ids"]
    assert ids.shape[0] == 2 and (ids[:, -1] != PAD).all() and ids[1, 0] == PAD
    assert prompt is None or all("w9 w8" in text for text in processor.batch_decode(ids))
    with fewhertz.compress(model, "pool@keep=1/2") as handle:
        replies = run.reply(model, processor, waves, prompt, max_new_tokens=3)
        alone = [run.reply(model, processor, [wave], prompt, max_new_tokens=3)[0] for wave in waves]
        assert [r.after for r in replies] == [handle.method.num_tokens(r.before) for r in replies]
    assert [r.before for r in replies] == (ids == model.config.audio_token_id).sum(1).tolist()
    assert [r.text for r in replies] == [r.text for r in alone]


def test_demo_measures_what_reply_says(loaded: tuple[object, object], tmp_path: Path, capsys: object) -> None:
    clips = demo.bundled(2)
    clips[1] = demo.Clip(clips[1].wave, clips[1].text, "recorded")
    ticks: list[int] = []
    half = Fraction(1, 2)
    some = ("pool", "segmentwise"), (Fraction(1), half), (0.3,)
    rows = demo.measure(clips, *some, repeats=1, tick=lambda: ticks.append(1))
    variable = ("ward@tolerance+time+sizes", "≤ 0.3")
    assert [(row.method, row.keep) for row in rows] == [
        ("none", "1"),
        ("pool", "1/2"),
        ("segmentwise", "1/2"),
        variable,
    ]
    assert len(ticks) == 4 and rows[0].prefill == 1.0 and rows[0].tokens > rows[1].tokens == rows[2].tokens
    assert all(row.prefill > 0 for row in rows)
    # the encoder ran once for all rows: the same as running it for each
    model, processor = loaded
    for row in rows:
        spec = f"{row.method if row.method != 'none' else 'pool'}@keep={row.keep}"
        with fewhertz.compress(model, "ward@tolerance=0.3+time+sizes" if row.method == variable[0] else spec):
            for clip in clips:
                (one,) = run.reply(model, processor, [clip.wave], max_new_tokens=demo.MAX_NEW_TOKENS)
                ((wrong, words),) = demo.word_errors([clip.text], [one.text])
                assert wrong / words == row.wer[clip.kind]
    demo.print_table(rows)
    printed = capsys.readouterr().out
    assert "segmentwise" in printed and "WER recorded" in printed and "12." in printed
    demo.draw_curve(rows, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"


def test_demo_counts_word_errors_as_jiwer_does() -> None:
    texts = ["the old dog is asleep", "a", "I lost my red hat", "one two three four", "so it goes", "six"]
    said = ["the cold dog asleep today", "", "i lost my red hat", "two three four five", "it goes so", "six six six"]
    whole = METRICS["wer"].measure([[text.lower()] for text in texts], said)
    assert demo.word_errors(texts, said) == whole.astype(int).tolist()


def test_demo_keeps_the_kinds_of_its_clips_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "samples"
    shutil.copytree(path() / "samples", folder)
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text("utf-8").splitlines()]
    assert [clip.kind for clip in demo.bundled()] == [row.get("kind", "synthetic") for row in rows]
    (folder / "samples.jsonl").write_text("".join(json.dumps(rows[0] | kind) + "\n" for kind in KINDS), "utf-8")
    monkeypatch.setattr(demo.pocket, "path", lambda: tmp_path)
    assert [clip.kind for clip in demo.bundled()] == ["synthetic", "synthetic", "recorded"]


KINDS = ({}, {"kind": "synthetic"}, {"kind": "recorded"})


def test_demo_on_a_bare_install(tmp_path: Path) -> None:
    """In a process of its own, which finds no package of an extra."""
    code = f"""
import sys
sys.modules |= dict.fromkeys(["matplotlib", "jiwer", "scipy", "sacrebleu", "whisper_normalizer", "peft", "datasets"])
from fractions import Fraction
from pathlib import Path
from fewhertz import demo
whole = demo.bundled
demo.bundled, demo.METHODS, demo.KEEPS = lambda: whole(2), ("pool",), (Fraction(1), Fraction(1, 2))
demo.main(Path({str(tmp_path / "out")!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WER synthetic" in done.stdout and "WER recorded" not in done.stdout
    assert "curve: left out" in done.stderr and "fewhertz[eval]" in done.stderr
    assert len(json.loads((tmp_path / "out" / "demo.json").read_text())["rows"]) == 4
    assert not (tmp_path / "out" / "demo.png").exists()


@pytest.mark.parametrize("seconds", [1.0, 30.0])
def test_picture_greys_what_is_dropped_and_draws_the_rest(seconds: float, tmp_path: Path) -> None:
    n = round(25 * seconds)
    plan = Plan.select((torch.arange(n) % 3 == 0)[None], -(-n // 3))
    wave = np.random.default_rng(0).normal(0, 0.1, round(16_000 * seconds)).astype(np.float32)
    figure = show.picture(wave, 16_000, plan, 25.0, "stride")
    rows = len(figure.axes) // 2
    assert rows == (1 if seconds == 1 else 3)
    tokens, mel = figure.axes[0], figure.axes[1]
    drawn = [c for c in tokens.collections if len(c.get_paths()) == plan.m]
    assert len(drawn) == 2  # bars, and the lines that join their members
    assert len(mel.patches) == np.diff(np.append(np.flatnonzero(plan.group[0].numpy() >= 0), n)).__gt__(1).sum()
    assert figure.axes[-1].get_xlim()[1] == seconds
    if seconds == 1:
        figure.savefig(tmp_path / "tokens.png")
        assert (tmp_path / "tokens.png").stat().st_size > 10_000


def test_tokens_that_overlap_in_time_stand_in_lanes_of_their_own() -> None:
    spans = np.array([[0, 4], [1, 2], [2, 3], [4, 5]], dtype=float)
    lanes = show._lanes(spans)
    assert lanes.tolist() == [0, 1, 1, 0]
