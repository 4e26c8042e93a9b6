"""LoRA recovery: what is trained, that an interruption or a second process changes nothing, and what is saved."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import test_cli
import torch
from safetensors.torch import load_file, save_file
from test_cli import ROOT, SCRIPT, fewhertz_
from tiny import TINY, prompts

import fewhertz
from fewhertz import adapter, audio, files
from fewhertz.evaluation import curves, results
from fewhertz.families import family_of
from fewhertz.layout import IGNORE
from fewhertz.pocket import path
from fewhertz.run import reply, request
from fewhertz.steps import Steps
from fewhertz.training import Settings, Stopped, keep_range, train
from fewhertz.training.data import Encoded, EncodedAudio, Stream, batch_of, end_of_turn
from fewhertz.training.step import add_lora, cross_entropy, divergence, learning_rate, logits_of

SAMPLES = path() / "samples" / "samples.jsonl"
FAMILIES = ("qwen2-audio", "audio-flamingo-3", "voxtral", "qwen2.5-omni", "omni-asr")
CPU: dict[str, Any] = {"device": "cpu", "batch_size": 4, "every": 2, "lr": 5e-3}
tiny = test_cli.tiny  # a fixture: pocket's processor, and a small random model of its class


@pytest.fixture(scope="module", autouse=True)
def find_spec() -> Any:
    """TensorBoard's import takes seconds: only `test_what_a_training_tells` has it, by what this yields."""
    found = importlib.util.find_spec
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "tensorboard" else found(name, *a))
        yield found


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven clips of different lengths."""
    folder = tmp_path_factory.mktemp("data")
    wave = audio.load(SAMPLES.with_name("01.flac"))
    rows = []
    for i in range(7):
        soundfile.write(folder / f"{i}.wav", wave[1600 * i : 1600 * i + 6_000 + 997 * i], 16_000)
        rows.append({"audio": f"{i}.wav", "text": f"the coffee {'is hot ' * (i % 3)}", "id": f"clip-{i}"})
    file = folder / "clips.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def metrics(out: Path, name: str = "loss") -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "training" / "metrics.jsonl").read_text().splitlines()]
    found = [(line["step"], line[name]) for line in lines if name in line]
    assert len(dict(found)) == len(found)  # no step twice
    return dict(found)


def weights(out: Path) -> dict[str, torch.Tensor]:
    found = load_file(out / adapter.WEIGHTS)
    learned = out / "audio_compression.safetensors"
    return found | (load_file(learned) if learned.exists() else {})


def perturb(out: Path) -> None:
    """Give an adapter weights that matter, as long training would."""
    generator = torch.Generator().manual_seed(0)
    for name in (adapter.WEIGHTS, "audio_compression.safetensors"):
        if (out / name).exists():
            old = load_file(out / name)
            save_file({k: torch.randn(v.shape, generator=generator) * 0.2 for k, v in old.items()}, out / name)


# --- a step, for each family


@pytest.mark.parametrize("name", FAMILIES)
def test_five_steps_of_each_family_with_falling_loss(name: str) -> None:
    net = TINY[name].build()
    family, batches = family_of(net), [prompts(name, [[mel]], seed=mel) for mel in (800, 301, 640)]
    audio = EncodedAudio(lambda i, site, scores: Encoded.of(net, family, batches[i], site, scores), 1e9)
    handle = fewhertz.compress(net, "conv@keep=1/3", steps=Steps(encode=audio.encode))
    wrapped = add_lora(net, Settings(targets="q,k"), "tiny")
    trained = {key: one for key, one in wrapped.named_parameters() if one.requires_grad}
    layers = net.config.get_text_config().num_hidden_layers
    assert sum("lora" in key for key in trained) == layers * 2 * 2
    assert all(".language_model." in key or ".audio_compression." in key for key in trained)
    optimiser = torch.optim.AdamW(trained.values(), lr=0.02)
    answers = [[3, 5, 7], [11, 13], [17, 19, 23, 29]]
    samples = [0, 1, 2]
    losses = []
    for _ in range(5):
        call, said = batch_of(family, samples, audio.prompts(samples, handle.method), answers, pad=107)
        loss = cross_entropy(logits_of(wrapped, call, said.shape[1], keeps_logits=False), said) / 9
        loss.backward()
        assert all(one.grad is not None for one in trained.values())
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.1, losses
    assert net.get_decoder().layers[0].mlp.up_proj.weight.grad is None


@pytest.mark.parametrize("name", [*FAMILIES, "granite-speech"])
def test_a_batch_is_what_the_processor_would_make(name: str) -> None:
    """Rows assembled from clips encoded alone give the logits of the stock model on each row."""
    net = TINY[name].build()
    batches = [prompts(name, [[mel]], seed=mel) for mel in (640, 301)]
    answers = [[3, 5, 7], [11]]
    family = family_of(net)
    audio = EncodedAudio(lambda i, site, scores: Encoded.of(net, family, batches[i], site, scores), 0)
    with fewhertz.compress(net, "pool@keep=1", steps=Steps(encode=audio.encode)) as handle, torch.no_grad():
        call, said = batch_of(family, [0, 1], audio.prompts([0, 1], handle.method), answers, pad=107)
        together = logits_of(net, call, 3, keeps_logits=False)
    for row, (batch, answer) in enumerate(zip(batches, answers, strict=True)):
        ids = torch.cat([batch["input_ids"], torch.tensor([answer])], dim=1)
        whole = batch | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            wanted = net(**whole).logits[0, -len(answer) - 1 : -1]
        torch.testing.assert_close(together[row, -len(answer) :], wanted, rtol=1e-4, atol=1e-4)
        assert said[row].tolist() == [IGNORE] * (3 - len(answer)) + answer


def test_targets_are_those_of_the_llm_alone() -> None:
    counts = {}
    for targets in ("k", "q,k", "q,k,v,o", "all"):
        wrapped = add_lora(TINY["qwen2-audio"].build(), Settings(targets=targets, rank=4), "tiny")
        names = [key for key, one in wrapped.named_parameters() if one.requires_grad]
        assert all(".model.language_model.layers." in key for key in names)
        counts[targets] = len(names) // 4  # A and B, two layers
    assert counts == {"k": 1, "q,k": 2, "q,k,v,o": 4, "all": 7}


def test_divergence_is_that_of_the_definition() -> None:
    a, b = torch.randn(2, 2, 3, 5, generator=torch.Generator().manual_seed(0)).unbind()
    said = torch.tensor([[IGNORE, 1, 2], [IGNORE, IGNORE, 0]])
    p, q = b.softmax(-1), a.softmax(-1)
    wanted = (p * (p.log() - q.log())).sum(-1)[said != IGNORE].sum()
    torch.testing.assert_close(divergence(a, b, said), wanted)
    assert divergence(a, a, said).abs() < 1e-6


# --- order


@pytest.mark.parametrize(("n", "size"), [(7, 4), (40, 4), (3, 8), (130, 4), (64, 1)])
def test_each_epoch_takes_each_sample_once(n: int, size: int) -> None:
    seconds = np.random.default_rng(0).random(n).tolist()
    stream = Stream(seconds, size, seed=1)
    steps = -(-3 * n // size)
    taken = [one for step in range(steps) for one in stream.batch(step)]
    for epoch in range(3):
        assert sorted(sample for sample, of in taken if of == epoch) == list(range(n))
    again = Stream(seconds, size, seed=1)
    assert again.batch(steps - 1) == stream.batch(steps - 1)  # of the step alone
    if size > 1 and n > size:
        assert [Stream(seconds, size, seed=2).batch(step) for step in range(4)] != [
            stream.batch(step) for step in range(4)
        ]


def test_samples_of_a_batch_have_like_lengths() -> None:
    seconds = np.random.default_rng(0).random(640).tolist()
    stream = Stream(seconds, 4, seed=0)
    spread = np.mean([np.ptp([seconds[i] for i, _ in stream.batch(step)]) for step in range(320)])
    assert spread < 0.1  # of any four it is 0.6


def test_learning_rate() -> None:
    settings = Settings(lr=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == 1 and rates[55] == pytest.approx(0.5) and rates[99] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)


# --- the whole


@pytest.fixture(scope="module")
def done(tiny: Path, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Six steps, never interrupted, with all that draws random numbers."""
    out = tmp_path_factory.mktemp("done") / "adapter"
    return out, train(tiny, "conv", manifest, out, dev=manifest, **VARIED)


