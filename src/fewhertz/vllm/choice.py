"""Which methods an engine may run; nothing here imports vLLM."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import fewhertz.families  # noqa: F401  (fills FAMILIES)
from fewhertz.families.base import FAMILIES, Config, Family
from fewhertz.method import METHODS, Method, parse

KEY = "audio_compression"  # in config.json, in --hf-overrides, in mm_processor_kwargs, and of a clip's tensors
LONGEST_SPEC = 200  # characters; a request's spec goes with every one of its clips


def family_named(name: str) -> Family:
    """The family of this name."""
    return next(family for family in FAMILIES if family.name == name)


def _needs_nothing(method: type[Method]) -> bool:
    return method.fixed_budget and "scores" not in method.needs and method.build is Method.build


class Choice:
    """Which methods an engine runs: the one that its checkpoint wears, and what requests may ask for.

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
        carried = getattr(config, KEY, None)
        if carried is None:
            return
        spec = carried.get("method") if isinstance(carried, dict) else None
        if not isinstance(spec, str):
            raise ValueError(f'{KEY} is {{"method": "pool@keep=1/3"}}, got {carried!r:.200}')
        if parse(spec).build(1) is not None:
            self.learned = spec.partition("@")[0]
        self.default = self.method(spec)

    def method(self, spec: Any) -> Method:
        """The method of a spec, its budget bound to the model's rate.

        Raises:
            ValueError: where it is malformed or cannot be served.
        """
        if not isinstance(spec, str) or len(spec) > LONGEST_SPEC:
            raise ValueError(f'{KEY} is a spec such as "pool@keep=1/4", got {spec!r:.100}')
        return self._read(spec)

    def _parse(self, spec: str) -> Method:
        method = self.family.fit(parse(spec), self.config)
        name = method.name
        if not method.fixed_budget:
            raise ValueError(
                f"{name} cannot be served: its count follows the content, and vLLM lays out the prompt before the "
                "audio is encoded. Its fixed-budget form is segment: segment@keep=1/3"
            )
        if method.positions == "time":
            raise ValueError(f"{spec} cannot be served: +time gives tokens positions between whole numbers, vLLM's are")
        if method.sizes:
            raise ValueError(f"{spec} cannot be served: +sizes adds to attention logits, vLLM's attention has no such")
        if method.site != "llm":
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
