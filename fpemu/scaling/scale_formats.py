"""Formats of block scales that are no formats of elements: unsigned, for a scale has no use for a sign.

``SCALE_FORMATS`` holds them by name.  UE4M3 is E4M3 without its sign bit: a code is that of the same value in E4M3, and NaN is
0x7F (NVIDIA CUTLASS 4.7, include/cutlass/exmy_base.h: 4 exponent and 3 significand bits in 8, one canonical NaN, no sign).  UE5M3 spends
that bit on the exponent: bias 15, NaN 0xFF alone, no infinity, largest value 114,688 at 0xFE, smallest 2**-17 (proposed in
arXiv 2601.19026; codes as in AMD-AGI/ALTO, alto/kernels/fp4/fp4_common/ue5m3_ops.py, commit 5769da6).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fpemu.formats import FORMATS, FloatFormat, FormatName, as_format

FLOAT32 = FORMATS["float32"]

_ROWS = (
    FloatFormat("ue4m3", bits=7, precision=4, bias=7, signed=False, infinities=False, high_nans=1),
    FloatFormat("ue5m3", bits=8, precision=4, bias=15, signed=False, infinities=False, high_nans=1),
)
SCALE_FORMATS: Mapping[str, FloatFormat] = MappingProxyType({row.name: row for row in _ROWS})


def as_scale_format(format: FormatName, largest_element: float) -> FloatFormat:
    """A format that the scales of blocks can have, under a scale of the tensor.

    Raises TypeError for what is no format, ValueError for one without zero or NaN, of more than 8 bits, or whose largest
    value times ``largest_element``, by which a tensor's scale divides, lies below 1 or beyond float32.
    """
    known = SCALE_FORMATS.get(format.strip().lower()) if isinstance(format, str) else None
    found = as_format(format) if known is None else known
    if not (found.has_zero and found.has_nan and found.bits <= 8 and FLOAT32.holds(found)):
        raise ValueError(
            f"scale_format must have a zero, a NaN and at most 8 bits; {found.name} does not. "
            f"Valid: e4m3, {', '.join(SCALE_FORMATS)} and others like them"
        )
    if not 1 <= found.max * largest_element <= FLOAT32.max:
        raise ValueError(
            f"scale_format needs a largest value of {1 / largest_element:g} to {FLOAT32.max / largest_element:g}; "
            f"that of {found.name} is {found.max:g}"
        )
    return found
