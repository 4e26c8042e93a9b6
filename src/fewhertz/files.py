"""Files that are whole or not there: atomic writing, locks, journals, safe names."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout

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
            note = folder / ".lock-holder"
            try:
                stack.enter_context(FileLock(folder / ".lock", timeout=0))
            except Timeout:
                who_else = _holder(note)
                raise ValueError(f"{folder} is in use by {who_else}: wait for it, or name another folder") from None
            clear(folder)
            replace(note, who)
            stack.callback(note.unlink, missing_ok=True)
        yield


def _holder(note: Path) -> str:
    for _ in range(10):
        try:
            who = json.loads(note.read_text("utf-8"))
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


def sha256_of(file: Path) -> str:
    """Of a file; nothing where it cannot be read: reading it as audio says why."""
    try:
        if not file.is_file():  # reading a pipe would wait for its writer
            return ""
        with file.open("rb") as held:
            return hashlib.file_digest(held, "sha256").hexdigest()
    except (OSError, ValueError):
        return ""


def no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def json_line(record: Record) -> str:
    # an escaped line separator of Unicode cannot break a line
    return json.dumps(record, ensure_ascii=True, allow_nan=False) + "\n"


def json_record(line: str | bytes, file: Path, number: int, needed: Set[str] = frozenset()) -> Record:
    try:
        record = json.loads(line, parse_constant=no_number)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not needed <= record.keys():
        raise ValueError(f"{file}, row {number} is damaged: remove the file and run again")
    return record


class Journal:
    """What a process has done of a run, line by line on the disk: what was written survives `kill -9`.

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
        self._out.write("".join(map(json_line, records)).encode())
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
    head, *records = [json_record(line, file, number) for number, line in enumerate(lines, 1)]
    if differing(head.get("identity"), identity):
        raise ValueError(f"{file} is of a broken-off run with {differs(head.get('identity'), identity)}: remove it")
    return records


def differing(old: Any, new: Record) -> list[str]:
    """What two configurations have otherwise: their keys, but for those that don't change a result.

    Where the data is (`path`) does not, since its content is compared. Older results don't say what audio they used
    (`audio_sha256`) and of which `revision` their method was: for them there is nothing to compare. Nor is there where
    one is of outputs alone, whatever `metrics` they are measured by.
    """
    old = old if isinstance(old, dict) else {}
    changed = [key for key in {**new, **old} if key != "path" and old.get(key) != new.get(key)]
    return [key for key in changed if key not in ("audio_sha256", "revision", "metrics") or (key in old and key in new)]


def differs(old: Any, new: Record) -> str:
    """What an older configuration has otherwise, in words."""
    old = old if isinstance(old, dict) else {}
    words = []
    for key in differing(old, new):
        was, now = old.get(key), new.get(key)
        if isinstance(was, list) and isinstance(now, list):  # what both have says nothing
            was, now = [one for one in was if one not in now], [one for one in now if one not in was]
        words.append(f"{key} ({was!s:.40}, now {now!s:.40})")
    if old.get("path") != new.get("path"):
        words.append(f"path ({old.get('path', 'not known')!s:.300}, now {new.get('path')!s:.300})")
    return "another " + ", ".join(words)