VARIED: dict[str, Any] = CPU | {"steps": 6, "dropout": 0.2, "keeps": (Fraction(1, 2), Fraction(1, 3)), "accumulate": 2}


def test_what_a_training_leaves(done: tuple[Path, Any], tiny: Path, manifest: Path) -> None:
    out, left = done
    losses, judged = metrics(out), metrics(out, "dev_loss")
    assert list(losses) == [1, 2, 3, 4, 5, 6] and list(judged) == [0, 2, 4, 6]
    assert judged[6] < judged[0]
    best = min(judged, key=judged.__getitem__)
    assert (left.directory, left.step, left.loss, left.left_out) == (out, best, judged[best], [])
    said = json.loads((out / adapter.METHOD).read_text())
    assert said["methods"] == ["conv@keep=1/2", "conv@keep=1/3"] and said["base_model"] == str(tiny)
    card = (out / "README.md").read_text()
    assert "\nlibrary_name: fewhertz\n" in card and "- lora\n" in card
    assert "with `conv@keep=1/2` and `conv@keep=1/3`" in card and "of peft ignores that file" in card
    assert set(metrics(out, "method").values()) == set(said["methods"])  # both were drawn
    assert left.parameters == sum(one.numel() for one in weights(out).values())
    assert (out / "training" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "training" / "summary.json").read_text())["parameters"] == left.parameters
    assert not list(out.rglob("*.bin")) + list(out.rglob("*.pt"))


def test_the_loss_is_the_models_own_on_what_was_saved(done: tuple[Path, Any], tiny: Path, manifest: Path) -> None:
    """An independent way to the dev loss: load the adapter, and let the model compute it from labels."""
    out, left = done
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    means = []
    for keep in ("1/2", "1/3"):
        net, processor = fewhertz.load(tiny, f"conv@keep={keep}", adapter=out, device="cpu")
        total = count = 0.0
        for row in rows:
            inputs = request(processor, [audio.load(manifest.parent / row["audio"])])
            answer = [*processor.tokenizer(row["text"]).input_ids, end_of_turn(net, processor)]
            ids = torch.cat([inputs.pop("input_ids"), torch.tensor([answer])], dim=1)
            mask = torch.ones_like(ids)
            labels = ids.clone()
            labels[:, : -len(answer)] = IGNORE
            with torch.no_grad():
                loss = net(**inputs | {"input_ids": ids, "attention_mask": mask, "labels": labels}).loss
            total, count = total + float(loss) * len(answer), count + len(answer)
        means.append(total / count)
    assert left.loss == pytest.approx(np.mean(means), abs=1e-5)


