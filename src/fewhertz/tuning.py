"""`fewhertz tune`: how far a model's audio can be shortened, found on the user's own audio, without any label.

The uncompressed model answers first, greedily. Each candidate then reads the same prompt and that answer in one forward
(teacher forcing), and is scored by how often its first choice is the uncompressed model's: one encoder pass a clip and
one forward a candidate.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewhertz import audio
from fewhertz.attach import attached, compress
from fewhertz.errors import need, one_line
from fewhertz.families import family_of
from fewhertz.files import Journal, Record, read_journal, replace, sha256_of
from fewhertz.method import IDENTITY, RECOMMENDED, Method, parse
from fewhertz.once import encode_once
from fewhertz.palette import LINES, MARKERS
from fewhertz.run import GREEDY, read_whole, request, sample_rate

AGREE = 0.99
TOLERANCES = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8)
MEL_TOLERANCES = (0.1, 0.2, 0.3, 0.45)  # whose counts are known before encoding, as vLLM needs
KEEPS = ("2/3", "1/2", "1/3", "1/4")
DRAWS = 2000
_NAME, _, _CORRECTIONS = RECOMMENDED.partition("+")
CANDIDATES = tuple(
    f"{_NAME}@{budget}+{_CORRECTIONS}"
    for budget in (*(f"tolerance={t:g}" for t in TOLERANCES), *(f"keep={k}" for k in KEEPS))
) + tuple(f"{_NAME}(count=mel)@tolerance={t:g}+{_CORRECTIONS}" for t in MEL_TOLERANCES)


@dataclass(frozen=True)
class Candidate:
    """How one method did, over all clips.

    Attributes:
        method: its spec.
        rate: audio tokens per second that the LLM reads, in Hz, over all clips.
        spread: the same of single clips: the 10th and 90th percentile.
        kept: audio tokens kept, of all.
        agreement: share of the answers' tokens at which its first choice is the uncompressed model's.
        interval: 95 % bootstrap interval of that, over clips; of one clip its own value twice.
        kl: mean Kullback–Leibler divergence from the uncompressed model's next-token distributions, in nats.
        same: share of clips at none of whose tokens it chooses otherwise.
        parts: median place of the first token at which it does; `None` where it never does.
    """

    method: str
    rate: float
    spread: tuple[float, float]
    kept: float
    agreement: float
    interval: tuple[float, float]
    kl: float
    same: float
    parts: float | None


@dataclass(frozen=True)
class Tuned:
    """What `tune` found.

    Attributes:
        candidates: by falling rate.
        chosen: the candidate of the lowest rate that agrees enough; `None` where none does.
        served: likewise among those that vLLM can run, whose count is known before encoding.
        agree: what is enough.
        clips: clips that were scored.
        tokens: tokens of their answers.
        seconds: of audio.
        errors: files that could not be used, a line each.
    """

    candidates: list[Candidate]
    chosen: Candidate | None
    served: Candidate | None
    agree: float
    clips: int
    tokens: int
    seconds: float
    errors: list[str]

    def record(self) -> Record:
        """As `--out` has it."""
        return asdict(self)


def tune(
    model: Any,
    processor: Any,
    files: Sequence[str | Path],
    methods: Sequence[str] = CANDIDATES,
    *,
    prompt: str | None = None,
    agree: float = AGREE,
    chunk: float | None = None,
    max_new_tokens: int = 128,
    journal: str | Path | None = None,
    identity: Record | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Score methods on a model by the uncompressed model's own answers to audio.

    Args:
        model: an audio language model of a known family; what is attached to it is detached, and left so.
        processor: the model's own.
        files: audio files; the more and the more different, the better.
        methods: candidates, each with its budget.
        prompt: what to ask; `None`: transcribe.
        agree: share of tokens at which the choice has to stay the same.
        chunk: seconds of a window, for audio longer than the model reads; `None`: such a file is an error.
        max_new_tokens: longest answer, in tokens.
        journal: a file that keeps what is done, so that a run that was broken off goes on.
        identity: what makes two runs the same beside the methods and files, such as the hash of the weights.
        say: gets a line of text after each clip.

    Raises:
        ValueError: for a method that cannot act on this model, and where no clip could be used.

    Example:
        >>> tuned = fewhertz.tune(model, processor, sorted(Path("clips").glob("*.wav")))
        >>> fewhertz.compress(model, tuned.chosen.method)
    """
    family = family_of(model)
    if not 0 < agree <= 1:
        raise ValueError(f"agree is a share of tokens, in (0, 1], got {agree:g}")
    specs = list(dict.fromkeys(family.fit(parse(method), model.config).spec for method in methods))
    if not specs:
        raise ValueError("no candidate: name methods")
    if (handle := attached(model)) is not None:
        handle.remove()
    made = {
        **(identity or {}),
        "methods": specs,
        "prompt": prompt,
        "chunk": chunk,
        "max_new_tokens": max_new_tokens,
        "audio": [sha256_of(Path(file)) for file in files],
    }
    done: list[Record] = []
    out = None
    if journal is not None:
        if Path(journal).exists():
            done = read_journal(Path(journal), made)
        out = Journal(Path(journal), made)
    try:
        for index, (name, wave) in enumerate(_clips(files, sample_rate(processor), family, chunk)):
            if index >= len(done):
                found: Record = {"clip": name, "seconds": 0.0}
                try:
                    if isinstance(wave, str):
                        raise ValueError(wave)
                    found |= _score(model, processor, wave, specs, prompt, max_new_tokens)
                except (ValueError, OSError, RuntimeError) as error:
                    found["error"] = one_line(error)
                done.append(found)
                if out is not None:
                    out.add([found])
            last = done[index]
            say(
                f"{name}: {last['error']}"
                if "error" in last
                else f"{name}: {last['seconds']:.1f} s, {last['n']} tokens"
            )
    finally:
        if out is not None:
            out.close()
    return summary(done, specs, agree)


