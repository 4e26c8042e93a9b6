"""Published figures beside measured ones: one page, and the same as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewhertz.evaluation.results import BASELINE
from fewhertz.files import Record

from .papers import Asked, Paper, Published

EMPTY = "–"


def rows_of(paper: Paper, asked: Asked, results: list[Record]) -> list[Record]:
    """Each run and metric of a task: measured with its interval, and what the paper says of it."""
    found = []
    for result in results:
        for metric, score in result["scores"].items():
            base = next((r["scores"][metric]["score"] for r in results if r["method"] == BASELINE), None)
            rows: list[Published | None] = [
                one
                for one in paper.published
                if one.task in (asked.task, asked.label) and (one.spec, one.metric) == (result["method"], metric)
            ]
            for published in rows or [None]:
                found.append(
                    {
                        "task": asked.label,
                        "model": result["model"],
                        "method": result["method"],
                        "n": result["n"],
                        "rate_hz": result["rate_hz"]["after"],
                        "metric": metric,
                        "measured": score["score"],
                        "interval": score["interval"],
                        "difference": score["difference"],
                        "difference_interval": score["difference_interval"],
                        "lost": lost(score, base),
                        "published": None if published is None else published.value,
                        "published_is_loss": published is not None and published.loss,
                        "where": None if published is None else published.where,
                    }
                )
    return found


def lost(score: Record, base: float | None) -> float | None:
    """How much of a score is lost against all tokens, in % of it."""
    if base is None or not base or score["score"] is None:
        return None
    sign = 1 if score["higher_is_better"] else -1
    return round(100 * sign * (base - score["score"]) / base, 3)


def markdown(paper: Paper, rows: list[Record], notes: list[str]) -> str:
    """The page."""
    models = ", ".join(paper.models) or "not named in the abstract"
    lines = [f"# {paper.title}", "", f"<{paper.link}>; models: {models}", ""]
    lines += [f"- It says: {text}" for text in paper.said]
    lines += [f"- {paper.ours}", *(f"- {note}" for note in notes), ""]
    lines += [
        "*lost*: in % of the score with all tokens. Intervals are 95 % bootstrap intervals; differences are paired.",
        "An empty cell of *published* is a figure that we have not read.",
    ]
    for label in dict.fromkeys((row["task"], row["model"]) for row in rows):
        lines += ["", f"## {label[0]}, {label[1]}", ""]
        lines += ["| method | n | Hz | metric | measured | over all tokens | lost, % | published | where |"]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        for row in rows:
            if (row["task"], row["model"]) == label:
                lines.append("| " + " | ".join(_cells(row)) + " |")
    return "\n".join(lines) + "\n"


def _cells(row: Record) -> list[str]:
    published = row["published"]
    said = (
        EMPTY
        if published is None
        else f"at most {published:g} % lost"
        if row["published_is_loss"]
        else f"{published:g}"
    )
    return [
        f"`{row['method']}`",
        str(row["n"]),
        f"{row['rate_hz']:.3g}",
        row["metric"],
        _figure(row["measured"], row["interval"]),
        EMPTY if row["method"] == BASELINE else _figure(row["difference"], row["difference_interval"], "+"),
        EMPTY if row["lost"] is None or row["method"] == BASELINE else f"{row['lost']:.1f}",
        said,
        row["where"] or EMPTY,
    ]


def _figure(value: Any, ends: list[Any], sign: str = "") -> str:
    if value is None:
        return EMPTY
    low, high = (EMPTY if end is None else f"{end:{sign}.4g}" for end in ends)
    return f"{value:{sign}.4g} [{low}, {high}]"


def names(folder: Path, paper: Paper) -> tuple[Path, Path]:
    """The page and its JSON."""
    return folder / f"{paper.key}.md", folder / f"{paper.key}.json"
