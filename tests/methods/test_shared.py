"""One budget of several clips: exact in sum, at one price, and none of a batch's other rows."""

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from test_corrections import row_alone
from test_tolerance import walk
from tiny import TINY, prompts
from torch import Tensor

import fewhertz
from fewhertz import Clip, audio, parse
from fewhertz.checkpoint import load_processor, open_checkpoint
from fewhertz.cost import cost
from fewhertz.pocket import path
from fewhertz.run import answer, request
from fewhertz.sharing import shared_out
from fewhertz.windows import Window

RATE = 25.0
SPEC = "ward(shared=true)@8Hz+time+sizes"


def shared(x: list[Tensor], keep: str) -> list[fewhertz.Plan]:
    return parse(f"ward(shared=true)@keep={keep}").plans_together(torch.cat(x, 1), [one.shape[1] for one in x])


@pytest.mark.parametrize("keep", ["1/50", "1/7", "8/25", "1/2", "9/10", "1"])
def test_the_sum_is_exact_and_each_clip_keeps_a_token(keep: str) -> None:
    x = [walk(1, n, seed=n) for n in (1, 2, 40, 333, 90)]
    x[4] = x[4][:, :1].expand(1, 90, 8)  # a steady sound
    plans = shared(x, keep)
    method = parse(f"ward@keep={keep}")
    assert sum(plan.m for plan in plans) == max(method.num_tokens(466), 5)
    for one, plan in zip(x, plans, strict=True):
        assert plan.n == one.shape[1] and plan.m >= 1
        assert plan.group.diff().min(1).values.ge(0).all() if plan.n > 1 else True
        assert plan.group[0, 0] == 0 and plan.group[0, -1] == plan.m - 1 and plan.sizes().min() > 0
    if keep in ("8/25", "1/2"):
        assert plans[4].m < 5 < plans[3].m / 10  # the steady sound lends what it does not need


def test_a_clip_by_itself_is_as_without_sharing() -> None:
    x = walk(1, 200)
    (plan,) = shared([x], "1/3")
    assert torch.equal(plan.group, parse("ward@keep=1/3").plan(x, Clip(RATE)).group)
    both = parse("ward(shared=true)@keep=1/3").plans(x.expand(2, -1, -1), Clip(RATE))
    assert [one.m for one in both] == [plan.m, plan.m]


def test_one_price_holds_for_all_clips() -> None:
    """Nothing dear was joined in one clip while something cheap is left in another."""
    x = [walk(1, 300, seed=1), 0.2 * walk(1, 300, seed=2) + 1]
    plans = shared(x, "1/4")
    assert plans[0].m != plans[1].m
    left = []
    for one, plan in zip(x, plans, strict=True):
        tokens = torch.nn.functional.normalize(one, dim=-1)
        means, sizes = plan.apply(tokens)[0], plan.sizes()[0].float()
        pairs = sizes[1:] * sizes[:-1] / (sizes[1:] + sizes[:-1])
        left.append(float((pairs * (means[1:] - means[:-1]).square().sum(-1)).quantile(0.1)))
    assert max(left) < 1.5 * min(left)
    apart = [parse("ward@keep=1/4").plan(one, Clip(RATE)) for one in x]

    def lost(found: list[fewhertz.Plan]) -> float:
        tokens = [torch.nn.functional.normalize(one, dim=-1) for one in x]
        return sum(
            float((one[0] - plan.apply(one)[0][plan.group[0]]).square().sum())
            for one, plan in zip(tokens, found, strict=True)
        )

    assert lost(plans) < lost(apart)


