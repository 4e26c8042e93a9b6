"""`fewhertz tune`: agreement with the uncompressed model on real clips; what it chooses, writes and resumes."""

import json
from pathlib import Path

import pytest
import torch
from test_cli import fewhertz_
from test_families import PROCESSOR, SPECIAL, processor_of
from tiny import TINY

import fewhertz
from fewhertz import audio, tuning
from fewhertz.families import family_of
from fewhertz.pocket import path
from fewhertz.run import request

FILES = sorted((Path(path()) / "samples").glob("*.flac"))[:3]
METHODS = ("pool@keep=1", "ward@tolerance=0.05+time+sizes", "ward@keep=1/2+time+sizes", "pool@keep=1/10")


@pytest.fixture(scope="module")
def pocket() -> tuple[object, object]:
    return fewhertz.load("pocket", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def tuned(pocket: tuple[object, object]) -> tuning.Tuned:
    return fewhertz.tune(*pocket, FILES, METHODS, agree=0.9, max_new_tokens=24)


def test_all_tokens_agree_with_themselves(tuned: tuning.Tuned) -> None:
    by = {one.method: one for one in tuned.candidates}
    whole = by["pool@keep=1"]
    assert (whole.agreement, whole.interval, whole.kl, whole.same, whole.parts) == (1.0, (1.0, 1.0), 0.0, 1.0, None)
    assert whole.rate == pytest.approx(25, abs=0.5) and whole.kept == 1
    assert by["pool@keep=1/10"].agreement < 0.9 < by["ward@tolerance=0.05+time+sizes"].agreement <= 1
    assert by["pool@keep=1/10"].kl > by["ward@keep=1/2+time+sizes"].kl > 0
    assert [one.rate for one in tuned.candidates] == sorted((one.rate for one in tuned.candidates), reverse=True)


def test_the_cheapest_that_agrees_is_chosen(tuned: tuning.Tuned) -> None:
    enough = [one for one in tuned.candidates if one.agreement >= 0.9]
    assert tuned.chosen == min(enough, key=lambda one: one.rate)
    assert tuned.served is not None and fewhertz.parse(tuned.served.method).fixed_budget
    assert (tuned.clips, tuned.errors, tuned.agree) == (3, [], 0.9)
    strict = tuning.tune(*fewhertz.load("pocket", device="cpu"), FILES[:1], ["pool@keep=1/10"], max_new_tokens=8)
    assert strict.chosen is None and strict.served is None


def test_agreement_is_counted_by_hand(pocket: tuple[object, object]) -> None:
    """One clip, one method: the first choices along the uncompressed answer, each from a forward of its own."""
    model, processor = pocket
    spec, wave = "pool@keep=1/4", audio.load(FILES[0])
    inputs = request(processor, [wave])
    ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    width = inputs["input_ids"].shape[1]
    same = 0
    with fewhertz.compress(model, spec), torch.no_grad():
        for end in range(width, ids.shape[1]):
            call = dict(inputs) | {"input_ids": ids[:, :end], "attention_mask": torch.ones_like(ids[:, :end])}
            same += int(model(**call).logits[0, -1].argmax()) == int(ids[0, end])
    (one,) = fewhertz.tune(model, processor, FILES[:1], [spec], max_new_tokens=12).candidates
    assert one.agreement == pytest.approx(same / (ids.shape[1] - width))
    assert fewhertz.attached(model) is None


def test_sites_in_the_encoder_are_candidates(pocket: tuple[object, object]) -> None:
    """A layer, several, and a tolerance there: at the site's own count. vLLM serves those of fixed length."""
    behind, inside = "ward@keep=1/2+time+sizes", "ward(site=encoder.3)@keep=1/2+time+sizes"
    specs = (
        behind,
        inside,
        "ward(site=encoder.2+3)@keep=1/3+time+sizes",
        "ward(site=encoder.3)@tolerance=9+time+sizes",
    )
    found = fewhertz.tune(*pocket, FILES[:2], specs, agree=1e-9, max_new_tokens=12)
    by = {one.method: one for one in found.candidates}
    assert set(by) == set(specs) and by[inside].rate == by[behind].rate > by[specs[2]].rate > by[specs[3]].rate
    assert by[inside].kl != by[behind].kl and found.served is not None and found.served.method == specs[2]
    # a candidate's own forward says the same
    model, processor = pocket
    (alone,) = fewhertz.tune(model, processor, FILES[:2], [inside], max_new_tokens=12).candidates
    assert (alone.agreement, alone.kl) == (by[inside].agreement, by[inside].kl)


def test_a_run_broken_off_goes_on(pocket: tuple[object, object], tmp_path: Path) -> None:
    journal, lines = tmp_path / "j.jsonl", []

    def stop(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fewhertz.tune(*pocket, FILES, METHODS[2:], journal=journal, max_new_tokens=8, say=stop)
    assert len(journal.read_text().splitlines()) == 3  # what it is, and two clips
    whole = fewhertz.tune(*pocket, FILES, METHODS[2:], max_new_tokens=8)
    again = fewhertz.tune(*pocket, FILES, METHODS[2:], journal=journal, max_new_tokens=8)
    assert again == whole
    with pytest.raises(ValueError, match="broken-off run with another methods"):
        fewhertz.tune(*pocket, FILES, METHODS[:1], journal=journal, max_new_tokens=8)


def test_a_bad_file_is_said_and_the_rest_is_used(pocket: tuple[object, object], tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio")
    found = fewhertz.tune(*pocket, [bad, FILES[0]], METHODS[2:3], max_new_tokens=8)
    assert found.clips == 1 and len(found.errors) == 1 and "bad.wav" in found.errors[0]
    with pytest.raises(ValueError, match="no clip could be used"):
        fewhertz.tune(*pocket, [bad], METHODS[2:3])


def test_the_command(tmp_path: Path) -> None:
    out, plot = tmp_path / "t.json", tmp_path / "t.png"
    done = fewhertz_(
        "tune", "pocket", *FILES[:2], "-m", "ward+time+sizes", "-m", "pool", "--keep", "1", "1/2",
        "--agree", "0.5", "--max-new-tokens", "8", "--out", out, "--plot", plot, "--device", "cpu",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    figures = json.loads(out.read_text("utf-8"))
    assert {one["method"] for one in figures["candidates"]} == {
        "ward@keep=1+time+sizes", "ward@keep=1/2+time+sizes", "pool@keep=1", "pool@keep=1/2",
    }  # fmt: skip
    assert figures["chosen"]["method"] in done.stdout and "fewhertz serve pocket" in done.stdout
    assert (plot.stat().st_size > 10_000 and list(tmp_path.iterdir()) == [out, plot]) or len(
        list(tmp_path.iterdir())
    ) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--agree", "2"], "--agree is a share"),
        (["--keep", "1/2"], "--keep goes with --method"),
        (["-m", "pool"], "has no budget"),
        (["-m", "pool@tolerance=1"], "takes no tolerance"),
        (["--out", "x.txt"], ".json"),
        (["--plot", "x.gif"], ".png"),
    ],
)
def test_bad_usage(options: list[str], words: str, tmp_path: Path) -> None:
    done = (
        fewhertz_("tune", "pocket", FILES[0], "--out", tmp_path / "t.json", *options)
        if "--out" not in options
        else (fewhertz_("tune", "pocket", FILES[0], *options))
    )
    assert done.exit_code == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("family", sorted(PROCESSOR))
def test_every_family_is_scored(family: str) -> None:
    """Teacher forcing goes through each family's own forward: all tokens agree with themselves, to rounding."""
    model, processor = TINY[family].build(), processor_of(family)
    processor.chat_template = (
        "{% for m in messages %}{% for c in m['content'] %}"
        f"{{% if c['type'] == 'audio' %}}{SPECIAL[family]}{{% else %}}{{{{ c['text'] }}}}{{% endif %}}"
        "{% endfor %}{% endfor %}"
    )
    model.generation_config.eos_token_id = None
    model.generation_config.suppress_tokens = [family_of(model).placeholder(model.config)]
    wave = torch.randn(24_000, generator=torch.Generator().manual_seed(0)).numpy() * 0.1
    found = tuning._score(model, processor, wave, ["pool@keep=1", "pool@keep=1/4"], "w9 w8", 6)
    (whole, quarter), n = found["results"], found["n"]
    assert n == 6 and whole[0] == found["before"] and quarter[0] < found["before"]
    assert whole[1:] == [n, pytest.approx(0, abs=1e-6), None]
