"""Options that benches share, and what a bench of random weights, or one over the dev lists, begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

OUT = Annotated[Path, typer.Option(help="Result file (JSON).")]
LISTS_FOLDER = Annotated[Path | None, typer.Option(help="Folder of the dev lists; with --quick: the bundled clips.")]
QUICK_RUN = Annotated[bool, typer.Option(help="Short: shows that the bench runs, measures nothing.")]
DEVICE = Annotated[str, typer.Option(help="cpu or cuda.")]
THREADS = Annotated[int, typer.Option(help="Threads on the CPU.")]
TINY = Annotated[bool, typer.Option(help="Tiny shapes: shows that the bench runs, measures nothing.")]
ANY_DEVICE = Annotated[str, typer.Option(help="cpu or cuda; by default cuda where there is one.")]


def start(device: str, threads: int) -> tuple[str, torch.dtype]:
    """The device, found where none is named, and the dtype of models of random weights; sets threads and seed."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return device, torch.bfloat16 if device == "cuda" else torch.float32


def begin(lists: Path | None, quick: bool, threads: int) -> None:
    """Refuse a run without lists that is to measure something, and set the threads."""
    if lists is None and not quick:
        raise typer.BadParameter("give --lists, what recipes.pocket.manifests wrote")
    torch.set_num_threads(threads)
