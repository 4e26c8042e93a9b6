"""Claims on dropping tokens by a score, segment by segment."""

from __future__ import annotations

from fewhertz.evaluation.results import BASELINE

from ..grids import BOTH, at
from ..grids.claims import SCORED, SEGMENTS, SHARES, segments
from ..measured import Measured, versus
from ..tables import Claim, at_most, table, tally, verdict
from ..tasks import ANSWERS, SOUNDS, SPOKEN, TASKS


def segmentwise(measured: Measured) -> Claim:
    parts, verdicts = [], {}
    for other in SCORED[1:]:
        body, gains = versus(measured, (SOUNDS, ANSWERS, *SPOKEN), SHARES, "segmentwise", other)
        parts.append(f"Gain of `segmentwise` over `{other}`: {verdict(gains)} ({tally(gains)}).\n\n{body}")
        verdicts[other] = gains
    return Claim(
        "Segmentwise selection beats top-k, VisionZip, random and bottom-k at 50, 25 and 10 % of the tokens",
        "arXiv 2511.14293",
        "3 budgets × 5 tasks; " + "; ".join(f"over `{other}` {tally(gains)}" for other, gains in verdicts.items()),
        "; ".join(f"`{other}`: {verdict(gains)}" for other, gains in verdicts.items()),
        "\n\n".join(parts),
    )


def bounded(measured: Measured) -> Claim:
    rows, verdicts = [], []
    for task, limit in ((SOUNDS, 2), (ANSWERS, 4)):
        base = measured.value(task, BASELINE)
        for method in ("segmentwise", f"segmentwise{BOTH}", f"ward{BOTH}"):
            gain = measured.gain(task, at(method, "1/4"), BASELINE)
            loss, low, high = (-100 * x / base for x in (gain.value, gain.high, gain.low))
            held = at_most(low, high, limit)
            rows.append([f"`{method}`, {task.name}", f"{loss:.1f} [{low:.1f}, {high:.1f}]", f"≤ {limit}", held])
            if method == "segmentwise":
                verdicts.append((task, loss, held))
    return Claim(
        "A quarter of the tokens costs at most 2 % of CIDEr and 4 % of accuracy",
        "arXiv 2511.14293",
        "; ".join(f"{task.name}: {loss:.1f} % lost" for task, loss, _ in verdicts),
        "; ".join(f"{task.name}: **{held}**" for task, _, held in verdicts),
        "Relative loss in % of the score at keep=1, training-free.\n\n"
        + table(["at keep=1/4", "loss, % [95 %]", "claimed", ""], rows),
    )


def many_segments(measured: Measured) -> Claim:
    others = [s for s in SEGMENTS if s != 10]
    gains = {
        (task, s): measured.gain(task, at("segmentwise", "1/4"), at(segments(s), "1/4"))
        for task in TASKS
        for s in others
    }
    rows = [[f"{task.name} ({task.unit})", *(gains[task, s] for s in others)] for task in TASKS]
    paper = [gains[task, s] for task in (SOUNDS, ANSWERS) for s in others]
    worse = sum(gain.sign < 0 for gain in gains.values())
    return Claim(
        "Ten segments are a good choice among 2 to 15",
        "arXiv 2511.14293",
        f"S = 10 against each of {', '.join(map(str, others))} at 1/4; captions and answers: {tally(paper)}; "
        f"with speech, S = 10 is worse in {worse} of {len(gains)}",
        "**holds**: none is better" if not worse else verdict(list(gains.values())),
        "Gain of S = 10 over other numbers of segments.\n\n"
        + table(["S = 10 over", *(f"S = {s}" for s in others)], rows),
    )
