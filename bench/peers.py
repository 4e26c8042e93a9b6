"""The published code of other compressors beside ours of the same name: same tokens, same count, one run.

    python -m bench.peers --tome ../ToMe --evs ../vllm --out out/peers.json     # any of the peers; minutes for all
    python -m bench.peers --tome ../ToMe --out out/quick.json --quick           # seconds: tiny shapes, no figures

Each option is a checkout of a peer's repository. Its function is imported from there by path and called as its own
caller does, on random tokens; of what its module imports, packages' `__init__` is not run, and modules that the
function has no use for and that are not in the checkout, or not for this transformers, stand in empty (`absent`). Where
the function is a method of a model, `self` is a stand-in that hands over tokens and attention at once, so that the
choice of tokens alone is timed. Both sides hand back the tokens that stay, as a tensor.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cosine_similarity

from bench.clock import elapsed, in_turns, processor
from bench.options import ANY_DEVICE, OUT, THREADS, TINY, start
from bench.record import environment, progress, save
from bench.shapes import AUDIO_7B, RATE
from fewhertz import methods as _registered  # noqa: F401
from fewhertz.method import METHODS, Clip

FULL: dict[str, Any] = {"tokens": [750, 1500], "clips": [1, 8], "dim": AUDIO_7B["d_model"], "rounds": [5, 51]}
QUICK: dict[str, Any] = {"tokens": [40], "clips": [1, 2], "dim": 16, "rounds": [2, 2]}
SECONDS = 10.0  # of a peer's rounds at one shape, within the bounds of `rounds`
LEAST_SCORE = 1e-3  # FastAdaSP's code divides by the attention that a token received
CLOSE = 1e-3  # tokens that differ by less in every coordinate are the same

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Peer:
    """Published code.

    Args:
        method: ours of the same name.
        url: to clone.
        files: where its function is; the first that is there.
        make: module, tokens (b n d), scores (b n) and count → a call that returns the tokens that stay, (b m d).
        names: what the module has to have.
        differs: in what it is defined otherwise than ours; empty: in nothing.
        root: folder of the checkout from which its modules are imported.
        absent: modules that stand in empty.
    """

    method: str
    url: str
    files: tuple[str, ...]
    make: Callable[[ModuleType, Tensor, Tensor, int], Run]
    names: tuple[str, ...]
    differs: str = ""
    root: str = "."
    absent: tuple[str, ...] = ()


class Absent(ModuleType):
    """A module that has every name, none of which is of any use."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextlib.contextmanager
def packages(top: str, root: Path, parts: tuple[str, ...], absent: tuple[str, ...]) -> Iterator[None]:
    """The packages around a module, without what their `__init__` does; several peers call theirs `llava`."""

    def ours() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] == top]

    before = {name: sys.modules.pop(name) for name in ours()}
    for i in range(1, len(parts)):
        package = ModuleType(".".join(parts[:i]))
        package.__path__ = [str(root.joinpath(*parts[:i]))]
        sys.modules[package.__name__] = package
    sys.modules.update({name: Absent(name) for name in absent})
    try:
        yield
    finally:
        for name in ours():
            del sys.modules[name]
        sys.modules.update(before)


def published(name: str, folder: Path) -> tuple[Path, ModuleType]:
    """A peer's file and module.

    Raises:
        ValueError: where the folder is no checkout of its repository.
    """
    peer = PEERS[name]
    root = folder / peer.root
    file = next((root / file for file in peer.files if (root / file).is_file()), None)
    if file is None:
        raise ValueError(f"--{name} {folder}: no {peer.files[0]} there; git clone {peer.url}")
    parts = file.relative_to(root).with_suffix("").parts
    with packages(parts[0], root, parts, peer.absent):
        try:
            module = importlib.import_module(".".join(parts))
        except (ImportError, SyntaxError) as error:
            raise ValueError(f"--{name} {folder}: {error}; git clone {peer.url}") from None
    missing = [one for one in peer.names if not hasattr(module, one)]
    if missing:
        raise ValueError(f"--{name} {folder}: no {missing[0]} in {file.name}; git clone {peer.url}")
    return file, module


