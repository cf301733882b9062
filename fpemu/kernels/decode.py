"""A code back to the bits of a float32 or float64; always exact."""

import numpy as np

from fpemu.kernels.jit import kernel
from fpemu.kernels.shift import left


@kernel
def decode(code, spec, last):
    """The lane's bits of the value of ``code``; ``last`` is the position of the lane's sign bit."""
    U = type(spec.infinity)
    code = U(code)
    magnitude = U(code & spec.magnitude)
    sign = left(U(code & spec.sign), spec.sign_shift, last)

    # Normal: both fields move over together, then the exponent is rebiased.
    bits = U(left(magnitude, spec.trailing_shift, last) + spec.rebias)

    # Subnormal: an integer of at most 23 bits, exact in float32; its exponent is moved to that of the last place.
    integer = U(np.float32(np.int32(min(magnitude, spec.normal))).view(np.uint32))
    subnormal = U(left(integer, spec.integer_shift, last) + spec.integer_rebias)
    subnormal = U(0) if magnitude == U(0) else subnormal
    bits = subnormal if magnitude < spec.normal else bits

    # Above the largest finite value: one infinity at most, the rest are NaNs.
    if magnitude > spec.max_code:
        bits = spec.infinity if magnitude == spec.infinity_code else spec.nan
    bits = U(bits | sign)
    return spec.nan if code == spec.nan_code else bits
