"""Stages 4 and 6: scores of a run's checkpoint or of the shipped directory on the lists of dev or test.

    python -m recipes.pocket.evaluate --split dev --limit 60        # the run's checkpoint, to choose by
    python -m recipes.pocket.evaluate --split test --shipped        # the shipped files: the model card's table
    python -m recipes.pocket.evaluate --split dev --shipped --sensitivity   # does it listen, can it judge methods?

Greedy. 95 % intervals by bootstrap over what a list names as its groups: sentences, speakers, recordings, scenes.
Written with the full configuration and every answer to `results/`.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.progress import track
from safetensors import safe_open
from torch import Tensor
from transformers import AutoProcessor, PreTrainedModel, Qwen2AudioForConditionalGeneration

import fewhertz
from fewhertz.evaluation.bootstrap import interval
from fewhertz.evaluation.metrics import METRICS

from .config import REQUESTS, RESULTS, RUNS, SHIPPED, cache
from .corpus import normalise_text
from .data import Bank, Batch, Item, Prompts, evaluation_batches, left_padded, listed_items
from .export import load_run
from .family import of
from .features import frames_of
from .hear import COLOURS
from .sounds import named

METRIC = {"transcribe": "wer", "translate": "bleu", "describe": "cider", "answer": "accuracy"}


@dataclass(frozen=True)
class Target:
    """What a figure of the test is to reach, and would at best."""

    metric: str
    target: float
    stretch: float

    def __str__(self) -> str:
        sign = "≤" if self.metric == "wer" else "≥"
        return f"{sign} {self.target:g} ({sign} {self.stretch:g})"

    def met(self, score: float) -> bool:
        return score <= self.target if self.metric == "wer" else score >= self.target


TARGETS = {
    "far": Target("wer", 12, 6),
    "far-new-voices": Target("wer", 15, 8),
    "passages": Target("wer", 15, 8),
    "pauses": Target("wer", 15, 8),
    "strings": Target("wer", 8, 4),
    "digits": Target("wer", 12, 6),
    "speechocean762": Target("wer", 40, 25),
    "commonvoice-en": Target("wer", 65, 45),
    "librispeech": Target("wer", 70, 50),
    "german": Target("bleu", 30, 40),
    "describe": Target("right_sounds", 70, 85),  # % of captions that name all sounds of the scene and no others
    "answer": Target("accuracy", 80, 90),
    "voice": Target("over_chance", 20, 40),  # the least of the kinds: points over chance
}


def sets(split: str, bank: Bank) -> dict[str, list[Item]]:
    """The lists of a split by name; the German one twice, since its clips are also written down."""
    names = [n for n in bank.parts if n.endswith(f"-{split}")]
    found = {n.removesuffix(f"-{split}"): listed_items(bank, n) for n in sorted(names)}
    if "german" in found:
        found["german-transcribed"] = [
            replace(
                item,
                request=REQUESTS["transcribe"][0],
                row=item.row | {"task": "transcribe", "references": [item.row["transcript"]]},
            )
            for item in found["german"]
        ]
    return found


Reduce = Callable[[Tensor], Tensor]  # a clip's tokens [n, d] → [m, d]


@torch.inference_mode()
def answers(
    model: PreTrainedModel,
    batch: Batch,
    features: Tensor,
    prompts: Prompts,
    reduce: Reduce | None = None,
) -> list[str]:
    """Greedy answers for one left-padded batch. ``reduce`` acts between encoder and projector."""
    family = of(model)
    _, pooled = family.encode(model.model.audio_tower, features, batch.frames)
    lengths = family.lengths(batch.frames)[1].tolist()
    clips = [x[:n] for x, n in zip(pooled, lengths, strict=True)]
    ids, valid = batch.ids, batch.valid
    if reduce:
        shorter = [reduce(x) for x in clips]
        rows = []
        for row, ok, before, after in zip(ids, valid, clips, shorter, strict=True):
            kept = row[ok].tolist()
            first = kept.index(prompts.audio)
            rows.append(kept[: first + len(after)] + kept[first + len(before) :])
        ids, valid = left_padded(rows, prompts.pad)
        clips = shorter
    audio = model.model.multi_modal_projector(torch.cat(clips))
    embeds = model.get_input_embeddings()(ids)
    embeds = embeds.masked_scatter((ids == prompts.audio)[..., None], audio)
    longest = 8 + frames_of(int(batch.clips.samples.max())) // 10  # tokens: no speech is faster than ten a second
    out = model.generate(
        inputs_embeds=embeds, attention_mask=valid.long(), max_new_tokens=longest, do_sample=False,
        eos_token_id=prompts.end, pad_token_id=prompts.pad,
    )  # fmt: skip
    return prompts.tok.batch_decode(out, skip_special_tokens=True)


def ask(
    model: PreTrainedModel,
    prompts: Prompts,
    items: list[Item],
    bank: Bank,
    waves: Tensor,
    reduce: Reduce | None = None,
) -> list[str]:
    """The answer to every item, normalised as its reference is. ``waves``: the audio of the bank."""
    out = [""] * len(items)
    batches = evaluation_batches(items, bank, prompts, of(model), 120.0)
    noise = torch.zeros(COLOURS, 1)  # nothing is heard but the items
    for group, batch in track(batches, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()):
        features = of(model).heard(waves, noise, batch.clips)
        for i, text in zip(group, answers(model, batch, features, prompts, reduce), strict=True):
            row = items[i].row
            lang = row["lang"] if row["task"] == "transcribe" else "en"
            out[i] = normalise_text(text, lang) if row["task"] != "answer" else text.strip()
    return out


def measured(metric: str, items: list[Item], said: list[str]) -> tuple[np.ndarray, list[str]]:
    stats = METRICS[metric].measure(
        [i.row["references"] for i in items], said, [i.row.get("choices", []) for i in items]
    )
    return stats, [i.row["group"] for i in items]


def others_share(items: list[Item], said: list[str]) -> dict[str, float]:
    """CIDEr-D of the answers in % of what one reference scores, both against four references, each left out in turn."""
    cider, score, own = METRICS["cider"], [], []
    for k in range(len(items[0].row["references"])):
        rest = [[r for j, r in enumerate(i.row["references"]) if j != k] for i in items]
        score.append(cider.score(cider.measure(rest, said)))
        own.append(cider.score(cider.measure(rest, [i.row["references"][k] for i in items])))
    of_one = float(np.mean(own))
    return {
        "one_reference": round(of_one, 3),
        "percent_of_one_reference": round(100 * float(np.mean(score)) / of_one, 2),
    }


def right_sounds(items: list[Item], said: list[str]) -> float:
    """Captions that name the sounds of the scene and no others, in %. CIDEr-D is content with less."""
    right = [named(a) == named(i.row["references"][0]) for i, a in zip(items, said, strict=True)]
    return round(100 * float(np.mean(right)), 1)


def evaluate(
    model: PreTrainedModel,
    processor: object,
    items: list[Item],
    bank: Bank,
    waves: Tensor,
    limit: int,
    reduce: Reduce | None = None,
) -> dict:
    count = min(limit or len(items), len(items))
    chosen = [items[i * len(items) // count] for i in range(count)]
    began = time.perf_counter()
    said = ask(model, Prompts(processor), chosen, bank, waves, reduce)
    task = chosen[0].row["task"]
    metric = METRICS[METRIC[task]]
    stats, groups = measured(metric.name, chosen, said)
    low, high = interval(metric, stats, groups)
    out: dict = {"task": task, "metric": metric.name, "score": round(metric.score(stats), 3)}
    known = len(set(groups)) > 1  # one group, such as a single speaker, tells nothing of others
    out |= {"low": round(low, 3) if known else None, "high": round(high, 3) if known else None}
    out |= {"items": len(chosen), "groups": len(set(groups))}
    if task == "translate":
        chrf, _ = measured("chrf", chosen, said)
        out["chrf"] = round(METRICS["chrf"].score(chrf), 2)
    if task == "describe":
        out |= others_share(chosen, said) | {"right_sounds": right_sounds(chosen, said)}
    if task == "answer":
        kinds = sorted({i.row["kind"] for i in chosen})
        out["by_kind"] = {k: round(metric.score(stats[[i.row["kind"] == k for i in chosen]]), 1) for k in kinds}
        chance = {i.row["kind"]: 100 / len(i.row["choices"]) for i in chosen}
        out["over_chance"] = round(min(out["by_kind"][k] - chance[k] for k in kinds), 1)
    out |= {"signature": metric.signature(), "seconds": round(time.perf_counter() - began, 1)}
    out["answers"] = [
        {"id": i.row["id"], "reference": i.row["references"][0], "answer": a} for i, a in zip(chosen, said, strict=True)
    ]
    return out


def figure(name: str, row: dict) -> float:
    """The figure that a set's target is set for."""
    metric = TARGETS[name].metric
    return row["score"] if metric == row["metric"] else row[metric]