def test_specs_and_what_is_refused() -> None:
    method = parse(SPEC)
    assert method.spec == SPEC and parse(method.spec) == method and method.present("packed").together
    assert not method.fixed_budget and parse("ward@8Hz").fixed_budget and not parse("ward@8Hz").together
    assert method.at(25).num_tokens(750) == 240
    for spec, why in [
        ("ward(shared=true)@tolerance=0.3", "shared goes with keep or a rate"),
        ("ward(shared=true,count=mel)@8Hz", "goes with a tolerance"),
        ("ward(shared=true)", "has no budget"),
        ("ward(shared=perhaps)@8Hz", "is true or false"),
        ("pool(shared=true)@8Hz", "pool has no parameter 'shared'"),
        ("optimal(shared=true)@8Hz", "optimal has no parameter 'shared'"),
        ("ward(shared=true)@8Hz then pool@keep=1/2", "variable length"),
    ]:
        with pytest.raises(ValueError, match=why):
            parse(spec)
    checkpoint = open_checkpoint("pocket", weights=False)
    with pytest.raises(ValueError, match=r"ward cannot act at encoder\.1"):
        checkpoint.fit("ward(shared=true,site=encoder.1)@8Hz")
    from fewhertz.vllm.choice import Choice

    config = checkpoint.config
    config.audio_compression = {"method": "ward(shared=true)@8Hz"}
    with pytest.raises(ValueError, match=r"cannot be served: it is of variable length.* leave shared=true out"):
        Choice(checkpoint.family, config, scores=False)


def test_what_it_costs_is_known() -> None:
    checkpoint = open_checkpoint("pocket", weights=False)
    found = cost(checkpoint, load_processor(checkpoint), checkpoint.fit("ward(shared=true)@8Hz"), 30.0)
    assert (found.before, found.after) == (750, 240)


@pytest.mark.parametrize(
    ("family", "site"), [("qwen2-audio", ""), ("qwen2-audio", ",site=encoder"), ("qwen2.5-omni", ""), ("voxtral", "")]
)
def test_clips_of_a_row_share_and_rows_do_not(family: str, site: str) -> None:
    model = TINY[family].build()
    rows = [[400, 203], [317]]
    batch = prompts(family, rows)
    with fewhertz.compress(model, f"ward(shared=true{site})@keep=1/3+time+sizes") as handle, torch.no_grad():
        together = model(**batch).logits
        last = handle.last
        clips = len(last.before) - 1  # Voxtral's windows are one clip or more
        assert sum(last.after[:clips]) == handle.method.num_tokens(sum(last.before[:clips]))
        assert last.after[clips] == handle.method.num_tokens(last.before[clips])
        first = model(**row_alone(family, batch, rows, 0)).logits
        assert handle.last.after == last.after[:clips]
        out = model.generate(**batch, max_new_tokens=3, do_sample=False)
    assert out.shape[1] == batch["input_ids"].shape[1] + 3
    torch.testing.assert_close(together[0, -1], first[0, -1], atol=1e-4, rtol=1e-4)


def samples(count: int) -> list[np.ndarray]:
    files = sorted((Path(path()) / "samples").glob("*.flac"))[:count]
    return [audio.load(file) for file in files]


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    """Half a minute: speech, hiss, a silence of 6 s, speech with pauses."""
    waves = samples(4)
    rest = np.zeros(8_000, np.float32)  # half a second: no segment of its own
    hiss = np.random.default_rng(0).normal(0, 0.02, 48_000).astype(np.float32)
    parts = [waves[0], rest, waves[1], rest, hiss, np.zeros(96_000, np.float32)]
    return np.concatenate([*parts, *(part for wave in waves[2:] for part in (wave, rest, rest, rest))])


@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize("budget", ["@8Hz", "@keep=1/3"])
def test_windows_of_a_recording_share_one_budget(batch: int, budget: str, recording: np.ndarray) -> None:
    model, processor = fewhertz.load("pocket", device="cpu", dtype="float32")
    spec = f"ward(shared=true){budget}+time+sizes"
    how = {"method": spec, "chunk": 4.0, "batch_size": batch, "source_rate": 16_000, "max_new_tokens": 8}
    found = [*fewhertz.transcribe(model, processor, recording, **how)]
    spoken = [one for one in found if one.reply is not None]
    assert len(spoken) > 4 and any("silence" in one.flags for one in found)
    total, before = sum(one.tokens for one in spoken), sum(one.reply.before for one in spoken)
    if budget == "@8Hz":  # of the whole: the silence lends its tokens
        assert total == round(8 * len(recording) / 16_000)
    else:
        assert abs(total - before / 3) <= len(spoken)  # windows are counted by their seconds
    hiss = [one for one in spoken if 5.5 < one.start < 9.5 and one.end < 12]
    speech = [one for one in spoken if one not in hiss]
    rate = [sum(o.tokens for o in some) / sum(o.end - o.start for o in some) for some in (hiss, speech)]
    assert hiss and rate[0] < rate[1] / 2  # the sound that says nothing takes less


