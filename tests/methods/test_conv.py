"""The learned compressor with weights that are not its first ones (test_contract.py holds it to the contract)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from tiny import TINY, prompts
from torch import Tensor, nn
from torch.nn import functional as F

import fewhertz
from fewhertz import Clip, parse
from fewhertz.methods.conv import REACH, Conv

RATE, WIDTH = 25.0, 6
ROWS = [[800], [301]]


def tokens(b: int, n: int) -> Tensor:
    return torch.randn(b, n, WIDTH, generator=torch.Generator().manual_seed(n))


def trained(taps: int = 9, width: int = WIDTH) -> nn.Module:
    """Weights as if after training."""
    kernel = Conv(keep=Fraction(1), taps=taps).build(width)
    generator = torch.Generator().manual_seed(taps)
    for weight in kernel.parameters():
        nn.init.normal_(weight, std=0.3, generator=generator)
    return kernel


def conv(x: Tensor, keep: Fraction, kernel: nn.Module | None) -> Tensor:
    return Conv(keep=keep, taps=9 if kernel is None else len(kernel.depthwise)).forward(x, Clip(RATE, learned=kernel))[
        0
    ]


@pytest.mark.parametrize("n", (1, 2, 3, 7, 50, 751))
@pytest.mark.parametrize("keep", ("1", "2/3", "1/2", "1/3", "1/6", "1/100"))
def test_the_first_step_is_pool_to_the_bit(n: int, keep: str) -> None:
    x, clip = tokens(2, n), Clip(RATE)
    first = conv(x, Fraction(keep), Conv(keep=Fraction(1)).build(WIDTH))
    pooled, plan = parse(f"pool@keep={keep}").forward(x, clip)
    assert torch.equal(first, pooled)
    assert plan is not None
    formed = Conv(keep=Fraction(keep)).forward(x, Clip(RATE, learned=trained()))[1]
    assert torch.equal(formed.group, plan.group)  # what a token stands for is not learned


@pytest.mark.parametrize("stride", (1, 2, 3, 5))
def test_it_is_a_depthwise_separable_strided_convolution(stride: int) -> None:
    """Where groups are equal and taps fall on tokens, against torch's own."""
    if stride == 1:
        x = tokens(1, 9)
        assert torch.equal(conv(x, Fraction(1), trained()), x)
        return
    taps, m = REACH * stride, 12
    kernel, x = trained(taps), tokens(2, m * stride)
    weight = kernel.depthwise.T.clone()  # (d, taps)
    weight[:, stride : 2 * stride] += 1 / stride  # the average of its own group
    # edges repeat; the first group's window begins a group before it
    padded = F.pad(x.mT, (stride, stride), mode="replicate")
    deep = F.conv1d(padded, weight[:, None], stride=stride, groups=WIDTH).mT
    wanted = deep + deep @ kernel.pointwise.T
    torch.testing.assert_close(conv(x, Fraction(1, stride), kernel), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", (1, 2, 7, 50, 750))
def test_contract_of_trained_weights(n: int) -> None:
    x, kernel = tokens(3, n), trained()
    assert torch.equal(conv(x, Fraction(1), kernel), x)
    out = conv(x, Fraction(1, 3), kernel)
    assert out.shape[1] == parse("conv@keep=1/3").num_tokens(n)
    for row in range(3):
        torch.testing.assert_close(out[row : row + 1], conv(x[row : row + 1], Fraction(1, 3), kernel))
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert conv(x.to(dtype), Fraction(1, 3), kernel).dtype == dtype
    flat = conv(torch.ones(1, n, WIDTH), Fraction(1, 3), kernel)
    torch.testing.assert_close(flat, flat[:, :1].expand_as(flat))  # constant audio stays constant
    if n > 1:
        assert not torch.allclose(out, conv(x, Fraction(1, 3), None))


def test_gradients_reach_weights_and_tokens_from_the_first_step() -> None:
    x, kernel = tokens(2, 50).requires_grad_(), Conv(keep=Fraction(1)).build(WIDTH)
    conv(x, Fraction(1, 3), kernel).square().sum().backward()
    assert x.grad is not None
    for part in (x.grad, kernel.depthwise.grad, kernel.pointwise.grad):
        assert part.abs().sum() > 0


def test_a_model_carries_one_set_of_weights_for_all_keeps() -> None:
    model: Any = TINY["qwen2-audio"].build()
    batch = prompts("qwen2-audio", ROWS)
    names = set(model.state_dict())
    with torch.no_grad():
        with fewhertz.compress(model, "pool@keep=1/3+time+sizes"):
            pooled = model(**batch).logits
        with fewhertz.compress(model, "conv@keep=1/3+time+sizes") as handle:
            assert torch.equal(model(**batch).logits, pooled)
            kernel = handle.learned
            assert kernel is not None and kernel in list(model.modules())
            nn.init.normal_(kernel.depthwise, std=0.3)
            changed = model(**batch).logits
            assert not torch.allclose(changed, pooled)
        assert set(model.state_dict()) == names  # it is off
        with fewhertz.compress(model, "conv@keep=1/2") as other:
            assert other.learned is kernel
        with fewhertz.compress(model, "conv(taps=5)@keep=1/2") as other:
            assert other.learned is not kernel
        with fewhertz.compress(model, "conv@8Hz"):
            model(**batch)
        with fewhertz.compress(model, "conv@keep=1/3+time+sizes"):
            assert torch.equal(model(**batch).logits, changed)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("conv(taps=0)@keep=1/2", "length of a kernel"),
        ("conv(site=encoder)@keep=1/2", "LLM's input space"),
        ("pool@keep=1/2 then conv@keep=1/2", "conv is learned: use it alone"),
        ("conv@keep=1/2 then pool@keep=1/2", "conv is learned: use it alone"),
    ],
)
def test_what_it_refuses(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(spec)
