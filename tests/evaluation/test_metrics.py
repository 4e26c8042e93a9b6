"""Metrics against published and hand-computed values, and the bootstrap against what is known of it."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewhertz.errors import Unavailable
from fewhertz.evaluation import bootstrap, metrics, sentence_encoder
from fewhertz.evaluation.bootstrap import interval, paired
from fewhertz.evaluation.cider import cider_d
from fewhertz.evaluation.metrics import METRICS, Metric, matches
from recipes.research.packed import file_of, unpack

RESULTS = Path(__file__).resolve().parents[2] / "results"
ANNOTATIONS = Path(__file__).resolve().parents[2] / "../shared/data/annotations"


def scored(metric: Metric | str, references: list[list[str]], outputs: list[str], **more: object) -> float:
    metric = METRICS[metric] if isinstance(metric, str) else metric
    return metric.score(metric.measure(references, outputs, **more))


def test_wer_and_cer_are_those_of_jiwers_documentation() -> None:
    assert scored("wer", [["hello world"]], ["hello duck"]) == 50
    # one of six words of the whole set, not the mean of 0 and 1/4
    assert scored("wer", [["hello world"], ["i like monty python"]], ["hello world", "i like python"]) == 100 / 6
    assert scored("cer", [["i can spell"]], ["i cant spell"]) == 100 / 11


def test_wer_by_hand() -> None:
    stats = METRICS["wer"].measure([["a b c"], ["d e"], ["f"]], ["a x c y", "", "f f f"])
    assert stats.tolist() == [[2, 3], [2, 2], [2, 1]]  # of an empty output every word is an error
    assert METRICS["wer"].score(stats) == 100
    assert METRICS["wer"].measure([["a b c d", "a b"]], ["a b"]).tolist() == [[0, 2]]  # the nearer reference


@pytest.mark.parametrize(
    ("name", "said", "same"),
    [
        ("whisper-english", "Mr. Brown won't pay $20,000.", "mister brown will not pay $20000"),
        ("whisper-basic", "Él comió «paella», ¿no?", "él comió paella no"),
        ("whisper-basic-joined", "今日は、 いい天気。", "今日はいい天気"),
        ("plain", "As It Is,", "As It Is,"),
    ],
)
def test_normalisers(name: str, said: str, same: str) -> None:
    assert metrics.normaliser(name)(said).strip() == same
    for metric in ("wer", "cer"):
        assert scored(replace(METRICS[metric], normaliser=name), [[said]], [same]) == 0


def test_normalisers_are_whispers() -> None:
    english = metrics.normaliser("whisper-english")
    # from the tests of github.com/openai/whisper
    assert english("I cannae believe") == english("I cannae believe".upper())
    assert english("two point five") == "2.5" and english("twenty twenty one") == "2021"
    assert english("$2.5 million") == "$2500000" and english("mobilisation") == "mobilization"
    with pytest.raises(ValueError, match=r"no normaliser 'whisper': plain, whisper-english"):
        metrics.normaliser("whisper")


def test_bleu_and_chrf_are_those_of_sacrebleus_readme() -> None:
    references = [
        ["The dog bit the man.", "The dog had bit the man."],
        ["It was not unexpected.", "No one was surprised."],
        ["The man bit him first.", "The man had bitten the dog."],
    ]
    outputs = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    assert round(scored("bleu", references, outputs), 2) == 48.53
    assert round(scored("chrf", references, outputs), 2) == 59.73
    signature = METRICS["bleu"].signature(references)
    assert signature.startswith("bleu|nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:2.")
    assert "nrefs:var" in METRICS["bleu"].signature([["a"], ["a", "b"]])
    assert "tok:zh" in metrics.Bleu(tokenize="zh").signature()


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_summed_statistics_score_as_sacrebleu_does(name: str) -> None:
    import sacrebleu

    references = [["a b c d e f"], ["the cat sat on the mat", "a cat on a mat"], ["no match at all here"]]
    outputs = ["a b c d x f", "the cat is on the mat", ""]
    streams = [["a b c d e f", "the cat sat on the mat", "no match at all here"], [None, "a cat on a mat", None]]
    own = {"bleu": sacrebleu.BLEU(), "chrf": sacrebleu.CHRF()}[name].corpus_score(outputs, streams).score
    assert scored(name, references, outputs) == pytest.approx(own, abs=1e-12)


def test_cider_is_that_of_the_reference_implementation() -> None:
    class Untokenised(metrics.Cider):
        def prepare(self, text: str) -> str:
            return text

    # SummEval's test of the same scorer without a tokenizer, evaluation/tests/test_cider.py
    outputs = [
        "28-year-old chef found dead in San Francisco mall",
        "A 28-year-old chef who recently moved to San Francisco was found dead in the staircase of a local shopping "
        "center.",
        "The victim's brother said he cannot imagine anyone who would want to harm him,\"Finally, it went uphill again "
        'at him."',
    ]
    references = [
        ["28-Year-Old Chef Found Dead at San Francisco Mall"],
        [
            "A 28-year-old chef who had recently moved to San Francisco was found dead in the stairwell of a local "
            "mall this week."
        ],
        [
            "But the victim's brother says he can't think of anyone who would want to hurt him, saying, \"Things were "
            'finally going well for him."'
        ],
    ]
    assert scored(Untokenised(), references, outputs) == pytest.approx(2.5759014911864084, abs=1e-12)


def test_cider_is_that_of_pycocoevalcap() -> None:
    """Values that pycocoevalcap 1.2 gave, an independent implementation by the metric's authors' colleagues."""
    references = [
        ["a dog barks twice", "barking of a dog", "a dog barks"],
        ["rain falls on a roof and a dog barks"],
        ["wind blows", "the wind is blowing hard in the trees", "strong wind"],
        ["a cow moos"],
    ]
    outputs = ["a dog barks and barks", "rain falls on a roof", "wind blows in the trees in the trees", "a"]
    wanted = [1.7625734990281385, 5.8211406111794055, 1.2421776125063122, 0.3433435478063257]
    assert cider_d(references, outputs) == pytest.approx(wanted, abs=1e-12)


def test_cider_of_real_captions_is_that_of_pycocoevalcap() -> None:
    file = ANNOTATIONS / "audiocaps_v1_val.csv"
    if not file.exists():
        pytest.skip("no ../shared/data")
    clips: dict[str, list[str]] = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            clips.setdefault(row["youtube_id"], []).append(row["caption"])
    several = [texts for texts in clips.values() if len(texts) == 5]
    said = [texts[0] for texts in several]
    for i, text in enumerate(said):  # one in three is too long, others are empty or a word
        said[i] = (
            f"{text} and then {text}" if i % 3 == 0 else "" if i % 7 == 0 else text.split()[0] if i % 5 == 0 else text
        )
    stats = METRICS["cider"].measure([texts[1:] for texts in several], said)
    wanted = [5.8034918733779094e-08, 0.838011417681966, 0.609690913746075, 0.036432906417084125, 0.5319798514584955]
    wanted += [0.002250999305864113, 0.1525397511763866, 0.0]
    assert len(stats) == 495 and stats[:8, 0] == pytest.approx(wanted, abs=1e-12)
    assert METRICS["cider"].score(stats) == pytest.approx(0.5400402049928309, abs=1e-12)


def test_cider_is_to_the_digit_what_published_results_have() -> None:
    """Those were measured by pycocoevalcap."""
    runs = [*unpack(file_of(RESULTS, "pocket"))["describe-test"].values()][::12]
    assert len(runs) >= 3
    for run in runs:
        lines = run.samples()
        stats = METRICS["cider"].measure([line["references"] for line in lines], [line["output"] for line in lines])
        assert [round(float(value), 6) for value in stats[:, 0]] == [line["scores"]["cider"] for line in lines]
        published = run.record["scores"]["cider"]
        groups = [line["group"] for line in lines]
        assert round(METRICS["cider"].score(stats), 6) == published["score"]
        assert [round(end, 6) for end in interval(METRICS["cider"], stats, groups)] == published["interval"]


def test_cider_by_hand() -> None:
    cider = METRICS["cider"]
    stats = cider.measure([["a dog barks"], ["rain falls"]], ["A dog barks.", "wind"])
    # every n-gram that is said stands in one of two references: cosine 1 for n = 1, 2, 3, none for n = 4, times 10
    assert stats[:, 0].tolist() == pytest.approx([7.5, 0])
    # one bigram longer: exp(−1/72); two of three unigrams' tf-idf are clipped to the reference
    longer = cider.measure([["dog barks"], ["rain falls"]], ["dog barks barks", ""])
    unigrams, bigrams = 2 / math.sqrt(5) / math.sqrt(2), 1 / math.sqrt(2)
    assert unigrams > 0 and longer[1, 0] == 0
    log2 = math.log(2)
    idf = {"dog": log2, "barks": log2, "dog barks": log2, "barks barks": log2}
    one = (idf["dog"] ** 2 + idf["barks"] ** 2) / (log2 * math.sqrt(1 + 4) * log2 * math.sqrt(2))
    two = bigrams
    assert longer[0, 0] == pytest.approx(10 * (one + two) / 4 * math.exp(-1 / 72))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A man doesn't sing, he's shouting!", "a man does n't sing he 's shouting"),
        ("Two 3.5-ton trucks; the dogs' barks — loud…", "two 3.5 ton trucks the dogs barks loud"),
        ("high-pitched whirring_noise", "high-pitched whirring noise"),
        ("ÉTÉ d’hiver", "été d hiver"),
        ("...", ""),
    ],
)
def test_caption_words(text: str, tokens: str) -> None:
    assert METRICS["cider"].prepare(text) == tokens


@pytest.mark.parametrize(
    ("answer", "output", "choices", "right"),
    [
        ("Man", "man", ["Man", "Woman"], True),
        ("Man", "It is a man.", ["Man", "Woman"], True),
        ("Man", "a man or a woman", ["Man", "Woman"], False),
        ("A woman", "woman", ["A child", "A woman"], False),  # "a" is part of the answer
        ("A woman", "(B) a woman", ["A child", "A woman"], True),
        ("Two dogs", "two", ["Two dogs", "Two cats"], False),
        ("Man", "", ["Man", "Woman"], False),
        ("yes", "Yes, it is", [], True),
    ],
)
def test_accuracy_is_mmaus_string_match(answer: str, output: str, choices: list[str], right: bool) -> None:
    assert matches(answer, output, choices) is right
    assert scored("accuracy", [[answer]], [output], choices=[choices]) == 100 * right


def test_each_mmau_answer_is_right_and_each_other_choice_wrong() -> None:
    file = ANNOTATIONS / "mmau-test-mini.json"
    if not file.exists():
        pytest.skip("no ../shared/data")
    rows = json.loads(file.read_text("utf-8"))
    answers = [[row["answer"]] for row in rows]
    choices = [row["choices"] for row in rows]
    assert scored("accuracy", answers, [row["answer"] for row in rows], choices=choices) == 100
    # some choices are the same words in another order: those MMAU's rule cannot tell apart
    wrong = [(row, c) for row in rows for c in row["choices"] if metrics._tokens(c) != metrics._tokens(row["answer"])]
    assert len(wrong) > 2 * len(rows)
    assert not any(matches(row["answer"], choice, row["choices"]) for row, choice in wrong)


def test_sentence_embeddings_are_the_published_ones() -> None:
    try:
        metrics.METRICS["meaning"].signature()
    except Unavailable as error:
        pytest.skip(str(error))
    # the quick start of sbert.net, all-MiniLM-L6-v2
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors = sentence_encoder.embed(texts, batch_size=2)
    cosines = vectors @ vectors.T
    assert cosines == pytest.approx(
        np.array([[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]), abs=1e-4
    )
    meaning = scored("meaning", [[texts[0]], [texts[1], texts[0]], [texts[0]]], [texts[1], texts[0], "  "])
    assert meaning == pytest.approx((0.6660 + 1 + 0) / 3, abs=1e-4)
    nearest = METRICS["accuracy-nearest"]
    options = [["A dog", "A car"], ["A dog", "A car"], ["A dog", "A car"]]
    stats = nearest.measure([["A dog"]] * 3, ["a puppy is barking", "an automobile engine", ""], options)
    assert stats[:, 0].tolist() == [1, 0, 0]


WORDS = [
    "a",
    "dog",
    "barks",
    "rain",
    "falls",
    "wind",
    "blows",
    "in",
    "the",
    "trees",
    "small",
    "and",
    "some",
    "puppy",
    "car",
    "##s",
    "##ing",
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder of the same class as all-MiniLM-L6-v2, small and random."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    words = BertWordPieceTokenizer(vocab={word: i for i, word in enumerate([*special.values(), *WORDS])})
    PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(
        vocab_size=len(special) + len(WORDS), max_position_embeddings=300, initializer_range=0.5, **sizes
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def small_encoder(bert: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the place of the published one, whose weights tests don't need."""
    monkeypatch.setattr(sentence_encoder, "_encoder_folder", lambda: bert)
    sentence_encoder._embed_again.cache_clear()
    yield bert
    sentence_encoder._embed_again.cache_clear()


