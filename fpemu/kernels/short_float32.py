"""Accumulators in lanes of float32, and where that would be wrong.

Of two values of at most eleven bits float32 holds the product, and rounding their sum to float32's 24 bits first is harmless (2 p + 2 <= 24:
Figueroa).  So ``short_rounded`` steps are right as long as no product is so small that float32 does not hold it.

A fused sum rounded to float32 first and to a shorter format then is wrong only where the first rounding ends at a midpoint of the second, and was
not exact.  ``short_step`` finds such places, a few among many; whoever calls takes ``sure_step`` there (chain.py).
"""

import numpy as np

from fpemu.kernels.chain import accumulate, accumulate_rounded
from fpemu.kernels.fused import fused_multiply_add
from fpemu.kernels.jit import kernel

_SIGN, _FIELD = 1 << 31, 0xFF << 23
_SMALL = 16 << 24  # bits of a float32, moved left by one: sixteen binades above its smallest normal value


@kernel
def shortened(x, drop):
    """A float32 rounded to nearest even without its last ``drop`` bits.

    A carry moves on to the exponent, and from the largest finite value to infinity, by itself; a quiet NaN stays one.
    """
    half = np.uint32(np.uint32(1) << np.uint32(drop - 1))
    low = np.uint32(np.uint32(half + half) - np.uint32(1))
    up = np.uint32(np.float32(x).view(np.uint32) + half)
    # (A midpoint went up, and has no bits left: it loses the last one that stays, too.)
    lost = np.uint32(low + np.uint32(half + half)) if np.uint32(up & low) == np.uint32(0) else low
    return np.uint32(up & np.uint32(~lost)).view(np.float32)


@kernel
def gridded(x, drop, smallest_normal):
    """A float32 rounded to nearest even on a grid that ends at a larger exponent than float32's, as ``grid.nearest_even`` does in float64."""
    bits = np.float32(x).view(np.uint32)
    field = np.uint32(bits & np.uint32(_FIELD)).view(np.float32)
    w = np.float32(max(field, np.float32(smallest_normal)))
    shift = np.uint32(np.uint32(np.uint32(drop) << np.uint32(23)) + np.uint32(1 << 22))
    unit = np.uint32(w.view(np.uint32) + shift).view(np.float32)
    near = np.float32(np.float32(x + unit) - unit)
    return np.uint32(near.view(np.uint32) | np.uint32(bits & np.uint32(_SIGN))).view(np.float32)


@kernel
def short_rounded(x, a, b, drop, smallest_normal, placed):
    """``x + a * b`` of float32 values, the product and the sum rounded to float32 without its last ``drop`` bits.

    ``placed``: subnormal from ``smallest_normal`` on, not from float32's; then no sum may overflow.
    """
    y = np.float32(a * b)
    if placed:
        return gridded(np.float32(x + gridded(y, drop, smallest_normal)), drop, smallest_normal)
    return shortened(np.float32(x + shortened(y, drop)), drop)


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
