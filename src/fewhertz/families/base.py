"""What a family has to say about its architecture, and the registry of families."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewhertz.corrections import no_plan, reach_of
from fewhertz.method import Method

MEL_HZ = 100  # mel frames per second of Whisper's front end: 16,000 samples over hops of 160

Config: TypeAlias = Any  # a transformers configuration: attributes differ by family

FAMILIES: list[Family] = []

_THINKER = "only its thinker hears: compress that, fewhertz.compress(model.thinker, …)"
_SUMMED = "it adds audio to the embedding of every text token as the stream comes in: there are no audio tokens to drop"
_LAYERWISE = (
    "its LLM embeds every token id again for each of its layers, so a prompt cannot be handed over as embeddings alone"
)
_NOISE = "its audio tokens are drawn with noise at each call, and its generate takes no merged prompt"
_ONE_STEP = (
    "it encodes, projects and merges audio in one step as it embeds the prompt, and has no features to take hold of"
)
# classes and model types that look like a family and are none, and why
REFUSED = {
    "Qwen2_5OmniForConditionalGeneration": _THINKER,
    "Qwen3OmniMoeForConditionalGeneration": _THINKER,
    "VoxtralRealtimeForConditionalGeneration": _SUMMED,
    "KyutaiSpeechToTextForConditionalGeneration": _SUMMED,
    "Gemma3nForConditionalGeneration": _LAYERWISE,
    "Gemma4ForConditionalGeneration": _LAYERWISE,
    "Phi4MultimodalForCausalLM": _ONE_STEP,
    "VibeVoiceAsrForConditionalGeneration": _NOISE,
    "qwen2_5_omni": "only its thinker hears: use config.thinker_config",
    "qwen3_omni_moe": "only its thinker hears: use config.thinker_config",
    "voxtral_realtime": _SUMMED,
    "kyutai_speech_to_text": _SUMMED,
    "gemma3n": _LAYERWISE,
    "gemma4": _LAYERWISE,
    "phi4_multimodal": _ONE_STEP,
    "vibevoice_asr": _NOISE,
}


@dataclass(frozen=True)
class Windows:
    """Encoded audio: the encoder's windows, one after the other without padding, in the order of the placeholders.

    Args:
        tokens: audio tokens at the method's site; before an encoder layer, frames.
        lengths: audio tokens of each window; they add up to n, where the tokens are no frames.
        full: audio tokens of a full window. A full window and the one that follows it without text between them
            are the same clip. None: a window is a clip, whatever its length.
        scores: attention received by each token (`scores.column_sums`), where it was asked for.
        frames: of each window, where the tokens are frames; they add up to n.
    """

    tokens: Float[Tensor, "n d"]
    lengths: list[int]
    full: int | None
    scores: Float[Tensor, " n"] | None = None
    frames: list[int] | None = None


class Family:
    """One architecture: where its audio tokens come from and how they enter the LLM.

    A subclass is one file: it fills the class variables, `rate` and `encode` (`project` where it has the site
    `"encoder"`), and is registered by `class MyFamily(Family, name="my-family")` plus an import line in
    `families/__init__.py`.
    """

    name: ClassVar[str]
    model_classes: ClassVar[tuple[str, ...]]  # names of the transformers classes that are compressed
    model_types: ClassVar[tuple[str, ...]]  # their `config.model_type`
    audio_inputs: ClassVar[tuple[str, ...]]  # arguments of forward that carry audio: consumed here
    sites: ClassVar[tuple[str, ...]] = ("llm", "encoder")
    max_seconds: ClassVar[float | None] = None  # longest clip that the processor reads without cutting; None: any
    log_mel: ClassVar[bool] = True  # whether its audio input is a log-mel of 100 frames a second, for count=mel
    # What the encoder does with the padding behind a clip. "masked": computes it and hides it from the clip, so it can
    # be trimmed. "heard": attends to it, so it cannot. "left out": computes valid frames alone.
    padding: ClassVar[Literal["masked", "heard", "left out"]] = "heard"
    # why there is no site "encoder.k"; None: there is
    not_inside: ClassVar[str | None] = "its encoder is not known to run on merged frames"

    def __init_subclass__(cls, name: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name
        FAMILIES.append(cls())

    def rate(self, config: Config) -> Fraction:
        """Audio tokens per second before compression, in Hz."""
        raise NotImplementedError

    def fit(self, method: Method, config: Config) -> Method:
        """The method with its budget bound to this model's rate.

        Raises:
            ValueError: where it acts at a site that the family lacks, needs what it has not, asks for more tokens
                than there are, has no plan to be presented by, or is to fit positions that nobody has counted.
        """
        learned = type(method).forward is not Method.forward and type(method).assign is Method.assign
        if learned and method.corrected:
            raise no_plan(method)
        if "mel" in method.needs and not self.log_mel:
            raise ValueError(f"{self.name} reads no plain log-mel, which count=mel needs: leave it out")
        reach_of(method, config)
        if method.layers:
            self._check_inside(method, config)
        elif method.llm_layers:
            self._check_inside_llm(method, config)
        elif method.site not in self.sites:
            raise ValueError(
                f"{self.name} can be compressed at {' or '.join(self.sites)} only: "
                "its projector joins several encoder frames into one audio token"
            )
        return method.at(self.rate(config))

    def _check_inside(self, method: Method, config: Config) -> None:
        if self.not_inside is not None:
            raise ValueError(f"{self.name} cannot be compressed inside its encoder: {self.not_inside}")
        layers = config.audio_config.num_hidden_layers
        if method.layers[-1] >= layers:
            raise ValueError(
                f"{self.name} cannot be compressed at {method.site}: its encoder has layers 0 to {layers - 1}"
            )
        why = None
        if method.together:
            why = "clips share its budget, and what is merged there are frames of a window"
        elif not method.fixed_budget and method.tolerance is None:
            why = "its count follows the content, and of frames may be more than the prompt has placeholders"
        elif "mel" in method.needs:
            why = "count=mel counts the audio tokens of whole clips"
        elif "scores" in method.needs:
            why = "it needs the scores of the encoder's last layer, which has not run there"
        elif type(method).assign is Method.assign:
            why = "only a method that writes a plan does: no chain, none that is learned"
        if why is not None:
            raise ValueError(f"{method.name} cannot act at {method.site}: {why}")

    def _check_inside_llm(self, method: Method, config: Config) -> None:
        text = config.get_text_config()
        why = None
        if method.llm_layers[-1] >= text.num_hidden_layers:
            why = f"the LLM has layers 0 to {text.num_hidden_layers - 1}"
        elif any(kind != "full_attention" for kind in getattr(text, "layer_types", None) or ()):
            why = "the LLM has layers of other kinds than full attention"
        elif not method.fixed_budget:
            why = "its count follows the content, and a price is one for audio tokens, not for hidden states"
        elif type(method).forward is not Method.forward:
            why = "it is learned, for the LLM's input space"
        elif method.fit:
            why = "the layers before it read all positions: leave fit out"
        elif method.llm_layers[1:] and ("scores" in method.needs or type(method).assign is Method.assign):
            why = "before several layers only a method does that writes a plan: no chain, none that needs scores"
        if why is not None:
            raise ValueError(f"{method.name} cannot act at {method.site}: {why}")

    def check_trim(self, trim: bool | None) -> None:
        """Raise `ValueError` where `trim` is asked for and would change the audio tokens."""
        if trim and self.padding == "heard":
            raise ValueError(
                f"{self.name} cannot be trimmed: its encoder attends to the padding behind a clip, so without it the "
                "audio tokens would be others"
            )

    def placeholder(self, config: Config) -> int:
        """Token id that stands for one audio token in `input_ids`."""
        return config.audio_token_id

    def encode(
        self, model: nn.Module, audio: dict[str, Any], input_ids: Int[Tensor, "b l"], site: str, scores: bool
    ) -> Windows:
        """Run the audio encoder as the stock model does, bit for bit.

        Args:
            model: the model, its LLM and head included.
            audio: the arguments of the call named in `audio_inputs`.
            input_ids: the prompts, every placeholder in place.
            site: `"llm"`: tokens after the projector; `"encoder"`: before it; `"encoder.k"`: frames before layer k.
            scores: whether to capture attention received in the last encoder layer, at the LLM's rate.

        Raises:
            NotImplementedError: where scores are asked for and cannot be had.
        """
        raise NotImplementedError

    def trimmed(
        self, model: nn.Module, audio: dict[str, Any], input_ids: Int[Tensor, "b l"]
    ) -> tuple[nn.Module, dict[str, Any]]:
        """A model and audio for `encode` that give the same tokens, up to rounding, from the batch's valid frames.

        What is returned shares the model's weights, and nothing of the model is changed.

        Args:
            model: as in `encode`.
            audio: as in `encode`.
            input_ids: as in `encode`.
        """
        return model, audio

    def project(self, model: nn.Module, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n e"]:
        """Bring tokens of the site `"encoder"` into the LLM's input space."""
        raise NotImplementedError

    def run_layers(
        self,
        model: nn.Module,
        layers: slice,
        windows: list[Float[Tensor, "_ d"]],
        sizes: list[Int[Tensor, " _"]],
    ) -> list[Float[Tensor, "_ d"]]:
        """Bring merged frames of the site `"encoder.k"` through some of the encoder's layers.

        Args:
            model: the model.
            layers: those that they run through.
            windows: merged frames of each window, at least one.
            sizes: frames that each of them stands for: log s is added to its attention logits.

        Raises:
            NotImplementedError: where the encoder runs another kernel than sdpa or eager.
        """
        raise NotImplementedError

    def finish_encoding(
        self, model: nn.Module, windows: list[Float[Tensor, "_ d"]], times: list[Float[Tensor, " _"]]
    ) -> list[Float[Tensor, "_ e"]]:
        """Bring what the encoder's last layer made of merged frames into the LLM's input space.

        Args:
            model: the model.
            windows: merged frames of each window.
            times: mean position of what each of them stands for, in audio tokens of its clip, uncompressed.
        """
        raise NotImplementedError

    def generate(self, model: nn.Module, original: Callable[..., Any], call: dict[str, Any]) -> Any:
        """Run the model's own `generate` on a prompt with merged audio.

        Args:
            model: the model.
            original: its `generate`.
            call: arguments, as `finish` gives them.
        """
        return original(**call)

    def refuse(self, model: nn.Module, call: dict[str, Any]) -> None:
        """Raise `NotImplementedError`, by name, for calls that cannot be compressed."""

    def positions(self, model: nn.Module, call: dict[str, Any], counts: list[int]) -> Tensor:
        """Position of each token of the uncompressed prompts, (b, l), or (3, b, l) with M-RoPE.

        Args:
            model: the model.
            call: arguments, before `input_ids` and `attention_mask` are trimmed.
            counts: audio tokens of each clip, uncompressed, in the order of the placeholders.
        """
        ids, mask = call["input_ids"], call.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask.long()
        return (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)

    def finish(self, model: nn.Module, call: dict[str, Any], counts: list[int], generating: bool) -> dict[str, Any]:
        """Last changes to the call's arguments once `input_ids` are trimmed and `inputs_embeds` are merged.

        Args:
            model: the model.
            call: arguments; may be changed. `position_ids` are there under `+time`.
            counts: audio tokens of each clip, compressed, in the order of the placeholders.
            generating: whether `generate` is called, which takes both, or `forward`, which takes one of them.
        """
        if not generating:
            del call["input_ids"]
        return call


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the first argument of every call of `module` in this thread."""
    seen: list[Tensor] = []
    here = threading.get_ident()
    hook = module.register_forward_pre_hook(
        lambda _module, args: seen.append(args[0]) if threading.get_ident() == here else None
    )
    try:
        yield seen
    finally:
        hook.remove()
