"""The whole recipe: data, tokenizer, leak check, training, scores on dev, export, samples, test report, card.

    python -m recipes.pocket                         # a smaller one, on a CPU
    python -m recipes.pocket --size tiny             # all stages in a few minutes, into runs/tiny/shipped
    python -m recipes.pocket --size large --device cuda --bf16 --workers 6 --batch-seconds 2400

Each stage is a command of its own, is kept where it is done, and goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from . import config
from .config import RUNS, SHIPPED, SIZES


def stage(name: str, *arguments: str | Path | float) -> None:
    """Run one stage in a process of its own, as a user would."""
    print(f"== {name} {' '.join(map(str, arguments))}", flush=True)
    done = subprocess.run([sys.executable, "-m", f"recipes.pocket.{name}", *map(str, arguments)])
    if done.returncode:
        sys.exit(f"stage {name} failed with status {done.returncode}; the same command goes on from there")


def losses(run: Path) -> tuple[float, float]:
    """The LLM's loss at the first and at the last entry of a run's log."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return rows[0]["ce"], rows[-1]["ce"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [name for name, size in SIZES.items() if size.family == SIZES["small"].family]  # what is shipped is of it
    parser.add_argument("--size", choices=sizes, default="small")
    parser.add_argument("--data", type=Path, default=config.DATA)
    parser.add_argument("--steps", type=int, default=0, help="of training; the size's own by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches")
    parser.add_argument("--batch-seconds", type=float, default=60.0, help="seconds of audio a step; on a GPU 2400")
    args = parser.parse_args()
    shipping, run = args.size != "tiny", RUNS / args.size
    out = SHIPPED if shipping else run / "shipped"
    stage("prepare", "--size", args.size, "--data", args.data)
    stage("leaks", "--size", args.size, "--data", args.data)
    stage("tokenizer", "--size", args.size)
    training = ["--size", args.size, "--steps", args.steps, "--device", args.device, "--workers", args.workers]
    stage("train", *training, "--batch-seconds", args.batch_seconds, *(["--bf16"] if args.bf16 else []))
    first, last = losses(run)
    print(f"loss {first:.2f} → {last:.2f}")
    if not last < first:
        sys.exit("the loss did not fall")
    stage("evaluate", "--run", args.size, "--split", "dev", "--limit", 0 if shipping else 8, "--out", run / "dev.json")
    stage("export", "--run", args.size, "--out", out)
    if shipping:
        stage("samples", "--data", args.data)
        for split in ("dev", "test"):
            stage("evaluate", "--split", split, "--shipped")
        stage("evaluate", "--split", "dev", "--shipped", "--sensitivity")
        stage("card")


if __name__ == "__main__":
    main()
