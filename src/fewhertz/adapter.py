"""Adapters as directories: what peft writes, and beside it the method that it was trained with.

adapter_config.json, adapter_model.safetensors   peft's own
audio_compression.json                           the method, and the base model's name and hash
audio_compression.safetensors                    weights of a learned method, where it is one
README.md                                        what it is and how to load it, with the head that hubs read
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fewhertz.checkpoint import (
    CARD,
    LEARNED,
    PICKLED,
    Checkpoint,
    Mismatch,
    card_head,
    read_json,
    weight_files,
)
from fewhertz.errors import need, squeezed
from fewhertz.files import replace
from fewhertz.method import Method, parse

CONFIG, WEIGHTS, METHOD = "adapter_config.json", "adapter_model.safetensors", "audio_compression.json"
FORMAT = 1
QUICK = 2**30  # bytes of weights that are hashed within a second or so, at each load


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk; nothing of its weights is read.

    Attributes:
        stated: whether it says what it was trained with.
        methods: specs that it was trained with, the one to attach first; none: the uncompressed model.
        base: name of the base model.
        base_sha256: hash of its weights (`evaluate.weights_sha256`).
    """

    directory: Path
    stated: bool = False
    methods: tuple[str, ...] = ()
    base: str | None = None
    base_sha256: str | None = None

    @property
    def name(self) -> str:
        """Of its directory."""
        return self.directory.resolve().name

    @functools.cached_property
    def sha256(self) -> str:
        """Of its weights: of the adapter's file, and of that of a learned method, one after the other."""
        found = hashlib.sha256()
        for name in (WEIGHTS, LEARNED):
            if (self.directory / name).is_file():
                found.update((self.directory / name).read_bytes())
        return found.hexdigest()

    def choose(self, checkpoint: Checkpoint, asked: str | Method | None) -> str | None:
        """The method to attach where none is asked for; warns of what the adapter was not trained for.

        Raises:
            ValueError: where its method is none, or cannot act on this model.
        """
        own = self.methods[0] if self.methods else None
        if not self.stated:
            _warn(f"{self.directory} has no {METHOD}: it does not say which method it was trained with")
            return checkpoint.method
        # as the model's own rate has it: pool@8Hz is pool@keep=8/25
        trained = {checkpoint.fit(spec).spec for spec in self.methods}
        if asked is not None and checkpoint.fit(asked).spec not in trained:
            _warn(f"{self.directory} was trained with {self._trained_with()}, not with {parse(asked).spec}")
        size = sum((checkpoint.directory / name).stat().st_size for name in weight_files(checkpoint.directory))
        if self.base_sha256 is not None and size <= QUICK:
            from fewhertz.checkpoint import weights_sha256

            if weights_sha256(checkpoint) != self.base_sha256:
                _warn(f"{self.directory} was trained on other weights, those of {self.base}")
        return own

    def _trained_with(self) -> str:
        return " and ".join(self.methods) or "the uncompressed model"

    def add_to(self, net: Any) -> Any:
        """Put the adapter on a model, in place; returns the same, wrapped by peft.

        Where the model has others, it joins them, and `switch` chooses.

        Raises:
            ImportError: where peft is not installed.
            ValueError: where it does not fit the model.
        """
        peft = need("peft", "train")

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name of old
                warnings.filterwarnings("ignore", ".*base_model_name_or_path")  # of another model: warned of below
                if not isinstance(net, peft.PeftModel):
                    settings = peft.PeftConfig.from_pretrained(str(self.directory))
                    settings.inference_mode = True
                    net = peft.get_peft_model(net, settings, self.sha256)
                loaded = net.load_adapter(str(self.directory), self.sha256)
        except Exception as error:  # of any kind: peft checks nothing of what it reads
            raise ValueError(f"{self.directory} does not fit this model ({squeezed(error)})") from None
        # peft loads what it finds and leaves the rest as it starts, which is the base model
        strange, lacking = loaded.unexpected_keys, loaded.missing_keys
        if strange or lacking:
            which = f"it has no {lacking[0]:.200}" if lacking else f"the model has no {strange[0]:.200}"
            raise ValueError(f"{self.directory} does not fit this model ({which}): is it of another model?")
        return net


def switch(net: Any, chosen: Adapter | None) -> None:
    """Of all adapters that were put on a model, let this one act, or none."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in net.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(chosen is not None)
            if chosen is not None:
                module.set_adapter(chosen.sha256)


def _warn(text: str) -> None:
    warnings.warn(text, Mismatch, stacklevel=4)  # where the user called load


def read(directory: str | Path) -> Adapter:
    """Find an adapter.

    Raises:
        ValueError: where there is none, where it is no LoRA adapter, or its weights are not in safetensors.
    """
    folder = Path(directory).expanduser()
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} is no adapter: it has no {CONFIG}")
    kind = read_json(folder / CONFIG).get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{folder} is an adapter of the kind {kind!s:.40}: only LoRA ones can be used")
    if not (folder / WEIGHTS).is_file():
        pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
        found = f"; {pickled[0]} is refused: pickles can run code" if pickled else ""
        raise ValueError(f"{folder} has no {WEIGHTS}{found}")
    if not (folder / METHOD).is_file():
        return Adapter(folder)
    said = read_json(folder / METHOD)
    methods, base, sha = said.get("methods"), said.get("base_model"), said.get("base_sha256")
    if said.get("format") == FORMAT and isinstance(methods, list) and isinstance(base, str) and isinstance(sha, str):
        return Adapter(folder, True, tuple(map(str, methods)), base, sha)
    raise ValueError(f"{folder / METHOD} is damaged, or of another format than {FORMAT}: remove it, name the method")


def save(
    folder: Path, config: Any, weights: dict[str, Tensor], learned: dict[str, Tensor], said: dict[str, Any]
) -> None:
    """Write an adapter, each file whole or not at all.

    Args:
        folder: where to.
        config: peft's own.
        weights: of the adapter, as peft names them.
        learned: weights of a learned method; of others none.
        said: what the method's file holds, beside its format: `methods` and `base_model` at least.

    Raises:
        OSError: where it cannot be written, such as on a full disk; what was there before is left.
    """
    from safetensors.torch import save as pack

    with tempfile.TemporaryDirectory() as scratch:
        config.save_pretrained(scratch)
        settings = (Path(scratch) / CONFIG).read_bytes()
    if learned:
        replace(folder / LEARNED, pack(learned))
    replace(folder / WEIGHTS, pack(weights, {"format": "pt"}))
    replace(folder / METHOD, (json.dumps({"format": FORMAT, **said}, indent=1) + "\n").encode())
    replace(folder / CARD, _card(said["base_model"], said["methods"]).encode())
    replace(folder / CONFIG, settings)


def _card(base: str, methods: list[str]) -> str:
    """An adapter's README.md."""
    said = " and ".join(f"`{spec}`" for spec in methods) or "no compression"
    text = f"A LoRA adapter of `{base}`, trained with {said} ({METHOD}).\n"
    text += f"""
```python
import fewhertz

model, processor = fewhertz.load("{base}", adapter="path/to/this/folder")
```
"""
    if methods:
        text += f"""
`PeftModel.from_pretrained` of peft ignores that file without a word, and the model hears every audio token. Then
`fewhertz.compress(model, "{methods[0]}")` attaches the compression, but for weights of a learned one
(`{LEARNED}`), which `fewhertz.load` alone reads.
"""
    return card_head(base, "fewhertz" if methods else "peft", "adapter", ["lora", "peft"]) + text
