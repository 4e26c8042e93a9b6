"""What explains the loss: planted coefficients are found, groups widen intervals, tokens of speech are counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import fewhertz
from fewhertz import audio
from fewhertz.evaluation.results import BASELINE
from recipes.research import loss, speech
from recipes.research.grids.training_free import PACES, SENTENCES, SILENT, grid
from recipes.research.measured import Measured
from recipes.research.regression import explained, fit
from recipes.research.silence import LEVEL, silenced

RATE = 16_000


def planted(seed: int, between: float) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """1 + 3·a − 2·b + noise, and both: a is the same in all samples of a voice, whose own level varies."""
    random = np.random.default_rng(seed)
    voice = np.repeat(np.arange(30), 15)
    x = np.column_stack([random.normal(size=30)[voice], random.normal(size=len(voice))])
    y = 1 + x @ [3.0, -2.0] + between * random.normal(size=30)[voice] + random.normal(size=len(voice))
    return y, x, [f"v{one}" for one in voice]


def test_planted_coefficients_are_found() -> None:
    y, x, voices = planted(0, 0.0)
    found = fit(y, x, [voices], draws=400)
    assert found.value == pytest.approx([3, -2], abs=0.15)
    assert (found.low < found.value).all() and (found.value < found.high).all()
    rest = y - 1 - x @ [3.0, -2.0]
    assert found.explained == explained(y, x) == pytest.approx(1 - rest.var() / y.var(), abs=0.01)
    assert explained(y, x[:, :1]) < found.explained - 0.1
    again = fit(y, x, [voices], draws=400)
    assert (again.low == found.low).all() and (again.high == found.high).all()


def test_voices_widen_intervals_of_what_differs_between_them_so_that_they_hold_the_truth() -> None:
    held, ratios = [], []
    for seed in range(40):
        y, x, voices = planted(seed, 1.0)
        found = [fit(y, x, [groups], draws=200) for groups in ([*range(len(y))], voices)]
        held.append([one.low[0] < 3 < one.high[0] for one in found])
        alone, by_voice = (one.high - one.low for one in found)
        ratios.append(by_voice / alone)
    alone, by_voice = np.mean(held, 0)
    assert alone < 0.6 and by_voice > 0.8
    assert np.median(ratios, 0)[0] > 2 and np.median(ratios, 0)[1] == pytest.approx(1, abs=0.1)


def test_a_second_grouping_widens_intervals() -> None:
    random = np.random.default_rng(5)
    text = np.arange(1000) % 20
    voices = [*(np.arange(1000) // 40)]
    x = random.normal(size=20)[text, None]
    y = 2 * x[:, 0] + random.normal(size=20)[text] + random.normal(size=1000)
    one, two = fit(y, x, [voices], draws=400), fit(y, x, [voices, [*text]], draws=400)
    assert two.high[0] - two.low[0] > 3 * (one.high[0] - one.low[0])
    assert two.low[0] < 2 < two.high[0]


def test_tokens_of_speech_are_counted_by_what_they_stand_for() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    wave = np.concatenate([noise, 1e-4 * noise, noise[: RATE // 2]])  # 25 tokens of sound, 25 of silence, 12.5 of sound
    assert speech.spoken(wave, 62).tolist() == [True] * 25 + [False] * 25 + [True] * 12
    loaded = fewhertz.load("pocket", device="cpu", dtype="float32")
    tokens, (whole, half, price) = speech.counted(loaded, wave, ["pool@keep=1/2", "ward@tolerance=0.3"])
    assert tokens == 62 and whole == 37
    assert half == pytest.approx(37 / 2)  # pairs, one of them half speech
    assert 0 < price <= 37


def test_silence_inside_is_as_long_as_the_clip_and_takes_nothing_from_it(tmp_path: Path) -> None:
    clip = Path(fewhertz.__file__).parent / "pocket" / "samples" / "11.flac"
    (tmp_path / "list.jsonl").write_text(json.dumps({"id": "a", "audio": str(clip)}) + "\n", "utf-8")
    wave = audio.load(clip, RATE)
    row = json.loads(silenced(tmp_path / "list.jsonl", tmp_path / "in.jsonl", inside=True).read_text("utf-8"))
    found, _ = soundfile.read(tmp_path / row["audio"], dtype="float32")
    assert row["id"] == "a" and len(found) == 2 * len(wave)
    silent = np.concatenate([[0], np.abs(found) < 8 * LEVEL, [0]]).astype(int)  # of noise of this level
    begins, ends = np.flatnonzero(np.diff(silent) == 1), np.flatnonzero(np.diff(silent) == -1)
    gaps = [(i, j) for i, j in zip(begins, ends, strict=True) if j - i >= len(wave) // 3]
    assert len(gaps) == 3 and gaps[0][0] > len(wave) // 10 and gaps[-1][1] < 1.9 * len(wave)
    sound = np.abs(wave) >= 8 * LEVEL
    assert (found[np.abs(found) >= 8 * LEVEL] == wave[sound]).all()  # all of the clip, in its order


def test_the_grid_is_small_and_its_lists_are_there() -> None:
    assert sum(len(grid(task)) for task in (*PACES, *SILENT)) == 57
    for task in SENTENCES:
        rows = (loss.SPLITS / f"{SILENT.get(task, task).label}.jsonl").read_text("utf-8").splitlines()
        assert len(rows) >= task.rows and 100 <= loss.pace(json.loads(rows[0])) <= 200
        assert BASELINE in grid(task) and speech.planned(task)


def test_nothing_is_said_before_it_is_measured(tmp_path: Path) -> None:
    assert not loss.ready(Measured(tmp_path)) and speech.read(Measured(tmp_path)) == {}
