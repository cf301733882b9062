"""A float64 value to the values of a format, as a float64 value: for accumulators, which need no code between steps.

The grid has 2**trailing steps in each binade from 2**emin on, and below it those of the lowest.  Rounding comes first,
with unbounded exponent; what is then beyond the largest finite value becomes infinity (the largest power of two times a
value overflows by itself, and scaling back leaves the rest as it was).  A zero result is +0.
"""

from typing import NamedTuple

import numpy as np

from fpemu.formats import FloatFormat
from fpemu.kernels.jit import kernel
from fpemu.kernels.powers import over, power_below, scaled


class Grid(NamedTuple):
    """The values of a format, as the kernels below take them; frozen at compile time."""

    trailing: int
    smallest_normal: float
    up: float  # the power of two that makes infinity of what is beyond the largest finite value, and of nothing else
    down: float  # its inverse

    @classmethod
    def of(cls, format: FloatFormat) -> "Grid":
        """The grid of a format whose finite values fill their last binade (IEEE 754's do)."""
        up = 2.0 ** (1023 - format.emax)
        return cls(format.trailing_bits, 2.0**format.emin, up, 1.0 / up)


@kernel
def truncated(x, grid):
    """Toward zero; but what is beyond the largest finite value is infinity."""
    w = power_below(x, grid.smallest_normal)
    steps = np.trunc(x * over(grid.trailing, w))
    return _within(steps * scaled(w, -grid.trailing), grid)


@kernel
def nearest_even(x, grid):
    """To nearest, ties to even.

    The power of two whose last place is the grid's spacing, added and taken away, leaves x rounded by the machine (to
    nearest even), once; half as much again keeps a negative sum in the same binade.
    """
    unit = scaled(power_below(x, grid.smallest_normal), 52 - grid.trailing) * 1.5
    return _within((x + unit) - unit, grid)


@kernel
def _within(x, grid):
    return (x * grid.up) * grid.down + 0.0