def test_killed_and_resumed_is_as_never_interrupted(
    done: tuple[Path, Any], tiny: Path, manifest: Path, tmp_path: Path
) -> None:
    out = tmp_path / "adapter"
    command = [SCRIPT, "train", tiny, "--method", "conv", "--keep", "1/2..1/3", "--task", manifest, "--dev", manifest]
    command += ["--out", out, "--steps", 6, "--dropout", 0.2, "--every", 2, "--batch-size", 4, "--lr", 5e-3]
    command += ["--device", "cpu", "--accumulate", 2]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    figures = out / "training" / "metrics.jsonl"
    while not (figures.exists() and '"step": 3' in figures.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()  # type: ignore[union-attr]
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()  # type: ignore[union-attr]
    with figures.open("a") as torn:
        torn.write('{"step": 4, "lo')  # as a kill in the middle of a write leaves it
    parts = [out / f".{adapter.WEIGHTS}.{process.pid}", out / "training" / f".state.safetensors.{process.pid}"]
    for part in parts:
        part.write_bytes(b"half")  # likewise
    lines: list[str] = []
    train(tiny, "conv", manifest, out, dev=manifest, say=lines.append, **VARIED)
    assert lines[0] in ("going on from step 2 of 6", "going on from step 4 of 6")
    assert not [file for file in out.rglob(".*") if file.name != ".lock"]
    for name in ("loss", "dev_loss", "lr"):
        assert metrics(out, name) == pytest.approx(metrics(done[0], name), abs=1e-6)
    for name, one in weights(done[0]).items():
        torch.testing.assert_close(weights(out)[name], one, rtol=0, atol=1e-6)
    # once more: there is nothing left to do
    before = {file: file.read_bytes() for file in out.iterdir() if file.is_file()}
    again = train(tiny, "conv", manifest, out, dev=manifest, **VARIED)
    assert again.step == done[1].step and again.loss == pytest.approx(done[1].loss, abs=1e-6)
    assert before == {file: file.read_bytes() for file in before}


SPREAD = """
from accelerate import state
from fewhertz.cli import main

state.PartialState(cpu=True)
# torch's FSDP runs on CPUs too, accelerate has it for GPUs alone
state.PartialState._shared_state["distributed_type"] = state.DistributedType.MULTI_GPU
main()
"""


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_do_what_one_does(
    done: tuple[Path, Any], tiny: Path, manifest: Path, tmp_path: Path, kind: str
) -> None:
    """One process runs the two parts of a batch in turn, two processes side by side."""
    script = SCRIPT
    if kind == "fsdp":
        script = tmp_path / "spread.py"
        script.write_text(SPREAD)
    config = ROOT / "examples" / f"{kind}.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--main_process_port", 0]
    command = [*launch, script, "train", tiny, "-m", "conv", "--keep", "1/2", "1/3", "--task", manifest]
    command += ["--dev", manifest, "--out", tmp_path / "two", "--steps", 6, "--dropout", 0.2, "--every", 2]
    command += ["--batch-size", 4, "--lr", 5e-3, "--device", "cpu"]
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=400, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [str(tmp_path / "two")]  # one of them prints
    assert json.loads((tmp_path / "two" / "training" / "summary.json").read_text())["processes"] == 2
    for name in ("loss", "dev_loss", "norm"):  # the norm is that of the gradient
        assert metrics(tmp_path / "two", name) == pytest.approx(metrics(done[0], name), rel=1e-4)
    for name, one in weights(done[0]).items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], one, rtol=0, atol=1e-4)


def test_ways_that_leave_the_result_as_it_is(tiny: Path, manifest: Path, tmp_path: Path) -> None:
    plain = CPU | {"steps": 3}
    train(tiny, "pool@keep=1/3+time+sizes", manifest, tmp_path / "a", **plain)
    other: dict[str, Any] = {"checkpointing": True, "accumulate": 3, "cache_gb": 0}
    train(tiny, "pool@keep=1/3+time+sizes", manifest, tmp_path / "b", **plain | other)
    assert metrics(tmp_path / "b") == pytest.approx(metrics(tmp_path / "a"), abs=1e-5)
    train(tiny, "pool@keep=1/3+time+sizes", manifest, tmp_path / "c", bf16=True, **plain)
    assert metrics(tmp_path / "c") == pytest.approx(metrics(tmp_path / "a"), rel=0.02)
    assert metrics(tmp_path / "c") != metrics(tmp_path / "a")


@pytest.mark.parametrize("spec", ["visionzip@keep=1/3", "ltbm(site=encoder)@keep=1/2", "ward(site=encoder.0)@keep=1/2"])
def test_encoded_audio_is_kept_for_other_trainings(tiny: Path, manifest: Path, tmp_path: Path, spec: str) -> None:
    plain, kept = CPU | {"steps": 2}, {"cache": tmp_path / "encoded"}
    train(tiny, spec, manifest, tmp_path / "a", dev=manifest, **plain)
    train(tiny, spec, manifest, tmp_path / "b", dev=manifest, **plain | kept)
    files = sorted((tmp_path / "encoded").iterdir())
    assert len(files) == 7  # the dev set is the same clips
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoded, "of", lambda *_: pytest.fail("nothing is encoded again"))
        train(tiny, spec, manifest, tmp_path / "c", dev=manifest, **plain | kept | {"rank": 4})
        train(tiny, spec, manifest, tmp_path / "d", dev=manifest, **plain | kept)
    for name in ("b", "d"):
        for one in ("loss", "dev_loss"):
            assert metrics(tmp_path / name, one) == metrics(tmp_path / "a", one)
    files[0].write_bytes(files[0].read_bytes()[:100])
    with pytest.raises(Stopped, match=f"{files[0].name} is damaged: remove it"):
        train(tiny, spec, manifest, tmp_path / "e", dev=manifest, **plain | kept | {"rank": 2})
    # another site or prompt is other audio tokens
    train(tiny, "pool@keep=1/2", manifest, tmp_path / "f", **plain | kept)
    assert len(list((tmp_path / "encoded").iterdir())) == 14