def _clips(
    files: Sequence[str | Path], rate: int, family: Any, chunk: float | None
) -> Iterator[tuple[str, np.ndarray | str]]:
    """Each clip with its name, or why there is none."""
    for file in files:
        try:
            if chunk is None:
                yield str(file), read_whole(file, rate, family)
                continue
            for number, wave in enumerate(audio.chunks(file, chunk, rate)):
                yield f"{file} [{number * chunk:g} s]", wave
        except (OSError, ValueError) as error:
            yield str(file), one_line(error)


@torch.no_grad()
def _score(
    model: Any, processor: Any, wave: np.ndarray, specs: list[str], prompt: str | None, max_new_tokens: int
) -> Record:
    """What the uncompressed model says of a clip, and how each candidate goes along with it."""
    inputs = request(processor, [wave], prompt).to(model.device, model.dtype)
    width = inputs["input_ids"].shape[1]
    scored = any("scores" in parse(spec).needs for spec in specs)
    with encode_once(model, scores=scored):
        compress(model, IDENTITY)
        ids = model.generate(**inputs, max_new_tokens=max_new_tokens, **GREEDY)
        said = ids.shape[1] - width
        if not said:
            raise ValueError("the uncompressed model says nothing")
        if bool((ids[:, width:] == family_of(model).placeholder(model.config)).any()):
            raise ValueError("the uncompressed model writes the placeholder of audio, which no prompt can go on from")
        call = dict(inputs) | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        whole = _log_probs(model, call, said)
        (before,) = attached(model).last.before  # type: ignore[union-attr]
        choices, results = whole.argmax(-1), []
        for spec in specs:
            compress(model, spec)
            other = _log_probs(model, call, said)
            (after,) = attached(model).last.after  # type: ignore[union-attr]
            same = other.argmax(-1) == choices
            divergence = (whole.exp() * (whole - other)).sum(-1).mean()
            first = None if bool(same.all()) else int(same.long().argmin())
            results.append([after, int(same.sum()), round(float(divergence), 6), first])
    attached(model).remove()  # type: ignore[union-attr]
    seconds = len(wave) / sample_rate(processor)
    return {"seconds": round(seconds, 4), "before": before, "n": said, "results": results}


