"""Tasks of what is not words, on files in the data sets' own formats, and their metrics by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fewhertz import audio
from fewhertz.evaluation.bootstrap import interval
from fewhertz.evaluation.heard import EqualErrors, Tags, named
from fewhertz.tasks import named as task_of
from fewhertz.tasks.base import Failed, Sample
from fewhertz.tasks.gtzan import GENRES


def wave(file: Path, seconds: float = 0.5, hertz: float = 220) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(16_000 * seconds)) / 16_000
    soundfile.write(file, (0.1 * np.sin(2 * np.pi * hertz * times)).astype(np.float32), 16_000)
    return file


def test_gtzan_from_its_own_folder_and_from_a_list(tmp_path: Path) -> None:
    for genre in ("blues", "rock"):
        wave(tmp_path / "genres_original" / genre / f"{genre}.00000.wav")
    found = task_of("gtzan", data=str(tmp_path / "genres_original")).samples()
    assert [(sample.references, sample.choices) for sample in found] == [(["blues"], GENRES), (["rock"], GENRES)]
    assert found[0].prompt.startswith("Which genre") and len(audio.load(found[1].source(), 16_000)) == 8000
    rows = [{"audio": "genres_original/rock/rock.00000.wav", "genre": genre} for genre in ("Rock", "polka")]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    one, two = task_of("gtzan", data=str(tmp_path / "list.jsonl")).samples()
    assert one.references == ["rock"] and isinstance(two, Failed) and "'polka' is none of blues" in two.error


def test_gtzan_as_the_hub_has_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    sound = {"path": "a.wav", "bytes": wave(tmp_path / "a.wav").read_bytes()}
    data = datasets.Dataset.from_dict({"file": ["a.wav"], "audio": [sound], "genre": [9]})
    features = {"audio": datasets.Audio(sampling_rate=16_000), "genre": datasets.ClassLabel(names=GENRES)}
    data.cast(datasets.Features({**data.features, **features})).save_to_disk(str(tmp_path / "saved"))
    (sample,) = task_of("gtzan", data=str(tmp_path / "saved")).samples()
    assert sample.references == ["rock"] and len(audio.load(sample.source(), 16_000)) == 8000


def test_musiccaps(tmp_path: Path) -> None:
    wave(tmp_path / "clips" / "-0Gj8-vB1q4_30.wav")
    wave(tmp_path / "clips" / "-0SdAVK79lg.wav")
    header = (
        "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,is_audioset_eval"
    )
    rows = [
        """-0Gj8-vB1q4,30,40,"/m/0140xf","['low quality']","The low quality recording features a ballad.",4,F,T""",
        """-0SdAVK79lg,30,40,"/m/0155w","['guitar song']","This song features an electric guitar.",0,False,False""",
        """missing,0,10,"/m/0155w","[]","Nobody hears this.",0,False,False""",
    ]
    (tmp_path / "musiccaps-public.csv").write_text("\n".join([header, *rows]) + "\n", "utf-8")
    one, two, three = task_of(
        "musiccaps", data=str(tmp_path / "musiccaps-public.csv"), audio=tmp_path / "clips"
    ).samples()
    assert one.id == "-0Gj8-vB1q4_30" and one.references == ["The low quality recording features a ballad."]
    assert Path(two.source()).name == "-0SdAVK79lg.wav" and isinstance(three, Failed)
    (failed, *_) = task_of("musiccaps", data=str(tmp_path / "musiccaps-public.csv")).samples()
    assert "MusicCaps carries no audio: --audio FOLDER" in failed.error


SEGMENTS = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=20371, num_segs=20371, num_unique_labels=527, num_positive_labels=51804
# YTID, start_seconds, end_seconds, positive_labels
--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_,/m/0bt9lr,/m/0jbk"
--BfvyPmVMo, 20.000, 30.000, "/m/03l9g"
broken, 20.000
"""


