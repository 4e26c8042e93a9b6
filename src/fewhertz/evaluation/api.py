"""`fewhertz.evaluate`: an evaluation from Python, and its results as a table, a picture or a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from fewhertz.errors import need
from fewhertz.evaluation import curves, report, runner
from fewhertz.tasks import named
from fewhertz.tasks.base import Task


@dataclass(frozen=True)
class Results:
    """Runs of one task and one model, with the files that they are kept in.

    Attributes:
        folder: of all results.
        files: the result file of each run, the baseline first.
        errors: what went wrong, a line each: rows that failed, damaged files.
    """

    folder: Path
    files: list[Path]
    errors: list[str]

    @property
    def runs(self) -> list[curves.Run]:
        """Each run with its scores and intervals, by falling rate, the baseline (all tokens) first."""
        found = [run for group in self._groups() for run in group.whole]
        return list({run.file: run for run in found}.values())

    def _groups(self) -> list[curves.Group]:
        wanted = set(self.files)
        groups, _ = curves.groups(self.folder)
        kept = []
        for group in groups:
            group.runs = [run for run in group.runs if run.file in wanted]
            if group.runs or (group.baseline is not None and group.baseline.file in wanted):
                kept.append(group)
        return kept

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`, a row a run: task, model, method, n, Hz, share kept, and of each metric its score, its
        95 % interval, and the paired difference to all tokens with its interval.

        Raises:
            ImportError: without pandas.
        """
        rows = []
        for run in self.runs:
            row: dict[str, Any] = {"task": run.task, "model": run.model, "method": run.spec, "n": run.n}
            row |= {"rate_hz": run.rate, "kept": run.kept}
            for name, score in run.scores.items():
                row |= {name: score.value, f"{name}_low": score.ends[0], f"{name}_high": score.ends[1]}
                low, high = score.difference_ends
                row |= {f"{name}_difference": score.difference}
                row |= {f"{name}_difference_low": low, f"{name}_difference_high": high}
            rows.append(row)
        return need("pandas").DataFrame(rows)

    def plot(self, out: str | Path, metric: str | None = None) -> Path:
        """Draw quality against audio tokens per second (.png, .svg or .pdf).

        Raises:
            ValueError: for a metric that is not measured, or a file of another kind.
            ImportError: without matplotlib.
        """
        file, groups = Path(out), self._groups()
        if file.suffix not in (".png", ".svg", ".pdf"):
            raise ValueError(f"a picture is a .png, .svg or .pdf file, got {file}")
        curves.plot(curves.choose(groups, metric=metric), curves.styles(groups), file)
        return file

    def to_html(self, out: str | Path, samples: int = 10) -> Path:
        """Write the report of all results in the folder as one page that needs no network.

        Args:
            out: an .html file.
            samples: of each run, the worst regressions that are shown.
        """
        report.report(self.folder, out, samples)
        return Path(out)


def evaluate(
    model: str | Path,
    data: Task | str | Path,
    methods: Sequence[str] = (),
    keeps: Sequence[str | Fraction] = (),
    out: str | Path = "results",
    *,
    limit: int | None = None,
    batch_size: int = 1,
    max_new_tokens: int = 256,
    device: str | None = None,
    dtype: str | None = None,
    seed: int = 0,
    adapters: Sequence[str | Path] = (),
    trim: bool = False,
    also: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Results:
    """Measure a model with all its tokens and under methods, on a task: what `fewhertz eval` does.

    What is there is not run again; a run that was broken off goes on where it was.

    Args:
        model: a hub id, a directory, or `pocket`.
        data: a .jsonl manifest (`{"audio": …, "text": …}` a line), a known task's name, or a task.
        methods: specs; those without a budget run at each of `keeps`.
        keeps: fractions kept.
        out: folder of all results.
        limit: rows of the data, its first ones; `None`: all.
        batch_size: samples that run together.
        max_new_tokens: longest output, in tokens.
        device: where to; `None`: the GPU where there is one, else the CPU.
        dtype: of the weights; `None`: the checkpoint's own.
        seed: of the bootstrap.
        adapters: directories of LoRA adapters, each evaluated too.
        trim: whether all tokens are measured with a trimmed encoder too, as what is compressed is (`compress`).
        also: metrics beside the task's own: `wer-formatted`, `flesch`, `flesch=de`, `similarity`, `similarity=MODEL`,
            `judge=MODEL@ADDRESS`.
        say: gets a line of text about how far it is, now and then.

    Raises:
        ValueError: where the model, a method or the data cannot be used, or a result is there that was made otherwise.
        ImportError: where a package of the `eval` extra is missing.

    Example:
        >>> results = fewhertz.evaluate("pocket", "mine.jsonl", ["pool", "ward+time+sizes"], ["1/2", "1/3"])
        >>> results.to_pandas()[["method", "rate_hz", "wer", "wer_difference"]]
    """
    task = data if isinstance(data, Task) else named(str(data))
    done = runner.evaluate(
        model,
        dataclasses.replace(task, also=(*task.also, *also)),
        runner.specs(methods, keeps),
        out,
        limit=limit,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        device=device,
        dtype=dtype,
        seed=seed,
        adapters=adapters,
        trim=trim,
        say=say,
    )
    return Results(Path(out), done.files, done.errors)
