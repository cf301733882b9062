"""Which of some numbers is the easiest to read: one order, for examples in reports and for what strategies shrink to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGNIFICAND = np.uint64((1 << 52) - 1)


def simplest_first(values: NDArray[Any]) -> NDArray[np.intp]:
    """Indices of floats in the order of few significant bits, then a magnitude near 1, then no sign."""
    with np.errstate(invalid="ignore"):  # signaling NaNs
        wide = values.astype(np.float64)
    pattern = wide.view(np.uint64)
    fraction = pattern & SIGNIFICAND
    lowest = fraction & (~fraction + np.uint64(1))
    length = np.where(fraction == 0, 0, 52 - np.log2(np.maximum(lowest, 1).astype(np.float64)))
    exponent = np.abs((pattern >> np.uint64(52) & np.uint64(0x7FF)).astype(np.int64) - 1023)
    return np.lexsort((np.signbit(wide), exponent, length))
