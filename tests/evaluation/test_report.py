"""The report page in a real browser, and the plots, from results of real runs and from written ones."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_cli import fewhertz_

from fewhertz.evaluation import curves, results
from fewhertz.evaluation.metrics import METRICS
from fewhertz.evaluation.results import BASELINE, read, read_samples, run_files, write
from fewhertz.pocket import path
from fewhertz.words import LONGEST, marks

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What eval wrote of pocket, three clips under four methods."""
    out = tmp_path_factory.mktemp("real")
    ended = fewhertz_(
        "eval", "pocket", "--task", path() / "samples" / "samples.jsonl", "--limit", 3, "--out", out,
        "-m", "pool", "-m", "ward+time+sizes", "--keep", "1/2", "-m", "random@8Hz", "--device", "cpu",
    )  # fmt: skip
    assert ended.exit_code == 0, ended.stderr
    return out


@pytest.fixture(scope="module")
def page(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    ended = fewhertz_("report", real, "--out", out)
    assert ended.exit_code == 0, ended.stderr
    assert ended.stdout == f"{out}\n"
    return out


def write_cell(
    real: Path, root: Path, spec: str, score: float, *, task: str = "t", model: str = "m", n: int = 4, **more: Any
) -> Path:
    """A result as eval writes it: a real one with other numbers, names and samples."""
    (file,) = real.glob("*/*/keep=1.json")
    keep = re.search(r"keep=(\d+)(?:/(\d+))?", spec)
    kept = int(keep[1]) / int(keep[2] or 1) if keep else 0.32
    result = json.loads(json.dumps(read(file)))
    metric = more.pop("metric", "wer")
    higher = more.pop("higher", False)
    one = result["scores"].pop("wer") | {"score": score, "interval": [score - 3, score + 3]}
    one |= {"difference": score - 10, "difference_interval": [score - 12, score - 8], "higher_is_better": higher}
    one["unit"] = METRICS[metric].unit
    lines = more.pop("lines", None) or [
        {
            "row": row,
            "id": f"clip {row}",
            "references": [f"the {row} quick brown fox jumps over it"],
            "output": f"the {row} quick brown box jumps" if row % 2 else f"the {row} quick brown fox jumps over it",
            "scores": {metric: 0.0 if spec == BASELINE else float(row)},
        }
        for row in range(n)
    ]
    result |= {"task": task, "model": model, "method": spec, "metric": metric, "scores": {metric: one}, "n": len(lines)}
    result["identity"] |= {"rows": len(lines) + len(more.get("failed", result["failed"]))}
    result["rate_hz"] = {"before": 25.0, "after": round(25 * kept, 4)}
    result["audio_tokens"] = {"before": 1200, "after": round(1200 * kept)}
    place = run_files(root, task, model, spec)
    write(place, result | more, lines)
    return place.file


def browse(file: Path, script: str, width: int = 360) -> Any:
    """Open a page, unaltered, in a frame of some width; what a script says of its `win` and `doc`."""
    assert CHROMIUM is not None
    outer = file.with_name("frame.html")
    outer.write_text(
        f'<!doctype html><iframe id=f width={width} height=900 srcdoc="{html.escape(file.read_text("utf-8"))}">'
        "</iframe><script>f.onload = async () => { const win = f.contentWindow, doc = f.contentDocument;"
        f"let said; try {{ said = await (async () => {{ {script} }})(); }} catch (error) {{ said = `${{error}}`; }}"
        'const out = document.createElement("pre"); out.id = "said"; out.textContent = JSON.stringify(said);'
        "f.remove(); document.body.append(out); };</script>",
        "utf-8",
    )
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={file.parent}/profile"]
    command += ["--window-size=1400,1000", "--virtual-time-budget=4000", "--dump-dom", outer.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


ITEMS = """const items = [...doc.querySelectorAll(".samples > li")].map((item) => ({
  amount: item.querySelector("strong").textContent,
  texts: [...item.querySelectorAll("dd")].map((dd) => dd.textContent),
  marks: [...item.querySelectorAll("dd")].map((dd) => [...dd.querySelectorAll("mark")].map((m) => m.textContent)),
}));"""


@needs_browser
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_a_phone_and_a_desktop(page: Path, width: int) -> None:
    said = browse(
        page,
        """const style = (one) => win.getComputedStyle(one), figure = doc.querySelector("figure");
        return {
          width: win.innerWidth, scrolls: doc.documentElement.scrollWidth,
          charts: [...figure.querySelectorAll("svg")].filter((one) => style(one).display !== "none").length,
          letters: [...figure.querySelectorAll("text"), ...doc.querySelectorAll("td, th, p, label")]
            .map((one) => one.getBoundingClientRect().height).filter((height) => height > 0)
            .reduce((a, b) => Math.min(a, b)),
        };""",
        width,
    )
    assert said["width"] == width and said["scrolls"] <= width
    assert said["charts"] == 1  # of the two that are drawn
    assert said["letters"] >= 11


def test_the_table_says_what_the_files_say(page: Path, real: Path) -> None:
    """And the curves: all of it is there without any script."""
    text = page.read_text("utf-8").split("<script")[0]
    found, _ = results.gather(real)
    base = next(result for _, result in found if result["method"] == BASELINE)
    for _, result in found:
        score = result["scores"]["wer"]
        low, high = score["interval"]
        spec = re.sub("(?=[@+])", "<wbr>", result["method"])
        (row,) = re.findall(rf'<tr[^>]*><th scope="row">{re.escape(spec)}</th>(.*?)</tr>', text)
        assert f"{score['score']:.1f} <small>[{low:.1f}, {high:.1f}]</small>" in row
        assert f"<td>{100 * result['audio_tokens']['after'] / result['audio_tokens']['before']:.0f} %</td>" in row
        assert f"<td>{100 * result['seconds']['prefill'] / base['seconds']['prefill']:.0f} %</td>" in row
        title = f"<title>{result['method']}: {curves.hertz(result['rate_hz']['after'])} Hz, word error rate (%) "
        assert text.count(f"{title}{score['score']:.1f} [{low:.1f}, {high:.1f}]") == 2  # phone and desktop
        if result is not base:
            assert f"{score['difference']:+.1f}".replace("-", "−") in row
    assert "lower is better" in text and "audio tokens per second (Hz)" in text
    assert "Not comparable" not in text  # of methods whose revisions differ, all that was measured on is the same
    assert {"25", "12.5"} <= set(re.findall(r'text-anchor="middle">([\d.]+)</text>', text))


@needs_browser
def test_samples_come_worst_first_with_their_differences_marked(page: Path, real: Path) -> None:
    said = browse(
        page,
        """const select = doc.querySelector("select");
        select.selectedIndex = [...select.options].findIndex((one) => one.textContent === "pool@keep=1/2");
        select.dispatchEvent(new win.Event("change"));"""
        + ITEMS
        + """return {items, summary: doc.querySelector(".browser p").textContent};""",
    )
    files = {result["method"]: file for file, result in results.gather(real)[0]}
    before = {line["row"]: line for line in read_samples(files[BASELINE])}
    lines = {line["row"]: line for line in read_samples(files["pool@keep=1/2"])}
    losses = {row: line["scores"]["wer"] - before[row]["scores"]["wer"] for row, line in lines.items()}
    worse = sorted((row for row in losses if losses[row] > 0), key=lambda row: (-losses[row], row))
    assert len(worse) >= 2 and said["summary"].startswith(f"{len(worse)} of 3 samples got worse")
    assert [item["texts"][::2] for item in said["items"]] == [
        [lines[row]["references"][0], lines[row]["output"]] for row in worse
    ]
    for row, item in zip(worse, said["items"], strict=True):
        assert item["amount"].startswith(f"word error rate +{losses[row]:.1f} (")
        assert item["texts"][1] == before[row]["output"]
        reference, output = lines[row]["references"][0].split(), lines[row]["output"].split()
        missed, _, wrong = (" ".join(marks).split() for marks in item["marks"])
        assert missed or wrong
        # what is left unmarked is the same in both
        assert Counter(reference) - Counter(missed) == Counter(output) - Counter(wrong)


@pytest.fixture
def visits() -> Iterator[tuple[str, list[str]]]:
    """A server of this machine, and what was asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing: it is a test."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


@needs_browser
def test_no_text_of_a_result_runs_and_no_request_leaves(
    real: Path, tmp_path: Path, visits: tuple[str, list[str]]
) -> None:
    server, asked = visits
    bad = [
        "</script><script>parent.pwned = 1</script>",
        f'<img src={server}/img onerror="parent.pwned = 1">',
        "\"'><svg onload='parent.pwned = 1'>",
        "<!--<script>",
        "$body $policy \\u003c \u2028 \U0001f600 &lt;b&gt;",
    ]
    half = "half of \ud83d a sign"  # of which only samples are made
    names = [f"{i}{text}" for i, text in enumerate(bad)]
    for name in names:
        lines = [
            {"row": i, "id": text, "references": [text], "output": f"{text} {i}", "scores": {"wer": 0.0}}
            for i, text in enumerate([*bad, half])
        ]
        write_cell(real, tmp_path / "r", BASELINE, 10, task=name, model=name, lines=lines, failed=bad)
        lines = [line | {"scores": {"wer": 50.0}} for line in lines]
        write_cell(real, tmp_path / "r", f"{name}@keep=1/2", 20, task=name, model=name, lines=lines)
    page = tmp_path / "report.html"
    assert fewhertz_("report", tmp_path / "r", "--out", page).exit_code == 0
    said = browse(
        page,
        ITEMS
        + f"""const image = doc.createElement("img"); image.src = "{server}/planted";
        const script = doc.createElement("script"); script.textContent = "parent.pwned = 1";
        const link = doc.createElement("link"); link.rel = "stylesheet"; link.href = "{server}/style";
        doc.body.append(image, script, link);
        await win.fetch("{server}/fetched").catch(() => 0);
        await fetch("{server}/from-outside").catch(() => 0);
        return {{
          pwned: window.pwned ?? 0, texts: items.map((item) => item.texts), scripts: doc.scripts.length,
          heads: [...doc.querySelectorAll("h2")].map((one) => one.textContent),
        }};""",
    )
    assert said["pwned"] == 0
    assert said["heads"] == [f"{name} · {name}" for name in names]
    assert said["scripts"] == len(names) + 2  # data, the page's own, and the planted one that did not run
    texts = [*bad, half.replace("\ud83d", "?")]
    assert said["texts"] == [[text, f"{text} {i}", f"{text} {i}"] for i, text in enumerate(texts)] * len(names)
    assert asked == ["/from-outside"]  # the server hears what is not held back
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page.read_text("utf-8"))
    assert policy and policy[1].startswith("default-src 'none'; ") and "unsafe" not in policy[1]


@needs_browser
def test_many_lines_stay_legible(real: Path, tmp_path: Path) -> None:
    """At first the Pareto methods, pool, random and the next best are shown; a tick shows or hides a line."""
    root, page = tmp_path / "r", tmp_path / "report.html"
    write_cell(real, root, BASELINE, 10)
    names = [*(f"segment(power={i})" for i in range(22)), "pool", "random", "ward"]
    for i, name in enumerate(names):
        for part in (2, 4):
            write_cell(real, root, f"{name}@keep=1/{part}", 11 if name == "ward" else 20 + i + part)
    assert fewhertz_("report", root, "--out", page).exit_code == 0
    said = browse(
        page,
        """const labels = [...doc.querySelectorAll("label:has(input)")].filter((one) => !one.control.matches(".bands"));
        const ticked = () => labels.filter((one) => one.control.checked).map((one) => one.textContent);
        const lines = [...doc.querySelectorAll(".narrow > g")];
        const drawn = () => lines.filter((one) => win.getComputedStyle(one).display !== "none")
          .map((one) => one.querySelector("title").textContent.split("@")[0].split(":")[0]);
        const first = [ticked(), drawn()];
        labels[0].click();
        const second = [ticked(), drawn()];
        const looks = lines.map((one) => one.getAttribute("class").replace(/^l\\d+ /, "")
          + one.querySelector("use").getAttribute("href"));
        const bands = () => [...doc.querySelectorAll(".band")]
          .some((one) => win.getComputedStyle(one).display !== "none");
        const shaded = [bands()];
        doc.querySelector(".bands").click();
        shaded.push(bands());
        return {first, second, looks, shaded, scrolls: doc.documentElement.scrollWidth};""",
    )
    shown = ["pool", "random", *(f"segment(power={i})" for i in range(5)), "ward"]
    assert said["first"] == [shown, [*shown, BASELINE]]
    assert said["second"] == [shown[1:], [*shown[1:], BASELINE]]
    assert len(set(said["looks"])) == len(said["looks"]) == len(names) + 1  # no two lines look alike
    assert said["shaded"] == [True, False]
    assert said["scrolls"] <= 360
    rows = re.findall(r'<tr( class="?pareto"?)?><th scope="row">(.*?)</th>', page.read_text("utf-8"))
    assert {name.replace("<wbr>", "") for mark, name in rows if mark} == {BASELINE, "ward@keep=1/4"}


def test_higher_is_better_and_nothing_is_invented(real: Path, tmp_path: Path) -> None:
    root, page = tmp_path / "r", tmp_path / "report.html"
    good = [
        {"row": i, "id": str(i), "references": ["ja", "a b"], "output": "a b", "scores": {"bleu": 90.0}}
        for i in range(3)
    ]
    some = [line | {"output": "a", "scores": {"bleu": 90.0 - 10 * i}} for i, line in enumerate(good)]
    base = write_cell(real, root, BASELINE, 90, metric="bleu", higher=True, lines=good)
    own = read(base)
    other = own["hardware"] | {"threads": 7}
    write_cell(real, root, "pool@keep=1/2", 80, metric="bleu", higher=True, lines=some, hardware=other)
    write_cell(real, root, "pool@keep=1/4", 85, metric="bleu", higher=True, lines=some, failed=["row 7: <gone>"])
    write_cell(real, root, "stride@keep=1/4", 70, metric="bleu", higher=True, lines=some, batch_size=8)
    fewer = {"identity": {"rows": 2}, "failed": []}
    write_cell(real, root, "x@keep=1/4", 60, metric="bleu", higher=True, lines=some[1:], **fewer)
    assert fewhertz_("report", root, "--out", page).exit_code == 0
    text = page.read_text("utf-8")
    rows = {
        name.replace("<wbr>", ""): re.findall(r"<td>(.*?)</td>", row)
        for name, row in re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', text)
    }
    assert [rows[name][4] for name in rows] == ["100 %", "–", "100 %", "–", "–"]  # prefill
    assert list(rows) == [BASELINE, "pool@keep=1/2", "pool@keep=1/4", "stride@keep=1/4", "x@keep=1/4"]
    assert rows["pool@keep=1/4"][-1] == "1" and "row 7: &lt;gone&gt; (in 1 of 5 results)" in text
    assert "higher is better" in text and "Not comparable: x@keep=1/4 has another rows (3, now 2)" in text
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    worst = data["runs"][0]["worst"]
    assert [line[0] for line in worst] == ["2", "1"]
    assert worst[0][1] == "BLEU −20.0 (90.0 → 70.0)"
    assert worst[0][2] == 1 and worst[0][3] == [2, 1, 0]  # nearest to "a b", whose b is missing
    assert set(re.findall(r'<tr class="?pareto"?><th scope="row">(.*?)</th>', text)) == {BASELINE, "pool<wbr>@keep=1/4"}


def test_damaged_files_are_listed_and_the_rest_goes_on(real: Path, tmp_path: Path) -> None:
    root, page = tmp_path / "r", tmp_path / "report.html"
    for spec in (BASELINE, "pool@keep=1/2", "pool@keep=1/3", "pool@keep=1/4", "pool@keep=1/6"):
        write_cell(real, root, spec, 10)
    lonely = write_cell(real, root, "pool@keep=1/2", 10, task="lonely")
    half = run_files(root, "t", "m", "pool@keep=1/2").file
    half.write_bytes(half.read_bytes()[:100])
    wrong = run_files(root, "t", "m", "pool@keep=1/3").file
    wrong.write_text(json.dumps(read(wrong) | {"rate_hz": {"after": "9"}}))
    run_files(root, "t", "m", "pool@keep=1/4").samples.unlink()
    ended = fewhertz_("report", root, "--out", page)
    assert ended.exit_code == 1 and ended.stdout == f"{page}\n"
    text = page.read_text("utf-8")
    for words in (
        "pool@keep=1%2F2.json is damaged",
        "pool@keep=1%2F3.json is damaged",
        "pool@keep=1%2F4.samples.jsonl.gz is missing",
        f"{lonely.parent} has no result of the baseline keep=1",
    ):
        assert words in ended.stderr and words in text
    assert len(ended.stderr.splitlines()) == 4
    assert text.count("<option>") == 1 and "<option>pool@keep=1/6" in text  # that still has its samples
    assert '<th scope="row">pool<wbr>@keep=1/4</th>' in text
    drawn = fewhertz_("plot", root, "--out", tmp_path / "x.png")
    assert drawn.exit_code == 1 and "1%2F2.json is damaged" in drawn.stderr and (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["report", "EMPTY", "--out", "x.html"], "has no results (task/model/method.json): run fewhertz eval"),
        (["plot", "EMPTY", "--out", "x.png"], "has no results"),
        (["report", "nowhere"], "there is no folder nowhere"),
        (["report", "BROKEN", "--out", "x.html"], "no result can be read: "),
        (["report", "REAL", "--out", "x.pdf"], "--out is a .html file"),
        (["report", "REAL", "--out", "no/where.html"], "there is no folder no"),
        (["plot", "REAL", "--out", "x.gif"], "--out is a .png, .svg or .pdf file"),
        (["plot", "REAL", "--task", "nope"], "no task 'nope' in these results; there are: samples"),
        (["plot", "REAL", "--model", "nope"], "no model 'nope' in these results; there are: pocket"),
        (["plot", "REAL", "--metric", "nope"], "no metric 'nope' in these results; there are: wer"),
        (["plot", "REAL", "--method", "nope"], "there are: pool, random, ward+time+sizes"),
    ],
)
def test_bad_usage(real: Path, tmp_path: Path, args: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "broken" / "t" / "m" / "x.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": tmp_path / "empty", "REAL": real, "BROKEN": tmp_path / "broken"}
    ended = fewhertz_(*(places.get(arg, arg) for arg in args))
    assert ended.exit_code == 2 and words in ended.stderr and len(ended.stderr.splitlines()) <= 2
    assert not [file for file in tmp_path.iterdir() if file.is_file()]


def test_plots_for_papers(real: Path, tmp_path: Path) -> None:
    root = tmp_path / "r"
    shutil.copytree(real, root)
    write_cell(real, root, BASELINE, 10, task="a_task", model="$x^$")
    for i in range(10):
        write_cell(real, root, f"segment(power={i})@keep=1/3", 20 + i, task="a_task", model="$x^$")
    heads = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    for kind, head in heads.items():
        out = tmp_path / f"a{kind}"
        ended = fewhertz_("plot", root, "--out", out)
        assert ended.exit_code == 0, ended.stderr
        assert ended.stdout == f"{out}\n" and "not drawn: segment(power=8), segment(power=9); choose" in ended.stderr
        assert out.read_bytes().startswith(head)
    again = tmp_path / "again.svg"
    assert fewhertz_("plot", root, "--out", again).exit_code == 0
    assert again.read_bytes() == (tmp_path / "a.svg").read_bytes()

    def texts(file: Path) -> list[str]:
        return ["".join(one.itertext()).strip() for one in ET.parse(file).iter("{http://www.w3.org/2000/svg}text")]

    said = texts(tmp_path / "a.svg")
    assert {"a_task", "$x^$", "samples", "pocket", "25", "12.5", "8.3", "lower is better", "keep=1"} <= set(said)
    assert {"pool", "random", "ward+time+sizes", "segment(power=0)"} <= set(said) and "segment(power=9)" not in said
    one = tmp_path / "one.svg"
    assert fewhertz_("plot", root, "--task", "samples", "-m", "pool", "--metric", "wer", "--out", one).exit_code == 0
    assert "pool" in texts(one) and not {"random", "a_task"} & set(texts(one))


@pytest.mark.parametrize(
    ("reference", "output", "missed", "wrong"),
    [
        ("the cat sat", "the cat sat", [], []),
        ("The cat, sat.", "the cat sat", [], []),
        ("the cat sat down", "the hat sat", ["cat", "down"], ["hat"]),
        ("one two three four", "one five six four", ["two three"], ["five six"]),
        ("a b", "", ["a b"], []),
        ("今天天气好", "今天天很好", ["气"], ["很"]),
        ("😀 yes no", "😀 yes yes", ["no"], ["yes"]),
    ],
)
def test_words_that_differ(reference: str, output: str, missed: list[str], wrong: list[str]) -> None:
    def marked(text: str, lengths: list[int]) -> list[str]:
        assert sum(lengths) == len(text) and all(length >= 0 for length in lengths)
        ends = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
        return [text[ends[i] : ends[i + 1]] for i in range(1, len(lengths), 2)]

    one, two, _ = marks(reference, output)
    assert (marked(reference, one), marked(output, two)) == (missed, wrong)


def test_a_big_grid_makes_a_moderate_page(real: Path, tmp_path: Path) -> None:
    """What the runs share is held once, and of long texts the beginning."""
    root, page = tmp_path / "r", tmp_path / "report.html"
    write_cell(real, root, BASELINE, 10, n=100)
    for i in range(25):
        for part in (2, 3, 4, 6):
            write_cell(real, root, f"segment(power={i})@keep=1/{part}", 20 + i + part, n=100)
    assert fewhertz_("report", root, "--out", page).exit_code == 0
    size = page.stat().st_size
    assert size < 600_000, size
    lines = [
        {"row": 0, "id": "0", "references": ["a " * 50_000], "output": "b " * 50_000, "scores": {"wer": wer}}
        for wer in (1.0, 100.0)
    ]
    write_cell(real, tmp_path / "long", BASELINE, 10, lines=lines[:1])
    write_cell(real, tmp_path / "long", "pool@keep=1/2", 10, lines=lines[1:])
    assert fewhertz_("report", tmp_path / "long", "--out", page).exit_code == 0
    assert f"… ({100_000 - LONGEST} characters more)" in page.read_text("utf-8")
    assert page.stat().st_size < 60_000