@pytest.mark.parametrize(
    "spec",
    [
        "none",
        "ltbm(site=encoder)@keep=1/3",
        "ward(site=encoder.0)@keep=1/2+time+sizes",
        "visionzip@keep=1/3",
        "unseg",
        "stride@8Hz",
    ],
)
def test_each_kind_of_method_can_be_trained(tiny: Path, manifest: Path, tmp_path: Path, spec: str) -> None:
    """The control, one at the encoder, one inside, one that needs scores, one that follows content, a budget in Hz."""
    state = torch.random.get_rng_state()
    left = train(tiny, spec, manifest, tmp_path, **CPU | {"steps": 4})
    assert torch.equal(torch.random.get_rng_state(), state)
    losses = metrics(tmp_path)
    assert left.step == 4 and min(losses[3], losses[4]) < losses[1]
    assert adapter.read(tmp_path).methods == (() if spec == "none" else (spec,))


def test_what_a_training_tells(
    tiny: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, find_spec: Any
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    lines: list[str] = []
    train(tiny, "pool@keep=1/2", manifest, tmp_path, say=lines.append, **CPU | {"steps": 2})
    assert re.fullmatch(r"step 2 of 2: loss \d\.\d{4}, \d+\.\d\d s a step, 0:00:00 left", lines[-1])
    (events,) = (tmp_path / "training" / "tensorboard").iterdir()
    content = events.read_bytes()
    assert all(name in content for name in (b"loss", b"lr", b"norm"))


# --- distillation


def test_distillation_reads_no_label(tiny: Path, manifest: Path, tmp_path: Path) -> None:
    bare = manifest.with_name("bare.jsonl")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    bare.write_text("".join(json.dumps({"audio": row["audio"]}) + "\n" for row in rows))
    wish = CPU | {"objective": "distill", "max_new_tokens": 5}
    same = train(tiny, "none", bare, tmp_path / "none", **wish | {"steps": 1, "lr": 1e-9})
    assert same.loss is not None and abs(same.loss) < 1e-5  # the teacher itself

    train(tiny, "pool@keep=1/3", bare, tmp_path / "a", dev=bare, **wish | {"steps": 6})
    judged = metrics(tmp_path / "a", "dev_loss")
    assert judged[0] > 1e-4 and judged[6] < judged[0]
    train(tiny, "pool@keep=1/3", manifest, tmp_path / "b", **wish | {"steps": 1})
    assert metrics(tmp_path / "a")[1] == pytest.approx(metrics(tmp_path / "b")[1], abs=1e-6)  # labels change nothing

    net, processor = fewhertz.load(tiny, device="cpu")
    journal = (tmp_path / "a" / "training" / "outputs-0.jsonl").read_text().splitlines()[1:]
    said = {one["row"]: one["ids"] for one in map(json.loads, journal)}
    assert sorted(said) == list(range(14))  # seven to learn from, seven to judge by
    for i in (0, 6):
        inputs = request(processor, [audio.load(manifest.parent / f"{i}.wav")])
        out = net.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs.input_ids.shape[1] :]
        assert out[: len(said[i])].tolist() == said[i]


def test_a_teacher_that_is_told_teaches_one_that_is_not(tiny: Path, manifest: Path, tmp_path: Path) -> None:
    corrected, wish = "ward@keep=1/3+time+sizes", CPU | {"objective": "distill", "max_new_tokens": 5}
    itself = train(tiny, corrected, manifest, tmp_path / "itself", teacher=corrected, **wish | {"steps": 1, "lr": 1e-9})
    assert abs(itself.loss) < 1e-5
    train(tiny, "ward@keep=1/3", manifest, tmp_path / "a", dev=manifest, teacher=corrected, **wish | {"steps": 6})
    judged = metrics(tmp_path / "a", "dev_loss")
    assert judged[0] > 1e-5 and judged[6] < judged[0]
    train(tiny, "ward@keep=1/3", manifest, tmp_path / "b", dev=manifest, **wish | {"steps": 1})
    assert metrics(tmp_path / "b", "dev_loss")[0] != judged[0]  # all tokens teach something else
    assert adapter.read(tmp_path / "a").methods == ("ward@keep=1/3",)


# --- what is saved

CODE = """
import sys, torch, fewhertz
from fewhertz import audio
from fewhertz.run import request
model, adapter, clip, out = sys.argv[1:]
net, processor = fewhertz.load(model, adapter=adapter, device="cpu")
with torch.no_grad():
    torch.save(net(**request(processor, [audio.load(clip)])).logits, out)
print(fewhertz.attached(net).asked.spec)
"""


def logits(net: Any, processor: Any, clip: Path) -> torch.Tensor:
    with torch.no_grad():
        return net(**request(processor, [audio.load(clip)])).logits


@pytest.fixture
def trained(done: tuple[Path, Any], tmp_path: Path) -> Path:
    """An adapter of `conv`, with weights that matter."""
    out = Path(shutil.copytree(done[0], tmp_path / "adapter"))
    perturb(out)
    return out


