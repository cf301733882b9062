"""Codes narrower than a byte, packed without gaps: two FP4 codes a byte, four FP6 codes in three bytes.

The order is little-endian throughout: the codes of a row form one stream of bits, the first code in the lowest bits
of the first byte.  So the first of two FP4 codes is the low nibble, as in CUDA's ``__nv_fp4x2_e2m1`` and the ``x2``
dtypes of PyTorch; FP6 continues the same rule, which OCP MX v1.0 leaves open.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu.arrays import Codes, as_plain
from fpemu.arrays import codes_of as codes_of
from fpemu.formats import FloatFormat, as_format


def pack(codes: ArrayLike, format: FloatFormat | str | None = None) -> NDArray[np.uint8]:
    """Codes of fewer than 8 bits packed along the last axis.

    Parameters
    ----------
    codes: integers of shape (..., n), or an ml_dtypes array, which brings its own format.
    format: what they are codes of, 2 to 7 bits wide.

    Returns
    -------
    uint8 of shape (..., ceil(n * bits / 8)); what is left of the last byte of a row is zero.

    Raises
    ------
    TypeError, ValueError: codes that are not integers or lie beyond the format; 0-d codes; a format of 8 bits or more.
    """
    array, source = codes_of(codes, format)
    group, width = _group(source)
    if array.ndim == 0:
        raise ValueError("codes to pack need an axis to be packed along: pass a 1-d array")
    count = array.shape[-1]
    groups = -(-count // group)
    whole: Codes = array
    if groups * group != count:
        whole = np.zeros((*array.shape[:-1], groups * group), np.uint8)
        whole[..., :count] = array
    whole = whole.reshape(*array.shape[:-1], groups, group)

    # A group of codes is one little-endian integer, and its bytes are the result.
    word = np.zeros(whole.shape[:-1], _word_dtype(width))
    for i in range(group):
        word |= whole[..., i].astype(word.dtype) << word.dtype.type(i * source.bits)
    packed = np.empty((*word.shape, width), np.uint8)
    for i in range(width):
        packed[..., i] = word >> word.dtype.type(8 * i) & word.dtype.type(0xFF)
    return packed.reshape(*array.shape[:-1], groups * width)[..., : packed_bytes(count, source)]


def unpack(packed: ArrayLike, format: FloatFormat | str, count: int | None = None) -> NDArray[np.uint8]:
    """The codes that ``pack`` packed.

    Parameters
    ----------
    packed: uint8 of shape (..., bytes).
    format: what the codes are of, 2 to 7 bits wide.
    count: how many codes a row holds; default all that fit, which after ragged rows may be too many.

    Returns
    -------
    uint8 codes of shape (..., count).

    Raises
    ------
    TypeError: ``packed`` is not uint8, ``count`` not an int.
    ValueError: a row of ``count`` codes has another number of bytes, or bits that are not zero after its last code.
    """
    source = as_format(format)
    group, width = _group(source)
    array = as_plain(packed, "packed codes")
    if array.dtype != np.uint8:
        raise TypeError(f"packed codes are uint8, not {array.dtype}")
    if array.ndim == 0:
        raise ValueError("packed codes need an axis: pass a 1-d array")
    size = array.shape[-1]
    if count is None:
        count = size * 8 // source.bits
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)):
        raise TypeError(f"count must be an int, not {type(count).__name__}")
    if count < 0:
        raise ValueError(f"count must not be negative, not {count}")
    if packed_bytes(int(count), source) != size:
        raise ValueError(f"{count} codes of {source.name} take {packed_bytes(int(count), source)} bytes, not {size}")

    groups = -(-size // width)
    whole = array
    if groups * width != size:
        whole = np.zeros((*array.shape[:-1], groups * width), np.uint8)
        whole[..., :size] = array
    whole = whole.reshape(*array.shape[:-1], groups, width)
    word = np.zeros(whole.shape[:-1], _word_dtype(width))
    for i in range(width):
        word |= whole[..., i].astype(word.dtype) << word.dtype.type(8 * i)
    codes = np.empty((*word.shape, group), np.uint8)
    for i in range(group):
        codes[..., i] = word >> word.dtype.type(i * source.bits) & word.dtype.type((1 << source.bits) - 1)
    codes = codes.reshape(*array.shape[:-1], groups * group)
    if codes[..., count:].any():
        raise ValueError(f"bits after the last of {count} codes of {source.name} are not zero: is count right?")
    return codes[..., :count]


def packed_bytes(count: int, format: FloatFormat | str) -> int:
    """How many bytes a row of ``count`` packed codes takes."""
    return -(-count * as_format(format).bits // 8)


def _group(format: FloatFormat) -> tuple[int, int]:
    """The smallest number of codes that fills whole bytes, and how many bytes: (2, 1) for FP4, (4, 3) for FP6."""
    if format.bits >= 8:
        raise ValueError(f"{format.name} has {format.bits} bits; only codes narrower than a byte are packed")
    common = gcd(format.bits, 8)
    return 8 // common, format.bits // common


def _word_dtype(width: int) -> np.dtype[Any]:
    """The smallest unsigned integer of at least ``width`` bytes."""
    return np.min_scalar_type((1 << 8 * width) - 1)
