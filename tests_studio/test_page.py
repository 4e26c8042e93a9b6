"""`fewhertz show --html` in a real browser: what is drawn, what is heard, and that no text of others runs."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page
from test_cli import fewhertz_
from test_compare import CLIP, HOSTILE, SAID, SPECS, data_of

import fewhertz
from fewhertz import audio, compare, run
from fewhertz.plan import Plan
from fewhertz.pocket import path
from fewhertz.studio import page as pages
from fewhertz.windows import windows

Visit = Callable[..., Page]
LONGER = path() / "samples" / "12.flac"
SAID_LONGER = (
    "Mary called me after work. She wants to move. Her house is too small. She needs one more room. I said I can help."
)
LOOKS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


def page_of(clip: Path, said: str, out: Path, specs: tuple[str, ...] = SPECS) -> Path:
    methods = [part for spec in specs for part in ("-m", spec)]
    done = fewhertz_("show", clip, "--html", *methods, "--reference", said, "--out", out, "--device", "cpu")
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of(CLIP, SAID, tmp_path_factory.mktemp("page") / "tokens.html")


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of(LONGER, SAID_LONGER, tmp_path_factory.mktemp("page") / "longer.html")


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    """Of each method, run by itself."""
    found = {}
    for spec in ("none", *SPECS):
        model, processor = fewhertz.load("pocket", spec, device="cpu")
        run.reply(model, processor, [audio.load(CLIP)], max_new_tokens=1)
        (found[spec],) = fewhertz.attached(model).last.plans
    return found


def clips_of(file: Path) -> list[dict[str, Any]]:
    found = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', file.read_text("utf-8"), re.DOTALL)
    return [json.loads(one) for one in found]


def sound_of(file: Path) -> np.ndarray:
    return soundfile.read(io.BytesIO(base64.b64decode(data_of(file)["wav"])), dtype="float32")[0]


def until(page: Page, condition: str) -> None:
    """Wait; Playwright's own way evaluates text inside the page, which its policy forbids."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {condition}")


def members(plan: Plan, token: int, wave: np.ndarray) -> np.ndarray:
    """The samples that a token stands for: 25 Hz of 16 kHz are 640 an audio token."""
    places = (plan.group[0] == token).nonzero()[:, 0].tolist()
    return np.concatenate([wave[640 * i : 640 * (i + 1)] for i in places])


DRAWN = """
() => {
  const whole = document.querySelector(".wide").getBoundingClientRect();
  const lanes = [...document.querySelectorAll(".lane")];
  return lanes.map((lane) => [...lane.querySelectorAll("[role=option]")].map((one) => ({
    name: one.getAttribute("aria-label"),
    shade: +one.querySelector("rect").getAttribute("fill-opacity"),
    links: one.querySelectorAll("line").length,
    boxes: [...one.querySelectorAll("rect")].map((box) => {
      const {left, right} = box.getBoundingClientRect();
      return [(left - whole.left) / whole.width, (right - whole.left) / whole.width];
    }),
  })));
}
"""


def test_what_is_drawn_is_the_plan(shown: Path, plans: dict[str, Plan], visit: Visit) -> None:
    data = data_of(shown)
    page = visit(shown)
    lanes = page.evaluate(DRAWN)
    total = max(data["seconds"], data["lanes"][0]["audio_tokens_before"] / data["token_rate"])
    assert len(lanes) == len(plans) and len(plans) > 5
    linked = 0
    for lane, plan in zip(lanes, plans.values(), strict=True):
        assert len(lane) == plan.m
        ends = total * np.array([[token["boxes"][0][0], token["boxes"][-1][1]] for token in lane])
        np.testing.assert_allclose(ends, plan.spans(data["token_rate"])[0].numpy(), atol=2e-3)  # a pixel's part
        filled = sum(right - left for token in lane for left, right in token["boxes"]) * total * data["token_rate"]
        assert filled == pytest.approx(int((plan.group >= 0).sum()), abs=0.1)  # what is dropped stays empty
        sizes = plan.sizes()[0].tolist()
        for token, size in zip(lane, sizes, strict=True):
            places = len(token["boxes"])
            assert token["name"].endswith(f"stands for {size}" + (f" in {places} places" if places > 1 else ""))
            assert (token["links"] > 0) == (places > 1)
        by_size = sorted(zip(sizes, (token["shade"] for token in lane), strict=True))
        assert [shade for _, shade in by_size] == sorted(shade for _, shade in by_size)  # more is never lighter
        linked += sum(token["links"] > 0 for token in lane)
    assert linked > 5