def tome(module: ModuleType, x: Tensor, scores: Tensor, m: int) -> Run:
    def run() -> Tensor:
        merge, _ = module.bipartite_soft_matching(x, x.shape[1] - m)
        return module.merge_wavg(merge, x)[0]

    return run


def fastadasp(module: ModuleType, x: Tensor, scores: Tensor, m: int) -> Run:
    ratio = (x.shape[1] - m + 0.5) / x.shape[1]  # it rounds down

    def run() -> Tensor:
        similarity = cosine_similarity(x[:, :-1], x[:, 1:], dim=2)
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of every call
            # it adds to its weights in place
            return module.QWenBlock.merge_hidden_states(None, x, similarity, "merge_weighted", ratio, scores.clone())

    return run


def visionzip(module: ModuleType, x: Tensor, scores: Tensor, m: int) -> Run:
    contextual = int(METHODS["visionzip"](keep=1).share * m + 0.5)
    b, n, _ = x.shape
    tokens = torch.cat([x[:, :1], x], dim=1)  # its first is a class token, which it keeps
    attention = torch.cat([scores[:, :1], scores], dim=1)[:, None, None].expand(b, 1, n + 1, n + 1)
    read = SimpleNamespace(attentions=[attention, None], hidden_states=[tokens, None])

    class Tower(SimpleNamespace):
        def __call__(self, *_: Any, **__: Any) -> SimpleNamespace:
            return read

    tower = Tower(
        vision_model=SimpleNamespace(encoder=SimpleNamespace(layers=[SimpleNamespace(metric=tokens), None])),
        _info={"dominant": m - contextual, "contextual": contextual},
    )
    model = SimpleNamespace(vision_tower=tower, device=x.device, dtype=x.dtype)
    return lambda: module.CLIPVisionTower_VisionZip.forward(model, x[:, 0])[0][:, 1:]


def _llava(module: ModuleType, answer: tuple[Tensor, ...], **settings: Any) -> Callable[[], tuple[Tensor, Tensor]]:
    """LLaVA's `encode_images` without an encoder and a projector."""
    model = SimpleNamespace(
        get_vision_tower=lambda: lambda *_, **__: answer,
        mm_projector=lambda tokens: tokens,
    )
    given = SimpleNamespace(get_model=lambda: model, **settings)
    return lambda: module.LlavaMetaForCausalLM.encode_images(given, None)


def cdpruner(module: ModuleType, x: Tensor, scores: Tensor, m: int) -> Run:
    # tokens and a text whose similarity is the score; it takes the opposite of that
    embeds = torch.stack([-scores, (1 - scores.square()).clamp_min(0).sqrt()], dim=2)
    call = _llava(module, (x, embeds, embeds.new_tensor([[1.0, 0.0]])), visual_token_num=m)

    def run() -> Tensor:
        tokens, kept = call()
        return tokens[kept].view(len(x), m, -1)

    return run


def vispruner(module: ModuleType, x: Tensor, scores: Tensor, m: int) -> Run:
    settings = {"get_visual_token_num": lambda: m, "get_important_ratio": lambda: 0.5}
    call = _llava(module, (x, scores[:, None]), **settings)

    def run() -> Tensor:
        tokens, kept = call()
        return tokens[kept].view(len(x), m, -1)

    return run


def divprune(module: ModuleType, x: Tensor, scores: Tensor, m: int) -> Run:
    theirs = module.LlavaMetaForCausalLM
    given = SimpleNamespace(pairwise_cosine_similarity=lambda tokens: theirs.pairwise_cosine_similarity(None, tokens))
    n = x.shape[1]
    return lambda: torch.stack([one[theirs.DivPrune(given, one, n, threshold_ratio=m / n)[0]] for one in x])


def evs(module: ModuleType, x: Tensor, scores: Tensor, m: int) -> Run:
    n = x.shape[1]
    q = 1 - (m + 0.5) / n  # it rounds down what stays
    return lambda: torch.stack([one[module.compute_retention_mask(one, (n, 1, 1), 1, q)] for one in x])


