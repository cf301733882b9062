"""The exact sum of two exact numbers; a fused multiply-add is this of a product."""

from fpemu.kernels.exact import normalised
from fpemu.kernels.jit import kernel
from fpemu.kernels.shift import left, right
from fpemu.kernels.spec import DOWN, FINITE, INFINITE, NOT_A_NUMBER


@kernel
def add(a, b, plan):
    """a + b, of which at most one may be a product (or another result); the other comes from a code.

    IEEE 754-2019, 6.3: an exact zero of opposite operands is +0, but -0 rounding downward; x + x keeps its sign.  7.2: the
    difference of infinities is NaN.
    """
    U = type(a.significand)
    one, last = U(1), plan.source_sign
    # (& and |, not ``and`` and ``or``: branches would keep a loop from being vectorised.)
    swap = (b.exponent > a.exponent) | ((b.exponent == a.exponent) & (b.significand > a.significand))
    large, high = (b.significand if swap else a.significand), (b.exponent if swap else a.exponent)
    small, low = (a.significand if swap else b.significand), (a.exponent if swap else b.exponent)

    # One bit to the left, so that what lies a binade below is aligned without loss: then cancellation is exact.  From two
    # binades on the leading bit of a difference moves by at most one, and the bits that leave become one sticky bit.
    # (A significand of a code has half the lane's bits, a product its last bit one above the lane's last: the larger
    # is even, and so large - (small | sticky) is odd, the right one of the two integers around the exact difference.)
    large, small = left(large, one, last), left(small, one, last)
    count = U(min(U(high - low), U(last)))
    aligned = right(small, count, last)
    aligned = U(aligned | U(left(aligned, count, last) != small))
    subtract = U(a.negative ^ b.negative)
    total = U(large - aligned) if subtract != U(0) else U(large + aligned)

    negative = b.negative if swap else a.negative
    if plan.rounding == DOWN:
        of_zero = U(a.negative | b.negative)
    else:
        of_zero = U(a.negative & b.negative)
    negative = of_zero if total == U(0) else negative

    infinite = U(INFINITE)
    kind = U(max(a.kind, b.kind))
    against = (a.kind == infinite) & (b.kind == infinite) & (subtract != U(0))
    kind = U(NOT_A_NUMBER) if against else kind
    negative = (a.negative if a.kind == infinite else b.negative) if kind == infinite else negative
    negative = U(0) if kind == U(NOT_A_NUMBER) else negative
    kind = U(FINITE) if kind < infinite else kind
    return normalised(negative, U(high + one), total, kind, last)
