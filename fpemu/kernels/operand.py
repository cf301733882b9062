"""A code opened for a matrix product: its value as a float32, and the nominal exponent by which products are aligned.

A subnormal has the exponent of the smallest normal value; zeros and specials have one below all others.
"""

import numpy as np

from fpemu.kernels.block_sum import ABSENT
from fpemu.kernels.decode import decode
from fpemu.kernels.jit import kernel

SPECIAL = ABSENT - 1  # the exponent of NaN and infinity


@kernel
def opened(code, mask, emin, spec):
    """``(value, exponent)`` of the bits of a code under a mask."""
    bits = decode(np.uint32(np.uint32(code) & mask), spec, 31)
    magnitude = np.uint32(bits & np.uint32(0x7FFFFFFF))
    exponent = max(np.int32(np.int32(magnitude >> np.uint32(23)) - np.int32(127)), np.int32(emin))
    exponent = np.int32(ABSENT) if magnitude == np.uint32(0) else exponent
    exponent = np.int32(SPECIAL) if magnitude >= np.uint32(0x7F800000) else exponent
    return np.uint32(bits).view(np.float32), exponent
