"""Steps 2 and 3 for the commonest cast of all: to nearest even, of a target whose lowest binade the lane has too.

The general way (encode.py, rounding.py) discards a number of bits that varies from value to value.  Here it is fixed,
which costs half the instructions.
"""

import numpy as np

from fpemu.kernels.jit import kernel
from fpemu.kernels.shift import left, right
from fpemu.kernels.spec import NEAREST_ADD


@kernel
def round_nearest(magnitude, spec, plan):
    """The magnitude code, unbounded above, of magnitude bits."""
    U = type(magnitude)
    one, last = U(1), plan.source_sign
    trailing = U(plan.source_trailing)

    # A normal result.  Lane and target have the same fields but for width and bias: rebias, then discard the excess of
    # the fraction.  Half less one, plus the last bit kept, carries exactly when above half, or at half and odd; a carry
    # moves on to the next binade by itself.
    rebias = left(U(spec.emin - one), trailing, last)
    half = left(one, U(spec.shift - one), last)
    odd = U(right(magnitude, spec.shift, last) & one)
    code = right(U(U(magnitude - rebias) + U(U(half - one) + odd)), spec.shift, last)
    if plan.nearest == NEAREST_ADD:
        # A subnormal result.  The power of two whose last place is the target's finest spacing, added to the value,
        # leaves its number of spacings in the last places of the sum, rounded by the machine: to nearest even, once.
        # (No product feeds the addition, so nothing contracts.  A value that is subnormal in the lane is less than half
        # a spacing: it becomes 0 whether the machine takes it as it is or for zero.)
        unit = left(U(spec.emin + spec.shift), trailing, last)
        if plan.source_sign == 31:
            total = U(
                np.float32(np.uint32(magnitude).view(np.float32) + np.uint32(unit).view(np.float32)).view(np.uint32)
            )
        else:
            total = U(
                np.float64(np.uint64(magnitude).view(np.float64) + np.uint64(unit).view(np.float64)).view(np.uint64)
            )
        code = U(total - unit) if magnitude < left(spec.emin, trailing, last) else code
    return code
