"""Models as directories: find one, read it, write one that carries a method."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from fewhertz.errors import one_line, squeezed
from fewhertz.families import family_of_config
from fewhertz.families.base import FAMILIES, Config, Family
from fewhertz.method import Method, parse

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# What a model needs beside its weights. Weights are fetched by the name that transformers gives them: some
# repositories hold a second copy in another format.
SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]
LEARNED = "audio_compression.safetensors"  # weights of a learned method, beside a model or an adapter
WEIGHTS = ["model.safetensors", "model-*.safetensors", LEARNED]
CARD, BASE_CARD = "README.md", "BASE_README.md"  # the base model's own is kept under the second name
INDEX = "model.safetensors.index.json"
COPIED = {".json", ".jinja", ".txt", ".model", ".md", ""}  # suffixes, beside the weights; "": LICENSE, NOTICE
PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
MAX_CONFIG_BYTES = 16 * 2**20
SIZED = re.compile(r"(^d_model|^depth|_size|_dim|_heads|_layers|_mel_bins|^num_experts)$")  # names in a config.json
MAX_SIZE, MAX_LAYERS = 10**8, 10**4


class Mismatch(UserWarning):
    """A model, a method and weights that were not made for one another."""


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk that fewhertz can compress; nothing of its weights is read.

    Attributes:
        config: what the family reads (of an omni model, its thinker's).
        method: spec of the method that the checkpoint carries, or `None`.
    """

    directory: Path
    family: Family
    model_class: Any
    config: Config
    method: str | None

    def fit(self, method: str | Method) -> Method:
        """The method with its budget bound to this model's rate.

        Raises:
            ValueError: where it is malformed, unknown or cannot act on this model.
        """
        return self.family.fit(parse(method), self.config)


def locate(model: str | Path, *, weights: bool = True) -> Path:
    """The directory of a model: `pocket`, a directory, or a hub id, which is downloaded (the only use of the network).

    Args:
        model: a hub id, a directory, or `pocket`.
        weights: whether a hub id's weights are wanted too.

    Raises:
        ValueError: where there is no such model; says what is possible.
    """
    name = str(model)
    if name == "pocket":
        from fewhertz.pocket import path

        return Path(path())
    directory = Path(name).expanduser()
    if directory.is_dir():
        if not (directory / "config.json").is_file():
            raise ValueError(f"{name} is no model: it has no config.json")
        return directory
    likely_path = isinstance(model, Path) or directory.exists() or directory.parts[:1] in (("/",), (".",), ("..",))
    # "models/tiny" beside a directory "models" is a slip of the pen, not a hub id
    if likely_path or HUB_ID.fullmatch(name) is None or Path(directory.parts[0]).is_dir():
        raise ValueError(f"no model {name!r}: give a hub id (owner/name), a directory with config.json, or pocket")
    return _download(name, SMALL_FILES + WEIGHTS if weights else SMALL_FILES)


def _download(hub_id: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=[*patterns, "LICENSE*", "NOTICE*"]))
    # the hub's errors are of many unrelated classes and run over many lines
    except Exception as error:
        raise ValueError(f"cannot get {hub_id} from the Hugging Face Hub ({one_line(error)})") from error


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of bounded size.

    Raises:
        ValueError: where it is none.
    """
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{file} is too large to be a configuration")
    try:
        value = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{file} is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} is not a JSON object")
    return value


@contextmanager
def undamaged(place: Path, what: str) -> Iterator[None]:
    """Say in a line what of a model cannot be used; libraries raise errors of any kind over files that are damaged.

    Raises:
        ValueError: in place of whatever was raised.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        text = f"{place}: {what} is damaged or does not belong to this model ({squeezed(error, 160)})"
        raise ValueError(text) from None


def _check_sizes(place: Path, config: dict[str, Any]) -> None:
    """Refuse sizes that no model has, before anything of such a size is made."""
    for name, value in config.items():
        if isinstance(value, dict):
            _check_sizes(place, value)
        elif SIZED.search(name) and isinstance(value, int):
            most = MAX_LAYERS if name.endswith(("layers", "depth")) else MAX_SIZE
            if value > most:
                raise ValueError(f"{place}: {name} is at most {most:,}, got {value:.6g}")


def _family(config: dict[str, Any]) -> Family:
    thinker = config.get("thinker_config")
    types = {config.get("model_type"), thinker.get("model_type") if isinstance(thinker, dict) else None}
    for family in FAMILIES:
        if types & set(family.model_types):
            return family
    unknown: Any = SimpleNamespace(model_type=config.get("model_type"))
    return family_of_config(unknown)  # raises, with the names of those that are known


