"""What a training writes of itself: metrics.jsonl, the loss curve, TensorBoard."""

from __future__ import annotations

import importlib.util
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from fewhertz.files import replace


class Logbook:
    """The figures of a training, a line at a time; where TensorBoard or matplotlib are not installed, without them.

    Args:
        folder: where they are written; `None`: they are not.
        step: the last one that counts. What was written of later ones is forgotten: they are done again.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self.folder, self.step = folder, step
        self._board: Any = None
        if folder is not None:
            self._metrics.touch()
            lines = [line for line in self._lines() if line["step"] <= step]
            replace(self._metrics, "".join(json.dumps(line) + "\n" for line in lines).encode())

    @property
    def _metrics(self) -> Path:
        assert self.folder is not None
        return self.folder / "metrics.jsonl"

    def _lines(self) -> list[dict[str, Any]]:
        found = []
        for line in self._metrics.read_text("utf-8").splitlines():
            with suppress(ValueError):  # a line that a kill cut off
                found.append(json.loads(line))
        return found

    def write(self, line: dict[str, Any]) -> None:
        """Add the figures of a step."""
        if self.folder is None:
            return
        with self._metrics.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        if self._board is None and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step + 1)
        if self._board is not None:
            for name, value in line.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, line["step"])

    def draw(self, label: str) -> None:
        """Draw the loss curve."""
        if self.folder is None or importlib.util.find_spec("matplotlib") is None:
            return
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for name, style in (("loss", {"linewidth": 0.8}), ("dev_loss", {"marker": "o"})):
            points = [(line["step"], line[name]) for line in self._lines() if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=name.replace("_", " "), **style)
        axes.set(xlabel="step", ylabel=label, ylim=(0, None))
        if axes.lines:
            axes.legend()
        figure.savefig(self.folder / "loss.png", dpi=120)

    def close(self) -> None:
        """Write what is still held back."""
        if self._board is not None:
            self._board.close()
