"""Corrections under vLLM, as fewhertz.corrections has them under transformers: time positions, proportional attention.

When (`+time`): vLLM lays out M-RoPE positions before anything is encoded, whole numbers, and goes on from them while
decoding. So a clip's tokens stand at its start, and what follows where it stood before; how far from its start a token
stands comes with its embedding, as two more numbers, and is added where angles are made. Nothing is rounded.

How much (`+sizes`): log s comes in the same way, and goes into dimensions of the keys that the model does not use,
against a constant in the queries: q·k then is what it was, plus log s. No kernel knows of it. Heads are as wide as the
next size that the attention backend knows, and so is the KV cache.

Both need a model that is made for it, so the method of the checkpoint or of `--hf-overrides` says which an engine has;
without them all is vLLM's own.
"""

from __future__ import annotations

import logging
import math
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.rotary_embedding import MRotaryEmbedding, RotaryEmbedding
from vllm.multimodal.utils import copy_mm_embedding_modality
from vllm.v1.attention.selector import get_attn_backend

from fewhertz.corrections import no_plan
from fewhertz.method import Method
from fewhertz.plan import Plan
from fewhertz.vllm.choice import TOKENS, Choice

log = logging.getLogger("vllm.fewhertz")

WIDEST = 512  # head size; no backend knows a wider one


class SizedRotary(nn.Module):
    """An LLM's rotary embedding at positions that are no whole numbers; widens queries and keys by log sizes.

    Args:
        own: the one that vLLM made.
        wide: head size of what it returns; `None`: as it came.
        scale: what the layer's attention multiplies q·k by.

    Raises:
        NotImplementedError: for RoPE that is scaled.
    """

    frequencies: Tensor
    axes: Tensor

    def __init__(self, own: nn.Module, wide: int | None, scale: float) -> None:
        super().__init__()
        if type(own) not in (RotaryEmbedding, MRotaryEmbedding) or getattr(own, "scaling_factor", None) is not None:
            raise NotImplementedError(f"+time and +sizes cannot be served with vLLM's {type(own).__name__}")
        rope: Any = own
        self.head, self.rotary, self.wide = rope.head_size, rope.rotary_dim, wide
        self.turned = rope.apply_rotary_emb.forward_native
        self.register_buffer("frequencies", rope._compute_inv_freq(rope.base), persistent=False)
        self.register_buffer("axes", _axes(rope), persistent=False)
        # a power of 2, so that no dtype rounds it
        self.constant = 2.0 ** round(-math.log2(scale))
        self.scale = scale

    def forward(
        self, carried: Float[Tensor, "axes t"], query: Float[Tensor, "t q"], key: Float[Tensor, "t k"]
    ) -> tuple[Tensor, Tensor]:
        """Turned queries and keys.

        Args:
            carried: positions of each token on each axis, and in the last row log sizes.
            query: all heads.
            key: all heads.
        """
        angles = carried.index_select(0, self.axes).T * self.frequencies
        cos, sin = angles.cos().to(query.dtype), angles.sin().to(query.dtype)
        query, key = (self._turn(x.unflatten(-1, (-1, self.head)), cos, sin) for x in (query, key))
        if self.wide is None:
            return query.flatten(1), key.flatten(1)
        empty = self.wide - self.head
        query = torch.cat([query, query.new_full((*query.shape[:2], 2), self.constant)], dim=-1)
        # two dimensions, of which the second has what a narrow dtype rounds off the first
        log_sizes = carried[-1] / (self.scale * self.constant)
        coarse = log_sizes.to(key.dtype)
        fine = (log_sizes - coarse.float()).to(key.dtype)
        both = torch.stack([coarse, fine], dim=-1)[:, None].expand(-1, key.shape[1], -1)
        key = torch.cat([key, both], dim=-1)
        return pad(query, (0, empty - 2)).flatten(1), pad(key, (0, empty - 2)).flatten(1)

    def _turn(self, x: Float[Tensor, "t h d"], cos: Tensor, sin: Tensor) -> Float[Tensor, "t h d"]:
        turned = self.turned(x[..., : self.rotary], cos, sin)
        return turned if self.rotary == self.head else torch.cat([turned, x[..., self.rotary :]], dim=-1)


