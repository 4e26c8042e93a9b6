"""The studio in a real browser: how long from a clip to its first lane, and from a move of the slider to its lanes.

    .venv-studio/bin/python -m bench.studio --out results/bench/studio.json      # two minutes on 2 idle cores
    .venv-studio/bin/python -m bench.studio --out out/quick.json --quick         # shows that it runs, no figures

Bundled clips one after the other, 30 s in all. Times are those of the browser's own clock, from the event to the frame
that is painted with the new lanes: the way to the server and back, the plans, and the drawing. The server and the
browser share the machine. Moves are made at rest, all answers being there, and while answers are under way.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import typer

from bench.options import DEVICE, OUT, QUICK_RUN, THREADS
from bench.record import environment, progress, save
from fewhertz.pocket import path

SECONDS, RATE = 30, 16_000
TARGET_MS = 150.0
KEEPS = [0.88, 0.21, 0.75, 0.29, 0.62, 0.17, 0.71, 0.42, 0.92, 0.33, 0.58, 0.25, 0.79, 0.46, 0.67, 0.13]
METHODS = ["pool", "ward+time+sizes", "stride"]

# of the page: when the slider moved. Of the frame: when lanes were painted, and what the second one is
WATCH = """
const now = () => performance.timeOrigin + performance.now();
window.moved = 0;
window.painted = [];
window.addEventListener("input", () => { window.moved = now(); }, true);
window.addEventListener("change", (event) => { if (event.target.type === "file") window.moved = now(); }, true);
new MutationObserver(() => {
  const heads = [...document.querySelectorAll(".lane h2")].map((one) => one.textContent).join(" | ");
  if (!heads || heads === window.heads) return;
  window.heads = heads;
  const began = now();
  requestAnimationFrame(() => setTimeout(() => window.painted.push([began, now(), heads])));
}).observe(document, {childList: true, subtree: true});
"""
MOVE = "(one, value) => { one.value = value; one.dispatchEvent(new Event('input', {bubbles: true})); }"


def clip(folder: Path, seconds: float) -> Path:
    """Bundled clips one after the other, so many seconds of them."""
    files = sorted((path() / "samples").glob("*.flac")) * 3
    waves = [soundfile.read(file, dtype="float32")[0] for file in files]
    out = folder / "clip.wav"
    soundfile.write(out, np.concatenate(waves)[: round(seconds * RATE)], RATE)
    return out


def painted(frame: Any, heads: str, until: float = 300.0) -> tuple[str, float, float]:
    """Wait for other lanes than some: what they are, when they were there, and when they were seen."""
    end = time.monotonic() + until
    while time.monotonic() < end:
        for began, seen, text in frame.locator("html").evaluate("() => window.painted"):
            if text != heads:
                frame.locator("html").evaluate("() => { window.painted = []; }")
                return text, began, seen
        time.sleep(0.02)
    raise RuntimeError("no new lanes came")


def measure(address: str, file: Path, moves: list[float]) -> dict[str, Any]:
    """One visitor."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 3000})  # all of it in sight
        page.set_default_timeout(300_000)
        page.add_init_script(WATCH)
        page.goto(address)
        page.get_by_text("fewhertz studio").wait_for()
        page.get_by_label("Methods, or specs of your own").click()
        page.keyboard.press("Backspace")
        for method in METHODS[1:]:
            page.get_by_label("Methods, or specs of your own").fill(method)
            page.keyboard.press("Enter")
        page.keyboard.press("Escape")
        page.locator("input[type=file]").set_input_files(file)
        dropped = page.evaluate("window.moved")
        frame = page.frame_locator("iframe[title^=Tokens]")
        frame.locator(".lane").first.wait_for()
        heads, _, seen = painted(frame, "")
        first = seen - dropped
        answered = frame.locator(f".lane:nth-of-type({len(METHODS) + 1}) .answer:not(.none)")
        answered.wait_for()
        heads = " | ".join(frame.locator(".lane h2").all_text_contents())
        frame.locator("html").evaluate("() => { window.painted = []; }")
        slider = page.get_by_label("range slider for keep")
        times: dict[str, list[dict[str, float]]] = {"at_rest": [], "while_answering": []}
        for name, rows in times.items():
            for value in moves[:: 1 if name == "at_rest" else -1]:
                value = value if name == "at_rest" else value + 0.02
                slider.evaluate(MOVE, str(value))
                moved = page.evaluate("window.moved")
                heads, began, seen = painted(frame, heads)
                rows.append({"keep": value, "server_ms": began - moved, "redraw_ms": seen - moved})
                progress(f"{name}, keep {value}: {seen - moved:.0f} ms, of which {began - moved:.0f} until lanes came")
                if name == "at_rest":
                    answered.wait_for()
                else:
                    time.sleep(0.1)
        answered.wait_for()  # a model that still answers when Python ends would abort it
        browser.close()
    return {"first_lane_ms": first, "moves": times}


def main(out: OUT, quick: QUICK_RUN = False, device: DEVICE = "cpu", threads: THREADS = 2) -> None:
    """Measure, print and write."""
    torch.set_num_threads(threads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    where = environment(device)
    from fewhertz.studio import app

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seconds = 4 if quick else SECONDS
    running = app.serve("pocket", device=device, port=port, wait=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = clip(Path(folder), seconds)
            found = measure(f"http://127.0.0.1:{port}", file, KEEPS[:2] if quick else KEEPS)
    finally:
        running.close()
    rows = {}
    for name, moves in found["moves"].items():
        times = sorted(move["redraw_ms"] for move in moves)
        rows[name] = {
            "moves": len(times),
            "median_ms": round(statistics.median(times), 1),
            "until_lanes_come_median_ms": round(statistics.median(move["server_ms"] for move in moves), 1),
            "worst_ms": round(times[-1], 1),
            "target_ms": TARGET_MS,
            "met": statistics.median(times) <= TARGET_MS,
            "all_ms": [round(move["redraw_ms"], 1) for move in moves],
        }
    import gradio

    result = {
        "what": "the studio in Chromium: from a clip to its first lane, and from a move of the slider to painted lanes",
        "quick": quick,
        "configuration": {"model": "pocket", "clip_seconds": seconds, "methods": METHODS, "gradio": gradio.__version__},
        "environment": where,
        "first_lane_ms": round(found["first_lane_ms"], 1),
        "slider_to_lanes": rows,
    }
    save(result, out)
    print(json.dumps({name: row["median_ms"] for name, row in rows.items()}), out)


if __name__ == "__main__":
    typer.run(main)
