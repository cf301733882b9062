"""Grids of a GPU: each kernel here runs the scalar kernels over arrays of bits in device memory.

The scalar kernels are those of the CPU, called straight from the grid.  Code paths (``Plan``, lane, widths) are frozen;
the numbers of a format are arguments, which a GPU reads as cheaply as constants.  Nothing here multiplies floats and
adds the product, so nothing contracts (cuda_stats.py does, and says how it keeps them apart).  Indices are unsigned: a signed
one is compared with zero first, at each access.
"""

from __future__ import annotations

import warnings
from functools import cache, lru_cache
from threading import Lock
from typing import Any

import numpy as np
from numba import config, cuda, types

from fpemu.kernels.convert import convert
from fpemu.kernels.jit import kernel
from fpemu.kernels.random import random_counter, random_word
from fpemu.kernels.spec import STOCHASTIC, DecodeSpec, EncodeSpec, Lane, Plan
from fpemu.targets.chain import Stages
from fpemu.targets.cpu import TYPES, frozen_spec, made_once

Grid = Any  # queued by ``launch``

THREADS = 256  # of a block
EACH = 4  # elements that a thread loads before it converts the first: enough bytes under way to fill the memory bus
GROUPS = 4  # of such elements, one after another: what is worked out once for a thread serves them all
TILE = THREADS * EACH * GROUPS  # elements of a block
WARNED_BELOW = 128  # blocks: of fewer Numba warns
_catching = Lock()
SIMULATED = bool(config.ENABLE_CUDASIM)  # type: ignore[attr-defined]

_NONE = {DecodeSpec: DecodeSpec(*[0] * len(DecodeSpec._fields)), EncodeSpec: EncodeSpec(*[0] * len(EncodeSpec._fields))}


