"""What every family needs under vLLM: fewer placeholders in the prompt, and the embeddings that go there.

vLLM lays out a prompt before the audio is encoded, in another process than the encoder's. So a method with a fixed
count is needed; its spec goes with each clip from the one process to the other.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from torch import Tensor, nn
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal.audio import AudioResampler
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import AudioProcessorItems
from vllm.multimodal.processing import PromptReplacement, PromptUpdateDetails

from fewhertz.checkpoint import LEARNED, fill_learned
from fewhertz.corrections import HIDDEN
from fewhertz.families import whisper
from fewhertz.families.base import Family, Windows
from fewhertz.layout import ClipSpan
from fewhertz.mel import FRAMES, mel_tokens
from fewhertz.method import IDENTITY, Clip, Method
from fewhertz.plan import Plan
from fewhertz.scores import attention_received, token_means
from fewhertz.steps import Call, compress
from fewhertz.vllm.choice import COUNTS, KEY, TOKENS, Choice
from fewhertz.vllm.corrections import CorrectedModel, beside

LOGGED_SPECS = 100  # methods that are logged at the level INFO

# names that transformers gives weights since 5.0, and those of the checkpoints that vLLM reads
NEW_NAMES = WeightsMapper(
    orig_to_new_prefix={
        "model.language_model.": "language_model.model.",
        "language_model.model.model.": "language_model.model.",  # by save_pretrained of 5.19, for new models
        "model.": "",
        "lm_head.": "language_model.lm_head.",
    }
)

log = logging.getLogger("vllm.fewhertz")


def _without(kwargs: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in kwargs.items() if name != KEY}


def _packed(spec: str) -> Tensor:
    return torch.tensor(list(spec.encode()), dtype=torch.uint8)


def _unpacked(row: Tensor) -> str:
    return bytes(row.tolist()).decode()


class CompressedProcessor:
    """Goes before vLLM's processor of a family: prompts get n_out placeholders a clip.

    Class variables: `family`, and `scores`, as `Choice` has it.
    """

    family: ClassVar[Family]
    scores: ClassVar[bool] = False

    def __init__(self, info: Any, dummy_inputs: Any) -> None:
        upstream: Any = super()
        upstream.__init__(info, dummy_inputs)
        self.info = info
        self.choice = Choice(self.family, info.ctx.model_config.hf_config, self.scores)
        self._logged: set[str] = set()
        if KEY in (info.ctx.get_mm_config().mm_processor_kwargs or {}):
            raise ValueError(
                f'{KEY} in --mm-processor-kwargs is for requests; for all of them: --hf-overrides \'{{"{KEY}": '
                '{"method": "pool@keep=1/3"}}\''
            )
        if self.choice.default is not None:
            # what fewhertz.audio resamples by; vLLM's default, torchaudio, is not installed beside the CPU build
            for parser in (self.data_parser, info.data_parser):  # type: ignore[attr-defined]
                parser.audio_resampler = AudioResampler(parser.audio_resampler.target_sr, method="soxr")

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """The largest input, uncompressed: a request may ask for any keep."""
        upstream: Any = super()
        inputs = upstream.get_dummy_inputs(*args, **kwargs)
        return dataclasses.replace(inputs, hf_processor_mm_kwargs={KEY: IDENTITY}) if self.choice.default else inputs

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Process a prompt with its audio.

        Raises:
            ValueError: for a method that cannot be served, and for audio longer than the model reads.
        """
        upstream: Any = super()
        asked = inputs.hf_processor_mm_kwargs.get(KEY)
        scoped = inputs.hf_processor_mm_kwargs.get("audio_kwargs")
        if isinstance(scoped, Mapping) and KEY in scoped:
            raise ValueError(f"{KEY} stands beside audio_kwargs in mm_processor_kwargs, not in it")
        method = self.choice.default if asked is None else self.choice.method(asked)
        if method is None:
            return upstream.apply(inputs, timing_ctx)
        self._check(inputs)
        # part of the cache keys: two methods share no entry, neither of a clip's tensors nor of its embeddings or
        # the prompt's keys and values
        kwargs = _without(inputs.hf_processor_mm_kwargs) | {KEY: method.spec}
        return upstream.apply(dataclasses.replace(inputs, hf_processor_mm_kwargs=kwargs), timing_ctx)

    def _check(self, inputs: Any) -> None:
        if self.info.ctx.get_merged_mm_kwargs(inputs.hf_processor_mm_kwargs).get("use_audio_in_video"):
            raise ValueError(f"{self.family.name} cannot compress audio inside a video: pass the sound track as audio")
        audio = inputs.mm_data_items.get("audio")
        longest = self.family.max_seconds
        if longest is None or not isinstance(audio, AudioProcessorItems):
            return
        rate = self.info.get_feature_extractor().sampling_rate
        for i in range(len(audio)):
            clip = audio.get(i)
            if clip is not None and len(clip) > longest * rate:
                raise ValueError(
                    f"the audio is {len(clip) / rate:.1f} s long, {self.family.name} reads {longest:g} s: "
                    "send it in parts"
                )

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        upstream: Any = super()
        data = upstream._apply_hf_processor_main(mm_items, _without(hf_kwargs))
        audio = mm_items.get("audio")
        # embeddings that a request brings are what somebody has compressed, or not: they stay
        if KEY in hf_kwargs and isinstance(audio, AudioProcessorItems) and len(audio):
            spec = str(hf_kwargs[KEY])
            method = self.choice.method(spec)
            if method.positions == "time" or "mel" in method.needs:
                made = MultiModalKwargsItems.from_hf_inputs(data, self._get_mm_fields_config(data, hf_kwargs))
                updates = upstream._get_prompt_updates(mm_items, _without(hf_kwargs), made)
                runs = next(update for update in updates if update.modality == "audio")
                tokens = [len(self._run(runs, i)[1]) for i in range(len(audio))]
                if method.positions == "time":
                    data[TOKENS] = torch.tensor(tokens)
                if "mel" in method.needs:
                    data[COUNTS] = torch.tensor(self._counts(method, data, tokens))
            data[KEY] = _packed(spec).repeat(len(audio), 1)
        return data

    def _counts(self, method: Any, data: Any, tokens: list[int]) -> list[int]:
        """Tokens that each clip keeps, by its log-mel."""
        rate = float(self.family.rate(self.choice.config))
        windows = [1] * len(tokens) if data.get("chunk_counts") is None else [int(c) for c in data["chunk_counts"]]
        full = round(data["input_features"].shape[-1] * rate / FRAMES)  # tokens of a whole window
        counts, start = [], 0
        for n, number in zip(tokens, windows, strict=True):
            lengths = [full] * (number - 1) + [n - full * (number - 1)]
            mel = mel_tokens(data["input_features"][start : start + number], lengths, rate)
            counts.append(int(method.counts(mel[None], rate)))
            start += number
        return counts

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]) -> Any:
        upstream: Any = super()
        fields = dict(upstream._get_mm_fields_config(hf_inputs, _without(hf_processor_mm_kwargs)))
        for name in (KEY, TOKENS, COUNTS):
            if name in hf_inputs:
                fields[name] = MultiModalFieldConfig.batched("audio", keep_on_cpu=True)
        return fields

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Any:
        upstream: Any = super()
        updates = upstream._get_prompt_updates(mm_items, _without(hf_processor_mm_kwargs), out_mm_kwargs)
        if KEY not in out_mm_kwargs.get_data():
            return updates
        method = self.choice.method(hf_processor_mm_kwargs[KEY])
        held = out_mm_kwargs.get_data()
        counts = [int(c) for c in held[COUNTS]] if COUNTS in held else None
        return [self._shortened(update, method, counts) if update.modality == "audio" else update for update in updates]

    def _shortened(self, update: Any, method: Method, counts: list[int] | None) -> PromptReplacement:
        def shorten(item_idx: int) -> PromptUpdateDetails:
            full, run, places = self._run(update, item_idx)
            n = len(run)
            m = method.num_tokens(n) if counts is None else counts[item_idx]
            if m < n:
                self._log_counts(n, m, method.spec)
            keep = torch.ones_like(places)
            keep[run[m:]] = False
            places = places[keep]
            return PromptUpdateDetails([t for t, k in zip(full, keep.tolist(), strict=True) if k], lambda _: places)

        return dataclasses.replace(update, replacement=shorten)

    def _run(self, update: Any, item_idx: int) -> tuple[list[int], Tensor, Tensor]:
        """What vLLM's processor puts in a clip's place: token ids, indices of its run of audio tokens, and its mask."""
        details = update.resolve(item_idx).content
        full = details.full
        places = torch.ones(len(full), dtype=torch.bool) if details.is_embed is None else details.is_embed(full)
        run = places.nonzero().flatten()
        if len(run) == 0:
            raise ValueError("the audio is too short for a single audio token")
        if int(run[-1]) - int(run[0]) + 1 != len(run):
            raise ValueError(f"{self.family.name} lays out text within a clip: it cannot be compressed")
        return full, run, places

    def _log_counts(self, before: int, after: int, spec: str) -> None:
        level = logging.DEBUG if spec in self._logged or len(self._logged) >= LOGGED_SPECS else logging.INFO
        if level == logging.INFO:
            self._logged.add(spec)
        log.log(level, "audio tokens %d → %d (%s)", before, after, spec)


