"""What the shipped pocket loses to fewer audio tokens, training-free: methods × keeps on the fixed test lists.

    python -m recipes.pocket.sweep          # 10 minutes on 2 cores; results/pocket/training-free.json, docs/curve.png

Through `fewhertz.compress` and the stock 30 s windows, greedy. Nothing is chosen on these lists.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import transformers
from rich.progress import track

import fewhertz
from fewhertz.demo import Clip, draw_curve, measure, print_table

from .config import DATA, REPO, SHIPPED, SPLITS
from .prepare import read_jsonl, string_clips, synthetic_clips

METHODS = (
    "pool", "stride", "segment", "ltbm", "global-merge", "segmentwise", "visionzip", "topk", "bottomk", "random",
)  # fmt: skip
DRAWN = ("pool", "stride", "segment", "ltbm", "segmentwise")  # lines of the picture


def clips(data: Path, limit: int) -> Iterator[Clip]:
    """Strings of spoken words of test speakers, and synthetic sentences of held-out text."""
    manifest = read_jsonl(data / "manifest.jsonl")
    words = [r for r in manifest if r["tar"] == "speech_commands.tar" and r["split"] == "test"]
    for row, wave in string_clips(data, read_jsonl(SPLITS / "strings-test.jsonl")[:limit], words):
        yield Clip(np.asarray(wave, np.float32), row["text"], "recorded")
    for row, wave in synthetic_clips(read_jsonl(SPLITS / "synthetic-test.jsonl")[:limit]):
        yield Clip(np.asarray(wave, np.float32), row["text"], "synthetic")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--limit", type=int, default=300, help="clips of each list")
    parser.add_argument("--out", type=Path, default=REPO / "results" / "pocket" / "training-free.json")
    parser.add_argument("--curve", type=Path, default=REPO / "docs" / "curve.png")
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    chosen = list(clips(args.data, args.limit))
    steps = iter(track(range(1 + 4 * len(METHODS)), "transcribing"))
    rows = measure(chosen, methods=METHODS, repeats=0, tick=lambda: next(steps, None))
    kinds = {kind: [c for c in chosen if c.kind == kind] for kind in rows[0].wer}
    result = {
        "what": "word error rate of pocket under compression, training-free, greedy",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "weights_sha256": hashlib.sha256((SHIPPED / "model.safetensors").read_bytes()).hexdigest(),
        "lists": {"recorded": "splits/strings-test.jsonl", "synthetic": "splits/synthetic-test.jsonl"},
        "clips": {kind: len(group) for kind, group in kinds.items()},
        "words": {kind: sum(len(c.text.split()) for c in group) for kind, group in kinds.items()},
        "versions": {
            "fewhertz": fewhertz.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "rows": [asdict(row) for row in rows],
    }
    for path in (args.out, args.curve):
        path.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print_table(rows)
    draw_curve([row for row in rows if row.method in ("none", *DRAWN)], args.curve)
    print(f"{args.out}\n{args.curve}")


if __name__ == "__main__":
    main()
