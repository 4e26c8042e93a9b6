"""Does agreement with the uncompressed model say what a method costs? `fewhertz tune` against true losses, on dev.

    python -m recipes.pocket.manifests --split dev --lists strings far-new-voices german --out out/fourth
    python -m recipes.pocket.manifests --split test --limit 150 --lists strings far-new-voices german --out out/fourth
    python -m recipes.research.agreement --lists out/fourth --out results/bench/agreement.json

Each dev list is evaluated under all candidates with its references, and tuned on without them; then ranks are compared.
What is chosen there is measured on the test list of the same kind.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fewhertz
from fewhertz.checkpoint import open_checkpoint, weights_sha256
from fewhertz.evaluation import results
from fewhertz.evaluation.runner import evaluate
from fewhertz.files import replace
from fewhertz.tuning import CANDIDATES, KEEPS

from .pack import head

ALSO = tuple(f"pool@keep={k}+time+sizes" for k in KEEPS) + tuple(f"pool@keep={k}" for k in KEEPS)
SPECS = (*CANDIDATES, *ALSO)
LISTS = ("strings", "far-new-voices", "german")
AGREE = 0.99


def ranks(values: list[float]) -> np.ndarray:
    """Ranks from 0, equals sharing their mean."""
    array = np.array(values)
    return np.array([(array < one).sum() + ((array == one).sum() - 1) / 2 for one in array])


def spearman(one: list[float], other: list[float]) -> float:
    """Rank correlation."""
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def lost(runs: Path, label: str, method: str) -> dict[str, Any]:
    """True loss of a run against all tokens, with its 95 % interval, and its rate."""
    record = results.read(results.run_files(runs, label, "pocket", method).file)
    score = record["scores"][record["metric"]]
    sign = -1 if score["higher_is_better"] else 1
    ends = sorted(sign * end for end in score["difference_interval"])
    return {
        "loss": sign * score["difference"],
        "interval": ends,
        "n": record["n"],
        "rate_hz": record["rate_hz"]["after"],
    }


def measure(lists: Path, name: str, runs: Path) -> dict[str, Any]:
    """Agreement and true loss of each candidate on one list."""
    import fewhertz.tasks
    from fewhertz.tasks.base import TASKS

    manifest = lists / f"{name}-dev.jsonl"
    task = TASKS["manifest"](data=str(manifest))
    specs = [fewhertz.parse(spec).spec for spec in SPECS]
    evaluate("pocket", task, specs, runs, batch_size=16, max_new_tokens=128, device="cpu", say=print)
    rows = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]
    (prompt,) = {row.get("prompt") for row in rows}
    model, processor = fewhertz.load("pocket", device="cpu", dtype="float32")
    tuned = fewhertz.tune(
        model, processor, [lists / row["audio"] for row in rows], specs, prompt=prompt, agree=AGREE,
        journal=runs / f"{name}.journal.jsonl",
        identity={"weights": weights_sha256(open_checkpoint("pocket"))}, say=print,
    )  # fmt: skip
    found = [
        {"method": one.method, "hertz": round(one.rate, 3), "agreement": round(one.agreement, 5), "kl": one.kl}
        | lost(runs, task.label, one.method)
        for one in tuned.candidates
    ]
    losses = [one["loss"] for one in found]
    chosen = next((one for one in found if tuned.chosen and one["method"] == tuned.chosen.method), None)
    if chosen:
        test = TASKS["manifest"](data=str(lists / f"{name}-test.jsonl"))
        evaluate("pocket", test, [chosen["method"]], runs, batch_size=16, max_new_tokens=128, device="cpu", say=print)
        chosen = chosen | {"test": lost(runs, test.label, chosen["method"])}
    return {
        "list": task.label,
        "metric": task.metrics()[0].name,
        "clips": tuned.clips,
        "tokens": tuned.tokens,
        "rank_correlation_agreement": round(spearman([-one["agreement"] for one in found], losses), 4),
        "rank_correlation_kl": round(spearman([one["kl"] for one in found], losses), 4),
        "chosen": chosen,
        "candidates": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=Path, default=Path("out/dev"))
    parser.add_argument("--runs", type=Path, default=Path("out/agreement"), help="folder of run files, and journals")
    parser.add_argument("--out", type=Path, default=Path("results/bench/agreement.json"))
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    commit = head(args.out)
    found = {
        "what": "agreement with the uncompressed model's answers (fewhertz tune) against the true loss, dev lists",
        "commit": commit,
        "versions": {"fewhertz": fewhertz.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "weights_sha256": weights_sha256(open_checkpoint("pocket")),
        "agree": AGREE,
        "lists": [measure(args.lists, name, args.runs) for name in LISTS],
    }
    replace(args.out, (json.dumps(found, indent=1) + "\n").encode())
    for one in found["lists"]:
        print(one["list"], one["rank_correlation_agreement"], one["rank_correlation_kl"], one["chosen"])


if __name__ == "__main__":
    main()
