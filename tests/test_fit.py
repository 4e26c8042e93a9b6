"""`+time(fit)`: time positions that end where the LLM's own do; in every family."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_corrections import OMNI, ROWS, generated, inputs_of_llm, last_logits, new_tokens, row_alone
from test_corrections import qwen as qwen  # a fixture
from tiny import AUDIO, cache_of, prompts, with_cache
from torch import Tensor

import fewhertz
from fewhertz.checkpoint import load_processor, open_checkpoint
from fewhertz.corrections import reach_of
from fewhertz.cost import cost
from fewhertz.method import Chain
from fewhertz.run import request

BARE = "segment@keep=1/4"


@pytest.mark.parametrize(
    ("spec", "fit", "canonical"),
    [
        ("pool@keep=1/3+time(fit)", True, "pool@keep=1/3+time(fit)"),
        ("pool@8Hz + sizes + time( fit = 4096 )", 4096, "pool@8Hz+time(fit=4096)+sizes"),
        ("ward@tolerance=1e+1+time(fit)+sizes", True, "ward@tolerance=10+time(fit)+sizes"),
        ("pool@keep=1/2 then stride@keep=1/2+time(fit=99)", 99, "pool@keep=1/2 then stride@keep=1/2+time(fit=99)"),
        ("unseg+time", False, "unseg+time"),
    ],
)
def test_specs(spec: str, fit: bool | int, canonical: str) -> None:
    for method in (fewhertz.parse(spec), fewhertz.parse(fewhertz.parse(spec).spec)):
        assert (method.positions, method.fit, method.spec) == ("time", fit, canonical)
        assert method.at(25).fit is method.fit
        assert method.present("time").fit is method.fit and method.present("packed").fit is False


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("pool@keep=1/3+time(fits)", r"cannot read \+time\(fits\) of"),
        ("pool@keep=1/3+time(fit=-4)", r"cannot read \+time\(fit=-4\)"),
        ("pool@keep=1/3+time()", r"cannot read \+time\(\)"),
        ("pool@keep=1/3+sizes(fit)", r"cannot read \+sizes\(fit\)"),
        ("pool@keep=1/3+time(fit=1)", "2 or more, got 1"),
        ("pool@keep=1/3+time(fit=1e999)", "cannot read"),
        ("pool(fit=true)@keep=1/3+time", "has no parameter 'fit'"),
        ("pool@keep=1/2+time(fit) then pool@keep=1/2", "at its end alone"),
    ],
)
def test_specs_that_are_none(spec: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        fewhertz.parse(spec)


def test_what_it_goes_with(qwen: Any) -> None:
    with pytest.raises(ValueError, match="fit goes with time positions"):
        fewhertz.parse("pool@keep=1/3").present(fit=True)
    chain = Chain(first=fewhertz.parse("pool@keep=1/2"), second=fewhertz.parse("pool@keep=1/2"))
    assert chain.present("time", fit=True).spec.endswith("+time(fit)")
    with fewhertz.compress(qwen, BARE + "+time(fit)") as handle:
        assert reach_of(handle.method, qwen.config) == 8192 and qwen.config.audio_compression == {
            "method": BARE + "+time(fit)"
        }
    with fewhertz.compress(qwen, BARE + "+time(fit=50)") as handle:
        assert reach_of(handle.method, qwen.config) == 50
    endless = SimpleNamespace(get_text_config=SimpleNamespace)
    with pytest.raises(ValueError, match=r"write \+time\(fit=4096\)"):
        reach_of(fewhertz.parse(BARE + "+time(fit)"), endless)
    assert reach_of(fewhertz.parse(BARE + "+time(fit=9)"), endless) == 9
    assert reach_of(fewhertz.parse(BARE + "+time"), endless) is None


def test_vllm_refuses_it_by_name() -> None:
    from fewhertz.vllm.choice import Choice

    checkpoint = open_checkpoint("pocket", weights=False)
    config = checkpoint.config
    config.audio_compression = {"method": "pool@keep=1/2+time(fit)"}
    with pytest.raises(ValueError, match=r"\+time\(fit\)' cannot be served: .* leave \(fit\) out"):
        Choice(checkpoint.family, config, scores=False)


def placed(model: Any, batch: dict[str, Tensor], suffix: str) -> tuple[Tensor, Tensor, Tensor, Any]:
    """Where tokens stand, (axes, b, w); which of them are audio, (b, w); the logits; the handle."""
    with fewhertz.compress(model, BARE + suffix) as handle, inputs_of_llm(model) as seen, torch.no_grad():
        ids = []
        embeddings = model.get_input_embeddings()
        hook = embeddings.register_forward_pre_hook(lambda _module, args: ids.append(args[0]))
        logits = model(**batch).logits
        hook.remove()
    positions = seen[0]["position_ids"]
    return (positions if positions.dim() == 3 else positions[None]), ids[0] == AUDIO, logits, handle


def test_where_all_fits_it_is_as_without(family: str, model: Any) -> None:
    batch = prompts(family, ROWS)
    where, _, logits, _ = placed(model, batch, "+time+sizes")
    for suffix in ("+time(fit)+sizes", f"+time(fit={int(where.max()) + 1})+sizes"):
        same, _, others, _ = placed(model, batch, suffix)
        assert torch.equal(where, same) and torch.equal(logits, others)


def test_order_and_spacing(family: str, model: Any) -> None:
    """It ends where asked; steps within clips are drawn together by one factor, all others are as without."""
    batch = prompts(family, ROWS)
    where, audio, logits, _ = placed(model, batch, "+time")
    reach = int(where.max()) + 1 - 40
    drawn, _, others, handle = placed(model, batch, f"+time(fit={reach})")
    width, last = batch["input_ids"].shape[1], handle.last
    clips = [(last.before[a:b], last.after[a:b]) for a, b in ((0, 2), (2, 3))]  # of each row
    assert not torch.equal(logits, others)
    factors = []
    for row in range(len(ROWS)):
        padding = int(batch["attention_mask"][row].argmax())  # on the left
        dropped = sum(n - m for n, m in zip(*clips[row], strict=True))
        real = torch.arange(audio.shape[1], device=audio.device) >= audio.shape[1] - (width - padding - dropped)
        is_audio = audio[row][real]
        was, now = where[:, row, real].double(), drawn[:, row, real].double()
        steps, shrunk = was.diff(), now.diff()
        assert bool((shrunk > 0).all()) and bool((now >= 0).all())
        outside = ~is_audio[1:] & ~is_audio[:-1]
        torch.testing.assert_close(shrunk[:, outside], steps[:, outside], atol=1e-4, rtol=0)
        inside = is_audio[1:] & is_audio[:-1]
        if now.max() < was.max():
            assert float(now.max()) == reach - 1
            factors.append((shrunk / steps)[:, inside])
            assert float(factors[-1].max() - factors[-1].min()) < 1e-3 and float(factors[-1].max()) < 1
        else:
            assert torch.equal(was, now)  # a row that fits is as it was
    assert factors


def test_it_is_drawn_together_no_further_than_packed(family: str, model: Any) -> None:
    batch = prompts(family, ROWS[:1])
    drawn, audio, _, handle = placed(model, batch, "+time(fit=2)")
    assert float(drawn.max()) == pytest.approx(audio.shape[1] - 1, abs=1e-3)
    assert bool((drawn.diff() > 0).all()) and sum(handle.last.after) == int(audio.sum())


def test_a_row_is_what_it_is_alone(family: str, model: Any) -> None:
    batch = prompts(family, ROWS)
    with fewhertz.compress(model, BARE + "+time(fit=60)+sizes"):
        together = last_logits(model, batch, 3)
        for i in range(len(ROWS)):
            alone = last_logits(model, row_alone(family, batch, ROWS, i), 3)[0]
            torch.testing.assert_close(together[i], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_decoding_goes_on_from_the_end(family: str, model: Any) -> None:
    batch = prompts(family, [[400, 203]])
    where, _, _, _ = placed(model, batch, "+time")
    reach = int(where.max()) - 20
    with fewhertz.compress(model, f"{BARE}+time(fit={reach})+sizes"):
        with inputs_of_llm(model) as seen:
            new = new_tokens(model, batch, max_new_tokens=4)
        assert [float(step["position_ids"].max()) for step in seen] == [reach - 1, reach, reach + 1, reach + 2]
        out = model(**batch, use_cache=True)
        for i in range(4):  # a loop of one's own
            token = out.logits[:, -1:].argmax(-1)
            assert torch.equal(token[:, 0], new[:, i])
            out = model(input_ids=token, **with_cache(model, cache_of(out)))


SEVERAL = ["qwen2-audio", "audio-flamingo-3", "music-flamingo", "qwen2.5-omni", "qwen3-omni", "qwen3-asr"]


@torch.no_grad()
@pytest.mark.parametrize("family", SEVERAL, indirect=True)
def test_a_recording_of_many_windows_in_one_prompt(family: str, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the positions that the LLM was made for; compressed, its end is the last of them, and decoding goes on."""
    batch = prompts(family, [[400] * 11 + [203]])
    where, _, _, _ = placed(model, batch, "+time+sizes")
    reach = int(where.max()) // 2
    monkeypatch.setattr(model.config.get_text_config(), "max_position_embeddings", reach)
    drawn, audio, _, handle = placed(model, batch, "+time(fit)+sizes")
    assert len(handle.last.before) == len(handle.last.after) == 12
    assert sum(handle.last.after) == int(audio.sum()) < sum(handle.last.before) / 3
    assert float(drawn.max()) == reach - 1 and bool((drawn.diff() > 0).all())
    with fewhertz.compress(model, BARE + "+time(fit)+sizes"), inputs_of_llm(model) as seen:
        out = generated(model, batch, max_new_tokens=3)
    assert [float(step["position_ids"].max()) for step in seen] == [reach - 1, reach, reach + 1]
    assert out.shape[1] == batch["input_ids"].shape[1] + 3