def test_sentence_embeddings_are_means_of_unit_length(small_encoder: Path) -> None:
    from transformers import BertModel

    texts = ["a dog barks", "rain", "the wind blows in the trees and rain falls", "Rain", "dog " * 400, ""]
    vectors = sentence_encoder.embed(texts, batch_size=4)
    assert vectors.shape == (6, 16) and np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(6), abs=1e-6)
    model = BertModel.from_pretrained(small_encoder).eval()
    place = {word: 4 + i for i, word in enumerate(WORDS)}
    for text, vector in zip(texts, vectors, strict=True):  # one by one, without padding, by hand
        ids = [2, *(place[word] for word in text.lower().split()[:254]), 3]  # 256 word pieces, two of them marks
        with torch.inference_mode():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0].double().numpy()
        mean = sum(states) / len(ids)
        assert vector == pytest.approx(mean / math.sqrt(sum(mean**2)), abs=1e-5)
    assert np.abs(vectors[1] - vectors[3]).max() < 1e-6 and np.abs(vectors[0] - vectors[1]).max() > 0.05


def test_meaning_and_nearest_are_cosines_of_embeddings(small_encoder: Path) -> None:
    texts = ["a dog barks", "rain falls", "wind blows in the trees"]
    one, two, three = sentence_encoder.embed(texts).astype(float)
    stats = METRICS["meaning"].measure([[texts[0]], [texts[1], texts[2]], [texts[0]]], [texts[1], texts[2], "  "])
    assert stats[:, 0].tolist() == pytest.approx([one @ two, 1, 0], abs=1e-6)
    nearest = METRICS["accuracy-nearest"]
    options = [texts[:2]] * 3
    right = texts[int(three @ two > three @ one)]
    stats = nearest.measure([[right], [texts[0]], [texts[0]]], [texts[2], texts[0], ""], options)
    assert stats[:, 0].tolist() == [1, 1, 0]
    with pytest.raises(ValueError, match="row 0: nearest option of a question without choices"):
        nearest.measure([["yes"]], ["yes"])


