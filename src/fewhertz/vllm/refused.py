"""Architectures that hear and are not served compressed: they say so where `audio_compression` asks for it."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import Any

from fewhertz.vllm import REFUSED
from fewhertz.vllm.choice import KEY


def __getattr__(name: str) -> Any:
    # made at first use: vLLM imports the module of the one model that it serves
    if name not in REFUSED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, reason = REFUSED[name]
    stock = getattr(import_module(f"vllm.model_executor.models.{module}"), name)
    factory = stock._processor_factory
    refusal = f"{name} cannot be served compressed: {reason}; without {KEY} it is served as it is"

    class Processor(factory.processor):  # type: ignore[name-defined]
        def __init__(self, info: Any, dummy_inputs: Any) -> None:
            if getattr(info.ctx.model_config.hf_config, KEY, None) is not None:
                raise ValueError(refusal)
            super().__init__(info, dummy_inputs)

        def apply(self, inputs: Any, timing_ctx: Any) -> Any:
            if KEY in inputs.hf_processor_mm_kwargs:
                raise ValueError(refusal)
            return super().apply(inputs, timing_ctx)

    model = type(
        name,
        (stock,),
        {"__module__": __name__, "_processor_factory": dataclasses.replace(factory, processor=Processor)},
    )
    globals()[name] = model
    return model
