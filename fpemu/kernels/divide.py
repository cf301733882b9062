"""The quotient of two codes' numbers, its last bit sticky."""

import numpy as np

from fpemu.kernels.exact import Exact
from fpemu.kernels.instructions import float_quotient
from fpemu.kernels.jit import kernel
from fpemu.kernels.multiply import exponent_bias, kind_of
from fpemu.kernels.shift import left, right
from fpemu.kernels.spec import FINITE, INFINITE, NOT_A_NUMBER, STOCHASTIC, ZERO

MORE = 27  # bits of a second step


def _kind(a, b):
    if NOT_A_NUMBER in (a, b) or (a == b and a in (ZERO, INFINITE)):
        return NOT_A_NUMBER
    if a == INFINITE or b == ZERO:
        return INFINITE
    return ZERO if a == ZERO or b == INFINITE else FINITE


# The kind of a quotient, two bits for each pair of kinds (IEEE 754-2019, 7.2: 0/0 and inf/inf are NaN; 7.3: x/0 is infinite).
_KINDS = sum(_kind(a, b) << 2 * (4 * a + b) for a in range(4) for b in range(4))


@kernel
def divide(a, b, or_nan, plan):
    """a / b; where b is zero infinite (IEEE 754-2019, 7.3), or NaN with ``or_nan`` (P3109 v4.0, 4.10.5)."""
    U = type(a.significand)
    one, last = U(1), plan.source_sign
    down, up = U(last // 2), U(last // 2 + 1)
    # 32 more bits (16) than the divisor has: a quotient in (2**31, 2**33), at least one bit beyond the longest precision.
    divisor = U(max(right(b.significand, down, last), one))
    dividend = left(right(a.significand, down, last), up, last)
    quotient, rest = divided(dividend, divisor, last)
    bits = last // 2 + 1
    if plan.rounding == STOCHASTIC:
        # The random bits reach further.  (Stochastic rounding has the wide lane: rest < 2**31.)
        more, rest = divided(left(rest, U(MORE), last), divisor, last)
        quotient = U(left(quotient, U(MORE), last) | more)
        bits += MORE
    quotient = U(left(quotient, U(last - 2 - bits), last) | U(rest != U(0)))
    below = U(right(quotient, U(last - 2), last) ^ one)
    quotient = left(quotient, below, last)

    kind = kind_of(_KINDS, a, b, last)
    kind = U(NOT_A_NUMBER) if or_nan & (b.kind == U(ZERO)) else kind
    finite = kind == U(FINITE)
    exponent = U(U(U(a.exponent - b.exponent) + exponent_bias(a, last)) - below)
    return Exact(
        U(0) if kind == U(NOT_A_NUMBER) else U(a.negative ^ b.negative),
        exponent if finite else U(0),
        quotient if finite else U(0),
        kind,
    )


@kernel
def divided(dividend, divisor, last):
    """``(quotient, rest)`` of integers, of which the floats of the lane hold both; the quotient below 2**33 (2**17).

    The machine rounds the float quotient once, and rounding is monotone: at least the integer below the exact quotient,
    at most the one above.  In integers the rest of that says which it is.
    """
    U = type(dividend)
    if last == 31:
        near = U(np.int32(float_quotient(np.float32(np.int32(dividend)), np.float32(np.int32(divisor)))))
    else:
        near = U(np.int64(float_quotient(np.float64(np.int64(dividend)), np.float64(np.int64(divisor)))))
    rest = U(dividend - U(near * divisor))
    over = right(rest, U(last), last)  # the rest is negative
    return U(near - over), U(rest + (divisor if over != U(0) else U(0)))
