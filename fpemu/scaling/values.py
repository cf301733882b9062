"""What is scaled: floating-point values on the host, in a dtype that holds them all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fpemu.arrays import as_values, bits_of, decode
from fpemu.formats import FORMATS, FloatFormat, FormatName, as_format
from fpemu.tensors import own_format

Values = np.ndarray[Any, np.dtype[np.floating[Any]]]


def host_values(x: ArrayLike) -> Values:
    """Values as float32 or float64, exactly: float16 and the dtypes of ml_dtypes that float32 holds become float32.

    Raises TypeError for arrays on a GPU, and for what ``fpemu.encode`` does not take.
    """
    array = x if type(x) is np.ndarray else as_values(x)
    if not isinstance(array, np.ndarray):
        raise TypeError("arrays on a GPU are not scaled here: copy them to the host first")
    bits_of(array)  # raises for what is no floating-point dtype
    if own_format(array.dtype) is not None:
        return np.asarray(decode(array))
    wide = np.float64 if array.dtype.itemsize == 8 else np.float32
    return array.astype(wide, copy=False)


def single_values(x: ArrayLike) -> Values:
    """Values as float32; float64 is rounded to it, to nearest even.

    For schemes that are defined by float32 operations: what they do to a float64 is to narrow it first.
    """
    with np.errstate(all="ignore"):
        return host_values(x).astype(np.float32, copy=False)


def element_format(format: FormatName) -> FloatFormat:
    """A format that elements can have: signed, with a zero, all its values numbers of float32.

    Raises TypeError and ValueError for others.
    """
    found = as_format(format)
    if not (found.signed and found.has_zero):
        raise ValueError(f"elements need a sign and a zero; {found.name} lacks one")
    if not FORMATS["float32"].holds(found):
        raise ValueError(f"elements are formats whose values float32 holds; {found.name} is wider")
    return found
