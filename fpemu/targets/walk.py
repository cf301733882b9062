"""Arrays that do not lie in memory as their elements are counted: strided, Fortran-ordered, byte-swapped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Box = tuple[int, tuple[Any, ...]]  # the C-order index of the first element, and the index of the box


def is_plain(x: Array) -> bool:
    """Whether the elements lie one after another in C order, as the machine reads them."""
    return x.flags.c_contiguous and x.flags.aligned and x.dtype.isnative


def boxes(shape: tuple[int, ...], most: int) -> Iterator[Box]:
    """Cut a shape into boxes of at most ``most`` elements that follow each other in C order, in that order."""
    axis, inner = len(shape), 1
    while axis and inner * shape[axis - 1] <= most:
        axis -= 1
        inner *= shape[axis]
    if axis == 0:
        yield 0, (...,)
        return
    # All of what is inside fits, and some of this axis.
    axis -= 1
    step, first = most // inner, 0
    for outer in np.ndindex(shape[:axis]):
        for start in range(0, shape[axis], step):
            yield first + start * inner, (*outer, slice(start, start + step))
        first += shape[axis] * inner


def flat(x: Array) -> Array:
    """The elements in C order as a flat plain array: a view where that is possible, else a copy."""
    return (x if is_plain(x) else x.astype(x.dtype.newbyteorder("="), order="C")).reshape(-1)


def apart(x: Array, out: Array) -> Array:
    """An operand, copied where writing would change what is still to be read."""
    if not np.may_share_memory(x, out):
        return x
    # Elementwise in place is safe for the very same elements only.
    same = x.itemsize == out.itemsize and x.ctypes.data == out.ctypes.data and x.strides == out.strides
    return x if same and x.shape == out.shape else x.copy()
