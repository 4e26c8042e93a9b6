"""compress(): attach a method to a model."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import threading
import types
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fewhertz.corrections import PromptLayout, check_kernel, reach_of, recall, remember
from fewhertz.families import family_of
from fewhertz.families.base import Family
from fewhertz.inside import Inside, cache_in
from fewhertz.layout import IGNORE, ClipSpan, Trim, find_clips
from fewhertz.method import DEFAULT, Method, Positions, parse
from fewhertz.plan import Plan
from fewhertz.steps import Call, Steps, base_of, current

log = logging.getLogger(__name__)

NEWEST = 5, 24  # transformers that `make test-versions` runs
_HANDLE = "_fewhertz_handle"
_LEARNED = "_fewhertz_learned"
_HEEDED = "_fewhertz_heeded"
_SHOWN = "audio_compression"
_ATTACHING = threading.RLock()  # two threads that compress one model would wrap each other's wrapper


@dataclass
class Report:
    """What the last call did: audio tokens of each clip before and after, and the plan of each (learned: `None`).

    `positions` and `sizes`: the corrections that were applied (fewhertz.corrections). `spared`: seconds that encoding
    took where it was done before, under `encode_once`.
    """

    before: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    plans: list[Plan | None] = field(default_factory=list)
    positions: Positions = "packed"
    sizes: bool = False
    spared: float = 0.0

    def __str__(self) -> str:
        before, after = sum(self.before), sum(self.after)
        if not before:
            return "no audio yet"
        clips = f"{len(self.before)} clip{'s' * (len(self.before) != 1)}"
        corrections = "+time" * (self.positions == "time") + "+sizes" * self.sizes
        suffix = f" with {corrections}" if corrections else ""
        return f"{clips}: {before} → {after} audio tokens ({100 * after / before:.0f} %){suffix}"


class AudioCompression(nn.Module):
    """Makes `print(model)` show what is attached, and what is learned of it a part of the model.

    Without the latter it has no parameters, so checkpoints are unchanged.
    """

    def __init__(self, text: str, learned: nn.Module | None) -> None:
        super().__init__()
        self.text = text
        self.learned = learned

    def extra_repr(self) -> str:
        return self.text


class _Call:
    """A model's bound `forward` or `generate` with its signature, so that transformers' own checks still read it.

    An object and not a closure: a deep copy of the model then compresses by the copy's weights, not the original's.
    """

    def __init__(self, handle: Attached, original: Callable[..., Any], run: Callable[..., Any]) -> None:
        functools.update_wrapper(self, original)
        self.__signature__ = inspect.signature(original)
        self.original = original
        self.run = run
        self.handle = handle

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self.original, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Call:
        return _Call(
            copy.deepcopy(self.handle, memo), copy.deepcopy(self.original, memo), copy.deepcopy(self.run, memo)
        )

    def __getstate__(self) -> tuple[Any, ...]:
        """For pickle, which would look a bound method up by name, and so find this object in its place."""
        name, model = self.run.__name__.removeprefix("_"), self.handle.model
        own = getattr(self.original, "__func__", None) is getattr(type(model), name)
        return model, self.handle, name, None if own else self.original

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        model, handle, name, original = state  # model and handle may be empty yet: only their classes are asked
        original = original or types.MethodType(getattr(type(model), name), model)
        self.__init__(handle, original, getattr(handle, f"_{name}"))  # type: ignore[misc]


class Attached:
    """A method attached to a model; made by `compress`. Also a context manager that removes it at the end.

    Attributes:
        method: the method, its budget bound to the model's rate.
        trim: whether the encoder reads valid frames alone; `None`: where something is compressed.
        steps: what stands between audio and LLM (fewhertz.steps).
        learned: what training changes of it; the model keeps it for the next method of this name and parameters.
        last: what the last call did (`Report`); of calls in several threads, the one that encoded last.
    """

    def __init__(
        self, model: nn.Module, family: Family, method: Method, trim: bool | None = None, steps: Steps | None = None
    ) -> None:
        family.check_trim(trim)
        self.model: Any = model
        self.trim = trim
        self.steps = steps or Steps()
        self.family = family
        self.asked = method
        self.method = family.fit(method, model.config)
        if method.corrected:
            check_kernel(model)
        self.learned = _learned(model, self.method)
        self.last = Report()
        self._before: dict[str, Any] = {}
        self._stored: dict[str, Any] | None = None  # what a checkpoint saved compressed says in its config

    def _attach(self) -> None:
        for name, run in (("forward", self._forward), ("generate", self._generate)):
            self._before[name] = self.model.__dict__.get(name)  # an instance attribute: another library's hook
            setattr(self.model, name, _Call(self, getattr(self.model, name), run))
        self.model.__dict__[_HANDLE] = self
        self._stored = getattr(self.model.config, _SHOWN, None)
        self.model.config.audio_compression = {"method": self.asked.spec}
        text = f"{self.asked.spec}, {self.family.name}, site={self.method.site}"
        setattr(self.model, _SHOWN, AudioCompression(text, self.learned))

    def remove(self) -> None:
        """Detach the method: the model is as it was. A second call does nothing."""
        with _ATTACHING:
            self._detach()

    def _detach(self) -> None:
        if self.model.__dict__.get(_HANDLE) is not self:
            return
        for name, before in self._before.items():
            del self.model.__dict__[name]
            if before is not None:
                self.model.__dict__[name] = before
        del self.model.__dict__[_HANDLE]
        if self._stored is None:
            del self.model.config.audio_compression
        else:
            self.model.config.audio_compression = self._stored
        delattr(self.model, _SHOWN)

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"Attached({type(self.model).__name__}, {self.asked.spec!r})"

    def _carries_audio(self, call: dict[str, Any]) -> bool:
        return any(call.get(name) is not None for name in self.family.audio_inputs)

    def _forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if args:
            bound = inspect.signature(original).bind_partial(*args)
            kwargs = {**bound.arguments, **kwargs}
        layout = recall(cache_in(kwargs))
        call = kwargs
        outer = layout.outer if isinstance(layout, Inside) else layout
        if self._carries_audio(kwargs):
            call, layout = self._prepare(kwargs, generating=False)
        elif outer is not None:
            call = self._go_on(kwargs, outer)
        if layout is None:
            return original(**call)
        labels = call.pop("labels", None) if isinstance(layout, Inside) else None
        with layout.on(self.model):
            out = original(**call)
        if labels is not None:  # a model's own loss may go by the mask, which is as wide as the whole prompt
            vocabulary, items = self.model.config.get_text_config().vocab_size, kwargs.get("num_items_in_batch")
            out["loss"] = self.model.loss_function(out.logits, labels, vocabulary, num_items_in_batch=items)
        remember(out, layout)
        return out

    @staticmethod
    def _go_on(kwargs: dict[str, Any], layout: PromptLayout) -> dict[str, Any]:
        """A decoding step of the user's own loop."""
        new = next(kwargs[name] for name in ("input_ids", "inputs_embeds") if kwargs.get(name) is not None)
        batch, count, past = new.shape[0], new.shape[1], int(cache_in(kwargs).get_seq_length())
        call = kwargs | {"attention_mask": layout.attention_mask(kwargs.get("attention_mask"), batch, past, count)}
        if call.get("position_ids") is None:
            call["position_ids"] = layout.following(batch, past, count)
        elif layout.packed:
            raise ValueError("position_ids of the uncompressed prompt do not fit the compressed one: leave them out")
        return call

    @torch.no_grad()
    def _generate(self, original: Callable[..., Any], inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        if args:
            bound = inspect.signature(original).bind_partial(inputs, *args)
            kwargs = {**{k: v for k, v in bound.arguments.items() if k != "inputs"}, **kwargs}
        if inputs is not None:
            kwargs["input_ids"] = inputs
        if not self._carries_audio(kwargs):
            if recall(cache_in(kwargs)) is not None:
                raise NotImplementedError("the cache holds compressed audio: pass the whole prompt and no cache")
            return original(**kwargs)
        self._refuse_drafts(kwargs)
        call, layout = self._prepare(kwargs, generating=True)
        ids, width = kwargs["input_ids"], call["input_ids"].shape[1]
        self._shorten(call, ids.shape[1] - width)
        with nullcontext() if layout is None else layout.on(self.model):
            out = self.family.generate(self.model, original, call)
        if layout is not None:
            remember([cache_in(call)] if isinstance(out, Tensor) else out, layout)
        sequences = out if isinstance(out, Tensor) else out.sequences
        prompt = ids.repeat_interleave(sequences.shape[0] // ids.shape[0], dim=0).to(sequences.device)
        whole = torch.cat([prompt, sequences[:, width:]], dim=1)
        if isinstance(out, Tensor):
            return whole
        out.sequences = whole
        return out

    def _refuse_drafts(self, kwargs: dict[str, Any]) -> None:
        """Raise where tokens are drafted: by a prompt or a model that know nothing of the compressed layout."""
        for name in ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp"):
            given = (kwargs.get(name), getattr(kwargs.get("generation_config"), name, None))
            own = getattr(self.model.generation_config, name, None)
            if any((*given, own)):
                raise NotImplementedError(f"assisted decoding does not know compressed audio: leave {name} out")

    def _shorten(self, call: dict[str, Any], dropped: int) -> None:
        """Lengths that count the prompt mean the user's prompt, so the trimmed one has that many fewer to go."""
        if not dropped:
            return
        given, own = call.get("generation_config"), self.model.generation_config
        if given is not None:
            given = call["generation_config"] = copy.deepcopy(given)
        for name in ("max_length", "min_length"):
            length = call.get(name) or getattr(given, name, None) or getattr(own, name, None)
            if length and given is not None and not call.get(name):
                setattr(given, name, max(0, length - dropped))
            elif length:
                call[name] = max(0, length - dropped)

    def _prepare(self, kwargs: dict[str, Any], generating: bool) -> tuple[dict[str, Any], PromptLayout | Inside | None]:
        """Encode, compress, trim, merge: the call as the LLM is to see it, and how it is laid out."""
        call = dict(kwargs)
        steps = current(self.steps, self.model)
        method = steps.method or self.method
        if method.corrected:
            check_kernel(self.model)  # it may have been set since
        self.family.refuse(self.model, call)
        audio = {name: call.pop(name, None) for name in self.family.audio_inputs}
        missing = [name for name, value in audio.items() if value is None]
        if missing:
            raise ValueError(f"{self.family.name} hears by {', '.join(audio)}: {', '.join(missing)} is missing")
        ids: Tensor | None = call.get("input_ids")
        if ids is None or call.get("inputs_embeds") is not None:
            raise ValueError("audio is merged into the prompt by its placeholders: pass input_ids, not inputs_embeds")
        if not len(ids):
            raise ValueError("the batch is empty: input_ids have no row")
        if ids.is_meta or (
            self.model.get_input_embeddings().weight.is_meta and not hasattr(self.model, "hf_device_map")
        ):
            raise ValueError("the model or its inputs are on the meta device, which holds no numbers: load them first")
        labels = call.get("labels")
        if labels is not None and labels.shape != ids.shape:
            raise ValueError(
                f"labels go with the whole prompt, token by token: they are {tuple(labels.shape)}, "
                f"input_ids {tuple(ids.shape)}"
            )
        if call.get("position_ids") is not None:
            raise ValueError("position_ids of the uncompressed prompt do not fit the compressed one: leave them out")
        if generating and call.get("attention_mask") is None and len(ids) > 1 and self._holds_padding(ids):
            raise ValueError("the batch is padded and has no attention_mask to say where: pass the processor's")
        past = cache_in(call)
        if past is not None and past.get_seq_length() > 0:
            raise NotImplementedError("the cache holds tokens already: pass the whole prompt and an empty cache")

        placeholder = self.family.placeholder(self.model.config)
        inside = None
        if method.llm_layers and method.keep != 1:
            inside = Inside(method.site, method.llm_layers, steps)
            steps = replace(steps, compress=inside.first)
        tokens, clips, report = self._compressed(steps, audio, ids, ids == placeholder)
        if inside is not None:
            positions = self.family.positions(self.model, call, report.before)
            last = inside.expect(call, positions, reach_of(method, self.model.config))

        layout = None
        dropped = torch.zeros_like(ids, dtype=torch.bool)
        for clip, kept in zip(clips, tokens, strict=True):
            dropped[clip.row, clip.start + len(kept) : clip.start + clip.n] = True
        # frames may be shared out unevenly where no token is dropped
        if dropped.any() or any(plan is not None and plan.per > 1 for plan in report.plans):
            mask = call.get("attention_mask")
            trim = Trim.plan(dropped, mask)
            # a row shortened more than its neighbours needs padding even if the batch had none
            mask = torch.ones_like(ids) if mask is None else mask
            positions = self.family.positions(self.model, call, [clip.n for clip in clips]) if method.corrected else ids
            reach = reach_of(method, self.model.config)
            layout = steps.lay_out(method, positions, clips, report.plans, trim, mask, reach)
            pad = self._pad_id(ids, mask)
            call["attention_mask"] = trim.apply(mask, 0)
            if call.get("labels") is not None:
                call["labels"] = trim.apply(call["labels"], IGNORE)
            ids = call["input_ids"] = trim.apply(ids, pad)

        call["inputs_embeds"] = steps.embed(self.model, ids, ids == placeholder, tokens)
        if layout is not None and layout.positions is not None:
            call["position_ids"] = layout.positions
        counts = [len(clip) for clip in tokens]
        call = self.family.finish(self.model, call, counts, generating)
        if layout is not None and layout.positions is None:
            # For steps that go on from the cache. `generate` counts from a row's first token, `forward` from padding;
            # with M-RoPE the model itself would go on from its last prompt, which may be another thread's.
            at = self.family.positions(self.model, call, counts) if generating else call.get("position_ids")
            layout = replace(layout, positions=at)
        if inside is None:
            return call, layout
        if labels is not None:
            call["labels"] = last.apply(labels, IGNORE)
        inside.outer = layout
        return call, inside

    def _holds_padding(self, ids: Tensor) -> bool:
        pad = self.model.generation_config.pad_token_id
        return pad is not None and bool((ids[:, [0, -1]] == pad).any())

    def _pad_id(self, ids: Tensor, mask: Tensor) -> int:
        padded = ids[mask == 0]
        if len(padded):
            return int(padded[0])
        text = self.model.config.get_text_config()
        return next(
            (i for i in (getattr(text, "pad_token_id", None), getattr(text, "eos_token_id", None)) if type(i) is int), 0
        )

    def audio_tokens(
        self, audio: dict[str, Any], ids: Tensor, placeholders: Tensor
    ) -> tuple[list[Tensor], list[ClipSpan]]:
        """Encode audio, and form the output tokens of each clip. Writes `last`.

        Args:
            audio: the family's `audio_inputs`, on the model's device.
            ids: uncompressed prompts, (b, l).
            placeholders: where an audio token stands in them, (b, l).

        Returns:
            Output tokens of each clip, (m_i, d), in the order of the placeholders, and where the clips stand.

        Raises:
            ValueError: where the audio gives no token.
            NotImplementedError: where the method acts inside the LLM.
        """
        if self.method.llm_layers:
            raise NotImplementedError(f"at site={self.method.site} the LLM itself forms the tokens: use site=llm")
        tokens, clips, _ = self._compressed(current(self.steps, self.model), audio, ids, placeholders)
        return tokens, clips

    def _compressed(
        self, steps: Steps, audio: dict[str, Any], ids: Tensor, placeholders: Tensor
    ) -> tuple[list[Tensor], list[ClipSpan], Report]:
        """`audio_tokens`, and what is written to `last`, which another thread's call may write over."""
        method = steps.method or self.method
        trim = method.keep != 1 if self.trim is None else self.trim
        scores = "scores" in method.needs
        call = Call(self.model, self.family, method, self.learned, audio, ids, method.encoded_to, scores, trim)
        windows, spared = steps.encode(call)
        clips = find_clips(placeholders, windows.lengths, windows.full)
        if not clips:
            raise ValueError("the audio is too short for a single audio token: nothing to compress")
        tokens, plans = steps.compress(call, windows, clips)
        before, after = [clip.n for clip in clips], [len(one) for one in tokens]
        if method.llm_layers:
            after = [method.num_tokens(n) for n in before]
        report = self.last = Report(before, after, plans, method.positions, method.sizes, spared)
        log.info("audio tokens %d → %d (%s)", sum(before), sum(after), method.spec)
        return tokens, clips, report


def _learned(model: Any, method: Method) -> nn.Module | None:
    """The weights of a learned method that the model carries, whatever their budget was; new ones where it has none."""
    kept: dict[str, nn.Module] = model.__dict__.setdefault(_LEARNED, {})
    name = method.spec.partition("@")[0]
    embeddings = model.get_input_embeddings().weight
    if name not in kept:
        built = method.build(embeddings.shape[1])
        if built is None:
            return None
        kept[name] = built
    return kept[name].to(embeddings.device)


def attached(model: nn.Module) -> Attached | None:
    """What is attached to the model, or `None`."""
    return base_of(model).__dict__.get(_HANDLE)


@functools.cache
def _check_version() -> None:
    """Warn, once, of a transformers that nobody has tried: what is asked of its insides may have changed."""
    import transformers

    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if version > NEWEST:
        warnings.warn(
            f"transformers {transformers.__version__} is newer than {NEWEST[0]}.{NEWEST[1]}, the newest that fewhertz "
            "is tested with: see first whether keep=1 gives what the model gives without it",
            stacklevel=3,
        )


def heed(model: nn.Module) -> None:
    """Mark a model whose checkpoint's choice was read: `compress` does not warn of another one."""
    base_of(model).__dict__[_HEEDED] = True


def _heed(model: nn.Module, method: Method) -> None:
    """Warn, the first time, where transformers alone loaded a checkpoint that carries another choice."""
    shown = getattr(model.config, _SHOWN, None)
    carried = shown.get("method") if isinstance(shown, dict) else None
    if carried not in (None, method.spec) and _HEEDED not in model.__dict__:
        from fewhertz.checkpoint import Mismatch  # imports this module

        text = f"the checkpoint carries {carried!s:.200} (config.audio_compression), and is given {method.spec}"
        warnings.warn(text, Mismatch, stacklevel=3)  # where the user called compress
    heed(model)


def compress(
    model: nn.Module,
    method: str | Method = DEFAULT,
    *,
    positions: Positions | None = None,
    sizes: bool | None = None,
    trim: bool | None = None,
    steps: Steps | None = None,
) -> Attached:
    """Shorten the audio of every call of `model`: `forward` (labels too) and `generate`.

    The processor and the user's code stay as they are: `generate` returns the original prompt, then the new tokens.
    A second call replaces the first. The choice goes into `model.config.audio_compression`, and so with
    `save_pretrained`; `fewhertz.load` honours it. transformers' own `from_pretrained` does not: the model that it gives
    is uncompressed, and `compress` warns where it is given another method than the checkpoint carries.

    What a compressed model does otherwise: streamers, logits processors and stopping criteria see the trimmed prompt,
    and errors of transformers about `max_length` quote its length; logits are as wide as it is, also in `Trainer`'s
    `compute_metrics`; `DataParallel` is not supported: use `DistributedDataParallel`.

    Args:
        model: a transformers audio language model of a known family, PEFT-wrapped or not.
        method: a method or its spec, such as `"pool@keep=1/3"` or `"ltbm(window=0.32s)@8Hz+time+sizes"`. The default
            merges what is alike, as far as cost pocket little on dev; `fewhertz.tune` finds how far for a model.
        positions: where a compressed token stands for the LLM: `"packed"`, one after the other, as the methods'
            papers have it, or `"time"`, the mean position of what it stands for, with what follows where it stood
            before. `None`: as the method says (`+time` in a spec; `+time(fit)` draws positions within clips together
            where the prompt would end beyond the LLM's last one).
        sizes: whether attention counts a token as often as the tokens it stands for. `None`: as the method says
            (`+sizes`).
        trim: whether the encoder leaves out the padding behind a batch's longest clip, where it hides that padding
            from the clip anyway: the same audio tokens up to rounding (1e-5), sooner. `None`: where something is
            compressed, not at keep=1, which is exact to the bit. Families whose encoder attends to padding are as
            they are.
        steps: other ways to encode, compress, lay out or embed (fewhertz.steps). `None`: the usual ones.

    Returns:
        The handle: `.remove()` detaches the method, `.last` says what the last call did; also a context manager.

    Raises:
        TypeError: for an unknown family.
        ValueError: for a malformed method, or one that cannot act on this model, or be presented as asked; for
            `trim=True` where the encoder attends to padding.
        NotImplementedError: for time positions or sizes where the LLM runs neither sdpa nor eager attention.

    Example:
        >>> with fewhertz.compress(model, "pool@keep=1/3"):
        ...     out = model.generate(**inputs)
    """
    _check_version()
    base = base_of(model)
    family = family_of(base)
    handle = Attached(base, family, parse(method).present(positions, sizes), trim, steps)
    with _ATTACHING:
        before = attached(base)
        if before is not None:
            before.remove()
        _heed(base, handle.asked)
        handle._attach()
    return handle
