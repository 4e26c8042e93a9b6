"""Specs: how parameters, budget, site and corrections of a method are read, checked and written."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewhertz.method import Method

LONGEST = 1000  # characters: what comes with a request is bounded before it is read
# a spec writes them behind its parameters
_NOT_IN_BRACKETS = ("keep", "rate", "tolerance", "min", "max", "positions", "fit", "sizes")
_CORRECTION = re.compile(r"(?P<name>[A-Za-z]+)\s*(?:\((?P<inner>[^()]*)\))?")
_FIT = re.compile(r"fit(?:\s*=\s*(?P<most>\d{1,9}))?")
_SITE = re.compile(r"(llm|encoder)(\.\d{1,3}(\+\d{1,3})*)?")
_SPEC = re.compile(r"(?P<name>[A-Za-z][\w-]*)(?:\((?P<params>[^()]*)\))?(?:@(?P<budget>[^@()]+))?")


def shown(text: str) -> str:
    """What an error quotes of a text that somebody gave."""
    return repr(text if len(text) <= 80 else text[:77] + "…")


def split_corrections(text: str) -> tuple[str, list[str]]:
    """A spec without the corrections behind it, and these."""
    parts = text.split("+")
    end = next((i for i in range(len(parts), 1, -1) if not _CORRECTION.fullmatch(parts[i - 1].strip())), 1)
    return "+".join(parts[:end]), parts[end:]


def parts_of(text: str, spec: str) -> tuple[str, str, str | None]:
    """The name, the parameters and the budget that a spec without corrections has."""
    match = _SPEC.fullmatch(text)
    if match is None:
        raise ValueError(
            f'cannot read {shown(spec)}: write name(parameter=value)@keep=1/3 or name@8Hz, e.g. "pool@keep=1/3"'
        )
    return match["name"], match["params"] or "", match["budget"]


def corrections(parts: list[str], spec: str) -> dict[str, Any]:
    """The arguments of `present` that corrections behind a spec stand for."""
    values: dict[str, Any] = {}
    for part in parts:
        match = _CORRECTION.fullmatch(part.strip())
        assert match is not None
        name, inner = match["name"], match["inner"]
        fit = None if inner is None else _FIT.fullmatch(inner.strip())
        if name not in ("time", "sizes") or (inner is not None and (name != "time" or fit is None)):
            raise ValueError(
                f"cannot read +{part.strip()[:40]} of {shown(spec)}: a spec ends with +time, +sizes, both or neither; "
                "+time may be +time(fit) or +time(fit=4096)"
            )
        if name == "sizes":
            values["sizes"] = True
            continue
        values["positions"] = "time"
        if fit is not None:
            values["fit"] = True if fit["most"] is None else int(fit["most"])
    return values


def parameters(cls: type[Method], text: str) -> dict[str, Any]:
    """The parameters of a method that its brackets give."""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in _NOT_IN_BRACKETS}
    values: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, raw = (part.strip() for part in item.partition("="))
        if not equals or key not in fields:
            raise ValueError(f"{cls.name} has no parameter {shown(key)}; it takes {', '.join(sorted(fields))}")
        unit = fields[key].metadata.get("unit", "")
        values[key] = _value(raw.removesuffix(unit), fields[key].default, f"{cls.name}'s {key}")
    return values


def _value(raw: str, default: Any, what: str) -> Any:
    if len(raw) > 60:  # a method shows the value that it refuses
        raise ValueError(f"{what} has at most 60 characters, got {len(raw)}: {shown(raw)}")
    # the default says the type: every parameter has one
    if isinstance(default, str):
        return raw
    if isinstance(default, bool):
        if raw.lower() not in ("true", "false"):
            raise ValueError(f"{what} is true or false, got {shown(raw)}")
        return raw.lower() == "true"
    kind = int if isinstance(default, int) else float
    try:
        value = kind(raw)
    except ValueError:
        raise ValueError(f"{what} is {'an integer' if kind is int else 'a number'}, got {shown(raw)}") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{what} is a finite number, got {shown(raw)}")
    return value


def budget_of(text: str | None, spec: str) -> dict[str, Any]:
    """The parameters that the text behind `@` stands for."""
    if text is None:
        return {}
    text = text.strip()
    if text.startswith("keep="):
        return {"keep": text.removeprefix("keep=").strip()}
    if text.startswith("tolerance="):
        values: dict[str, Any] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if name not in ("tolerance", "min", "max") or not equals or name in values:
                raise ValueError(f"cannot read the budget of {shown(spec)}: write @tolerance=0.45,min=2Hz,max=12Hz")
            if name != "tolerance" and not value.lower().endswith("hz"):
                raise ValueError(f"{name} is a rate such as {name}=2Hz, got {shown(value)}")
            values[name] = _value(value, 0.0, "tolerance") if name == "tolerance" else value[:-2].strip()
        return values
    if text.lower().endswith("hz"):
        return {"rate": text[:-2].strip()}
    raise ValueError(f"cannot read the budget of {shown(spec)}: write @keep=1/3, @8Hz or @tolerance=0.45")


def fraction(value: Any, what: str) -> Fraction:
    """A number, or the text of one, as a fraction."""
    try:
        if isinstance(value, str) and "/" not in value:
            value = float(value)  # Fraction("1e999999999") would fill the memory with digits
        # 1/3 as a float is meant as 1/3; no budget needs a finer denominator than this
        return Fraction(value).limit_denominator(1_000_000)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        raise ValueError(f"{what} must be a number or a fraction such as 1/3, got {shown(str(value))}") from None


def keep_of(value: Any) -> Fraction:
    """A `keep` as a fraction in (0, 1]."""
    keep = fraction(value, "keep")
    if not 0 < keep <= 1:
        raise ValueError(f"keep is the fraction of audio tokens kept, in (0, 1]; got {shown(str(value))}")
    return keep


def rate_of(value: Any) -> Fraction:
    """A `rate` in Hz as a fraction above 0."""
    rate = fraction(value, "rate")
    if rate <= 0:
        raise ValueError(f"rate is in audio tokens per second and above 0, got {shown(str(value))}")
    return rate


def layers_of(site: str, part: str = "encoder") -> list[int]:
    """The layers of a site `"encoder.k"` or `"encoder.k+l"`, or of the other `part`, `"llm"`; none: another site."""
    return [int(layer) for layer in site.removeprefix(f"{part}.").split("+")] if site.startswith(f"{part}.") else []


def check_site(site: str) -> None:
    """Refuse what `site` may not be."""
    if _SITE.fullmatch(site) is None:
        raise ValueError(f'site is "llm", "llm.k", "encoder" or "encoder.k" with a layer k, got {shown(site)}')
    if any(layers != sorted(set(layers)) for layers in (layers_of(site), layers_of(site, "llm"))):
        raise ValueError(f"layers of a site rise, as in encoder.12+16+20, got {shown(site)}")


def check_corrections(method: Method) -> None:
    """Refuse what `positions`, `fit` and `sizes` may not be."""
    if method.positions not in ("packed", "time"):
        raise ValueError(f'positions are "packed" or "time", got {method.positions!r}')
    if not isinstance(method.fit, bool | int) or (not isinstance(method.fit, bool) and method.fit < 2):
        raise ValueError(f"fit is true, false or a number of positions, 2 or more, got {method.fit!r:.40}")
    if method.fit and method.positions != "time":
        raise ValueError("fit goes with time positions: packed ones end as early as can be")
    if not isinstance(method.sizes, bool):
        raise ValueError(f"sizes is true or false, got {method.sizes!r}")


def rounded(value: Fraction) -> int:
    """The nearest whole number, halves up."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def decimal(value: Fraction) -> str:
    """A fraction as a decimal number where that is exact."""
    text = f"{float(value):g}"
    return text if Fraction(text) == value else str(value)


def written(parameter: dataclasses.Field[Any], value: Any) -> str:
    """A value as a spec has it."""
    return (str(value).lower() if isinstance(value, bool) else str(value)) + parameter.metadata.get("unit", "")


def spec_of(method: Method) -> str:
    """The spec of a method that is no chain."""
    parts = []
    for f in dataclasses.fields(method):
        value = getattr(method, f.name)
        if f.name in _NOT_IN_BRACKETS or value == f.default:
            continue
        parts.append(f"{f.name}={written(f, value)}")
    text = method.name + (f"({','.join(parts)})" if parts else "")
    if method.tolerance is not None:
        text += f"@tolerance={method.tolerance:g}"
        text += "".join(f",{name}={decimal(v)}Hz" for name in ("min", "max") if (v := getattr(method, name)))
    elif method.rate is not None:
        text += f"@{decimal(method.rate)}Hz"
    elif method.keep is not None:
        text += f"@keep={method.keep}"
    return text + suffixes(method)


def suffixes(method: Method) -> str:
    """Its corrections, as they stand behind its spec."""
    fit = "" if not method.fit else "(fit)" if method.fit is True else f"(fit={method.fit})"
    return f"+time{fit}" * (method.positions == "time") + "+sizes" * method.sizes
