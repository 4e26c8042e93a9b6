"""Stage 3, training: LLM cross-entropy on the answer and CTC on the encoder, resumable to the step.

    python -m recipes.pocket.train --minutes 80           # learning rate reaches 0 when 80 minutes of steps are spent
    python -m recipes.pocket.train --minutes 200          # later: goes on from the checkpoint on a longer schedule
    python -m torch.distributed.run --nproc-per-node 2 -m recipes.pocket.train --threads 1 --batch-seconds 20

The last is faster on two cores that others use too: two threads wait for each other after each operation, two processes
once a step.

Data order and random draws are functions of (seed, step); weights, optimiser and time spent are in the checkpoint.
So a run by `--steps` that was stopped and resumed gives what an unbroken one gives; by `--minutes` the rate follows the
clock.
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
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from . import tokenizer
from .config import RUNS, SHARES, SIZES
from .data import AUGMENT, Batch, Training, load_table
from .model import CTCHead, build, encode, frame_lengths, model_config

CTC_WEIGHT = 0.5
LEAST_PHONEMES = 5
STRETCH, GAP = (0.25, 2.0), 50.0  # of audio positions where they are shifted: factor, and positions beside the audio
REPLACED = 0.1  # share of answer tokens replaced at the input by random ones: the LLM must listen, not only guess on


def world() -> tuple[int, int]:
    """Rank and number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def average(tensors: list[Tensor]) -> None:
    """The mean over processes, in place and in one message."""
    if world()[1] > 1:
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        for t, mean in zip(tensors, flat.div_(world()[1]).split([t.numel() for t in tensors]), strict=True):
            t.copy_(mean.view_as(t))


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by Newton–Schulz, for weight matrices; AdamW for everything else.

    Update and scale as in Moonlight (2502.16982), so that one learning rate serves both. Matrices of one shape are
    orthogonalised together; of several processes each does its share.
    """

    def __init__(self, matrices: list[nn.Parameter], others: list[nn.Parameter], lr: float, decay: float) -> None:
        groups = [{"params": matrices, "muon": True}, {"params": others, "muon": False}]
        super().__init__(groups, {"lr": lr, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if group["muon"]:
                self._muon(params, group["lr"], group["decay"])
            else:
                self._adam(params, group["lr"], group["decay"])

    def _muon(self, params: list[nn.Parameter], lr: float, decay: float) -> None:
        rank, processes = world()
        by_shape: dict[tuple[int, int], list[int]] = {}
        updates = []
        for i, p in enumerate(params):
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(p.grad, 0.05)
            if i % processes == rank:
                by_shape.setdefault((min(p.shape), max(p.shape)), []).append(i)
            updates.append(torch.zeros_like(p))
        for group in by_shape.values():
            wide = [params[i].shape[0] <= params[i].shape[1] for i in group]
            smooth = [params[i].grad.lerp(self.state[params[i]]["momentum"], 0.95) for i in group]
            done = orthogonalise(torch.stack([u if w else u.T for u, w in zip(smooth, wide, strict=True)]))
            for i, u, w in zip(group, done, wide, strict=True):
                updates[i] = (u if w else u.T) * processes  # the mean over processes then is the one that was made
        average(updates)
        for p, update in zip(params, updates, strict=True):
            p.mul_(1 - lr * decay).add_(update, alpha=-lr * 0.2 * max(p.shape) ** 0.5)

    def _adam(self, params: list[nn.Parameter], lr: float, decay: float) -> None:
        for p in params:
            state = self.state[p]
            if "step" not in state:
                state |= {"step": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
            state["step"] += 1
            state["m"].lerp_(p.grad, 0.1)
            state["v"].mul_(0.98).addcmul_(p.grad, p.grad, value=0.02)
            m = state["m"] / (1 - 0.9 ** state["step"])
            v = state["v"] / (1 - 0.98 ** state["step"])
            if p.ndim > 1:
                p.mul_(1 - lr * decay)
            p.addcdiv_(m, v.sqrt_().add_(1e-8), value=-lr)


def orthogonalise(x: Tensor, rounds: int = 5) -> Tensor:
    """Newton–Schulz with Muon's coefficients on ``[k, rows, columns]``, rows ≤ columns: singular values go near 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def make_optimiser(kind: str, model: nn.Module, head: nn.Module, lr: float, decay: float) -> torch.optim.Optimizer:
    named = [(n, p) for n, p in [*model.named_parameters(), *head.named_parameters()] if p.requires_grad]
    hidden = [p for n, p in named if p.ndim == 2 and ".layers." in n]
    rest = [p for n, p in named if not (p.ndim == 2 and ".layers." in n)]
    return Muon(hidden, rest, lr, decay) if kind == "muon" else Muon([], hidden + rest, lr, decay)


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
    model: Qwen2AudioForConditionalGeneration,
    head: CTCHead,
    batch: Batch,
    audio_id: int,
    smoothing: float,
    shift: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy per answer token and CTC per phoneme. ``shift``: share of the examples at `shifted` positions."""
    states, pooled = encode(model.model.audio_tower, batch.mel, batch.frames)
    audio = model.model.multi_modal_projector(pooled)
    state_lengths, token_lengths = frame_lengths(batch.frames)
    ids = batch.ids
    if model.training:
        noise = batch.answer & (torch.rand(ids.shape) < REPLACED).to(ids.device)
        ids = torch.where(noise, torch.randint(256, ids.shape).to(ids.device), ids)
    embeds = model.get_input_embeddings()(ids)
    keep = torch.arange(audio.shape[1], device=audio.device)[None, :] < token_lengths[:, None]
    embeds = embeds.masked_scatter((batch.ids == audio_id)[..., None], audio[keep].to(embeds.dtype))
    # Right-padded and causal: padding is never attended to, so no mask is needed. Beside positions it is: without one,
    # transformers takes a step other than 1 for the beginning of another sequence.
    places = (
        {"position_ids": shifted(batch.ids == audio_id, shift), "attention_mask": torch.ones_like(ids)} if shift else {}
    )
    hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False, **places).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][batch.answer[:, 1:]])
    ce = F.cross_entropy(logits.float(), batch.ids[:, 1:][batch.answer[:, 1:]], label_smoothing=smoothing)
    log_probs = head(states).float().log_softmax(-1).transpose(0, 1)
    ctc = F.ctc_loss(
        log_probs, batch.phonemes, state_lengths, batch.phoneme_lengths, reduction="none", zero_infinity=True
    )
    # a clip counts as at least a few phonemes: one without any would else weigh more than a whole batch of speech
    weight = batch.phoneme_lengths + LEAST_PHONEMES
    return ce, (ctc * batch.known).sum() / (weight * batch.known).sum().clamp(min=1)


@torch.no_grad()
def start_from(model: Qwen2AudioForConditionalGeneration, processor: object, folder: Path) -> None:
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
        elif name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")):
            weight.zero_()


class Steps(IterableDataset):
    """The batches of all steps from one on, made by worker processes where there are cores for it."""

    def __init__(self, data: Training, first: int, rank: int) -> None:
        self.data, self.first, self.rank = data, first, rank

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        begin, stride = (self.first + worker.id, worker.num_workers) if worker else (self.first, 1)
        mix = self.data.mix_from
        for step in itertools.count(begin, stride):  # a loader takes one from each worker in turn: in order of steps
            augment = AUGMENT * min(1.0, max(0.0, step - 2 * mix) / max(1, 2 * mix))
            yield self.data.batch(step, augment, self.rank)


def to(batch: Batch, device: str) -> Batch:
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(batch).items()}
    return Batch(**moved)


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


def train(args: argparse.Namespace) -> None:
    if "WORLD_SIZE" in os.environ:  # started by torch.distributed.run
        dist.init_process_group("nccl" if args.device == "cuda" else "gloo")
    rank, processes = world()
    size = SIZES[args.size]
    run = RUNS / args.name
    run.mkdir(parents=True, exist_ok=True)
    processor = AutoProcessor.from_pretrained(tokenizer.make(args.size))
    data = Training(args.size, processor, args.seed, args.batch_seconds, dict(args.shares))
    if args.init or args.mix_from is not None:
        data.mix_from = args.mix_from or 0  # a model to begin from hears already
    data.lengthen = args.lengthen
    data.table = load_table(run / "phonemes.json", data.parts)
    ids = {t: processor.tokenizer.convert_tokens_to_ids(t) for t in tokenizer.SPECIAL}
    torch.manual_seed(args.seed)
    model = build(model_config(size, ids)).to(args.device).train()
    model.model.audio_tower.dropout = args.dropout
    for layer in model.model.audio_tower.layers:
        layer.dropout = args.dropout
    if args.init and not (run / "checkpoint.pt").exists():
        start_from(model, processor, args.init)
    head = CTCHead(size.d_encoder, len(data.table)).to(args.device)
    optimiser = make_optimiser(args.optimiser, model, head, args.lr, args.decay)
    step, spent, heard = 0, 0.0, 0.0  # steps, seconds of stepping, seconds of audio
    before = f"It began from the weights of {args.init}." if args.init else ""
    checkpoint = run / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=args.device, weights_only=True)
        model.load_state_dict(state["model"])
        head.load_state_dict(state["head"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent, heard, before = (state[k] for k in ("step", "spent", "heard", "before"))
    if rank == 0:
        facts = vars(args) | {"processes": processes}
        (run / f"arguments-{step:06d}.json").write_text(json.dumps(facts, indent=1, default=str))
        print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, from step {step}", flush=True)
    trained = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    total = args.steps or size.steps
    metrics = open(run / "metrics.jsonl", "a", buffering=1)  # noqa: SIM115 (open for the whole run)
    window: list[tuple[float, float]] = []
    audio_id = data.prompts.audio

    def progress() -> float:
        return spent / (60 * args.minutes) if args.minutes else step / total

    def store() -> None:
        both = {"model": model.state_dict(), "head": head.state_dict(), "optimiser": optimiser.state_dict()}
        facts = {"size": args.size, "hardware": hardware(args.device), "before": before}
        save(checkpoint, both | {"step": step, "spent": spent, "heard": heard} | facts)

    batches = iter(DataLoader(Steps(data, step, rank), batch_size=None, num_workers=args.workers))
    stopped = threading.Event()
    if processes == 1:  # of several, each would stop at another step
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
    while progress() < 1 and (not args.stop_at or step < args.stop_at) and not stopped.is_set():
        began = time.perf_counter()
        torch.manual_seed((args.seed * 1_000_003 + step) * 64 + rank)
        batch = to(next(batches), args.device)
        lr = learning_rate(progress(), step, args.lr, args.warmup)
        for group in optimiser.param_groups:
            group["lr"] = lr
        with torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.bf16):
            shift = args.shift if step >= data.mix_from else 0.0
            ce, ctc = losses(model, head, batch, audio_id, args.smoothing, shift)
        optimiser.zero_grad(set_to_none=True)
        (ce + CTC_WEIGHT * ctc).backward()
        figures = torch.stack([ce.detach(), ctc.detach(), batch.frames.sum() / 100])
        average([*(p.grad for p in trained), figures])
        norm = nn.utils.clip_grad_norm_(trained, 1.0)
        if torch.isfinite(norm):
            optimiser.step()
        step += 1
        clock = torch.tensor([time.perf_counter() - began], device=args.device)
        average([clock])  # one clock for all: the learning rate follows it
        spent += clock.item()
        heard += figures[2].item() * processes
        window.append((figures[0].item(), figures[1].item()))
        if step % 20 == 0 and rank == 0:
            ce20, ctc20 = (sum(x) / len(x) for x in zip(*window, strict=True))
            window.clear()
            left = spent / max(progress(), 1e-9) * (1 - progress())
            print(
                f"step {step} ce {ce20:.3f} ctc {ctc20:.3f} lr {lr:.1e} norm {float(norm):.2f} "
                f"heard {heard / 3600:.1f} h spent {spent / 60:.1f} min left {left / 60:.1f} min",
                flush=True,
            )
            row = {"step": step, "ce": ce20, "ctc": ctc20, "lr": lr, "spent_s": spent, "heard_s": heard}
            metrics.write(json.dumps({k: round(v, 6) for k, v in row.items()}) + "\n")
        if step % args.save_every == 0 and rank == 0:
            store()
    if rank == 0:
        store()


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
    parser.add_argument("--lengthen", type=int, default=0, help="steps over which examples grow longer then")
    parser.add_argument("--shift", type=float, default=0.0, help="share of examples whose positions are shifted then")
    parser.add_argument("--steps", type=int, default=0, help="length of the schedule; the size's own by default")
    parser.add_argument("--minutes", type=float, default=0.0, help="length of the schedule in minutes of stepping")
    parser.add_argument("--stop-at", type=int, default=0, help="stop after this step whatever the schedule says")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16; pays only where the hardware has it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that make batches; for a GPU, all but two cores"
    )
    parser.add_argument("--optimiser", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=100, help="steps")
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--dropout", type=float, default=0.0, help="in the encoder")
    parser.add_argument("--smoothing", type=float, default=0.05)
    parser.add_argument("--batch-seconds", type=float, default=40.0, help="seconds of audio a step and process")
    parser.add_argument("--save-every", type=int, default=100, help="steps")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.name = args.name or args.size
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
