"""What a task has to say about its data, and the registry of tasks."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from fewhertz.audio import AudioError
from fewhertz.errors import need, one_line
from fewhertz.evaluation.also import also
from fewhertz.evaluation.metrics import METRICS, WITHOUT_SPACES, Metric
from fewhertz.run import PROMPTS

TASKS: dict[str, type[Task]] = {}

Row: TypeAlias = dict[str, Any]
Sound: TypeAlias = Path | bytes | Callable[[], Path | bytes]  # a call where it would fill the memory for all rows


@dataclass(frozen=True)
class Sample:
    """One thing to ask a model, and what is right.

    Attributes:
        row: its place in the data, from 0.
        id: its name, unique in the data.
        sound: the audio.
        references: right texts, at least one.
        choices: options of its question; none where it has none.
        prompt: what to ask; `None`: transcribe.
        group: what it belongs to, such as its speaker; `None`: it stands alone.
    """

    row: int
    id: str
    sound: Sound
    references: list[str]
    choices: list[str] = field(default_factory=list)
    prompt: str | None = None
    group: str | None = None

    def source(self) -> Any:
        """The audio as `fewhertz.audio` takes it, fetched now where it is fetched on demand."""
        return self.sound() if callable(self.sound) else self.sound


@dataclass(frozen=True)
class Failed:
    """A row that gives no result, and why. The error names its file and row."""

    row: int
    id: str | None
    error: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """Base of all tasks. A task is a frozen dataclass that says where its data is and how a row is read.

    A subclass names itself (`class Fleurs(Task, name="fleurs")`), fills the class variables and writes `metrics` and
    `sample`.

    Args:
        data: a data set of the Hugging Face Hub, its copy in a local directory, or a .jsonl, .json, .csv or .tsv file
            with the same fields; `None`: the task's own.
        subset: part of the data set, such as a language; `None`: the task's own.
        split: split of the data set; `None`: the task's own.
        audio: folder of the audio files; `None`: paths are relative to the file that names them.
        ask: what to ask instead of the task's own prompt; `None`: that one.
        normaliser: name of what makes texts comparable (`metrics.normaliser`); `None`: the task's own.
        limit: rows of the data, its first ones; the others are not read. `None`: all.
        also: metrics beside the task's own (`fewhertz.evaluation.also`).
    """

    data: str | None = None
    subset: str | None = None
    split: str | None = None
    audio: Path | None = None
    ask: str | None = None
    normaliser: str | None = None
    limit: int | None = None
    also: tuple[str, ...] = ()

    name: ClassVar[str]
    version: ClassVar[int] = 1  # raised where a change makes old results not comparable
    citation: ClassVar[str]
    hub: ClassVar[str | None] = None  # the data set's name on the Hub; None: there is no official one
    own_subset: ClassVar[str | None] = None
    own_split: ClassVar[str] = "test"

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            cls.name = name
            TASKS[name] = cls

    @property
    def label(self) -> str:
        """Name of the task's results: task, subset and split."""
        parts = [self.name, self.subset or self.own_subset, self.split or self.own_split]
        return "-".join(part for part in parts if part)

    @property
    def part(self) -> str | None:
        """The subset that is read."""
        return self.subset or self.own_subset

    @property
    def prompt(self) -> str | None:
        """What is asked where a row has no prompt of its own; `None`: transcribe, in the model's own way."""
        return self.ask

    def metrics(self) -> list[Metric]:
        """What outputs are measured by, the main one first."""
        raise NotImplementedError

    def measured(self) -> list[Metric]:
        """Its metrics, and those that were asked for."""
        return [*self.metrics(), *also(self.also)]

    def sample(self, index: int, row: Row, base: Path | None) -> Sample:
        """Read a row.

        Args:
            index: its place, from 0.
            row: its fields; `column` gets one.
            base: folder that audio paths are relative to, where the data is in files.

        Raises:
            ValueError: where it cannot be used.
        """
        raise NotImplementedError

    def source(self) -> str:
        """Where the data is.

        Raises:
            ValueError: where neither the user nor the task says.
        """
        if self.data or self.hub:
            return self.data or self.hub or ""
        raise ValueError(f"{self.name} is on no hub: name its file or directory, --data … (see {type(self).__name__})")

    def samples(self) -> list[Sample | Failed]:
        """All rows in order, or the first `limit`: what can be asked, and what cannot.

        Raises:
            ValueError: where the data cannot be read at all.
            ImportError: where `datasets` is needed and not installed.
        """
        where = self.source()
        rows, base = self.rows(where)
        found: list[Sample | Failed] = []
        seen: dict[str, int] = {}
        metric = self.metrics()[0]
        for index, row in enumerate(itertools.islice(self.merged(rows), self.limit)):
            name = None
            try:
                if isinstance(row, ValueError):
                    raise row
                sample = self.sample(index, row, self.audio or base)
                name = sample.id
                metric.check(sample.references)
                if name in seen:
                    raise ValueError(f"its id {name!r} is that of row {seen[name] + 1} too")
                seen[name] = index
                found.append(sample)
            except ValueError as error:
                found.append(Failed(index, name, f"{where}, row {index + 1}: {error}"))
        return found

    def rows(self, where: str) -> tuple[Iterator[Row | ValueError], Path | None]:
        """As `read`; another way of reading where a data set has a form of its own."""
        return read(where, self.part, self.split or self.own_split)

    def merged(self, rows: Iterator[Row | ValueError]) -> Iterator[Row | ValueError]:
        """Rows that belong together as one; here each stands alone."""
        return rows


def column(row: Row, *names: str) -> Any:
    """The first of some columns that a row has.

    Raises:
        ValueError: where it has none of them; names those that it has.
    """
    for name in names:
        if row.get(name) is not None:
            return row[name]
    wanted = " or ".join(repr(name) for name in names)
    raise ValueError(f"no column {wanted}; it has {', '.join(map(str, row)) or 'none'}")


def text(row: Row, *names: str) -> str:
    """As `column`, of text.

    Raises:
        ValueError: where there is none, or it is something else.
    """
    value = column(row, *names)
    if not isinstance(value, str):
        raise ValueError(f"{names[0]!r} is text, got {type(value).__name__}")
    return value


def texts(row: Row, *names: str) -> list[str]:
    """As `column`, of a list of texts; a single one is a list of one.

    Raises:
        ValueError: where there is none, or it is something else.
    """
    value = column(row, *names)
    several = [value] if isinstance(value, str) else value
    if not isinstance(several, list) or not several or not all(isinstance(item, str) for item in several):
        raise ValueError(f"{names[0]!r} is a list of texts, got {value!r:.60}")
    return several


def sound(value: Any, base: Path | None) -> Sound:
    """The audio that a row names.

    Raises:
        ValueError: where there is no such file.
    """
    if callable(value) or isinstance(value, bytes):
        return value
    if isinstance(value, dict):  # the Hub's own form
        value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value
    if not isinstance(value, str) or not value:
        raise ValueError(f"'audio' is the name of a file, got {value!r:.60}")
    file = (base or Path()) / value
    try:
        there = file.is_file()
    except OSError as error:  # a name of thousands of characters, a folder that may not be looked into
        raise AudioError(f"{file!s:.200}{'…' * (len(str(file)) > 200)}: {error.strerror}") from None
    if not there:
        raise AudioError(f"{file}: no such file")
    return file


def clip_of(folder: Path | None, stems: Iterable[str], whose: str) -> Sound:
    """The audio file of one of some names, for lists that carry no audio.

    Args:
        folder: of the audio files.
        stems: names without their ending, the best first.
        whose: what the data set is called.

    Raises:
        ValueError: where there is no folder, or no such file in it.
    """
    if folder is None:
        raise ValueError(f"{whose} carries no audio: --audio FOLDER")
    named = [*stems]
    files = [folder / f"{stem}{suffix}" for stem in named for suffix in (".wav", ".flac", ".ogg", ".opus", ".mp3")]
    file = next((file for file in files if os.path.isfile(file)), None)  # no error for a long name
    if file is None:
        raise AudioError(f"{folder / named[-1]}: no .wav, .flac, .ogg, .opus or .mp3 of this name")
    return file


def spoken(language: str | None) -> tuple[str, str]:
    """Metric and normaliser of a transcript: as Whisper's authors measure (arXiv 2212.04356, appendix C and D).

    Args:
        language: its code, such as `"en"`, `"zh-CN"` or FLEURS's `"cmn_hans_cn"`; `None`: any.
    """
    code = (language or "").replace("_", "-").lower().split("-")[0]
    code = {"cmn": "zh"}.get(code, code)
    if code == "en":
        return "wer", "whisper-english"
    return ("cer", "whisper-basic-joined") if code in WITHOUT_SPACES else ("wer", "whisper-basic")


class Captioning:
    """What tasks of captions share of `Task`; goes before it."""

    ask: str | None

    @property
    def prompt(self) -> str | None:
        """See `Task`."""
        return self.ask or PROMPTS["describe"]

    def metrics(self) -> list[Metric]:
        """See `Task`."""
        return [METRICS["cider"]]


