"""Packed results made by tests."""

from collections import defaultdict
from pathlib import Path

from fewhertz.files import Record, replace
from recipes.research.packed import base, file_of, pack


def store(root: Path, runs: list[tuple[Record, list[Record]]]) -> None:
    """Pack results and their samples below a folder."""
    files = defaultdict(list)
    for result, samples in runs:
        files[file_of(root, base(result))].append(("0" * 40, result, samples))
    for file, some in files.items():
        replace(file, pack(some))
