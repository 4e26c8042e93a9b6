"""What the studio does between clip and page, without a browser: those tests are in tests_studio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from test_compare import CLIP

import fewhertz
from fewhertz import audio, compare
from fewhertz.pocket import path
from fewhertz.studio import recording
from fewhertz.studio.app import Studio

SPECS = ["pool@keep=1/2", "ward@keep=1/2+time+sizes"]


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio("pocket", device="cpu")


@pytest.mark.parametrize("after", [1, 4])
def test_a_redraw_breaks_off_the_answer_that_is_under_way(studio: Studio, after: int) -> None:
    """While the prompt is read, or in the middle of the answer; what comes next is as if it had not been."""
    visit = studio.listen(str(CLIP), None, None)
    studio.draw(visit, SPECS)
    answering = studio.answers(visit)
    next(answering)
    calls: list[Any] = []

    def move(*_: Any) -> None:
        calls.append(None)
        if len(calls) == after:
            visit.turn += 1

    decoder = studio.model.get_decoder()
    watching = decoder.layers[1].register_forward_pre_hook(move)
    assert list(answering) == []
    watching.remove()
    assert len(calls) == after
    assert [lane.text is None for lane in visit.lanes] == [False, True, True]
    assert fewhertz.attached(studio.model) is None
    assert not any(module._forward_pre_hooks for module in (decoder, *decoder.layers))
    assert len(list(studio.answers(visit))) == 2
    fresh = compare.compare(studio.model, studio.processor, audio.load(CLIP), SPECS, max_new_tokens=256)
    assert [lane.text for lane in visit.lanes] == [lane.text for lane in fresh]


def test_windows_are_drawn_as_they_are_looked_at(studio: Studio, tmp_path: Path) -> None:
    waves = [soundfile.read(path() / "samples" / f"{i:02}.flac", dtype="float32")[0] for i in (5, 8)]
    silence = np.zeros(28 * 16_000, np.float32)
    file = tmp_path / "long.wav"
    soundfile.write(file, np.concatenate([silence, waves[0], silence, waves[1]]), 16_000)
    visit = studio.listen(str(file), None, None)
    heard = [i for i, part in enumerate(visit.parts) if part.heard is not None]
    assert visit.at == heard[0] > 0 and len(heard) < len(visit.parts)
    studio.draw(visit, ["ward@tolerance=0.3"])
    line = visit.timeline
    assert line is not None and line["lanes"] is None
    assert [len(one["hz"]) for one in line["windows"]] == [2 if i == visit.at else 0 for i in range(len(visit.parts))]
    answering = studio.answers(visit)
    for _ in answering:
        pass
    line = visit.timeline
    assert line is not None
    assert [len(one["hz"]) for one in line["windows"]] == [2 if i in heard else 0 for i in range(len(visit.parts))]
    assert [one["silent"] for one in line["windows"]] == [i not in heard for i in range(len(visit.parts))]
    for number in (0, len(visit.parts), -1):
        with pytest.raises(ValueError, match="no such window"):
            studio.pick(visit, number)
    studio.pick(visit, heard[-1])
    assert visit.at == heard[-1] and [lane.spec for lane in visit.lanes] == ["none", "ward@tolerance=0.3"]
    assert visit.lanes[0].before == visit.lanes[0].tokens == round(line["windows"][heard[-1]]["hz"][0] * visit.seconds)


def test_a_recording_says_the_words_that_windows_share_once() -> None:
    from fewhertz.compare import Lane
    from fewhertz.windows import Window

    wave = np.zeros(16_000, np.float32)
    found = [
        Window(0.0, 4.0, wave, 0.0, 3.0),
        Window(3.0, 7.0, wave, 3.0, 7.0, shared=1.0, blind=True),
        Window(7.0, 9.0, None, 7.0, 9.0),
        Window(9.0, 10.0, wave, 9.0, 10.0),
    ]

    def lane(text: str) -> Lane:
        return Lane("none", 25, 25, None, text, None, None)

    lanes = [[lane("one two three")], [lane("two three four")], [], [lane(" five ")]]
    line = recording.timeline(found, lanes, 16_000, 0, "one two three four six")
    assert line is not None
    assert line["lanes"] == [{"text": "one two three four five", "errors": (1, 5)}]
    assert [one["hz"] for one in line["windows"]] == [[25.0], [25.0], [], [25.0]]
    assert recording.timeline(found[:1], lanes[:1], 16_000, 0) is None


def test_tokens_that_the_llm_itself_forms_are_drawn_too(studio: Studio) -> None:
    spec = "ward(site=llm.2)@keep=1/2"
    visit = studio.listen(str(CLIP), None, None)
    studio.draw(visit, [spec])
    whole, inside = visit.lanes
    (alone,) = compare.compare(studio.model, studio.processor, audio.load(CLIP), [spec])[1:]
    assert inside.text is None and inside.before == whole.tokens and inside.plan is not None
    assert torch.equal(inside.plan.group, alone.plan.group) and (inside.kv, inside.flops) == (alone.kv, alone.flops)
