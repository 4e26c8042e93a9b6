"""Packed results: the runs of a model as columns in one compressed file, read without unpacking it.

    results/summary.jsonl              a line a run
    results/<model>.json.xz            its runs with all samples, those of adapters on the model among them
    results/<folder>/<model>.json.xz   of another part: dev, lora, encoder, smaller …
    results/<folder>/trainings.jsonl   how the adapters or models of a part were trained

A file holds tables, each of runs of one task whose result and samples have the same keys. Nothing of what
`fewhertz eval` wrote is lost: `recipes.research.pack` makes the files, and the loose ones of them again.
"""

from __future__ import annotations

import functools
import json
import lzma
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fewhertz.evaluation import curves
from fewhertz.files import Record, safe_name

FORMAT = 2
SUMMARY, TRAININGS, ENDING = "summary.jsonl", "trainings.jsonl", ".json.xz"

Keys = tuple[str, ...]  # the way to a value through nested objects


def flat(record: Record, above: Keys = ()) -> dict[Keys, Any]:
    """Values of nested objects, in their order; an empty object is a value."""
    found: dict[Keys, Any] = {}
    for key, value in record.items():
        inner = isinstance(value, dict) and value
        found |= flat(value, (*above, key)) if inner else {(*above, key): value}
    return found


def nested(values: Iterable[tuple[Keys, Any]]) -> Record:
    """What `flat` was made of."""
    record: Record = {}
    for keys, value in values:
        place = record
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
    return record


@dataclass(frozen=True)
class Column:
    """One value of every sample of every run of a table.

    Attributes:
        by: what it depends on, which says how many values there are: `""` (one), `"row"`, `"run"`, or `"both"`, where
            a sample's values of all runs stand together: they resemble one another, which compresses well.
    """

    keys: Keys
    by: str
    values: list[Any]

    @classmethod
    def of(cls, keys: Keys, values: list[list[Any]]) -> Column:
        """Of `values[run][row]`."""
        texts = [list(map(json.dumps, run)) for run in values]  # 1, 1.0 and true are equal, and not the same
        by_row = all(run == texts[0] for run in texts)
        by_run = all(text == run[0] for run in texts for text in run)
        if by_row and by_run:
            return cls(keys, "", values[0][:1])
        if by_row or by_run:
            return cls(keys, *(("row", values[0]) if by_row else ("run", [run[0] for run in values])))
        return cls(keys, "both", [value for row in zip(*values, strict=True) for value in row])

    def run(self, index: int, runs: int, rows: int) -> list[Any]:
        """Of one run, a value a row."""
        if self.by == "row":
            return self.values
        if self.by == "both":
            return self.values[index::runs]
        return self.values[index if self.by == "run" else 0 :][:1] * rows


@dataclass(frozen=True)
class Table:
    """Runs whose results have the same keys, and as many samples with the same keys."""

    commits: list[str]
    results: list[Record]
    rows: int
    samples: dict[Keys, Column]


@dataclass(frozen=True)
class Stored:
    """A run: what the result says (`run`, checked, and `record`, whole) and its samples, by columns or by rows."""

    file: Path
    table: Table = field(repr=False)
    index: int

    @property
    def record(self) -> Record:
        """The result as `fewhertz eval` wrote it, but for the name of its samples' file."""
        return self.table.results[self.index]

    @property
    def commit(self) -> str:
        """The commit that it was measured with, or, of older ones, that brought it."""
        return self.table.commits[self.index]

    @functools.cached_property
    def run(self) -> curves.Run:
        return curves.run(self.file, self.record)

    def column(self, *keys: str) -> list[Any]:
        """One value of each sample: `column("output")`, `column("stats", "wer")`."""
        return self.table.samples[keys].run(self.index, len(self.table.results), self.table.rows)

    def samples(self) -> list[Record]:
        """All of each sample, as `fewhertz eval` wrote it."""
        columns = [self.column(*keys) for keys in self.table.samples]
        return [nested(zip(self.table.samples, values, strict=True)) for values in zip(*columns, strict=True)]

    def stats(self, metric: str) -> tuple[np.ndarray, list[str]]:
        """Statistics of each sample, and the group that it is drawn with."""
        groups = [
            one if group is None else group for one, group in zip(self.column("id"), self.column("group"), strict=True)
        ]
        return np.array(self.column("stats", metric), float), groups


