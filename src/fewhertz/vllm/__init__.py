"""The vLLM plugin: vLLM serves models that read compressed audio (docs/serving.md).

vLLM calls `register` in each of its processes, by the entry point `vllm.general_plugins`. The classes named here are
vLLM's own with two mixins (fewhertz.vllm.mixins); without `audio_compression` they do what vLLM's do.
"""

from __future__ import annotations

import logging

OLDEST = "0.32.0"  # of vLLM; what the mixins lean on is newer than earlier releases

# vLLM's architectures, and the classes that take their place
SERVED = {
    "Qwen2AudioForConditionalGeneration": "qwen2_audio:Qwen2Audio",
    "AudioFlamingo3ForConditionalGeneration": "audio_flamingo_3:AudioFlamingo3",
    "Qwen2_5OmniModel": "qwen2_5_omni:Qwen2_5Omni",
    "Qwen2_5OmniForConditionalGeneration": "qwen2_5_omni:Qwen2_5Omni",
    "Qwen3OmniMoeForConditionalGeneration": "qwen3_omni:Qwen3Omni",
    "Qwen3ASRForConditionalGeneration": "qwen3_asr:Qwen3Asr",
    "GlmAsrForConditionalGeneration": "glm_asr:GlmAsr",
}

# vLLM's architectures that hear and are not served compressed: module, and why. They refuse `audio_compression` by name
REFUSED = {
    "UltravoxModel": ("ultravox", "fewhertz has no such family"),
    "GraniteSpeechForConditionalGeneration": ("granite_speech", "fewhertz has no class for it here"),
    "GraniteSpeechPlusForConditionalGeneration": ("granite_speech_plus", "fewhertz has no class for it here"),
    "VoxtralForConditionalGeneration": (
        "voxtral",
        "Mistral's tokenizer lays out its audio before the plugin sees it",
    ),
    "VoxtralRealtimeGeneration": ("voxtral_realtime", "it adds audio to the embedding of every text token"),
}

# families that vLLM 0.32 has no class for, and why
ABSENT = {
    "music-flamingo": "vLLM has no class for it since 0.24",
    "omni-asr": "vLLM has no class for it",
}

log = logging.getLogger("vllm.fewhertz")  # under vLLM's own logger, whose handlers and level it shares


def register() -> None:
    """Put the compressing classes in the place of vLLM's. Harmless to call again.

    An architecture that another plugin has taken stays that plugin's; a vLLM that is too old is left as it is.
    """
    import vllm
    from packaging.version import Version
    from vllm import ModelRegistry

    if Version(vllm.__version__) < Version(OLDEST):
        log.warning("fewhertz needs vLLM %s or newer, this is %s: nothing is compressed", OLDEST, vllm.__version__)
        return
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from fewhertz.vllm.choice import Configure

    places = {arch: f"fewhertz.vllm.{place}" for arch, place in SERVED.items()}
    places |= {arch: f"fewhertz.vllm.refused:{arch}" for arch in REFUSED}
    for arch, place in places.items():
        there = ModelRegistry.models.get(arch)
        home = getattr(there, "module_name", None)
        if home is None or not home.startswith(("vllm.model_executor.models.", "fewhertz.vllm.")):
            if there is not None:
                log.warning("%s is served by another plugin: fewhertz compresses nothing there", arch)
            continue
        ModelRegistry.register_model(arch, place)
        if arch in SERVED:
            MODELS_CONFIG_MAP.setdefault(arch, Configure)
