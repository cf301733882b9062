"""A code to the exact number it means."""

import numpy as np

from fpemu.kernels.exact import Exact
from fpemu.kernels.jit import kernel
from fpemu.kernels.shift import left, right
from fpemu.kernels.spec import NOT_A_NUMBER


@kernel
def open_code(code, spec, last):
    """The exact number that ``code`` means, a NaN without its sign; ``last``: position of the lane's top bit."""
    U = type(spec.magnitude)
    code = U(code)
    magnitude = U(code & spec.magnitude)
    magnitude = U(0) if magnitude < spec.floor else magnitude
    negative = U(U(U(code & spec.sign) != U(0)) ^ spec.opposite)

    # The integer significand (of at most 31 bits), subnormal or not, is exact as a float, which has its leading bit in one place and counts
    # where it was in its exponent.
    field = right(magnitude, spec.trailing, last)
    hidden = spec.hidden if magnitude >= spec.hidden else spec.lowest_hidden
    integer = U(U(magnitude & U(spec.hidden - U(1))) | hidden)
    if last == 31:
        bits = U(np.float32(np.int32(integer)).view(np.uint32))
        up, trailing = U(6), U(23)
    else:
        bits = U(np.float64(np.int32(integer)).view(np.uint64))
        up, trailing = U(9), U(52)
    unit = left(U(1), trailing, last)
    significand = left(U(U(bits & U(unit - U(1))) | unit), up, last)
    exponent = U(U(right(bits, trailing, last) + U(max(field, spec.first_field))) + spec.rebias)

    zero = integer == U(0)
    # One for each bound passed: zero, finite, infinite, NaN (in a format without infinity two at once).
    kind = U(U(U(integer != U(0)) + U(magnitude > spec.max_code)) + U(magnitude > spec.last_number))
    kind = U(NOT_A_NUMBER) if code == spec.nan_code else kind
    negative = U(0) if kind == U(NOT_A_NUMBER) else negative
    return Exact(negative, U(0) if zero else exponent, U(0) if zero else significand, kind)
