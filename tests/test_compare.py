"""One clip under several methods: what is drawn, counted and said is what the methods did."""

from __future__ import annotations

import base64
import gc
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_cli import fewhertz_

import fewhertz
from fewhertz import audio, compare, run, words
from fewhertz.pocket import path
from fewhertz.studio import app, page

SPECS = (
    "pool@keep=1/2",
    "stride@8Hz",
    "global-merge@keep=1/3",
    "visionzip@keep=1/3",
    "unseg",
    "ward@keep=1/3+time+sizes",
)
CLIP = path() / "samples" / "05.flac"
SAID = "I lost my red hat. Can you see it?"
HOSTILE = "</script><script>parent.pwned=1</script><img src=x onerror=pwned=1>&amp;$data $policy \u2028'\""


def data_of(file: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json">(.*?)</script>', file.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return compare.load("pocket", SPECS, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "tokens.html"
    methods = [part for spec in SPECS for part in ("-m", spec)]
    done = fewhertz_("show", CLIP, "--html", *methods, "--reference", SAID, "--out", out, "--device", "cpu")
    assert done.exit_code == 0 and done.stdout == f"{out}\n", done.output
    return out


def test_the_page_holds_the_plans_the_counts_and_the_clip(shown: Path) -> None:
    """Each method run by itself: the page's groups are its plan, its counts and answer those of `run --json`."""
    data = data_of(shown)
    wave = audio.load(CLIP)
    sound, rate = soundfile.read(io.BytesIO(base64.b64decode(data["wav"])), dtype="float32")
    assert rate == 16_000 and np.abs(sound - wave).max() < 2**-15
    assert len(base64.b64decode(data["mel"])) % data["bands"] == 0
    assert [lane["method"] for lane in data["lanes"]] == ["none", *SPECS]
    for lane in data["lanes"]:
        method = [] if lane["method"] == "none" else ["--method", lane["method"]]
        said = json.loads(fewhertz_("run", "pocket", CLIP, *method, "--json", "--device", "cpu").stdout)
        for key in ("audio_tokens_before", "audio_tokens", "rate_hz", "text"):
            assert lane[key] == said[key], (lane["method"], key)
        costs = json.loads(fewhertz_("inspect", "pocket", CLIP, *method, "--json").stdout)
        if costs["audio_tokens"] is not None:
            assert [lane[key] for key in ("kv_bytes", "prefill_flops")] == [costs["kv_bytes"], costs["prefill_flops"]]
        model, processor = fewhertz.load("pocket", lane["method"], device="cpu")
        run.reply(model, processor, [wave], max_new_tokens=1)
        (plan,) = fewhertz.attached(model).last.plans
        assert lane["group"] == plan.group[0].tolist()
        spans = plan.spans(data["token_rate"])[0].tolist()
        members = [[i for i, owner in enumerate(lane["group"]) if owner == token] for token in range(plan.m)]
        drawn = [[some[0] / data["token_rate"], (some[-1] + 1) / data["token_rate"]] for some in members]
        np.testing.assert_allclose(drawn, spans, rtol=1e-6)


def test_the_page_needs_no_network_and_lets_no_script_in(shown: Path, tmp_path: Path) -> None:
    text = shown.read_text("utf-8")
    coded = json.dumps(data_of(shown) | {"wav": "", "mel": ""})  # base64 may hold anything
    markup = text.replace(re.search(r'"application/json">(.*?)</script>', text, re.DOTALL)[1], "")
    assert "http" not in coded
    assert not re.search(r"https?:|[\"'(]//|@import|url\(| on[a-z]+=| style=", markup, re.IGNORECASE)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy and policy[1].startswith("default-src 'none'; ") and "unsafe" not in policy[1]
    assert text.count("<script") == 2

    wave = np.zeros(16_000, np.float32)
    lane = compare.Lane(HOSTILE, 25, 25, None, HOSTILE, None, None, (("", HOSTILE), ("+", HOSTILE)), (1, 2))
    clip = page.record(HOSTILE, wave, 16_000, 25.0, [lane], model=HOSTILE, prompt=HOSTILE, reference=HOSTILE)
    hostile = tmp_path / "hostile.html"
    hostile.write_text(page.page(clip), "utf-8")
    again = hostile.read_text("utf-8")
    assert again.count("<script") == 2 and "<img" not in again
    kept = data_of(hostile)
    assert {kept["name"], kept["model"], kept["prompt"], kept["reference"], kept["lanes"][0]["text"]} == {HOSTILE}
    assert page.page(clip | {"name": "\ud83d"})  # half a character


def test_audio_that_a_page_does_not_hold() -> None:
    with pytest.raises(ValueError, match="120 s"):
        page.check_length(120.1)


def test_answers_are_compared_to_those_with_all_tokens(loaded: tuple[Any, Any]) -> None:
    wave = audio.load(CLIP)
    lanes = compare.compare(*loaded, wave, [*SPECS, "none", SPECS[0]], reference=SAID)
    assert [lane.spec for lane in lanes] == ["none", *SPECS]
    assert fewhertz.attached(loaded[0]) is None
    for lane in lanes:
        assert "".join(text for kind, text in lane.differences if kind != "-") == lane.text
        assert lane.errors == words.word_errors(SAID, lane.text) and lane.errors[1] == 9
    assert lanes[0].differences == (("", lanes[0].text),)
    question = compare.compare(*loaded, wave, SPECS[:1], "What can be heard?", max_new_tokens=3)
    assert question[0].errors is None and question[0].text != lanes[0].text


@pytest.mark.parametrize(
    ("reference", "output", "pieces"),
    [
        ("the red hat", "The red hat.", [("", "The red hat.")]),
        ("the red hat", "the hat", [("", "the "), ("-", "red"), ("", "hat")]),
        ("the hat", "the red hat", [("", "the "), ("+", "red"), ("", " hat")]),
        ("the hat", "a hat", [("-", "the"), ("+", "a"), ("", " hat")]),
        ("the hat", "the", [("", "the"), ("-", "hat")]),
        ("the hat", "", [("-", "the hat")]),
        ("", "hat", [("+", "hat")]),
        ("", "", []),
        ("我丢了帽子", "我的帽子", [("", "我"), ("-", "丢了"), ("+", "的"), ("", "帽子")]),
    ],
)
def test_differences_word_by_word(reference: str, output: str, pieces: list[tuple[str, str]]) -> None:
    assert words.differences(reference, output) == pieces


def test_compare_in_the_terminal(tmp_path: Path) -> None:
    args = ["compare", CLIP, "-m", "pool@keep=1/2", "-m", "ward@keep=1/3+time+sizes", "--device", "cpu"]
    table = fewhertz_(*args, "--reference", SAID)
    assert table.exit_code == 0
    assert "reference" in table.stdout and SAID in table.stdout and table.stdout.count(" of 9") == 3
    assert re.search(r"pool@keep=1/2 .* 30 ", table.stdout)
    missing = tmp_path / "missing.wav"
    mixed = fewhertz_("compare", missing, *args[1:], "--json")
    assert mixed.exit_code == 2 and "missing.wav" in mixed.stderr
    lines = [json.loads(line) for line in mixed.stdout.splitlines()]
    assert [line["method"] for line in lines] == ["none", "pool@keep=1/2", "ward@keep=1/3+time+sizes"]
    assert [line["audio_tokens"] for line in lines] == [59, 30, 20] and lines[0]["word_errors"] is None
    for line in lines:
        assert line["differences"] == [list(one) for one in words.differences(lines[0]["text"], line["text"])]
    kinds = {kind for line in lines for kind, _ in line["differences"]}
    assert [mark in table.stdout for mark in ("[-", "{+")] == ["-" in kinds, "+" in kinds]


def test_an_answer_does_not_steer_the_terminal() -> None:
    from fewhertz.cli.see import _marked

    assert _marked([("", "a\x1b[31mb"), ("+", "\x07c\n")]).plain == "a [31mb{+ c +}"


BAD = {
    "two methods, one picture": ["show", CLIP, "-m", "pool@keep=1/2", "-m", "stride@keep=1/2"],
    "reference of a picture": ["show", CLIP, "-m", "pool@keep=1/2", "--reference", "x"],
    "page of no kind": ["show", CLIP, "--html", "-m", "pool@keep=1/2", "--out", "x.png"],
    "page of what is not there": ["show", "nothere.wav", "--html", "-m", "pool@keep=1/2", "--model", "./nomodel"],
    "page by a method that is none": ["show", CLIP, "--html", "-m", "x"],
    "page beyond the model's rate": ["show", CLIP, "--html", "-m", "pool@500Hz"],
    "nothing to compare": ["compare", CLIP],
    "compare what is not there": ["compare", "nothere.wav", "-m", "pool@keep=1/2", "--model", "./nomodel"],
    "references of other files": ["compare", CLIP, "-m", "pool@keep=1/2", "--reference", "a", "--reference", "b"],
}


@pytest.mark.parametrize("args", BAD.values(), ids=BAD.keys())
def test_bad_usage_is_a_line_or_two_and_exit_status_2(args: list[object], tmp_path: Path) -> None:
    done = fewhertz_(*args)
    assert done.exit_code == 2 and done.stdout == "", done.output
    assert 1 <= len(done.stderr.splitlines()) <= 2 and done.stderr.startswith("fewhertz: ")


def test_the_studio_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = fewhertz_("studio")
    assert done.exit_code == 2 and "fewhertz[studio]" in done.stderr


def test_the_studio_draws_anew_and_gives_up_answers_that_nobody_waits_for() -> None:
    studio = app.Studio("pocket", device="cpu")
    assert studio.specs(["pool", "ward+time+sizes", "unseg", "stride@5Hz", "pool"], "keep", 0.33, 8, 0.3) == [
        "pool@keep=1/3",
        "ward@keep=1/3+time+sizes",
        "unseg",
        "stride@5Hz",
    ]
    assert studio.specs(["pool"], "Hz", 0.33, 8, 0.3) == ["pool@8Hz"]
    assert studio.specs(["ward+time+sizes", "optimal", "stride@5Hz", "unseg"], "tolerance", 0.33, 8, 0.45) == [
        "ward@tolerance=0.45+time+sizes",
        "optimal@tolerance=0.45",
        "stride@5Hz",
        "unseg",
    ]
    with pytest.raises(ValueError, match="pool takes no tolerance: its merges have no price; optimal, ward have one"):
        studio.specs(["ward", "pool"], "tolerance", 0.33, 8, 0.3)
    with pytest.raises(ValueError, match="no method named"):
        studio.specs(["nope@8Hz"], "Hz", 0.33, 8, 0.3)
    visit = studio.listen(str(CLIP), None, SAID)
    studio.draw(visit, ["pool@keep=1/2"])
    assert [lane.text for lane in visit.lanes] == [None, None]
    going = studio.answers(visit)
    next(going)
    whole = visit.lanes[0]
    studio.draw(visit, ["pool@keep=1/3", "stride@8Hz"])
    assert list(going) == [] and visit.lanes[0] is whole  # what is answered stays, the rest is given up
    assert len(list(studio.answers(visit))) == 2
    alone = compare.compare(studio.model, studio.processor, audio.load(CLIP), ["pool@keep=1/3"], reference=SAID)
    assert [(lane.text, lane.differences, lane.errors) for lane in visit.lanes[:2]] == [
        (lane.text, lane.differences, lane.errors) for lane in alone
    ]
    kept = Path(studio.save(visit)[0])
    assert [lane["text"] for lane in data_of(kept)["lanes"]] == [lane.text for lane in visit.lanes]
    del visit, going
    gc.collect()
    assert not kept.exists()
