"""A float64 value to the values of a format, as a float64 value: for accumulators, which need no code between steps.

The grid has 2**trailing steps in each binade from 2**emin on, and below it those of the lowest.  Rounding comes first,
with unbounded exponent, and ``within`` then makes infinity of what is beyond the largest finite value.
"""

from typing import NamedTuple

import numpy as np

from fpemu.formats import FloatFormat
from fpemu.kernels.instructions import whole
from fpemu.kernels.jit import kernel
from fpemu.kernels.powers import over, power_below, scaled

_SIGN = 1 << 63


class Grid(NamedTuple):
    """The values of a format, as the kernels below take them."""

    trailing: int
    smallest_normal: float
    up: float  # the power of two that makes infinity of what is beyond the largest finite value, and of nothing else
    down: float  # its inverse

    @classmethod
    def of(cls, format: FloatFormat) -> "Grid":
        """The grid of a format whose finite values fill their last binade (those of IEEE 754's pattern do)."""
        up = 2.0 ** (1023 - format.emax)
        return cls(format.trailing_bits, 2.0**format.emin, up, 1.0 / up)


@kernel
def truncated(x, grid):
    """Toward zero, with unbounded exponent."""
    w = power_below(x, grid.smallest_normal)
    return whole(x * over(grid.trailing, w)) * scaled(w, -grid.trailing)


@kernel
def nearest_even(x, grid):
    """To nearest, ties to even, with unbounded exponent; the sign stays, of a zero too.

    The power of two whose last place is the grid's spacing, added and taken away, leaves x rounded by the machine (to
    nearest even), once; half as much again (the first bit after the exponent) keeps a negative sum in the same binade.
    """
    w = power_below(x, grid.smallest_normal)
    shift = np.int64(np.int64(np.int64(52 - grid.trailing) << np.int64(52)) + np.int64(1 << 51))
    unit = np.int64(np.float64(w).view(np.int64) + shift).view(np.float64)
    near = (x + unit) - unit
    sign = np.uint64(np.float64(x).view(np.uint64) & np.uint64(_SIGN))
    return np.uint64(np.float64(near).view(np.uint64) | sign).view(np.float64)


@kernel
def within(x, grid):
    """Infinity for what is beyond the largest finite value: scaled up, only that overflows, by itself."""
    return (x * grid.up) * grid.down