def blocks_of(size: int) -> int:
    """How many blocks so many elements take, a tile each."""
    return -(-size // TILE)


def launch(grid: Grid, blocks: int, stream: Any, *arguments: Any, threads: int = THREADS) -> None:
    """Queue a grid on a stream."""
    small = blocks < WARNED_BELOW and not SIMULATED
    ready = (
        _small(grid, blocks, threads, stream, cuda.get_current_device().id) if small else grid[blocks, threads, stream]
    )
    ready(*arguments)


@lru_cache(maxsize=1024)
def _small(grid: Grid, blocks: int, threads: int, stream: Any, gpu: int) -> Any:
    """A small grid ready to be queued on a GPU.  Numba warns of it, but a small array is no mistake.

    (Once for each: whoever catches warnings does it for all threads.)
    """
    with _catching, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return grid[blocks, threads, stream]


def numbers_of(stages: Stages, lane: Lane) -> tuple[Any, ...]:
    """The specs as kernel arguments; zeros for those that are not there."""
    kinds = (DecodeSpec, EncodeSpec, DecodeSpec)
    specs = (_NONE[kind] if spec is None else spec for spec, kind in zip(stages, kinds, strict=True))
    return tuple(frozen_spec(spec, lane) for spec in specs)


def spec_types(lane: Lane) -> tuple[Any, ...]:
    """Their Numba types."""
    number = TYPES[np.dtype(lane.code)]
    return tuple(types.NamedUniTuple(number, len(kind._fields), kind) for kind in (DecodeSpec, EncodeSpec, DecodeSpec))


def array_of(dtype: Any) -> Any:
    """The type of a flat array in device memory."""
    return types.Array(TYPES[np.dtype(dtype)], 1, "C")


def _converter(has: tuple[bool, bool, bool], plan: Plan) -> Any:
    """``(bits, i, source, to, back, key, first) -> bits`` of the stages that there are; random word ``first + i``."""
    decodes, encodes, decodes_back = has
    stochastic = plan.rounding == STOCHASTIC
    plan = Plan(*plan)

    @kernel
    def converted(bits, i, source, to, back, key, first):
        word = random_word(random_counter(key, np.uint64(first + i))) if stochastic else np.uint32(0)
        return convert(
            bits, word, source if decodes else None, to if encodes else None, back if decodes_back else None, plan
        )

    return converted


@made_once
def conversion_grid(
    has: tuple[bool, bool, bool], plan: Plan, lane: Lane, reads: np.dtype[Any], writes: np.dtype[Any]
) -> Grid:
    """``grid(x, out, source, to, back, key, first)`` over flat arrays: element i has random word ``first + i``."""
    one = _converter(has, plan)
    step, tile = np.uint64(THREADS), np.uint64(TILE)

    def conversion_kernel(x, out, source, to, back, key, first):
        a = np.uint64(np.uint64(cuda.blockIdx.x) * tile + np.uint64(cuda.threadIdx.x))
        size = np.uint64(x.size)
        for _ in range(GROUPS):
            b, c, d = np.uint64(a + step), np.uint64(a + step + step), np.uint64(a + step + step + step)
            if d < size:
                p, q, r, s = x[a], x[b], x[c], x[d]
                out[a] = one(p, a, source, to, back, key, first)
                out[b] = one(q, b, source, to, back, key, first)
                out[c] = one(r, c, source, to, back, key, first)
                out[d] = one(s, d, source, to, back, key, first)
                a = np.uint64(d + step)
            else:
                for _ in range(EACH):
                    if a < size:
                        out[a] = one(x[a], a, source, to, back, key, first)
                    a = np.uint64(a + step)

    return compiled(conversion_kernel, array_of(reads), array_of(writes), *spec_types(lane), types.uint64, types.uint64)


@made_once
def strided_grid(
    axes: int, wide: bool, has: tuple[bool, bool, bool], plan: Plan, lane: Lane, reads: np.dtype[Any],
    writes: np.dtype[Any],
) -> Grid:  # fmt: skip
    """``grid(x, out, shape, x_strides, out_strides, x_first, out_first, size, source, to, back, key, first)``.

    Over arrays of so many axes, of any strides (in elements, negative ones too), given as the flat memory they lie in;
    ``x_first``, ``out_first``: where the first element is.  ``wide``: more than 2**32 elements.
    """
    one, place = _converter(has, plan), _place(axes, np.uint64 if wide else np.uint32)

    def strided_kernel(x, out, shape, x_strides, out_strides, x_first, out_first, size, source, to, back, key, first):
        i = np.uint64(np.uint64(cuda.blockIdx.x) * np.uint64(TILE) + np.uint64(cuda.threadIdx.x))
        for _ in range(EACH * GROUPS):
            if i < size:
                p, q = place(i, shape, x_strides, out_strides, x_first, out_first)
                out[np.uint64(q)] = one(x[np.uint64(p)], i, source, to, back, key, first)
            i = np.uint64(i + np.uint64(THREADS))

    many = types.UniTuple(types.int64, axes)
    return compiled(
        strided_kernel, array_of(reads), array_of(writes), many, many, many, types.int64, types.int64, types.uint64,
        *spec_types(lane), types.uint64, types.uint64,
    )  # fmt: skip


@cache
def _place(axes: int, count: type) -> Any:
    """``(i, shape, x_strides, out_strides, x, out)``: the places of element i (in C order) from those of the first.

    One function an axis, from the outermost in: a loop over a tuple would put the tuple into local memory.  Division is
    slow on a GPU, most of all in 64 bits.
    """

    @kernel
    def outermost(i, shape, x_strides, out_strides, x, out):
        return x + np.int64(i) * x_strides[0], out + np.int64(i) * out_strides[0]

    place = outermost
    for axis in range(1, axes):
        place = _inner_axis(axis, place, count)
    return place


def _inner_axis(axis: int, outer: Any, count: type) -> Any:
    @kernel
    def inner(i, shape, x_strides, out_strides, x, out):
        length = count(shape[axis])
        rest = count(count(i) // length)
        j = np.int64(count(count(i) - count(rest * length)))
        return outer(rest, shape, x_strides, out_strides, x + j * x_strides[axis], out + j * out_strides[axis])

    return inner


@made_once
def table_grid(lane: Lane, reads: np.dtype[Any]) -> Grid:
    """``grid(codes, out, table)``: look codes up."""

    def table_kernel(codes, out, table):
        i = np.uint64(np.uint64(cuda.blockIdx.x) * np.uint64(TILE) + np.uint64(cuda.threadIdx.x))
        for _ in range(EACH * GROUPS):
            if i < np.uint64(codes.size):
                out[i] = table[codes[i]]
            i = np.uint64(i + np.uint64(THREADS))

    return compiled(table_kernel, array_of(reads), array_of(lane.code), array_of(lane.code))


@made_once
def first_nan_grid(reads: np.dtype[Any]) -> Grid:
    """``grid(codes, mask, largest, alone, found)``: ``found[0]`` becomes the least index of a NaN, if it was larger.

    The numbers are those of ``chain.is_nan_limits``.
    """

    def first_nan_kernel(codes, mask, largest, alone, found):
        i = np.uint64(np.uint64(cuda.blockIdx.x) * np.uint64(TILE) + np.uint64(cuda.threadIdx.x))
        for _ in range(EACH * GROUPS):
            if i < np.uint64(codes.size):
                code = codes[i]
                if (code & mask) > largest or (code == alone and alone > 0):
                    cuda.atomic.min(found, 0, np.int64(i))
            i = np.uint64(i + np.uint64(THREADS))

    number = TYPES[reads]
    return compiled(first_nan_kernel, array_of(reads), number, number, number, types.Array(types.int64, 1, "C"))


@made_once
def largest_code_grid(reads: np.dtype[Any]) -> Grid:
    """``grid(codes, limit, found)``: ``found[0]`` becomes the largest of the codes above ``limit``, if it was less."""

    def largest_code_kernel(codes, limit, found):
        i = np.uint64(np.uint64(cuda.blockIdx.x) * np.uint64(TILE) + np.uint64(cuda.threadIdx.x))
        for _ in range(EACH * GROUPS):
            if i < np.uint64(codes.size) and codes[i] > limit:
                cuda.atomic.max(found, 0, np.int64(codes[i]))
            i = np.uint64(i + np.uint64(THREADS))

    return compiled(largest_code_kernel, array_of(reads), TYPES[reads], types.Array(types.int64, 1, "C"))


def compiled(function: Any, *signature: Any) -> Grid:
    """A grid compiled for its signature and the current GPU."""
    return cuda.jit(types.void(*signature))(function)
