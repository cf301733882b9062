"""Histograms of magnitudes, a count for every power of two, as recordings of training hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LOWEST, HIGHEST = -60, 20  # exponents of a histogram's ends, which hold what lies beyond


def histogram(values: ArrayLike) -> NDArray[Any]:
    """int64 counts: zeros, values that are not finite, then one a power of two from 2^LOWEST (and below) to 2^HIGHEST (and above)."""
    size = np.abs(np.asarray(values, np.float32).reshape(-1))
    finite = np.isfinite(size)
    exponents = np.frexp(size[finite & (size > 0)])[1] - 1
    counts = np.bincount(np.clip(exponents, LOWEST, HIGHEST) - LOWEST, minlength=HIGHEST - LOWEST + 1)
    return np.concatenate([[np.count_nonzero(size == 0), np.count_nonzero(~finite)], counts]).astype(np.int64)
