"""Fused multiply-add of the machine's own floats: exact product and sum, one rounding to nearest even (IEEE 754, 5.4.1)."""

from fractions import Fraction
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic, overload


def fused_multiply_add(a: Any, b: Any, c: Any) -> Any:
    """``a * b + c`` of three float32, or three float64, rounded once."""
    if not (np.isfinite(a) and np.isfinite(b)):
        return type(c)(type(c)(a * b) + c)
    if not np.isfinite(c):
        return c  # (also beside a product that would overflow)
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if exact == 0:
        # (Of zeros, and of numbers that cancel, the machine's own sum has the sign; a tiny product need only keep its own.)
        product = np.copysign(1.0 if a != 0 and b != 0 else 0.0, float(np.sign(a) or a) * float(np.sign(b) or b))
        return type(c)(product + c) if product == 0 else type(c)(0.0)
    if isinstance(c, np.float32):
        from fpemu import reference

        code = reference.encode(exact, "float32")
        return np.uint32(code).view(np.float32)
    return type(c)(_nearest_float64(exact))


def _nearest_float64(exact: Fraction) -> float:
    try:
        return float(exact)  # (Python's division of integers rounds to nearest even)
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")


@intrinsic
def _fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return c(a, b, c), generate


@overload(fused_multiply_add, inline="always")
def _fused_multiply_add(a, b, c):
    if isinstance(c, types.Float):
        return lambda a, b, c: _fma(a, b, c)
    return None
