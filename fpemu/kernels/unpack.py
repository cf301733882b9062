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
        # The target goes on below: bring the leading bit of a subnormal to its place.  As an integer it is exact in
        # the lane's own float type, whose exponent field then counts from its bias at 2**0, where bit ``trailing`` of
        # a subnormal counts as 1.
        if plan.source_sign == 31:
            normal = U(np.float32(np.int32(magnitude)).view(np.uint32))
            offset = U(127 + 22)
        else:
            normal = U(np.float64(magnitude).view(np.uint64))
            offset = U(1023 + 51)
        if hidden == U(0):
            hidden_bit = left(one, trailing, last)
            significand = U(U(normal & U(hidden_bit - one)) | hidden_bit)
            exponent = U(right(normal, trailing, last) + U(spec.lift - offset))
        if magnitude == U(0):
            # Zero lies below every binade.
            significand = U(0)
            exponent = U(0)
    return negative, magnitude, exponent, significand
