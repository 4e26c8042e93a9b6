"""Which methods an engine may run; nothing here imports vLLM."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fewhertz.families.base import FAMILIES, Config, Family
from fewhertz.method import METHODS, Method, parse
from fewhertz.specs import shown

KEY = "audio_compression"  # in config.json, in --hf-overrides, in mm_processor_kwargs, and of a clip's tensors
TOKENS = f"{KEY}_tokens"  # of a clip's tensors, for +time: audio tokens before compression
COUNTS = f"{KEY}_counts"  # of a clip's tensors, for count=mel: audio tokens after compression
LONGEST_SEGMENT = 16  # of `optimal`, in mean segments: its time grows with it, and a request may ask for it
LOG_MEL = ("qwen2-audio", "audio-flamingo-3")  # families whose features are windows of log-mel, one a clip or more
LONGEST_SPEC = 200  # characters; a request's spec goes with every one of its clips


def family_named(name: str) -> Family:
    """The family of this name."""
    return next(family for family in FAMILIES if family.name == name)


def _needs_nothing(method: type[Method]) -> bool:
    return method.fixed_budget and "scores" not in method.needs and method.build is Method.build


def carried_method(config: Config) -> Method | None:
    """The method in vLLM's `hf_config`, which is as its spec says: unbound, and perhaps not to be served.

    Raises:
        ValueError: where it is malformed.
    """
    carried = getattr(config, KEY, None)
    if carried is None:
        return None
    spec = carried.get("method") if isinstance(carried, dict) else None
    if not isinstance(spec, str):
        raise ValueError(f'{KEY} is {{"method": "pool@keep=1/3"}}, got {carried!r:.200}')
    return parse(spec)


class Configure:
    """Sets up an engine whose method has +time or +sizes; vLLM calls both before anything is loaded."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Switch M-RoPE on for +time: an LLM of plain RoPE reads the first of three equal axes."""
        method = carried_method(model_config.hf_config)
        if method is not None and method.positions == "time" and not model_config.uses_mrope:
            model_config.hf_config.mrope_section = [1]  # its length alone is read

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Raise `ValueError` for settings under which corrections would not reach the LLM, or wrongly."""
        method = carried_method(vllm_config.model_config.hf_config)
        if method is None or (method.positions != "time" and not method.sizes):
            return
        parallel = vllm_config.parallel_config
        # under these, layers see other tokens than those corrected, or embeddings go to another model too
        for refused, option in (
            (parallel.pipeline_parallel_size > 1, "--pipeline-parallel-size"),
            (parallel.prefill_context_parallel_size > 1, "--prefill-context-parallel-size"),
            (parallel.use_ubatching, "microbatches"),
            (vllm_config.speculative_config is not None, "--speculative-config"),
        ):
            if refused:
                raise ValueError(f"{method.spec} cannot be served with {option}; without +time and +sizes it can")


class Choice:
    """Which methods an engine runs: the one that its checkpoint carries, and what requests may ask for.

    Args:
        family: of the model.
        config: vLLM's `hf_config`; `audio_compression` in it is `{"method": SPEC}`.
        scores: whether the encoder is transformers' own, whose attention can be captured.

    Raises:
        ValueError: for a method that cannot be served, naming it and what to use instead.
    """

    def __init__(self, family: Family, config: Config, scores: bool) -> None:
        self.family = family
        self.config = getattr(config, "thinker_config", config)
        self.scores = scores
        self.default: Method | None = None
        self.learned = ""  # name and parameters of the learned method whose weights the model has
        self._read = lru_cache(maxsize=256)(self._parse)
        method = carried_method(config)
        # the LLM is made for these two; a request may do without
        self.time = method is not None and method.positions == "time"
        self.sizes = method is not None and method.sizes
        if method is None:
            return
        if method.build(1) is not None:
            self.learned = method.spec.partition("@")[0]
        self.default = self.method(method.spec)

    def method(self, spec: Any) -> Method:
        """The method of a spec, its budget bound to the model's rate.

        Raises:
            ValueError: where it is malformed or cannot be served.
        """
        if not isinstance(spec, str) or len(spec) > LONGEST_SPEC:
            raise ValueError(f'{KEY} is a spec such as "pool@keep=1/4", got {spec!r:.100}')
        return self._read(spec)

    def _parse(self, spec: str) -> Method:
        given = parse(spec)
        if given.fit:
            raise ValueError(
                f"{shown(spec)} cannot be served: vLLM lays out whole positions, and those of text between clips would "
                "be fractions; leave (fit) out"
            )
        method = self.family.fit(given, self.config)
        name = method.name
        if "mel" in method.needs and self.family.name not in LOG_MEL:
            raise ValueError(
                f"{spec} cannot be served: count=mel reads the features of {' and '.join(LOG_MEL)} alone under vLLM"
            )
        if not method.fixed_budget and "mel" not in method.needs:
            instead = (
                "write ward(count=mel)@tolerance=0.5, whose count is known before"
                if method.tolerance is not None
                else "leave shared=true out: each clip then keeps its own share"
                if method.together
                else "its form of fixed length is segment: segment@keep=1/3"
            )
            raise ValueError(
                f"{method.spec} cannot be served: it is of variable length, and vLLM lays out the prompt before the "
                f"audio is encoded; {instead}"
            )
        for suffix, asked, made_for in (
            ("+time", method.positions == "time", self.time),
            ("+sizes", method.sizes, self.sizes),
        ):
            if asked and not made_for:
                raise ValueError(
                    f"{spec} cannot be served: this engine's LLM has no {suffix}; start the engine with a "
                    f"method that has it, such as {method.spec}"
                )
        if getattr(method, "longest", 0) > LONGEST_SEGMENT:
            raise ValueError(
                f"{shown(spec)} would keep the engine busy: longest is at most {LONGEST_SEGMENT} when served"
            )
        if method.site == "encoder" or method.llm_layers or (method.layers and not self.scores):
            raise ValueError(f"{spec} cannot be served at site={method.site}: vLLM hands out projected tokens; omit it")
        if "scores" in method.needs and not self.scores:
            others = ", ".join(sorted(n for n, m in METHODS.items() if _needs_nothing(m)))
            raise ValueError(
                f"{spec} needs the encoder's attention scores, and vLLM runs the encoder of {self.family.name} by "
                f"kernels of its own, which give none; without scores work {others}"
            )
        if method.build(1) is not None and method.spec.partition("@")[0] != self.learned:
            raise ValueError(f"{name} is learned, and this model carries no weights of {method.spec.partition('@')[0]}")
        return method
