"""Where a method does worst against keep=1: for the report, sample by sample, its differences marked word by word."""

from __future__ import annotations

from pathlib import Path

from fewhertz.evaluation import results
from fewhertz.evaluation.curves import Group, Run, decimals, finite, label, number
from fewhertz.evaluation.results import BASELINE
from fewhertz.files import Record
from fewhertz.words import cut, marks

REFERENCES = 20  # of a sample, that are tried


def regressions(group: Group, most: int) -> tuple[Record | None, list[str]]:
    """The samples of each run that lost most against keep=1, by the main metric's score of a sample.

    Args:
        group: a task × model.
        most: samples of a run.

    Returns:
        For the page, with what its runs share held once (`None`: nothing to show), and what is wrong with files.
    """
    if group.baseline is None:
        return None, []
    try:
        before = _by_row(group.baseline.file, group.main)
    except ValueError as error:
        return None, [str(error)]
    shared: dict[str, Record] = {}
    runs, wrong = [], []
    for run in group.runs:
        try:
            runs.append(_regressions(run, before, shared, most))
        except ValueError as error:
            wrong.append(str(error))
    return ({"shared": shared, "runs": runs} if runs else None), wrong


def _by_row(file: Path, metric: str) -> dict[int, Record]:
    found = {}
    for place, line in enumerate(results.read_samples(file), 1):
        try:
            references = line["references"][:REFERENCES]
            if not all(isinstance(text, str) for text in [line["output"], *references]) or not references:
                raise TypeError("texts are strings")
            kept = {"id": str(line["id"]), "output": line["output"], "references": references}
            found[int(line["row"])] = kept | {"score": finite(line["scores"].get(metric))}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{file}, sample {place} is damaged ({error}): remove it and run its run again") from None
    return found


def lost(group: Group) -> list[int]:
    """Rows of a group's samples, those first that lost most against keep=1 under all methods together.

    Raises:
        ValueError: where there is no baseline, or samples are damaged.
    """
    if group.baseline is None:
        raise ValueError(f"{group.task} of {group.model} has no result of {BASELINE}")
    before = _by_row(group.baseline.file, group.main)
    losses = dict.fromkeys(before, 0.0)
    for run in group.runs:
        for row, loss in _losses(run, before, _by_row(run.file, run.main)).items():
            losses[row] += loss
    return sorted(losses, key=lambda row: (-losses[row], row))


def _losses(run: Run, before: dict[int, Record], after: dict[int, Record]) -> dict[int, float]:
    sign = -1 if run.scores[run.main].higher_is_better else 1
    return {
        row: sign * (one["score"] - before[row]["score"])
        for row, one in after.items()
        if row in before and None not in (one["score"], before[row]["score"])
    }


def _regressions(run: Run, before: dict[int, Record], shared: dict[str, Record], most: int) -> Record:
    after = _by_row(run.file, run.main)
    losses = _losses(run, before, after)
    worse = [row for row in sorted(losses, key=lambda row: (-losses[row], row)) if losses[row] > 0]
    better = sum(loss < 0 for loss in losses.values())
    unit = run.scores[run.main].unit
    digits = decimals(run.main, unit)
    listed = []
    for row in worse[:most]:
        old, new = before[row], after[row]
        which, missed, wrong = _nearest(old["references"], new["output"])
        entry = shared.setdefault(
            str(row),
            {
                "id": cut(old["id"], 100),
                "references": list(map(cut, old["references"])),
                "said": cut(old["output"]),
                "marks": {},
            },
        )
        entry["marks"][which] = marks(old["references"][which], old["output"])[1]
        change = number(new["score"] - old["score"], digits, True)
        amount = f"{label(run.main)} {change} "
        amount += f"({number(old['score'], digits)} → {number(new['score'], digits)}{unit and ' ' + unit})"
        listed.append([str(row), amount, which, missed, cut(new["output"]), wrong])
    summary = f"{len(worse)} of {len(losses)} samples got worse than under {BASELINE}, {better} better, "
    summary += f"{len(losses) - len(worse) - better} stayed equal."
    if len(worse) > most:
        summary += f" The {most} worst, by the score of a sample:"
    return {"spec": cut(run.spec, 300), "summary": summary, "worst": listed}


def _nearest(references: list[str], output: str) -> tuple[int, list[int], list[int]]:
    """Of several references the one with the most words in common, with the marks of both."""
    compared = [marks(text, output) for text in references]
    best = max(range(len(references)), key=lambda i: compared[i][2])
    return best, compared[best][0], compared[best][1]
