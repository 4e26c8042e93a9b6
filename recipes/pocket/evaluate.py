"""Stage 4 and 6: word error rates of a run's checkpoint or of the shipped directory.

    python -m recipes.pocket.evaluate --split dev --limit 60        # the run's checkpoint, to choose by
    python -m recipes.pocket.evaluate --split test --shipped        # the shipped files: the model card's table

Greedy. WER = word errors of the whole set over its reference words. 95 % intervals by bootstrap, over sentences for
synthetic speech and over speakers for recordings. Written with the full configuration to `results/`.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import platform
import time
from pathlib import Path

import jiwer
import numpy as np
import torch
import transformers
from safetensors import safe_open
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from .config import CACHE, INSTRUCTIONS, RESULTS, RUNS, SENTENCE_SETS, SHIPPED
from .data import Batch, Item, Part, Prompts, evaluation_batches, single_items
from .export import load_run
from .model import encode, frame_lengths
from .prepare import normalise_text

BARS = {"strings": 15.0, "synthetic": 40.0}  # WER in % on test
MAX_SECONDS = 30.0  # one window; longer clips of the real sets are left out, and counted


def sets(split: str) -> dict[str, list[Item]]:
    """The evaluation sets of a split, by name."""
    names = {"synthetic": f"synthetic-{split}", "strings": f"strings-{split}"}
    if split == "test":
        names["unseen-voices"] = "unseen-voices-test"
    found = {k: single_items(Part(v)) for k, v in names.items() if (CACHE / f"{v}.jsonl").exists()}
    for name in SENTENCE_SETS:
        if (CACHE / f"real-{name}.jsonl").exists():
            found[name] = single_items(Part(f"real-{name}", split))
    return {k: v for k, v in found.items() if v}


@torch.inference_mode()
def transcribe(model: Qwen2AudioForConditionalGeneration, batch: Batch, prompts: Prompts) -> list[str]:
    """Greedy answers for one left-padded batch."""
    _, pooled = encode(model.model.audio_tower, batch.mel, batch.frames)
    audio = model.model.multi_modal_projector(pooled)
    keep = torch.arange(audio.shape[1])[None, :] < frame_lengths(batch.frames)[1][:, None]
    embeds = model.get_input_embeddings()(batch.ids)
    embeds = embeds.masked_scatter((batch.ids == prompts.audio)[..., None], audio[keep])
    longest = 8 + int(batch.frames.max()) // 10  # tokens: no speech is faster than ten a second
    out = model.generate(
        inputs_embeds=embeds, attention_mask=batch.valid.long(), max_new_tokens=longest, do_sample=False,
        eos_token_id=prompts.end, pad_token_id=prompts.pad,
    )  # fmt: skip
    return prompts.tok.batch_decode(out, skip_special_tokens=True)


def errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Word errors and reference words of one clip."""
    measured = jiwer.process_words(reference, normalise_text(hypothesis))
    return measured.substitutions + measured.deletions + measured.insertions, len(reference.split())


def wer_interval(counts: np.ndarray, groups: list[str], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the WER in %; whole groups are drawn. ``counts [n, 2]``: errors, words."""
    names = sorted(set(groups))
    sums = np.array([counts[[g == name for g in groups]].sum(0) for name in names], float)
    rng = np.random.default_rng(0)
    drawn = sums[rng.integers(len(names), size=(draws, len(names)))].sum(1)
    low, high = np.percentile(100 * drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return float(low), float(high)


def evaluate(
    model: Qwen2AudioForConditionalGeneration, processor: object, items: list[Item], limit: int, instruction: int
) -> dict:
    usable = [i for i in items if i.frames <= MAX_SECONDS * 100 and i.text]
    chosen = usable[:: max(1, len(usable) // limit)][:limit] if limit else usable
    prompts = Prompts(processor)
    began = time.perf_counter()
    answers = [""] * len(chosen)
    for group, batch in evaluation_batches(chosen, prompts, 120.0, instruction):
        for i, text in zip(group, transcribe(model, batch, prompts), strict=True):
            answers[i] = normalise_text(text)
    counts = np.array([errors(item.text, answer) for item, answer in zip(chosen, answers, strict=True)])
    rows = [item.part.rows[item.clips[0]] for item in chosen]
    # Sentences of synthetic voices are drawn one by one; people's clips by speaker, whose errors go together.
    groups = [r.get("speaker", r["id"]) for r in rows]
    low, high = wer_interval(counts, groups)
    return {
        "wer": round(100 * counts[:, 0].sum() / counts[:, 1].sum(), 2),
        "low": round(low, 2),
        "high": round(high, 2),
        "clips": len(chosen),
        "words": int(counts[:, 1].sum()),
        "left_out_longer_than_30_s": len(items) - len(usable),
        "seconds": round(time.perf_counter() - began, 1),
        "answers": [
            {"id": r["id"], "reference": item.text, "answer": answer}
            for r, item, answer in zip(rows, chosen, answers, strict=True)
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="small")
    parser.add_argument("--shipped", action="store_true", help="the shipped directory instead of the run's checkpoint")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--sets", nargs="*", help="some of the sets; all by default")
    parser.add_argument("--limit", type=int, default=0, help="clips a set, evenly spaced; all by default")
    parser.add_argument("--instruction", type=int, default=0, help="which wording of the request, by its index")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.shipped:
        processor = AutoProcessor.from_pretrained(SHIPPED)
        model = Qwen2AudioForConditionalGeneration.from_pretrained(SHIPPED, dtype=torch.float32).eval()
        weights = SHIPPED / "model.safetensors"
        facts = {"weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
        with safe_open(weights, "pt") as file:
            facts |= json.loads(file.metadata()["training"])
    else:
        model, processor, facts = load_run(RUNS / args.run)
    found = {
        name: evaluate(model, processor, items, args.limit, args.instruction)
        for name, items in sets(args.split).items()
        if not args.sets or name in args.sets
    }
    for name, row in found.items():
        bar = f"  bar {BARS[name]:.0f}" if name in BARS else ""
        interval = f"[{row['low']:.1f}, {row['high']:.1f}]"
        print(f"{args.split} {name:16} WER {row['wer']:6.2f} % {interval}  n {row['clips']}{bar}")
        for example in row["answers"][:: max(1, len(row["answers"]) // 4)][:4]:
            print(f"    {example['reference']!r} → {example['answer']!r}")
    result = {
        "what": "word error rate, greedy",
        "model": "shipped" if args.shipped else args.run,
        "split": args.split,
        "limit": args.limit,
        "instruction": INSTRUCTIONS[args.instruction],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": f"{platform.machine()}, {args.threads} threads",
        **facts,
        "sets": found,
    }
    name = f"{args.split}-shipped.json" if args.shipped else f"{args.split}-{args.run}-{facts['step']:06d}.json"
    out = args.out or RESULTS / name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(out.name)


if __name__ == "__main__":
    main()