def test_an_encoder_that_cannot_be_had_says_how_to_get_it(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = r"hf download sentence-transformers/all-MiniLM-L6-v2 --revision [0-9a-f]{40}\), or .* FEWHERTZ_MINILM$"
    for folder, why in [
        (bert, r"model\.safetensors is not the published one"),
        (tmp_path, r"has no model\.safetensors"),
    ]:
        monkeypatch.setenv("FEWHERTZ_MINILM", str(folder))
        with pytest.raises(Unavailable, match=rf"cannot be had \({folder}.*{why}\): .*{how}"):
            METRICS["meaning"].signature()
    code = "from fewhertz.evaluation.metrics import METRICS\nMETRICS['accuracy-nearest'].signature()"
    own = {name: value for name, value in os.environ.items() if name != "FEWHERTZ_MINILM"}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=own | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 1 and re.search(
        rf"Unavailable: .*neither from the Hub nor from its cache: .*{how}", last
    )


@pytest.mark.parametrize("name", ["wer", "cer", "bleu", "chrf", "cider", "accuracy", "meaning"])
@pytest.mark.usefixtures("small_encoder")
def test_every_metric_takes_empty_outputs_and_refuses_empty_references(name: str) -> None:
    metric = METRICS[name]
    stats = metric.measure([["a small dog"], ["wind and some rain"]], ["", "wind and some rain"])
    assert stats.shape == (2, metric.columns) and np.isfinite(stats).all()
    worst, best = metric.score(stats[:1]), metric.score(stats[1:])
    assert (worst < best) is metric.higher_is_better
    assert metric.measure([], []).shape == (0, metric.columns)
    with pytest.raises(ValueError, match="row 1: its reference is empty"):
        metric.measure([["a"], [" "]], ["a", "b"])
    with pytest.raises(ValueError, match="row 0: it has no reference"):
        metric.measure([[]], ["a"])
    with pytest.raises(ValueError, match="2 references, 1 outputs"):
        metric.measure([["a"], ["b"]], ["a"])
    with pytest.raises(ValueError, match="nothing to score"):
        metric.score(stats[:0])


def test_a_reference_that_normalising_empties_is_refused() -> None:
    metric = replace(METRICS["wer"], normaliser="whisper-english")
    with pytest.raises(ValueError, match=r"row 0: its reference 'Hmm\.' is empty after whisper-english normalisation"):
        metric.measure([["Hmm."]], ["hmm"])
    assert "whisper-english (whisper-normalizer 0." in metric.signature()


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(ImportError, match=r"jiwer is not installed: pip install 'fewhertz\[eval\]'"):
        METRICS["wer"].measure([["a"]], ["a"])


@pytest.mark.parametrize(
    ("module", "ask"),
    [
        ("jiwer", lambda: METRICS["wer"].signature()),
        ("whisper_normalizer", lambda: replace(METRICS["cer"], normaliser="whisper-basic").signature()),
        ("sacrebleu", lambda: METRICS["bleu"].signature()),
    ],
)
def test_a_package_without_module_or_metadata_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, module: str, ask: Callable[[], str]
) -> None:
    def gone(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(metrics, "version", gone)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"^{module} is not installed: pip install 'fewhertz\[eval\]'$"):
        ask()


