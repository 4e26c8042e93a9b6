"""Evaluate methods and compare them in pandas.

    python examples/evaluate.py clips.jsonl out

The first file has a line for each clip: {"audio": "a.flac", "text": "what is said"}.
"""

import sys
from pathlib import Path

import fewhertz

data, out = sys.argv[1], Path(sys.argv[2])
results = fewhertz.evaluate(
    "pocket",
    data,
    ["pool", "ward+time+sizes", "ward@tolerance=0.3+time+sizes"],
    ["1/2", "1/3"],
    out,
    batch_size=8,
    say=print,
)
table = results.to_pandas()
print(table[["method", "rate_hz", "wer", "wer_difference", "wer_difference_low", "wer_difference_high"]].to_string())
print("best at half the tokens or fewer:", table[table.kept <= 0.55].sort_values("wer").method.iloc[0])
print(results.plot(out / "curve.png"), results.to_html(out / "report.html"))
