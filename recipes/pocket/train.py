"""Stage 3, training: LLM cross-entropy on the answer and CTC on the encoder, resumable to the step.

    python -m recipes.pocket.train --minutes 80           # learning rate reaches 0 when 80 minutes of steps are spent
    python -m recipes.pocket.train --minutes 200          # later: goes on from the checkpoint on a longer schedule
    python -m recipes.pocket.train --size large --device cuda --bf16 --workers 6 --batch-seconds 2400

Data and random draws are functions of (seed, round of some batches); weights, their running mean, optimiser and time
spent are in the checkpoint, which is written between rounds. So a run by `--steps` that was stopped and resumed gives
what an unbroken one gives; by `--minutes` the rate follows the clock. What is exported is the running mean.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import AutoProcessor, PreTrainedModel

from fewhertz.method import Method

from . import config, tokenizer
from .config import RUNS, SHARES, SIZES
from .data import BATCHES, Bank, Batch, Training, listed_items, load_table
from .family import of, special_ids
from .flex import drawn, merged
from .hear import noises
from .model import CTCHead
from .optimiser import make_optimiser

CTC_WEIGHT = 0.5
LEAST_PHONEMES = 5
STRETCH, GAP = (0.25, 2.0), 50.0  # of audio positions where they are shifted: factor, and positions beside the audio
REPLACED = 0.1  # share of answer tokens replaced at the input by random ones: the LLM must listen, not only guess on


def shifted(audio: Tensor, share: float) -> Tensor:
    """Positions ``[b, n]`` of tokens, those at ``audio [b, n]`` being audio: a share of the rows shifted at random.

    RoPE sees differences alone, so an offset of a whole row would change nothing. What is drawn for a row instead: a
    factor of all steps between audio tokens, log-uniform in `STRETCH` (1/3 is as near as packed tokens at keep=1/3
    are), and a gap of up to `GAP` positions on either side of the audio. Other rows count 0, 1, 2, ….
    """
    rows, before = len(audio), F.pad(audio, (1, 0))[:, :-1]
    low, high = (math.log(x) for x in STRETCH)
    chosen = torch.rand(rows, 1) < share
    factor = torch.where(chosen, (low + (high - low) * torch.rand(rows, 1)).exp(), 1.0).to(audio.device)
    gaps = torch.where(chosen, GAP * torch.rand(rows, 2), 0.0).to(audio.device)
    steps = torch.where(audio, factor, 1.0)
    steps = steps + gaps[:, :1] * (audio & ~before) + gaps[:, 1:] * (before & ~audio)
    return steps.cumsum(1) - steps[:, :1]


def losses(
    model: PreTrainedModel,
    head: CTCHead,
    batch: Batch,
    features: Tensor,
    audio_id: int,
    smoothing: float,
    shift: float = 0.0,
    method: Method | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy per answer token and CTC per phoneme.

    ``shift``: share of the examples at `shifted` positions. ``method``: what merges the audio tokens; then none are.
    """
    family = of(model)
    states, pooled = family.encode(model.model.audio_tower, features, batch.frames)
    audio = model.model.multi_modal_projector(pooled)
    state_lengths, token_lengths = family.lengths(batch.frames)
    ids, target, answer = batch.ids, batch.ids, batch.answer
    if model.training:
        noise = batch.answer & (torch.rand(ids.shape, device=ids.device) < REPLACED)
        ids = torch.where(noise, torch.randint(256, ids.shape, device=ids.device), ids)
    keep = torch.arange(audio.shape[1], device=audio.device)[None, :] < token_lengths[:, None]
    # Right-padded and causal: padding is never attended to, so no mask is needed. Beside positions it is: without one,
    # transformers takes a step other than 1 for the beginning of another sequence.
    places, reading = {}, nullcontext()
    if method is not None:
        tokens, trim, layout = merged(method, audio, token_lengths, batch, audio_id, family.hz)
        ids, target, answer = trim.apply(ids, 0), trim.apply(target, 0), trim.apply(answer, False)
        places = {"position_ids": layout.positions, "attention_mask": layout.mask}
        reading = layout.on(model)
    else:
        tokens = audio[keep]
        if shift:
            places = {"position_ids": shifted(target == audio_id, shift), "attention_mask": torch.ones_like(ids)}
    embeds = model.get_input_embeddings()(ids)
    embeds = embeds.masked_scatter((target == audio_id)[..., None], tokens.to(embeds.dtype))
    with reading:
        hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False, **places).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][answer[:, 1:]])
    ce = F.cross_entropy(logits.float(), target[:, 1:][answer[:, 1:]], label_smoothing=smoothing)
    log_probs = head(states).float().log_softmax(-1).transpose(0, 1)
    ctc = F.ctc_loss(
        log_probs, batch.phonemes, state_lengths, batch.phoneme_lengths, reduction="none", zero_infinity=True
    )
    # a clip counts as at least a few phonemes: one without any would else weigh more than a whole batch of speech
    weight = batch.phoneme_lengths + LEAST_PHONEMES
    return ce, (ctc * batch.known).sum() / (weight * batch.known).sum().clamp(min=1)