@torch.no_grad()
def test_audio_at_the_end(family: str, model: Any) -> None:
    batch = prompts(family, [[400]])
    end = int((batch["input_ids"][0] == AUDIO).nonzero()[-1]) + 1
    batch["input_ids"], batch["attention_mask"] = batch["input_ids"][:, :end], batch["attention_mask"][:, :end]
    with fewhertz.compress(model, BARE + f"+time(fit={end - 9})"), inputs_of_llm(model) as seen:
        generated(model, batch, max_new_tokens=3)
    assert [float(step["position_ids"].max()) for step in seen] == [end - 10, end - 9, end - 8]


@torch.no_grad()
@pytest.mark.parametrize("family", OMNI, indirect=True)
def test_an_image_beside_the_audio(family: str, model: Any) -> None:
    batch = prompts(family, [[400], [203]], image=True)
    where, _, _, _ = placed(model, batch, "+time")
    drawn, _, _, _ = placed(model, batch, f"+time(fit={int(where.max()) - 9})")
    assert float(drawn.max()) == int(where.max()) - 10


@pytest.mark.parametrize("spec", ["pool@keep=1/3+time(fit)", "pool@keep=1/3+time(fit=200)", "unseg+time(fit=200)"])
@pytest.mark.parametrize("seconds", [3.0, 10.0])
def test_inspect_counts_what_the_model_does(spec: str, seconds: float) -> None:
    checkpoint = open_checkpoint("pocket", weights=False)
    processor = load_processor(checkpoint)
    method = checkpoint.fit(spec)
    found = cost(checkpoint, processor, method, seconds)
    model, _ = fewhertz.load("pocket", device="cpu", dtype="float32")
    wave = torch.zeros(round(16_000 * seconds)).numpy()
    with fewhertz.compress(model, method), inputs_of_llm(model) as seen, torch.no_grad():
        model(**request(processor, [wave]))
    whole = found.prompt + found.before
    where = seen[0]["position_ids"][0]
    if whole <= 200 or method.fit is True:
        assert found.positions == (whole, whole) and found.scale == 1
    elif found.after is None:
        assert found.positions == (whole, None) and found.scale is None
        assert found.fits(200, 200)[1] == (None, None)
    else:
        assert found.positions == (whole, 200) and found.fits(200, 200) == [(False, "tokens"), (True, None)]
        assert found.scale == pytest.approx(float(where.diff().median() / 3), rel=1e-2)
    if found.positions[1] is not None:
        assert float(where.max()) + 1 == found.positions[1]