def test_round_trip_in_a_fresh_process(trained: Path, tiny: Path, manifest: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    clip, stored = manifest.with_name("3.wav"), tmp_path / "logits"
    command = [sys.executable, "-c", CODE, tiny, trained, clip, stored]
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "conv@keep=1/2\n"
    net, processor = fewhertz.load(tiny, adapter=trained, device="cpu")
    here = logits(net, processor, clip)
    assert torch.equal(torch.load(stored, weights_only=True), here)

    bare, _ = fewhertz.load(tiny, "conv@keep=1/2", device="cpu")
    assert not torch.allclose(logits(bare, processor, clip), here, atol=1e-3)
    # by hand: plain peft, and the compressor's weights
    stock, _ = fewhertz.load(tiny, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = PeftModel.from_pretrained(stock, str(trained)).eval()
    handle = fewhertz.compress(wrapped, "conv@keep=1/2")
    assert handle.learned is not None
    handle.learned.load_state_dict(load_file(trained / "audio_compression.safetensors"))
    assert torch.equal(logits(wrapped, processor, clip), here)


def test_merged_for_serving(trained: Path, tiny: Path, manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    ended = fewhertz_("merge", tiny, "--adapter", trained, "--out", out)
    assert ended.exit_code == 0, ended.stderr
    card = (out / "README.md").read_text()
    assert (
        "with the adapter `adapter` folded in" in card and "carries the audio-token compression `conv@keep=1/2`" in card
    )
    whole, processor = fewhertz.load(out, device="cpu")
    apart, _ = fewhertz.load(tiny, adapter=trained, device="cpu")
    assert fewhertz.attached(whole).asked.spec == "conv@keep=1/2"  # type: ignore[union-attr]
    wave = audio.load(manifest.with_name("6.wav"))
    torch.testing.assert_close(
        logits(whole, processor, manifest.with_name("6.wav")), logits(apart, processor, manifest.with_name("6.wav"))
    )
    one, two = (reply(net, processor, [wave], max_new_tokens=12)[0].text for net in (whole, apart))
    assert one == two
    # its weights serve other budgets, and go where the checkpoint goes
    handle = fewhertz.attached(whole)
    assert handle is not None
    handle.remove()
    assert fewhertz.compress(whole, "conv@keep=1/4").learned is handle.learned
    ended = fewhertz_("compress", out, "--method", "conv@keep=1/5", "--out", tmp_path / "fifth")
    assert ended.exit_code == 0
    again, _ = fewhertz.load(tmp_path / "fifth", device="cpu")
    kernel = fewhertz.attached(again).learned  # type: ignore[union-attr]
    assert torch.equal(kernel.depthwise, handle.learned.depthwise)
    (tmp_path / "fifth" / "audio_compression.safetensors").unlink()
    with pytest.warns(UserWarning, match="carries conv@keep=1/5 without its weights"):
        fewhertz.load(tmp_path / "fifth", device="cpu")
    assert fewhertz_("merge", tiny, "--adapter", trained, "--out", out).exit_code == 2  # it is there


def test_run_with_an_adapter(trained: Path, tiny: Path, manifest: Path) -> None:
    clip = manifest.with_name("5.wav")
    ended = fewhertz_("run", tiny, clip, "--adapter", trained, "--device", "cpu", "--max-new-tokens", 8)
    assert ended.exit_code == 0, ended.stderr
    net, processor = fewhertz.load(tiny, adapter=trained, device="cpu")
    (said,) = reply(net, processor, [audio.load(clip)], max_new_tokens=8)
    assert ended.stdout.strip() == said.text and f"{said.before} → {said.after} audio tokens" in ended.stderr
    other = fewhertz_("run", tiny, clip, "--adapter", trained, "--method", "stride@keep=1/3", "--max-new-tokens", 2)
    assert other.exit_code == 0
    assert "was trained with conv@keep=1/2 and conv@keep=1/3, not with stride@keep=1/3" in other.stderr


def test_several_adapters_are_evaluated_in_one_pass(trained: Path, tiny: Path, manifest: Path, tmp_path: Path) -> None:
    """Each says what it says alone, encoder passes are shared, and the model under them is as it was."""
    train(tiny, None, manifest, tmp_path / "control", **CPU | {"steps": 1})
    perturb(tmp_path / "control")
    args = ["eval", tiny, "--task", manifest, "--device", "cpu", "--max-new-tokens", 8, "--batch-size", 3]
    args += ["--adapter", trained, "--adapter", tmp_path / "control", "--out", tmp_path / "results"]
    ended = fewhertz_(*args)
    assert ended.exit_code == 0, ended.stderr
    folder = tmp_path / "results" / "clips"
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*.json")}
    base, own = tiny.name, ("conv@keep=1%2F2", "conv@keep=1%2F3")
    assert files == {f"{base}/keep=1.json", f"{base}+control/keep=1.json"} | {f"{base}+adapter/{n}.json" for n in own}
    for name, spec in (("+adapter", "conv@keep=1/2"), ("+adapter", "conv@keep=1/3"), ("+control", None), ("", None)):
        place = results.run_files(tmp_path / "results", "clips", base + name, spec or "keep=1")
        found = results.read(place.file)
        assert found["model"] == place.folder.name and (found["adapter"] is None) == (name == "")
        assert not name or found["adapter"]["sha256"] == found["identity"]["adapter_sha256"]
        fitted = {"+adapter": trained, "+control": tmp_path / "control", "": None}[name]
        net, processor = fewhertz.load(tiny, spec, adapter=fitted, device="cpu")
        for i in range(0, 7, 3):
            rows = range(i, min(i + 3, 7))
            waves = [audio.load(manifest.with_name(f"{row}.wav")) for row in rows]
            said = [one.text for one in reply(net, processor, waves, max_new_tokens=8)]
            assert [line["output"] for line in results.read_samples(place.file)[i : i + 3]] == said
    # what is lost is lost to the model without an adapter
    wer = [results.read(folder / f"{base}{name}" / "keep=1.json")["scores"]["wer"] for name in ("", "+control")]
    assert wer[1]["difference"] == pytest.approx(wer[1]["score"] - wer[0]["score"], abs=1e-5)
    found, wrong = curves.groups(tmp_path / "results")
    assert not wrong and all(group.baseline for group in found)
    # what an adapter was not trained with, with a warning
    ended = fewhertz_(*args, "--method", "pool@keep=1/3")
    assert ended.exit_code == 0 and "not with pool@keep=1/3" in ended.stderr
    # other weights under the same name are not taken for these
    perturb(trained)
    other = load_file(trained / adapter.WEIGHTS)
    save_file({key: one + 1 for key, one in other.items()}, trained / adapter.WEIGHTS)
    ended = fewhertz_(*args)
    assert ended.exit_code == 2 and "is there with another adapter_sha256" in ended.stderr


def test_adapters_that_cannot_share_an_encoder(trained: Path, tiny: Path, manifest: Path, tmp_path: Path) -> None:
    args = ["eval", tiny, "--task", manifest, "--device", "cpu", "--out", tmp_path / "results", "--adapter", trained]
    twin = shutil.copytree(trained, tmp_path / "twin" / "adapter")
    ended = fewhertz_(*args, "--adapter", twin)
    assert ended.exit_code == 2 and "two adapters are called adapter" in ended.stderr
    # bare names hit the audio encoder too
    import peft

    net, _ = fewhertz.load(tiny, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        peft.get_peft_model(net, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "wide")
    ended = fewhertz_(*args[:-1], tmp_path / "wide")
    assert ended.exit_code == 2 and "an adapter acts outside the LLM, on " in ended.stderr
    assert not list((tmp_path / "results").rglob("*.json*"))


def test_the_dev_split_of_a_task(tiny: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    clips = [{"bytes": manifest.with_name(f"{i}.wav").read_bytes(), "path": f"{i}.wav"} for i in range(5)]
    for split, some in (("train", clips[:4]), ("validation", clips[4:])):
        ids = [f"{clip['path']}-{split}" for clip in some]
        rows = {"audio": some, "text": ["YES"] * len(some), "speaker_id": ids, "id": ids}
        data = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
        (tmp_path / "hub" / "clean").mkdir(parents=True, exist_ok=True)
        data.to_parquet(str(tmp_path / "hub" / "clean" / f"{split}-00000-of-00001.parquet"))
    args = ["train", tiny, "-m", "pool@keep=1/2", "--device", "cpu", "--steps", 2, "--batch-size", 4]
    more = ["--task", "librispeech", "--data", tmp_path / "hub", "--dev", "validation", "--out", tmp_path / "out"]
    ended = fewhertz_(*args, *more)
    assert ended.exit_code == 0, ended.stderr
    judged = metrics(tmp_path / "out", "dev_loss")
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"audio": str(manifest.with_name("4.wav")), "text": "YES"}))
    alone = train(tiny, "pool@keep=1/2", one, tmp_path / "alone", dev=one, **CPU | {"steps": 1})
    assert judged[0] == pytest.approx(metrics(alone.directory, "dev_loss")[0], abs=1e-5)  # that split, no other
    # a file has no splits: the same rows would be training and dev
    ended = fewhertz_(*args, "--task", manifest, "--dev", "validation", "--out", tmp_path / "file")
    assert ended.exit_code == 2 and "--dev validation names a split, and a file has none" in ended.stderr


def test_warnings_by_name(trained: Path, tiny: Path, tmp_path: Path) -> None:
    fewhertz.load(tiny, "conv@12.5Hz", adapter=trained, device="cpu")  # that is conv@keep=1/2: no warning
    with pytest.warns(UserWarning, match=r"was trained with conv@keep=1/2 and conv@keep=1/3, not with conv@keep=1/5"):
        fewhertz.load(tiny, "conv@keep=1/5", adapter=trained, device="cpu")
    other = shutil.copytree(tiny, tmp_path / "other")
    old = load_file(other / "model.safetensors")
    save_file({k: v + 0.01 for k, v in old.items()}, other / "model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match="was trained on other weights, those of .*tiny"):
        fewhertz.load(other, adapter=trained, device="cpu")
    (trained / adapter.METHOD).unlink()
    with pytest.warns(UserWarning, match=r"has no audio_compression\.json: it does not say which method"):
        net, _ = fewhertz.load(tiny, adapter=trained, device="cpu")
    assert fewhertz.attached(net) is None


def test_the_controls_adapter_wears_nothing(tiny: Path, manifest: Path, tmp_path: Path) -> None:
    train(tiny, None, manifest, tmp_path / "none", **CPU | {"steps": 1})
    net, _ = fewhertz.load(tiny, adapter=tmp_path / "none", device="cpu")
    assert fewhertz.attached(net) is None
    with pytest.warns(UserWarning, match=r"trained with the uncompressed model, not with pool@keep=1/2"):
        fewhertz.load(tiny, "pool@keep=1/2", adapter=tmp_path / "none", device="cpu")


def rename(out: Path, old: str, new: str, extra: str | None = None) -> None:
    """Let an adapter's weights be of other layers, or of others too."""
    found = load_file(out / adapter.WEIGHTS)
    more = {key.replace(old, extra): one.clone() for key, one in found.items()} if extra else {}
    save_file(more | {key.replace(old, new): one for key, one in found.items()}, out / adapter.WEIGHTS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: (d / adapter.CONFIG).unlink(), "is no adapter: it has no adapter_config.json"),
        (lambda d: (d / adapter.WEIGHTS).rename(d / "adapter_model.bin"), "adapter_model.bin is refused: pickles"),
        (lambda d: (d / adapter.CONFIG).write_text('{"peft_type": "IA3"}'), "of the kind IA3: only LoRA"),
        (lambda d: (d / adapter.METHOD).write_text('{"format": 1}'), "audio_compression.json is damaged"),
        (lambda d: (d / adapter.METHOD).write_text("{"), "audio_compression.json is not JSON"),
        (lambda d: save_file({"x": torch.zeros(1)}, d / "audio_compression.safetensors"), "does not hold the weights"),
        (lambda d: (d / "audio_compression.safetensors").write_bytes(b"x" * 40), "does not hold the weights"),
        (lambda d: (d / adapter.WEIGHTS).write_bytes(b"x" * 40), "does not fit this model ("),
        (lambda d: save_file({}, d / adapter.WEIGHTS), "does not fit this model (it has no "),
        (lambda d: rename(d, "layers.0", "layers.7"), "does not fit this model (it has no "),
        (lambda d: rename(d, "layers.1", "layers.1", extra="layers.7"), "does not fit this model (the model has no "),
    ],
)
def test_bad_adapters(trained: Path, tiny: Path, manifest: Path, change: Any, words: str) -> None:
    change(trained)
    ended = fewhertz_("run", tiny, manifest.with_name("0.wav"), "--adapter", trained)
    assert ended.exit_code == 2 and words in ended.stderr and len(ended.stderr.strip().splitlines()) == 1


# --- what goes wrong


def intact(tiny: Path, out: Path, clip: Path) -> bool:
    """Whether an adapter loads and gives numbers."""
    net, processor = fewhertz.load(tiny, adapter=out, device="cpu")
    return bool(logits(net, processor, clip).isfinite().all())


def test_a_loss_that_is_no_number_stops(tiny: Path, manifest: Path, tmp_path: Path) -> None:
    args = ["train", tiny, "-m", "pool@keep=1/2", "--task", manifest, "--out", tmp_path, "--device", "cpu"]
    ended = fewhertz_(*args, "--steps", 4, "--lr", 1e30, "--every", 3, "--batch-size", 4, "--warmup", 0)
    assert ended.exit_code == 1
    assert "after step 1: the next loss is nan" in ended.stderr and f"step 0 is saved in {tmp_path}" in ended.stderr
    assert intact(tiny, tmp_path, manifest.with_name("0.wav"))
    with pytest.raises(Stopped, match="the loss on the dev set is nan; step 0 is saved in "):
        train(tiny, "pool@keep=1/2", manifest, tmp_path / "b", dev=manifest, **CPU | {"every": 1, "lr": 1e30})


def test_data_that_cannot_be_used(tiny: Path, manifest: Path, tmp_path: Path) -> None:
    good = {"audio": str(manifest.with_name("0.wav")), "text": "a b"}
    soundfile.write(tmp_path / "long.wav", np.zeros(31 * 16_000, np.float32), 16_000)
    soundfile.write(tmp_path / "short.wav", np.zeros(20, np.float32), 16_000)
    soundfile.write(tmp_path / "cut.flac", audio.load(manifest.with_name("6.wav")), 16_000)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "cut.flac").read_bytes()[:5000])

    def file(*rows: dict[str, Any]) -> Path:
        made = tmp_path / "rows.jsonl"
        made.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return made

    def attempt(data: Path, out: str) -> Any:
        options = ["--steps", 1, "--batch-size", 2, "--device", "cpu", "--out", tmp_path / out]
        return fewhertz_("train", tiny, "-m", "pool@keep=1/2", "--task", data, *options)

    nothing = attempt(file(), "a")
    assert nothing.exit_code == 2 and "no row" in nothing.stderr
    silent = attempt(file(good | {"text": ""}, good | {"text": "", "id": "x"}), "a")
    assert silent.exit_code == 2 and "its reference is empty (and so with all 2 rows)" in silent.stderr
    too_long = attempt(file(good | {"audio": "long.wav"}), "a")
    assert too_long.exit_code == 2 and "31.0 s of audio, qwen2-audio reads 30 s at once" in too_long.stderr
    assert not (tmp_path / "a").exists()
    mixed = attempt(file(good, good | {"audio": "long.wav", "id": "l"}, good | {"text": "", "id": "e"}), "b")
    assert mixed.exit_code == 0 and mixed.stderr.count("left out: ") == 2
    short = attempt(file(good | {"audio": "short.wav"}), "a")
    assert short.exit_code == 2 and "short.wav is too short" in short.stderr
    cut = attempt(file(good | {"audio": "cut.flac", "id": "bad"}), "c")  # its header says nothing of it
    assert cut.exit_code == 1 and "after step 0: sample bad: " in cut.stderr and "cut.flac is cut off" in cut.stderr
    assert f"step 0 is saved in {tmp_path / 'c'}" in cut.stderr