def test_a_plan_inside_the_encoder_is_drawn_at_the_time_of_its_frames(tmp_path: Path, visit: Visit) -> None:
    spec = "ward(site=encoder.3)@keep=1/2"
    shown = page_of(CLIP, SAID, tmp_path / "inside.html", (spec,))
    model, processor = fewhertz.load("pocket", spec, device="cpu")
    run.reply(model, processor, [audio.load(CLIP)], max_new_tokens=1)
    (plan,) = fewhertz.attached(model).last.plans
    data = data_of(shown)
    lane = visit(shown).evaluate(DRAWN)[1]
    total = max(data["seconds"], data["lanes"][0]["audio_tokens_before"] / data["token_rate"])
    ends = total * np.array([[token["boxes"][0][0], token["boxes"][-1][1]] for token in lane])
    np.testing.assert_allclose(ends, plan.spans(plan.per * data["token_rate"])[0].numpy(), atol=2e-3)
    assert lane[0]["name"].endswith(f"stands for {plan.sizes()[0, 0].item() / plan.per:g}")


def test_a_click_plays_exactly_the_members(shown: Path, plans: dict[str, Plan], visit: Visit) -> None:
    wave, page = sound_of(shown), visit(shown)
    scattered = [i for i, spans in enumerate(page.evaluate(DRAWN)[3]) if len(spans["boxes"]) > 1]
    tried = [(1, 0), (2, 7), (3, scattered[0]), (3, scattered[-1]), (5, 4), (6, 19)]
    for lane, token in tried:
        page.evaluate("window.heard.length = 0")
        option = page.locator(".lane").nth(lane).locator("[role=option]").nth(token)
        option.locator("rect").last.click()
        (heard,) = page.evaluate("window.heard")
        assert heard["rate"] == 16_000 and heard["when"] == []
        np.testing.assert_array_equal(np.float32(heard["samples"]), members(list(plans.values())[lane], token, wave))
        assert option.get_attribute("aria-selected") == "true"
        assert page.locator("[aria-selected=true]").count() == 1
        until(page, "window.heard[0].ended")
        page.get_by_role("button", name="Play", exact=True).wait_for()


def test_what_was_dropped_and_the_whole_are_heard(shown: Path, plans: dict[str, Plan], visit: Visit) -> None:
    wave, page = sound_of(shown), visit(shown)
    dropped = page.get_by_role("button", name="Play what was dropped")
    assert dropped.count() == sum(bool((plan.group < 0).any()) for plan in plans.values()) == 1
    dropped.click()
    page.keyboard.press("Escape")
    page.get_by_label("position").fill("0")
    page.get_by_role("button", name="Play", exact=True).click()
    page.get_by_role("button", name="Stop").wait_for()
    until(page, "document.querySelector('input[type=range]').value > 0.3")  # the cursor runs
    lit = page.evaluate("[...document.querySelectorAll('.tokens')].map((one) => one.querySelectorAll('.at').length)")
    assert set(lit) <= {0, 1} and sum(lit) >= len(plans) - 1  # where it is, in all lanes; nothing where all is dropped
    page.get_by_role("button", name="Stop").click()
    lost, whole = page.evaluate("window.heard")
    np.testing.assert_array_equal(np.float32(lost["samples"]), members(plans["stride@8Hz"], -1, wave))
    np.testing.assert_array_equal(np.float32(whole["samples"]), wave)


def test_all_of_it_by_keyboard(shown: Path, plans: dict[str, Plan], visit: Visit) -> None:
    wave, page = sound_of(shown), visit(shown)
    chosen = "document.activeElement.getAttribute('aria-label')"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('.lane') !== null"):
            break
    assert page.evaluate(chosen).startswith("Token 1 of 59: 0.00 to 0.04 s, stands for 1")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")  # pool's second token begins at 0.08 s
    assert page.evaluate(chosen).startswith("Token 2 of 30: 0.08 to 0.16 s, stands for 2")
    assert page.evaluate("window.heard.length") == 0
    page.keyboard.press("Enter")
    (heard,) = page.evaluate("window.heard")
    np.testing.assert_array_equal(np.float32(heard["samples"]), members(plans["pool@keep=1/2"], 1, wave))
    page.keyboard.press("End")
    assert page.evaluate(chosen).startswith("Token 30 of 30")
    assert "Token 30 of 30" in page.locator(".lane output").nth(1).text_content()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(chosen).startswith("Token 1 of 30")