def test_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    rng = np.random.default_rng(1)
    stats = rng.normal(0.3, 2.0, size=(900, 1))
    low, high = interval(METRICS["meaning"], stats, draws=8000)
    half = 1.96 * stats.std() / math.sqrt(900)
    assert [low, high] == pytest.approx([stats.mean() - half, stats.mean() + half], abs=0.05 * half)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        words = rng.integers(3, 9, size=150)
        low, high = interval(METRICS["wer"], np.stack([rng.binomial(words, 0.2), words], 1).astype(float), draws=300)
        hits += low <= 20 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_groups_are_drawn_whole() -> None:
    metric = METRICS["accuracy"]
    stats = np.repeat([[1.0], [0.0]] * 10, 50, axis=0)  # 20 speakers of 50 clips each, all right or all wrong
    speakers = np.repeat(np.arange(20), 50).tolist()
    apart, together = interval(metric, stats), interval(metric, stats, speakers)
    assert together[1] - together[0] > 5 * (apart[1] - apart[0])
    one = interval(metric, stats[::50], draws=500)
    assert interval(metric, stats, speakers, draws=500) == pytest.approx(one)  # a speaker counts once
    assert np.isnan(interval(metric, stats, ["same"] * len(stats))).all()
    with pytest.raises(ValueError, match="1000 samples and 1 groups"):
        interval(metric, stats, ["a"])


