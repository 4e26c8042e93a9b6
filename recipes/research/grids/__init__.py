"""What is measured, as data: methods, budgets and corrections of each page."""

from __future__ import annotations

from fewhertz.evaluation.runner import specs

AS_PUBLISHED, TIME, SIZES, BOTH = CORRECTIONS = ("", "+time", "+sizes", "+time+sizes")


def at(method: str, keep: str) -> str:
    """A method's spec at a budget: `ward+time+sizes` at 1/3 is `ward@keep=1/3+time+sizes`."""
    (spec,) = specs([method], [keep])[1:]
    return spec
