"""Powers of two as float64 values, whose bits are an exponent field and nothing else: exact, and cheap in any lane.

2**e is a number of float64 for e from -1022 to 1023; whoever calls stays in between.
"""

import numpy as np

from fpemu.kernels.jit import kernel

_TRAILING, _BIAS = 52, 1023
_FIELD = 0x7FF << _TRAILING


@kernel
def power(exponent):
    """2**exponent."""
    return np.int64(np.int64(np.int64(exponent) + np.int64(_BIAS)) << np.int64(_TRAILING)).view(np.float64)


@kernel
def power_below(x, floor):
    """The power of two in the binade of x, or ``floor`` (a power of two) where that is larger.  Infinite where x is no number."""
    field = np.int64(np.float64(x).view(np.int64) & np.int64(_FIELD)).view(np.float64)
    return max(field, floor)


@kernel
def scaled(w, exponent):
    """w * 2**exponent, for a power of two w."""
    return np.int64(np.float64(w).view(np.int64) + np.int64(np.int64(exponent) << np.int64(_TRAILING))).view(np.float64)


@kernel
def over(exponent, w):
    """2**exponent / w, for a power of two w."""
    top = np.int64(np.int64(exponent) + np.int64(2 * _BIAS)) << np.int64(_TRAILING)
    return np.int64(np.int64(top) - np.float64(w).view(np.int64)).view(np.float64)
