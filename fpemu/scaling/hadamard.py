"""The random Hadamard transform: it spreads outliers over a block, and keeps products along the axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fpemu.arrays import as_counter
from fpemu.scaling.blocks import Array, as_axis, as_extent
from fpemu.scaling.values import Values, host_values
from fpemu.targets.environment import in_default_environment


@in_default_environment
def hadamard(x: ArrayLike, size: int = 16, *, axis: int = -1, seed: int = 0, inverse: bool = False) -> Values:
    """Blocks along an axis times S H / sqrt(size): H of Sylvester's construction, S a diagonal of signs (arXiv 2509.25149).

    Two arrays that are contracted along their transformed axes give what they would have given; up to rounding.  The transform
    is a sequence of log2(size) sums and differences in the dtype of x, then one product with 1 / sqrt(size), exact for sizes that are
    powers of four.

    Parameters
    ----------
    x: floating point; float16 and shorter become float32.
    size: of a block, a power of two that divides the length of the axis.
    seed: of the signs: sign i is the top bit of random word i of that seed, the same for all blocks.
    inverse: undo it: H S / sqrt(size).

    Returns
    -------
    float32 or float64, of the shape of x.

    Raises
    ------
    TypeError: x is not floating point, or lies on a GPU.  ValueError: a size that is no power of two or does not divide the axis.
    """
    values = host_values(x)
    size, axis = as_extent("size", size), as_axis(axis, values.ndim)
    if size & (size - 1):
        raise ValueError(f"size must be a power of two, not {size}")
    if values.shape[axis] % size:
        raise ValueError(f"size {size} does not divide the axis of length {values.shape[axis]}")
    signs = _signs(size, as_counter("seed", seed)).astype(values.dtype)
    blocks = np.moveaxis(values, axis, -1)
    shape = blocks.shape
    blocks = blocks.reshape(*shape[:-1], -1, size)
    with np.errstate(all="ignore"):
        result = _sums(blocks if inverse else blocks * signs) * values.dtype.type(size**-0.5)
        result = result * signs if inverse else result
    return np.ascontiguousarray(np.moveaxis(result.reshape(shape), -1, axis))


def _signs(size: int, seed: int) -> Array:
    from fpemu.kernels.random import GOLDEN, seed_key

    key = seed_key(seed)
    return np.array([1 - 2 * (seed_key(key + (i - 1) * GOLDEN) >> 63) for i in range(size)])


def _sums(x: Values) -> Values:
    """The last axis times H: sums and differences of what lies 1, 2, 4, ... apart."""
    shape, step = x.shape, 1
    while step < shape[-1]:
        pairs = x.reshape(*shape[:-1], -1, 2, step)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        x = np.stack([first + second, first - second], axis=-2).reshape(shape)
        step *= 2
    return x
