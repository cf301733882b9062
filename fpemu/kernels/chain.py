"""One step of an accumulator in float64: a product is added, and the sum rounded to nearest even on the accumulator's grid.

Let the accumulator x have p bits and the product y, which is exact in float64, q.  Rounding x + y to 53 bits first, then to p, is harmless
(no sum that is not a midpoint of the grid becomes one) while p + q <= 51, but for one case: y itself a midpoint, and x so small
that the first rounding loses it.  Let the larger have the exponent e; float64 errs by at most 2**(e - 53).

- y <= x: a sum within that of a midpoint M that it is not differs from M by a multiple of the last places of y, where y >= |M - x| is at least half a
  spacing, 2**(e - p - 1): so by 2**(e - p - q - 1) or more, which is larger.
- y > x, y no midpoint: x must bridge the distance to one, at least the last place of y; the same with x and y exchanged.
- y > x, y a midpoint: the sign of x decides.  ``reaches`` is false for accumulators that are never so small; else x is taken for no less than
  2**-45 of y, which is far below the last place of y, and within the 53 bits.
"""

import math

import numpy as np

from fpemu.kernels.fused import fused_multiply_add
from fpemu.kernels.grid import nearest_even, within
from fpemu.kernels.jit import kernel

_SMALLEST_SHARE = 2.0**-45


@kernel
def accumulate(x, a, b, grid, reaches, bounded):
    """``x + a * b`` rounded to the grid, for a product that float64 holds.  ``bounded``: the sum cannot overflow."""
    if reaches:
        floor = abs(a * b) * _SMALLEST_SHARE
        x = math.copysign(floor, x) if 0.0 < abs(x) < floor < np.inf else x
    near = nearest_even(fused_multiply_add(a, b, x), grid)
    return near if bounded else within(near, grid)


@kernel
def accumulate_rounded(x, a, b, grid, bounded):
    """The same of a product that is rounded to the grid first; two values of a grid of p <= 25 bits add up harmlessly (2 p + 2 <= 53: Figueroa)."""
    product = nearest_even(a * b, grid)
    near = nearest_even(x + (product if bounded else within(product, grid)), grid)
    return near if bounded else within(near, grid)
