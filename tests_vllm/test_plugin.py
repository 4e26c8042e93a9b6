"""How the plugin is loaded, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from checkpoints import LAYOUTS, model_of
from engines import engine
from vllm import ModelRegistry
from vllm.plugins import load_general_plugins, load_plugins_by_group

from fewhertz.vllm import OLDEST, REFUSED, SERVED, register
from fewhertz.vllm.choice import Choice, family_named
from fewhertz.vllm.serve import check_version

QWEN = "Qwen2AudioForConditionalGeneration"


@pytest.fixture(autouse=True)
def models() -> Iterator[dict[str, Any]]:
    """VLLM's registry, put back afterwards."""
    load_general_plugins()  # what vLLM does once a process, so that the tests after this one have it too
    before = dict(ModelRegistry.models)
    yield ModelRegistry.models
    ModelRegistry.models.clear()
    ModelRegistry.models.update(before)


def test_vllm_finds_it() -> None:
    assert load_plugins_by_group("vllm.general_plugins")["fewhertz"] is register


def test_loading_twice(models: dict[str, Any]) -> None:
    register()
    once = dict(models)
    register()
    assert models.keys() == once.keys()
    for arch in (*SERVED, *REFUSED):
        assert models[arch].module_name.startswith("fewhertz.vllm.")
        assert models[arch].load_model_cls().__module__.startswith("fewhertz.vllm.")
    assert models["Qwen2ForCausalLM"].module_name.startswith("vllm.")


@pytest.mark.parametrize("ours_first", [True, False])
def test_beside_another_plugin(models: dict[str, Any], ours_first: bool) -> None:
    """Another plugin's own architecture stays its own; of two for one architecture the other one's stays."""
    for load in (register, other, register) if ours_first else (other, register):
        load()
    assert models["TheirsForCausalLM"].module_name == "their.models"
    assert models[QWEN].module_name == "their.models"
    assert models["AudioFlamingo3ForConditionalGeneration"].module_name == "fewhertz.vllm.audio_flamingo_3"


def other() -> None:
    ModelRegistry.register_model("TheirsForCausalLM", "their.models:Theirs")
    ModelRegistry.register_model(QWEN, "their.models:Qwen2Audio")


def test_an_old_vllm_is_left_alone(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm

    ModelRegistry.register_model(QWEN, "vllm.model_executor.models.qwen2_audio:Qwen2AudioForConditionalGeneration")
    monkeypatch.setattr(vllm, "__version__", "0.9.1")
    register()
    assert models[QWEN].module_name == "vllm.model_executor.models.qwen2_audio"


def test_serve_wants_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    check_version()
    monkeypatch.setattr("fewhertz.vllm.serve.version", lambda name: "0.9.1")
    with pytest.raises(ImportError, match=f"vLLM is 0.9.1, fewhertz needs {OLDEST} or newer"):
        check_version()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"vLLM is not installed here; .*pip install 'vllm>="):
        check_version()


@pytest.mark.parametrize("family", LAYOUTS)
def test_methods_that_need_scores(family: str) -> None:
    """Where vLLM runs its own encoder they are refused, saying what works."""
    config = model_of(family).config
    choice = Choice(family_named(family), SimpleNamespace(thinker_config=config), LAYOUTS[family].scores)
    assert choice.method("pool@keep=1/3").name == "pool"
    if LAYOUTS[family].scores:
        assert choice.method("segmentwise@keep=1/3").name == "segmentwise"
    else:
        with pytest.raises(ValueError, match=r"segmentwise@keep=1/3 needs the encoder's attention scores.*pool"):
            choice.method("segmentwise@keep=1/3")
        with pytest.raises(ValueError, match=r"topk@keep=1/2 needs"):
            choice.method("pool@keep=1/2 then topk@keep=1/2")


@pytest.mark.parametrize(
    ("over", "complaint"),
    [
        ({"method": "unseg"}, "unseg cannot be served.*segment@keep=1/3"),
        ({"method": "pool@keep=1/3+loud"}, r"cannot read \+loud"),
        ("pool@keep=1/3", 'audio_compression is {"method": "pool@keep=1/3"}'),
    ],
)
def test_refused_at_load(over: object, complaint: str) -> None:
    from vllm import LLM

    from fewhertz.pocket import path

    with pytest.raises(ValueError, match=complaint):
        LLM(str(path()), dtype="float32", hf_overrides={"audio_compression": over}, enforce_eager=True)


def test_default_among_processor_kwargs() -> None:
    from fewhertz.pocket import path

    with (
        pytest.raises(ValueError, match="--hf-overrides"),
        engine(path(), mm_processor_kwargs={"audio_compression": "pool@keep=1/3"}),
    ):
        pass


@pytest.mark.parametrize("arch", REFUSED)
def test_refused_families(arch: str) -> None:
    """They say so where a method is asked for, and are vLLM's own otherwise."""
    register()
    model = ModelRegistry.models[arch].load_model_cls()
    assert model.__mro__[1].__module__.startswith("vllm.")
    processor = model._processor_factory.processor
    hf_config = SimpleNamespace(audio_compression={"method": "pool@keep=1/3"})
    info = SimpleNamespace(ctx=SimpleNamespace(model_config=SimpleNamespace(hf_config=hf_config)))
    with pytest.raises(ValueError, match=f"{arch} cannot be served compressed"):
        processor(info, None)
    asked = SimpleNamespace(hf_processor_mm_kwargs={"audio_compression": "pool@keep=1/3"})
    with pytest.raises(ValueError, match=f"{arch} cannot be served compressed"):
        processor.apply(object.__new__(processor), asked, None)


def test_help_needs_no_vllm() -> None:
    """The command line and the choice of methods import nothing of it."""
    code = "import sys, fewhertz.vllm.serve; print('vllm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
