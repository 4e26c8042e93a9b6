"""`fewhertz studio` in a real browser: a clip comes in, lanes and answers follow, and bad uploads are a sentence."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from axe_playwright_python.sync_playwright import Axe
from conftest import LISTEN
from playwright.sync_api import Browser, FrameLocator, Page
from test_cli import fewhertz_
from test_compare import CLIP, HOSTILE, SAID, data_of

import fewhertz
from fewhertz import audio, run
from fewhertz.pocket import path
from fewhertz.studio import app

OTHER = path() / "samples" / "02.flac"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = app.serve("pocket", device="cpu", port=port, wait=False)
    yield f"http://127.0.0.1:{port}"
    running.close()


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Any]:
    """Opens the studio; at the end, no script failed and no other host was asked for anything."""
    contexts, complaints = [], []

    def open_(**how: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}} | how)
        context.add_init_script(LISTEN)
        context.set_default_timeout(90_000)  # a model answers, and CI's machines are slow
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        own = (address, "data:", "blob:", "about:")
        page.on("request", lambda ask: None if ask.url.startswith(own) else complaints.append(ask.url))
        page.goto(address)
        page.get_by_text("fewhertz studio").wait_for()
        return page

    yield open_
    for context in contexts:
        context.close()
    # Gradio's player says of itself that it cannot play what is no audio
    assert [text for text in complaints if not text.startswith("Waveform load error")] == []


def drop(page: Page, file: Path) -> None:
    page.locator("input[type=file]").set_input_files(file)


def lanes(page: Page) -> FrameLocator:
    return page.frame_locator("iframe[title^=Tokens]")


def answered(page: Page, name: str, count: int = 3) -> list[str]:
    """The lanes' methods and answers, once they are all there."""
    frame = lanes(page)
    frame.get_by_role("heading", name=name, exact=True).wait_for()
    frame.locator(f".lane:nth-of-type({count}) .answer:not(.none)").wait_for()
    return frame.locator(".lane h2").all_text_contents()


def settled(page: Page) -> None:
    """Bring the frame into sight, and wait until it is as high as what it holds: a frame unseen learns no sizes."""
    frame, height = page.locator("iframe[title^=Tokens]"), None
    frame.scroll_into_view_if_needed()
    for _ in range(300):
        before, height = height, frame.bounding_box()["height"]
        if height == before and height >= lanes(page).locator("body").evaluate("(body) => body.offsetHeight"):
            return
        page.wait_for_timeout(100)
    raise AssertionError("the frame never got its height")


def said_of(file: Path) -> str:
    """With all tokens."""
    return json.loads(fewhertz_("run", "pocket", file, "--json", "--device", "cpu").stdout)["text"]


def test_a_clip_its_lanes_and_its_page_to_keep(visit: Any, browser: Browser, tmp_path: Path) -> None:
    page = visit(accept_downloads=True)
    page.get_by_label("Reference").fill(SAID)
    drop(page, CLIP)
    heads = answered(page, CLIP.name)
    assert heads == ["none: all tokens", "pool@keep=1/2", "ward@keep=1/2+time+sizes"]
    for lane, spec in zip(lanes(page).locator(".lane").all(), [None, *heads[1:]], strict=True):
        method = [] if spec is None else ["--method", spec]
        said = json.loads(fewhertz_("run", "pocket", CLIP, *method, "--json", "--device", "cpu").stdout)
        assert f"tokens{said['audio_tokens']}" in lane.locator(".figures").text_content()
        assert (
            lane.locator(".answer").evaluate(
                """(answer) => { const copy = answer.cloneNode(true);
            copy.querySelectorAll("del").forEach((one) => one.remove()); return copy.textContent; }"""
            )
            == said["text"]
        )

    # what is on a visitor's table stays there: Gradio would keep all calls and answers in the browser
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.includes('history'))") == []

    page.get_by_label("number input for keep").fill("0.33")
    page.keyboard.press("Tab")
    lanes(page).get_by_role("heading", name="pool@keep=1/3").wait_for()
    lanes(page).locator(".lane:nth-of-type(3) .answer:not(.none)").wait_for()
    page.get_by_text('fewhertz run pocket AUDIO --method "pool@keep=1/3"').wait_for()

    # by keyboard: what is above grows as it is seen, and the button would go from under a click
    page.get_by_role("button", name="Make a page to keep").press("Enter")
    page.get_by_text("Download tokens.html").wait_for()
    with page.expect_download() as download:
        page.get_by_text("Download tokens.html").press("Enter")
    download.value.save_as(tmp_path / "kept.html")
    kept = data_of(tmp_path / "kept.html")
    assert [lane["method"] for lane in kept["lanes"]] == ["none", "pool@keep=1/3", "ward@keep=1/3+time+sizes"]
    with page.expect_download() as download:
        page.get_by_text("Download tokens.json").press("Enter")
    exported = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert exported["lanes"] == kept["lanes"] and exported["seconds"] == kept["seconds"] and "wav" not in exported
    assert all(lane["text"] is not None for lane in kept["lanes"]) and kept["lanes"][0]["errors"][1] == 9

    alone = browser.new_context(offline=True)
    page = alone.new_page()
    asked, failed = [], []
    page.on("request", lambda ask: asked.append(ask.url))
    page.on("console", lambda message: failed.append(message.text))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto((tmp_path / "kept.html").as_uri())
    assert page.locator(".lane h2").all_text_contents()[1:] == [lane["method"] for lane in kept["lanes"][1:]]
    assert page.locator(".tokens").nth(1).locator("[role=option]").count() == kept["lanes"][1]["audio_tokens"]
    assert asked == [(tmp_path / "kept.html").as_uri()] and failed == []
    alone.close()


