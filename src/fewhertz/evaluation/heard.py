"""Metrics of what is heard and is not words: sounds that are named, and voices that are told apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from fewhertz.evaluation.metrics import METRICS, Metric, References, matches

_WORD = re.compile(r"[^\W_]+")


def _words(text: str) -> str:
    return " " + " ".join(_WORD.findall(text.lower())) + " "


def named(output: str, classes: Sequence[str]) -> list[str]:
    """The classes that a text names: one of the forms of the name, parted by commas, stands in it word for word.

    A class whose every mention is within that of a longer one ("Speech" in "Male speech") is not named for that.

    Args:
        output: what the model said.
        classes: names such as `"Male speech, man speaking"`.
    """
    said = _words(output)
    forms = sorted(
        ((_words(form), one) for one in classes for form in one.split(",") if form.strip()),
        key=lambda pair: -len(pair[0]),
    )
    found = []
    for form, one in forms:
        if form in said:
            found.append(one)
            said = said.replace(form, " | ")  # what is taken stands for nothing else
    return [one for one in classes if one in found]


@dataclass(frozen=True)
class Tags(Metric):
    """F1 in % of the classes that outputs name, over all samples: right ones in twice, over all labels and all named.

    Statistics: named and right, named, labels.

    Args:
        classes: all classes; empty: those that are labels of any sample.
    """

    classes: tuple[str, ...] = field(default=(), repr=False)

    name = "tags-f1"
    label = "F1 of sounds named"
    unit = "%"
    decimals = 1
    columns = 3

    def _measure(self, references: References, outputs: list[str], choices: References) -> Any:
        known = self.classes or tuple(dict.fromkeys(one for several in references for one in several))
        rows = []
        for labels, output in zip(references, outputs, strict=True):
            said = named(output, known)
            rows.append([len({*said} & {*labels}), len(said), len(labels)])
        return rows

    def from_sums(
        self, sums: Float[np.ndarray, "draws k"], n: Float[np.ndarray, " draws"]
    ) -> Float[np.ndarray, " draws"]:
        return 200 * sums[:, 0] / np.maximum(sums[:, 1] + sums[:, 2], 1)

    def signature(self, references: References | None = None) -> str:
        return f"tags-f1|micro|match:words|classes:{len(self.classes) or 'of the labels'}"


class EqualErrors(Metric):
    """Equal error rate in % of answers by yes and no.

    An answer is a decision and no score, so one point of the curve is measured: false alarms a, misses b. On the hull
    of that point and the two of answering always the same, both rates are equal at max(a, b) / (1 + |a − b|), 50 % for
    who cannot tell. An answer that is neither yes nor no is an error. Where all pairs are of one kind, its rate stands
    for both. Statistics: false alarms, pairs of two voices, misses, pairs of one.
    """

    name = "eer"
    label = "equal error rate"
    higher_is_better = False
    unit = "%"
    decimals = 1
    columns = 4

    def _measure(self, references: References, outputs: list[str], choices: References) -> Any:
        rows = []
        for texts, output in zip(references, outputs, strict=True):
            wrong, same = not matches(texts[0], output, ["yes", "no"]), texts[0] == "yes"
            rows.append([wrong and not same, not same, wrong and same, same])
        return rows

    def from_sums(
        self, sums: Float[np.ndarray, "draws k"], n: Float[np.ndarray, " draws"]
    ) -> Float[np.ndarray, " draws"]:
        alarms, misses = (sums[:, i] / np.where(sums[:, i + 1] > 0, sums[:, i + 1], np.nan) for i in (0, 2))
        alarms, misses = np.where(np.isnan(alarms), misses, alarms), np.where(np.isnan(misses), alarms, misses)
        return np.minimum(50.0, 100 * np.maximum(alarms, misses) / (1 + np.abs(alarms - misses)))

    def signature(self, references: References | None = None) -> str:
        return "eer|of decisions|match:mmau"


METRICS.update({metric.name: metric for metric in (Tags(), EqualErrors())})
