"""A run's state in a folder that travels: weights in half precision, CTC head, phonemes, processor. No optimiser.

python -m recipes.pocket.start pack --run large --out recipes/pocket/start
python -m recipes.pocket.start unpack --run large     # recipes/pocket/start into runs/large: `train` goes on from it
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from .config import HERE, RUNS

START = HERE / "start"


def pack(run: Path, out: Path) -> None:
    """The running mean of a run's weights, with what `train` needs beside it."""
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    out.mkdir(parents=True, exist_ok=True)
    facts = {k: state[k] for k in ("step", "round", "spent", "heard", "size", "hardware", "before")}
    half = {k: v.half().contiguous() for k, v in state["model"].items()}
    save_file(half, out / "model.safetensors", {"format": "pt", "training": json.dumps(facts)})
    save_file(state["head"], out / "head.safetensors")
    shutil.copy(run / "phonemes.json", out)
    shutil.copytree(RUNS / state["size"] / "processor", out / "processor", dirs_exist_ok=True)


def unpack(folder: Path, run: Path) -> None:
    """Write the checkpoint that `train` goes on from.

    Raises:
        FileExistsError: where the run has one.
    """
    if (run / "checkpoint.pt").exists():
        raise FileExistsError(f"{run} has a checkpoint: move it away, or name another run")
    run.mkdir(parents=True, exist_ok=True)
    with safe_open(folder / "model.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["training"])
    weights = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    shutil.copytree(folder / "processor", RUNS / facts["size"] / "processor", dirs_exist_ok=True)
    shutil.copy(folder / "phonemes.json", run)
    head = load_file(folder / "head.safetensors")
    torch.save({"model": weights, "last": weights, "head": head} | facts, run / "checkpoint.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("pack", "unpack"))
    parser.add_argument("--run", default="large")
    parser.add_argument("--out", type=Path, default=START, help="the folder")
    args = parser.parse_args()
    if args.job == "pack":
        pack(RUNS / args.run, args.out)
    else:
        unpack(args.out, RUNS / args.run)


if __name__ == "__main__":
    main()
