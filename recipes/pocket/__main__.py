"""The whole recipe: data, tokenizer, training, choice on dev, export, samples, test report. Each stage is cached.

python -m recipes.pocket                         # the shipped model
python -m recipes.pocket --size tiny             # all stages in a few minutes, into runs/tiny/shipped
python -m recipes.pocket --device cuda --bf16
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from . import config
from .config import RUNS, SHIPPED, SIZES


def stage(name: str, *arguments: str | Path) -> None:
    """Run one stage in a process of its own, as a user would."""
    print(f"== {name} {' '.join(map(str, arguments))}", flush=True)
    subprocess.run([sys.executable, "-m", f"recipes.pocket.{name}", *map(str, arguments)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--data", type=Path, default=config.DATA)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    shipping = args.size != "tiny"
    out = SHIPPED if shipping else RUNS / args.size / "shipped"
    stage("prepare", "--size", args.size, "--data", args.data)
    stage("tokenizer", "--size", args.size)
    training = ["--size", args.size, "--steps", args.steps, "--device", args.device]
    stage("train", *training, *(["--bf16"] if args.bf16 else []))
    limit = ["--limit", 0 if shipping else 20]
    stage("evaluate", "--run", args.size, "--split", "dev", *limit, "--out", RUNS / args.size / "dev.json")
    stage("export", "--run", args.size, "--out", out)
    if shipping:
        stage("samples", "--data", args.data)
        for split in ("dev", "test"):
            stage("evaluate", "--split", split, "--shipped")
        stage("card")


if __name__ == "__main__":
    main()
