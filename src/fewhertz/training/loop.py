"""LoRA recovery: a low-rank adapter on the LLM's attention, which learns to live with fewer audio tokens.

The recipe is that of paper arXiv 2511.20973: rank 16, alpha 32, on queries and keys of the LLM; all else is frozen. So
an audio is encoded alone and at most once, and what the encoder made of it is kept while there is room; with a cache
directory on disk too, for the next training.

    OUT/adapter_config.json …         the adapter of the best step (fewhertz.adapter)
    OUT/training/state.safetensors    where to go on after an interruption: weights, optimiser, step
    OUT/training/metrics.jsonl        a line a step, and a line each time the dev set is measured
    OUT/training/loss.png, tensorboard/, summary.json, outputs-0.jsonl (what the teacher said)

Data order and random draws are functions of seed and step, so a run that was killed goes on as if it had not been; and
of parts of a batch, not of processes, so two of them do what one does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fewhertz
from fewhertz import adapter, audio
from fewhertz.attach import compress
from fewhertz.checkpoint import Checkpoint, open_checkpoint
from fewhertz.errors import need, one_line
from fewhertz.families.base import Family
from fewhertz.files import Journal, clear, differing, differs, held, read_journal, replace
from fewhertz.loading import load
from fewhertz.method import IDENTITY, Chain, Method, parse
from fewhertz.run import request, sample_rate, too_long
from fewhertz.steps import Steps, changed
from fewhertz.tasks.base import TASKS, Sample, Task
from fewhertz.training.data import Encoded, EncodedAudio, Stream, batch_of, end_of_turn, unlabelled
from fewhertz.training.logbook import Logbook
from fewhertz.training.settings import HOW, Settings
from fewhertz.training.step import (
    add_lora,
    beside_llm,
    cross_entropy,
    divergence,
    learning_rate,
    logits_of,
    part_like,
    whole,
)

SAY_EVERY = 10.0  # seconds between two lines of progress
DRAW_EVERY = 60.0  # seconds between two pictures
LONGEST_NORM = 1.0  # gradients are clipped to this length
UNCOMPRESSED = parse(IDENTITY)  # by which the uncompressed model takes the same way


class Stopped(RuntimeError):
    """Training cannot go on; what was saved last is intact."""


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        directory: the adapter.
        step: the step that it is of.
        loss: at that step, on the dev set or, without one, on the last batch.
        parameters: numbers that were trained.
        seconds: time of all steps and measurements, over all interruptions.
        left_out: rows that cannot be used, and why, a line each.
    """

    directory: Path
    step: int
    loss: float
    parameters: int
    seconds: float
    left_out: list[str]


def train(
    model: str | Path,
    method: str | Method | None,
    task: Task | str | Path | Sequence[Task | str | Path],
    out: str | Path,
    *,
    dev: Task | str | Path | Sequence[Task | str | Path] = (),
    device: str | None = None,
    dtype: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    **settings: Any,
) -> Trained:
    """Train a LoRA adapter on a model with a method attached, and save both together.

    Where `out` holds the same training, broken off, it goes on from its last checkpoint. Under `accelerate launch` the
    samples of a batch are shared among the processes.

    Args:
        model: a hub id, a directory, or `pocket`.
        method: a method or its spec; `None` or `"none"`: the uncompressed model, as a control.
        task: what to train on: tasks, or .jsonl manifests.
        out: directory of the adapter.
        dev: what the best checkpoint is chosen by, likewise; nothing: the last one is saved.
        device: where to; `None`: the GPU where there is one, else the CPU.
        dtype: of the frozen weights; `None`: the checkpoint's own.
        say: gets a line of text about how far it is, now and then.
        settings: of `fewhertz.training.Settings`.

    Raises:
        ValueError: where the model, the method, the data or a setting cannot be used, or `out` holds another training,
            or another process trains there.
        Stopped: where training cannot go on, such as by a loss that is no number or a full disk.
        ImportError: where a package of the `train` extra is missing.

    Example:
        >>> fewhertz.train("pocket", "pool@keep=1/3", "train.jsonl", "adapter", dev="dev.jsonl", steps=500)
    """
    chosen, folder = Settings(**settings), Path(out)
    need("peft", "train")
    if os.environ.get("RANK", "0") != "0":  # the first of several processes speaks for all
        say = lambda _: None  # noqa: E731
    checkpoint = open_checkpoint(model)
    methods = _methods(checkpoint, method, chosen)
    labelled = chosen.objective == "labels"
    taught, tried = _tasks(task), _tasks(dev) if dev else []
    learning, left_out = _samples(taught, checkpoint.family, labelled)
    judging, bad = _samples(tried, checkpoint.family, labelled) if dev else ([], [])
    for line in (left_out := left_out + bad):
        say(f"left out: {line}")
    if (folder / adapter.CONFIG).exists() and not (folder / "training").exists():
        raise ValueError(f"{folder} holds an adapter and no training to go on with: name another directory")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        sources = [one.source() for one in taught + tried]
        # one process holds for all that accelerate has started
        first = os.environ.get("RANK", "0") == "0"
        with held([folder / "training"]) if first else nullcontext():
            if first:
                clear(folder)
            run = _Run(model, checkpoint, methods, learning, judging, sources, folder, chosen, device, dtype, say)
            return dataclasses.replace(run(), left_out=left_out)


