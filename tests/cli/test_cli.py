"""The command line, as a user types it."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import typer
from typer.testing import CliRunner

import fewhertz
from fewhertz import audio, checkpoint, run
from fewhertz.cli import app
from fewhertz.method import METHODS, RECOMMENDED, parse
from fewhertz.pocket import path
from fewhertz.training.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(sys.executable).with_name("fewhertz")
VERBS = [
    "run",
    "methods",
    "sample",
    "inspect",
    "show",
    "compare",
    "studio",
    "demo",
    "compress",
    "eval",
    "report",
    "plot",
    "train",
    "merge",
    "embed",
    "serve",
    "batch",
]
AUDIO = str(path() / "samples" / "01.flac")
MANIFEST = str(path() / "samples" / "samples.jsonl")
WITHOUT_SAMPLES = shutil.ignore_patterns("samples", "__pycache__", "*.py")


def fewhertz_(*args: object) -> object:
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="fewhertz")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    wave = audio.load(path() / "samples" / "01.flac")
    made = []
    for name, part in (("a.wav", wave[:16_000]), ("b c.wav", wave[16_000:40_000])):
        soundfile.write(folder / name, part, 16_000)
        made.append(folder / name)
    return made


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pocket's processor and a model of its class that is small, random and fast."""
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

    folder = tmp_path_factory.mktemp("tiny")
    shutil.copytree(path(), folder, ignore=WITHOUT_SAMPLES, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config["audio_config"] |= {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 1, "encoder_ffn_dim": 16}
    config["text_config"] |= {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    config["text_config"] |= {"num_attention_heads": 1, "num_key_value_heads": 1, "layer_types": ["full_attention"] * 2}
    torch.manual_seed(0)
    model = Qwen2AudioForConditionalGeneration(Qwen2AudioConfig(**config | {"dtype": "float32"}))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Pocket in a directory of its own."""
    return Path(shutil.copytree(path(), tmp_path / "model", ignore=WITHOUT_SAMPLES))


def test_help_answers_at_once_and_without_torch() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # of the processor, not of the clock: other work on the machine is not ours
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5
    assert all(verb in done.stdout for verb in VERBS)
    code = "import sys, fewhertz.cli; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.parametrize("verb", VERBS)
def test_each_help_has_an_example(verb: str) -> None:
    done = fewhertz_(verb, "--help")
    assert done.exit_code == 0
    assert f"fewhertz {verb}" in done.stdout.split("Show this message", 1)[1]


def test_training_is_set_by_the_fields_of_settings() -> None:
    group: Any = typer.main.get_command(app)
    options = {one.name: one for one in group.commands["train"].params}
    fields = {one.name: one for one in dataclasses.fields(Settings)}
    assert options.keys() - fields.keys() == {
        "model", "method", "task", "out", "dev", "keep", "data", "subset", "split", "audio", "prompt", "device",
        "dtype", "modules",
    }  # fmt: skip
    assert fields.keys() - options.keys() == {"keeps"}  # --keep 1/2..1/6
    for name in fields.keys() & options.keys():
        one = options[name]
        assert one.opts == ["--" + name.replace("_", "-")] and not one.secondary_opts
        assert (one.default, one.help) == (fields[name].default, fields[name].metadata["help"])
    said = {name: one.default for name, one in options.items() if one.default is not None and name in fields}
    assert said == {
        "objective": "labels", "targets": "q,k", "rank": 16, "alpha": 32, "dropout": 0.0, "lr": 2e-4, "warmup": 0.05,
        "decay": 0.0, "epochs": 3.0, "batch_size": 16, "accumulate": 1, "every": 100, "max_new_tokens": 256,
        "bf16": False, "checkpointing": False, "cache_gb": 2.0, "seed": 0,
    }  # fmt: skip


def test_version_and_no_arguments() -> None:
    assert fewhertz_("--version").stdout == f"fewhertz {fewhertz.__version__}\n"
    bare = fewhertz_()
    assert bare.exit_code == 0 and "compress" in bare.stdout


BAD = {
    "no such verb": ["transcribe"],
    "no model": ["run"],
    "no audio": ["run", "pocket"],
    "unknown option": ["run", "pocket", AUDIO, "--ratio", "3"],
    "unknown method": ["run", "pocket", AUDIO, "--method", "nope@keep=1/2"],
    "keep of zero": ["run", "pocket", AUDIO, "--method", "pool@keep=0"],
    "keep above one": ["run", "pocket", AUDIO, "--method", "pool@keep=3"],
    "not a spec": ["run", "pocket", AUDIO, "--method", "pool(((@"],
    "more Hz than there are": ["run", "pocket", AUDIO, "--method", "pool@500Hz"],
    "unknown model": ["run", "nomodel", AUDIO],
    "no such directory": ["run", "./nowhere/at/all", AUDIO],
    "model is a file": ["run", __file__, AUDIO],
    "directory without config": ["run", str(Path(__file__).parent), AUDIO],
    "question without ask": ["run", "pocket", AUDIO, "--question", "who?"],
    "ask without question": ["run", "pocket", AUDIO, "--task", "ask"],
    "prompt and task": ["run", "pocket", AUDIO, "--task", "describe", "--prompt", "x"],
    "unknown task": ["run", "pocket", AUDIO, "--task", "sing"],
    "chunk of zero": ["run", "pocket", AUDIO, "--chunk", "0"],
    "chunk not a number": ["run", "pocket", AUDIO, "--chunk", "nan"],
    "chunk beyond the window": ["run", "pocket", AUDIO, "--chunk", "31"],
    "chunk below the least": ["run", "pocket", AUDIO, "--chunk", "0.1"],
    "batch beyond all": ["run", "pocket", AUDIO, "--batch-size", str(10**20)],
    "tokens beyond all": ["run", "pocket", AUDIO, "--max-new-tokens", str(10**20)],
    "two methods": ["run", "pocket", AUDIO, "-m", "pool@keep=1/2", "--method", "stride@keep=1/2"],
    "two tasks": ["run", "pocket", AUDIO, "--task", "ask", "--task", "describe"],
    "no audio file": ["run", "./nomodel", "nothere.wav"],
    "no audio file to embed": ["embed", "./nomodel", "nothere.wav", "--out", "out/never-written"],
    "no audio file to show": ["show", "nothere.wav", "--method", "pool@keep=1/2", "--model", "./nomodel"],
    "no audio file to inspect": ["inspect", "pocket", "nothere.wav"],
    "demo into a file": ["demo", "--out", __file__],
    "keep of no method": ["eval", "pocket", "--task", "nowhere.jsonl", "--keep", "1/2"],
    "endless training": ["train", "pocket", "-m", "pool@keep=1/2", "--task", MANIFEST, "--out", "x", "--epochs", "inf"],
    "no such device": ["train", "pocket", "-m", "pool@keep=1/2", "--task", MANIFEST, "--out", "x", "--device", "x"],
    "cache of no size": ["train", "pocket", "-m", "pool", "--task", MANIFEST, "--out", "x", "--cache-gb", "nan"],
    "empty batch": ["run", "pocket", AUDIO, "--batch-size", "0"],
    "unknown device": ["run", "pocket", AUDIO, "--device", "tpu9"],
    "absent device": ["run", "pocket", AUDIO, "--device", "cuda:7"],
    "unknown dtype": ["run", "pocket", AUDIO, "--dtype", "int8"],
    "unknown module": ["run", "pocket", AUDIO, "--import", "no_such_module_here"],
    "unknown module file": ["methods", "--import", "no/such/file.py"],
    "memory without unit": ["inspect", "pocket", "30s", "--memory", "24"],
    "picture of no kind": ["show", AUDIO, "--method", "pool@keep=1/2", "--out", "x.jpeg"],
    "picture in no folder": ["show", AUDIO, "--method", "pool@keep=1/2", "--out", "/no/such/folder/x.png"],
    "compress without method": ["compress", "pocket", "--out", "x"],
    "compress into what is there": ["compress", "pocket", "--method", "pool@keep=1/2", "--out", str(ROOT)],
    "compress into a file": ["compress", "pocket", "--method", "pool@keep=1/2", "--out", __file__],
    "compress by an unknown method": ["compress", "pocket", "--method", "x", "--out", "out/never-written"],
}


@pytest.mark.parametrize("args", BAD.values(), ids=BAD.keys())
def test_bad_usage_is_a_line_or_two_and_exit_status_2(args: list[str]) -> None:
    done = fewhertz_(*args)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert 1 <= len(done.stderr.splitlines()) <= 2 and done.stderr.startswith("fewhertz: ")
    assert "Traceback" not in done.stderr


HOSTILE = {
    "other architecture": ('{"model_type": "bert"}', "qwen2-audio"),
    "no JSON": ("{", "not JSON"),
    "a list": ("[]", "not a JSON object"),
    "deep nesting": ('{"a":' * 100_000, "not JSON"),
    "huge": (" " * (17 * 2**20), "too large"),
    "method that is no method": ('{"model_type": "qwen2_audio", "audio_compression": 7}', "audio_compression"),
}


@pytest.mark.parametrize(("config", "says"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_config(config: str, says: str, copy: Path) -> None:
    (copy / "config.json").write_text(config)
    done = fewhertz_("run", copy, AUDIO)
    assert done.exit_code == 2 and says in done.stderr and len(done.stderr.splitlines()) <= 2


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def sized(part: str, **sizes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config[part] |= sizes
        (folder / "config.json").write_text(json.dumps(config))

    return change


# what is damaged, what the line says, and whether inspect, which reads no weights, finds it too
DAMAGED = {
    "half the weights": (lambda d: half(d / "model.safetensors"), "model.safetensors is damaged", False),
    "no weights in the file": (lambda d: (d / "model.safetensors").write_bytes(b""), "model.safetensors", False),
    "junk for weights": (lambda d: (d / "model.safetensors").write_bytes(b"junk" * 99), "model.safetensors", False),
    "more layers": (sized("text_config", num_hidden_layers=8, layer_types=["full_attention"] * 8), "weights", False),
    "another width": (sized("text_config", intermediate_size=100), "of another shape than config.json says", False),
    "fewer heads": (sized("text_config", num_key_value_heads=1), "of another shape than config.json says", False),
    "layers beyond all": (sized("audio_config", encoder_layers=10**9), "encoder_layers is at most 10,000", True),
    "words beyond all": (sized("text_config", vocab_size=10**12), "vocab_size is at most", True),
    "a negative width": (sized("text_config", hidden_size=-1), "config.json is damaged", True),
    "no heads": (sized("text_config", num_attention_heads=0), "config.json is damaged", True),
    "words for a number": (sized("text_config", vocab_size="many"), "config.json is damaged", True),
    "an unknown activation": (sized("text_config", hidden_act="nope"), "config.json is damaged", True),
    "empty tokenizer": (lambda d: (d / "tokenizer.json").write_text(""), "tokenizer is damaged", True),
    "tokenizer without words": (lambda d: (d / "tokenizer.json").write_text("{}"), "tokenizer is damaged", True),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "tokenizer is damaged", True),
    "processor is a list": (lambda d: (d / "processor_config.json").write_text("[]"), "the processor", True),
}


@pytest.mark.parametrize(("damage", "says", "inspected"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_checkpoint(damage: Callable[[Path], object], says: str, inspected: bool, copy: Path) -> None:
    damage(copy)
    for command in (("run", copy, AUDIO, "--max-new-tokens", 1), ("inspect", copy, "5s")):
        done = fewhertz_(*command)
        if command[0] == "inspect" and not inspected:
            assert done.exit_code == 0, done.output
            continue
        assert done.exit_code == 2 and says in done.stderr, (done.output, done.exception)
        assert len(done.stderr.splitlines()) <= 2 and done.stdout == "" and len(done.stderr) < 600


@pytest.mark.parametrize("weights", [b"", b"junk" * 99], ids=["empty", "junk"])
def test_a_junk_adapter(weights: bytes, copy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}')
    (folder / "adapter_model.safetensors").write_bytes(weights)
    for junk in (None, '{"peft_type": "LORA", "r": "many"}', '{"peft_type": "LORA"}'):
        if junk is not None:
            (folder / "adapter_config.json").write_text(junk)
        done = fewhertz_("run", copy, AUDIO, "--adapter", folder)
        assert done.exit_code == 2 and "Traceback" not in done.stderr, (done.output, done.exception)
        assert "does not fit this model" in done.stderr.splitlines()[-1] and len(done.stderr.splitlines()) <= 2


def test_pickles_are_refused_by_name(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    done = fewhertz_("run", copy, AUDIO)
    assert done.exit_code == 2 and "pytorch_model.bin" in done.stderr and "pickle" in done.stderr
    done = fewhertz_("compress", copy, "--method", "pool@keep=1/2", "--out", copy / "out")
    assert done.exit_code == 2 and not (copy / "out").exists()


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd", "a.bin", "missing.safetensors"])
def test_an_index_cannot_lead_out_of_the_model(name: str, copy: Path) -> None:
    (copy / "model.safetensors").rename(copy.parent / "elsewhere.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    done = fewhertz_("run", copy, AUDIO)
    assert done.exit_code == 2 and name in done.stderr


def test_a_link_cannot_lead_out_of_the_model(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (copy / "notes.txt").symlink_to(tmp_path / "secret")
    done = fewhertz_("compress", copy, "--method", "pool@keep=1/2", "--out", tmp_path / "out")
    assert done.exit_code == 2 and "leads out" in done.stderr and not (tmp_path / "out").exists()


def test_a_bad_file_is_reported_and_the_others_go_on(clips: list[Path], tiny: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp3"
    bad.write_text("this is no audio")
    done = fewhertz_("run", tiny, clips[0], bad, tmp_path / "none.wav", clips[1], "--max-new-tokens", 4)
    assert done.exit_code == 2
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [str(clips[0]), str(clips[1])]
    complaints = [line for line in done.stderr.splitlines() if line.startswith("fewhertz: ")]
    assert len(complaints) == 2 and "bad.mp3" in complaints[0] and "none.wav" in complaints[1]
    assert "25 → 25 audio tokens" in done.stderr


def test_audio_is_looked_at_before_a_model_is_read(tmp_path: Path) -> None:
    asked = ("run", "./nomodel", tmp_path / "a.wav", tmp_path / "b.wav")
    done = fewhertz_(*asked)
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [f"fewhertz: {file}: no such file" for file in asked[2:]]
    lines = [json.loads(line) for line in fewhertz_(*asked, "--json").stdout.splitlines()]
    assert [line["error"] for line in lines] == [f"{file}: no such file" for file in asked[2:]]


def test_what_the_model_fails_on_is_no_bad_input(
    clips: list[Path], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> object:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(run, "reply", fails)
    assert fewhertz_("run", tiny, clips[0]).exit_code == 1
    assert fewhertz_("run", tiny, clips[0], tmp_path / "none.wav").exit_code == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_disk_that_is_full_is_one_line(options: list[str], clips: list[Path], tiny: Path) -> None:
    command = [SCRIPT, "run", tiny, *clips, "--max-new-tokens", 2, *options]
    with open("/dev/full", "w") as full:
        done = subprocess.run([*map(str, command)], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if "audio tokens" not in line]
    assert done.returncode == 1 and lines == ["fewhertz: the output cannot be written: No space left on device"]
    with open("/dev/full", "w") as full:
        done = subprocess.run([SCRIPT, "methods"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1


def test_pocket_says_what_it_is_and_libmpg123_says_nothing(clips: list[Path], tmp_path: Path) -> None:
    wave = audio.load(clips[1])
    soundfile.write(tmp_path / "a.mp3", wave, 16_000)
    raw = bytearray((tmp_path / "a.mp3").read_bytes())
    at = len(raw) // 2
    raw[at : at + 400] = b"x" * 400
    (tmp_path / "bad.mp3").write_bytes(raw)
    files = (tmp_path / "a.mp3", tmp_path / "bad.mp3")
    command = [SCRIPT, "run", "pocket", *files, "--max-new-tokens", 1, "--device", "cpu"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout.startswith(f"{files[0]}: ")
    first, *others = done.stderr.splitlines()
    assert "test model" in first and "synthetic English and German" in first
    assert len(others) == 2 and "audio tokens" in others[0] and "bad.mp3 is cut off or damaged" in others[1]


def test_json_lines(clips: list[Path]) -> None:
    args = ("run", "pocket", *clips, clips[0].parent / "none.wav", "--max-new-tokens", 4, "--batch-size", 2)
    done = fewhertz_(*args, "--json", "--method", "pool@keep=1/2", "--dtype", "float32", "--device", "cpu")
    assert done.exit_code == 2
    one, two, none = map(json.loads, done.stdout.splitlines())
    assert one["file"] == str(clips[0]) and one["method"] == "pool@keep=1/2" and one["error"] is None
    assert (one["audio_tokens_before"], one["audio_tokens"], one["rate_hz"], one["seconds"]) == (25, 13, 13.0, 1.0)
    assert two["windows"] == 1 and two["encode_s"] > 0 and 0 < two["new_tokens"] <= 4
    assert none["text"] is None and "none.wav" in none["error"]
    model, processor = fewhertz.load("pocket", "pool@keep=1/2", device="cpu", dtype="float32")
    assert run.reply(model, processor, [audio.load(clips[0])], max_new_tokens=4)[0].text == one["text"]


def test_the_uncompressed_model_trimmed(clips: list[Path], tiny: Path) -> None:
    args = ("run", tiny, clips[0], "--max-new-tokens", 4, "--json", "--dtype", "float32", "--device", "cpu")
    stock, trimmed = (json.loads(fewhertz_(*args, *more).stdout) for more in ((), ("--trim",)))
    assert trimmed["text"] == stock["text"] and trimmed["audio_tokens"] == stock["audio_tokens"]
    assert (stock["method"], trimmed["method"]) == (None, "pool@keep=1")


def test_windows_of_a_long_file_are_one_line(clips: list[Path], tiny: Path) -> None:
    args = ("run", tiny, clips[0], "--chunk", "0.4", "--max-new-tokens", 3)
    done = fewhertz_(*args)
    as_json = json.loads(fewhertz_(*args, "--json").stdout)
    assert done.exit_code == 0 and as_json["windows"] > 1 and as_json["seconds"] == 1.0
    assert done.stdout == as_json["text"] + "\n"


@pytest.mark.parametrize("task", [("--task", "describe"), ("--task", "ask", "--question", "Who?"), ("--prompt", "Say")])
def test_other_tasks(task: tuple[str, ...], clips: list[Path], tiny: Path) -> None:
    done = fewhertz_("run", tiny, clips[0], *task, "--max-new-tokens", 2)
    assert done.exit_code == 0 and done.stdout.endswith("\n")


def test_what_is_there_is_written_when_it_is_broken_off(
    clips: list[Path], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--chunk", "0.6", "--max-new-tokens", 2, "--json")
    windows = json.loads(fewhertz_("run", tiny, clips[0], *options).stdout)["windows"]
    real, calls = run.reply, []

    def broken_off(*args: object, **more: object) -> object:
        calls.append(1)
        if len(calls) == windows + 1:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(run, "reply", broken_off)
    done = fewhertz_("run", tiny, *clips, *options)
    assert done.exit_code == 130
    one, *two = map(json.loads, done.stdout.splitlines())
    assert one["error"] is None and one["windows"] == windows > 1 and len(calls) == windows + 1 and not two


def test_own_method_bar_on_a_terminal_and_clean_output(clips: list[Path]) -> None:
    """One real process: standard error is a terminal, standard output is a pipe."""
    ours, theirs = pty.openpty()
    seen: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                seen.append(data)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    command = [SCRIPT, "run", "pocket", *clips, "--import", ROOT / "examples" / "my_method.py"]
    done = subprocess.run(
        [*map(str, command), "--method", "mine@keep=0.5", "--max-new-tokens", "3", "--json"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TERM": "xterm", "COLUMNS": "400"},  # wide: lines are not wrapped
        check=False,
    )
    os.close(theirs)
    reader.join()
    os.close(ours)
    terminal = b"".join(seen).decode()
    assert done.returncode == 0, terminal
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [line["audio_tokens"] for line in lines] == [13, 19] and lines[0]["method"] == "mine@keep=1/2"
    assert "files" in terminal and "audio tokens" in terminal


def test_methods() -> None:
    rows = [json.loads(line) for line in fewhertz_("methods", "--json").stdout.splitlines()]
    assert [row["name"] for row in rows] == sorted(METHODS)
    by_name = {row["name"]: row for row in rows}
    assert by_name["ltbm"]["parameters"] == {"window": "0.32s"} and by_name["pool"]["fixed_budget"]
    assert by_name["segmentwise"]["needs"] == ["scores"] and not by_name["unseg"]["fixed_budget"]
    default = parse(RECOMMENDED, "1/2")
    assert [row["name"] for row in rows if row["recommended"]] == [default.name] and default.sizes
    table, markdown = fewhertz_("methods").stdout, fewhertz_("methods", "--markdown").stdout
    marked = [line.split()[0] for line in table.splitlines() if line.split()[1:2] == ["*"]]
    assert marked == [default.name] and table.splitlines()[-1].endswith(f"; {default.spec}, of fixed length")
    for row in rows:
        assert f"| `{row['name']}` |" in markdown
        assert any(line.split()[:1] == [row["name"]] and row["summary"] in line for line in table.splitlines())


def test_a_reader_that_stops_early_is_no_error() -> None:
    done = subprocess.run(f"'{SCRIPT}' methods --json | head -c 5", shell=True, capture_output=True, text=True)
    assert done.stdout == '{"nam' and "Traceback" not in done.stderr


def test_inspect_reads_no_weights(copy: Path, clips: list[Path]) -> None:
    (copy / "model.safetensors").unlink()
    args = ("inspect", copy, "30s", clips[0], "--method", "pool@keep=1/3", "--context", 300, "--memory", "1GB")
    lines = [json.loads(line) for line in fewhertz_(*args, "--json").stdout.splitlines()]
    assert [(line["audio_tokens_before"], line["audio_tokens"]) for line in lines] == [(750, 250), (25, 8)]
    assert [line["fits_context_before"] for line in lines] == [False, True]
    assert lines[0]["fits_context"] is (250 + lines[0]["prompt_tokens"] <= 300) and lines[0]["fits_memory"]
    assert lines[0]["rate_hz"] == 250 / 30 and lines[0]["prefill_flops"] < lines[0]["prefill_flops_before"] / 2
    assert lines[0]["kv_bytes"] / lines[0]["kv_bytes_before"] == lines[0]["context"] / lines[0]["context_before"]
    done = fewhertz_(*args)
    assert done.exit_code == 0 and "pool@keep=1/3" in done.stdout and "weights:" in done.stderr
    little = fewhertz_(*args[:-1], "1MB", "--json")
    assert json.loads(little.stdout.splitlines()[0])["fits_memory"] is False
    assert fewhertz_("run", copy, clips[0]).exit_code == 2


def test_inspect_counts_positions(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 300
    (copy / "config.json").write_text(json.dumps(config))
    args = ("inspect", copy, "30s", "--method")
    line = json.loads(fewhertz_(*args, "pool@keep=1/3+time", "--json").stdout)
    assert line["context"] <= 300 < line["positions"] == line["positions_before"] == line["context_before"]
    assert line["fits_context"] is False and line["binds"] == "positions" and line["binds_before"] == "tokens"
    assert f"no: {line['positions']} positions of 300" in fewhertz_(*args, "pool@keep=1/3+time").stdout
    packed = json.loads(fewhertz_(*args, "pool@keep=1/3", "--json").stdout)
    assert packed["fits_context"] is True and packed["binds"] is None
    drawn = json.loads(fewhertz_(*args, "pool@keep=1/3+time(fit)", "--json").stdout)
    assert drawn["fits_context"] is True and drawn["positions"] == 300 and 0.3 < drawn["position_scale"] < 0.4
    assert "yes: positions × 0.3" in fewhertz_(*args, "pool@keep=1/3+time(fit)").stdout
    stretched = json.loads(fewhertz_(*args, "pool@keep=1/3+time", "--context", 900, "--json").stdout)
    assert stretched["fits_context"] is True and stretched["position_limit"] == 900


def test_inspect_plans_a_recording(copy: Path, tmp_path: Path) -> None:
    """As windows one by one, of a length and of a file, and as many in one prompt."""
    (copy / "model.safetensors").unlink()
    wave = audio.load(AUDIO)[:24_000]
    soundfile.write(tmp_path / "talk.wav", np.concatenate([wave, np.zeros(80_000), wave, wave]), 16_000)
    args = ("inspect", copy, "100s", tmp_path / "talk.wav", "--chunk", 4, "--method", "pool@keep=1/2+time")
    by_length, by_file = (json.loads(line) for line in fewhertz_(*args, "--context", 600, "--json").stdout.splitlines())
    assert (by_length["windows"], by_length["audio_tokens_before"], by_length["audio_tokens"]) == (25, 2500, 1250)
    assert by_length["rate_hz"] == 12.5 and by_length["longest_window"]["audio_tokens"] == 50
    assert by_length["one_prompt"]["audio_tokens"] == 1250 and by_length["windows_a_prompt"] < 25
    assert by_length["windows_a_prompt_bound_by"] == "tokens" and by_length["one_prompt"]["binds"] == "tokens"
    assert 2 <= by_file["windows"] <= 4 and by_file["audio_tokens_before"] < 25 * 5  # the silence is no window
    table = fewhertz_(*args, "--memory", "1GB").stdout
    assert "windows a prompt" in table and "all 25" in table
    assert f"{by_length['windows_a_prompt']}: tokens bind" in fewhertz_(*args, "--context", 600).stdout
    assert fewhertz_("inspect", copy, "100s", "--chunk", "long").exit_code == 2
    assert "30 s that qwen2-audio reads" in fewhertz_("inspect", copy, "100s", "--chunk", 31).stderr


def test_inspect_says_what_it_cannot_know(clips: list[Path]) -> None:
    done = fewhertz_("inspect", "pocket", "10s", "31s", "0s", "--method", "unseg")
    assert done.exit_code == 2 and "variable" in done.stdout
    assert "--chunk 30" in done.stderr and "above 0 s" in done.stderr


def test_show_writes_a_picture(clips: list[Path], tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens.png"
    done = fewhertz_("show", clips[0], "--method", "stride@keep=1/2", "--out", out, "--model", tiny)
    assert done.exit_code == 0 and done.stdout == f"{out}\n" and "25 → 13 audio tokens" in done.stderr
    assert out.read_bytes()[:4] == b"\x89PNG"
    missing = fewhertz_("show", tmp_path / "none.wav", "--method", "pool@keep=1/2", "--out", out, "--model", tiny)
    assert missing.exit_code == 2 and "none.wav" in missing.stderr


def test_show_names_the_extra(clips: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = fewhertz_("show", clips[0], "--method", "pool@keep=1/2", "--out", tmp_path / "x.png")
    assert done.exit_code == 2 and "pip install 'fewhertz[eval]'" in done.stderr


def test_compressed_checkpoint_carries_its_method(clips: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "third"
    done = fewhertz_("compress", "pocket", "--method", "segment@keep=1/3", "--out", out)
    assert done.exit_code == 0 and done.stdout == f"{out}\n"
    assert (out / "model.safetensors").read_bytes() == (path() / "model.safetensors").read_bytes()
    assert [file.name for file in out.parent.iterdir()] == ["third"]
    assert not {"samples", "__init__.py", "__pycache__"} & {file.name for file in out.iterdir()}

    model, processor = fewhertz.load(out, dtype="float32")
    assert fewhertz.attached(model).asked.spec == "segment@keep=1/3"
    same, _ = fewhertz.load("pocket", "segment@keep=1/3", dtype="float32")
    inputs = run.request(processor, [audio.load(clips[0])])
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, same(**inputs).logits)
    other, _ = fewhertz.load(out, "pool@keep=1/2")
    assert fewhertz.attached(other).asked.spec == "pool@keep=1/2"
    again = fewhertz_("compress", "pocket", "--method", "pool@keep=1/2", "--out", out)
    assert again.exit_code == 2 and "not empty" in again.stderr


def test_stock_loading_leaves_the_compression_out_and_is_told_of(copy: Path, clips: list[Path], tmp_path: Path) -> None:
    from huggingface_hub import ModelCard
    from transformers import Qwen2AudioForConditionalGeneration

    (copy / "README.md").write_text("theirs")
    out, again = tmp_path / "third", tmp_path / "half"
    assert fewhertz_("compress", copy, "--method", "pool@keep=1/3", "--out", out).exit_code == 0
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "fewhertz" and "fewhertz.load(" in card.text and "`pool@keep=1/3`" in card.text
    assert "from_pretrained` of transformers ignores that" in card.text and card.data.base_model is None  # no hub id
    assert "[BASE_README.md]" in card.text and (out / "BASE_README.md").read_text() == "theirs"
    assert fewhertz_("compress", out, "--method", "pool@keep=1/2", "--out", again).exit_code == 0
    assert "`pool@keep=1/2`" in (again / "README.md").read_text()
    assert (again / "BASE_README.md").read_text() == "theirs"

    stock = Qwen2AudioForConditionalGeneration.from_pretrained(out)
    assert fewhertz.attached(stock) is None
    fewhertz.compress(stock, "pool@keep=1/3").remove()  # as it carries
    stock = Qwen2AudioForConditionalGeneration.from_pretrained(out)
    with pytest.warns(
        UserWarning, match=r"carries pool@keep=1/3 \(config.audio_compression\), and is given pool@keep=1"
    ):
        fewhertz.compress(stock, "pool@keep=1/2")
    fewhertz.compress(stock, "pool@keep=1/4")  # said once
    net, _ = fewhertz.load(out, "pool@keep=1/2")  # asked for by name: nothing to warn of
    fewhertz.compress(net, "pool@keep=1/4")
    ran = fewhertz_("run", out, clips[0], "--json", "--max-new-tokens", 1)
    assert json.loads(ran.stdout)["method"] == "pool@keep=1/3", ran.stderr


def test_a_card_names_a_base_model_of_a_hub() -> None:
    from huggingface_hub import ModelCard

    from fewhertz.checkpoint import card_head

    head = card_head("Qwen/Qwen2-Audio-7B-Instruct", "fewhertz", "finetune", ["lora"])
    data = ModelCard(head).data
    assert data.base_model == "Qwen/Qwen2-Audio-7B-Instruct" and data.base_model_relation == "finetune"
    assert data.tags == ["audio", "fewhertz", "lora"]
    assert "base_model" not in card_head("pocket", "fewhertz", "finetune")


def test_a_checkpoint_with_a_method_of_ones_own(copy: Path, clips: list[Path]) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"audio_compression": {"method": "theirs@keep=1/2"}}))
    with pytest.raises(ValueError, match=r"carries 'theirs@keep=1/2': no method named 'theirs'.*--import"):
        fewhertz.load(copy)
    done = fewhertz_("run", copy, clips[0])
    assert done.exit_code == 2 and "--import" in done.stderr


def test_a_copy_that_is_broken_off_leaves_nothing(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint.shutil, "copyfile", full)
    done = fewhertz_("compress", copy, "--method", "pool@keep=1/2", "--out", tmp_path / "out")
    assert done.exit_code == 2 and "No space left" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_no_network_unless_a_hub_id_is_given(
    monkeypatch: pytest.MonkeyPatch, clips: list[Path], tiny: Path, tmp_path: Path
) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert fewhertz_("run", tiny, clips[0], "--max-new-tokens", 2).exit_code == 0
    assert fewhertz_("inspect", "pocket", "5s").exit_code == 0
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "no model 'models/tiny'" in fewhertz_("run", "models/tiny", clips[0]).stderr
    done = fewhertz_("run", "owner/name", clips[0])
    assert done.exit_code == 2 and "Hugging Face Hub" in done.stderr and len(done.stderr.splitlines()) <= 2


def test_load_keeps_to_what_is_asked() -> None:
    model, _ = fewhertz.load("pocket", dtype=torch.float32, device=torch.device("cpu"))
    assert model.dtype == torch.float32 and not model.training and fewhertz.attached(model) is None
    assert np.isfinite(sum(p.abs().sum().item() for p in model.parameters()))


def test_sample_copies_the_clips_and_writes_over_nothing(tmp_path: Path) -> None:
    done = fewhertz_("sample", tmp_path / "clips")
    names = sorted(file.name for file in (path() / "samples").iterdir())
    assert done.exit_code == 0 and f"{len(names) - 1} clips" in done.stderr
    assert sorted(file.name for file in (tmp_path / "clips").iterdir()) == names
    rows = [json.loads(line) for line in (tmp_path / "clips" / "samples.jsonl").read_text().splitlines()]
    assert all((tmp_path / "clips" / row["audio"]).exists() and row["text"] for row in rows)
    assert fewhertz_("sample", tmp_path / "clips").exit_code == 0  # again: the same files
    (tmp_path / "clips" / "01.flac").write_bytes(b"mine")
    refused = fewhertz_("sample", tmp_path / "clips")
    assert refused.exit_code == 2 and "01.flac is there and is another file" in refused.stderr
    assert (tmp_path / "clips" / "01.flac").read_bytes() == b"mine"
