"""`fewhertz studio`: drop, record or pick a clip, and see, hear and read what methods make of it."""

from __future__ import annotations

import html
import json
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from fewhertz.compare import Heard, Lane, load, with_all_tokens
from fewhertz.cost import kv_bytes
from fewhertz.errors import need, one_line
from fewhertz.families import family_of
from fewhertz.files import Record
from fewhertz.method import METHODS, NONE, RECOMMENDED, parse
from fewhertz.page import packed
from fewhertz.run import PROMPTS, Wave, sample_rate
from fewhertz.studio import page
from fewhertz.studio.recording import MAX_SECONDS, at_once, cut, timeline
from fewhertz.windows import Window

MAX_BYTES = 50 * 2**20  # of an upload
KEPT_SECONDS = 1800  # after which what was uploaded, and a visitor's clip, is deleted
MAX_LANES = 12
MAX_NEW_TOKENS = 256
PAUSE = 0.2  # seconds before answers: the browser draws on the same cores, and the slider may move on
CARD_BYTES = 24 * 10**9  # of a common GPU, for what fits
ASK = "ask"
UNITS = ("keep", "Hz", "tolerance")
POCKET = (
    "pocket is a test model: it was trained on synthetic English and German speech, strings of common words, ten "
    "sounds and questions about them. People's sentences it mostly gets wrong, with all tokens too."
)

# the page of `fewhertz show --html` in a frame of its own, which shares nothing with this one
FRAME = '<iframe sandbox="allow-scripts" allow="autoplay" title="Tokens, sound and answers"></iframe>'
# without a clip it is out of sight and yet as wide as later: the page fits its zoom to the width when it starts, and a
# browser tells a frame that is not seen of no later one
FRAME_CSS = """
iframe { width: 100%; height: 8rem; border: 0; color-scheme: light dark; }
iframe.empty { visibility: hidden; max-height: 0; }
"""
# of Gradio's player: too faint otherwise
CSS = "#time, #duration, .playback, .playback span { color: var(--body-text-color) !important; }"
FRAME_JS = """
let shown = null, loaded = false;
const frame = element.querySelector("iframe");
const send = () => {
  if (loaded && props.value) frame.contentWindow.postMessage(JSON.parse(props.value), "*");
};
const update = () => {
  frame.classList.toggle("empty", !props.value);
  if (props.page && props.page !== shown) {
    shown = props.page;
    loaded = false;
    frame.onload = () => { loaded = true; send(); };
    frame.srcdoc = shown;
  } else send();
};
window.addEventListener("message", (event) => {
  if (event.source !== frame.contentWindow) return;
  if (event.data?.height > 0) frame.style.height = `${Math.ceil(event.data.height) + 8}px`;
  if (Number.isInteger(event.data?.window)) trigger("pick", {window: event.data.window});
});
watch(["value", "page"], update);
update();
"""


@dataclass
class Part:
    """A window of what a visitor brought."""

    window: Window
    heard: Heard | None  # None: a silence
    lanes: list[Lane] = field(default_factory=list)


@dataclass
class Visit:
    """What one visitor has on the table."""

    parts: list[Part]
    name: str
    rate: int  # samples per second, in Hz
    prompt: str | None
    reference: str | None
    page: str = ""
    at: int = 0  # the part that is seen
    specs: list[str] = field(default_factory=lambda: [NONE])
    turn: int = 0  # raised by each redraw: answers to an earlier one are given up

    @property
    def shown(self) -> Part:
        """The part that is seen."""
        return self.parts[self.at]

    @property
    def lanes(self) -> list[Lane]:
        """Those that are seen."""
        return self.shown.lanes

    @property
    def wave(self) -> Wave:
        """The sound that is seen."""
        assert self.shown.window.wave is not None
        return self.shown.window.wave

    @property
    def seconds(self) -> float:
        """Of the sound that is seen."""
        return len(self.wave) / self.rate

    @property
    def timeline(self) -> Record | None:
        """Of all parts, as far as the lanes of now are known."""
        known = [part.lanes if [lane.spec for lane in part.lanes] == self.specs else [] for part in self.parts]
        return timeline([part.window for part in self.parts], known, self.rate, self.at, self.reference)

    def value(self) -> str:
        """The lanes, for the frame; as text, which Gradio copies at once, and a list of numbers one by one."""
        lanes = [page.lane_record(lane, self.seconds) for lane in self.lanes]
        return packed({"lanes": lanes, "timeline": self.timeline})


