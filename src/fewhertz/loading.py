"""Loading: weights, an adapter and the method that they carry; and folding an adapter in."""

from __future__ import annotations

import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from fewhertz.adapter import read
from fewhertz.attach import Attached, compress, heed
from fewhertz.checkpoint import (
    LEARNED,
    Checkpoint,
    Mismatch,
    copy_all_else,
    device_of,
    fill_learned,
    load_processor,
    meta,
    new_directory,
    open_checkpoint,
    undamaged,
    weight_files,
    weights_dtype,
    write_card,
)
from fewhertz.errors import need
from fewhertz.method import NONE, Method


def load(
    model: str | Path,
    method: str | Method | None = None,
    *,
    adapter: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trim: bool | None = None,
) -> tuple[Any, Any]:
    """A model with a method attached, and its processor.

    Args:
        model: a hub id, a directory, or `pocket`.
        method: a method or its spec; `None`: the one that the adapter or else the checkpoint carries, if any.
        adapter: a directory that `fewhertz train` wrote, or any LoRA adapter of peft; warns where it was trained with
            another method or another base model, or does not say.
        device: where to; `None`: the GPU where there is one, else the CPU.
        dtype: of the weights, such as `"bfloat16"`; `None`: the checkpoint's own.
        trim: as `compress` has it. `True` without a method: the uncompressed model, trimmed.

    Raises:
        ValueError: where the model, the method, the device or the dtype is none; for weights that are not safetensors.
        TypeError: for an unknown family; names those that are known.
        ImportError: where peft is needed and not installed.

    Example:
        >>> model, processor = fewhertz.load("pocket", "pool@keep=1/3")
    """
    checkpoint = open_checkpoint(model)
    place = device_of(device)
    kind = weights_dtype(dtype)
    carried, fitted = checkpoint.method, None
    if adapter is not None:
        fitted = read(adapter)
        carried = fitted.choose(checkpoint, method)
    spec = carried if method is None else method
    checkpoint.family.check_trim(trim)
    spec = NONE if spec is None and trim else spec
    if spec is not None:
        try:
            checkpoint.fit(spec)
        except ValueError as error:
            raise ValueError(str(error) if method else f"{model} carries {spec!r}: {error}") from None
    net = load_weights(checkpoint, kind)
    if fitted is not None:
        fitted.add_to(net)
    net = net.eval().to(place)
    if spec is not None:
        folders = [] if fitted is None else [fitted.directory]
        load_learned(compress(net, spec, trim=trim), [*folders, checkpoint.directory], carried=method is None)
    return net, load_processor(checkpoint)


def load_weights(checkpoint: Checkpoint, dtype: str | torch.dtype = "auto") -> Any:
    """The model alone, on the CPU; nothing is attached.

    Raises:
        ValueError: where its files are damaged, or the weights are not all those of its configuration.
    """
    from safetensors import safe_open

    folder, held = checkpoint.directory, 0
    for name in weight_files(folder):
        with undamaged(folder, name), safe_open(folder / name, "pt") as file:
            held += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    wanted = sum(p.numel() for p in meta(checkpoint).parameters())
    packed = getattr(checkpoint.config, "quantization_config", None) is not None  # several in one number
    if wanted > held and not packed:  # transformers would make up the rest at random
        raise ValueError(f"{folder}: config.json asks for {wanted:,} weights, the files hold {held:,}")
    with undamaged(folder, "a file"):
        net, found = checkpoint.model_class.from_pretrained(
            folder,
            config=checkpoint.config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
        )
    wrong = sorted(found["missing_keys"]) + sorted(one[0] for one in found["mismatched_keys"])
    if wrong:
        raise ValueError(
            f"{folder}: {len(wrong)} weights are missing or of another shape than config.json says: {wrong[0]}"
        )
    heed(net)
    return net


def load_learned(handle: Attached, folders: list[Path], carried: bool) -> None:
    """Give a learned method its weights, from the first folder that has some."""
    if handle.learned is None:
        return
    file = next((folder / LEARNED for folder in folders if (folder / LEARNED).is_file()), None)
    if file is None:
        if carried:
            text = f"{folders[0]} carries {handle.asked.spec} without its weights, {LEARNED}: it runs untrained"
            warnings.warn(text, Mismatch, stacklevel=3)
        return
    fill_learned(handle.learned, file, handle.asked)


def merge(model: str | Path, adapter: str | Path, out: str | Path) -> Path:
    """Fold an adapter into the weights of its base model: a checkpoint that carries the method, for serving.

    Args:
        model: the base model: a hub id, a directory, or `pocket`.
        adapter: a directory that `fewhertz train` wrote, or any LoRA adapter of peft.
        out: a directory that is empty or not there.

    Raises:
        ValueError: where `out` has something in it, or the model or the adapter cannot be used.
        ImportError: where peft is not installed.
    """
    need("peft", "train")
    checkpoint, found = open_checkpoint(model), read(adapter)
    method = found.choose(checkpoint, None)
    with new_directory(out) as part:
        merged = found.add_to(load_weights(checkpoint)).merge_and_unload(safe_merge=True)
        merged.save_pretrained(part)
        for file in part.glob("*.safetensors"):
            file.chmod(0o644)  # safetensors writes them for their owner alone
        copy_all_else(checkpoint, part, method)
        if (found.directory / LEARNED).is_file():
            shutil.copyfile(found.directory / LEARNED, part / LEARNED)
        write_card(part, model, method, found.name)
    return Path(out)
