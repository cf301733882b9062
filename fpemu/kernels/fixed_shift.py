"""Steps 2 and 3 for the casts that matter most: to nearest even, and stochastic with all 32 random bits.

The general way (encode.py, rounding.py) discards a number of bits that varies from value to value.  Here it is fixed
for normal results, which costs half the instructions; subnormal ones, whose binade is known too, are left to float
operations that are exact, or round as they should: to nearest even, in which a machine is unless it was told otherwise.
"""

import numpy as np

from fpemu.kernels.jit import kernel
from fpemu.kernels.rounding import carry_out
from fpemu.kernels.shift import left, right
from fpemu.kernels.spec import SHIFT_FIXED_OR_FLOAT, STOCHASTIC


@kernel
def round_fixed_shift(magnitude, word, spec, plan):
    """The magnitude code, unbounded above, of magnitude bits."""
    U = type(magnitude)
    one, last = U(1), plan.source_sign
    trailing = U(plan.source_trailing)

    # A normal result.  Lane and target have the same fields but for width and bias: rebias, then discard the excess of
    # the fraction.  What is added first carries into the bits that are kept exactly when the result goes up, and a
    # carry moves on to the next binade by itself.
    if plan.rounding == STOCHASTIC:
        added = right(U(word), U(U(32) - spec.shift), last)  # as in rounding.py
    else:
        half = left(one, U(spec.shift - one), last)
        added = U(U(half - one) + U(right(magnitude, spec.shift, last) & one))
    rebias = left(U(spec.emin - one), trailing, last)
    code = right(U(U(magnitude - rebias) + added), spec.shift, last)

    if plan.fixed_shift == SHIFT_FIXED_OR_FLOAT:
        smallest_normal = left(spec.emin, trailing, last)
        if plan.rounding == STOCHASTIC:
            subnormal = _subnormal_with_word(U(min(magnitude, smallest_normal)), word, spec, plan)
        else:
            subnormal = _subnormal_nearest(magnitude, spec, plan)
        code = subnormal if magnitude < smallest_normal else code
    return code


@kernel
def _subnormal_nearest(magnitude, spec, plan):
    """A subnormal result: the number of spacings in the value, to nearest even.

    The power of two whose last place is the target's finest spacing, added to the value, leaves that number in the last
    places of the sum, rounded by the machine, once.  No product feeds the addition, so nothing contracts.  A value that
    is subnormal in the lane is less than half a spacing: it becomes 0 whether the machine takes it as it is or for zero.
    """
    U = type(magnitude)
    unit = left(U(spec.emin + spec.shift), U(plan.source_trailing), plan.source_sign)
    if plan.source_sign == 31:
        total = U(np.float32(np.uint32(magnitude).view(np.float32) + np.uint32(unit).view(np.float32)).view(np.uint32))
    else:
        total = U(np.float64(np.uint64(magnitude).view(np.float64) + np.uint64(unit).view(np.float64)).view(np.uint64))
    return U(total - unit)


@kernel
def _subnormal_with_word(magnitude, word, spec, plan):
    """The same, stochastic: up where floor(v 2^32) + R >= 2^32 for the fraction v of a spacing.

    (``encode_plan`` asks this of 32-bit lanes only.)  Scaled by a power of two, the value has its whole spacings before
    the point; they, the fraction, and the first 32 bits of that are exact, and would be if the first product and the
    difference were contracted.  A value that is subnormal in the lane has none of these bits, whether the machine takes
    it as it is or for zero.
    """
    U = type(magnitude)
    # 2^-finest: biased exponents of the finest spacing and of its inverse add up to twice the bias.
    scale = left(U(U(2 * 127 + 23) - U(spec.emin + spec.shift)), U(23), 31)
    value = np.float32(np.uint32(magnitude).view(np.float32) * np.uint32(scale).view(np.float32))
    whole = np.int32(value)
    fraction = np.float32(np.float32(value - np.float32(whole)) * np.float32(2.0**32))
    return U(U(whole) + carry_out(U(np.uint32(fraction)), U(word), 31))