class _Outdated(Exception):
    """A redraw came before the answer."""


@contextmanager
def _unless(model: Any, outdated: Callable[[], bool]) -> Iterator[None]:
    """Break off what the LLM does, in the middle of a token, once it is outdated: with `_Outdated`."""

    def check(*_: Any) -> None:
        if outdated():
            raise _Outdated

    check()
    decoder = model.get_decoder()
    hooks = [one.register_forward_pre_hook(check) for one in (decoder, *getattr(decoder, "layers", ()))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Studio:
    """A model, and what is done with it for visitors, one at a time."""

    def __init__(self, model: str, *, device: str | None = None) -> None:
        self.name = model
        self.model, self.processor = load(model, [], device=device)
        self.family = family_of(self.model)
        self.rate = sample_rate(self.processor)
        self.token_rate = float(self.family.rate(self.model.config))
        self.at_once = at_once(self.family)
        self._lock = threading.Lock()  # the model is one, and methods are attached to it

    def banner(self) -> str:
        """What the model can do, in Markdown."""
        about = POCKET if self.name == "pocket" else f"{html.escape(self.name)} ({self.family.name})."
        hears = f"It hears up to {self.at_once:g} s at once, at {self.token_rate:g} audio tokens a second"
        return f"{about} {hears}; what is longer, up to {MAX_SECONDS:g} s, in windows."

    def specs(self, methods: list[str], unit: str, keep: float, hertz: float, tolerance: float) -> list[str]:
        """The lanes' specs: methods that have a budget keep it, the others get that of the slider.

        Raises:
            ValueError: where one is none or has no price for a tolerance, or there are too many.
        """
        if len(methods) > MAX_LANES:
            raise ValueError(f"there is room for {MAX_LANES} methods, {len(methods)} are chosen")
        budget = {
            "keep": f"keep={Fraction(keep).limit_denominator(24)}",  # 0.33 is meant as 1/3
            "Hz": f"{hertz:g}Hz",
            "tolerance": f"tolerance={tolerance:g}",
        }[unit]
        found = []
        for text in methods:
            name, plus, corrections = text.partition("+")
            bare = METHODS.get(name.strip())
            if bare is not None and bare.fixed_budget:
                text = f"{name.strip()}@{budget}{plus}{corrections}"
            found.append(parse(text).spec)
        return with_all_tokens(found)[1:]

    def listen(self, file: str, prompt: str | None, reference: str | None) -> Visit:
        """Read a clip; it is encoded when its first lane is drawn.

        Raises:
            ValueError: where it is too long, or cannot be read.
        """
        if Path(file).stat().st_size > MAX_BYTES:
            raise ValueError(f"{Path(file).name} is larger than the {MAX_BYTES >> 20} MiB that are taken")
        found = cut(self.model, self.processor, file, prompt)
        parts = [
            Part(one, None if one.wave is None else Heard(self.model, self.processor, one.wave, prompt))
            for one in found
        ]
        first = next((i for i, part in enumerate(parts) if part.heard is not None), None)
        if first is None:
            raise ValueError(f"{Path(file).name}: nothing is to be heard in it")
        visit = Visit(parts, Path(file).name, self.rate, prompt, reference, at=first)
        self.draw(visit, [])
        visit.page = self.page(visit)
        return visit

    def pick(self, visit: Visit, number: int) -> None:
        """Show another window.

        Raises:
            ValueError: where there is none of this number.
        """
        if not 0 <= number < len(visit.parts) or visit.parts[number].heard is None:
            raise ValueError("there is no such window")
        visit.at = number
        self.draw(visit, visit.specs)
        visit.page = self.page(visit)

    def page(self, visit: Visit) -> str:
        """The page of a visit as it is now."""
        return page.page(self._record(visit))

    def _record(self, visit: Visit) -> Record:
        return page.record(
            visit.name,
            visit.wave,
            self.rate,
            self.token_rate,
            visit.lanes,
            model=self.name,
            prompt=visit.prompt or PROMPTS["transcribe"],
            reference=visit.reference,
            start=visit.shown.window.offset,
            timeline=visit.timeline,
        )

    def draw(self, visit: Visit, specs: list[str]) -> None:
        """Lanes without answers, but for those that are there already.

        Raises:
            ValueError: where a method does not fit the model.
        """
        specs = with_all_tokens(specs)
        visit.turn += 1  # now: an answer that is under way ends, and the model is free
        self._draw(visit.shown, specs)
        visit.specs = specs

    def _draw(self, part: Part, specs: list[str]) -> None:
        assert part.heard is not None
        there = {lane.spec: lane for lane in part.lanes}
        with self._lock:
            part.lanes = [there.get(spec) or part.heard.draw(spec) for spec in specs]

    def answers(self, visit: Visit) -> Iterator[None]:
        """Answer lane by lane, then count what the other windows take, until another redraw comes.

        Other visitors get their turn between two steps.
        """
        turn, shown = visit.turn, visit.shown
        assert shown.heard is not None
        reference = visit.reference if len(visit.parts) == 1 else None  # a window says only a part of it
        for i in range(len(shown.lanes)):
            try:
                with self._lock, _unless(self.model, lambda: visit.turn != turn):
                    lane = shown.lanes[i]
                    if lane.text is not None:
                        continue
                    lane = shown.heard.answer(lane.spec, MAX_NEW_TOKENS)
                    shown.lanes[i] = lane.judged((shown.lanes[0] if i else lane).text, reference)
            except _Outdated:
                return
            yield
        for part in visit.parts:
            if part.heard is None or [lane.spec for lane in part.lanes] == visit.specs:
                continue
            if visit.turn != turn:
                return
            self._draw(part, visit.specs)
            yield

    def costs(self, visit: Visit) -> str:
        """What an hour takes under each lane, and how many hours a card of 24 GB holds, in Markdown."""
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        try:
            each = kv_bytes(self.model.config.get_text_config(), 1, self.model.dtype)
        except NotImplementedError:  # attention of other kinds is not counted
            return ""
        rows = ["An hour of audio, without activations and limits of context:", ""]
        for lane in visit.lanes:
            tokens = 3600 * lane.tokens / visit.seconds
            fits = max(0.0, CARD_BYTES - weights) / (each * tokens)
            spec = lane.spec.replace("`", "'")
            rows.append(
                f"- `{spec}`: {tokens:,.0f} audio tokens, KV cache {each * tokens / 1e9:.3g} GB; beside the weights "
                f"{CARD_BYTES / 1e9:.0f} GB hold {fits:.3g} h"
            )
        return "\n".join(rows)

    def exported(self, visit: Visit) -> str:
        """Specs and commands that do the same."""
        lines = ["import fewhertz", f"model, processor = fewhertz.load({self.name!r})"]
        for lane in visit.lanes[1:]:
            spec = json.dumps(lane.spec)
            lines += ["", f"# {lane.spec}", f"fewhertz.compress(model, {spec})"]
            lines += [f"# fewhertz run {self.name} AUDIO --method {spec}"]
            lines += [f"# fewhertz serve {self.name} --method {spec}"]
        return "\n".join(lines)

    def save(self, visit: Visit) -> tuple[str, str]:
        """The page by itself, and its lanes as JSON, in files that are there as long as the visit."""
        folder = Path(tempfile.mkdtemp())
        weakref.finalize(visit, shutil.rmtree, folder, ignore_errors=True)
        record = self._record(visit)
        alone = record | {"timeline": None}  # it holds this window, not the others
        (folder / "tokens.html").write_bytes(page.page(alone).encode())
        lanes = {key: value for key, value in record.items() if key not in ("wav", "mel", "bands")}
        text = json.dumps(lanes, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
        (folder / "tokens.json").write_bytes(text)
        return str(folder / "tokens.html"), str(folder / "tokens.json")


def build(studio: Studio) -> Any:
    """The app, for `serve` and for tests.

    Raises:
        ImportError: without Gradio.
    """
    gr = need("gradio", "studio")
    from fewhertz.pocket import path

    samples = [str(path() / "samples" / f"{i:02}.flac") for i in (1, 2, 5, 8, 11, 12)]
    names = sorted(METHODS)
    first = ["pool", RECOMMENDED]

    def asked(task: str, question: str) -> str | None:
        if task == ASK:
            if not question.strip():
                raise ValueError("write a question, or choose another task")
            return question
        return None if task == "transcribe" else PROMPTS[task]

    def described(visit: Visit) -> str:
        several = f"window {visit.at + 1} of {len(visit.parts)}: " if len(visit.parts) > 1 else ""
        return f"{several}{visit.seconds:.1f} s, {visit.lanes[0].tokens} audio tokens"

    def bold(text: str) -> str:
        return f"**{html.escape(text)}**"

    def listen(file: str | None, task: str, question: str, reference: str, *budget: Any) -> Iterator[Any]:
        if file is None:
            yield None, None, "Drop, record or pick a clip."
            return
        try:
            visit = studio.listen(file, asked(task, question), reference.strip() or None)
        except Exception as error:  # of any kind: out of memory, a model's own checks
            text = one_line(error).replace(f"{Path(file).parent}/", "")  # its name is enough
            yield None, None, bold(text)
            return
        yield visit, gr.HTML(page=visit.page, value=visit.value()), described(visit)
        yield visit, *draw(visit, *budget)  # a method that does not fit leaves all tokens

    def pick(visit: Visit | None, event: Any) -> Any:
        if visit is None:
            return gr.skip(), gr.skip()
        try:
            studio.pick(visit, event.window)
        except Exception as error:
            return gr.skip(), bold(one_line(error))
        return gr.HTML(page=visit.page, value=visit.value()), described(visit)

    pick.__annotations__["event"] = gr.EventData  # by this Gradio knows to hand it over

    def draw(visit: Visit | None, methods: list[str], unit: str, *sliders: float) -> Any:
        if visit is None:
            return gr.skip(), gr.skip()
        try:
            studio.draw(visit, studio.specs(methods, unit, *sliders))
        except Exception as error:
            return gr.skip(), bold(one_line(error))
        return visit.value(), described(visit)

    def answers(visit: Visit | None) -> Iterator[Any]:
        if visit is None:
            yield gr.skip(), gr.skip(), "", ""
            return
        # not with the lanes, which are to be seen at once
        yield gr.skip(), gr.skip(), studio.costs(visit), studio.exported(visit)
        time.sleep(PAUSE)
        try:
            for _ in studio.answers(visit):
                yield visit.value(), gr.skip(), gr.skip(), gr.skip()
        except Exception as error:
            yield gr.skip(), bold(one_line(error)), gr.skip(), gr.skip()

    def save(visit: Visit | None) -> Any:
        if visit is None:
            raise gr.Error("There is no clip yet.")
        return [gr.DownloadButton(value=file, visible=True) for file in studio.save(visit)]

    with gr.Blocks(title="fewhertz studio", analytics_enabled=False, delete_cache=(300, KEPT_SECONDS)) as app:
        gr.Markdown(f"# fewhertz studio\n{studio.banner()}")
        visit = gr.State(None, time_to_live=KEPT_SECONDS)
        with gr.Row():
            with gr.Column():
                sound = gr.Audio(
                    type="filepath",
                    sources=["upload", "microphone"],
                    label=f"Clip, up to {MAX_SECONDS:g} s and {MAX_BYTES >> 20} MiB",
                    editable=False,
                )
                gr.Examples(samples, sound, label="Samples on which pocket works")
            with gr.Column():
                task = gr.Radio([*PROMPTS, ASK], value="transcribe", label="Task")
                question = gr.Textbox(label="Question", visible=False)
                reference = gr.Textbox(label="Reference: what the answer should be")
                methods = gr.Dropdown(
                    names, value=first, multiselect=True, allow_custom_value=True, label="Methods, or specs of your own"
                )
                unit = gr.Radio(UNITS, value="keep", label="Budget of methods that are named without one")
                keep = gr.Slider(0.05, 1, 0.5, step=0.01, label="keep: fraction of audio tokens")
                hertz = gr.Slider(1, studio.token_rate, min(8, studio.token_rate), step=0.5, label="Hz", visible=False)
                tolerance = gr.Slider(
                    0.05, 2, 0.3, step=0.05, label="tolerance: what a merge may cost (ward, optimal)", visible=False
                )
        said = gr.Markdown("Drop, record or pick a clip.")
        frame = gr.HTML(None, html_template=FRAME, css_template=FRAME_CSS, js_on_load=FRAME_JS, apply_default_css=False)
        costs = gr.Markdown()
        code = gr.Code(
            language=None, wrap_lines=True, label="The same in Python and on the command line", interactive=False
        )
        with gr.Row():
            keep_page = gr.Button("Make a page to keep")
            downloads = [gr.DownloadButton(f"Download tokens.{kind}", visible=False) for kind in ("html", "json")]

        sliders = [keep, hertz, tolerance]
        budget, shown = [methods, unit, *sliders], [frame, said]
        task.change(lambda task: gr.update(visible=task == ASK), task, question, show_progress="hidden")
        unit.change(
            lambda unit: [gr.update(visible=unit == name) for name in UNITS],
            unit,
            sliders,
            show_progress="hidden",
        )
        heard = gr.on(
            [sound.change, task.input, question.submit, reference.submit],
            listen,
            [sound, task, question, reference, *budget],
            [visit, *shown],
            trigger_mode="always_last",
            show_progress="minimal",
            concurrency_limit=4,
        )
        drawn = gr.on(
            [methods.change, unit.input, *(slider.input for slider in sliders)],
            draw,
            [visit, *budget],
            shown,
            trigger_mode="always_last",
            show_progress="hidden",
            queue=False,  # it takes milliseconds, and is to be seen at once
        )
        picked = frame.pick(pick, visit, shown, trigger_mode="always_last", show_progress="hidden", concurrency_limit=4)
        for event in (heard, drawn, picked):
            event.then(
                answers,
                visit,
                [*shown, costs, code],
                show_progress="hidden",
                concurrency_limit=4,
                trigger_mode="multiple",
            )
        keep_page.click(save, visit, downloads, concurrency_limit=4)
    return app


def serve(
    model: str,
    *,
    device: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    wait: bool = True,
) -> Any:
    """Open the studio.

    Args:
        model: a hub id, a directory, or `pocket`.
        device: where to; `None`: the GPU where there is one, else the CPU.
        host: address to listen on.
        port: of it.
        share: whether Gradio's servers give it a public address.
        wait: whether to return only once it is stopped.

    Returns:
        Gradio's app.

    Raises:
        ImportError: without Gradio.
        ValueError: where there is no such model.
        OSError: where the port is taken.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before Gradio is read: it would ask for newer versions
    # else the browser keeps all that comes and goes, the sound too, and each redraw waits for that
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    gr = need("gradio", "studio")
    app = build(Studio(model, device=device))
    # system fonts: the default theme asks another host for its own
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    theme.set(  # its own are too faint to read for some
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
    )
    app.queue(max_size=32).launch(
        server_name=host,
        server_port=port,
        share=share,
        max_file_size=MAX_BYTES,
        theme=theme,
        css=CSS,
        footer_links=[],
        enable_monitoring=False,
        ssr_mode=False,
        prevent_thread_lock=not wait,
    )
    return app
