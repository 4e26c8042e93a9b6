"""Where a method does worst against keep=1: for the report, sample by sample, its differences marked word by word."""

from __future__ import annotations

import itertools
import re
from difflib import SequenceMatcher
from pathlib import Path

from fewhertz.evaluation import results
from fewhertz.evaluation.curves import METRIC_NAMES, Group, Run, decimals, finite, number
from fewhertz.evaluation.results import BASELINE
from fewhertz.files import Record

LONGEST = 2_000  # characters of a text on the page: differences take time that grows with the square
REFERENCES = 20  # of a sample, that are tried
# a sign of these scripts is a word: Thai, Lao, Burmese, Khmer, Japanese, Chinese
_SIGNS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_SIGNS}]|[^\s{_SIGNS}]+")


def cut(text: str, longest: int = LONGEST) -> str:
    """A text, or its beginning and how much more there is."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest} characters more)"


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


def _regressions(run: Run, before: dict[int, Record], shared: dict[str, Record], most: int) -> Record:
    sign = -1 if run.scores[run.main].higher_is_better else 1
    after = _by_row(run.file, run.main)
    losses = {
        row: sign * (one["score"] - before[row]["score"])
        for row, one in after.items()
        if row in before and None not in (one["score"], before[row]["score"])
    }
    worse = [row for row in sorted(losses, key=lambda row: (-losses[row], row)) if losses[row] > 0]
    better = sum(loss < 0 for loss in losses.values())
    unit = run.scores[run.main].unit
    digits = decimals(run.main, unit)
    listed = []
    for row in worse[:most]:
        old, new = before[row], after[row]
        which, missed, marks = _nearest(old["references"], new["output"])
        entry = shared.setdefault(
            str(row),
            {
                "id": cut(old["id"], 100),
                "references": list(map(cut, old["references"])),
                "said": cut(old["output"]),
                "marks": {},
            },
        )
        entry["marks"][which] = _compare(old["references"][which], old["output"])[1]
        change = number(new["score"] - old["score"], digits, True)
        amount = f"{METRIC_NAMES.get(run.main, run.main)} {change} "
        amount += f"({number(old['score'], digits)} → {number(new['score'], digits)}{unit and ' ' + unit})"
        listed.append([str(row), amount, which, missed, cut(new["output"]), marks])
    summary = f"{len(worse)} of {len(losses)} samples got worse than under {BASELINE}, {better} better, "
    summary += f"{len(losses) - len(worse) - better} stayed equal."
    if len(worse) > most:
        summary += f" The {most} worst, by the score of a sample:"
    return {"spec": cut(run.spec, 300), "summary": summary, "worst": listed}


def _nearest(references: list[str], output: str) -> tuple[int, list[int], list[int]]:
    """Of several references the one with the most words in common, with the marks of both."""
    compared = [_compare(text, output) for text in references]
    best = max(range(len(references)), key=lambda i: compared[i][2])
    return best, compared[best][0], compared[best][1]


def _compare(reference: str, output: str) -> tuple[list[int], list[int], float]:
    """Marks of two texts, and how alike they are.

    Marks are lengths in code points, alternately of what both have and of what one alone has.
    """
    one, two = _words(reference[:LONGEST]), _words(output[:LONGEST])
    matcher = SequenceMatcher(None, [key for *_, key in one], [key for *_, key in two], autojunk=False)
    steps = [step for step in matcher.get_opcodes() if step[0] != "equal"]
    return (
        _lengths(cut(reference), [(one[i][0], one[j - 1][1]) for _, i, j, _, _ in steps if j > i]),
        _lengths(cut(output), [(two[i][0], two[j - 1][1]) for _, _, _, i, j in steps if j > i]),
        matcher.ratio(),
    )


def _words(text: str) -> list[tuple[int, int, str]]:
    """Start, end and what is compared of each word: letters and digits in lower case."""
    found = []
    for match in _WORD.finditer(text):
        key = "".join(filter(str.isalnum, match[0].casefold()))
        if key:
            found.append((match.start(), match.end(), key))
    return found


def _lengths(text: str, spans: list[tuple[int, int]]) -> list[int]:
    ends = [0, *(end for span in spans for end in span), len(text)]
    return [b - a for a, b in itertools.pairwise(ends)]