def test_a_tolerance(visit: Any) -> None:
    """Methods without a price are refused by name; once they are gone, lanes of variable length follow the slider."""
    page = visit()
    drop(page, CLIP)
    answered(page, CLIP.name)
    page.get_by_label("tolerance", exact=True).check()
    page.locator("strong", has_text="pool takes no tolerance").wait_for()
    assert lanes(page).locator(".lane").count() == 3  # as they were
    page.get_by_label("Methods, or specs of your own").click()
    page.keyboard.press("Backspace")  # the last one that was chosen
    page.keyboard.press("Backspace")
    page.get_by_label("Methods, or specs of your own").fill("ward+sizes")
    page.keyboard.press("Enter")
    lanes(page).get_by_role("heading", name="ward@tolerance=0.3+sizes").wait_for()
    few = lanes(page).locator(".lane:nth-of-type(2) rect").count()
    page.get_by_label("number input for tolerance").fill("0.1")
    page.keyboard.press("Tab")
    lanes(page).get_by_role("heading", name="ward@tolerance=0.1+sizes").wait_for()
    lanes(page).locator(".lane:nth-of-type(2) .answer:not(.none)").wait_for()
    assert lanes(page).locator(".lane:nth-of-type(2) rect").count() > few
    page.get_by_text('fewhertz run pocket AUDIO --method "ward@tolerance=0.1+sizes"').wait_for()


def test_a_rate_and_the_sound_of_a_token(visit: Any) -> None:
    page = visit()
    drop(page, CLIP)
    answered(page, CLIP.name)
    page.get_by_label("Hz", exact=True).check()
    lanes(page).get_by_role("heading", name="pool@8Hz").wait_for()
    slider = page.get_by_label("range slider for Hz")
    slider.press("ArrowLeft")
    lanes(page).get_by_role("heading", name="pool@7.5Hz").wait_for()
    assert answered(page, CLIP.name)[1:] == ["pool@7.5Hz", "ward@7.5Hz+time+sizes"]
    model, processor = fewhertz.load("pocket", "pool@7.5Hz", device="cpu")
    run.reply(model, processor, [audio.load(CLIP)], max_new_tokens=1)
    (plan,) = fewhertz.attached(model).last.plans
    settled(page)
    boxes = lanes(page).locator(".lane").nth(1).locator("[role=option]")
    assert boxes.count() == plan.m
    boxes.nth(5).locator("rect").click()
    (heard,) = lanes(page).locator("html").evaluate("() => window.heard")
    start, end = (round(16_000 * float(at)) for at in plan.spans(25.0)[0, 5])
    assert np.abs(np.float32(heard["samples"]) - audio.load(CLIP)[start:end]).max() < 2**-15


def test_a_longer_recording_is_seen_window_by_window(visit: Any, recording: Path) -> None:
    page = visit(accept_downloads=True)
    drop(page, recording)
    heads = answered(page, recording.name)
    boxes = lanes(page).locator(".timeline li")
    lanes(page).locator(".timeline").filter(has_not_text="…").wait_for()  # of all windows it is known
    assert boxes.filter(has_text="silence").count() > 0 and boxes.count() > 8
    settled(page)
    first = lanes(page).locator(".answer").first.text_content()
    box = boxes.nth(3)
    says = box.get_by_role("button").get_attribute("aria-label")
    box.click()
    page.get_by_text(f"window 4 of {boxes.count()}").wait_for()
    lanes(page).locator(".timeline li:nth-child(4) [aria-current]").wait_for()
    assert answered(page, recording.name) == heads
    assert lanes(page).locator(".answer").first.text_content() != first
    page.get_by_role("button", name="Make a page to keep").press("Enter")
    with page.expect_download() as download:
        page.get_by_text("Download tokens.html").press("Enter")
    kept = data_of(Path(download.value.path()))
    assert kept["timeline"] is None and kept["start"] > 0
    rates = lanes(page).locator(".figures").all_text_contents()
    assert all(
        f"Hz{said.split()[-2]}" in rate for said, rate in zip(says.split(": ", 1)[1].split(", "), rates, strict=True)
    )