def _tasks(given: Task | str | Path | Sequence[Task | str | Path]) -> list[Task]:
    import fewhertz.tasks  # noqa: F401  (fills TASKS)

    several = [given] if isinstance(given, Task | str | Path) else list(given)
    return [one if isinstance(one, Task) else TASKS["manifest"](data=str(one)) for one in several]


def _samples(tasks: list[Task], family: Family, labelled: bool) -> tuple[list[tuple[Sample, float]], list[str]]:
    """What can be used, with its length in seconds, and what is wrong with the rest."""
    found, bad = [], []
    for task in tasks:
        for row in task.samples() if labelled else unlabelled(task):
            if not isinstance(row, Sample):
                bad.append(row.error)
                continue
            try:
                seconds = audio.duration(row.source())
                if family.max_seconds is not None and seconds > family.max_seconds:
                    raise ValueError(too_long(seconds, family))
            except (OSError, ValueError) as error:
                bad.append(f"{task.source()}, row {row.row + 1}: {one_line(error)}")
                continue
            found.append((row, seconds))
    if not found:
        more = f": {bad[0]} (and so with all {len(bad)} rows)" if bad else ""
        raise ValueError(f"there is no data to work on in {', '.join(task.source() for task in tasks)}{more}")
    return found, bad


def _methods(checkpoint: Checkpoint, method: str | Method | None, settings: Settings) -> list[Method]:
    """The methods: one for each keep. Those of the uncompressed model are the identity."""
    if method is None or method == "none":
        if settings.keeps:
            raise ValueError("the uncompressed model keeps all tokens: name a method, or no range of keeps")
        return [UNCOMPRESSED]
    asked = parse(method, settings.keeps[0] if settings.keeps else None)
    if not settings.keeps:
        several = [asked]
    elif not asked.fixed_budget or isinstance(asked, Chain):
        raise ValueError(f"no keep can be drawn for {asked.spec}: it takes a method of fixed budget, not a chain")
    else:
        several = [dataclasses.replace(asked, keep=keep, rate=None) for keep in settings.keeps]
    for one in several:
        checkpoint.fit(one)
    return several


def _accelerator(cpu: bool, learned: bool) -> Any:
    accelerate = need("accelerate", "train")
    # at keep=1 a learned method is the identity, and its weights have no gradient
    unused = accelerate.DistributedDataParallelKwargs(find_unused_parameters=learned)
    return accelerate.Accelerator(cpu=cpu, device_placement=False, kwargs_handlers=[unused])


