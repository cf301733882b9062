"""Accumulators that are float32 without its last bits (bfloat16), in lanes of float32, and where that would be wrong.

A sum rounded to float32 first and to the shorter format then is wrong only where the first rounding ends at a midpoint of the second, and was
not exact.  ``short_step`` finds such places, a few among many; whoever calls takes ``sure_step`` there (chain.py).
"""

import numpy as np

from fpemu.kernels.chain import accumulate, accumulate_rounded
from fpemu.kernels.fused import fused_multiply_add
from fpemu.kernels.jit import kernel

_SMALL = 16 << 24  # bits of a float32, moved left by one: sixteen binades above its smallest normal value


@kernel
def shortened(x, drop):
    """A float32 rounded to nearest even without its last ``drop`` bits.

    A carry moves on to the exponent, and from the largest finite value to infinity, by itself; a quiet NaN stays one.
    """
    bits = np.float32(x).view(np.uint32)
    odd = np.uint32(np.uint32(bits >> np.uint32(drop)) & np.uint32(1))
    near = np.uint32(bits + np.uint32(np.uint32((1 << (drop - 1)) - 1) + odd))
    return np.uint32(near & np.uint32(0xFFFFFFFF ^ ((1 << drop) - 1))).view(np.float32)


@kernel
def is_sum_in_doubt(total, x, y, drop):
    """Whether a float32 sum of x and y is a midpoint, and not exact.

    The difference to the larger of the two is exact, so it is the other one if the sum is.  (Where y is a product that float32
    does not hold, it is in doubt for nothing; no harm.)
    """
    low = np.uint32(np.float32(total).view(np.uint32) & np.uint32(np.uint32(1 << drop) - np.uint32(1)))
    inexact = np.float32(total - x) != y or np.float32(total - y) != x
    return inexact and low == np.uint32(1 << (drop - 1))


@kernel
def is_product_in_doubt(y):
    """Whether a float32 product of two values of at most twelve bits may not be exact: so small that its last bits are lost."""
    twice = np.uint32(np.float32(y).view(np.uint32) << np.uint32(1))
    return np.uint32(twice - np.uint32(1)) < np.uint32(_SMALL)


@kernel
def short_step(x, a, b, drop, fused):
    """``(x + a * b without its last bits, whether that is in doubt)`` of float32 values.

    (Where the product is contracted with what compares it, it is exact there: a verdict that is no worse.)
    """
    y = np.float32(a * b)
    if fused:
        total = fused_multiply_add(a, b, x)
        return shortened(total, drop), is_sum_in_doubt(total, x, y, drop)
    return shortened(np.float32(x + shortened(y, drop)), drop), is_product_in_doubt(y)


@kernel
def sure_step(x, a, b, grid, fused):
    """The same of float64 values, without a doubt."""
    if fused:
        return accumulate(x, a, b, grid, True, False)
    return accumulate_rounded(x, a, b, grid, False)