def test_two_visitors_do_not_mix(visit: Any) -> None:
    one, two = visit(), visit()
    drop(one, CLIP)
    drop(two, OTHER)
    assert answered(one, CLIP.name) == answered(two, OTHER.name)
    first, second = (lanes(page).locator(".answer").first.text_content() for page in (one, two))
    assert (first, second) == (said_of(CLIP), said_of(OTHER)) and first != second


@pytest.mark.parametrize("kind", ["wav", "mp3", "ogg"])
def test_other_formats_are_heard(visit: Any, tmp_path: Path, kind: str) -> None:
    wave, rate = soundfile.read(CLIP)
    file = tmp_path / f"clip.{kind}"
    soundfile.write(file, wave, rate)
    page = visit()
    drop(page, file)
    answered(page, file.name)
    assert lanes(page).locator(".answer").first.text_content() == said_of(file)


def test_a_recording_is_heard(visit: Any) -> None:
    page = visit(permissions=["microphone"])
    page.get_by_label("Record audio").click()
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1500)
    page.get_by_role("button", name="Stop", exact=True).click()
    lanes(page).locator(".lane:nth-of-type(3) .answer").wait_for()
    heard = float(lanes(page).locator(".bar output").text_content().split()[2])
    assert 0.5 < heard < 10


def test_what_is_no_clip_is_a_sentence(visit: Any, tmp_path: Path) -> None:
    fake = tmp_path / "page.mp3"
    fake.write_text(f"<html>{HOSTILE}</html>")
    long, silent = tmp_path / "long.wav", tmp_path / "silent.wav"
    soundfile.write(long, np.zeros(601 * 8_000), 8_000)
    soundfile.write(silent, np.zeros(31 * 16_000), 16_000)
    for file, says in ((fake, "page.mp3"), (long, "a page holds 600 s"), (silent, "nothing is to be heard")):
        page = visit()
        drop(page, file)
        page.locator("strong", has_text=says).wait_for()
        assert page.evaluate("window.pwned ?? 0") == 0 and lanes(page).locator(".lane").count() == 0


def test_a_large_file_is_refused_while_it_comes_in(browser: Browser, address: str, tmp_path: Path) -> None:
    large = tmp_path / "large.wav"
    soundfile.write(large, np.zeros(30_000_000), 16_000)
    with browser.new_page() as page:  # not by `visit`: Gradio's own script says of itself what went wrong
        page.goto(address)
        page.get_by_text("fewhertz studio").wait_for()
        drop(page, large)
        page.get_by_text("exceed the maximum allowed size").wait_for()


def test_a_hostile_name_and_spec_stay_text(visit: Any, tmp_path: Path) -> None:
    file = tmp_path / "<img src=x onerror=parent.pwned=1>.flac"
    file.write_bytes(CLIP.read_bytes())
    page = visit()
    drop(page, file)
    answered(page, lanes(page).locator("h1").text_content())
    methods = page.get_by_label("Methods, or specs of your own")
    methods.fill("<img src=x onerror=pwned=1>")
    methods.press("Enter")
    page.locator("strong", has_text="cannot read").wait_for()
    assert page.evaluate("window.pwned ?? 0") == 0


@pytest.mark.parametrize(("width", "scheme"), [(w, s) for w in (1280, 390) for s in ("light", "dark")])
def test_it_fits(visit: Any, width: int, scheme: str, request: pytest.FixtureRequest) -> None:
    page = visit(viewport={"width": width, "height": 1000}, color_scheme=scheme)
    page.get_by_text("05.flac").click()
    answered(page, "05.flac")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
    assert found.violations_count == 0, found.generate_report()
    for see in (lambda _: None, settled):  # a frame that is out of sight is as wide
        see(page)
        box = lanes(page).locator(".lane").nth(1).locator("rect").first.bounding_box()
        assert box is not None and 4 <= box["width"] < 60
    if folder := request.config.getoption("--pictures"):
        page.wait_for_timeout(500)
        page.set_viewport_size({"width": width, "height": 2600})  # a frame is drawn as far as it is seen
        page.wait_for_timeout(500)
        page.screenshot(path=folder / f"studio-{width}-{scheme}.png")