def _axes(rope: Any) -> Int[Tensor, " f"]:
    """The axis of positions that each frequency turns by."""
    count = rope.rotary_dim // 2
    sections = getattr(rope, "mrope_section", None)
    if not sections:
        return torch.zeros(count, dtype=torch.long)
    if not rope.mrope_interleaved:
        return torch.arange(len(sections)).repeat_interleave(torch.tensor(sections))
    axes = torch.arange(count) % 3  # one after the other, as far as a section goes; the rest is time's
    return axes.masked_fill(torch.arange(count) >= 3 * torch.tensor(sections)[axes], 0)


class SizedAttention(Attention):
    """vLLM's attention with wider heads: for queries and keys that `SizedRotary` has widened, and values as they are.

    Args:
        own: the layer whose place it takes.
        wide: its head size.
        backend: one that knows this head size.
    """

    def __init__(self, own: Attention, wide: int, backend: Any) -> None:
        config = get_current_vllm_config()
        del config.compilation_config.static_forward_context[own.layer_name]  # the name is free again
        super().__init__(
            own.num_heads,
            wide,
            own.impl.scale,
            own.num_kv_heads,
            cache_config=config.cache_config,
            quant_config=own.quant_config,
            per_layer_sliding_window=own.sliding_window,
            prefix=own.layer_name,
            attn_backend=backend,
        )
        self.head = own.head_size

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention output, of the width that the model has."""
        value = pad(value.unflatten(-1, (-1, self.head)), (0, self.head_size - self.head)).flatten(1)
        out = super().forward(query, key, value)
        return out.unflatten(-1, (-1, self.head_size))[..., : self.head].flatten(1)


def _widened(own: Attention) -> tuple[int, Any]:
    """The next head size that there is a backend for, and that backend."""
    if own.kv_cache_torch_dtype != own.dtype:
        raise NotImplementedError(f"+sizes cannot be served with --kv-cache-dtype {own.kv_cache_dtype}: it rounds them")
    for size in range(-(-(own.head_size + 2) // 8) * 8, WIDEST + 1, 8):
        try:
            backend = get_attn_backend(
                size, own.dtype, own.kv_cache_dtype, has_sliding_window=own.sliding_window is not None
            )
        except ValueError:  # on a GPU, where no backend knows this size
            continue
        if backend.supports_head_size(size):
            return size, backend
    raise NotImplementedError(f"+sizes cannot be served: no attention backend has heads wider than {own.head_size}")


class CorrectedModel:
    """Goes before vLLM's model of a family, and hands its LLM the positions and sizes beside the embeddings.

    A forward reads what `embed_input_ids` left behind just before it, as vLLM's own models hand over what they
    have beside embeddings (Qwen3-VL's deepstack).
    """

    supports_mrope: ClassVar[bool] = True  # vLLM asks only where the configuration says M-RoPE
    choice: Choice
    get_language_model: Any

    def _listen(self, vllm_config: Any) -> None:
        """Make the LLM such that it can be corrected. Called once `choice` is there.

        Raises:
            NotImplementedError: for an LLM that takes no corrections.
        """
        self._carried: Tensor | None = None
        if not self.choice.time and not self.choice.sizes:
            return
        model = vllm_config.model_config
        if self.choice.time and not model.uses_mrope:
            raise NotImplementedError(f"+time cannot be served: another plugin configures {model.architecture}")
        layers = [m for m in self.get_language_model().modules() if type(getattr(m, "attn", None)) is Attention]
        if len(layers) != model.get_num_layers(vllm_config.parallel_config):
            raise NotImplementedError(f"+time and +sizes cannot be served with the attention of {model.architecture}")
        wide = None
        for layer in layers:
            if self.choice.sizes:
                wide, backend = _widened(layer.attn)
                layer.attn = SizedAttention(layer.attn, wide, backend)
            layer.rotary_emb = SizedRotary(layer.rotary_emb, wide, layer.attn.impl.scale)
        if wide is not None:
            log.info("+sizes: heads of %d grow to %d, and the KV cache with them", model.get_head_size(), wide)
            model.model_arch_config.head_size = wide  # backends make their buffers by it
        # axes and log sizes; one token more than there are, as in vLLM's own: a compiled model takes it for strided
        room = vllm_config.scheduler_config.max_num_batched_tokens + 1
        self._carried = torch.zeros((model.mrope_num_dims or 1) + 1, room, dtype=torch.float32)
        # of each token: how far it stands from where M-RoPE has it, and its log size
        self._beside = torch.zeros(room, 2, dtype=torch.float32)

    def carrying(self, x: Float[Tensor, "m d"], beside: Float[Tensor, "m 2"] | None = None) -> Float[Tensor, "m c"]:
        """Embeddings of one item, and beside them position and size of each, where corrections run."""
        if self._carried is None:
            return x
        beside = torch.zeros(len(x), 2, dtype=torch.float32, device=x.device) if beside is None else beside
        return torch.cat([x, beside.view(x.dtype)], dim=-1)  # the bits of float32, whatever the model's dtype

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Positions of a prompt's tokens, (3, t), and by how much decoding is ahead of their number."""
        upstream: Any = super()
        if hasattr(upstream, "get_mrope_input_positions"):
            positions, ahead = upstream.get_mrope_input_positions(input_tokens, mm_features)
        else:
            positions, ahead = torch.arange(len(input_tokens)).expand(3, -1), 0
        positions = positions.clone()
        for item in mm_features:
            if item.data is None or TOKENS not in item.data:
                continue
            place = item.mm_position
            start = place.offset + (0 if place.is_embed is None else int(place.is_embed.long().argmax()))
            m = place.get_num_embeds()
            dropped = int(item.data[TOKENS].data) - m
            positions[:, start : start + m] = positions[:, start, None]
            positions[:, start + m :] += dropped
            ahead += dropped
        return positions, ahead

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        """Embeddings of a batch's tokens; keeps what came beside them for the forward that follows."""
        upstream: Any = super()
        if self._carried is not None:
            here = self._beside[: len(input_ids)].zero_()
            if multimodal_embeddings is not None and len(multimodal_embeddings) and is_multimodal is not None:
                pairs = [_split(x) for x in multimodal_embeddings]
                multimodal_embeddings = [embeddings for embeddings, _ in pairs]
                beside = torch.cat([carried for _, carried in pairs])
                here.masked_scatter_(is_multimodal.to(here.device)[:, None], beside)
        return upstream.embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """vLLM's, with positions as `SizedRotary` reads them."""
        upstream: Any = super()
        if self._carried is not None:
            count = positions.shape[-1]
            carried, beside = self._carried[:, :count], self._beside[:count]
            carried[:-1] = positions + beside[:, 0]
            carried[-1] = beside[:, 1]
            positions = carried
        return upstream.forward(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)


def _split(carrying: Float[Tensor, "m c"]) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m 2"]]:
    """Embeddings, and what came beside them."""
    width = 2 * torch.float32.itemsize // carrying.dtype.itemsize
    carried = carrying[:, -width:].contiguous().view(torch.float32)
    return copy_mm_embedding_modality(carrying, carrying[:, :-width]), carried


def beside(method: Method, plan: Plan | None) -> Float[Tensor, "b m 2"] | None:
    """What comes with the embeddings of clips: how far each stands from the clip's first token, and its log size.

    Raises:
        ValueError: for a method with corrections that has no plan.
    """
    if method.positions != "time" and not method.sizes:
        return None
    if plan is None:
        raise no_plan(method)
    carried = torch.zeros(plan.group.shape[0], plan.m, 2, dtype=torch.float32, device=plan.group.device)
    if method.positions == "time":
        carried[..., 0] = plan.centres()
    if method.sizes:
        carried[..., 1] = (plan.sizes() / plan.per).log()
    return carried
