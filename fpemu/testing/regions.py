"""Where conversions go wrong, by name: for a target format and the dtype of the inputs, the magnitudes that lie there."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fpemu.arrays import decode
from fpemu.formats import FloatFormat, FormatName, as_format

Points = NDArray[Any]

SAMPLED = 1 << 12  # codes of a format too wide to take them all
DTYPES = tuple(np.dtype(name) for name in ("float16", "float32", "float64"))


def input_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """float16, float32 or float64; TypeError for any other."""
    found = np.dtype(dtype)
    if found not in DTYPES:
        raise TypeError(f"inputs are float16, float32 or float64, not {found}")
    return found


# ---- values of the target, in float64, which holds them and the middles between them ---------------------------------
@lru_cache(maxsize=64)
def ladder(format: FloatFormat) -> Points:
    """Positive values in order, from the smallest to one beyond the largest finite, as if the exponent went on."""
    first = 1 if format.has_zero else 0
    if format.bits <= 16:
        codes = np.arange(first, format.max_code + 1)
    else:
        rng = np.random.default_rng(format.bits)
        ends = np.arange(SAMPLED)
        some = rng.integers(first, format.max_code, SAMPLED)
        near = format.smallest_normal_code + np.arange(-64, 64)
        codes = np.concatenate([first + ends, format.max_code - ends, some, some + 1, near])
        codes = np.unique(codes[(codes >= first) & (codes <= format.max_code)])
    values = decode(codes.astype(format.code_dtype), format, dtype=np.float64)
    return np.append(values, _beyond(format))


def _beyond(format: FloatFormat) -> float:
    """What comes after the largest finite value, as if the exponent were unbounded."""
    significand, exponent = format.scientific(format.max_code)
    return float(np.ldexp(float(significand + 1), exponent))


def _values(format: FloatFormat) -> Points:
    return ladder(format)[:-1]


def _middles(format: FloatFormat) -> Points:
    """The middles between neighbours (of formats too wide, between those neighbours that were sampled)."""
    values = ladder(format)
    spacing = np.ldexp(1.0, np.maximum(np.frexp(values[:-1])[1] - format.precision, format.finest_exponent))
    adjacent = values[:-1] + spacing == values[1:]
    return np.asarray((values[:-1] + spacing / 2)[adjacent])


def _powers(format: FloatFormat) -> Points:
    return np.ldexp(1.0, np.arange(max(format.finest_exponent, -1073), min(format.emax + 2, 1024)))


def _far(format: FloatFormat) -> Points:
    """What comes next, and powers of two from there on."""
    return np.concatenate([[_beyond(format)], np.ldexp(1.0, np.arange(format.emax + 1, min(format.emax + 40, 1024)))])


# ---- the regions ------------------------------------------------------------------------------------------------------
NEIGHBOURS, AT, BELOW = (-2, -1, 1, 2), (-2, -1, 0, 1, 2), (-1, -2)

# Points of the target, and how many ulps of the dtype from them the inputs lie.
_AROUND: dict[str, tuple[Callable[[FloatFormat], Any], tuple[int, ...]]] = {
    "value": (_values, (0,)),
    "tie": (_middles, (0,)),
    "near tie": (_middles, NEIGHBOURS),
    "near value": (_values, NEIGHBOURS),
    "smallest normal": (lambda format: format.smallest_normal, AT),
    "smallest subnormal": (lambda format: format.smallest_subnormal, AT),
    "half of the smallest subnormal": (lambda format: format.smallest_subnormal / 2, AT),
    "largest finite": (lambda format: format.max, AT),
    "overflow threshold": (lambda format: (format.max + _beyond(format)) / 2, AT),
    "beyond the largest finite": (_far, (0,)),
    "below a power of two": (_powers, BELOW),
}


def _extremes(dtype: np.dtype[Any]) -> Points:
    info = np.finfo(dtype)
    return np.array([info.smallest_subnormal, info.smallest_normal - info.smallest_subnormal, info.smallest_normal,
                     info.max], dtype)  # fmt: skip


def _nans(dtype: np.dtype[Any]) -> Points:
    """Quiet and signaling, with the smallest, the largest and other payloads."""
    info = np.finfo(dtype)
    unsigned, quiet = np.dtype(f"u{dtype.itemsize}").type, 1 << (info.nmant - 1)
    infinity = int(np.array(np.inf, dtype).view(unsigned))
    payloads = (quiet, 1, quiet - 1, quiet + 1, 2 * quiet - 1, quiet >> 1)
    return np.array([infinity | payload for payload in payloads], unsigned).view(dtype)


_OF_DTYPE: dict[str, Callable[[np.dtype[Any]], Points]] = {
    "zero": lambda dtype: np.zeros(1, dtype),
    "extreme of the dtype": _extremes,
    "infinity": lambda dtype: np.array([np.inf], dtype),
    "NaN": _nans,
}

REGIONS = (*_AROUND, *_OF_DTYPE)


@lru_cache(maxsize=512)
def points(region: str, format: FormatName, dtype: DTypeLike = "float32") -> Points:
    """The inputs of a region, in order, without sign.

    Parameters
    ----------
    region: one of REGIONS.
    format: the target.
    dtype: float16, float32 or float64.

    Returns
    -------
    1-d array of that dtype, empty where the dtype has no such number (float16 none of what E4M3 FN calls 2**-20).

    Raises
    ------
    ValueError: no such region; a format with values that float64 cannot hold.
    """
    target, kind = as_format(format), input_dtype(dtype)
    if region in _OF_DTYPE:
        found = _OF_DTYPE[region](kind)
    elif region in _AROUND:
        exact, ulps = _AROUND[region]
        found = _moved(np.atleast_1d(np.asarray(exact(target), np.float64)), kind, ulps)
    else:
        raise ValueError(f"no region {region!r}; there are: {', '.join(REGIONS)}")
    found.flags.writeable = False
    return found


def _moved(exact: Points, dtype: np.dtype[Any], ulps: tuple[int, ...]) -> Points:
    """Those numbers that the dtype has, moved by ulps, and nothing below zero."""
    with np.errstate(over="ignore", under="ignore"):
        held = exact.astype(dtype)
    held = held[(held == exact) & np.isfinite(held)]
    unsigned = np.dtype(f"u{dtype.itemsize}")
    bits = held.view(unsigned).astype(np.int64)[:, None] + np.array(ulps, np.int64)
    bits = np.unique(bits[(bits >= 0) & (bits <= int(np.array(np.inf, dtype).view(unsigned)))])
    return bits.astype(unsigned).view(dtype)