def test_a_full_disk_stops_and_leaves_the_last_checkpoint(tiny: Path, manifest: Path, tmp_path: Path) -> None:
    """The state of step 0 has no moments of Adam and fits; later ones are three times as large, and do not."""
    out, settings = tmp_path / "adapter", CPU | {"steps": 4}
    train(tiny, "pool@keep=1/2", manifest, tmp_path / "whole", **settings)
    room = (tmp_path / "whole" / "training" / "state.safetensors").stat().st_size * 2 // 3
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(Stopped, match=r"after step 2: .*File too large; step 0 is saved in "):
            train(tiny, "pool@keep=1/2", manifest, out, **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [name for name in os.listdir(out) + os.listdir(out / "training") if name.startswith(".")] == [".lock"]
    assert intact(tiny, out, manifest.with_name("0.wav"))
    lines: list[str] = []
    train(tiny, "pool@keep=1/2", manifest, out, say=lines.append, **settings)  # with room again
    assert lines[0] == "going on from step 0 of 4"
    assert metrics(out) == pytest.approx(metrics(tmp_path / "whole"), abs=1e-6)
    for name, one in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(out)[name], one, rtol=0, atol=1e-6)


def test_two_trainings_in_one_directory(tiny: Path, manifest: Path, tmp_path: Path) -> None:
    with (
        files.held([tmp_path / "training"]),
        pytest.raises(ValueError, match=rf"training is in use by process {os.getpid()} on .* since 2"),
    ):
        train(tiny, "pool@keep=1/2", manifest, tmp_path, steps=1, **CPU)
    assert not (tmp_path / adapter.CONFIG).exists()
    assert train(tiny, "pool@keep=1/2", manifest, tmp_path, steps=1, **CPU).step == 1


