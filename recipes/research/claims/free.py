"""The claims without training: averaging, how errors rise, segmentation, where and what to merge, dropping, speed."""

from __future__ import annotations

import json

from fewhertz.evaluation.results import BASELINE

from ..grids import BOTH, at
from ..grids.lora import HALF, SAMPLED, THIRD
from ..grids.training_free import (
    A_QUARTER,
    ALL_KEEPS,
    ANSWERS,
    FIVE,
    KEEPS,
    SEGMENTS,
    SITES,
    SOUNDS,
    SPEECH,
    SPOKEN,
    UNSEG,
    WORST,
    at_its_rate,
    segments,
)
from ..measured import Measured, adapter_run, lost
from ..tables import Claim, Gain, at_most, counts, verdict
from ..tasks import RESULTS
from .shared import AVERAGING, MERGING, OURS, PRUNING, both, over, shown

DROPPING, AT = ("topk", "visionzip", "random", WORST), ("1/2", A_QUARTER)
CORRECTED = ("pool", "segment", "ltbm", "segmentwise", "ward")


def averaging(measured: Measured) -> Claim:
    free = measured.gains(SPOKEN, ALL_KEEPS, "pool", "stride")
    pairs = zip((HALF, THIRD), SAMPLED, strict=True)
    trained = [gain for one, other in pairs for gain in over(measured, adapter_run(one), adapter_run(other))]
    return Claim(
        "Averaging beats sampling from 1/2 to 1/6",
        AVERAGING,
        f"`pool` over `stride`, speech: {counts(free)}; after LoRA {counts(trained)}",
        f"{verdict(free)}; after LoRA {verdict(trained)}",
    )


def degradation(measured: Measured) -> Claim:
    ratios, lows = [], []
    for task in SPEECH:
        base = measured.value(task, BASELINE)
        value, low, high = (end / base for end in measured.score(task, at("pool", "1/6")))
        ratios.append(f"{value:.1f} [{low:.1f}, {high:.1f}]")
        lows.append(low)
    return Claim(
        "A sixth of the tokens doubles the WER",
        AVERAGING,
        f"WER at 1/6 over WER at 1, `pool`: {'; '.join(ratios)} (after LoRA: claim 11)",
        "**does not hold**: more" if min(lows) > 2 else "**holds in part**",
    )


def segmentation(measured: Measured) -> Claim:
    pairs = [(task, run) for run in (UNSEG, f"{UNSEG}{BOTH}") for task in FIVE]
    gains = [measured.gain(task, run, at_its_rate(run, measured.hertz(task, run))) for task, run in pairs]
    return Claim(
        "Unsupervised segmentation beats uniform pooling at the same rate",
        AVERAGING,
        f"`unseg` over `pool`, as published and with `{BOTH}`: {counts(gains)}; {shown(gains[: len(SPEECH)])}",
        verdict(gains),
    )


def local(measured: Measured) -> Claim:
    captions = measured.gains([SOUNDS], ALL_KEEPS, "ltbm", "global-merge")
    answers = measured.gains([ANSWERS], ALL_KEEPS, "global-merge", "ltbm")
    return Claim(
        "Captions prefer local merging, multiple choice global",
        MERGING,
        f"captions, `ltbm` over `global-merge`: {counts(captions)}; answers, the reverse: {counts(answers)}",
        verdict([*captions, *answers]),
    )


def segmentwise(measured: Measured) -> Claim:
    over = {other: measured.gains(FIVE, AT, "segmentwise", other) for other in DROPPING}
    return Claim(
        "Segmentwise selection beats top-k, VisionZip, random and bottom-k",
        PRUNING,
        "over " + "; ".join(f"`{other}` {counts(gains)}" for other, gains in over.items()),
        "; ".join(f"{', '.join(f'`{one}`' for one in some)}: {what}" for what, some in _alike(over).items()),
    )


def _alike(over: dict[str, list[Gain]]) -> dict[str, list[str]]:
    """Methods by the verdict on them."""
    found: dict[str, list[str]] = {}
    for other, gains in over.items():
        found.setdefault(verdict(gains).removeprefix("mostly "), []).append(other)
    return found


def bounded(measured: Measured) -> Claim:
    found, verdicts = [], []
    for task, limit in ((SOUNDS, 2), (ANSWERS, 4)):
        loss = lost(measured, task, at("segmentwise", A_QUARTER), "%", relative=True)
        found.append(f"{task.name} {loss.value:.1f} [{loss.low:.1f}, {loss.high:.1f}]")
        verdicts.append(at_most(loss.low, loss.high, limit))
    return Claim(
        "A quarter of the tokens costs at most 2 % of CIDEr and 4 % of accuracy",
        PRUNING,
        f"% lost by `segmentwise`: {'; '.join(found)}",
        " / ".join(f"**{one}**" for one in dict.fromkeys(verdicts)),
    )


def many_segments(measured: Measured) -> Claim:
    others = [s for s in SEGMENTS if s != 10]
    ten = at(segments(10), A_QUARTER)
    gains = [measured.gain(task, ten, at(segments(s), A_QUARTER)) for task in FIVE for s in others]
    return Claim(
        "Ten segments are a good choice among 2 to 15",
        PRUNING,
        f"ten over {', '.join(map(str, others))}, at {A_QUARTER}: {counts(gains)}",
        verdict(gains) if any(gain.sign < 0 for gain in gains) else "**holds**: none is better",
    )


def sites(measured: Measured) -> Claim:
    gains = [
        gain
        for method in SITES
        for gain in measured.gains(FIVE, KEEPS, f"{method}(site=encoder)", method)
    ]  # fmt: skip
    return Claim(
        "Merging before the projector is better than after it",
        "left open",
        f"`pool` (the same: the projector is linear), `segment`, `ltbm`: {counts(gains)}",
        verdict(gains),
    )


def speed(_: Measured) -> Claim:
    bench = json.loads((RESULTS / "bench" / "prefill.json").read_text("utf-8"))
    paper = bench["paper"]
    here = paper["measured_speedup_here"]["1 × 30 s, batch 1, pool@keep=1/2"]
    limit = paper["limit_at_any_length"]
    return Claim(
        "Half the tokens make prefill 4.7 times faster",
        PRUNING,
        f"7B, 30 s: operations predict {paper['predicted_speedup_30s']:.2f}, at any length at most {limit:.0f}; layers "
        f"of its shapes on a CPU: {here:.2f}",
        "**does not hold** by fewer operations" if paper["reported_speedup"] > limit else "possible",
    )


def corrections(measured: Measured) -> Claim:
    every = [gain for one in CORRECTED for gain in measured.gains(FIVE, ALL_KEEPS, f"{one}{BOTH}", one)]
    return Claim(
        "Corrections give back what merging seemed to cost",
        OURS,
        f"five methods, with `{BOTH}` over as published: {counts(every)}; `ward` at 1/3 "
        f"{both(measured, at(f'ward{BOTH}', '1/3'), at('ward', '1/3'))}",
        verdict(every),
    )


FREE = (averaging, degradation, segmentation, local, segmentwise, bounded, many_segments, sites, speed, corrections)
