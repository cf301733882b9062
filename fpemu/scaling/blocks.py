"""Blocks of an array: how it is cut, what is worked out for each block, and how that meets the elements again.

A cut is a tuple of extents, one for each axis.  Blocks begin at multiples of the extent; the last of an axis is as short
as it has to be.  What belongs to blocks is an array of as many entries along each axis as there are blocks, so a scale
of the whole array has the shape (1, 1, ...), and that of a 0-d array ().
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Cut = tuple[int, ...]
SLAB = 1 << 17  # elements that are worked on together, so that what lies between input and result stays small


def as_extent(name: str, extent: Any) -> int:
    """An extent or another count.  Raises TypeError for anything but an int, ValueError for less than 1."""
    if isinstance(extent, bool) or not isinstance(extent, (int, np.integer)):
        raise TypeError(f"{name} must be an int, not {type(extent).__name__}")
    if extent < 1:
        raise ValueError(f"{name} must be at least 1, not {extent}")
    return int(extent)


def as_axis(axis: Any, ndim: int) -> int:
    """An axis counted from the front.  Raises TypeError for no int, ValueError for an axis that is not there."""
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"axis must be an int, not {type(axis).__name__}")
    if not -ndim <= axis < ndim:
        valid = f"valid: {-ndim} to {ndim - 1}" if ndim else "a 0-d array has none"
        raise ValueError(f"there is no axis {axis}; {valid}")
    return int(axis) % ndim


def cut_along(axis: Any, extent: int, shape: tuple[int, ...]) -> Cut:
    """Blocks of an extent along one axis."""
    axis = as_axis(axis, len(shape))
    return tuple(extent if place == axis else 1 for place in range(len(shape)))


def cut_last(extents: Any, shape: tuple[int, ...], what: str) -> Cut:
    """Blocks of the given extents along the last axes, as many as there are extents.

    Raises TypeError for no tuple of ints, ValueError for extents below 1 and for an array of fewer axes.
    """
    if not isinstance(extents, (tuple, list)):
        raise TypeError(f"{what} must be a tuple of ints, not {type(extents).__name__}")
    cut = tuple(as_extent(what, extent) for extent in extents)
    while len(cut) > len(shape) and cut[0] == 1:
        cut = cut[1:]
    if len(cut) > len(shape) or not shape:
        raise ValueError(
            f"blocks of {tuple(extents)} need at least {max(len(cut), 1)} axes; the array has {len(shape)}"
        )
    return (1,) * (len(shape) - len(cut)) + cut


def whole(shape: tuple[int, ...]) -> Cut:
    """One block, the array."""
    return tuple(max(length, 1) for length in shape)


def blocks_shape(shape: tuple[int, ...], cut: Cut) -> tuple[int, ...]:
    """How many blocks there are along each axis."""
    return tuple(-(-length // extent) for length, extent in zip(shape, cut, strict=True))


class Slab(NamedTuple):
    """Elements that follow each other in C order: the index of the first, where they lie, and where their blocks."""

    first: int
    elements: tuple[Any, ...]
    blocks: tuple[Any, ...]


def slabs(shape: tuple[int, ...], cut: Cut, within: bool = False) -> list[Slab]:
    """An array as slabs of whole blocks, or all in one; ``within``: where one block is larger, of parts of it too.

    Slabs of parts all have all the blocks there are along the axes that are not cut.
    """
    axis = next((place for place, length in enumerate(shape) if length > 1), len(shape))
    size = prod(shape)
    if size <= SLAB:
        return [Slab(0, (...,), (...,))]
    length, extent, inner = shape[axis], cut[axis], size // shape[axis]
    parts = extent >= length
    if parts and not within:
        return [Slab(0, (...,), (...,))]
    step = max(SLAB // inner, 1) if parts else max(SLAB // inner // extent, 1) * extent
    lead = (slice(None),) * axis
    return [
        Slab(
            start * inner,
            (*lead, slice(start, start + step)),
            (...,) if parts else (*lead, slice(start // extent, -(-(start + step) // extent))),
        )
        for start in range(0, length, step)
    ]


def reduce_blocks(ufunc: np.ufunc, x: Array, cut: Cut) -> Array:
    """``ufunc.reduce`` over the elements of each block; of the shape of the blocks."""
    if x.size == 0:
        return np.zeros(blocks_shape(x.shape, cut), x.dtype)
    for axis in reversed(range(x.ndim)):
        extent, length = cut[axis], x.shape[axis]
        if extent >= length:
            x = ufunc.reduce(x, axis=axis, keepdims=True, dtype=x.dtype)
        elif length % extent == 0 and extent > 1 and axis < x.ndim - 1:
            x = ufunc.reduce(x.reshape(*x.shape[:axis], -1, extent, *x.shape[axis + 1 :]), axis=axis + 1, dtype=x.dtype)
        elif extent > 1:
            x = ufunc.reduceat(x, range(0, length, extent), axis=axis, dtype=x.dtype)
    return x


def spread(of_blocks: Array, cut: Cut, shape: tuple[int, ...]) -> Array:
    """What belongs to each block at each of its elements: an array that broadcasts against one of ``shape``."""
    for axis, length in enumerate(shape):
        if cut[axis] > 1 and of_blocks.shape[axis] > 1:
            kept = [slice(None)] * len(shape)
            kept[axis] = slice(length)
            of_blocks = np.repeat(of_blocks, cut[axis], axis=axis)[tuple(kept)]
    return of_blocks