def weight_files(directory: Path) -> list[str]:
    """Names of the weight files, all of them there and safetensors."""
    index = directory / INDEX
    if index.is_file():
        parts = read_json(index).get("weight_map")
        names = set(parts.values()) if isinstance(parts, dict) else set()
        for name in sorted(map(str, names)):
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ValueError(f"{index} names a file that is no safetensors file beside it: {name}")
            if not (directory / name).is_file():
                raise ValueError(f"{directory} is incomplete: {name} is missing")
        if names:
            return sorted(names)
    elif (directory / "model.safetensors").is_file():
        return ["model.safetensors"]
    pickled = sorted(f.name for f in directory.iterdir() if f.suffix in PICKLED)
    found = f"; {', '.join(pickled[:3])} is refused: pickles can run code" if pickled else ""
    raise ValueError(f"{directory} has no model.safetensors{found}")


def open_checkpoint(model: str | Path, *, weights: bool = True) -> Checkpoint:
    """Find a model and read its configuration.

    Args:
        model: a hub id, a directory, or `pocket`.
        weights: whether its weights must be there too.

    Raises:
        ValueError: where there is no such model, or its weights are not in safetensors.
        TypeError: for an unknown family; names those that are known.
    """
    import transformers

    directory = locate(model, weights=weights)
    raw = read_json(directory / "config.json")
    family = _family(raw)
    if weights:
        weight_files(directory)
    named = raw.get("architectures")
    names = [n for n in named if n in family.model_classes] if isinstance(named, list) else []
    model_class = getattr(transformers, (names or list(family.model_classes))[0])
    carried = raw.get("audio_compression")
    method = carried.get("method") if isinstance(carried, dict) else None
    if carried is not None and not isinstance(method, str):
        raise ValueError(f'{directory}/config.json: audio_compression is {{"method": "pool@keep=1/3"}}, got {carried}')
    _check_sizes(directory / "config.json", raw)
    with undamaged(directory, "config.json"):
        config = model_class.config_class.from_pretrained(directory, local_files_only=True)
    return Checkpoint(directory, family, model_class, config, method)


def meta(checkpoint: Checkpoint) -> Any:
    """The model without memory for its weights, on the meta device.

    Raises:
        ValueError: where its configuration makes none.
    """
    with undamaged(checkpoint.directory, "config.json"), warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return checkpoint.model_class(checkpoint.config)


def load_processor(checkpoint: Checkpoint) -> Any:
    """The processor alone: no weights.

    Raises:
        ValueError: where its files are damaged.
    """
    from transformers import AutoProcessor

    with undamaged(checkpoint.directory, "the processor or tokenizer"):
        processor = AutoProcessor.from_pretrained(checkpoint.directory, local_files_only=True)
        if not processor.tokenizer or not len(processor.tokenizer):
            raise ValueError("it has no tokens")
        return processor


def device_of(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError):
        raise ValueError(f"no device {str(device)!r} here: cpu, cuda, cuda:1 or mps") from None
    return place


def weights_dtype(dtype: str | torch.dtype | None) -> str | torch.dtype:
    if dtype is None:
        return "auto"
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if kind not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype is float32, bfloat16 or float16, got {dtype!r}")
    return kind


def save_compressed(model: str | Path, method: str | Method, out: str | Path) -> Path:
    """Write a checkpoint that carries a method: the model's files, and `audio_compression` in its config.json.

    Weights are copied as files and never loaded. `load` attaches the method again.

    Args:
        model: a hub id, a directory, or `pocket`.
        method: a method or its spec.
        out: a directory that is empty or not there.

    Raises:
        ValueError: where `out` has something in it, or the model or the method is none.
    """
    checkpoint = open_checkpoint(model)
    checkpoint.fit(method)
    with new_directory(out) as part:
        index = [INDEX] if (checkpoint.directory / INDEX).is_file() else []
        for name in weight_files(checkpoint.directory) + index:
            _copy(checkpoint.directory / name, checkpoint.directory, part)
        copy_all_else(checkpoint, part, parse(method).spec)
        write_card(part, model, parse(method).spec)
    return Path(out)


