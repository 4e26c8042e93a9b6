"""The studio's bench, run as its users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_studios_bench(tmp_path: Path) -> None:
    out = tmp_path / "studio.json"
    command = [sys.executable, "-m", "bench.studio", "--quick", "--threads", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text("utf-8"))
    assert result["quick"] and result["configuration"]["clip_seconds"] == 4 and result["first_lane_ms"] > 0
    for moves in result["slider_to_lanes"].values():
        assert moves["moves"] == len(moves["all_ms"]) == 2
        assert 0 < moves["until_lanes_come_median_ms"] <= moves["median_ms"] <= moves["worst_ms"]
