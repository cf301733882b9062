"""An exact number: what a code means, and what an operation gives before it is rounded.

Its significand has the leading bit at ``last`` - 2, where ``last`` is the lane's top bit: bit 61 or 29, so that both a sum
has room and all that lies far below a format's spacing is below half of it.  Its last bit is *sticky*: it stands for
all that follows, and is set where anything does ("round to odd"), which decides every rounding as the exact number would
as long as the format's own last bit, and the random bits, lie above it (Boldo and Melquiond 2008, theorem 2).
"""

from typing import Any, NamedTuple

import numpy as np

from fpemu.kernels.jit import kernel
from fpemu.kernels.shift import left, right
from fpemu.kernels.spec import FINITE, ZERO


class Exact(NamedTuple):
    """All fields are unsigned integers of the lane."""

    negative: Any  # 0 or 1
    exponent: Any  # of the leading bit, plus the lane's bias; 0 for zero
    significand: Any  # 0 for zero; for what is no number it means nothing
    kind: Any  # ZERO, FINITE, INFINITE or NOT_A_NUMBER


@kernel
def top_bit(x, last):
    """The position of the leading bit of a positive integer; of 0, nonsense."""
    U = type(x)
    # Without the second of two adjacent ones below the leading bit, conversion to a float cannot round up to the next
    # power of two, so its exponent is that of the leading bit.
    sparse = U(x & U(~right(x, U(1), last)))
    if last == 31:
        return U(right(U(np.float32(np.uint32(sparse)).view(np.uint32)), U(23), last) - U(127))
    return U(right(U(np.float64(np.uint64(sparse)).view(np.uint64)), U(52), last) - U(1023))


@kernel
def normalised(negative, exponent, significand, kind, last):
    """The number whose bit ``last`` counts 2**exponent: its leading bit brought to its place.  A zero keeps its sign."""
    U = type(significand)
    zero = significand == U(0)
    up = U(0) if zero else U(U(last) - top_bit(significand, last))
    leading = left(significand, up, last)
    sticky = U(U(leading & U(3)) != U(0))
    kind = U(ZERO) if zero & (kind == U(FINITE)) else kind
    return Exact(negative, U(0) if zero else U(exponent - up), U(right(leading, U(2), last) | sticky), kind)
