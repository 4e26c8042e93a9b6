"""How much faster a prefill of fewer tokens is: of `bench/prefill.py`."""

from __future__ import annotations

import json

from fewhertz.files import Record

from ..measured import Measured
from ..tables import Claim, table
from ..tasks import RESULTS


def speed(_: Measured) -> Claim:
    bench = json.loads((RESULTS / "bench" / "prefill.json").read_text("utf-8"))
    paper = bench["paper"]
    limit, predicted = f"{paper['limit_at_any_length']:.0f}", f"{paper['predicted_speedup_30s']:.2f}"
    here = ", ".join(f"{value:.2f} ({case})" for case, value in paper["measured_speedup_here"].items())
    rows = [
        [row["case"], row["keep"], f"{row['speedup']:.2f}", f"{row['speedup_predicted']:.2f}"]
        for row in bench["rows"]
        if row["method"].startswith("pool@") and row["keep"] != "1"
    ]
    met = {True: "met", False: "missed", None: "not measured"}
    targets = [[one["what"], one["bar"], _worst(one), met[one["met"]]] for one in bench["bars"]]
    where = bench["environment"]["gpu"] or bench["environment"]["cpu"]
    return Claim(
        "Half the tokens make prefill 4.7 times faster (162.5 → 34.4 ms on an A100)",
        "arXiv 2511.14293",
        f"by operations, Qwen2-Audio-7B and 30 s: {predicted} times, {limit} at most at any length; measured: {here}",
        "**does not hold** by fewer operations alone",
        "Operations of a prefill are a + b·n + c·n² with nothing negative, so half the tokens leave a quarter at "
        f"least: {paper['reported_speedup']:.2f} times is more than the {limit} of attention alone. For 30 s of audio "
        f"{paper['ms_saved_explained_30s']:.0f} of the {paper['ms_saved']:.0f} ms saved would be explained. What else "
        "differed between the paper's two figures (a first call, another kernel, memory) we do not know.\n\n"
        f"Measured on {where}, layers of the 7B's true shapes, random weights, `pool`; reduced: "
        f"{'; '.join(bench['reduced']) or 'nothing'}.\n\n"
        + table(["case", "keep", "times faster", "predicted"], rows)
        + "\n\nOur own targets, over all methods and cases of `results/bench/prefill.json`:\n\n"
        + table(["", "target", "worst", ""], targets),
    )


def _worst(one: Record) -> str:
    return "–" if one["worst"] is None else f"{one['worst']:.3g} ({one['worst_row']})"
