"""Blocks where scaling goes wrong, as rows of an array."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fpemu import FloatFormat

Array = np.ndarray[Any, Any]


def edges_of_amax(format: FloatFormat, dtype: Any) -> list[float]:
    """Largest magnitudes at which a rule changes its mind, for a scale of 2**0, and what lies an ulp beside them."""
    one = format.max / 2.0**format.emax  # 1.g
    at = [1.0, 2 - 2.0 ** -(format.trailing_bits + 1), one, one * 2**0.5, one / 2**0.5, 1.5, 2 - 2.0**-20]
    points = np.array([value * 2.0**format.emax for value in at], dtype)
    beside = [np.nextafter(points, dtype(0)), points, np.nextafter(points, dtype(np.inf))]
    return [float(value) for value in np.concatenate(beside)]


@lru_cache(maxsize=32)
def blocks(format: FloatFormat, dtype: Any, width: int, count: int = 40, seed: int = 0) -> Array:
    """Rows of ``width`` values: amax at every edge and binade's end, scales from end to end, zeros, and the rest random."""
    random = np.random.default_rng(seed)
    info = np.finfo(dtype)
    rows = []
    for amax in edges_of_amax(format, dtype):
        rows.append(random.uniform(-1, 1, width) * amax)
        rows[-1][random.integers(width)] = amax * random.choice([-1, 1])
    for exponent in (
        info.minexp - info.nmant,
        info.minexp,
        -130,
        -126,
        -120,
        -61,
        -60,
        -59,
        1,
        100,
        120,
        info.maxexp - 1,
    ):
        rows.append(np.ldexp(random.standard_normal(width), min(max(exponent, info.minexp), info.maxexp - 3)))
        rows.append(
            np.ldexp(random.standard_normal(width) * 2.0 ** random.integers(-12, 1, width), max(exponent, -1000) // 2)
        )
    rows += [
        np.zeros(width),
        -np.zeros(width),
        np.full(width, 0.97),
        np.full(width, info.max),
        np.full(width, -info.max),
    ]
    rows += [np.full(width, info.smallest_subnormal), np.full(width, info.tiny), np.full(width, 2.0**-126)]
    sparse = np.zeros((3, width))
    sparse[0, -1], sparse[1, 0], sparse[2, ::2] = 3e-5, -1.0, 7.0
    rows += list(sparse)
    rows += [row * 2.0 ** random.integers(-30, 1, width) for row in random.standard_normal((count, width))]
    with np.errstate(over="ignore", under="ignore"):
        return np.array(rows).astype(dtype)


def with_specials(x: Array) -> Array:
    """The rows again, some elements of each infinite or NaN."""
    x, random = x.copy(), np.random.default_rng(1)
    special = np.array([np.inf, -np.inf, np.nan, -np.nan], x.dtype)
    x[random.random(x.shape) < 0.15] = np.nan
    nan = np.isnan(x)
    x[nan] = random.choice(special, nan.sum(), p=[0.4, 0.4, 0.1, 0.1])
    x[0] = np.inf
    return x