LLAVA = ("llava/model/llava_arch.py",)
PEERS = {
    "tome": Peer(
        "global-merge",
        "https://github.com/facebookresearch/ToMe",
        ("tome/merge.py",),
        tome,
        ("bipartite_soft_matching", "merge_wavg"),
    ),
    "fastadasp": Peer(
        "fastadasp",
        "https://github.com/yichen14/FastAdaSP",
        ("Qwen-Audio/modeling_qwen.py",),
        fastadasp,
        ("QWenBlock",),
        absent=tuple(f"Qwen-Audio.{name}" for name in ("configuration_qwen", "qwen_generation_utils", "audio")),
    ),
    "visionzip": Peer(
        "visionzip",
        "https://github.com/dvlab-research/VisionZip",
        ("visionzip/clip_encoder.py",),
        visionzip,
        ("CLIPVisionTower_VisionZip",),
        "contextual tokens: other targets, and a target plus the mean of what joins it for a mean of all",
        absent=("visionzip.utils",),
    ),
    "cdpruner": Peer("cdpruner", "https://github.com/Theia-4869/CDPruner", LLAVA, cdpruner, ("LlavaMetaForCausalLM",)),
    "vispruner": Peer(
        "vispruner",
        "https://github.com/Theia-4869/VisPruner",
        LLAVA,
        vispruner,
        ("LlavaMetaForCausalLM",),
        "duplicates: the tokens that attention has not chosen are compared in the order of their attention, and of "
        "the round before, for that of time",
    ),
    "divprune": Peer(
        "divprune", "https://github.com/vbdi/divprune", LLAVA, divprune, ("LlavaMetaForCausalLM",), root="LLaVA"
    ),
    "evs": Peer(
        "evs",
        "https://github.com/vllm-project/vllm",
        ("vllm/multimodal/video_prune/evs.py", "vllm/multimodal/evs.py"),
        evs,
        ("compute_retention_mask",),
    ),
}


def found_again(theirs: Tensor, ours: Tensor) -> float:
    """Share of our tokens that are among theirs, in any order."""
    same = []
    for some, others in zip(ours, theirs, strict=True):
        nearest = others[torch.cdist(some, others).argmin(1)]
        same.append(((some - nearest).abs() < CLOSE).all(1))
    return torch.stack(same).double().mean().item()