def ends(row: dict) -> str:
    """The interval of a score."""
    return "–" if row["low"] is None else f"{row['low']:.1f}–{row['high']:.1f}"


def line(split: str, name: str, row: dict) -> str:
    text = f"{split} {name:21} {row['metric']:8} {row['score']:6.2f} [{ends(row)}]  n {row['items']}"
    for extra in ("chrf", "percent_of_one_reference", "right_sounds", "over_chance", "by_kind"):
        text += f"  {extra} {row[extra]}" if extra in row else ""
    if name in TARGETS:
        text += f"  target {TARGETS[name]} {'met' if TARGETS[name].met(figure(name, row)) else 'missed'}"
    return text


def sensitivity(
    model: PreTrainedModel,
    processor: object,
    found: dict[str, list[Item]],
    bank: Bank,
    waves: Tensor,
    limit: int,
) -> dict[str, dict]:
    """Far sentences under `pool` and `random` at keep=1/3; speech and questions with another's audio, with none."""
    rows = {}
    silent_waves = torch.zeros_like(waves)
    for name in ("far", "answer"):
        items = found[name][: limit or None]
        # by length, so that each hears something of its own length, and never its own
        order = sorted(range(len(items)), key=lambda k: items[k].longest)
        swapped = list(items)
        for k, j in zip(order, [*order[1:], order[0]], strict=True):
            swapped[k] = replace(items[k], clips=items[j].clips)
        rows[f"{name}"] = evaluate(model, processor, items, bank, waves, 0)
        rows[f"{name}, another's audio"] = evaluate(model, processor, swapped, bank, waves, 0)
        rows[f"{name}, no audio"] = evaluate(model, processor, items, bank, silent_waves, 0)
    for spec in ("pool@keep=1/3", "random@keep=1/3"):
        method = fewhertz.parse(spec)
        clip = fewhertz.Clip(rate=of(model).hz)

        def reduce(x: Tensor, method: object = method, clip: object = clip) -> Tensor:
            return method.forward(x[None], clip)[0][0]

        rows[f"far, {spec}"] = evaluate(model, processor, found["far"][: limit or None], bank, waves, 0, reduce)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="fourth")
    parser.add_argument("--shipped", action="store_true", help="the shipped directory instead of the run's checkpoint")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--sets", nargs="*", help="some of the sets; all by default")
    parser.add_argument("--limit", type=int, default=0, help="items a set, evenly spaced; all by default")
    parser.add_argument("--sensitivity", action="store_true", help="instead: what is lost without the right audio")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    if args.shipped:
        processor = AutoProcessor.from_pretrained(SHIPPED)
        model = Qwen2AudioForConditionalGeneration.from_pretrained(SHIPPED, dtype=torch.float32).eval()
        weights = SHIPPED / "model.safetensors"
        facts = {"weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
        with safe_open(weights, "pt") as file:
            facts |= json.loads(file.metadata()["training"])
    else:
        model, processor, facts = load_run(RUNS / args.run)
    folder = cache(facts["size"])
    bank = Bank(folder, lists=True)
    lists = sets(args.split, bank)
    if not lists:
        sys.exit(f"no features of {args.split} in {folder}: run python -m recipes.pocket.prepare first")
    if unknown := set(args.sets or ()) - set(lists):
        sys.exit(f"no set {', '.join(sorted(unknown))}: there are {', '.join(lists)}")
    waves = bank.load("cpu")
    if args.sensitivity:
        rows = sensitivity(model, processor, lists, bank, waves, args.limit)
    else:
        rows = {
            n: evaluate(model, processor, i, bank, waves, args.limit)
            for n, i in lists.items()
            if not args.sets or n in args.sets
        }
    for name, row in rows.items():
        print(line(args.split, name, row))
        for example in row["answers"][:: max(1, len(row["answers"]) // 3)][:3]:
            print(f"    {example['reference']!r} → {example['answer']!r}")
    result = {
        "what": "sensitivity of pocket, greedy" if args.sensitivity else "scores of pocket, greedy",
        "model": "shipped" if args.shipped else args.run,
        "split": args.split,
        "limit": args.limit,
        "requests": {task: words[0] for task, words in REQUESTS.items()},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": f"{platform.machine()}, {args.threads} threads",
        **facts,
        "sets": rows,
    }
    kind = "sensitivity-" if args.sensitivity else ""
    name = f"{kind}{args.split}-shipped.json" if args.shipped else f"{args.split}-{args.run}-{facts['step']:06d}.json"
    out = args.out or RESULTS / name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(out.name)


if __name__ == "__main__":
    main()
