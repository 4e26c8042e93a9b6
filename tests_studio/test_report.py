"""`fewhertz report --listen` in a real browser: samples of results, their sound and tokens, methods side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page
from test_cli import fewhertz_
from test_compare import HOSTILE

from fewhertz import audio
from fewhertz.evaluation import results
from fewhertz.evaluation.results import BASELINE
from fewhertz.pocket import path

Visit = Callable[..., Page]
SAMPLES = path() / "samples"
SPECS = ["pool@keep=1/2", "ward@tolerance=0.3+time+sizes", "stride@8Hz"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    methods = [part for spec in SPECS for part in ("-m", spec)]
    done = fewhertz_(
        "eval", "pocket", "--task", SAMPLES / "samples.jsonl", "--limit", 3, *methods, "--out", out, "--device", "cpu"
    )
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def report(measured: Path) -> Path:
    out = measured / "report.html"
    done = fewhertz_(
        "report", measured, "--listen", "pocket", "--task", SAMPLES / "samples.jsonl", "--out", out, "--device", "cpu"
    )
    assert done.exit_code == 0, done.output
    return out


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_samples_are_seen_and_heard(
    measured: Path, report: Path, visit: Visit, width: int, scheme: str, request: pytest.FixtureRequest
) -> None:
    page = visit(report, viewport={"width": width, "height": 900}, color_scheme=scheme)
    folded = page.locator("details:has(.clip)")
    rows = [json.loads(line) for line in (SAMPLES / "samples.jsonl").read_text().splitlines()[:3]]
    names = [text.split(", ")[0] for text in folded.locator("summary").all_text_contents()]
    assert sorted(names) == sorted(Path(row["audio"]).name for row in rows)
    assert page.locator(".lane").count() == 0  # drawn as they are unfolded
    outputs = {
        result["method"]: [line["output"] for line in results.read_samples(file)]
        for file, result in results.gather(measured)[0]
    }
    for place, name in enumerate(names):
        one = folded.nth(place)
        one.locator("summary").click()
        one.get_by_role("heading", name=name, exact=True).wait_for()
        row = next(i for i, row in enumerate(rows) if Path(row["audio"]).name == name)
        heads = one.locator(".lane h5").all_text_contents()
        assert sorted(heads) == sorted(["none: all tokens", *SPECS])
        for head, lane in zip(heads, one.locator(".lane").all(), strict=True):
            words = lane.evaluate("""(lane) => { const copy = lane.querySelector(".answer").cloneNode(true);
                copy.querySelectorAll("del").forEach((one) => one.remove()); return copy.textContent; }""")
            said = outputs[BASELINE if head.startswith("none") else head][row].strip()
            assert words == said or (not said and words == "no answer")
            assert f"of {len(rows[row]['text'].split())}" in lane.locator(".figures").text_content()
        page.evaluate("window.heard.length = 0")
        one.get_by_role("button", name="Play", exact=True).click()
        (heard,) = page.evaluate("window.heard")
        wave = audio.load(SAMPLES / name)
        assert np.abs(np.float32(heard["samples"]) - wave).max() < 2**-15
        one.get_by_role("button", name="Stop").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
    assert found.violations_count == 0, found.generate_report()
    if folder := request.config.getoption("--pictures"):
        page.screenshot(path=folder / f"report-{width}-{scheme}.png", full_page=True)


def test_no_text_of_a_manifest_runs(visit: Visit, tmp_path: Path) -> None:
    row = json.loads((SAMPLES / "samples.jsonl").read_text().splitlines()[4])
    name = "<img src=x onerror=pwned=1>.flac"
    (tmp_path / name).write_bytes((SAMPLES / row["audio"]).read_bytes())
    manifest, out = tmp_path / "hostile.jsonl", tmp_path / "report.html"
    manifest.write_text(json.dumps({"audio": name, "id": HOSTILE, "text": f"{row['text']} {HOSTILE}"}))
    for command in (
        ["eval", "pocket", "--task", manifest, "-m", "pool@keep=1/2", "--out", tmp_path / "results"],
        ["report", tmp_path / "results", "--listen", "pocket", "--task", manifest, "--out", out],
    ):
        done = fewhertz_(*command, "--device", "cpu")
        assert done.exit_code == 0, done.output
    page = visit(out)
    page.locator("details:has(.clip) summary").click()
    page.get_by_role("heading", name=name, exact=True).wait_for()
    assert HOSTILE.split("\u2028")[0] in page.locator(".clip .about").text_content()
    said = page.evaluate("[window.pwned ?? 0, document.images.length, document.querySelectorAll('script').length]")
    assert said == [0, 0, 3]  # data of samples and of the clip, and the page's own


def test_what_was_measured_otherwise_is_not_shown(measured: Path, tmp_path: Path) -> None:
    """Other audio under the same names, another task, another folder of results."""
    lines = (SAMPLES / "samples.jsonl").read_text().splitlines()[:3]
    first = json.loads(lines[0])
    other = tmp_path / "samples.jsonl"
    for line in lines:
        row = json.loads(line)
        source = SAMPLES / "12.flac" if row == first else SAMPLES / row["audio"]
        (tmp_path / row["audio"]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / row["audio"]).write_bytes(source.read_bytes())
    other.write_text("\n".join(lines))
    done = fewhertz_(
        "report", measured, "--listen", "pocket", "--task", other, "--out", tmp_path / "a.html", "--device", "cpu"
    )
    assert done.exit_code == 1 and "row 1 is not shown: its audio is not that which was measured" in done.stderr
    assert (tmp_path / "a.html").read_text().count('class="clip"') == 2
    other.rename(tmp_path / "other.jsonl")
    done = fewhertz_("report", measured, "--listen", "pocket", "--task", tmp_path / "other.jsonl", "--device", "cpu")
    assert done.exit_code == 2 and "no result of other and pocket" in done.stderr
    done = fewhertz_("report", measured, "--listen", "pocket")
    assert done.exit_code == 2 and "--listen and --task go together" in done.stderr
