"""Step 1: the bits of a lane's value as sign, biased exponent and significand."""

import numpy as np

from fpemu.kernels.jit import kernel
from fpemu.kernels.shift import left, right


@kernel
def unpack(bits, spec, plan):
    """``(negative, magnitude, exponent, significand)``; value = significand * 2**(exponent - lift - bias - trailing).

    The exponent is at least 1: a subnormal has that of the smallest normal, and no hidden bit.
    """
    U = type(bits)
    one = U(1)
    trailing, last = U(plan.source_trailing), plan.source_sign
    negative = right(bits, U(last), last)
    magnitude = U(bits & U(left(one, U(last), last) - one))
    magnitude = U(0) if magnitude < spec.input_floor else magnitude

    exponent = right(magnitude, trailing, last)
    hidden = U(exponent > U(0))
    significand = U(
        U(magnitude & U(left(one, trailing, plan.source_sign) - one)) | left(hidden, trailing, plan.source_sign)
    )
    exponent = U(max(exponent, one) + spec.lift)

    if plan.wide:
        # The target goes on below: bring the leading bit of a subnormal to its place.  The integer is exact in
        # float64, whose exponent field then counts from 1023 at 2**0, where a lane's subnormal bit 52 counts as 1.
        normal = np.float64(magnitude).view(np.uint64)
        subnormal = hidden == U(0) and magnitude > U(0)
        if subnormal:
            significand = U(U(normal & np.uint64(0x000FFFFFFFFFFFFF)) | np.uint64(0x0010000000000000))
            exponent = U(U(normal >> np.uint64(52)) + U(spec.lift - U(1074)))
        # Zero lies below every binade.
        exponent = U(0) if magnitude == U(0) else exponent
    return negative, magnitude, exponent, significand
