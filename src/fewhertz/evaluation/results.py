"""Result files: one JSON file a run (task × model × method spec), its samples beside it, and the journal of a run.

    results/<task>/<model>/<spec>.json               the run: configuration, scores, cost
    results/<task>/<model>/<spec>.samples.jsonl.gz   a line a sample, in the order of the data
    results/<task>/<model>/<spec>.partial-0.jsonl    while it runs: what process 0 has done so far
    results/<task>/<model>/judge|<…>.jsonl           ratings of a judge model (`judge`), by the hash of a pair of texts
    results/<task>/<model>/.lock, .lock-holder       while it runs: that it does, and what process does it

Names are percent-encoded as in URLs (`safe_name`): `pool@keep=1/3` is `pool@keep=1%2F3`.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

from fewhertz.errors import one_line
from fewhertz.files import Record, json_line, json_record, no_number, replace, safe_name

FORMAT = 1
BASELINE = "keep=1"  # spec of the uncompressed model: at keep=1 every method is the identity
_MOST = 64 << 20  # bytes of a result, and of its samples unpacked: somebody else's may be made to fill the memory
_NEEDED = {"row", "id", "output", "references", "scores"}  # of a sample


@dataclass(frozen=True)
class RunFiles:
    """Where the files of a run are."""

    folder: Path
    spec: str

    @property
    def file(self) -> Path:
        """The run's result."""
        return self.folder / f"{safe_name(self.spec)}.json"

    @property
    def samples(self) -> Path:
        """Its samples."""
        return self.folder / f"{safe_name(self.spec)}.samples.jsonl.gz"

    def partial(self, process: int) -> Path:
        """The journal of one process."""
        return self.folder / f"{safe_name(self.spec)}.partial-{process}.jsonl"

    def partials(self) -> list[Path]:
        """The journals that are there."""
        pattern = f"{glob.escape(safe_name(self.spec))}.partial-*.jsonl"
        return sorted(self.folder.glob(pattern))


def run_files(root: Path, task: str, model: str, spec: str) -> RunFiles:
    """Where a run is kept.

    Args:
        root: folder of all results.
        task: the task's label.
        model: name of the model.
        spec: the method's spec, or `BASELINE`.
    """
    return RunFiles(root / safe_name(task) / safe_name(model), spec)


def write(place: RunFiles, result: Record, samples: list[Record]) -> None:
    """Write a run: its samples first, so that a result is never without them.

    Raises:
        ValueError: where the samples are not the result's `n`, or one is there twice; nothing is written.
    """
    if wrong := _miscounted(result, samples):
        again = "remove its journals (.partial-*.jsonl) and run it again"
        raise ValueError(f"{place.file} is not written: {wrong}: {again}")
    lines = "".join(json_line(sample) for sample in samples).encode()
    packed = gzip.compress(lines, mtime=0)  # the same samples are the same bytes
    replace(place.samples, packed)
    result = result | {"samples": {"file": place.samples.name, "sha256": hashlib.sha256(packed).hexdigest()}}
    # half a character, as a damaged name may hold, is escaped
    text = json.dumps(result, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
    replace(place.file, text + b"\n")


def _miscounted(result: Record, samples: list[Record]) -> str | None:
    """What is wrong with the number of a run's samples."""
    seen = set()
    for row in (sample["row"] for sample in samples):
        if not isinstance(row, int) or row in seen:
            return f"row {row!s:.20} is {'there twice' if isinstance(row, int) else 'no number'}"
        seen.add(row)
    return None if result["n"] == len(samples) else f"n is {result['n']!s:.20}, its samples are {len(samples)}"


def read(file: Path) -> Record:
    """A run's result.

    Raises:
        ValueError: where it is missing, damaged or of another format; names the file.
    """
    again = "remove it and run it again"
    try:
        if file.stat().st_size > _MOST:
            raise ValueError(f"it has more than {_MOST >> 20} MB")
        result = json.loads(file.read_text("utf-8"), parse_constant=no_number)
    except FileNotFoundError:
        raise ValueError(f"{file} is missing: run it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({one_line(error)}): {again}") from None
    needed = {"task", "model", "method", "scores", "n", "identity", "samples"}
    if not isinstance(result, dict) or result.get("format") != FORMAT or not needed <= result.keys():
        raise ValueError(f"{file} is no result file of format {FORMAT}: {again}")
    for key in ("scores", "identity", "samples"):
        if not isinstance(result[key], dict):
            raise ValueError(f"{file} is damaged ({key} is {result[key]!r:.40}): {again}")
    n, rows, failed = result["n"], result["identity"].get("rows"), result.get("failed")
    if not isinstance(n, int) or (isinstance(rows, int) and isinstance(failed, list) and n != rows - len(failed)):
        why = f"n is {n!s:.20}" + (f", of {rows!s:.20} rows {len(failed)} failed" if isinstance(failed, list) else "")
        raise ValueError(f"{file} is damaged ({why}): {again}")
    return result


def read_samples(file: Path) -> list[Record]:
    """The samples beside a run's result, in the order of the data.

    Args:
        file: the result (`….json`).

    Raises:
        ValueError: where they are missing, damaged or another run's; names the file and the row.
    """
    result = read(file)
    named = result["samples"]
    beside = file.with_name(Path(str(named.get("file"))).name)
    again = f"remove {file.name} and run it again"
    rows: list[Record] = []
    try:
        if beside.stat().st_size > _MOST:
            raise EOFError(f"it has more than {_MOST >> 20} MB")
        packed = beside.read_bytes()
        left = _MOST
        with gzip.open(io.BytesIO(packed)) as unpacked:
            while line := unpacked.readline(left + 1):  # one by one: what is no sample ends it before it fills anything
                left -= len(line)
                if left < 0:
                    raise EOFError(f"it unpacks to more than {_MOST >> 20} MB")
                rows.append(json_record(line, beside, len(rows) + 1, _NEEDED))
    except FileNotFoundError:
        raise ValueError(f"{beside} is missing: {again}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{beside} is damaged ({one_line(error)}): {again}") from None
    if hashlib.sha256(packed).hexdigest() != named.get("sha256"):
        raise ValueError(f"{beside} is not what {file.name} was made from: {again}")
    if wrong := _miscounted(result, rows):
        raise ValueError(f"{beside} is damaged ({wrong}): {again}")
    return rows


def gather(root: Path) -> tuple[list[tuple[Path, Record]], list[str]]:
    """All results under a folder, sorted by name, and what is wrong with those that cannot be read."""
    found, wrong = [], []
    for file in sorted(root.glob("*/*/*.json")):
        try:
            found.append((file, read(file)))
        except ValueError as error:
            wrong.append(str(error))
    return found, wrong
