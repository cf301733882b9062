"""Codes narrower than a byte, packed without gaps: two FP4 codes a byte, four FP6 codes in three bytes.

The codes of a row form one stream of bits.  By default it is little-endian throughout: the first code lies in the lowest
bits of the first byte.  So the first of two FP4 codes is the low nibble, as in CUDA's ``__nv_fp4x2_e2m1`` and the ``x2``
dtypes of PyTorch; FP6 continues the same rule, which OCP MX v1.0 leaves open.  ``high-first`` is the same from the other
end: the first code in the highest bits of the first byte, so in the high nibble.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu.arrays import Codes, as_plain
from fpemu.arrays import codes_of as codes_of
from fpemu.formats import FloatFormat, FormatName, as_format
from fpemu.policies import Policy
from fpemu.targets.dispatch import is_torch
from fpemu.tensors import tensor_array


class PackOrder(Policy):
    """Where the first of several codes lies in its byte."""

    LOW_FIRST = "low-first"  #: in the lowest bits; for FP4 the low nibble (CUDA, PyTorch). The default
    HIGH_FIRST = "high-first"  #: in the highest bits; for FP4 the high nibble


def pack(
    codes: ArrayLike, format: FormatName | None = None, *, order: PackOrder | str = PackOrder.LOW_FIRST
) -> NDArray[np.uint8]:
    """Codes of fewer than 8 bits packed along the last axis.

    Parameters
    ----------
    codes: integers of shape (..., n), or an ml_dtypes array, which brings its own format.
    format: what they are codes of, 2 to 7 bits wide.
    order: ``low-first`` or ``high-first``, see ``PackOrder``.

    Returns
    -------
    uint8 of shape (..., ceil(n * bits / 8)); what is left of the last byte of a row is zero.

    Raises
    ------
    TypeError, ValueError: codes that are not integers or lie beyond the format; 0-d codes; a format of 8 bits or more; an
        unknown order.

    Examples
    --------
    >>> import numpy as np
    >>> codes = np.array([0x1, 0xA, 0x7], np.uint8)
    >>> [hex(byte) for byte in pack(codes, "e2m1")], [hex(byte) for byte in pack(codes, "e2m1", order="high-first")]
    (['0xa1', '0x7'], ['0x1a', '0x70'])
    """
    order = PackOrder(order)
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

    # A group of codes is one integer, and its bytes are the result.
    word = np.zeros(whole.shape[:-1], _word_dtype(width))
    for i, shift in enumerate(_shifts(group, source.bits, order)):
        word |= whole[..., i].astype(word.dtype) << word.dtype.type(shift)
    packed = np.empty((*word.shape, width), np.uint8)
    for i, shift in enumerate(_shifts(width, 8, order)):
        packed[..., i] = word >> word.dtype.type(shift) & word.dtype.type(0xFF)
    return packed.reshape(*array.shape[:-1], groups * width)[..., : packed_bytes(count, source)]


def unpack(
    packed: ArrayLike, format: FormatName, count: int | None = None, *, order: PackOrder | str = PackOrder.LOW_FIRST
) -> NDArray[np.uint8]:
    """The codes that ``pack`` packed.

    Parameters
    ----------
    packed: uint8 of shape (..., bytes), or a tensor of ``float4_e2m1fn_x2``.
    format: what the codes are of, 2 to 7 bits wide.
    count: how many codes a row holds; default all that fit, which after ragged rows may be too many.
    order: in which they were packed.

    Returns
    -------
    uint8 codes of shape (..., count).

    Raises
    ------
    TypeError: ``packed`` is not uint8, ``count`` not an int.
    ValueError: an unknown order; a row of ``count`` codes has another number of bytes, or bits that are not zero after its last code.
    """
    source = as_format(format)
    group, width = _group(source)
    order = PackOrder(order)
    array = tensor_array(packed, packed=True) if is_torch(packed) else as_plain(packed, "packed codes")
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
    for i, shift in enumerate(_shifts(width, 8, order)):
        word |= whole[..., i].astype(word.dtype) << word.dtype.type(shift)
    codes = np.empty((*word.shape, group), np.uint8)
    for i, shift in enumerate(_shifts(group, source.bits, order)):
        codes[..., i] = word >> word.dtype.type(shift) & word.dtype.type((1 << source.bits) - 1)
    codes = codes.reshape(*array.shape[:-1], groups * group)
    if codes[..., count:].any():
        raise ValueError(f"bits after the last of {count} codes of {source.name} are not zero: is count right?")
    return codes[..., :count]


def packed_bytes(count: int, format: FormatName) -> int:
    """How many bytes a row of ``count`` packed codes takes."""
    return -(-count * as_format(format).bits // 8)


def _group(format: FloatFormat) -> tuple[int, int]:
    """The smallest number of codes that fills whole bytes, and how many bytes: (2, 1) for FP4, (4, 3) for FP6."""
    if format.bits >= 8:
        raise ValueError(f"{format.name} has {format.bits} bits; only codes narrower than a byte are packed")
    common = gcd(format.bits, 8)
    return 8 // common, format.bits // common


def _shifts(count: int, bits: int, order: PackOrder) -> range:
    """Where so many parts of so many bits lie in their integer, from the first to the last."""
    places = range(0, count * bits, bits)
    return places if order is PackOrder.LOW_FIRST else places[::-1]


def _word_dtype(width: int) -> np.dtype[Any]:
    """The smallest unsigned integer of at least ``width`` bytes."""
    return np.min_scalar_type((1 << 8 * width) - 1)