def test_the_words_and_the_figures(shown: Path, visit: Visit) -> None:
    page = visit(shown)
    for clip, one in zip(data_of(shown)["lanes"], page.locator(".lane").all(), strict=True):
        for tag, kind in (("del", "-"), ("ins", "+")):
            marked = [text for what, text in clip["differences"] if what == kind]
            assert one.locator(tag).all_text_contents() == marked
    for clip, one in zip(data_of(shown)["lanes"], page.locator(".lane").all(), strict=True):
        words = one.evaluate("""(lane) => { const copy = lane.querySelector(".answer").cloneNode(true);
            copy.querySelectorAll("del").forEach((one) => one.remove()); return copy.textContent; }""")
        assert words == clip["text"]
        figures = one.locator(".figures").inner_text().replace("\n", " ")
        assert f"tokens {clip['audio_tokens']}" in figures
        assert f"wrong words {clip['errors'][0]} of {clip['errors'][1]}" in figures


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_it_fits_and_axe_finds_no_fault(
    shown: Path, longer: Path, visit: Visit, width: int, scheme: str, request: pytest.FixtureRequest
) -> None:
    for name, file in (("short", shown), ("long", longer)):
        page = visit(file, viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.locator(".tokens g").nth(3).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
        assert found.violations_count == 0, found.generate_report()
        if folder := request.config.getoption("--pictures"):
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)


def test_no_text_of_others_runs(visit: Visit, tmp_path: Path) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    plan = Plan.identity(1, 25)
    texts = [HOSTILE, "<img src=x onerror=pwned=1>", "javascript:pwned=1", "{{7*7}}", "\u202e\x00\x1b[31m"]
    lanes = [
        compare.Lane(text, 25, 25, plan, text, 1, 1, (("", text), ("+", text), ("-", text)), (1, 2)) for text in texts
    ]
    clip = pages.record(HOSTILE, wave, 16_000, 25.0, lanes, model=HOSTILE, prompt=HOSTILE, reference=HOSTILE)
    file = tmp_path / "hostile.html"
    file.write_text(pages.page(clip), "utf-8")
    page = visit(file)
    page.locator(".tokens g").nth(3).click()
    said: dict[str, Any] = page.evaluate(
        """() => ({pwned: window.pwned ?? 0, scripts: document.scripts.length, images: document.images.length,
          title: document.title, heads: [...document.querySelectorAll("h1, h2")].map((one) => one.textContent)})"""
    )
    assert said["pwned"] == 0 and said["scripts"] == 2 and said["images"] == 0
    assert said["heads"][:2] == [HOSTILE, HOSTILE] and HOSTILE.split("\u2028")[0] in said["title"]


def test_what_is_planted_is_held_back(shown: Path, browser: Any) -> None:
    """The policy, should a text get in after all."""
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(shown.as_uri())
    page.evaluate(
        """() => { const script = document.createElement("script"); script.textContent = "window.pwned = 1";
          const box = document.createElement("div"); box.innerHTML = "<img src=x onerror='window.pwned = 2'>";
          document.body.append(script, box); }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.pwned ?? 0") == 0
    context.close()


def test_a_recording_is_seen_window_by_window(
    recording: Path, visit: Visit, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file, spec = tmp_path / "recording.html", "ward@tolerance=0.3+time+sizes"
    done = fewhertz_("show", recording, "--html", "-m", spec, "--reference", "a b", "--out", file, "--device", "cpu")
    assert done.exit_code == 0, done.output
    said = json.loads(fewhertz_("run", "pocket", recording, "--method", spec, "--json", "--device", "cpu").stdout)
    page = visit(file, viewport={"width": 390, "height": 900})
    boxes, cut = page.locator(".timeline li"), [*windows(recording, 4.0)]
    for box, window in zip(boxes.all(), cut, strict=True):
        named = box if window.wave is None else box.locator("button")
        label = named.get_attribute("aria-label") or ""
        assert f"{window.start:.1f} to {window.end:.1f} s" in label
    page.get_by_text("What all windows say").click()
    whole = page.locator("details dd").all_text_contents()
    if len(said["segments"]) == len(cut) and not any("loop" in one["flags"] for one in said["segments"]):
        assert whole[1] == said["text"]  # no window had to be asked again in halves
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    jumped = [i for i, window in enumerate(cut) if window.wave is not None][3]
    boxes.nth(jumped).locator("button").click()
    assert page.evaluate("document.activeElement.getAttribute('aria-current')") == "true"
    assert page.locator("[aria-current]").get_attribute("aria-label").startswith(f"Window {jumped + 1}, ")
    kept = next(one for one in clips_of(file) if one["timeline"]["shown"] == jumped)["lanes"][1]["audio_tokens"]
    assert f"tokens {kept}" in page.locator(".figures").nth(1).inner_text().replace("\n", " ")
    page.locator(".tokens").nth(1).locator("[role=option]").first.click()
    (heard,) = page.evaluate("window.heard")
    wave, near = audio.load(recording), round(cut[jumped].offset * 16_000)
    first = np.float32(heard["samples"][:500])
    assert any(np.allclose(wave[at : at + 500], first, atol=1e-4) for at in range(near - 2, near + 3))
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
    assert found.violations_count == 0, found.generate_report()
    if folder := request.config.getoption("--pictures"):
        page.screenshot(path=folder / "recording-390.png", full_page=True)
