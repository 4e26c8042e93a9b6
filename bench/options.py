"""Options that benches share, and what a bench over the dev lists begins with."""

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


def begin(lists: Path | None, quick: bool, threads: int) -> None:
    """Refuse a run without lists that is to measure something, and set the threads."""
    if lists is None and not quick:
        raise typer.BadParameter("give --lists, what recipes.pocket.manifests wrote")
    torch.set_num_threads(threads)
