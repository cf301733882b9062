"""Accumulators that are float32 without its last bits (bfloat16), in lanes of float32, and where that would be wrong.

A sum rounded to float32 first and to the shorter format then is wrong only where the first rounding ends at a midpoint of the second, and was
not exact.  The functions below find such places, a few among many; whoever calls decides them anew (chain.py).
"""

import numpy as np

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
