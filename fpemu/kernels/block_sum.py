"""The sum of a block of products and an accumulator, as tensor cores do it: aligned, truncated, added, rounded once.

Every term has an exact value and a nominal exponent: of a product the sum of its factors' exponents, not that of its
own value, which may be up to two binades higher; of the accumulator its own.  A subnormal has the exponent of the
smallest normal.  The steps:

1. The top: the largest nominal exponent among terms that are not zero, and no less than ``zero_exponent``.
2. Align: every term to ``fraction_bits`` places below the top, what is beyond cut off toward zero.
3. Add: exactly; integers of at most 45 bits, so float64 adds them exactly too.  Infinities and NaNs pass through as IEEE 754 says.
4. Round, once, to the grid of the accumulator.

Values are float64, exponents powers of two (powers.py), so nothing here needs a count of leading zeros.  A product that
is scaled is truncated before it meets an addition: nothing contracts.
"""

import numpy as np

from fpemu.kernels.grid import nearest_even, truncated, within
from fpemu.kernels.instructions import whole
from fpemu.kernels.jit import kernel
from fpemu.kernels.powers import over, power, power_below, scaled

ABSENT = -2000  # the exponent of a zero factor: below all others, also where one is added


@kernel
def top_power(exponent, c, block):
    """Step 1: 2**top, of the products' largest nominal exponent and an accumulator."""
    own = power_below(c, block.grid.smallest_normal) if abs(c) < np.inf else 0.0
    own = 0.0 if c == 0.0 else own
    return max(max(power(max(exponent, block.zero_exponent)), own), power(block.zero_exponent))


@kernel
def unit_of(w, block):
    """What scales terms to the places that are kept: 2**(fraction_bits - top)."""
    return over(block.fraction_bits, w)


@kernel
def aligned(x, unit):
    """Step 2: the term as a number of units, toward zero."""
    return whole(x * unit)


@kernel
def aligned32(x, unit):
    """The same of a float32, as an int32: for lanes of 32 bits, where the result is known to fit."""
    return np.int32(np.float32(x * unit))


@kernel
def rounded(total, w, block):
    """Step 4: a number of units to the accumulator's grid; a zero is +0."""
    x = total * scaled(w, -block.fraction_bits)
    return within(nearest_even(x, block.grid) if block.nearest else truncated(x, block.grid), block.grid) + 0.0