def test_audioset_from_its_own_lists(tmp_path: Path) -> None:
    names = {"/m/068hy": "Domestic animals, pets", "/m/07q6cd_": "Squeak", "/m/0bt9lr": "Dog", "/m/0jbk": "Animal"}
    with (tmp_path / "class_labels_indices.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerows([["index", "mid", "display_name"], *([i, *pair] for i, pair in enumerate(names.items()))])
    (tmp_path / "eval_segments.csv").write_text(SEGMENTS, "utf-8")
    wave(tmp_path / "wav" / "--4gqARaEJE.wav")
    wave(tmp_path / "wav" / "--BfvyPmVMo_20.wav")
    task = task_of("audioset", data=str(tmp_path / "eval_segments.csv"), audio=tmp_path / "wav")
    one, two, three = task.samples()
    assert isinstance(one, Sample) and one.references == [*names.values()] and one.id == "--4gqARaEJE_0"
    assert "no name of '/m/03l9g' in class_labels_indices.csv" in two.error and "a segment has" in three.error
    (metric,) = task.metrics()
    assert metric.classes == tuple(names.values())
    (tmp_path / "class_labels_indices.csv").unlink()
    (failed, *_) = task_of("audioset", data=str(tmp_path / "eval_segments.csv"), audio=tmp_path / "wav").samples()
    assert "put class_labels_indices.csv beside the list" in failed.error


def test_audioset_with_its_audio(tmp_path: Path) -> None:
    wave(tmp_path / "a.wav")
    row = {"video_id": "a", "audio": "a.wav", "labels": ["/m/09x0r"], "human_labels": ["Speech", "Dog"]}
    (tmp_path / "set.jsonl").write_text(json.dumps(row), "utf-8")
    (sample,) = task_of("audioset", data=str(tmp_path / "set.jsonl")).samples()
    assert sample.references == ["Speech", "Dog"] and "separated by commas" in sample.prompt


def test_f1_of_the_sounds_that_are_named() -> None:
    classes = ("Speech", "Male speech, man speaking", "Dog", "Domestic animals, pets", "Car")
    assert named("A man speaking, and pets.", classes) == ["Male speech, man speaking", "Domestic animals, pets"]
    assert named("male SPEECH", classes) == ["Male speech, man speaking"]  # and no speech beside it
    assert named("male speech; other speech; cars", classes) == ["Speech", "Male speech, man speaking"]
    metric = Tags(classes=classes)
    stats = metric.measure([["Speech", "Dog"], ["Car"]], ["speech and a car", ""])
    assert stats.tolist() == [[1, 2, 2], [0, 0, 1]]
    assert metric.score(stats) == pytest.approx(100 * 2 * 1 / (2 + 3))
    assert metric.score(stats[1:]) == 0 and "classes:5" in metric.signature()
    # without a list of classes, those of the labels are all there are
    assert Tags().measure([["Dog"], ["Car"]], ["a dog, a car and speech", "car"]).tolist() == [[1, 2, 1], [1, 1, 1]]


def test_emotions_by_the_names_of_files(tmp_path: Path) -> None:
    for name in ("1001_DFA_ANG_XX", "1002_DFA_SAD_HI", "1002_DFA_XYZ_HI"):
        wave(tmp_path / "AudioWAV" / f"{name}.wav")
    one, two, three = task_of("emotion", data=str(tmp_path / "AudioWAV")).samples()
    assert one.references == ["anger"] and one.choices == ["anger", "sadness"] and one.group == "1001"
    assert two.references == ["sadness"] and "no known emotion" in three.error
    for name in ("03-01-05-01-02-01-12", "03-01-02-01-02-01-13", "03-02-02-01-02-01-13"):
        wave(tmp_path / "ravdess" / "Actor_12" / f"{name}.wav")
    found = task_of("emotion", data=str(tmp_path / "ravdess")).samples()
    assert [(s.references, s.group) for s in found] == [(["calm"], "13"), (["anger"], "12")]


def test_emotions_of_any_list(tmp_path: Path) -> None:
    wave(tmp_path / "a.wav")
    rows = [{"audio": "a.wav", "emotion": one, "speaker": 7, "id": one} for one in ("Joy", "Fear")]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    one, two = task_of("emotion", data=str(tmp_path / "mine.jsonl")).samples()
    assert (one.references, one.choices, one.group) == (["joy"], ["fear", "joy"], "7") and two.references == ["fear"]
    assert one.prompt.endswith("Answer with one of these: fear; joy.")


def test_pairs_of_voices_from_a_list_of_trials(tmp_path: Path) -> None:
    for i, name in enumerate(("id1/a/1.wav", "id1/b/1.wav", "id2/a/1.wav")):
        wave(tmp_path / "wav" / name, 0.5 + i, 200 + 100 * i)
    trials = ["1 id1/a/1.wav id1/b/1.wav", "0 id1/a/1.wav id2/a/1.wav", "2 id1/a/1.wav id2/a/1.wav", "1 id1/a/1.wav"]
    (tmp_path / "veri_test2.txt").write_text("\n".join(trials) + "\n", "utf-8")
    task = task_of("speaker-pairs", data=str(tmp_path / "veri_test2.txt"), audio=tmp_path / "wav")
    one, two, three, four = task.samples()
    assert (one.references, two.references, one.choices) == (["yes"], ["no"], ["yes", "no"])
    assert "its label is 1 or 0" in three.error and "a trial is a label and two files" in four.error
    heard = audio.load(one.source(), 16_000)
    assert len(heard) == 16_000 * (0.5 + 1 + 1.5) and not heard[8_100:23_900].any() and heard[24_100:].any()
    row = {"label": 1, "enrol": "wav/id1/a/1.wav", "test": "wav/id1/b/1.wav"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row), "utf-8")
    (sample,) = task_of("speaker-pairs", data=str(tmp_path / "mine.jsonl")).samples()
    assert sample.references == ["yes"] and sample.source() == one.source()


def test_equal_error_rate_of_decisions() -> None:
    metric = EqualErrors()
    same, other = [["yes"]] * 4, [["no"]] * 4
    stats = metric.measure(same + other, ["yes"] * 4 + ["No."] * 3 + ["yes"])
    assert stats.sum(0).tolist() == [1, 4, 0, 4]
    assert metric.score(stats) == pytest.approx(100 * 0.25 / 1.25)  # on the line from (0, 0) to (1/4, 1)
    assert metric.score(metric.measure(same + other, ["yes", "yes", "yes", "maybe"] * 2)) == 50  # worse than chance
    assert metric.score(metric.measure(same + other, ["yes"] * 8)) == 50
    assert metric.score(metric.measure(same + other, ["yes"] * 4 + ["no"] * 4)) == 0
    assert metric.score(metric.measure([["yes"]] * 2 + [["no"]] * 2, ["yes", "no", "no", "yes"])) == 50
    assert metric.score(metric.measure([["yes"]] * 5, ["yes"] * 4 + ["no"])) == pytest.approx(20)  # one kind of pair
    low, high = interval(metric, stats, draws=300)
    assert low <= 20 <= high
