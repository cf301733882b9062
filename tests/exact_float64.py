"""Results of operations as float64 numbers that round as the exact results do, to any format of up to 24 bits.

Why they do, for operands of p <= 24 significant bits whose exponents leave float64 room (no over- or underflow):

- a product has 2p <= 48 bits: it is the exact one;
- a sum is rounded to odd: its error, exact by Knuth's TwoSum, moves an inexact sum with an even last bit to the neighbour on
  the error's side.  53 >= p + 2 bits rounded to odd round on as the exact sum does, in every mode (Boldo and Melquiond
  2008, theorem 2).  A fused multiply-add is such a sum of an exact product;
- a quotient is an even-handed one: a/b, if it is no value of p + 1 bits (value or midpoint) m, has |a/b - m| >= 1/b in
  units of the last place of m, at least 2**-(2p + 1) >= 2**-49 relatively, which float64's error, 2**-53, does not bridge;
- a root likewise: |sqrt(a) - m| = |a - m**2| / (sqrt(a) + m) >= 2**-(2p + 3) relatively.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def to_odd_sum(a: Array, b: Array) -> Array:
    """a + b, rounded to odd where it is not exact."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)  # Knuth's TwoSum
    even = (total.view(np.uint64) & np.uint64(1)) == 0
    inexact = np.isfinite(total) & (error != 0)
    return np.where(inexact & even, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)


def exact(operation: str, downward: bool, *operands: Array) -> Array:
    """The result; exact zeros take the sign of rounding ``downward`` or not; NaNs are positive."""
    with np.errstate(all="ignore"):
        a, *rest = np.broadcast_arrays(*operands)
        if operation == "add":
            result = _signed_zero(to_odd_sum(a, rest[0]), a, rest[0], downward)
        elif operation == "subtract":
            result = _signed_zero(to_odd_sum(a, -rest[0]), a, -rest[0], downward)
        elif operation == "multiply":
            result = a * rest[0]
        elif operation == "divide":
            result = a / rest[0]
        elif operation == "fma":
            product = a * rest[0]
            result = _signed_zero(to_odd_sum(product, rest[1]), product, rest[1], downward)
        else:
            result = np.sqrt(a)
    return np.where(np.isnan(result), np.nan, result)


def _signed_zero(total: Array, a: Array, b: Array, downward: bool) -> Array:
    """IEEE 754-2019, 6.3."""
    opposite = np.signbit(a) != np.signbit(b)
    return np.where((total == 0) & opposite, -0.0 if downward else 0.0, total)