def test_another_training_is_not_overwritten(tiny: Path, manifest: Path, trained: Path) -> None:
    kept = weights(trained)
    with pytest.raises(ValueError, match=r"holds a training with another lr \(0\.005, now 0\.1\): remove it"):
        train(tiny, "conv", manifest, trained, dev=manifest, **VARIED | {"lr": 0.1})
    with pytest.raises(ValueError, match="holds a training with another data_sha256"):
        train(tiny, "conv", manifest, trained, **VARIED)
    noisy = manifest.parent / "noisy"  # the same texts and ids, other audio
    shutil.copytree(manifest.parent, noisy, ignore=shutil.ignore_patterns("noisy"))
    shutil.copyfile(noisy / "1.wav", noisy / "2.wav")
    with pytest.raises(ValueError, match="holds a training with another audio_sha256") as error:
        train(tiny, "conv", noisy / manifest.name, trained, dev=noisy / manifest.name, **VARIED)
    assert str(manifest) in str(error.value) and str(noisy) in str(error.value)
    state = trained / "training" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"state\.safetensors is damaged: remove .* and begin anew"):
        train(tiny, "conv", manifest, trained, dev=manifest, **VARIED)
    shutil.rmtree(trained / "training")
    with pytest.raises(ValueError, match="holds an adapter and no training to go on with"):
        train(tiny, "conv", manifest, trained, dev=manifest, **VARIED)
    assert all(torch.equal(weights(trained)[name], one) for name, one in kept.items())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-m", "nope@keep=1/2"], "no method named 'nope'"),
        (["-m", "pool", "--keep", "1/6..1/2"], "from more to less, such as 1/2..1/6"),
        (["-m", "pool", "--keep", "0"], "in (0, 1]"),
        (["-m", "unseg", "--keep", "1/2"], "no keep can be drawn for unseg"),
        (["-m", "none", "--keep", "1/2"], "the uncompressed model keeps all tokens"),
        (["-m", "pool@keep=1/2", "--targets", "q,x"], "targets are some of q,k,v,o, or all"),
        (["-m", "pool@keep=1/2", "--objective", "guess"], "labels or distill, got 'guess'"),
        (
            ["-m", "pool@keep=1/2", "--teacher", "pool@keep=1/2+time"],
            "a teacher teaches where the objective is distill",
        ),
        (["-m", "pool@keep=1/2", "--objective", "distill", "--teacher", "nope"], "no method named 'nope'"),
        (["-m", "pool@keep=1/2", "--rank", "0"], "rank is at least 1"),
        (["-m", "pool@keep=1/2", "--accumulate", "9", "--batch-size", "8"], "cannot be cut into 9 parts"),
        (["-m", "pool@keep=1/2", "--task", "nope"], "no task 'nope'"),
    ],
)
def test_bad_usage(tiny: Path, manifest: Path, tmp_path: Path, args: list[str], words: str) -> None:
    ended = fewhertz_("train", tiny, "--task", manifest, "--out", tmp_path / "out", "--device", "cpu", *args)
    assert ended.exit_code == 2 and words in ended.stderr, ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1 and not (tmp_path / "out" / adapter.CONFIG).exists()


@pytest.mark.parametrize("verb", ["train", "merge"])
def test_each_help_has_an_example(verb: str) -> None:
    ended = fewhertz_(verb, "--help")
    assert ended.exit_code == 0 and f"fewhertz {verb}" in ended.stdout.split("Show this message", 1)[1]


def test_ranges_of_keeps() -> None:
    assert keep_range("1/2..1/6") == [Fraction(1, n) for n in (2, 3, 4, 5, 6)]
    assert keep_range("1..1/3") == [1, Fraction(1, 2), Fraction(1, 3)]
    assert keep_range("0.25") == [Fraction(1, 4)]
    for bad in ("1/3..1/3", "1/2..", "1/0..1/3", "x"):
        with pytest.raises(ValueError):
            keep_range(bad)


def test_the_turn_ends_as_the_chat_template_writes_it(tiny: Path) -> None:
    net, processor = fewhertz.load(tiny, device="cpu")
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end_of_turn(net, processor) == end
    net.generation_config.eos_token_id = [7, end]
    assert end_of_turn(net, processor) == end
