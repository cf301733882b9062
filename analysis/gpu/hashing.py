"""The hash of a chunk of codes: 64 bits, dependent on order, the same on every machine.

    hash = sum over i of mix(code[i] + (i + 1) * 0x9E3779B97F4A7C15)   modulo 2**64,   i counted from 0 in the chunk

``mix`` is the finaliser of splitmix64 (Steele, Lea, Flood 2014).  The index is that in the chunk, so equal chunks have
equal hashes.  The *class hash* is the same sum after every NaN code has become one canonical code: where two hashes
differ and the class hashes do not, only the codes of NaNs differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from analysis.gpu.inputs import Codes
from fpemu.formats import FloatFormat
from fpemu.kernels.random import GOLDEN
from fpemu.targets.threads import get_threads, map_parts, split

DEFINITION = (
    "sum of mix(code[i] + (i + 1) * 0x9E3779B97F4A7C15) modulo 2**64 over the codes of a chunk, i from 0; mix is the "
    "finaliser of splitmix64; class hash: the same with every NaN code replaced by the largest magnitude code"
)

Hashes = NDArray[np.uint64]


@njit(nogil=True)
def mix(z: Any) -> Any:
    """The finaliser of splitmix64 on a uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(nogil=True)
def _hash_chunks(codes: Any, size: Any, magnitudes: Any, largest: Any, raw: Any, by_class: Any) -> None:
    golden = np.uint64(GOLDEN)
    for chunk in range(raw.size):
        piece = codes[chunk * size : (chunk + 1) * size]
        total, nans = np.uint64(0), 0
        for i in range(piece.size):
            code = np.uint64(piece[i])
            nans += (code & magnitudes) > largest
            total += mix(code + np.uint64(i + 1) * golden)
        raw[chunk] = total
        if nans:  # rare: a loop with a choice in it does not vectorise
            total = np.uint64(0)
            for i in range(piece.size):
                code = np.uint64(piece[i])
                if (code & magnitudes) > largest:
                    code = magnitudes
                total += mix(code + np.uint64(i + 1) * golden)
        by_class[chunk] = total


def largest_number(format: FloatFormat) -> int:
    """The largest magnitude code that is no NaN.  ValueError for a format whose NaN is the code of minus zero."""
    if format.has_nan and not format.high_nans:
        raise ValueError(f"{format.name} has its NaN at minus zero; no recorded target does")
    return format.max_code + format.infinities


def is_nan(codes: Codes, format: FloatFormat) -> NDArray[np.bool_]:
    """Which codes mean NaN."""
    return np.asarray((codes & codes.dtype.type(format.magnitude_mask)) > largest_number(format))


def chunk_hashes(codes: Codes, format: FloatFormat, size: int) -> tuple[Hashes, Hashes]:
    """Hashes and class hashes of codes of a format, in chunks of ``size``; in threads.

    Returns two uint64 arrays with one entry a chunk.  Raises ValueError where ``size`` does not divide the codes.
    """
    if codes.size % size:
        raise ValueError(f"{codes.size} codes are not whole chunks of {size}")
    count = codes.size // size
    raw, by_class = np.empty(count, np.uint64), np.empty(count, np.uint64)
    facts = np.uint64(format.magnitude_mask), np.uint64(largest_number(format))

    def part(ends: tuple[int, int]) -> None:
        first, stop = ends
        _hash_chunks(codes[first * size : stop * size], size, *facts, raw[first:stop], by_class[first:stop])

    map_parts(part, split(count, get_threads()))
    return raw, by_class
