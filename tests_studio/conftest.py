"""What the tests in a real browser share. They need Playwright and Chromium: make test-studio."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, Page, sync_playwright

os.environ["HF_HUB_OFFLINE"] = "1"
for folder in ("tests", "tests/cli", "tests/families"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))  # test_cli.py, test_compare.py

# what is handed to the sound card: the samples of each source that is started, and which of them have ended
LISTEN = """
window.heard = [];
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (...when) {
  const one = {samples: [...this.buffer.getChannelData(0)], rate: this.buffer.sampleRate, when, ended: false};
  this.addEventListener("ended", () => { one.ended = true; });
  window.heard.push(one);
  return start.apply(this, when);
};
"""


# no sandbox: tests may run as root; a microphone that beeps
ARGUMENTS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", type=Path, help="folder for screenshots of the pages")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium is not None, "no chromium here: apt-get install chromium"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Longer than what pocket hears at once: samples, with a long silence before the last of them."""
    from fewhertz.pocket import path

    some = [soundfile.read(path() / "samples" / f"{i:02}.flac", dtype="float32")[0] for i in (5, 12, 11, 12, 8)]
    gap, silence = np.zeros(6_400, np.float32), np.zeros(80_000, np.float32)
    file = tmp_path_factory.mktemp("recording") / "recording.flac"
    soundfile.write(file, np.concatenate([*(part for one in some for part in (one, gap)), silence, some[0]]), 16_000)
    return file


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a file without network; at the end, nothing was complained of and nothing was asked for but the files."""
    contexts, complaints = [], []

    def open_(file: Path, **how: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "offline": True} | how)
        context.add_init_script(LISTEN)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda ask: complaints.append(ask.url) if ask.url != file.as_uri() else None)
        page.goto(file.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []
