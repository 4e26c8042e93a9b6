"""GTZAN: genres of music."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fewhertz.evaluation.metrics import METRICS, Metric
from fewhertz.tasks.base import Row, Sample, Task, column, question, sound, text

GENRES = ["blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock"]


@dataclass(frozen=True, kw_only=True)
class Gtzan(Task, name="gtzan"):
    """GTZAN (Tzanetakis and Cook, IEEE TSAP 2002): genres of music, ten to choose from. Accuracy.

    Its own folder, a folder a genre, is read as it is: `--data genres_original`; so is the Hub's copy, and a list with
    `audio` and `genre`. It has a single split, and known faults: repeated and damaged clips (Sturm, arXiv 1306.1461).
    """

    citation = "Tzanetakis and Cook, Musical genre classification of audio signals, IEEE TSAP 2002"
    hub = "marsyas/gtzan"
    own_split = "train"

    def metrics(self) -> list[Metric]:
        return [METRICS["accuracy"]]

    def rows(self, where: str) -> tuple[Iterator[Row | ValueError], Path | None]:
        folder = Path(where).expanduser()
        files = [file for genre in GENRES for file in sorted((folder / genre).glob("*.wav"))]
        if not files:
            return super().rows(where)
        return iter([{"audio": f"{file.parent.name}/{file.name}", "genre": file.parent.name} for file in files]), folder

    def sample(self, index: int, row: Row, base: Path | None) -> Sample:
        genre = text(row, "genre", "label").lower()
        if genre not in GENRES:
            raise ValueError(f"its genre {genre!r:.60} is none of {', '.join(GENRES)}")
        prompt = question(GENRES, self.ask or "Which genre of music is this?")
        name = str(row.get("id") or row.get("file") or index)
        return Sample(index, name, sound(column(row, "audio"), base), [genre], GENRES, prompt)
