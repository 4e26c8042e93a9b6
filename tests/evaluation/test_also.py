"""Metrics that are asked for: by hand, against published figures, and refused by name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fewhertz.errors import Unavailable
from fewhertz.evaluation.also import METRICS, Flesch, Similarity, also, syllables
from fewhertz.evaluation.bootstrap import interval
from fewhertz.tasks import named


def test_case_and_punctuation_count() -> None:
    (metric,) = also(["wer-formatted"])
    stats = metric.measure([["Mr. Brown won’t pay."], ["Yes, no?"]], ["mr. Brown won't pay", "Yes, no?"])
    assert stats.tolist() == [[2, 6], [0, 4]]  # Mr . Brown won't pay . – one of case, one mark missing
    assert metric.score(stats) == 20
    assert metric.measure([["Good day"]], ["Good, day"]).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("language", "word", "count"),
    [
        ("en", "cat", 1),
        ("en", "made", 1),
        ("en", "table", 2),
        ("en", "walked", 1),
        ("en", "wanted", 2),
        ("en", "reading", 2),
        ("en", "psst", 1),
        ("de", "Zeitung", 2),
        ("de", "Häuser", 2),
        ("de", "wie", 1),
        ("de", "verständlich", 3),
        ("de", "Aue", 2),
    ],
)
def test_syllables(language: str, word: str, count: int) -> None:
    assert syllables(word, language) == count


def test_reading_ease_by_the_formula() -> None:
    english = Flesch()
    # Flesch's least: one sentence of one word of one syllable has 206.835 − 1.015 − 84.6
    assert english.ease(np.array([[1.0, 1.0, 1.0]])) == pytest.approx([121.22])
    # "The cat sat on the mat.": six words of one syllable, the textbook example of 116
    stats = english.measure([["The cat sat on the mat."]], ["The cat sat on the mat."])
    assert stats.tolist() == [[6, 1, 6, 6, 1, 6]]
    assert english.ease(stats[:, :3]) == pytest.approx([116.145])
    assert english.score(stats) == 0
    german = Flesch(language="de")
    assert german.ease(np.array([[10.0, 2.0, 17.0]])) == pytest.approx([180 - 5 - 58.5 * 1.7])


def test_the_distance_is_of_the_whole_set() -> None:
    metric = Flesch()
    stats = metric.measure([["A dog ran. It hid."], ["A dog ran. It hid."]], ["A dog ran. It hid.", "A dog ran it hid"])
    assert metric.score(stats[:1]) == 0
    # 10 words in 3 sentences against 10 in 4, one syllable each
    assert metric.score(stats) == pytest.approx(1.015 * (10 / 3 - 10 / 4))
    assert metric.score(metric.measure([["A dog."]], [""])) == pytest.approx(206.835 - 1.015 * 2 - 84.6)
    low, high = interval(metric, stats, draws=200)
    assert 0 <= low <= high


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers model, small and random."""
    library = pytest.importorskip("sentence_transformers")
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("small")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    words = [*special.values(), "ein", "hund", "bellt", "regen", "fällt", "fallt"]
    tokenizer = BertWordPieceTokenizer(vocab={word: i for i, word in enumerate(words)})
    PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, **special).save_pretrained(folder / "bert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), initializer_range=0.5, **sizes)).save_pretrained(folder / "bert")
    try:
        from sentence_transformers.models import Pooling, Transformer
    except ImportError:
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    bert = Transformer(str(folder / "bert"))
    library.SentenceTransformer(modules=[bert, Pooling(16)], device="cpu").save(str(folder / "sentence"))
    return folder / "sentence"


@pytest.mark.filterwarnings("ignore")
def test_meaning_by_a_model_of_choice(small: Path) -> None:
    from sentence_transformers import SentenceTransformer

    (metric,) = also([f"similarity={small}"])
    texts = ["ein hund bellt", "regen fällt"]
    one, two = SentenceTransformer(str(small), device="cpu").encode(texts, normalize_embeddings=True)
    stats = metric.measure([[texts[0]], [texts[0], texts[1]], [texts[0]]], [texts[1], texts[1], " "])
    assert stats[:, 0].tolist() == pytest.approx([float(one @ two), 1, 0], abs=1e-5)
    assert metric.signature().startswith("similarity|cosine|sentence|sentence-transformers:")


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_cannot_be_had_and_a_library_that_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(Unavailable, match=r"the sentence model .* cannot be had: "):
        also([f"similarity={tmp_path}"])
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'fewhertz\[meaning\]'"):
        Similarity(model="another").signature()


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["beauty"], "no metric 'beauty' to ask for; known: wer-formatted, flesch, similarity"),
        (["wer"], "no metric 'wer'"),
        (["flesch=fr"], "flesch is defined for en and de, got 'fr'"),
        (["flesch="], "flesch takes =LANGUAGE"),
        (["wer-formatted=x"], "wer-formatted takes no argument"),
        (["flesch", "flesch=de"], "flesch is asked for twice"),
    ],
)
def test_what_is_refused(names: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        also(names)


def test_a_task_measures_them_beside_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"audio": "a.wav", "text": "Hello."}\n', "utf-8")
    task = named(str(tmp_path / "mine.jsonl"), also=("flesch=de", "wer-formatted"))
    assert [metric.name for metric in task.measured()] == ["wer", "flesch", "wer-formatted"]
    assert {"wer-formatted", "flesch", "similarity"} <= set(METRICS)
