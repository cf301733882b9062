"""What a conversion might do instead of what its policy says, with the results that it would give then.

A hypothesis has three parts, each of which may be the policy's own: what happens before the rounding (an intermediate
format, lost bits), the rounding, and the subnormals.  Those that differ in one part come before those that differ in two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu import reference
from fpemu.arrays import encode
from fpemu.formats import FORMATS, FloatFormat
from fpemu.policies import Cast, NaN, Overflow, Rounding, Subnormals
from fpemu.testing.places import Places
from fpemu.testing.results import as_values

Array = NDArray[Any]
DOUBLE_ROUNDING = "double rounding"
INTERMEDIATES = ("float32", "float16", "bfloat16", "tfloat32", "float8_e5m2", "float8_e4m3fn")
NEAREST = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY)


def converted(x: Array, cast: Cast) -> Array:
    """The values, in float64, that float64 values become; of a NaN that the policy refuses, anything."""
    cast = cast.replace(nan=NaN.MAX) if cast.raises_on_nan else cast
    return as_values(encode(x, cast), cast.format)


# ---- the rounding -----------------------------------------------------------------------------------------------------
Rule = Callable[[Array, Cast], Array]


def _rounding(mode: Rounding, x: Array, cast: Cast) -> Array:
    return converted(x, cast.replace(rounding=mode))


def _away(x: Array, cast: Cast) -> Array:
    outward = converted(x, cast.replace(rounding=Rounding.UP))
    return np.where(np.signbit(x), converted(x, cast.replace(rounding=Rounding.DOWN)), outward)


def _ties(outward: Callable[[Array, Array], Array], x: Array, cast: Cast) -> Array:
    """The nearest, and at ties the outer neighbour where ``outward`` (of the signs, and of whether that is even) says so."""
    even = converted(x, cast.replace(rounding=Rounding.NEAREST_EVEN))
    away = converted(x, cast.replace(rounding=Rounding.NEAREST_AWAY))
    toward = converted(x, cast.replace(rounding=Rounding.TOWARD_ZERO))
    outer_is_even = (even == away) | np.isnan(even) & np.isnan(away)
    tied = np.where(outward(np.signbit(x), outer_is_even), away, toward)
    places = Places.of(x, cast.format)
    return np.where((places.position == 0.5) & (places.inner <= cast.format.max), tied, even)


_TIES: dict[str, Callable[[Array, Array], Array]] = {
    "ties to zero": lambda negative, even: np.zeros_like(negative),
    "ties up": lambda negative, even: ~negative,
    "ties down": lambda negative, even: negative,
    "ties to odd": lambda negative, even: ~even,
}
_MODES = {
    Rounding.TOWARD_ZERO: "truncates",
    Rounding.UP: "rounds up",
    Rounding.DOWN: "rounds down",
    Rounding.TO_ODD: "rounds to odd",
    Rounding.NEAREST_EVEN: "rounds to nearest",
    Rounding.NEAREST_AWAY: "rounds to nearest",
}
TRUNCATES = _MODES[Rounding.TOWARD_ZERO]


def _rules(cast: Cast) -> Iterator[tuple[str, Rule]]:
    """Other roundings, by name; ties first."""
    nearest = cast.rounding in NEAREST
    if nearest:
        other = {Rounding.NEAREST_EVEN: "ties to even", Rounding.NEAREST_AWAY: "ties away"}
        yield from ((name, partial(_rounding, mode)) for mode, name in other.items() if mode is not cast.rounding)
        yield from ((name, partial(_ties, outward)) for name, outward in _TIES.items())
    for mode, name in _MODES.items():
        if mode is not cast.rounding and not (nearest and mode in NEAREST):
            yield name, partial(_rounding, mode)
    yield "rounds away from zero", _away


# ---- the subnormals ---------------------------------------------------------------------------------------------------
_SUBNORMALS = {
    Subnormals.KEEP: ("keeps subnormals", ""),
    Subnormals.FLUSH_OUTPUT: ("flushes subnormal results", ""),
    Subnormals.FLUSH_INPUT: ("flushes subnormal inputs", ""),
    Subnormals.FLUSH_OUTPUT_BEFORE: ("flushes subnormal results", "before they are rounded"),
    Subnormals.ROUND_TO_MIN: ("rounds subnormal results to zero or the smallest normal value", ""),
}


# ---- what happens first -------------------------------------------------------------------------------------------------
Front = Callable[[Array, Cast], Array]


def _same(x: Array, cast: Cast) -> Array:
    return x


def _through(between: Cast, x: Array, cast: Cast) -> Array:
    return converted(x, between)


def _chops(bits: int, relative: bool, x: Array, cast: Cast) -> Array:
    return Places.of(x, cast.format).chopped(bits, relative=relative)


def intermediates(cast: Cast, source: FloatFormat | None) -> list[FloatFormat]:
    """Formats that a conversion might round to first: those that neither hold the source nor lie within the target."""
    named = [FORMATS[name] for name in INTERMEDIATES]
    return [f for f in named if not cast.format.holds(f) and (source is None or not f.holds(source))]


def _fronts(cast: Cast, source: FloatFormat | None) -> Iterator[tuple[str, str, Front]]:
    """What may come before the rounding: name, detail and what it makes of the inputs."""
    for format, overflow in product(intermediates(cast, source), (Overflow.IEEE, Overflow.SATURATE)):
        yield DOUBLE_ROUNDING, f"through {format.name}", partial(_through, Cast(format, overflow=overflow))
    widest = 53 if source is None else source.precision
    for bits, relative in product(range(1, widest + 1), (False, True)):
        yield "lost sticky bit", "", partial(_chops, bits, relative)


# ---- together ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Hypothesis:
    """A conversion that differs from the policy in some parts.

    Attributes
    ----------
    names: of the parts that differ, with details.
    rule, front: the rounding and what comes before it. cast: the policy, with the subnormals of the hypothesis.
    smallest_input: below it, inputs are flushed; 0 where none are.  (The cast itself flushes what is subnormal in float64.)
    """

    names: tuple[tuple[str, str], ...]
    cast: Cast
    rule: Rule
    front: Front = _same
    smallest_input: float = 0.0

    def results(self, x: Array, overflow: Overflow | None = None) -> Array:
        """The values that float64 values would become, under another policy for overflow where one is given."""
        cast = self.cast if overflow is None else self.cast.replace(overflow=overflow)
        if self.smallest_input:
            x = np.where(np.abs(x) < self.smallest_input, np.copysign(0.0, x), x)
        if cast.via is not None:
            x, cast = converted(x, cast.via), cast.replace(via=None)
        with np.errstate(all="ignore"):
            return self.rule(self.front(x, cast), cast)


@lru_cache(maxsize=64)
def hypotheses(cast: Cast, source: FloatFormat | None) -> tuple[Hypothesis, ...]:
    """Those that differ in one part, then those that differ in two.  ``source``: the format of the inputs, None for float64."""
    return tuple(_hypotheses(cast, source))


def _hypotheses(cast: Cast, source: FloatFormat | None) -> Iterator[Hypothesis]:
    own: Rule = partial(_rounding, cast.rounding)
    flush = _smallest_normal(source)
    rules = [((name, ""), rule) for name, rule in _rules(cast)]
    fronts = [((name, detail), front) for name, detail, front in _fronts(cast, source)]
    fates: list[tuple[tuple[str, str], Subnormals, float]] = []
    for fate, named in _SUBNORMALS.items():
        if fate is not cast.subnormals:
            by_input = fate is Subnormals.FLUSH_INPUT
            if fate is Subnormals.FLUSH_OUTPUT and _same_subnormals(cast.format, source):
                named = named[0], "or inputs, which are the same here"
            fates.append((named, fate, flush if by_input else 0.0))
    given = flush if cast.subnormals is Subnormals.FLUSH_INPUT else 0.0
    yield from (Hypothesis((name,), cast, rule, smallest_input=given) for name, rule in rules)
    for name, fate, smallest in fates:
        yield Hypothesis((name,), cast.replace(subnormals=fate), own, smallest_input=smallest)
    yield from (Hypothesis((name,), cast, own, front, given) for name, front in fronts)
    for (name, rule), (other, fate, smallest) in product(rules, fates):
        yield Hypothesis((name, other), cast.replace(subnormals=fate), rule, smallest_input=smallest)
    through = [front for front in fronts if front[0][0] == DOUBLE_ROUNDING]
    for (name, rule), (other, front) in product(rules, through):
        yield Hypothesis((name, other), cast, rule, front, given)
    for (name, front), (other, fate, smallest) in product(fronts, fates):
        yield Hypothesis((name, other), cast.replace(subnormals=fate), own, front, smallest)


def _smallest_normal(source: FloatFormat | None) -> float:
    return float(reference.power_of_two(-1022 if source is None else reference.smallest_normal_exponent(source)))


def _same_subnormals(target: FloatFormat, source: FloatFormat | None) -> bool:
    """Whether the subnormal inputs are just those whose results are."""
    emin = reference.smallest_normal_exponent
    return source is not None and emin(source) == emin(target) and source.precision <= target.precision


def policy(cast: Cast, source: FloatFormat | None) -> Hypothesis:
    """What the policy itself says, as a hypothesis."""
    by_input = cast.subnormals is Subnormals.FLUSH_INPUT
    return Hypothesis(
        (), cast, partial(_rounding, cast.rounding), smallest_input=_smallest_normal(source) if by_input else 0.0
    )
