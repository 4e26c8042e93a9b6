"""Result files: one JSON file a cell (task × model × method spec), its samples beside it, and the journal of a run.

    results/<task>/<model>/<spec>.json               the cell: configuration, scores, cost
    results/<task>/<model>/<spec>.samples.jsonl.gz   a line a sample, in the order of the data
    results/<task>/<model>/<spec>.partial-0.jsonl    while it runs: what process 0 has done so far
    results/<task>/<model>/.lock, .lock-holder       while it runs: that it does, and what process does it

Names are percent-encoded as in URLs (`safe_name`): `pool@keep=1/3` is `pool@keep=1%2F3`.
"""

from __future__ import annotations

import contextlib
import datetime
import glob
import gzip
import hashlib
import io
import json
import os
import platform
import re
import time
import zlib
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout

FORMAT = 1
BASELINE = "keep=1"  # spec of the uncompressed model: at keep=1 every method is the identity
_MOST = 64 << 20  # bytes of a result, and of its samples unpacked: somebody else's may be made to fill the memory
_NEEDED = {"row", "id", "output", "references", "scores"}  # of a sample
_LONGEST = 120  # bytes of a name: file systems end at 255, and endings are added

Record = dict[str, Any]


def safe_name(text: str) -> str:
    """A file name for any text, the same for the same text, and another one for another.

    Letters, digits and `_.-~=,()@+` stay, everything else becomes %XX, as does a dot at the start, so that no name
    leads out of its folder. A long name is cut and ends with a hash of the whole.

    Raises:
        ValueError: for no text.
    """
    if not text:
        raise ValueError("a result needs a name")
    name = quote(text, safe="=,()@+")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 17]}~{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Cell:
    """Where the files of a cell are."""

    folder: Path
    spec: str

    @property
    def file(self) -> Path:
        """The cell's result."""
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


def cell(root: Path, task: str, model: str, spec: str) -> Cell:
    """Where a cell is kept.

    Args:
        root: folder of all results.
        task: the task's label.
        model: name of the model.
        spec: the method's spec, or `BASELINE`.
    """
    return Cell(root / safe_name(task) / safe_name(model), spec)


@contextlib.contextmanager
def held(folders: Iterable[Path]) -> Iterator[None]:
    """Keep other processes from writing to folders, and clear what one that was killed left half written there.

    The lock is the system's own, so it ends with the process that holds it, however that ends.

    Raises:
        ValueError: where another holds one of them; says who.
    """
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    who = json.dumps({"pid": os.getpid(), "host": platform.node(), "since": now}).encode()
    with contextlib.ExitStack() as stack:
        for folder in sorted(set(folders)):
            folder.mkdir(parents=True, exist_ok=True)
            told = folder / ".lock-holder"
            try:
                stack.enter_context(FileLock(folder / ".lock", timeout=0))
            except Timeout:
                who_else = _holder(told)
                raise ValueError(f"{folder} is in use by {who_else}: wait for it, or name another folder") from None
            clear(folder)
            replace(told, who)
            stack.callback(told.unlink, missing_ok=True)
        yield


def _holder(told: Path) -> str:
    for _ in range(10):
        try:
            who = json.loads(told.read_text("utf-8"))
            return f"process {who['pid']} on {who['host']!s:.80} since {who['since']!s:.40}"
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(0.1)  # it has begun just now, and will say who it is
    return "another process"


def clear(folder: Path) -> None:
    """Remove what a process that was killed left half written in a folder, which no other writes to now."""
    for file in folder.iterdir():
        if _PART.fullmatch(file.name):
            file.unlink()


_PART = re.compile(r"\..+\.(json|jsonl|gz|safetensors)\.\d+")  # as `replace` names them


def replace(file: Path, content: bytes) -> None:
    """Write a file so that it is there whole or, after a crash, not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with part.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def write(cell: Cell, result: Record, samples: list[Record]) -> None:
    """Write a cell: its samples first, so that a result is never without them.

    Raises:
        ValueError: where the samples are not the result's `n`, or one is there twice; nothing is written.
    """
    if wrong := _miscounted(result, samples):
        again = "remove its journals (.partial-*.jsonl) and run its cell again"
        raise ValueError(f"{cell.file} is not written: {wrong}: {again}")
    lines = "".join(_line(sample) for sample in samples).encode()
    packed = gzip.compress(lines, mtime=0)  # the same samples are the same bytes
    replace(cell.samples, packed)
    result = result | {"samples": {"file": cell.samples.name, "sha256": hashlib.sha256(packed).hexdigest()}}
    # half a character, as a damaged name may hold, is escaped
    text = json.dumps(result, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
    replace(cell.file, text + b"\n")


def _miscounted(result: Record, samples: list[Record]) -> str | None:
    """What is wrong with the number of a cell's samples."""
    seen = set()
    for row in (sample["row"] for sample in samples):
        if not isinstance(row, int) or row in seen:
            return f"row {row!s:.20} is {'there twice' if isinstance(row, int) else 'no number'}"
        seen.add(row)
    return None if result["n"] == len(samples) else f"n is {result['n']!s:.20}, its samples are {len(samples)}"


def read(file: Path) -> Record:
    """A cell's result.

    Raises:
        ValueError: where it is missing, damaged or of another format; names the file.
    """
    again = "remove it and run its cell again"
    try:
        if file.stat().st_size > _MOST:
            raise ValueError(f"it has more than {_MOST >> 20} MB")
        result = json.loads(file.read_text("utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise ValueError(f"{file} is missing: run its cell") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({_short(error)}): {again}") from None
    needed = {"task", "model", "method", "scores", "n", "identity", "samples"}
    if not isinstance(result, dict) or result.get("format") != FORMAT or not needed <= result.keys():
        raise ValueError(f"{file} is no result file of format {FORMAT}: {again}")
    for key in ("scores", "identity", "samples"):
        if not isinstance(result[key], dict):
            raise ValueError(f"{file} is damaged ({key} is {result[key]!r:.40}): {again}")
    n, rows, failed = result["n"], result["identity"].get("rows"), result.get("failed")
    if not isinstance(n, int) or (isinstance(rows, int) and isinstance(failed, list) and n != rows - len(failed)):
        told = f"n is {n!s:.20}" + (f", of {rows!s:.20} rows {len(failed)} failed" if isinstance(failed, list) else "")
        raise ValueError(f"{file} is damaged ({told}): {again}")
    return result


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def read_samples(file: Path) -> list[Record]:
    """The samples beside a cell's result, in the order of the data.

    Args:
        file: the result (`….json`).

    Raises:
        ValueError: where they are missing, damaged or another cell's; names the file and the row.
    """
    result = read(file)
    named = result["samples"]
    beside = file.with_name(Path(str(named.get("file"))).name)
    again = f"remove {file.name} and run its cell again"
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
                rows.append(_record(line, beside, len(rows) + 1, _NEEDED))
    except FileNotFoundError:
        raise ValueError(f"{beside} is missing: {again}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{beside} is damaged ({_short(error)}): {again}") from None
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


def _short(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _line(record: Record) -> str:
    # an escaped line separator of Unicode cannot break a line
    return json.dumps(record, ensure_ascii=True, allow_nan=False) + "\n"


def _record(line: str | bytes, file: Path, number: int, needed: Set[str] = frozenset()) -> Record:
    try:
        record = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not needed <= record.keys():
        raise ValueError(f"{file}, row {number} is damaged: remove the file and run again")
    return record


class Journal:
    """What a process has done of a cell, line by line on the disk: what was written survives `kill -9`.

    The first line says what is run; a journal of something else is refused. A last line that was cut off is dropped.
    """

    def __init__(self, file: Path, identity: Record) -> None:
        """Open a journal to go on with it, or begin one.

        Raises:
            ValueError: where it is of another run, or damaged before its last line.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        begun = bool(_whole_lines(file)) if file.exists() else False
        if begun:
            read_journal(file, identity)
        self._out = file.open("ab")
        self._out.truncate(len(_whole_lines(file)))
        if not begun:
            self.add([{"identity": identity}])

    def add(self, records: list[Record]) -> None:
        """Write records to the disk, and return when they are there."""
        self._out.write("".join(map(_line, records)).encode())
        self._out.flush()
        os.fsync(self._out.fileno())

    def close(self) -> None:
        """Close the file."""
        self._out.close()


def _whole_lines(file: Path) -> bytes:
    content = file.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def read_journal(file: Path, identity: Record) -> list[Record]:
    """The records of a journal.

    Raises:
        ValueError: where it is of another run, or damaged before its last line; names the file and the row.
    """
    lines = _whole_lines(file).decode("utf-8", "replace").splitlines()
    if not lines:
        return []
    head, *records = [_record(line, file, number) for number, line in enumerate(lines, 1)]
    if differing(head.get("identity"), identity):
        raise ValueError(f"{file} is of a broken-off run with {differs(head.get('identity'), identity)}: remove it")
    return records


def differing(old: Any, new: Record) -> list[str]:
    """What two configurations have otherwise: their keys, but for those that don't change a result.

    Where the data is (`path`) does not, since its content is compared. Older results don't say what audio they heard
    (`audio_sha256`) and of which `revision` their method was: for them there is nothing to compare.
    """
    old = old if isinstance(old, dict) else {}
    told = [key for key in {**new, **old} if key != "path" and old.get(key) != new.get(key)]
    return [key for key in told if key not in ("audio_sha256", "revision") or (key in old and key in new)]


def differs(old: Any, new: Record) -> str:
    """What an older configuration has otherwise, in words."""
    old = old if isinstance(old, dict) else {}
    words = [f"{key} ({old.get(key)!s:.40}, now {new.get(key)!s:.40})" for key in differing(old, new)]
    if old.get("path") != new.get("path"):
        words.append(f"path ({old.get('path', 'not told')!s:.300}, now {new.get('path')!s:.300})")
    return "another " + ", ".join(words)