def measured(name: str, module: ModuleType, n: int, clips: int, size: dict[str, Any], device: str) -> dict[str, Any]:
    """One peer at one shape."""
    peer = PEERS[name]
    m = 4 * -(-n // 8)
    x = torch.randn(clips, n, size["dim"], device=device)
    scores = torch.rand(clips, n, device=device)
    low, high = scores.aminmax(dim=1, keepdim=True)  # CDPruner's code has one range for a batch, ours one a clip
    scores = LEAST_SCORE + (1 - LEAST_SCORE) * (scores - low) / (high - low)
    theirs = peer.make(module, x, scores, m)
    method, clip = METHODS[peer.method](keep=Fraction(m, n)), Clip(RATE, scores)

    def ours() -> Tensor:
        return method.forward(x, clip)[0]

    there, here = theirs(), ours()  # warm-up
    slow = elapsed(theirs, device, processor)
    least, most = size["rounds"]
    rounds = max(least, min(most, int(SECONDS / max(slow, 1e-3))))
    times = in_turns({"theirs": theirs, "ours": ours}, rounds, device, processor)
    each = [a / b for a, b in zip(times["theirs"], times["ours"], strict=True)]
    return {
        "peer": name,
        "method": peer.method,
        "tokens": n,
        "clips": clips,
        "rounds": rounds,
        "theirs_over_ours": statistics.median(times["theirs"]) / statistics.median(times["ours"]),
        "range": [min(each), max(each)],
        "kept": [there.shape[1], here.shape[1]],
        "same_count": there.shape == here.shape,
        "found_again": found_again(there, here),
    }


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("peer", "our method", "tokens", "clips", "theirs over ours", "kept", "same tokens", box=box.SIMPLE)
    for row in result["rows"]:
        over = f"{row['theirs_over_ours']:.2f} [{row['range'][0]:.2f}, {row['range'][1]:.2f}]"
        kept = " and ".join(map(str, row["kept"]))
        shape = str(row["tokens"]), str(row["clips"])
        table.add_row(row["peer"], row["method"], *shape, over, kept, f"{row['found_again']:.2%}")
    Console(width=120).print(table)


def refuse(message: str) -> typer.Exit:
    """What ends the command, in one line."""
    typer.echo(message, err=True)
    return typer.Exit(2)


def folder(name: str) -> Any:
    return typer.Option(help=f"A checkout of {PEERS[name].url}.")


def main(
    out: OUT,
    tome: Annotated[Path | None, folder("tome")] = None,
    fastadasp: Annotated[Path | None, folder("fastadasp")] = None,
    visionzip: Annotated[Path | None, folder("visionzip")] = None,
    cdpruner: Annotated[Path | None, folder("cdpruner")] = None,
    vispruner: Annotated[Path | None, folder("vispruner")] = None,
    divprune: Annotated[Path | None, folder("divprune")] = None,
    evs: Annotated[Path | None, folder("evs")] = None,
    quick: TINY = False,
    device: ANY_DEVICE = "",
    threads: THREADS = 1,
) -> None:
    """Measure, write the result file, print the table."""
    options = {
        "tome": tome,
        "fastadasp": fastadasp,
        "visionzip": visionzip,
        "cdpruner": cdpruner,
        "vispruner": vispruner,
        "divprune": divprune,
        "evs": evs,
    }
    given = {name: path for name, path in options.items() if path is not None}
    if not given:
        raise refuse("give a checkout of at least one: " + ", ".join(f"--{name}" for name in PEERS))
    try:
        loaded = {name: published(name, path) for name, path in given.items()}
    except ValueError as error:
        raise refuse(str(error)) from None
    device, _ = start(device, threads)
    before_all = environment(device)
    size = QUICK if quick else FULL
    clock = "wall" if device == "cuda" else "process"
    peers, rows = {}, []
    with torch.inference_mode():
        for name, (file, module) in loaded.items():
            peer, content = PEERS[name], file.read_bytes()
            peers[name] = {
                "url": peer.url,
                "file": file.relative_to(given[name] / peer.root).as_posix(),
                "git_blob": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
                "absent": list(peer.absent),
                "method": peer.method,
                "differs": peer.differs or None,
            }
            for n in size["tokens"]:
                for clips in size["clips"]:
                    rows.append(measured(name, module, n, clips, size, device))
                    progress(f"{name}, {clips} × {n}")
    result = {
        "what": "time of the published code of compressors over that of our methods, on the same random tokens",
        "notes": [
            "theirs_over_ours: ratio of the medians of rounds in which both run once, in turns, after a warm-up; "
            "range: of the rounds' ratios",
            "both: from tokens and attention received to the tokens that stay; encoder, projector and LLM are left out",
            "half of the tokens stay, rounded up to a multiple of 4: VisPruner's code takes even counts alone, and "
            "ToMe's removes at most half a call",
            "published code that takes one clip at a time (divprune, evs) is called once a clip",
            f"found_again: share of our tokens that are among theirs, within {CLOSE} in every coordinate, in any order",
            "differs: in what the published code is defined otherwise than our method; null: in nothing, so that what "
            "is not found again comes of rounding: ours counts what differs by less than 1e-6 as equal",
            "git_blob: what `git hash-object` says of the file; absent: modules that it imports, that its function "
            "has no use for, and that stood in empty",
        ],
        "quick": quick,
        "configuration": size | {"device": device, "dtype": "float32", "clock": clock},
        "environment": before_all,
        "peers": peers,
        "rows": rows,
    }
    save(result, out)
    show(result)
    Console().print(f"written to {out}")


if __name__ == "__main__":
    typer.run(main)