def _log_probs(model: Any, call: dict[str, Any], said: int) -> Tensor:
    """Log probabilities of every token at the places of the answer, (said, vocabulary)."""
    logits = model(**call, use_cache=False).logits[0, -said - 1 : -1]
    return logits.float().log_softmax(-1)


def summary(done: Sequence[Record], specs: Sequence[str], agree: float) -> Tuned:
    """What the clips say together.

    Raises:
        ValueError: where there is none.
    """
    errors = [f"{one['clip']}: {one['error']}" for one in done if "error" in one]
    clips = [one for one in done if "error" not in one]
    if not clips:
        raise ValueError(f"no clip could be used: {errors[0]}" if errors else "no audio")
    seconds = np.array([one["seconds"] for one in clips])
    before, lengths = sum(one["before"] for one in clips), np.array([one["n"] for one in clips])
    drawn = np.random.default_rng(0).integers(len(clips), size=(DRAWS, len(clips)))
    found = []
    for place, spec in enumerate(specs):
        after, same, kl, first = zip(*(one["results"][place] for one in clips), strict=True)
        right, rates = np.array(same), np.array(after) / seconds
        shares = right[drawn].sum(1) / lengths[drawn].sum(1)
        parts = [one for one in first if one is not None]
        found.append(
            Candidate(
                spec,
                float(sum(after) / seconds.sum()),
                (float(np.percentile(rates, 10)), float(np.percentile(rates, 90))),
                sum(after) / before,
                float(right.sum() / lengths.sum()),
                (float(np.percentile(shares, 2.5)), float(np.percentile(shares, 97.5))),
                float((np.array(kl) * lengths).sum() / lengths.sum()),
                1 - len(parts) / len(clips),
                float(statistics.median(parts)) if parts else None,
            )
        )
    found.sort(key=lambda one: (-one.rate, one.method))
    enough = [one for one in found if one.agreement >= agree]
    served = [one for one in enough if _counted_before(parse(one.method))]
    chosen, serves = (min(some, key=lambda one: one.rate, default=None) for some in (enough, served))
    return Tuned(found, chosen, serves, agree, len(clips), int(lengths.sum()), float(seconds.sum()), errors)


def _counted_before(method: Method) -> bool:
    """Whether vLLM can run it: its count is known before the audio is encoded, and its positions are whole."""
    known = (method.fixed_budget or "mel" in method.needs) and not method.llm_layers
    return known and method.site != "encoder" and "scores" not in method.needs and not method.fit


def write(tuned: Tuned, model: str, made: Record, out: Path) -> None:
    """Write what was found as JSON."""
    text = json.dumps({"model": model, **made, **tuned.record()}, indent=1, ensure_ascii=False)
    replace(out, text.encode("utf-8", "backslashreplace") + b"\n")


def draw(tuned: Tuned, model: str, out: Path) -> None:
    """Draw agreement against audio tokens per second, a line for each method.

    Raises:
        ImportError: without matplotlib.
    """
    from fewhertz.evaluation.curves import line_of

    need("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained", dpi=150)
    axis = figure.subplots()
    lines: dict[str, list[Candidate]] = {}
    for one in tuned.candidates:
        lines.setdefault(line_of(one.method), []).append(one)
    for number, (line, some) in enumerate(lines.items()):
        rates, values = [one.rate for one in some], [100 * one.agreement for one in some]
        spread = np.abs(np.array([[100 * end for end in one.interval] for one in some]).T - values)
        look: dict[str, Any] = {"color": LINES[number % len(LINES)], "marker": MARKERS[number % len(MARKERS)]}
        axis.errorbar(rates, values, spread, ms=5, lw=1.2, label=line, **look)
    axis.axhline(100 * tuned.agree, color="0.4", lw=0.9, ls=(0, (5, 2)), label=f"{100 * tuned.agree:g} %")
    if tuned.chosen is not None:
        axis.plot(tuned.chosen.rate, 100 * tuned.chosen.agreement, "o", ms=13, mfc="none", mec="black", label="chosen")
    axis.set_xlabel("audio tokens per second (Hz)")
    axis.set_ylabel("agreement with all tokens (%)")
    axis.set_title(f"{model}: {tuned.clips} clips, {tuned.tokens} tokens of answers", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(out)
