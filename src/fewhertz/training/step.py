"""Parts of a training step: the adapter, the two losses, the learning rate."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fewhertz.attach import attached
from fewhertz.errors import need
from fewhertz.layout import IGNORE
from fewhertz.training.settings import Settings


def logits_of(model: Any, call: dict[str, Any], count: int, keeps_logits: bool) -> Tensor:
    """Logits that say the last `count` tokens of each row, (b, count, vocabulary), in float32."""
    more = {"logits_to_keep": count + 1} if keeps_logits else {}
    return model(**call, use_cache=False, **more).logits[:, -count - 1 : -1].float()


def cross_entropy(logits: Tensor, said: Tensor) -> Tensor:
    """Summed over the tokens that are said."""
    return F.cross_entropy(logits.flatten(0, 1), said.flatten(), ignore_index=IGNORE, reduction="sum")


def divergence(student: Tensor, teacher: Tensor, said: Tensor) -> Tensor:
    """Kullback–Leibler divergence of the student from the teacher, summed over the tokens that are said."""
    real = said != IGNORE
    a, b = student[real].log_softmax(-1), teacher[real].log_softmax(-1)
    return F.kl_div(a, b, reduction="sum", log_target=True)


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    """Linear rise, then half a cosine to 0."""
    rise = max(1, round(steps * settings.warmup))
    if step < rise:
        return settings.lr * (step + 1) / rise
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def add_lora(net: Any, settings: Settings, name: str) -> Any:
    """Wrap a model by peft: everything frozen but a new adapter, and what is learned of the method attached to it.

    Args:
        net: the model.
        settings: say which.
        name: of the base model.
    """
    peft = need("peft", "train")
    llm = net.get_decoder()
    path = next(path for path, module in net.named_modules() if module is llm)
    linear = {name.rpartition(".")[2] for name, one in llm.named_modules() if isinstance(one, torch.nn.Linear)}
    ends = settings.projections() or sorted(linear)
    # by the LLM's path: bare names would hit the audio encoder too
    pattern = rf"{re.escape(path)}\..*\.({'|'.join(ends)})"
    size = {"r": settings.rank, "lora_alpha": settings.alpha, "lora_dropout": settings.dropout}
    config = peft.LoraConfig(target_modules=pattern, **size)
    torch.manual_seed(settings.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name of old
        wrapped = peft.get_peft_model(net, config)
    config.base_model_name_or_path = name  # peft writes the folder of this machine
    handle = attached(net)
    if handle is not None and handle.learned is not None:
        handle.learned.requires_grad_(True)
    return wrapped


def beside_llm(net: Any) -> list[torch.nn.Module]:
    """The frozen modules that are no part of the LLM: audio encoder, projector."""
    own = [*net.get_decoder().modules(), *net.get_output_embeddings().modules()]
    frozen = (one for one in net.modules() if not any(p.requires_grad for p in one.parameters()))
    return [one for one in frozen if one not in own and next(one.parameters(recurse=False), None) is not None]


def whole(tensor: Tensor) -> Tensor:
    """Of a tensor that FSDP has spread over processes, all of it."""
    gather = getattr(tensor, "full_tensor", None)
    return (tensor if gather is None else gather()).detach().cpu().contiguous()


def part_like(value: Tensor, tensor: Any) -> Tensor:
    """The part of a whole tensor that belongs where `tensor` is."""
    if not hasattr(tensor, "full_tensor"):
        return value.to(tensor.device, copy=True)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)
