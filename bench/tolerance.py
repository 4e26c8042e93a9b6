"""What a tolerance costs: over `ward` at the count that it found, and the count on log-mel over making the log-mel.

    python -m bench.tolerance --out results/bench/tolerance.json       # a minute on one idle core; or on a GPU
    python -m bench.tolerance --out out/quick.json --quick             # seconds: small shapes, no figures

Tokens are a random walk as wide as Qwen2-Audio-7B's, whose steps are such that about two fifths of them stay. On a CPU
times are seconds of the process. Ratios are medians of rounds in which each runs once.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import torch
import typer
from transformers import WhisperFeatureExtractor

import fewhertz
from bench.clock import in_turns, processor, ratio
from bench.options import DEVICE, OUT, QUICK_RUN, THREADS
from bench.record import environment, progress, save
from fewhertz.mel import mel_tokens
from fewhertz.method import Clip

RATE = 25.0
TOLERANCE = 0.3
TOKENS, WIDTH, BATCHES, ROUNDS = (750, 7500), 4096, (1, 8), 5
MOST, MOST_OF_MEL = 1.2, 0.2  # targets


def walk(batch: int, n: int, width: int, device: str) -> torch.Tensor:
    """Tokens that change step by step."""
    steps = torch.randn(batch, n, width, generator=torch.Generator().manual_seed(0))
    x = torch.empty_like(steps)
    x[:, 0] = steps[:, 0]
    for t in range(1, n):
        x[:, t] = 0.8 * x[:, t - 1] + 0.6 * steps[:, t]
    return x.to(device)


def price(tokens: tuple[int, ...], width: int, device: str, rounds: int) -> list[dict[str, Any]]:
    """`ward` under a tolerance over `ward` at the same count."""
    rows = []
    for n in tokens:
        for batch in BATCHES if n == tokens[0] else BATCHES[:1]:
            x, clip = walk(batch, n, width, device), Clip(RATE)
            priced = fewhertz.parse(f"ward@tolerance={TOLERANCE}")
            count = round(statistics.mean(plan.m for plan in priced.plans(x, clip)))
            counted = fewhertz.parse(f"ward@keep={count}/{n}")
            runs = {"tolerance": partial(priced.plans, x, clip), "count": partial(counted.plan, x, clip)}
            for run in runs.values():
                run()
            times = in_turns(runs, rounds, device, processor)
            over = ratio(times["tolerance"], times["count"])
            rows.append(
                {
                    "tokens": n,
                    "batch": batch,
                    "kept": count,
                    "seconds": {name: statistics.median(some) for name, some in times.items()},
                    "over_the_same_count": over,
                    "target": MOST,
                    "met": over <= MOST,
                }
            )
            progress(f"{n} tokens, batch {batch}: {over:.2f}")
    return rows


def estimate(seconds: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
    """The count on log-mel over making that log-mel, both on the CPU, as a server's processor does."""
    extractor = WhisperFeatureExtractor(feature_size=128)
    method: Any = fewhertz.parse(f"ward(count=mel)@tolerance={TOLERANCE}")
    rows = []
    for length in seconds:
        wave = torch.randn(length * 16_000, generator=torch.Generator().manual_seed(0)).numpy() * 0.1
        n = round(length * RATE)

        features = partial(extractor, wave, sampling_rate=16_000, return_tensors="pt")
        made = features().input_features
        count = partial(_count, method, made, n)
        runs = {"mel": features, "count": count}
        for run in runs.values():
            run()
        times = in_turns(runs, rounds, "cpu", processor)
        share = ratio(times["count"], times["mel"])
        rows.append(
            {
                "clip_seconds": length,
                "seconds": {name: statistics.median(some) for name, some in times.items()},
                "of_making_the_mel": share,
                "target": MOST_OF_MEL,
                "met": share <= MOST_OF_MEL,
            }
        )
        progress(f"{length} s: the count takes {100 * share:.0f} % of the log-mel")
    return rows


def _count(method: Any, features: torch.Tensor, n: int) -> torch.Tensor:
    return method.counts(mel_tokens(features, [n], RATE)[None], RATE)


def main(
    out: OUT,
    quick: QUICK_RUN = False,
    device: DEVICE = "cpu",
    threads: THREADS = 1,
) -> None:
    """Measure, print and write."""
    torch.set_num_threads(threads)
    where = environment(device)
    tokens, width, rounds = ((30, 60), 16, 1) if quick else (TOKENS, WIDTH, ROUNDS)
    result = {
        "what": "a tolerance over the same count, and a count on log-mel over making the log-mel",
        "quick": quick,
        "configuration": {"tolerance": TOLERANCE, "width": width, "rounds": rounds, "rate": RATE, "device": device},
        "environment": where,
        "tolerance": price(tokens, width, device, rounds),
        "count_on_mel": estimate((5, 30) if not quick else (1,), 4 * rounds),
    }
    save(result, out)
    print(f"met: {sum(row['met'] for key in ('tolerance', 'count_on_mel') for row in result[key])} targets; {out}")  # type: ignore[attr-defined]


if __name__ == "__main__":
    typer.run(main)