@torch.no_grad()
def start_from(model: PreTrainedModel, processor: object, folder: Path) -> None:
    """Copy the weights of an exported model of the same widths; token rows by the token's text, so that the tokenizer
    may differ. Layers that it lacks begin as the identity.
    """
    old = load_file(folder / "model.safetensors", device=str(model.device))
    rows = AutoProcessor.from_pretrained(folder).tokenizer.get_vocab()
    same = [(i, rows[token]) for token, i in processor.tokenizer.get_vocab().items() if token in rows]
    new_rows, old_rows = torch.tensor(same, device=model.device).T
    for name, weight in model.state_dict().items():
        if "embed_tokens" in name or "lm_head" in name:
            weight[new_rows] = old[name][old_rows].to(weight.dtype)
        elif name in old:
            weight.copy_(old[name])
        elif name.endswith(
            ("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight", "output_dense.weight")
        ):
            weight.zero_()


def begun_from(folder: Path) -> str:
    """What an exported model says of its own training."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        facts = json.loads((file.metadata() or {}).get("training", "{}"))
    if not facts:
        return f"It began from the weights of {folder}."
    whole = f"It began from weights that were trained for {facts['step']} steps ({facts['heard_s'] / 3600:.0f} h)."
    return f"{whole} {facts['before'].replace('It began', 'Those began', 1)}".rstrip()


class Rounds(IterableDataset):
    """The batches of all rounds from one on, made by worker processes where there are cores for it."""

    def __init__(self, data: Training, first: int, strength: float = 1.0) -> None:
        self.data, self.first, self.strength = data, first, strength

    def __iter__(self) -> Iterator[list[Batch]]:
        worker = get_worker_info()
        if worker:  # in the main process the same number is the steps' own
            torch.set_num_threads(1)
        begin, stride = (self.first + worker.id, worker.num_workers) if worker else (self.first, 1)
        mix = self.data.mix_from
        for number in itertools.count(begin, stride):  # a loader takes one from each worker in turn: in order
            # a round has about BATCHES steps, so this is the step that it will be taken at
            step = number * BATCHES
            augment = min(1.0, max(0.0, step - 1.5 * mix) / max(1, 1.5 * mix))
            yield self.data.round(number, step, augment * self.strength)


def learning_rate(progress: float, step: int, peak: float, warmup: int) -> float:
    """Linear warm-up in steps, level to 40 %, then linear to 0 at ``progress`` 1 (steps or time)."""
    return peak * min(1.0, (step + 1) / warmup) * min(1.0, max(0.0, (1 - progress) / 0.6))


def share(text: str) -> tuple[str, float]:
    """`words=0.6` as a kind of example and its share."""
    kind, _, value = text.partition("=")
    if kind not in SHARES:
        raise argparse.ArgumentTypeError(f"no kind of example: {kind!r}; there are {', '.join(SHARES)}")
    return kind, float(value)


def hardware(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} virtual {platform.machine()} CPU cores"


def save(path: Path, state: dict) -> None:
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.rename(path)


@torch.no_grad()
def held_out(model: PreTrainedModel, head: CTCHead, lists: dict[str, list[Batch]], bank: Tensor,
             noise: Tensor, audio_id: int) -> dict[str, float]:  # fmt: skip
    """Cross-entropy per token of the answers of some items of each list: what the course is judged by."""
    model.eval()
    out = {}
    for name, batches in lists.items():
        given = ((b, of(model).heard(bank, noise, b.clips)) for b in batches)
        found = [float(losses(model, head, b, features, audio_id, 0.0)[0]) for b, features in given]
        out[name] = round(sum(found) / len(found), 4)
    model.train()
    return out


def some_of(data: Training, bank: Bank, names: tuple[str, ...], device: str) -> dict[str, list[Batch]]:
    """Batches with answers of some lists of dev, as they are."""
    out = {}
    for name in names:
        if items := listed_items(bank, name)[:96] if name in bank.parts else []:
            items = [replace(i, phonemes=[[]]) for i in sorted(items, key=lambda i: i.longest)]
            out[name] = [data._collate(items[k : k + 24], bank, None, 0.0).to(device) for k in range(0, len(items), 24)]
    return out


WATCHED = (
    "far-dev", "far-new-voices-dev", "passages-dev", "strings-dev", "digits-dev", "speechocean762-dev",
    "commonvoice-en-dev", "librispeech-dev", "german-dev", "describe-dev", "answer-dev", "voice-dev",
)  # fmt: skip


def train(args: argparse.Namespace) -> None:
    size = SIZES[args.size]
    run = RUNS / args.name
    run.mkdir(parents=True, exist_ok=True)
    processor = AutoProcessor.from_pretrained(tokenizer.make(args.size))
    data = Training(args.size, processor, args.seed, args.batch_seconds, dict(args.shares))
    if args.init or args.mix_from is not None:
        data.mix_from = args.mix_from or 0  # a model to begin from hears already
    data.table = load_table(run / "phonemes.json", data.rows)
    family = data.family
    torch.manual_seed(args.seed)
    model = family.build(size, special_ids(family, processor.tokenizer)).to(args.device).train()
    family.drop(model.model.audio_tower, args.dropout)
    if args.init and not (run / "checkpoint.pt").exists():
        start_from(model, processor, args.init)
    head = CTCHead(size.d_encoder, len(data.table)).to(args.device)
    optimiser = make_optimiser(args.optimiser, model, head, args.lr, args.decay, args.bf16)
    trained = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    mean = [p.detach().clone() for p in model.parameters()]
    step, number, spent, audio = 0, 0, 0.0, 0.0  # steps, rounds, seconds of stepping, seconds of audio
    before = begun_from(args.init) if args.init else ""
    checkpoint = run / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=args.device, weights_only=True)
        model.load_state_dict(state["last"])
        head.load_state_dict(state["head"])
        if "optimiser" in state:  # else its momenta were left behind on another machine
            optimiser.load_state_dict(state["optimiser"])
        mean = [state["model"][n].clone() for n, _ in model.named_parameters()]
        step, number, spent, audio, before = (state[k] for k in ("step", "round", "spent", "heard", "before"))
    (run / f"arguments-{step:06d}.json").write_text(json.dumps(vars(args), indent=1, default=str))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, from step {step}", flush=True)
    loader = DataLoader(Rounds(data, number, args.augment), batch_size=None, num_workers=args.workers)
    rounds = iter(loader)  # workers are forked before the bank is read: they need none of it
    bank, noise = data.bank.load(args.device), noises(torch.device(args.device))
    watched = Bank(config.cache(args.size), lists=True) if args.watch_every else None
    lists = some_of(data, watched, WATCHED, args.device) if watched else {}
    listed = watched.load(args.device) if watched and lists else bank
    total = args.steps or size.steps
    metrics = open(run / "metrics.jsonl", "a", buffering=1)  # noqa: SIM115 (open for the whole run)
    audio_id = data.prompts.audio
    window = torch.zeros(4, device=args.device)
    began, stopped = time.perf_counter(), threading.Event()
    base = spent
    for number_of in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number_of, lambda *_: stopped.set())

    def progress() -> float:
        return spent / (60 * args.minutes) if args.minutes else step / total

    def autocast() -> torch.autocast:
        return torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.bf16)

    def store() -> None:
        named = dict(zip((n for n, _ in model.named_parameters()), mean, strict=True))
        both = {"model": model.state_dict() | named, "last": model.state_dict(), "head": head.state_dict()}
        facts = {"size": args.size, "hardware": hardware(args.device), "before": before, "round": number}
        save(
            checkpoint,
            both | {"optimiser": optimiser.state_dict(), "step": step, "spent": spent, "heard": audio} | facts,
        )

    def over() -> bool:
        return progress() >= 1 or bool(args.stop_at and step >= args.stop_at) or stopped.is_set()

    while not over():
        for batch in next(rounds):
            torch.manual_seed(args.seed * 1_000_003 + step)
            batch = batch.to(args.device)
            lr = learning_rate(progress(), step, args.lr, args.warmup)
            for group in optimiser.param_groups:
                group["lr"] = lr
            with torch.no_grad():
                features = family.heard(bank, noise, batch.clips)
            with autocast():
                shift = args.shift if step >= data.mix_from else 0.0
                method = drawn(args.seed * 1_000_003 + step) if args.flex else None
                ce, ctc = losses(model, head, batch, features, audio_id, args.smoothing, shift, method)
            optimiser.zero_grad(set_to_none=True)
            (ce + CTC_WEIGHT * ctc).backward()
            grads = [p.grad for p in trained if p.grad is not None]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
            # no wait for the norm: a step that is not finite is one of zeros
            scale = torch.where(norm.isfinite(), (1 / norm).clamp(max=1.0), 0.0)
            for g in grads:
                g.nan_to_num_(0.0, 0.0, 0.0)
            torch._foreach_mul_(grads, scale)
            optimiser.step()
            with torch.no_grad():  # from the first steps on, ever longer
                torch._foreach_lerp_(
                    mean, [p.detach() for p in model.parameters()], 1 - min(args.mean, step / (step + 10))
                )
            step += 1
            audio += batch.seconds
            window += torch.stack([ce.detach().float(), ctc.detach().float(), norm, torch.ones_like(norm)])
            if step % args.log_every == 0:
                ce20, ctc20, norm20, count = window.tolist()  # waits for the device
                window.zero_()
                spent = base + time.perf_counter() - began
                row = {
                    "step": step,
                    "ce": ce20 / count,
                    "ctc": ctc20 / count,
                    "lr": lr,
                    "spent_s": spent,
                    "heard_s": audio,
                }
                left = spent / max(progress(), 1e-9) * (1 - progress())
                print(
                    f"step {step} ce {row['ce']:.3f} ctc {row['ctc']:.3f} lr {lr:.1e} norm {norm20 / count:.2f} "
                    f"heard {audio / 3600:.1f} h spent {spent / 60:.1f} min left {left / 60:.1f} min",
                    flush=True,
                )
                metrics.write(json.dumps({k: round(v, 6) for k, v in row.items()}) + "\n")
            if lists and step % args.watch_every == 0:
                with autocast():
                    found = held_out(model, head, lists, listed, noise, audio_id)
                print(f"step {step} dev {found}", flush=True)
                metrics.write(json.dumps({"step": step, "dev": found}) + "\n")
        number += 1
        spent = base + time.perf_counter() - began
        if number % args.save_every == 0:
            store()
    store()
    metrics.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--name", default=None, help="of the run's directory; the size by default")
    parser.add_argument("--init", type=Path, help="an exported model to start from, where there is no checkpoint yet")
    parser.add_argument(
        "--shares", type=share, nargs="+", default=[*SHARES.items()], metavar="KIND=SHARE",
        help="of examples once all are mixed, such as words=0.6 english=0.4; all kinds by default",
    )  # fmt: skip
    parser.add_argument("--mix-from", type=int, help="step from which all kinds are mixed; the size's own by default")
    parser.add_argument("--shift", type=float, default=0.0, help="share of examples whose positions are shifted then")
    parser.add_argument("--flex", action="store_true", help="merge the audio tokens of every batch at a random rate")
    parser.add_argument("--augment", type=float, default=1.0, help="how much sound is disturbed at most, 0 to 1")
    parser.add_argument("--steps", type=int, default=0, help="length of the schedule; the size's own by default")
    parser.add_argument("--minutes", type=float, default=0.0, help="length of the schedule in minutes of stepping")
    parser.add_argument("--stop-at", type=int, default=0, help="stop after this step whatever the schedule says")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16; pays only where the hardware has it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that plan batches; for a GPU, all but three cores"
    )
    parser.add_argument("--optimiser", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=100, help="steps")
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--dropout", type=float, default=0.0, help="in the encoder")
    parser.add_argument("--smoothing", type=float, default=0.05)
    parser.add_argument("--batch-seconds", type=float, default=60.0, help="seconds of audio a step")
    parser.add_argument("--mean", type=float, default=0.998, help="decay of the running mean of the weights, a step")
    parser.add_argument("--save-every", type=int, default=20, help="rounds of about 8 steps")
    parser.add_argument("--log-every", type=int, default=20, help="steps")
    parser.add_argument(
        "--watch-every", type=int, default=0, help="steps after which some of dev is looked at; 0: never"
    )
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.name = args.name or args.size
    torch.set_num_threads(args.threads)
    torch.multiprocessing.set_sharing_strategy("file_system")  # batches hold more tensors than files may be open
    train(args)


if __name__ == "__main__":
    main()
