"""Where conversions go wrong: the inputs that tests share.

Every value of a format, every midpoint between neighbours and, one ulp of float32 and of float64 to either side, the
inputs next to them; beyond the largest value and below the smallest as well.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

import fpemu as fp
from fpemu import FloatFormat, reference

Array = np.ndarray[Any, Any]

NAMED = tuple(name for name in fp.FORMATS if not name.startswith("binary"))
NARROW = tuple(name for name, format in fp.FORMATS.items() if format.bits <= 8)
#: Two P3109 formats for each width above 8: signed and extended in the middle, unsigned and finite nearer to one end.
WIDE_P3109 = tuple(
    name for k in range(9, 17) for name in (f"binary{k}p{k // 2}se", f"binary{k}p{1 if k % 4 == 0 else k - 2}uf")
)
DEFAULT = (*NARROW, "float16", "bfloat16", *WIDE_P3109)
ALL_16 = tuple(name for name, format in fp.FORMATS.items() if format.bits <= 16)


def specials(dtype: Any) -> Array:
    """Zeros, infinities, NaNs of both signs, and the extremes of a dtype."""
    info = np.finfo(dtype)
    some = np.array([0.0, np.inf, np.nan, 1.0, info.max, info.tiny, info.smallest_subnormal], dtype)
    return np.concatenate([some, np.copysign(some, np.array(-1, dtype))])


@lru_cache(maxsize=64)
def ladder(format: FloatFormat) -> tuple[int, Array]:
    """Number of the first rung and the float64 values of the rungs, two beyond the largest finite value included.

    Only those rungs that float64 holds together with the midpoint above them.
    """
    last = reference.last_rung(format)
    low, high = 0, last + 2
    # Wide P3109 formats reach beyond float64 on both sides: cut the ladder to what float64 holds with its midpoints.
    if format.finest_exponent < -1073:
        low = _first_at_least(reference.power_of_two(-1073 + format.precision), format, last)
    if reference.rung(high, format) > reference.power_of_two(1023):
        high = _first_at_least(reference.power_of_two(1022), format, last)
    return low, np.array([reference.as_float(reference.rung(n, format)) for n in range(low, high + 1)])


def _first_at_least(bound: Any, format: FloatFormat, last: int) -> int:
    low, high = 0, last + 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reference.rung(middle, format) >= bound else (middle + 1, high)
    return low


@lru_cache(maxsize=16)
def around(format: FloatFormat, dtype: str) -> Array:
    """All values and midpoints with their neighbours in float32 or float64, in both signs, and the specials."""
    low, values = ladder(format)
    cut = low + values.size - 1 < reference.last_rung(format) + 2  # magnitudes above the ladder cannot be judged
    points = np.concatenate([values, values[:-1] + np.diff(values) / 2])
    with np.errstate(all="ignore"):
        if low == 0:
            points = np.concatenate([points, values[:1] / 2, values[:1] / 4, values[-1:] * 4])
        points = points.astype(dtype)
        zero, infinity = np.array([0, np.inf], dtype)
        near = np.unique(np.concatenate([points, np.nextafter(points, infinity), np.nextafter(points, zero)]))
    exact = specials(dtype)
    if low:
        near = near[near >= values[0]]
        exact = exact[~(np.abs(exact) < values[0]) | (exact == 0)]
    if cut:
        near = near[near <= values[-1]]
        exact = exact[~(np.abs(exact) > values[-1]) | np.isinf(exact)]
    return np.concatenate([near, -near, exact])
