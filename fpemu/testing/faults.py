"""What kind of fault a wrong result is, and which policy a conversion follows instead."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu import reference
from fpemu.formats import FORMATS, FloatFormat
from fpemu.policies import Cast, NaN, Overflow, Rounding, Subnormals
from fpemu.reference import HALF, Explanation, Real

GENERIC = ("wrong neighbour", "wrong value")
NOT_MONOTONE = "not monotone"
INTERMEDIATES = ("float32", "float16", "bfloat16", "tfloat32")


def kind_of(x: Real, got: Real, right: Explanation, cast: Cast, source: FloatFormat | None) -> str:
    """The kind of fault of one wrong result; ``source``: the format of x, None for float64."""
    format, gap = cast.format, right.gap
    if _is_nan(x):
        return "NaN dropped"
    if not _is_nan(got) and math.isfinite(got) and not _is_value(got, format):
        return "off-grid result"
    if isinstance(x, float) and math.isinf(x):
        return "wrong result of infinity"
    if not _is_nan(got) and got == right.value == 0:
        return "loses -0" if reference.is_negative(right.value) else "makes -0"
    largest = reference.rung(reference.last_rung(format), format)
    if abs(Fraction(x)) > largest or _is_nan(got) or math.isinf(got):
        return "wrong overflow threshold" if _near_threshold(x, right, format) else "wrong overflow result"
    if gap is not None and gap.position == HALF and abs(Fraction(got)) in (gap.inner, gap.outer):
        return "ties away" if abs(Fraction(got)) == gap.outer else "ties to zero"
    if _rounds_twice(x, got, cast, source):
        return "double rounding"
    if got == 0 and abs(Fraction(x)) < reference.power_of_two(reference.smallest_normal_exponent(format)):
        return "flushes subnormals"
    return GENERIC[0] if gap is not None and abs(Fraction(got)) in (gap.inner, gap.outer) else GENERIC[1]


def _is_nan(x: Real) -> bool:
    return isinstance(x, float) and math.isnan(x)


def _is_value(x: Real, format: FloatFormat) -> bool:
    lower, upper = reference.neighbours(x, format)
    return lower == x or upper == x


def _near_threshold(x: Real, right: Explanation, format: FloatFormat) -> bool:
    """Whether x lies within two spacings of the largest finite value, where thresholds are."""
    last = reference.last_rung(format)
    spacing = reference.rung(last + 1, format) - reference.rung(last, format)
    return abs(abs(Fraction(x)) - reference.rung(last, format)) <= 2 * spacing


def _rounds_twice(x: Real, got: Real, cast: Cast, source: FloatFormat | None) -> bool:
    """Whether rounding to a narrower format first explains the result."""
    for between in intermediates(cast, source):
        first = reference.value(reference.encode(x, between), between)
        if not _is_nan(first) and reference.value(reference.encode(first, cast), cast.format) == got:
            return True
    return False


def count(kinds: Sequence[str], monotone: bool) -> dict[str, int]:
    """Kinds with their numbers, the commonest first; a lack of order is told where nothing better is known."""
    counted = dict(Counter(kinds).most_common())
    if not monotone and next(iter(counted)) in GENERIC:
        return {NOT_MONOTONE: sum(counted.get(kind, 0) for kind in GENERIC), **counted}
    return counted


def is_monotone(x: NDArray[Any], values: NDArray[np.float64]) -> bool:
    """Whether larger inputs never give smaller results, NaNs aside."""
    kept = ~(np.isnan(x) | np.isnan(values))
    order = np.argsort(x[kept], kind="stable")
    sorted_x, sorted_values = x[kept][order], values[kept][order]
    drops = sorted_values[1:] < sorted_values[:-1]
    return not bool((drops & (sorted_x[1:] > sorted_x[:-1])).any())


def intermediates(cast: Cast, source: FloatFormat | None) -> list[FloatFormat]:
    """Formats that a conversion might round to first: wider than the target, and not as wide as the source."""
    named = [FORMATS[name] for name in INTERMEDIATES]
    return [f for f in named if f.precision > cast.format.precision and (source is None or not f.holds(source))]


def policies_like(cast: Cast, source: FloatFormat | None) -> Iterator[Cast]:
    """Other policies for the same format, those that differ in fewest things first; then those that round twice."""
    nans = (
        cast.nan,
        *(nan for nan in (NaN.CANONICAL, NaN.MAX, NaN.ZERO, NaN.LIMIT, NaN.NEGATED_ZERO) if nan is not cast.nan),
    )
    roundings = [rounding for rounding in Rounding if rounding is not Rounding.STOCHASTIC]
    found = [
        cast.replace(rounding=rounding, overflow=overflow, subnormals=subnormals, nan=nan)
        for rounding, overflow, subnormals, nan in product(roundings, Overflow, Subnormals, nans)
        if cast.format.has_nan or nan is cast.nan
    ]
    fields = ("rounding", "overflow", "subnormals", "nan")
    differs: Callable[[Cast], int] = lambda other: sum(getattr(other, f) != getattr(cast, f) for f in fields)  # noqa: E731
    yield from (other for other in sorted(found, key=differs) if differs(other))
    for between in intermediates(cast, source):
        yield from (cast.replace(via=Cast(between), overflow=overflow) for overflow in Overflow)