def test_one_price_over_the_log_mel_adds_up() -> None:
    """Whatever the lengths; what is dense gets more; silences get nothing."""
    method = parse("ward(shared=true)@keep=1/4").at(25)
    speech = samples(1)[0][:48_000]
    noise = np.random.default_rng(0).normal(0, 0.02, 48_000).astype(np.float32)
    made = [speech[:40_000], speech[20_000:21_600], noise[:30_000], 0 * speech[:40_000]]
    tokens = sum(round(len(wave) / 640) for wave in made)
    found = [Window(0, 1, wave, 0, 10 * (i + 1)) for i, wave in enumerate(made)]
    found.insert(2, Window(0, 1, None, 0, 20))
    counts = shared_out(method, None, found, native=25, rate=16_000)
    assert counts[2] == 0 and min(counts[:2] + counts[3:]) >= 1
    assert sum(counts) == method.num_tokens(tokens)
    assert counts[0] > counts[3] > 0 and counts[4] == 1
    assert sum(shared_out(method, Fraction(1), found, native=25, rate=16_000)) == 40
    assert sum(shared_out(method, Fraction(25), found, native=25, rate=16_000)) == tokens  # all there are
    assert sum(shared_out(method, Fraction(1, 100), found, native=25, rate=16_000)) == 4  # one each
    assert shared_out(method, None, found[2:3], native=25, rate=16_000) == [0]


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_prices_are_those_of_merging(n: int) -> None:
    """Cutting where a merge costs more than a price is what a tolerance of that price does."""
    x = walk(1, n, seed=n)[0]
    prices = parse("ward(shared=true)@keep=1/4").prices(x)
    assert len(prices) == n - 1
    for price in prices.quantile(torch.tensor([0.3, 0.6, 0.9])).tolist() if n > 2 else []:
        (plan,) = parse(f"ward@tolerance={price}").plans(x[None], Clip(RATE))
        assert abs(plan.m - 1 - int((prices > price).sum())) <= 0.02 * n


def test_rows_of_a_batch_are_no_recording() -> None:
    model, processor = fewhertz.load("pocket", device="cpu", dtype="float32")
    waves = samples(4)
    model_handle = fewhertz.compress(model, SPEC)
    replies = answer(model, processor, request(processor, waves), transcript=True, max_new_tokens=4)
    assert [one.after for one in replies] == [parse(SPEC).at(25).num_tokens(one.before) for one in replies]
    model_handle.remove()


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_run_that_broke_off_goes_on_with_the_same_windows_together(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewhertz import run as asking
    from fewhertz.files import read_journal
    from fewhertz.segments import Kept
    from fewhertz.transcription import pieces

    model, processor = fewhertz.load("pocket", SPEC, device="cpu", dtype="float32")
    rest = np.zeros(8_000, np.float32)
    long = np.concatenate([part for wave in samples(8) for part in (wave, rest)])

    def run(journal: Path) -> list[object]:
        kept = Kept(journal, {"run": 1})
        stream = pieces(model, processor, [long], chunk=4.0, batch_size=2, source_rate=16_000, kept=kept)
        try:
            found = [*stream]
        finally:
            kept.journal.close()
        return [(p.segment.text, p.segment.tokens) for p in found if p.segment is not None]

    whole = run(tmp_path / "whole")
    real, calls = asking.reply, itertools.count()

    def broken_off(*args: object, **more: object) -> object:
        if next(calls) == at:
            raise KeyboardInterrupt
        return real(*args, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(asking, "reply", broken_off)
        run(tmp_path / "broken")
    assert 2 <= len(read_journal(tmp_path / "broken", {"run": 1})) <= 2 * at  # a batch is kept as a whole
    assert run(tmp_path / "broken") == whole
