"""A run's answers measured, and its result written."""

from __future__ import annotations

import datetime
import math
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import fewhertz
from fewhertz.checkpoint import Checkpoint
from fewhertz.evaluation import results
from fewhertz.evaluation.bootstrap import interval, paired
from fewhertz.evaluation.metrics import Metric, Stats
from fewhertz.evaluation.results import BASELINE, RunFiles
from fewhertz.evaluation.setup import Setup, records_of
from fewhertz.files import Record
from fewhertz.tasks.base import Sample


def finish(net: Any, checkpoint: Checkpoint, place: RunFiles, baseline: RunFiles, setup: Setup) -> list[str]:
    """Measure a run and write it; its journals go. Returns the errors of its rows."""
    records = records_of(place, setup)
    by_row = {sample.row: sample for sample in setup.samples}
    answered = [record for record in records if "error" not in record]
    errors = [record["error"] for record in records if "error" in record]
    if not records:
        raise ValueError(f"{place.file}: its journal is gone: does another eval write to the same folder? Run it again")
    if not answered:
        for file in place.partials():
            file.unlink()
        raise ValueError(f"{place.spec}: no sample could be run, so there is no result: {errors[0]}")
    samples = [by_row[record["row"]] for record in answered]
    outputs = [record["output"] for record in answered]
    stats = {metric.name: _measure(metric, samples, outputs) for metric in setup.metrics}
    groups = [sample.id if sample.group is None else sample.group for sample in samples]
    pairs = _differences(place, baseline, setup, samples, outputs, stats)
    scores = {}
    for metric in setup.metrics:
        low, high = interval(metric, stats[metric.name], groups, setup.draws, setup.seed)
        scores[metric.name] = {
            "score": _number(metric.score(stats[metric.name])),
            "interval": [_number(low), _number(high)],
            **pairs[metric.name],
            "unit": metric.unit,
            "higher_is_better": metric.higher_is_better,
            "signature": metric.signature([sample.references for sample in samples]),
        }
    result = _result(net, checkpoint, place, setup, answered, errors, scores, len(set(groups)))
    lines = [
        _sample_line(sample, record, {m.name: (m, stats[m.name][i : i + 1]) for m in setup.metrics})
        for i, (sample, record) in enumerate(zip(samples, answered, strict=True))
    ]
    results.write(place, result, lines)
    for file in place.partials():
        file.unlink()
    return errors


def _measure(metric: Metric, samples: list[Sample], outputs: list[str]) -> Stats:
    return metric.measure([s.references for s in samples], outputs, [s.choices for s in samples])


def _differences(
    place: RunFiles,
    baseline: RunFiles,
    setup: Setup,
    samples: list[Sample],
    outputs: list[str],
    stats: dict[str, Stats],
) -> dict[str, Record]:
    """Of each metric: the score less the baseline's, on the samples that both have, and its interval."""
    if place == baseline:
        return {m.name: {"difference": 0.0, "difference_interval": [0.0, 0.0]} for m in setup.metrics}
    if not baseline.file.exists():
        raise ValueError(f"{place.spec}: the baseline {BASELINE} has no result to compare with")
    before = {line["row"]: line for line in results.read_samples(baseline.file)}
    both = [i for i, sample in enumerate(samples) if sample.row in before]
    if not both:
        raise ValueError(f"{place.spec}: it has no sample in common with the baseline {BASELINE}")
    common = [samples[i] for i in both]
    groups = [sample.id if sample.group is None else sample.group for sample in common]
    found = {}
    for metric in setup.metrics:
        if len(both) == len(samples) == len(before):
            a = stats[metric.name]
            b = np.array([before[sample.row]["stats"][metric.name] for sample in common], float)
        else:  # what is measured over a whole set, as CIDEr-D is, is measured again on what both have
            a = _measure(metric, common, [outputs[i] for i in both])
            b = _measure(metric, common, [before[sample.row]["output"] for sample in common])
        difference, low, high = paired(metric, a, b, groups, setup.draws, setup.seed)
        found[metric.name] = {
            "difference": _number(difference),
            "difference_interval": [_number(low), _number(high)],
        }
    return found


def _number(value: float) -> float | None:
    """To six decimals: the order in which floats are summed stays out of result files. NaN is null."""
    return None if math.isnan(value) else round(value, 6)


def _sample_line(sample: Sample, record: Record, measured: dict[str, tuple[Metric, Stats]]) -> Record:
    line: Record = {"row": sample.row, "id": sample.id, "group": sample.group, "references": sample.references}
    if sample.choices:
        line["choices"] = sample.choices
    line["output"] = record["output"]
    line["scores"] = {name: _number(metric.score(stats)) for name, (metric, stats) in measured.items()}
    line["stats"] = {name: stats[0].tolist() for name, (_, stats) in measured.items()}
    kept = ("audio_seconds", "before", "after", "new_tokens", "encode", "prefill", "decode")
    return line | {key: round(record[key], 6) for key in kept}


def _result(
    net: Any,
    checkpoint: Checkpoint,
    place: RunFiles,
    setup: Setup,
    answered: list[Record],
    errors: list[str],
    scores: Record,
    groups: int,
) -> Record:
    task, process = setup.task, setup.process
    total = {
        key: sum(record[key] for record in answered)
        for key in ("audio_seconds", "before", "after", "new_tokens", "encode", "prefill", "decode")
    }
    rates = [record["after"] / record["audio_seconds"] for record in answered]
    cuda = net.device.type == "cuda"
    adapter = setup.adapters.get(place.folder)
    return {
        "format": results.FORMAT,
        "identity": setup.named(place),
        "task": task.label,
        "task_name": task.name,
        "task_version": task.version,
        "citation": task.citation,
        # a folder of somebody's machine says nothing to others
        "data": Path(task.source()).name if Path(task.source()).is_absolute() else task.source(),
        "model": setup.named(place)["model"],
        "adapter": None if adapter is None else {"sha256": adapter.sha256, "trained_with": adapter.methods},
        "family": checkpoint.family.name,
        "weights_sha256": setup.identity["weights_sha256"],
        "method": place.spec,
        "prompt": task.prompt,
        "decoding": "greedy",
        "max_new_tokens": setup.max_new_tokens,
        "seed": setup.seed,
        "draws": setup.draws,
        "n": len(answered),
        "groups": groups,
        "failed": [failed.error for failed in setup.failed] + errors,
        "metric": setup.metrics[0].name,
        "scores": scores,
        "absent": setup.absent,
        "audio_seconds": round(total["audio_seconds"], 3),
        "audio_tokens": {"before": total["before"], "after": total["after"]},
        "rate_hz": {
            "before": round(total["before"] / total["audio_seconds"], 4),
            "after": round(total["after"] / total["audio_seconds"], 4),
            # of single samples, the 10th and the 90th percentile: how far a variable length goes up and down
            "spread": [round(float(one), 4) for one in np.percentile(rates, [10, 90])],
        },
        "new_tokens": total["new_tokens"],
        "seconds": {key: round(total[key], 4) for key in ("encode", "prefill", "decode")},
        "peak_memory": {
            "bytes": max((record["peak_memory"] or 0 for record in answered), default=0) or None,
            "of": "CUDA allocations" if cuda else "resident process",
        },
        "attention": getattr(net.config.get_text_config(), "_attn_implementation", None),
        "dtype": setup.identity["dtype"],
        "batch_size": setup.batch_size,
        "trim": setup.trim,
        "processes": process.count,
        "hardware": {
            "device": torch.cuda.get_device_name(net.device) if cuda else _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "machine": platform.platform(),
        },
        "versions": {
            "fewhertz": fewhertz.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
