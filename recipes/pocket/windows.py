"""How long the windows of a long recording may be: errors on dev's passages at several lengths, by the shipped model.

    python -m recipes.pocket.manifests --split dev --lists passages pauses --out out/fourth
    python -m recipes.pocket.windows --lists out/fourth

`comfortable_seconds` of the shipped config.json is chosen by it, and by recordings in which voices change
(`bench.long_audio`; `results/windows-joined-dev.json`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import fewhertz
from fewhertz.evaluation.metrics import METRICS

from .config import RESULTS

SECONDS = (4.0, 6.0, 10.0, 15.0, 30.0)


def errors(manifest: Path, every: int) -> dict[str, float]:
    """Word error rate in %, of every so many-th clip, by seconds of the longest window."""
    rows = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()][::every]
    model, processor = fewhertz.load("pocket", device="cpu", dtype="float32")
    wer, found = METRICS["wer"], {}
    for seconds in SECONDS:
        said = []
        for row in rows:
            segments = fewhertz.transcribe(model, processor, manifest.parent / row["audio"], chunk=seconds)
            said.append(" ".join(one.text for one in segments if one.text))
        stats = wer.measure([[row["text"]] for row in rows], said, [[]] * len(rows))
        found[f"{seconds:g}"] = round(wer.score(stats), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=Path, default=Path("out/fourth"))
    parser.add_argument("--every", type=int, default=2, help="clips: each so many-th")
    args = parser.parse_args()
    found = {name: errors(args.lists / f"{name}-dev.jsonl", args.every) for name in ("passages", "pauses")}
    text = json.dumps({"what": "WER, %, by seconds of the longest window", "every": args.every, "dev": found}, indent=1)
    (RESULTS / "windows-dev.json").write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
