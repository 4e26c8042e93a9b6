"""What stands between the audio of a call and the LLM, in steps: encode → compress → lay out → embed.

`fewhertz.compress` takes other steps by argument, for a model. `changed` changes them while a context lasts: in this
thread alone, so that others may call the same model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fewhertz.corrections import PromptLayout, lay_out
from fewhertz.families.base import Family, Windows
from fewhertz.layout import ClipSpan
from fewhertz.mel import mel_tokens
from fewhertz.method import Clip, Method
from fewhertz.plan import Plan

FRAMES_PER_TOKEN = 2  # of an encoder with a site "encoder.k"


@dataclass(frozen=True)
class Call:
    """A call that carries audio, as its steps are given it.

    Args:
        model: the model, its LLM and head included.
        family: its family.
        method: the method, its budget bound to the model's rate.
        learned: what the method has learned; `None`: nothing.
        audio: the family's `audio_inputs`, on the model's device.
        ids: uncompressed prompts, (b, l).
        site: where the encoder is to stop.
        scores: whether attention scores are wanted.
        trim: whether the encoder reads valid frames alone.
    """

    model: Any
    family: Family
    method: Method
    learned: nn.Module | None
    audio: dict[str, Any]
    ids: Tensor
    site: str
    scores: bool
    trim: bool

    @property
    def features(self) -> Any:
        """The first of the family's `audio_inputs`."""
        return self.audio[self.family.audio_inputs[0]]

    @property
    def rate(self) -> float:
        """Audio tokens per second before compression, in Hz."""
        return float(self.family.rate(self.model.config))


def encode(call: Call) -> tuple[Windows, float]:
    """The encoder's windows, and the seconds that encoding was spared: none."""
    model, audio = call.model, call.audio
    if call.trim:
        model, audio = call.family.trimmed(model, audio, call.ids)
    return call.family.encode(model, audio, call.ids, call.site, call.scores), 0.0


def compress(call: Call, windows: Windows, clips: list[ClipSpan]) -> tuple[list[Tensor], list[Plan | None]]:
    """Output tokens of each clip, (m_i, d), in the LLM's input space, and the plan of each (learned: `None`)."""
    if windows.frames is not None:
        return _compress_inside(call, windows, windows.frames, clips)
    method = call.method
    ends = [0, *accumulate(windows.lengths)]
    spans = [slice(ends[clip.first], ends[clip.last]) for clip in clips]
    mel = mel_tokens(call.features, windows.lengths, call.rate) if "mel" in method.needs else None
    out: dict[int, Tensor] = {}
    plans: dict[int, Plan | None] = {}
    if method.together:
        for members in _sharing(clips):
            x = torch.cat([windows.tokens[spans[i]] for i in members])[None]
            together = method.plans_together(x, [clips[i].n for i in members], _RECORDING.get().tokens)
            for i, own in zip(members, together, strict=True):
                row = own.apply(windows.tokens[spans[i]][None])
                out[i] = (call.family.project(call.model, row) if call.site == "encoder" else row)[0]
                plans[i] = own
    for members in [] if method.together else _alike(clips):
        x = torch.stack([windows.tokens[spans[i]] for i in members])
        scores = None
        if windows.scores is not None:
            scores = torch.stack([windows.scores[spans[i]] for i in members])
        logmel = None if mel is None else torch.stack([mel[spans[i]] for i in members])
        clip = Clip(call.rate, scores, logmel, call.learned)
        if method.fixed_budget:
            short, plan = method.forward(x, clip)
            if short.shape[1] != method.num_tokens(x.shape[1]):
                raise ValueError(f"{method.name} made {short.shape[1]} tokens of {x.shape[1]}, not num_tokens")
            if call.site == "encoder":
                short = call.family.project(call.model, short)
            kept, each = [*short], [None] * len(members) if plan is None else plan.rows()
        else:
            each = [*method.plans(x, clip)]
            rows = [plan.apply(x[k : k + 1]) for k, plan in enumerate(each) if plan is not None]
            if call.site == "encoder":
                rows = [call.family.project(call.model, row) for row in rows]
            kept = [row[0] for row in rows]
        out |= zip(members, kept, strict=True)
        plans |= zip(members, each, strict=True)
    return [out[i] for i in range(len(clips))], [plans[i] for i in range(len(clips))]


