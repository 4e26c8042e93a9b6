"""Tasks: true field names, from files, directories and Hugging Face data sets; every bad row named."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import fewhertz.tasks  # noqa: F401  (fills TASKS)
from fewhertz import audio
from fewhertz.evaluation import metrics
from fewhertz.pocket import path
from fewhertz.tasks import base, manifest
from fewhertz.tasks.base import TASKS, Failed, Sample, Task, spoken

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="no ../shared/data")


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sound") / "a.wav"
    soundfile.write(file, np.sin(np.arange(8000) / 20).astype(np.float32) * 0.1, 16_000)
    return file


def write(file: Path, rows: list[object]) -> str:
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return str(file)


def table(file: Path, rows: list[dict[str, object]]) -> str:
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return str(file)


def good(task: Task) -> list[Sample]:
    found = task.samples()
    assert all(isinstance(row, Sample) for row in found), found
    return found  # type: ignore[return-value]


def names(task: Task) -> list[str]:
    return [f"{metric.name} {metric.normaliser}" for metric in task.metrics()]


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_says_what_it_is(name: str) -> None:
    task = TASKS[name]
    assert task.citation and task.version >= 1 and len(task.__doc__ or "") > 100


def test_librispeech(tmp_path: Path, wav: Path) -> None:
    row = {
        "file": "x",
        "audio": wav.name,
        "text": "MISTER QUILTER",
        "speaker_id": 1272,
        "chapter_id": 1,
        "id": "1272-1-0",
    }
    task = TASKS["librispeech"](data=write(wav.parent / "rows.jsonl", [row]))
    (sample,) = good(task)
    assert sample == Sample(0, "1272-1-0", wav, ["MISTER QUILTER"], group="1272")
    assert names(task) == ["wer whisper-english", "meaning plain"] and task.label == "librispeech-clean-test"
    assert task.prompt is None  # the model's own way to transcribe
    metric = task.metrics()[0]
    assert metric.score(metric.measure([sample.references], ["Mr. Quilter."])) == 0


def test_common_voice_as_mozilla_ships_it(tmp_path: Path, wav: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "common_voice_de_1.wav").write_bytes(wav.read_bytes())
    quoted = 'Er sagte: "Nein", und ging.'
    rows = [{"client_id": "abc", "path": "common_voice_de_1.wav", "sentence": quoted, "locale": "de"}]
    lines = "\n".join("\t".join(values) for values in (rows[0].keys(), rows[0].values()))
    (tmp_path / "test.tsv").write_text(lines + "\n", "utf-8")  # its files quote nothing
    task = TASKS["commonvoice"](data=str(tmp_path / "test.tsv"), subset="de", audio=clips)
    (sample,) = good(task)
    assert (sample.references, sample.group, sample.id) == ([quoted], "abc", "common_voice_de_1")
    assert names(task) == ["wer whisper-basic"]
    assert names(TASKS["commonvoice"](subset="ja")) == ["cer whisper-basic-joined"]
    assert names(TASKS["commonvoice"](subset="en"))[0] == "wer whisper-english"
    assert names(TASKS["commonvoice"](subset="en", normaliser="plain"))[0] == "wer plain"


def test_fleurs_and_its_pairs(tmp_path: Path, wav: Path) -> None:
    for language, words in (("de_de", "Guten Tag."), ("en_us", "Good day.")):
        (tmp_path / language).mkdir()
        (tmp_path / language / "a.wav").write_bytes(wav.read_bytes())
        rows = [
            {"id": 7, "audio": "a.wav", "transcription": words.lower().strip("."), "raw_transcription": words},
            {"id": 7, "audio": "a.wav", "transcription": words.lower().strip("."), "raw_transcription": words},
        ]
        write(tmp_path / language / "rows.jsonl", rows)
    data = str(tmp_path / "de_de" / "rows.jsonl")
    task = TASKS["fleurs"](data=data, subset="de_de")
    assert [s.references for s in good(task)] == [["guten tag"]] * 2 and names(task) == ["wer whisper-basic"]
    assert {s.group for s in good(task)} == {"7"} and len({s.id for s in good(task)}) == 2
    assert names(TASKS["fleurs"](subset="cmn_hans_cn")) == ["cer whisper-basic-joined"]
    pair = TASKS["fleurs"](subset="de_de-en_us")
    assert names(pair) == ["bleu plain", "chrf plain"] and pair.prompt == "Translate the speech into English."
    assert pair.label == "fleurs-de_de-en_us-test"


def test_covost2(tmp_path: Path, wav: Path) -> None:
    row = {"client_id": "c", "file": "a.wav", "audio": wav.name, "sentence": "Bonjour.", "translation": "Hello."}
    task = TASKS["covost2"](data=write(wav.parent / "rows.jsonl", [row | {"id": "cv_1"}]), subset="fr_en")
    (sample,) = good(task)
    assert sample.references == ["Hello."] and sample.prompt == "Translate the speech into English."
    chinese = TASKS["covost2"](subset="en_zh-CN")
    assert chinese.prompt == "Translate the speech into Chinese." and "tok:char" in chinese.metrics()[0].signature()
    with pytest.raises(ValueError, match="no language has the code 'xx'"):
        _ = TASKS["covost2"](subset="en_xx").prompt


@needs_data
def test_audiocaps_on_its_own_lists(tmp_path: Path, wav: Path) -> None:
    (tmp_path / "7fmOlUlwoNg.wav").write_bytes(wav.read_bytes())
    (tmp_path / "6BJ455B1aAs_0.wav").write_bytes(wav.read_bytes())
    task = TASKS["audiocaps"](data=str(DATA / "annotations/audiocaps_v1_test.csv"), audio=tmp_path)
    rows = task.samples()
    assert len(rows) == 975 and sum(isinstance(row, Sample) for row in rows) == 2
    first = next(row for row in rows if isinstance(row, Sample))
    assert len(first.references) == 5 and "Constant rattling noise and sharp vibrations" in first.references
    missing = next(row for row in rows if isinstance(row, Failed))
    assert "audiocaps_v1_test.csv, row 3: " in missing.error and "no .wav, .flac" in missing.error
    assert names(task) == ["cider plain"] and task.prompt == "Describe the audio."
    without = TASKS["audiocaps"](data=str(DATA / "annotations/audiocaps_v1_val.csv")).samples()
    assert len(without) == 495 and all("--audio FOLDER" in row.error for row in without)  # type: ignore[union-attr]


def test_clotho_and_clotho_aqa(tmp_path: Path, wav: Path) -> None:
    captions = {f"caption_{i}": f"Rain, {i}" for i in range(1, 6)}
    file = table(wav.parent / "clotho.csv", [{"file_name": wav.name, **captions}])
    (sample,) = good(TASKS["clotho"](data=file))
    assert sample.references == [f"Rain, {i}" for i in range(1, 6)] and sample.id == wav.name

    asked = [("Is it raining?", "yes"), ("Is it raining?", "Yes"), ("Is it raining?", "no")]
    asked += [("What falls?", "rain"), ("What falls?", "water"), ("What falls?", "rain")]
    rows = [{"file_name": wav.name, "QuestionText": q, "answer": a, "confidence": "yes"} for q, a in asked]
    task = TASKS["clotho_aqa"](data=table(wav.parent / "clotho_aqa.csv", rows))
    closed, opened = good(task)
    assert (closed.references, closed.choices) == (["yes"], ["yes", "no"])
    assert (opened.references, opened.choices, opened.group) == (["rain"], [], wav.name)
    assert closed.prompt == "Is it raining?\nAnswer with one of these: yes; no."
    assert opened.prompt == "What falls?\nAnswer with a single word."


@needs_data
def test_mmau_on_its_own_questions(tmp_path: Path, wav: Path) -> None:
    rows = json.loads((DATA / "annotations/mmau-test-mini.json").read_text("utf-8"))[:3]
    (tmp_path / "test-mini-audios").mkdir()
    for row in rows[:2]:
        (tmp_path / row["audio_id"]).write_bytes(wav.read_bytes())
    rows[1]["choices"] = ["other"]
    (tmp_path / "mmau.json").write_text(json.dumps(rows), "utf-8")
    task = TASKS["mmau"](data=str(tmp_path / "mmau.json"))
    first, second, third = task.samples()
    assert isinstance(first, Sample) and first.choices == ["Man", "Woman", "Child", "Robot"]
    assert first.prompt.endswith("Answer with one of these: Man; Woman; Child; Robot.")
    assert isinstance(second, Failed) and "row 2: its answer 'A woman' is none of its choices" in second.error
    assert isinstance(third, Failed) and "no such file" in third.error
    assert names(task) == ["accuracy plain", "accuracy-nearest plain"]


def test_manifest_of_the_bundled_samples() -> None:
    task = TASKS["manifest"](data=str(path() / "samples/samples.jsonl"))
    found = good(task)
    assert len(found) == 16 and task.label == "samples" and task.kind == "transcribe"
    assert names(task) == ["wer plain"]  # no language: compared as they are
    assert audio.duration(found[0].sound) == pytest.approx(2.861, abs=1e-3)  # type: ignore[arg-type]


@needs_data
def test_manifest_of_real_recordings(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (DATA / "manifest.jsonl").read_text("utf-8").splitlines()]
    some = [row for row in rows if row["tar"] == "esc10.tar" and row["split"] == "test"][:4]
    with tarfile.open(DATA / "esc10.tar") as tar:
        for row in some:
            tar.extract(row["audio"], tmp_path, filter="data")
    captioned = good(task := TASKS["manifest"](data=write(tmp_path / "esc10.jsonl", some)))
    assert names(task) == ["cider plain"] and len(captioned[0].references) == 3
    assert [audio.load(s.sound).shape for s in captioned]  # type: ignore[arg-type]
    labels = sorted({row["label"] for row in rows if row["tar"] == "esc10.tar"})
    asked = [
        {"audio": row["audio"], "question": "What is heard?", "choices": labels, "answer": row["label"], "id": i}
        for i, row in enumerate(some)
    ]
    task = TASKS["manifest"](data=write(tmp_path / "questions.jsonl", asked))
    assert [s.references[0] for s in good(task)] == [row["label"] for row in some]
    assert names(task) == ["accuracy plain", "accuracy-nearest plain"]


def test_manifest_measures_what_it_holds(wav: Path) -> None:
    def task(*rows: dict[str, object]) -> Task:
        return TASKS["manifest"](data=write(wav.parent / "own.jsonl", [{"audio": wav.name, **row} for row in rows]))

    assert names(task({"text": "hello", "lang": "en"})) == ["wer whisper-english", "meaning plain"]
    assert names(task({"text": "bonjour", "lang": "fr"})) == ["wer whisper-basic"]
    assert names(task({"text": "今日は", "lang": "ja"})) == ["cer whisper-basic-joined"]
    assert names(task({"text": "hello", "lang": "en"}, {"text": "bonjour", "lang": "fr"})) == ["wer plain"]
    translated = task({"text": "bonjour", "translation": "hello"})
    assert names(translated) == ["bleu plain", "chrf plain"] and good(translated)[0].references == ["hello"]
    opened = task({"question": "What is it?", "answer": "rain"})
    assert names(opened) == ["accuracy plain"] and good(opened)[0].prompt == "What is it?"
    own = task({"text": "a", "prompt": "Say it.", "speaker": 3, "id": "x"}, {"text": "b", "group": "g"})
    assert [(s.prompt, s.group, s.id) for s in good(own)] == [("Say it.", "3", "x"), (None, "g", "1")]


def test_bad_rows_are_named_and_the_rest_goes_on(wav: Path, tmp_path: Path) -> None:
    a = {"audio": str(wav), "text": "one"}
    file = write(
        tmp_path / "bad.jsonl",
        [
            {**a, "id": "first"},
            '{"audio": "half',
            {"audio": str(wav), "sentence": "x"},
            {"audio": "x" * 5000 + ".wav", "text": "one"},
            {"audio": "gone.wav", "text": "one"},
            {**a, "text": " "},
            {**a, "text": 3},
            {**a, "id": "first"},
            {"audio": 5, "text": "one"},
            "[1]",
            {**a, "captions": ["a dog"], "text": "one"},
            {**a, "text": "a\u2028b", "id": "last"},
        ],
    )
    rows = TASKS["manifest"](data=file).samples()
    assert [row.row for row in rows] == list(range(12))
    assert [row.id for row in rows if isinstance(row, Sample)] == ["first", "last"]
    errors = {row.row + 1: row.error for row in rows if isinstance(row, Failed)}
    for row, words in {
        2: "is not JSON",
        3: "no column 'text'; it has audio, sentence",
        4: "xxx…: File name too long",
        5: "gone.wav: no such file",
        6: "its reference is empty",
        7: "'text' is a list of texts, got 3",
        8: "its id 'first' is that of row 1 too",
        9: "'audio' is the name of a file, got 5",
        10: "is not a JSON object",
        11: "it asks to describe, rows before it to transcribe",
    }.items():
        assert errors[row].startswith(f"{file}, row {row}: ") and words in errors[row], errors[row]
        assert len(errors[row]) < len(file) + 300


def test_of_a_long_manifest_no_more_than_the_limit_is_read(
    wav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"audio": str(wav), "text": "one"}] * 2 + [{"audio": str(wav), "captions": ["a"], "lang": "en"}] * 20_000
    for kind, suffix in (("manifest", "jsonl"), ("commonvoice", "csv")):
        file = tmp_path / f"long.{suffix}"
        if suffix == "csv":
            links = [wav, wav.with_name("b.wav")]
            links[1].write_bytes(wav.read_bytes())
            table(file, [{"path": str(link), "sentence": "one", "client_id": "a"} for link in links] * 10_000)
        else:
            write(file, rows)
        read, real = [], base.read

        def counted(*args: object, read: list = read, real: Callable = real) -> tuple:  # type: ignore[type-arg]
            found, folder = real(*args)
            return (read.append(1) or row for row in found), folder

        monkeypatch.setattr(base, "read", counted)
        monkeypatch.setattr(manifest, "read", counted)
        task = TASKS[kind](data=str(file), limit=2)
        assert len(good(task)) == 2 and task.metrics()[0].name == "wer" and 2 <= len(read) <= 8
        monkeypatch.undo()
    # and what is read comes as it is asked for: after the first lines the file is not looked at
    with (tmp_path / "long.jsonl").open("ab") as file:
        file.write(b"\xff\n")
    assert len(good(TASKS["manifest"](data=str(tmp_path / "long.jsonl"), limit=2))) == 2


def test_data_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.jsonl: no such file"):
        TASKS["manifest"](data=str(tmp_path / "gone.jsonl")).samples()
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(ValueError, match=r"is not UTF-8 text .* at byte 10"):
        TASKS["manifest"](data=str(tmp_path / "x.jsonl")).samples()
    (tmp_path / "x.csv").write_bytes(b"path,sentence\na.wav,\xff\n")
    with pytest.raises(ValueError, match=r"x\.csv is not UTF-8 text"):
        TASKS["commonvoice"](data=str(tmp_path / "x.csv")).samples()
    (tmp_path / "x.csv").write_text(f"path,sentence\na.wav,{'x' * 200_000}\n", "utf-8")
    with pytest.raises(ValueError, match=r"x\.csv, line 1: field larger than field limit"):
        TASKS["commonvoice"](data=str(tmp_path / "x.csv")).samples()
    with pytest.raises(ValueError, match="no row has answer, captions, translation, text; its first row has audio"):
        TASKS["manifest"](data=write(tmp_path / "y.jsonl", [{"audio": "a.wav"}])).samples()
    with pytest.raises(ValueError, match="no row is a JSON object"):
        TASKS["manifest"](data=write(tmp_path / "z.jsonl", [])).samples()
    (tmp_path / "m.json").write_text('{"id": 1')
    with pytest.raises(ValueError, match="is not JSON"):
        TASKS["mmau"](data=str(tmp_path / "m.json")).samples()
    (tmp_path / "m.json").write_text('{"id": 1}')
    with pytest.raises(ValueError, match="is not a list of rows"):
        TASKS["mmau"](data=str(tmp_path / "m.json")).samples()
    with pytest.raises(ValueError, match="mmau is on no hub: name its file"):
        TASKS["mmau"]().samples()
    (tmp_path / "m.xml").write_text("<a/>")
    with pytest.raises(ValueError, match=r"rows come from a \.jsonl, \.json, \.csv or \.tsv file"):
        TASKS["mmau"](data=str(tmp_path / "m.xml")).samples()


def hub_rows(wav: Path, **columns: list[object]) -> object:
    """A data set with audio as the Hub keeps it: encoded, beside its name."""
    import datasets

    n = len(next(iter(columns.values())))
    sounds = [{"bytes": wav.read_bytes(), "path": f"{i}.wav"} for i in range(n)]
    data = datasets.Dataset.from_dict({"audio": sounds, **columns})
    return data.cast(datasets.Features({**data.features, "audio": datasets.Audio(sampling_rate=16_000)}))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` makes of parquet files goes with the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_hugging_face_data_set_in_a_directory(tmp_path: Path, wav: Path, cache: None) -> None:
    data = hub_rows(
        wav, file=["a", "b"], text=["HELLO", "WORLD"], speaker_id=[1, 2], chapter_id=[1, 1], id=["1-1-0", "2-1-0"]
    )
    data.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "hub" / "clean").mkdir(parents=True)
    data.to_parquet(str(tmp_path / "hub" / "clean" / "test-00000-of-00001.parquet"))
    for where in ("saved", "hub"):
        found = good(TASKS["librispeech"](data=str(tmp_path / where)))
        assert [(s.id, s.references, s.group) for s in found] == [("1-1-0", ["HELLO"], "1"), ("2-1-0", ["WORLD"], "2")]
        source = found[1].sound
        assert callable(source) and audio.load(source()).shape == (8000,)
    with pytest.raises(ValueError, match="cannot read the data set"):
        TASKS["librispeech"](data=str(tmp_path / "hub"), split="dev").samples()


def test_pairs_of_fleurs_meet_by_sentence(tmp_path: Path, wav: Path, cache: None) -> None:
    spoken = {"de_de": ["Guten Tag.", "Guten Tag.", "Ja."], "en_us": ["Good day.", "Hm.", "Good day."]}
    ids = {"de_de": [7, 7, 9], "en_us": [7, 8, 7]}
    for language, texts in spoken.items():
        (tmp_path / language).mkdir()
        data = hub_rows(wav, id=ids[language], transcription=texts, raw_transcription=texts)
        data.to_parquet(str(tmp_path / language / "test.parquet"))
    one, two, alone = TASKS["fleurs"](data=str(tmp_path), subset="de_de-en_us").samples()
    assert isinstance(one, Sample) and isinstance(two, Sample) and one.references == two.references == ["Good day."]
    assert isinstance(alone, Failed) and "row 3: no column 'translation'" in alone.error


def test_a_missing_datasets_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ImportError, match=r"datasets is not installed: pip install 'fewhertz\[eval\]'"):
        TASKS["librispeech"](data=str(tmp_path)).samples()


def test_a_task_of_ones_own_is_a_class(wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewhertz.tasks.base.TASKS", dict(TASKS))

    class Mine(Task, name="mine"):
        """One word."""

        citation = "mine"

        def metrics(self) -> list[metrics.Metric]:
            return [metrics.METRICS["wer"]]

        def sample(self, index: int, row: dict[str, object], base: Path | None) -> Sample:
            return Sample(index, str(index), wav, [str(row["word"])])

    (sample,) = good(Mine(data=write(wav.parent / "mine.jsonl", [{"word": "hello"}])))
    assert sample.references == ["hello"] and spoken("en-GB") == ("wer", "whisper-english")
