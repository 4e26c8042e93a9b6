"""What each paper measures, and what it says it found.

Published figures are those of abstracts, with the place where they stand: cells of tables are to be filled in by who
has read them, and stay empty until then. What an abstract does not say of the set-up is our choice, and `ours` names
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fewhertz.evaluation.results import BASELINE
from fewhertz.method import parse


@dataclass(frozen=True)
class Asked:
    """A task of a paper: its name in `fewhertz.tasks`, a part of it, and metrics beside its own."""

    task: str
    subset: str | None = None
    also: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.task if self.subset is None else f"{self.task}/{self.subset}"


@dataclass(frozen=True)
class Published:
    """A figure of a paper: a score, or how much of it is lost against all tokens (`loss`: at most, in %)."""

    task: str
    spec: str
    metric: str
    value: float
    where: str
    loss: bool = False


@dataclass(frozen=True)
class Paper:
    """A paper's grid.

    Args:
        key: how the command names it.
        title: with its authors' first name.
        link: where it is.
        models: those that it names, as hub ids where there are any.
        asked: its tasks.
        methods: specs without a budget, or of variable length.
        keeps: fractions kept.
        said: what it says it found, in a sentence each, with where.
        ours: what of this grid is our choice, since the abstract does not say.
        published: figures that stand beside measured ones.
    """

    key: str
    title: str
    link: str
    models: tuple[str, ...]
    asked: tuple[Asked, ...]
    methods: tuple[str, ...]
    keeps: tuple[str, ...]
    said: tuple[str, ...]
    ours: str
    published: tuple[Published, ...] = field(default_factory=tuple)

    def specs(self, fits: Callable[[str], object], more: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
        """The runs that a model can do, all tokens first, and why it cannot do others.

        Args:
            fits: raises `ValueError` where a spec cannot act on the model.
            more: methods beside the paper's.
        """
        chosen, why = [BASELINE], []
        for text in (*self.methods, *more):
            for keep in self.keeps:
                try:
                    spec = parse(text, keep).spec
                    fits(spec)
                except ValueError as error:
                    why.append(f"{text}@keep={keep}: {error}")
                    continue
                chosen.append(spec)
        return list(dict.fromkeys(chosen)), why


_QUARTER = "arXiv 2511.14293, abstract"

PAPERS = {
    paper.key: paper
    for paper in (
        Paper(
            "A",
            "Bhati et al., Towards audio token compression in large audio language models",
            "https://arxiv.org/abs/2511.20973",
            (),
            (
                Asked("librispeech", "clean"),
                Asked("librispeech", "other"),
                Asked("commonvoice", "en", ("wer-formatted", "flesch")),
                Asked("covost2", "de_en"),
            ),
            ("pool", "stride", "unseg"),
            ("1/2", "1/3", "1/4", "1/5", "1/6"),
            ("After LoRA, close to all tokens with up to three times fewer before the LLM (abstract).",),
            "The abstract names tasks, recognition and translation, and no data set or model; these are ours. It "
            "measures after LoRA too: train with `fewhertz train`, and name each adapter by --adapter.",
        ),
        Paper(
            "B",
            "Luo et al., Locality matters for training-free audio token compression in audio-language models",
            "https://arxiv.org/abs/2605.25179",
            ("Qwen/Qwen2-Audio-7B-Instruct", "nvidia/audio-flamingo-3-hf"),
            (Asked("audiocaps"), Asked("clotho"), Asked("mmau")),
            ("ltbm(site=encoder)", "global-merge(site=encoder)", "pool(site=encoder)", "topk(site=encoder)"),
            ("1/2", "1/4", "1/8"),
            (
                "Captioning prefers local merging, more so the harder the compression; multiple choice prefers global "
                "matching (abstract).",
            ),
            "The abstract names models, data sets and merging in the encoder's space; keeps and the window are ours.",
        ),
        Paper(
            "C",
            "Segmentwise pruning in audio-language models",
            "https://arxiv.org/abs/2511.14293",
            (),
            (Asked("clotho"), Asked("mmau")),
            ("segmentwise", "topk", "visionzip", "random", "bottomk"),
            ("1/2", "1/4", "1/10"),
            ("A quarter of the tokens loses at most 2 % of CIDEr on Clotho v2, 4 % of accuracy on MMAU (abstract).",),
            "The abstract names the data sets and the quarter; other keeps and the model are ours.",
            (
                Published("clotho", "segmentwise@keep=1/4", "cider", 2, _QUARTER, loss=True),
                Published("mmau", "segmentwise@keep=1/4", "accuracy", 4, _QUARTER, loss=True),
            ),
        ),
        Paper(
            "samap",
            "SA-MAP: similarity-attention boosted token compression via merging-and-pruning for efficient speech LLMs",
            "https://www.preprints.org/manuscript/202606.0741/v1",
            ("Qwen/Qwen2-Audio-7B-Instruct",),
            (Asked("librispeech", "clean"), Asked("librispeech", "other"), Asked("mmau")),
            ("sa-map", "fastadasp", "a-tome", "visionzip", "divprune", "pool"),
            ("3/5", "1/2"),
            (
                "Half the tokens without loss in understanding, and 40 % fewer in recognition at a marginal loss, on "
                "Qwen2-Audio and Kimi-Audio (abstract).",
            ),
            "The abstract names the models and both keeps; data sets and peers are ours. Kimi-Audio is no family here.",
        ),
    )
}