Runs = dict[tuple[str, str], Stored]  # of a task, by model and spec


def pack(runs: list[tuple[str, Record, list[Record]]]) -> bytes:
    """Commit, result and samples of runs as the bytes of a file; the same runs are the same bytes."""
    tables = defaultdict(list)
    for commit, result, samples in sorted(runs, key=lambda one: (one[1]["task"], one[1]["model"], one[1]["method"])):
        values = flat({key: value for key, value in result.items() if key != "samples"})
        flattened = [flat(sample) for sample in samples]
        if any(sample.keys() != flattened[0].keys() for sample in flattened):
            raise ValueError(f"{result['model']}, {result['method']}: its samples have different keys")
        tables[result["task"], tuple(values), tuple(flattened[0]), len(samples)].append((commit, values, flattened))
    text = json.dumps({"format": FORMAT, "tables": [_table(*keys, some) for (_, *keys), some in tables.items()]})
    return lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)


def _table(outer: tuple[Keys, ...], inner: tuple[Keys, ...], rows: int, runs: list[Any]) -> Record:
    results = [Column.of(keys, [[values[keys]] for _, values, _ in runs]) for keys in outer]
    samples = [Column.of(keys, [[sample[keys] for sample in some] for *_, some in runs]) for keys in inner]
    return {"commits": [commit for commit, *_ in runs], "results": list(map(vars, results))} | {
        "rows": rows,
        "samples": list(map(vars, samples)),
    }


def unpack(file: Path) -> dict[str, Runs]:
    """The runs of a file, by task.

    Raises:
        ValueError: where it is damaged or of another format; names it.
    """
    try:
        content = json.loads(lzma.decompress(file.read_bytes()))
    except (lzma.LZMAError, EOFError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error}): check it out again") from None
    if content.get("format") != FORMAT:
        raise ValueError(f"{file} is no packed result of format {FORMAT}")
    found: dict[str, Runs] = {}
    for one in content["tables"]:
        outer, inner = (
            [Column(tuple(c["keys"]), c["by"], c["values"]) for c in one[k]] for k in ("results", "samples")
        )
        count = len(one["commits"])
        results = [nested((column.keys, column.run(i, count, 1)[0]) for column in outer) for i in range(count)]
        table = Table(one["commits"], results, one["rows"], {column.keys: column for column in inner})
        for i, run in enumerate(results):
            found.setdefault(run["task"], {})[run["model"], run["method"]] = Stored(file, table, i)
    return found


def base(result: Record) -> str:
    """The model that a result is of, without the adapter on it."""
    name: str = result["model"]
    return name.rpartition("+")[0] if result.get("adapter") else name


def file_of(folder: Path, model: str) -> Path:
    """Where the runs of a model are packed."""
    return folder / f"{safe_name(model)}{ENDING}"


class Packed:
    """A folder of packed results; its files are read when they are first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def runs(self, part: str, task: str, model: str) -> Runs:
        """All runs of a task and model, and of adapters on it; none where nothing was measured."""
        return self._unpacked(file_of(self.root / part, model)).get(task, {})

    @functools.cache  # noqa: B019 (lives as long as a page is written)
    def _unpacked(self, file: Path) -> dict[str, Runs]:
        return unpack(file) if file.exists() else {}

    @functools.cache  # noqa: B019
    def trainings(self, part: str) -> dict[str, Record]:
        """How the adapters or models of a part were trained, by name."""
        file = self.root / part / TRAININGS
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        return {note["name"]: note["record"] for note in map(json.loads, lines)}
