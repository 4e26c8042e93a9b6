"""A report's samples to see and to hear: what each method's tokens stand for, over the audio, and what came of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fewhertz.checkpoint import open_checkpoint, weights_sha256
from fewhertz.compare import Heard, Lane, load
from fewhertz.errors import one_line
from fewhertz.evaluation import curves, results
from fewhertz.evaluation.curves import Group, Run
from fewhertz.evaluation.regressions import lost
from fewhertz.evaluation.results import BASELINE
from fewhertz.evaluation.setup import model_name
from fewhertz.families import family_of
from fewhertz.files import Record
from fewhertz.method import NONE, parse
from fewhertz.run import PROMPTS, read_whole, sample_rate
from fewhertz.studio import page
from fewhertz.tasks.base import Sample, Task

MOST = 12  # lanes of a sample


class Listener:
    """Draws samples of the results of one task and one model, with and without adapters.

    Args:
        model: a hub id, a directory, or `pocket`: what was evaluated.
        task: likewise.
        device: where to; `None`: the GPU where there is one, else the CPU.

    Raises:
        ValueError: where there is no such model, or the data cannot be read.
    """

    def __init__(self, model: str | Path, task: Task, device: str | None = None) -> None:
        self.task, self.name = task.label, model_name(model)
        self.weights = weights_sha256(open_checkpoint(model))
        self.samples = {row.row: row for row in task.samples() if isinstance(row, Sample)}
        self.model, self.processor = load(model, [], device=device)

    def fits(self, group: Group) -> bool:
        """Whether a group's results are of this task and model."""
        return group.task == self.task and (group.model == self.name or group.model.startswith(f"{self.name}+"))

    def clips(self, group: Group, most: int) -> tuple[list[Record], list[str]]:
        """The samples that lost most against keep=1, all methods taken together, and what is wrong with others."""
        runs = _some(group)
        if wrong := [why for run in runs if (why := self._otherwise(run))]:
            return [], wrong
        try:
            lines = [{line["row"]: line for line in results.read_samples(run.file)} for run in runs]
            rows = lost(group)[:most]
        except ValueError as error:
            return [], [str(error)]
        found: list[Record] = []
        for row in rows:
            try:
                found.append(self._clip(runs, [some.get(row) for some in lines], row))
            except (KeyError, OSError, TypeError, ValueError) as error:
                wrong.append(f"{group.task}, row {row + 1} is not shown: {one_line(error)}")
        return found, wrong

    def _otherwise(self, run: Run) -> str | None:
        if run.measured.get("weights_sha256") == self.weights:
            return None
        return f"{run.file} was measured with other weights than {self.name} has: its samples are not shown"

    def _clip(self, runs: list[Run], lines: list[Record | None], row: int) -> Record:
        first = next(line for line in lines if line is not None)
        sample = self.samples.get(row)
        if sample is None or (sample.id, sample.references) != (first["id"], first["references"]):
            raise ValueError("the data has another sample there")
        rate, source = sample_rate(self.processor), sample.source()
        wave = read_whole(source, rate, family_of(self.model), chunks=False)
        if abs(len(wave) / rate - first["audio_seconds"]) > 1e-3:
            raise ValueError("its audio is not that which was measured")
        heard = Heard(self.model, self.processor, wave, sample.prompt)
        lanes = [self._lane(heard, run, line) for run, line in zip(runs, lines, strict=True) if line]
        reference = sample.references[0]
        spoken = reference if sample.prompt is None else None  # of words that are said, errors are counted
        return page.record(
            Path(source).name if isinstance(source, Path) else sample.id,
            wave,
            rate,
            float(family_of(self.model).rate(self.model.config)),
            [lane.judged(lanes[0].text, spoken) for lane in lanes],
            model=self.name,
            prompt=sample.prompt or PROMPTS["transcribe"],
            reference=reference,
        )

    def _lane(self, heard: Heard, run: Run, line: Record) -> Lane:
        """The lane with the answer that was measured; of a learned method without its tokens."""
        spec = NONE if run.spec == BASELINE else run.spec
        if parse(spec).build(1) is not None:
            return Lane(spec, line["before"], line["after"], None, line["output"], None, None)
        lane = heard.draw(spec)
        if lane.tokens != line["after"]:
            raise ValueError(f"{run.spec} keeps {lane.tokens} tokens of it, {line['after']} when it was measured")
        return replace(lane, text=line["output"])


def _some(group: Group) -> list[Run]:
    """The baseline and as many others as there is room for: those first that are as good as any at fewer Hz."""
    curve = curves.curve(group, group.main)
    beaten = curve.beaten if curve else {}
    best = sorted(group.runs, key=lambda run: beaten.get(run.spec, len(group.runs)))[: MOST - 1]
    return [run for run in group.whole if run is group.baseline or run in best]