def _alike(clips: list[ClipSpan]) -> list[list[int]]:
    """Clips of equal length together: methods are called with dense batches and never see padding."""
    by_length: dict[int, list[int]] = {}
    for i, clip in enumerate(clips):
        by_length.setdefault(clip.n, []).append(i)
    return list(by_length.values())


def _sharing(clips: list[ClipSpan]) -> list[list[int]]:
    """Clips of a prompt together: rows of a batch know nothing of one another, but for windows of a recording."""
    by_row: dict[int, list[int]] = {}
    for i, clip in enumerate(clips):
        by_row.setdefault(0 if _RECORDING.get().one else clip.row, []).append(i)
    return list(by_row.values())


def _compress_inside(
    call: Call, windows: Windows, frames: list[int], clips: list[ClipSpan]
) -> tuple[list[Tensor], list[Plan | None]]:
    """Merge frames before encoder layers, window by window since attention stays within them, and go on.

    Each of several layers takes a like share of the way: of n frames that are to be m, n·(m/n)^(1/l) stay before the
    first of l layers. Under a tolerance each merges what is worth its price.
    """
    method, layers = call.method, call.method.layers
    x = windows.tokens.split(frames)
    limits: dict[int, tuple[int, int]] = {}  # least and most tokens of each window
    times: dict[int, int] = {}  # when it begins in its clip, in audio tokens
    for clip in clips:
        lengths = windows.lengths[clip.first : clip.last]
        # the clip's count is that of its length; its windows share it, and a last one of few frames may have none
        ends = [0, *map(method.num_tokens, accumulate(lengths))] if method.fixed_budget else []
        own = [(m, m) for m in (b - a for a, b in pairwise(ends))] or [method.limits(n, call.rate) for n in lengths]
        limits |= enumerate(own, clip.first)
        times |= {w: (w - clip.first) * (windows.full or 0) for w in range(clip.first, clip.last)}
    left = {w: x[w] for w, (_, most) in limits.items() if most}
    plans = {w: Plan(torch.full((1, frames[w]), -1, device=x[w].device), 0) for w in limits if w not in left}
    for turn, layer in enumerate(layers):
        found = merged(call, left, plans, limits, len(layers) - turn)
        left = {w: plan.apply(left[w][None])[0] for w, plan in found.items()}
        plans |= {w: plan if turn == 0 else plans[w].then(plan) for w, plan in found.items()}
        run = slice(layer, layers[turn + 1] if turn + 1 < len(layers) else None)
        sizes = [plans[w].sizes()[0] for w in left]
        left = dict(zip(left, call.family.run_layers(call.model, run, [*left.values()], sizes), strict=True))
    at = [times[w] + replace(plans[w], per=FRAMES_PER_TOKEN).centres()[0] for w in left]
    tokens = dict(zip(left, call.family.finish_encoding(call.model, [*left.values()], at), strict=True))
    spans = [range(clip.first, clip.last) for clip in clips]
    out = [torch.cat([tokens[w] for w in span if w in tokens]) for span in spans]
    return out, [Plan.joined([plans[w] for w in span], FRAMES_PER_TOKEN) for span in spans]