def test_pairs_take_out_what_is_hard_for_both() -> None:
    rng = np.random.default_rng(3)
    hard = rng.binomial(20, rng.uniform(0, 0.9, size=300))
    words = np.full(300, 20)
    a = np.stack([np.minimum(hard + (rng.random(300) < 0.3), 20), words], 1).astype(float)
    b = np.stack([hard, words], 1).astype(float)
    metric = METRICS["wer"]
    difference, low, high = paired(metric, a, b)
    assert difference == metric.score(a) - metric.score(b) and 0 < low < difference < high
    one, two = interval(metric, a), interval(metric, b)
    assert one[0] < two[1]  # the intervals alone overlap
    back = paired(metric, b, a)
    assert back == pytest.approx((-difference, -high, -low))
    assert paired(metric, a, a) == (0, 0, 0)
    with pytest.raises(ValueError, match="same samples, got 300 and 299"):
        paired(metric, a, b[1:])


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), min_size=2, max_size=40),
    names=st.lists(st.sampled_from("abcde"), min_size=40, max_size=40),
    seed=st.integers(0, 2**31),
)
def test_interval_properties(rows: list[tuple[int, int]], names: list[str], seed: int) -> None:
    metric = METRICS["wer"]
    stats = np.array(rows, float)
    groups = names[: len(rows)]
    low, high = interval(metric, stats, groups, draws=200, seed=seed)
    assert interval(metric, stats, groups, draws=200, seed=seed) == pytest.approx((low, high), nan_ok=True)
    if len(set(groups)) < 2:
        assert math.isnan(low) and math.isnan(high)
        return
    sums = {g: stats[[name == g for name in groups]].sum(0) for g in groups}
    rates = [100 * errors / words for errors, words in sums.values()]
    assert min(rates) - 1e-9 <= low <= high <= max(rates) + 1e-9


def test_chunks_of_draws_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = np.random.default_rng(4).normal(size=(50, 1))
    whole = interval(METRICS["meaning"], stats, draws=333)
    monkeypatch.setattr(bootstrap, "_CELLS", 500)
    assert interval(METRICS["meaning"], stats, draws=333) == whole