class CompressedModel(CorrectedModel):
    """Goes before vLLM's model of a family: `embed_multimodal` gives n_out embeddings a clip.

    Class variables as in `CompressedProcessor`, and `renamed`: names of weights that vLLM's model does not know itself.
    """

    family: ClassVar[Family]
    scores: ClassVar[bool] = False
    renamed: ClassVar[WeightsMapper | None] = None
    trims = False  # while clips are embedded that are all compressed: see WhisperTower

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        upstream: Any = super()
        upstream.__init__(vllm_config=vllm_config, prefix=prefix)
        model = vllm_config.model_config
        self.choice = Choice(self.family, model.hf_config, self.scores)
        self._file = Path(model.model) / LEARNED
        # in a list: no submodule, since vLLM looks for the weights of each in the checkpoint's own files
        self._learned = [self._load_learned(model.hf_config.get_text_config().hidden_size)]
        self._listen(vllm_config)

    def _load_learned(self, width: int) -> nn.Module | None:
        default = self.choice.default
        kernel = None if default is None else default.build(width)
        if default is None or kernel is None:
            return None
        if not self._file.is_file():
            raise ValueError(f"{default.name} is learned, and its weights are missing: {self._file} is no file")
        kernel = kernel.float().requires_grad_(False)
        fill_learned(kernel, self._file, default)
        return kernel

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the model's own: vLLM reads all safetensors files of a directory, a learned method's among them."""
        upstream: Any = super()
        learned: set[str] = set()
        if self._file.is_file():
            with safe_open(self._file, framework="pt") as file:
                learned = set(file.keys())
        own = ((name, weight) for name, weight in weights if name not in learned)
        return upstream.load_weights(own if self.renamed is None else self.renamed.apply(own))

    def scored(self, audio: dict[str, Any]) -> AbstractContextManager[list[Tensor]]:
        """Capture attention scores of the clips that `embed_multimodal(**audio)` encodes within it.

        Yields:
            A list that holds the scores of each clip, (n,), once the context is left.
        """
        raise NotImplementedError

    def merged(self, audio: dict[str, Any], methods: dict[int, Method]) -> dict[int, tuple[Tensor, Plan | None]]:
        """Embeddings of clips of `embed_multimodal(**audio)` whose frames are merged inside the encoder, (m, d), and
        the plan of each.

        Args:
            audio: of all clips.
            methods: of those clips, by their places.
        """
        raise NotImplementedError

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Embeddings of each item, compressed where it says by which method."""
        upstream: Any = super()
        specs = kwargs.pop(KEY, None)
        kwargs.pop(TOKENS, None)
        counts = kwargs.pop(COUNTS, None)
        if specs is None:
            tokens = upstream.embed_multimodal(**kwargs)
            return tokens if self._carried is None else [self.carrying(x) for x in tokens]
        methods = [self.choice.method(_unpacked(row)) for row in specs]
        self.trims = all(method.keep != 1 for method in methods)
        try:
            return self._embed(kwargs, methods, None if counts is None else [int(count) for count in counts])
        finally:
            self.trims = False

    def _embed(self, kwargs: dict[str, Any], methods: list[Method], counts: list[int] | None) -> tuple[Tensor, ...]:
        upstream: Any = super()
        inside = {i: method for i, method in enumerate(methods) if method.layers and method.keep != 1}
        merged = self.merged(kwargs, inside) if inside else {}
        if len(inside) == len(methods):
            return tuple(self._carrying(methods[i], *merged[i]) for i in inside)
        scores: Sequence[Tensor | None] = [None] * len(methods)
        if any("scores" in method.needs for method in methods):
            with self.scored(kwargs) as scores:
                tokens = upstream.embed_multimodal(**kwargs)
        else:
            tokens = upstream.embed_multimodal(**kwargs)
        out = self._compressed(tokens, methods, scores, counts or [0] * len(methods), inside)
        return tuple(self._carrying(methods[i], *merged[i]) if i in merged else x for i, x in enumerate(out))

    def _carrying(self, method: Method, tokens: Tensor, plan: Plan | None) -> Tensor:
        carried = beside(method, plan)
        return self.carrying(tokens, None if carried is None else carried[0])

    def _compressed(
        self,
        tokens: Sequence[Tensor],
        methods: list[Method],
        scores: Sequence[Tensor | None],
        counts: list[int],
        but: Collection[int],
    ) -> tuple[Tensor, ...]:
        """Clips of equal length, method and count (0: the method's own) together: methods get dense batches."""
        alike: dict[tuple[int, str, int], list[int]] = {}
        for i, (x, method) in enumerate(zip(tokens, methods, strict=True)):
            if i not in but:
                alike.setdefault((len(x), method.spec, counts[i]), []).append(i)
        rate = float(self.family.rate(self.choice.config))
        out = list(tokens)
        for (n, _, m), members in alike.items():
            x = torch.stack([tokens[i] for i in members])
            received = [each for i in members if (each := scores[i]) is not None]
            kernel = self._learned[0] = None if self._learned[0] is None else self._learned[0].to(x.device)
            clip = Clip(rate, torch.stack(received) if received else None, learned=kernel)
            method = methods[members[0]]
            if m:
                plan: Plan | None = Plan.identity(len(x), n, x.device) if m == n else method.assign(x, m, clip)
                assert plan is not None
                short = plan.apply(x)
            else:
                short, plan = method.forward(x, clip)
            carried = beside(method, plan)
            for k, i in enumerate(members):
                out[i] = self.carrying(short[k], None if carried is None else carried[k])
        return tuple(out)


