"""Methods: rules that form fewer audio tokens out of n; `parse` finds one by its spec string."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, Literal, TypeAlias

from jaxtyping import Float, Int
from torch import Tensor, nn

from fewhertz import specs
from fewhertz.plan import Plan

METHODS: dict[str, type[Method]] = {}
RECOMMENDED = "ward+time+sizes"  # chosen on dev: docs/research/training-free.md
DEFAULT = "ward@tolerance=0.3+time+sizes"  # of compress, chosen on dev
NONE = "none"  # spec of the uncompressed model
IDENTITY = "pool@keep=1"  # the method that `none` is, where a method has to be attached
Positions: TypeAlias = Literal["packed", "time"]


@dataclass(frozen=True, eq=False)
class Clip:
    """What a method may know beside the tokens of `b` clips of equal length.

    Args:
        rate: audio tokens per second before compression, in Hz.
        scores: attention that each token received in the last encoder layer; present for methods whose `needs`
            names `"scores"`.
        mel: mean log-mel of what each token stands for (fewhertz.mel); present for methods whose `needs` names `"mel"`.
        learned: what the method's `build` made, with the weights that the model carries. `None`: untrained.
        sizes: how many each token stands for, where some were merged at an earlier layer. `None`: one each.
    """

    rate: float
    scores: Float[Tensor, "b n"] | None = None
    mel: Float[Tensor, "b n bins"] | None = None
    learned: nn.Module | None = None
    sizes: Int[Tensor, "b n"] | None = None

    def row(self, i: int) -> Clip:
        """Of one of the clips."""
        scores, mel, sizes = (None if x is None else x[i : i + 1] for x in (self.scores, self.mel, self.sizes))
        return dataclasses.replace(self, scores=scores, mel=mel, sizes=sizes)


def seconds(default: float) -> Any:
    """A method parameter in seconds: written with its unit in specs (`window=0.32s`)."""
    return field(default=default, metadata={"unit": "s"})


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods. A method is a frozen dataclass whose fields are its parameters.

    Subclasses name themselves (`class Pool(Method, name="pool")`) and write `assign`; learned ones override `forward`
    and say in `build` what is trained. The budget is `keep`, `rate` or `tolerance`, one of them.

    Args:
        keep: fraction of audio tokens KEPT, in (0, 1].
        rate: the same as audio tokens per second, in Hz; becomes a `keep` once the native rate is known (`at`).
        tolerance: merge as long as a merge costs at most this much, in the method's own price: of variable length. For
            methods that have a price (`priced`).
        min: least audio tokens per second under a tolerance, in Hz.
        max: most of them.
        site: where the method acts: `"llm"` (the LLM's input space, after the projector), `"encoder"` (before it),
            `"encoder.k"` (on the frames before layer k of the encoder, from 0: the layers from k on run on fewer;
            `"encoder.k+l"`: a part before each of these layers) or `"llm.k"` (on the hidden states of audio tokens
            before layer k of the LLM; `"llm.0"` is `"llm"`; `"llm.k+l"`: a part before each of these layers).
        positions: positions that the LLM gives tokens (fewhertz.corrections): `"packed"`, one after the other, or
            `"time"`, the mean position of what it stands for. For the attachment: `assign` has no use for it.
        fit: whether time positions within clips are drawn together where a prompt would end beyond the positions that
            the LLM was made for, or beyond so many. Likewise.
        sizes: whether attention counts how many tokens a token stands for (fewhertz.corrections). Likewise.

    Raises:
        ValueError: where there is no budget, or a parameter is out of range.
    """

    keep: Fraction | None = None
    rate: Fraction | None = None
    tolerance: float | None = None
    min: Fraction | None = None
    max: Fraction | None = None
    site: str = "llm"
    positions: Positions = "packed"
    fit: bool | int = False
    sizes: bool = False

    name: ClassVar[str]
    fixed_budget: ClassVar[bool] = True  # the count is a function of the length alone; False where a tolerance is set
    priced: ClassVar[bool] = False  # whether `assign_within` is there, so that a budget may be a tolerance
    together: ClassVar[bool] = False  # the budget is one of all clips of a prompt: `assign_together` is there
    needs: ClassVar[frozenset[str]] = frozenset()  # what `Clip` must carry: "scores", "mel"
    revision: ClassVar[int] = 1  # raised where the same spec decides otherwise than before: results don't compare

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is None:
            return
        known = METHODS.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"a method named {name!r} exists already ({known.__module__}.{known.__qualname__})")
        cls.name = name
        METHODS[name] = cls

    def __post_init__(self) -> None:
        given = [name for name in ("keep", "rate", "tolerance") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one budget, not both {given[0]} and {given[1]}")
        if not self.fixed_budget and given:
            raise ValueError(f"{self.name} takes no budget: it is of variable length")
        if self.fixed_budget and not given:
            raise ValueError(
                f"{self.name} has no budget: write {self.name}@keep=1/2 or {self.name}@8Hz, or give eval its --keep "
                f"({NONE}: all tokens)"
            )
        self._check_tolerance()
        if self.keep is not None:
            object.__setattr__(self, "keep", specs.keep_of(self.keep))
        if self.rate is not None:
            object.__setattr__(self, "rate", specs.rate_of(self.rate))
        specs.check_site(self.site)
        if self.llm_layers == [0]:
            object.__setattr__(self, "site", "llm")
        specs.check_corrections(self)

    def _check_tolerance(self) -> None:
        if self.tolerance is None:
            if self.min is not None or self.max is not None:
                raise ValueError("min and max go with a tolerance: any other budget says how many tokens stay")
            return
        if not self.priced:
            known = ", ".join(sorted(name for name, cls in METHODS.items() if cls.priced))
            raise ValueError(f"{self.name} takes no tolerance: its merges have no price; {known} have one")
        if not 0 <= self.tolerance < float("inf"):
            raise ValueError(f"tolerance is a price, 0 or more, got {self.tolerance}")
        object.__setattr__(self, "fixed_budget", False)
        for name in ("min", "max"):
            if getattr(self, name) is not None:
                value = specs.fraction(getattr(self, name), name)
                if value <= 0:
                    raise ValueError(f"{name} is in audio tokens per second and above 0, got {value}")
                object.__setattr__(self, name, value)
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min is at most max, got {specs.decimal(self.min)} Hz and {specs.decimal(self.max)} Hz")

    @property
    def layers(self) -> list[int]:
        """The encoder layers that it acts before; none: it acts behind the encoder."""
        return specs.layers_of(self.site)

    @property
    def llm_layers(self) -> list[int]:
        """The layers of the LLM that it acts before; none: it acts before the LLM."""
        return specs.layers_of(self.site, "llm")

    @property
    def encoded_to(self) -> str:
        """The site that audio is encoded to: its first layer inside the encoder, or the LLM's where nothing is merged
        there. The projector then runs on whole windows: only so is keep=1 exact to the bit.
        """
        return "llm" if self.keep == 1 or self.llm_layers else self.site.partition("+")[0]

    def present(
        self, positions: Positions | None = None, sizes: bool | None = None, fit: bool | int | None = None
    ) -> Method:
        """The same method, presented to the LLM in another way; `None` leaves that part as it is.

        Raises:
            ValueError: where either is none of its values.
        """
        other = copy.copy(self)
        if positions == "packed" and fit is None:
            fit = False
        for name, value in (("positions", positions), ("sizes", sizes), ("fit", fit)):
            if value is not None:
                object.__setattr__(other, name, value)
        specs.check_corrections(other)
        return other

    def at(self, native_rate: float | Fraction) -> Method:
        """The same method with its budget as a `keep`, for audio of `native_rate` tokens per second.

        Raises:
            ValueError: where the budget asks for more tokens per second than there are.
        """
        if self.rate is None:
            return self
        native = specs.fraction(native_rate, "native rate")
        if self.rate > native:
            raise ValueError(
                f"{self.spec} asks for {float(self.rate):g} Hz, the model has {float(native):g} Hz: nothing to compress"
            )
        return dataclasses.replace(self, keep=self.rate / native, rate=None)

    def num_tokens(self, n: int) -> int:
        """Output tokens for a clip of `n` tokens: n·keep rounded half up, at least 1. A function of the length alone.

        Where clips share a budget, for `n` tokens of all of them.

        Raises:
            TypeError: for a method of variable length.
            ValueError: for a budget in Hz before `at` has bound it to a model, and for n < 1.
        """
        if not self.fixed_budget and not self.together:
            raise TypeError(f"{self.name} is of variable length: its count is known only once the audio is encoded")
        if self.keep is None:
            raise ValueError(f"{self.spec} is a budget in Hz: bind it to a model's rate first, method.at(rate)")
        if n < 1:
            raise ValueError(f"a clip has at least one audio token, got {n}")
        return max(1, specs.rounded(n * self.keep))

    def counts_inside(self, n: int) -> list[int]:
        """Tokens of a clip of `n` behind each of the LLM's layers that it acts before, every time by a like factor:
        of n that are to be m, n·(m/n)^(1/l) stay behind the first of l layers.
        """
        m, found = self.num_tokens(n), [n]
        for left in range(len(self.llm_layers), 0, -1):
            found.append(round(found[-1] * (m / found[-1]) ** (1 / left)))
        return found[1:]

    def limits(self, n: int, rate: float) -> tuple[int, int]:
        """Least and most output tokens of a clip of `n` tokens under a tolerance.

        Args:
            n: tokens of the clip.
            rate: audio tokens per second before compression, in Hz.
        """
        native = specs.fraction(rate, "native rate")
        least = 1 if self.min is None else min(n, max(1, specs.rounded(n * self.min / native)))
        most = n if self.max is None else min(n, max(1, specs.rounded(n * self.max / native)))
        return least, max(least, most)

    def assign(self, x: Float[Tensor, "b n d"], m: int, clip: Clip) -> Plan:
        """Decide who joins whom: `b` dense clips of equal length to `m` tokens each.

        The only thing a method writes. Called with `b = 1` and `m = n` (to be ignored) where `fixed_budget` is false.
        """
        raise NotImplementedError(f"{type(self).__name__} has to write assign or forward")

    def assign_within(self, x: Float[Tensor, "b n d"], least: int, most: int, clip: Clip) -> list[Plan]:
        """Decide under a tolerance: `b` dense clips of equal length, each to as many tokens as its merges are worth.

        Written by methods with a price.

        Args:
            x: tokens.
            least: output tokens that a clip keeps whatever its merges cost.
            most: output tokens that a clip keeps at most.
            clip: what else is known.

        Returns:
            A plan of each clip.
        """
        raise NotImplementedError(f"{type(self).__name__} is priced and has to write assign_within")

    def assign_together(self, x: Float[Tensor, "1 n d"], lengths: list[int], m: int) -> list[Plan]:
        """Decide for clips that share a budget, each of which keeps at least one token.

        Written by methods that may be `together`.

        Args:
            x: tokens of all clips, one clip behind the other.
            lengths: tokens of each clip.
            m: output tokens of all of them.

        Returns:
            A plan of each clip.
        """
        raise NotImplementedError(f"{type(self).__name__} shares a budget and has to write assign_together")

    def prices(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n-1"]:
        """What each merge costs on the way from `n` tokens of a clip to one, in any order.

        Written by methods that may be `together`: so the tokens of clips that are not in memory at once are counted by
        one price.
        """
        raise NotImplementedError(f"{type(self).__name__} shares a budget and has to write prices")

    def plans_together(self, x: Float[Tensor, "1 n d"], lengths: list[int], m: int | None = None) -> list[Plan]:
        """`assign_together` with the count filled in: that of the whole length, and one a clip at least.

        Args:
            x: as `assign_together`.
            lengths: likewise.
            m: output tokens of all of them, as near as can be; `None`: the budget's share.
        """
        count = self.num_tokens(x.shape[1]) if m is None else min(m, x.shape[1])
        return self.assign_together(x.detach(), lengths, max(count, len(lengths)))

    def plans(self, x: Float[Tensor, "b n d"], clip: Clip) -> list[Plan]:
        """The plan of each of `b` clips of equal length, for methods of variable length too."""
        b, n, _ = x.shape
        if self.together:
            return [self.plans_together(x[i : i + 1], [n])[0] for i in range(b)]
        if self.tolerance is not None:
            if "mel" in self.needs and clip.mel is None:
                raise ValueError(f"{self.spec} needs the log-mel of the clip, and none was given")
            return self.assign_within(x.detach(), *self.limits(n, clip.rate), clip)
        if not self.fixed_budget:
            return [self.plan(x[i : i + 1], clip.row(i)) for i in range(b)]
        return self.plan(x, clip).rows()

    def plan(self, x: Float[Tensor, "b n d"], clip: Clip) -> Plan:
        """`assign` with the count filled in and what it needs checked."""
        b, n, _ = x.shape  # the decision itself is not differentiated: `assign` gets its tokens detached
        if "scores" in self.needs and clip.scores is None:
            raise ValueError(f"{self.name} needs the encoder's attention scores, and none were captured")
        if not self.fixed_budget:
            if b != 1:
                raise ValueError(f"{self.name} is of variable length: one clip at a time, got {b}")
            if self.tolerance is not None or self.together:
                return self.plans(x, clip)[0]
            return self.assign(x.detach(), n, clip)
        m = self.num_tokens(n)
        if m == n:
            return Plan.identity(b, n, x.device)
        return self.assign(x.detach(), m, clip)

    def build(self, width: int) -> nn.Module | None:
        """What training changes, in its first state, for tokens of `width`; `None`: nothing.

        A model makes it once and carries it (`Clip.learned`); parameters start at fixed values.
        """
        return None

    def forward(self, x: Float[Tensor, "b n d"], clip: Clip) -> tuple[Float[Tensor, "b m d"], Plan | None]:
        """Compress `b` clips of equal length: the output tokens, and the plan that formed them (learned: `None`)."""
        plan = self.plan(x, clip)
        return plan.apply(x), plan

    @property
    def spec(self) -> str:
        """The string that `parse` turns back into this method."""
        return specs.spec_of(self)

    @property
    def corrected(self) -> bool:
        """Whether the LLM is given corrections beside the tokens."""
        return self.positions == "time" or self.sizes

    def __str__(self) -> str:
        return self.spec


@dataclass(frozen=True, kw_only=True)
class Chain(Method):
    """Two methods, one after the other: keeps multiply, plans compose. Written `pool@keep=1/2 then ltbm@keep=1/2`."""

    first: Method
    second: Method

    name: ClassVar[str] = "chain"

    def __post_init__(self) -> None:
        if self.keep is not None or self.rate is not None or self.tolerance is not None:
            raise ValueError("a chain has no budget of its own: give one to each of its methods")
        if not self.first.fixed_budget or not self.second.fixed_budget:
            raise ValueError("a chain takes methods of fixed budget: one of variable length cannot be composed")
        for method in (self.first, self.second):
            if type(method).forward is not Method.forward:
                raise ValueError(f"a chain composes plans, and {method.name} is learned: use it alone")
        if specs.suffixes(self.first) or specs.suffixes(self.second):
            raise ValueError("the LLM sees what the whole chain makes: write +time and +sizes at its end alone")
        specs.check_corrections(self)
        if self.first.site != self.second.site:
            raise ValueError(f"a chain acts at one site, got {self.first.site} and {self.second.site}")
        object.__setattr__(self, "site", self.first.site)
        object.__setattr__(self, "needs", self.first.needs | self.second.needs)
        if self.first.keep is not None and self.second.keep is not None:
            object.__setattr__(self, "keep", self.first.keep * self.second.keep)

    def at(self, native_rate: float | Fraction) -> Chain:
        first = self.first.at(native_rate)
        assert first.keep is not None
        second = self.second.at(specs.fraction(native_rate, "native rate") * first.keep)
        return Chain(first=first, second=second, positions=self.positions, fit=self.fit, sizes=self.sizes)

    def num_tokens(self, n: int) -> int:
        return self.second.num_tokens(self.first.num_tokens(n))

    def plan(self, x: Float[Tensor, "b n d"], clip: Clip) -> Plan:
        one = self.first.plan(x, clip)
        scores = None if clip.scores is None else one.apply(clip.scores[..., None])[..., 0]
        two = self.second.plan(one.apply(x), Clip(clip.rate * one.m / one.n, scores))
        if one.is_identity() or two.is_identity():
            return two if one.is_identity() else one
        return one.then(two)

    @property
    def spec(self) -> str:
        return f"{self.first.spec} then {self.second.spec}{specs.suffixes(self)}"


def parse(spec: str | Method, keep: str | Fraction | None = None) -> Method:
    """Turn a spec such as `"ltbm(window=0.32s)@keep=1/3"`, `"pool@8Hz"` or `"A then B"` into a method.

    A spec ends with its corrections: `+time` (`positions="time"`; `+time(fit)` or `+time(fit=4096)` with `fit`) and
    `+sizes` (`sizes=True`). `"none"` is the uncompressed model, by a method that keeps everything.

    Args:
        spec: the spec, or a method, which is returned as it is.
        keep: the budget of a spec that has none; `None`: such a spec is an error.

    Raises:
        ValueError: where the spec is malformed, too long or without a budget, the method unknown or a parameter out of
            range; says what is known.
    """
    if isinstance(spec, Method):
        return spec
    if not isinstance(spec, str):
        raise ValueError(f'a method is a spec string such as "pool@keep=1/3", got {type(spec).__name__}')
    import fewhertz.methods  # noqa: F401  (fills METHODS; here, since the methods import this module)

    if len(spec) > specs.LONGEST:
        raise ValueError(f"a spec has at most {specs.LONGEST} characters, got {len(spec):,}: {specs.shown(spec)}")
    text = spec.strip()
    if text == NONE:
        text, keep = IDENTITY, None
    bare, behind = specs.split_corrections(text)
    if behind:
        return parse(bare, keep).present(**specs.corrections(behind, spec))

    steps = re.split(r"\sthen\s", text)
    if len(steps) > 2:
        raise ValueError(f"a chain composes two methods, {specs.shown(spec)} has {len(steps)}")
    if len(steps) == 2:
        return Chain(first=parse(steps[0]), second=parse(steps[1]))
    name, inner, budget = specs.parts_of(text, spec)
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1)
        guess = f"did you mean {near[0]}? " if near else ""
        known = ", ".join(sorted(METHODS))
        raise ValueError(f"no method named {specs.shown(name)}; {guess}known: {known} (your own: --import MODULE)")
    cls = METHODS[name]
    values = specs.parameters(cls, inner)
    values.update(specs.budget_of(budget, spec))
    if keep is not None and budget is None and cls.fixed_budget:
        values["keep"] = keep
    return cls(**values)