def transcript_metrics(language: str | None, normaliser: str | None) -> list[Metric]:
    """Word or character errors, and `meaning` for English: its sentence encoder has read nothing else."""
    name, own = spoken(language)
    main = dataclasses.replace(METRICS[name], normaliser=normaliser or own)
    return [main, METRICS["meaning"]] if own == "whisper-english" else [main]


def question(choices: list[str], asked: str) -> str:
    """The prompt of a question with options."""
    return asked if not choices else f"{asked}\nAnswer with one of these: {'; '.join(choices)}."


def read(where: str, subset: str | None, split: str) -> tuple[Iterator[Row | ValueError], Path | None]:
    """Rows of a data set, and the folder that their audio paths are relative to.

    Args:
        where: a data set of the Hub, a local directory, or a .jsonl, .json, .csv or .tsv file.
        subset: part of a data set of the Hub; of a local directory, a folder in it where there is one of this name.
        split: split of a data set.

    Raises:
        ValueError: where there is nothing of this name, or it cannot be read.
        ImportError: where `datasets` is needed and not installed.
    """
    path = Path(where).expanduser()
    if path.is_file():
        readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv}
        if path.suffix not in readers:
            raise ValueError(f"{where}: rows come from a .jsonl, .json, .csv or .tsv file, or from a directory")
        return readers[path.suffix](path), path.parent
    if path.suffix in (".jsonl", ".json", ".csv", ".tsv"):
        raise ValueError(f"{where}: no such file")
    if path.is_dir():
        if subset is not None and (path / subset).is_dir():
            path, subset = path / subset, None
        return _dataset(path, subset, split), path
    return _dataset(where, subset, split), None


def _not_utf8(file: Path, error: UnicodeDecodeError, at: int = 0) -> ValueError:
    return ValueError(f"{file} is not UTF-8 text ({error.reason} at byte {at + error.start:,})")


def _jsonl(file: Path) -> Iterator[Row | ValueError]:
    at = 0
    with file.open("rb") as lines:
        for line in lines:  # these end at \n alone: splitlines would break lines within a text
            try:
                text = line.decode("utf-8" if at else "utf-8-sig")
            except UnicodeDecodeError as error:
                raise _not_utf8(file, error, at) from None
            at += len(line)
            if text.strip():
                yield _row(text)


def _row(line: str) -> Row | ValueError:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return ValueError("is not JSON")
    return row if isinstance(row, dict) else ValueError("is not a JSON object")


def _json(file: Path) -> Iterator[Row | ValueError]:
    try:
        rows = json.loads(file.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise ValueError(f"{file} is not a list of rows")
    return iter([row if isinstance(row, dict) else ValueError("is not a JSON object") for row in rows])


def _csv(file: Path) -> Iterator[Row | ValueError]:
    tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if file.suffix == ".tsv" else {}
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, restkey="", **tabs)
        try:
            yield from reader
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text ({error.reason} after line {reader.line_num:,})") from None
        except csv.Error as error:
            raise ValueError(f"{file}, line {reader.line_num:,}: {error}") from None


def _dataset(where: str | Path, subset: str | None, split: str) -> Iterator[Row | ValueError]:
    """Rows of a Hugging Face data set; its audio stays undecoded on the disk until it is asked for."""
    datasets = need("datasets")
    try:
        saved = ("dataset_dict.json", "state.json")  # written by save_to_disk
        if isinstance(where, Path) and any((where / name).exists() for name in saved):
            loaded = datasets.load_from_disk(str(where))
            data = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            data = datasets.load_dataset(str(where), subset, split=split)
    # of many unrelated classes, over many lines
    except Exception as error:
        raise ValueError(f"cannot read the data set {where} ({one_line(error)})") from error
    sounds = [name for name, kind in data.features.items() if isinstance(kind, datasets.Audio)]
    classes = {name: kind.names for name, kind in data.features.items() if isinstance(kind, datasets.ClassLabel)}
    for name in sounds:
        data = data.cast_column(name, datasets.Audio(decode=False))
    silent = data.remove_columns(sounds)

    def get(index: int, name: str) -> Callable[[], Path | bytes]:
        def now() -> Path | bytes:
            found = sound(data[index][name], None)
            assert isinstance(found, Path | bytes)
            return found

        return now

    for index, row in enumerate(silent if silent.column_names else [{}] * len(data)):
        said = {name: names[row[name]] for name, names in classes.items() if row[name] is not None and row[name] >= 0}
        yield {**row, **said, **{name: get(index, name) for name in sounds}}