class WhisperTower:
    """The encoder that Qwen2-Audio and Audio Flamingo 3 share, transformers' own: windows of 30 s, padded.

    Where all clips of a batch are compressed, it reads no more than the longest of them (fewhertz.families.whisper).
    """

    audio_tower: Any
    trims: bool
    family: Family

    @property
    def base_model(self) -> Any:
        """Where `Family` looks for tower and projector."""
        return self

    def width(self, mask: Tensor) -> int:
        """Mel frames of a window that the encoder reads, of those that a mask of (windows, frames) is over."""
        return whisper.cut_of(mask.sum(-1), mask.shape[-1]) if self.trims else mask.shape[-1]

    @contextmanager
    def scored(self, audio: dict[str, Any]) -> Iterator[list[Tensor]]:
        """See `CompressedModel.scored`."""
        mask = audio["feature_attention_mask"]
        mask = torch.cat(list(mask)) if isinstance(mask, list) else mask
        frames = (mask.sum(-1) - 1) // 2 + 1
        steps = (self.width(mask) - 1) // 2 + 1
        valid = torch.arange(steps, device=frames.device) < frames[:, None]
        scores: list[Tensor] = []
        with attention_received(self.audio_tower.layers[-1].self_attn, valid) as received:
            yield scores
        lengths = (frames // 2).tolist()
        windows = [row[:n] for row, n in zip(token_means(received.scores, 2), lengths, strict=True)]
        scores += [torch.cat(windows[start:end]) for start, end in self._spans(audio, len(windows))]

    @staticmethod
    def _spans(audio: dict[str, Any], windows: int) -> list[tuple[int, int]]:
        """First and last window of each clip."""
        counts = audio.get("chunk_counts")
        return [*pairwise(accumulate([1] * windows if counts is None else map(int, counts), initial=0))]

    def merged(self, audio: dict[str, Any], methods: dict[int, Method]) -> dict[int, tuple[Tensor, Plan | None]]:
        """See `CompressedModel.merged`."""
        features, mask = (
            torch.cat(list(x)) if isinstance(x := audio[name], list) else x
            for name in ("input_features", "feature_attention_mask")
        )
        spans = self._spans(audio, len(features))
        alike: dict[str, list[int]] = {}
        for i, method in methods.items():
            alike.setdefault(method.spec, []).append(i)
        out: dict[int, tuple[Tensor, Plan | None]] = {}
        for members in alike.values():
            rows = [row for i in members for row in range(*spans[i])]
            method = methods[members[0]]
            windows = self._frames(features[rows], mask[rows], method.layers[0])
            clips, first = [], 0
            for row, i in enumerate(members):
                end = first + spans[i][1] - spans[i][0]
                lengths = [n for n in windows.lengths[first:end] if n]  # a last window too short for a token is none
                clips.append(ClipSpan(row, 0, sum(lengths), first, first + len(lengths)))
                first = end
            model: Any = self
            call = Call(model, self.family, method, None, {}, mask, method.encoded_to, scores=False, trim=True)
            out |= zip(members, zip(*compress(call, windows, clips), strict=True), strict=True)
        return out

    def _frames(self, features: Tensor, mask: Tensor, layer: int) -> Windows:
        """Frames of windows before a layer, computed to the longest of them."""
        tower, full = self.audio_tower, mask.shape[-1]
        width, like = whisper.cut_of(mask.sum(-1), full), tower.conv1.weight
        frames = (mask.sum(-1) - 1) // 2 + 1
        hidden = torch.arange(width // 2, device=mask.device) >= frames[:, None]
        bias = torch.zeros_like(hidden, dtype=like.dtype).masked_fill(hidden, HIDDEN).to(like.device)
        part = whisper.before(tower if width == full else whisper.shortened(tower, width // 2), layer)
        x = part(features[..., :width].to(like), attention_mask=bias[:, None, None].expand(-1, 1, width // 2, -1))
        x = x if isinstance(x, Tensor) else x.last_hidden_state  # of vLLM's own encoder, and of transformers'
        return whisper.WhisperTower.frames_of(x, frames, frames // 2, full // 4)
