"""The scale of an MX block, in integers: from the largest magnitude's bits to the code of a power of two, and to its inverse.

With amax = F x 2**k every rule of ``scaling/mx_rules.py`` is an addition that carries into the exponent from the rule's threshold
on, a shift, and a subtraction.  An E8M0 code c stands for 2**(c - 127), so it is biased as float32's exponents are.
"""

import numpy as np

from fpemu.kernels.jit import kernel

TRAILING = 23
LARGEST_FAST = 253  # the last code whose inverse is a normal float32


@kernel
def scale_code(largest, raised, lower):
    """The code, not below 0, of the block whose largest magnitude has these float32 bits; 0 for a block of zeros.

    A largest magnitude that is subnormal has exponent field 0, or 1 once raised: its code is 0 for every format whose largest
    value is 2 or more (``lower`` >= 1), as the clamp at 2**-127 makes it.
    """
    field = np.int32(np.uint32(largest + raised) >> np.uint32(TRAILING))
    return max(np.int32(field - lower), np.int32(0))


@kernel
def inverse_bits(code):
    """The float32 bits of 2**(127 - code), for codes up to LARGEST_FAST."""
    return np.uint32(np.uint32(np.int32(254) - code) << np.uint32(TRAILING))
