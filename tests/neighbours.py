"""The right codes for whole arrays: a sorted table of neighbours, as a judge fast enough for every midpoint.

A rational rounding takes microseconds; this takes a search in the ladder of exact values and one comparison with the
midpoint.  What becomes of zeros, NaNs, infinities and overflows is asked of ``reference`` once for each sign;
test_reference.py holds the rest against it on samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from edges import ladder

from fpemu import Cast, FloatFormat, NaN, Rounding, reference
from fpemu.policies import Subnormals

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Placed:
    """Inputs and, for each, the rung at or below its magnitude and how it compares with the midpoint above."""

    x: Array
    rung: Array
    exact: Array
    side: Array  # -1 below the midpoint, 0 on it, 1 above


def place(x: Array, format: FloatFormat) -> Placed:
    low, values = ladder(format)
    magnitude = np.abs(x.astype(np.float64))
    magnitude = np.where(np.isfinite(magnitude), magnitude, 0)  # the others are no rationals: expected() sees to them
    index = np.searchsorted(values, magnitude, side="right") - 1
    inner, outer = values[np.maximum(index, 0)], values[np.minimum(index + 1, values.size - 1)]
    side = np.sign(magnitude - (inner + (outer - inner) / 2))  # exact where near zero (Sterbenz)
    return Placed(x, index + low, magnitude == inner, side)


def expected(placed: Placed, cast: Cast) -> Array:
    """The codes of the inputs; for casts without subnormal policy and intermediate, not stochastic."""
    assert cast.subnormals is Subnormals.KEEP
    assert cast.via is None
    format, x = cast.format, placed.x
    negative, odd = np.signbit(x), placed.rung % 2 == 1
    tie = placed.side == 0
    if format.precision == 1 and format.ties == "significand":
        tie_out = placed.rung > (0 if format.subnormals else -1)
    else:
        tie_out = odd
    outward = {
        Rounding.NEAREST_EVEN: (placed.side > 0) | (tie & tie_out),
        Rounding.NEAREST_AWAY: placed.side >= 0,
        Rounding.TOWARD_ZERO: np.zeros(x.shape, bool),
        Rounding.UP: ~negative,
        Rounding.DOWN: negative,
        Rounding.TO_ODD: ~odd,
    }[cast.rounding]
    number = placed.rung + (outward & ~placed.exact)
    last = reference.last_rung(format)
    sign = 1 << (format.bits - 1) if format.signed else 0
    codes = np.where(negative, number | sign, number)

    below = reference.rung(0, format) / 3
    beyond = reference.rung(last + 3, format)
    outcomes = [
        (np.isnan(x), lambda s: _nan(s, cast)),
        (np.isinf(x), lambda s: reference.encode(s * np.inf, cast)),
        ((number == 0) & format.subnormals | (x == 0), lambda s: reference.encode(s * 0.0, cast)),
        (number > last, lambda s: reference.encode(int(s) * beyond, cast)),
        ((placed.rung < 0) & (not format.subnormals), lambda s: reference.encode(int(s) * below, cast)),
        (negative & (not format.signed), lambda s: reference.encode(int(s) * beyond, cast)),
    ]
    conditions = [condition & side for condition, _ in outcomes for side in (~negative, negative)]
    choices = [outcome(s) for _, outcome in outcomes for s in (1.0, -1.0)]
    return np.select(conditions, choices, codes).astype(format.code_dtype)


def _nan(sign: float, cast: Cast) -> int:
    if not cast.format.has_nan and cast.nan not in (NaN.MAX, NaN.ZERO, NaN.LIMIT, NaN.NEGATED_ZERO):
        return 0  # raises: the inputs hold none
    return reference.encode(np.copysign(np.nan, sign), cast)