def copy_all_else(checkpoint: Checkpoint, part: Path, method: str | None) -> None:
    """Copy a model without its weights, and say in its config.json what it carries."""
    folder = checkpoint.directory
    there = sorted(folder.iterdir()) + sorted(folder.glob("additional_chat_templates/*"))
    for file in there:
        wanted = (file.suffix in COPIED or file.name == LEARNED) and not file.name.startswith(".")
        if wanted and file.name != INDEX and file.is_file():
            _copy(file, folder, part)
    config = read_json(folder / "config.json")
    config.pop("audio_compression", None)
    if method is not None:
        config["audio_compression"] = {"method": method}
    (part / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def write_card(folder: Path, base: str | Path, method: str | None, adapter: str | None = None) -> None:
    """Write a checkpoint's README.md: what it is made of, and how to load it. The base model's is kept beside it.

    Args:
        folder: where to.
        base: the base model, as it was asked for.
        method: spec that the checkpoint carries, if any.
        adapter: name of the adapter that was folded in, if any.
    """
    card, theirs = folder / CARD, folder / BASE_CARD
    if card.is_file() and not theirs.exists():
        card.replace(theirs)
    made = f"The files of `{base}`" if adapter is None else f"`{base}` with the adapter `{adapter}` folded in"
    text = f"{made}. Its licence holds here too."
    text += f" What was said of it: [{BASE_CARD}]({BASE_CARD}).\n" if theirs.exists() else "\n"
    if method is not None:
        text += f"""
It carries the audio-token compression `{method}` (`audio_compression` in config.json):

```python
import fewhertz

model, processor = fewhertz.load("path/to/this/folder")  # compressed
```

`AutoModel….from_pretrained` of transformers ignores that without a word, and the model hears every audio token. Then
`fewhertz.compress(model, "{method}")` attaches it, but for weights of a learned compression
(`{LEARNED}`), which `fewhertz.load` alone reads.
"""
    relation = None if adapter is None else "finetune"
    library = "transformers" if method is None else "fewhertz"
    card.write_text(card_head(base, library, relation) + text, "utf-8")


def card_head(base: str | Path, library: str, relation: str | None, tags: Sequence[str] = ()) -> str:
    """What hubs read at the head of a README.md. A base model is named there only by its hub id.

    Args:
        base: the base model, as it was asked for.
        library: what loads it as it is meant; a hub shows the lines of transformers or peft for those alone.
        relation: to the base model, in a hub's word; `None`: unsaid.
        tags: beside those of every model here.
    """
    from huggingface_hub import ModelCardData

    hub_id = str(base) if HUB_ID.fullmatch(str(base)) and not Path(base).exists() else None
    head = ModelCardData(
        base_model=hub_id,
        base_model_relation=relation if hub_id else None,
        library_name=library,
        pipeline_tag="audio-text-to-text",
        tags=["audio", "fewhertz", *tags],
    )
    return f"---\n{head.to_yaml()}\n---\n\n"


def _copy(file: Path, folder: Path, part: Path) -> None:
    _refuse_escape(file, folder)
    copy = part / file.relative_to(folder)
    copy.parent.mkdir(exist_ok=True)
    shutil.copyfile(file, copy)


@contextmanager
def new_directory(out: str | Path) -> Iterator[Path]:
    """A directory to fill, which becomes `out` at the end: what is broken off leaves nothing that looks like a model.

    Raises:
        ValueError: where `out` has something in it.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is there and not empty: name another directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield part
        part.chmod(0o755)
        part.replace(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _refuse_escape(file: Path, directory: Path) -> None:
    """A link may lead within the model, or to the hub cache's own blobs, and nowhere else."""
    root = directory.resolve()
    blobs = root.parent.parent / "blobs"
    real = file.resolve()
    if root not in real.parents and not (root.parent.name == "snapshots" and blobs in real.parents):
        raise ValueError(f"{file} is a link that leads out of the model")


def fill_learned(kernel: nn.Module, file: Path, method: Method) -> None:
    """Give a learned method's module the weights of a file.

    Raises:
        ValueError: where they are not those.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        kernel.load_state_dict(load_file(file))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{file} does not hold the weights of {method.spec} ({squeezed(error)})") from None


def weights_sha256(checkpoint: Checkpoint) -> str:
    """SHA-256 of a model's weights: of its file, or of the hashes of its files, one a line, where there are several."""
    hashes = []
    for name in weight_files(checkpoint.directory):
        with (checkpoint.directory / name).open("rb") as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def dtype_of(config: Config) -> torch.dtype:
    """The dtype that a configuration names; float32 where it names none."""
    named: Any = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None) or torch.float32
    return getattr(torch, named) if isinstance(named, str) else named