class _Run:
    """One training, from wherever it was broken off to its end."""

    def __init__(
        self,
        model: str | Path,
        checkpoint: Checkpoint,
        methods: list[Method],
        learning: list[tuple[Sample, float]],
        judging: list[tuple[Sample, float]],
        sources: list[str],
        out: Path,
        settings: Settings,
        device: str | None,
        dtype: str | None,
        say: Callable[[str], None],
    ) -> None:
        self.began = self.drawn = time.monotonic()
        self.say, self.base, self.sources = say, str(model), sources
        self.out, self.folder, self.settings = out, out / "training", settings
        self.samples, self.seconds = [one for one, _ in learning + judging], [s for _, s in learning + judging]
        self.dev = range(len(learning), len(self.samples))
        self.stream = Stream(self.seconds[: len(learning)], settings.batch_size, settings.seed)
        self.steps = settings.steps or math.ceil(settings.epochs * len(learning) / settings.batch_size)
        self.asked, self.methods = methods, [checkpoint.fit(one) for one in methods]
        self.teacher = UNCOMPRESSED if settings.teacher is None else checkpoint.fit(parse(settings.teacher))
        if self.teacher.build(1) is not None:
            raise ValueError(f"{self.teacher.name} is learned, and a teacher has learnt nothing: name another method")
        self.identity = self._identity(checkpoint, dtype)
        state = self._read_state()  # before a model is loaded
        self.saved = None if state is None else state[0]
        self.step, self.best_step, self.best, self.spent, self.loss = state or (0, 0, math.inf, 0.0, math.nan)

        cpu = device == "cpu" or not torch.cuda.is_available()
        self.accelerator = _accelerator(cpu, learned=methods[0].build(1) is not None)
        self.place = torch.device(device or self.accelerator.device)
        self.parts = self.accelerator.num_processes * settings.accumulate
        if settings.batch_size < self.parts:
            raise ValueError(f"a batch of {settings.batch_size} samples cannot be cut into {self.parts} parts")
        self.net, self.processor = load(model, methods[0], device=self.place, dtype=dtype)
        self.audio = EncodedAudio(self._encode, settings.cache_gb * 1e9)
        self.family = compress(self.net, methods[0], steps=Steps(encode=self.audio.encode)).family
        self.keeps_logits = "logits_to_keep" in inspect.signature(self.net.forward).parameters
        self.end, tokenizer = end_of_turn(self.net, self.processor), self.processor.tokenizer
        self.pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, self.end) if i is not None)
        self.folder.mkdir(parents=True, exist_ok=True)

    def _identity(self, checkpoint: Checkpoint, dtype: str | None) -> dict[str, Any]:
        """All that the result depends on."""
        from fewhertz.checkpoint import weights_sha256
        from fewhertz.evaluation.setup import audio_sha256

        asked = [[one.id, one.references, one.prompt] for one in self.samples]
        chosen = {name: value for name, value in dataclasses.asdict(self.settings).items() if name not in HOW}
        return json.loads(json.dumps(chosen | {"steps": self.steps}, default=str)) | {
            "methods": [one.spec for one in self.asked],
            "base_sha256": weights_sha256(checkpoint),
            "data_sha256": hashlib.sha256(json.dumps([asked, len(self.dev)]).encode()).hexdigest(),
            "audio_sha256": audio_sha256(self.samples),
            "path": ", ".join(self.sources),
            "dtype": dtype or "the checkpoint's own",
        }

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.accelerator.is_main_process

    def __call__(self) -> Trained:
        settings, net = self.settings, self.net
        try:
            self.said = self._outputs() if settings.objective == "distill" else {}
            wrapped = add_lora(net.eval(), settings, self.base)
            if settings.checkpointing:
                # the name that older versions of transformers have is deprecated in newer ones
                enable = getattr(net, "activation_checkpointing_enable", None) or net.gradient_checkpointing_enable
                enable({"use_reentrant": False})
            trained = [one for one in wrapped.parameters() if one.requires_grad]
            count = sum(one.numel() for one in trained)
            optimiser = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.decay)
            if (plugin := getattr(self.accelerator.state, "fsdp_plugin", None)) is not None:
                # the encoder runs outside the model's own forward, so FSDP must leave it whole
                plugin.ignored_modules = beside_llm(net)
                plugin.transformer_cls_names_to_wrap = list(net.get_decoder()._no_split_modules)
            self.model, self.optimiser = self.accelerator.prepare(wrapped, optimiser)
            self.peft = self.accelerator.unwrap_model(self.model)
            self.named = {name: one for name, one in self.peft.named_parameters() if one.requires_grad}
            self._go()
            loss = self.best if self.dev else self.loss
            done = Trained(self.out, self.best_step, loss, count, self._time(), [])
            if self.first:
                self._summary(done)
        except (OSError, ValueError, FloatingPointError, torch.OutOfMemoryError) as error:
            kept = "nothing is saved" if self.saved is None else f"step {self.saved} is saved in {self.out}"
            raise Stopped(f"after step {self.step}: {one_line(error)}; {kept}") from error
        self.accelerator.wait_for_everyone()
        return done

    def _go(self) -> None:
        self.log = Logbook(self.folder if self.first else None, self.step)
        if self.saved is None:
            self._keep()
        else:
            self._restore()
        began, first, said = time.monotonic(), self.step, 0.0
        while self.step < self.steps:
            self.loss, facts = self._train(self.step)
            self.step += 1
            self.log.write({"step": self.step, "loss": self.loss, **facts})
            now, last = time.monotonic(), self.step == self.steps
            if now - said >= SAY_EVERY or last:
                said, each = now, (now - began) / (self.step - first)
                left = timedelta(seconds=round(each * (self.steps - self.step)))
                self.say(f"step {self.step} of {self.steps}: loss {self.loss:.4f}, {each:.2f} s a step, {left} left")
            if self.step % self.settings.every == 0 or last:
                self._keep()
        self.log.close()

    # --- a step

    def _encode(self, sample: int, site: str, scores: bool) -> Encoded:
        one = self.samples[sample]
        try:
            wave = audio.load(one.source(), sample_rate(self.processor))
            file = self._kept(wave, one.prompt, site, scores)
            if file is not None and file.exists():
                return Encoded.read(file, self.place)
            inputs = request(self.processor, [wave], one.prompt).to(self.place, self.net.dtype)
            encoded = Encoded.of(self.net, self.family, inputs, site, scores)
            if file is not None:
                encoded.write(file)
            return encoded
        except (OSError, ValueError) as error:
            raise ValueError(f"sample {one.id}: {one_line(error)}") from error

    def _kept(self, wave: np.ndarray, *asked: Any) -> Path | None:
        """Where an encoded audio is kept: a file whose name follows from all that it depends on."""
        if self.settings.cache is None:
            return None
        key = json.dumps([self.identity["base_sha256"], str(self.net.dtype), *asked]).encode()
        return Path(self.settings.cache) / f"{hashlib.sha256(key + wave.tobytes()).hexdigest()}.safetensors"

    def _answer(self, sample: int, epoch: int) -> list[int]:
        if self.settings.objective == "distill":
            return self.said[sample]
        references = self.samples[sample].references
        text = references[epoch % len(references)]
        return [*self.processor.tokenizer(text, add_special_tokens=False).input_ids, self.end]

    def _loss(self, samples: list[int], answers: list[list[int]], method: Method) -> Tensor:
        """Summed over the tokens of the answers."""
        prompts = self.audio.prompts(samples, method)
        call, said = batch_of(self.family, samples, prompts, answers, self.pad)
        with torch.autocast(self.place.type, torch.bfloat16, enabled=self.settings.bf16):
            if self.settings.objective == "labels":
                with self._method(method):
                    return cross_entropy(logits_of(self.model, call, said.shape[1], self.keeps_logits), said)
            with torch.no_grad(), self.peft.disable_adapter(), self._method(self.teacher):
                teacher = logits_of(self.model, call, said.shape[1], self.keeps_logits)
            with self._method(method):
                return divergence(logits_of(self.model, call, said.shape[1], self.keeps_logits), teacher, said)

    def _method(self, method: Method) -> AbstractContextManager[None]:
        """While it lasts, the model's calls follow this method."""
        return changed(lambda steps: dataclasses.replace(steps, method=method), self.net)

    def _draw(self, *numbers: int) -> int:
        """A random number that depends on the seed and these alone."""
        return int(np.random.SeedSequence([self.settings.seed, *numbers]).generate_state(1, np.uint64)[0])

    def _train(self, step: int) -> tuple[float, dict[str, Any]]:
        began = time.monotonic()
        accelerator = self.accelerator
        drawn = self._draw(step) % len(self.methods)
        taken = self.stream.batch(step)
        answers = [self._answer(sample, epoch) for sample, epoch in taken]
        tokens = sum(map(len, answers))
        mine = range(accelerator.process_index, self.parts, accelerator.num_processes)
        self.net.get_decoder().train()
        summed = torch.zeros((), device=self.place)
        for part in mine:
            torch.manual_seed(self._draw(step, part))  # of dropout
            rows = np.array_split(range(len(taken)), self.parts)[part].tolist()
            together = nullcontext() if part == mine[-1] else accelerator.no_sync(self.model)
            with together:
                one = [taken[row][0] for row in rows], [answers[row] for row in rows]
                share = self._loss(*one, self.methods[drawn]) / tokens
                accelerator.backward(share * accelerator.num_processes)  # gradients of processes are averaged
            summed += share.detach()
        loss = float(accelerator.reduce(summed, "sum"))
        norm = float(whole(accelerator.clip_grad_norm_(list(self.named.values()), LONGEST_NORM)))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise FloatingPointError(f"the next loss is {loss}, its gradient's length {norm}: try a lower --lr")
        rate = learning_rate(step, self.steps, self.settings)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        facts = {"lr": rate, "norm": norm, "method": self.asked[drawn].spec, "answer_tokens": tokens}
        return loss, facts | {"seconds": time.monotonic() - began}

    @torch.no_grad()
    def _measure(self) -> float:
        """Loss on the dev set, the mean over keeps."""
        self.net.get_decoder().eval()
        size = max(1, self.settings.batch_size // self.parts)
        batches = self._batches(self.dev, size)
        processes = self.accelerator.num_processes
        total = torch.zeros(len(self.methods), 2, dtype=torch.float64, device=self.place)
        # as many calls in each process: where one has no batch left it repeats another, which does not count
        for turn in range(math.ceil(len(batches) / processes)):
            number = turn * processes + self.accelerator.process_index
            batch = batches[number % len(batches)]
            answers = [self._answer(sample, 0) for sample in batch]
            for row, method in zip(total, self.methods, strict=True):
                loss = float(self._loss(batch, answers, method))
                if number < len(batches):
                    row += torch.tensor([loss, sum(map(len, answers))]).to(row)
        summed = self.accelerator.reduce(total, "sum")
        measured = float((summed[:, 0] / summed[:, 1]).mean())
        if not math.isfinite(measured):
            raise FloatingPointError(f"the loss on the dev set is {measured}")
        return measured

    def _batches(self, samples: Sequence[int], size: int) -> list[list[int]]:
        order = sorted(samples, key=lambda i: (self.seconds[i], i))
        return [order[i : i + size] for i in range(0, len(order), size)]

    @torch.no_grad()
    def _outputs(self) -> dict[int, list[int]]:
        """What the teacher says of each sample, greedily; written down, so that it says it once."""
        taken = {sample for step in range(self.steps) for sample, _ in self.stream.batch(step)}
        own = self.net.generation_config.eos_token_id
        ends = {self.end, *(own if isinstance(own, list) else [own])}
        options = {"max_new_tokens": self.settings.max_new_tokens, "do_sample": False, "top_p": None, "top_k": None}

        def written() -> dict[int, list[int]]:
            files = self.folder.glob("outputs-*.jsonl")
            return {row["row"]: row["ids"] for file in files for row in read_journal(file, self.identity)}

        done = written()
        self.accelerator.wait_for_everyone()  # all have read before any goes on writing
        index = self.accelerator.process_index
        journal = Journal(self.folder / f"outputs-{index}.jsonl", self.identity)
        batches = self._batches([*taken, *self.dev], self.settings.batch_size)
        for number in range(index, len(batches), self.accelerator.num_processes):
            # whole, even where some of it is done: who stands beside a sample must not depend on an interruption
            if done.keys() >= set(batch := batches[number]):
                continue
            prompts = self.audio.prompts(batch, self.teacher)
            call, _ = batch_of(self.family, batch, prompts, [[] for _ in batch], self.pad)
            with self._method(self.teacher):
                out = self.net.generate(**call, **options, temperature=None)
            new = out[:, call["input_ids"].shape[1] :].tolist()
            cut = [next((i + 1 for i, token in enumerate(row) if token in ends), len(row)) for row in new]
            rows = zip(batch, new, cut, strict=True)
            journal.add([{"row": sample, "ids": ids[:n]} for sample, ids, n in rows if sample not in done])
            self.say(f"the teacher's outputs: {number + 1} of {len(batches)} batches")
        journal.close()
        self.accelerator.wait_for_everyone()
        return written()

    # --- what is written

    def _time(self) -> float:
        return self.spent + time.monotonic() - self.began

    def _keep(self) -> None:
        """Measure, save the adapter where it is the best so far, and save where to go on."""
        best = not self.dev
        if self.dev:
            measured = self._measure()
            best = measured < self.best
            self.log.write({"step": self.step, "dev_loss": measured})
            self.say(f"step {self.step}: dev loss {measured:.4f}{', the best' * best}")
            self.best = min(self.best, measured)
        tensors = {f"weights.{name}": whole(one) for name, one in self.named.items()}
        for name, one in self.named.items():
            tensors |= {f"{key}.{name}": whole(value) for key, value in self.optimiser.state.get(one, {}).items()}
        if best:
            self.best_step = self.step
        if self.first:
            self._save(tensors, best)
        self.saved = self.step
        self.accelerator.wait_for_everyone()

    def _save(self, tensors: dict[str, Tensor], best: bool) -> None:
        from peft import get_peft_model_state_dict
        from safetensors.torch import save

        weights = {name: tensors[f"weights.{name}"] for name in self.named}
        if best:
            methods = [] if self.asked == [UNCOMPRESSED] else [one.spec for one in self.asked]
            said = {"methods": methods, "base_model": self.base, "base_sha256": self.identity["base_sha256"]}
            said |= {"step": self.step, "fewhertz": fewhertz.__version__}
            own = get_peft_model_state_dict(self.peft, state_dict=weights, save_embedding_layers=False)
            parts = {name.partition(".audio_compression.learned.")[2]: one for name, one in weights.items()}
            learned = {name: one for name, one in parts.items() if name}
            adapter.save(self.out, self.peft.peft_config["default"], own, learned, said)
        place = {"step": self.step, "best_step": self.best_step, "best": repr(self.best), "seconds": self._time()}
        place["loss"] = repr(self.loss)
        replace(self._state, save(tensors, {"state": json.dumps({"identity": self.identity, **place})}))
        if self.step == self.steps or time.monotonic() - self.drawn > DRAW_EVERY:
            self.drawn = time.monotonic()
            self.log.draw(f"{self.settings.objective}: nats per token of the answer")

    @property
    def _state(self) -> Path:
        return self.folder / "state.safetensors"

    def _read_state(self) -> tuple[int, int, float, float, float] | None:
        from safetensors import SafetensorError, safe_open

        if not self._state.exists():
            return None
        try:
            with safe_open(self._state, "pt") as file:
                state = json.loads(file.metadata()["state"])
            found = state["step"], state["best_step"], float(state["best"]), state["seconds"], float(state["loss"])
        except (SafetensorError, ValueError, KeyError, TypeError):
            raise ValueError(f"{self._state} is damaged: remove {self.folder} and begin anew") from None
        if differing(state["identity"], self.identity):
            other = differs(state["identity"], self.identity)
            raise ValueError(f"{self.out} holds a training with {other}: remove it, or name another directory")
        return found

    @torch.no_grad()
    def _restore(self) -> None:
        from safetensors.torch import load_file

        saved = load_file(self._state)
        for name, one in self.named.items():
            one.copy_(part_like(saved[f"weights.{name}"], one))
            if f"exp_avg.{name}" in saved:
                moments = {key: part_like(saved[f"{key}.{name}"], one) for key in ("exp_avg", "exp_avg_sq")}
                self.optimiser.state[one] = {"step": saved[f"step.{name}"], **moments}
        self.say(f"going on from step {self.step} of {self.steps}")

    def _summary(self, done: Trained) -> None:
        """What the training was and what it took, for whoever reports it."""
        facts = {"best_step": done.step, "loss": done.loss, "parameters": done.parameters, "seconds": done.seconds}
        where = {"processes": self.accelerator.num_processes, "device": str(self.place), "torch": torch.__version__}
        whole = {"base_model": self.base, **self.identity, **facts, **where, "fewhertz": fewhertz.__version__}
        replace(self.folder / "summary.json", (json.dumps(whole, indent=1) + "\n").encode())