def merged(
    call: Call,
    left: dict[int, Tensor],
    plans: dict[int, Plan],
    limits: dict[int, tuple[int, int]],
    turns: int,
    per: int = FRAMES_PER_TOKEN,
) -> dict[int, Plan]:
    """What is merged of each window at one of the layers, of `turns` that are still to come, itself included.

    Args:
        call: the call.
        left: what is left of each window, (n, d).
        plans: what was merged before; empty but for dropped windows at the first layer.
        limits: least and most tokens that each window is to have in the end.
        turns: layers.
        per: frames that make an audio token; 1 of audio tokens themselves.
    """
    method, rate = call.method, per * call.rate
    if method.tolerance is not None:  # its price is that of audio tokens, and frames are parts of them
        method = replace(method, tolerance=per * method.tolerance)
    alike: dict[tuple[int, int, int, int], list[int]] = {}
    for w, x in left.items():
        n, (least, most) = len(x), limits[w]
        if method.fixed_budget:
            least = most = round(n * (most / n) ** (1 / turns))
        elif turns > 1:
            most = n
        alike.setdefault((plans[w].n if w in plans else n, n, least, most), []).append(w)
    found: dict[int, Plan] = {}
    for (frames, n, least, most), members in alike.items():
        x = torch.stack([left[w] for w in members]).detach()
        sizes = torch.cat([plans[w].sizes() for w in members]) if members[0] in plans else None
        clip = Clip(rate * n / frames, sizes=sizes)
        if not method.fixed_budget:
            each = method.assign_within(x, least, most, clip)
        else:
            each = (Plan.identity(len(x), n, x.device) if most == n else method.assign(x, most, clip)).rows()
        if sizes is not None:
            each = [plan.counting(own) for plan, own in zip(each, sizes.split(1), strict=True)]
        found |= zip(members, each, strict=True)
    return {w: found[w] for w in left}


def embed(model: Any, ids: Tensor, placeholders: Tensor, tokens: list[Tensor]) -> Tensor:
    """What the LLM reads: embeddings of compressed prompts, (b, w, d), each clip's tokens at its placeholders.

    Args:
        model: the model.
        ids: compressed prompts, (b, w).
        placeholders: where an audio token stands in them, (b, w).
        tokens: of each clip, (m_i, d), in the order of the placeholders.
    """
    embeds = model.get_input_embeddings()(ids)
    audio = torch.cat(tokens).to(embeds.device, embeds.dtype)
    return embeds.masked_scatter(placeholders.to(embeds.device)[..., None], audio)


@dataclass(frozen=True)
class Steps:
    """The steps of a call, and the method that they follow.

    Args:
        encode: windows of a `Call`, and the seconds that encoding was spared because it was done before.
        compress: output tokens and plans of the clips that the windows make.
        lay_out: where and how heavy they stand in the prompts, as `fewhertz.corrections.lay_out`.
        embed: what the LLM reads.
        method: in place of the one that is attached, its budget bound to the model's rate; learned weights stay those
            of the attached one. `None`: the attached one.
    """

    encode: Callable[[Call], tuple[Windows, float]] = encode
    compress: Callable[[Call, Windows, list[ClipSpan]], tuple[list[Tensor], list[Plan | None]]] = compress
    lay_out: Callable[..., PromptLayout] = lay_out
    embed: Callable[[Any, Tensor, Tensor, list[Tensor]], Tensor] = embed
    method: Method | None = None


@dataclass(frozen=True)
class _Recording:
    one: bool = False
    tokens: int | None = None


_RECORDING: ContextVar[_Recording] = ContextVar("fewhertz_recording", default=_Recording())  # noqa: B039  (is frozen)


@contextmanager
def one_recording(tokens: int | None = None) -> Iterator[None]:
    """Within it, clips of all rows of a call share a shared budget: they are windows of one recording.

    Args:
        tokens: that they keep together; `None`: their budget's share of what they have.
    """
    token = _RECORDING.set(_Recording(True, tokens))
    try:
        yield
    finally:
        _RECORDING.reset(token)


Change: TypeAlias = Callable[[Steps], Steps]
_CHANGES: ContextVar[tuple[tuple[int | None, Change], ...]] = ContextVar("fewhertz_steps", default=())


@contextmanager
def changed(change: Change, model: nn.Module | None = None) -> Iterator[None]:
    """While it lasts, calls of this thread take their steps as `change` makes them; what is changed inside comes last.

    Args:
        change: other steps in place of those that it is given.
        model: whose calls; `None`: any model's.
    """
    token = _CHANGES.set((*_CHANGES.get(), (None if model is None else id(base_of(model)), change)))
    try:
        yield
    finally:
        _CHANGES.reset(token)


def current(steps: Steps, model: nn.Module) -> Steps:
    """The steps of a model as they are changed now."""
    for of, change in _CHANGES.get():
        if of in (None, id(model)):
            steps = change(steps)
    return steps


def base_of(model: nn.Module) -> nn.Module:
    """The model itself, of one that PEFT may have wrapped."""
    unwrap: Any = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()
