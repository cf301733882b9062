"""Loops of the CPU over matrix products: operands are opened panel by panel, then summed block by block.

An *opened* operand is a float32 value and a nominal exponent (int16).  Of zeros and specials, the exponent is one below all others.
The loops over the columns of a tile are innermost, a whole block of products in each: what vectorises, and what keeps sums in registers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types

from fpemu.kernels.block_sum import ABSENT, aligned, aligned32, rounded, top_power, unit_of
from fpemu.kernels.decode import decode
from fpemu.kernels.grid import Grid, nearest_even
from fpemu.kernels.jit import kernel
from fpemu.targets.cpu import Driver, compiled, made_once, read_only, thaw_decode
from fpemu.targets.cpu import TYPES as CODE_TYPES

COLUMNS = 128  # of a tile
SPECIAL = ABSENT - 1  # the exponent of NaN and infinity
LARGEST_UNIT = 2.0**100  # in float32 lanes: products that exist are not so small that they would need a larger one

FLOAT32, FLOAT64, INT16 = types.float32, types.float64, types.int16


class Block(NamedTuple):
    """The facts of a BlockSum as the kernels take them."""

    fraction_bits: int
    zero_exponent: int
    grid: Grid
    nearest: bool


@kernel
def _thaw_grid(numbers, k):
    return Grid(np.int64(numbers[k]), numbers[k + 1], numbers[k + 2], numbers[k + 3])


@kernel
def _thaw_block(numbers, nearest):
    return Block(np.int64(numbers[0]), np.int64(numbers[1]), _thaw_grid(numbers, 2), nearest)


def block_numbers(
    fraction_bits: int, zero_exponent: int, grid: Grid, totals: Grid
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A block's facts, and the grid that sums of spans are added on, as the small array in which drivers take them."""
    return np.array([fraction_bits, zero_exponent, *grid, *totals], np.float64)


def matrix(type_, readonly=False):
    """The type of a 2-D array of any strides."""
    return types.Array(type_, 2, "A", readonly=readonly)


def panel(type_, axes=2):
    """The type of a C-ordered array."""
    return types.Array(type_, axes, "C")


@made_once
def opening_driver(code_dtype: np.dtype) -> Driver:
    """``driver(codes, values, exponents, numbers, emin, mask)``: open a matrix of codes; zeros beyond its shape.

    Returns the lowest and the highest exponent among the values that are not zero, the lowest SPECIAL where one is not finite.
    """

    def opening_loop(codes, values, exponents, numbers, emin, mask):
        spec = thaw_decode(numbers, 0)
        rows, columns = codes.shape
        for p in range(rows):
            for q in range(columns):
                bits = decode(np.uint32(np.uint32(codes[p, q]) & mask), spec, 31)
                magnitude = np.uint32(bits & np.uint32(0x7FFFFFFF))
                exponent = max(np.int32(np.int32(magnitude >> np.uint32(23)) - np.int32(127)), np.int32(emin))
                exponent = np.int32(ABSENT) if magnitude == np.uint32(0) else exponent
                exponent = np.int32(SPECIAL) if magnitude >= np.uint32(0x7F800000) else exponent
                values[p, q] = np.uint32(bits).view(np.float32)
                exponents[p, q] = np.int16(exponent)
            for q in range(columns, values.shape[1]):
                values[p, q] = np.float32(0)
                exponents[p, q] = np.int16(ABSENT)
        for p in range(rows, values.shape[0]):
            for q in range(values.shape[1]):
                values[p, q] = np.float32(0)
                exponents[p, q] = np.int16(ABSENT)
        lowest, highest = np.int16(0x7FFF), np.int16(SPECIAL)
        for p in range(rows):
            for q in range(columns):
                e = exponents[p, q]
                lowest = min(lowest, np.int16(0x7FFF) if e == np.int16(ABSENT) else e)
                highest = max(highest, e)
        return np.int64(lowest) * np.int64(1 << 16) + np.int64(highest)

    code = CODE_TYPES[code_dtype]
    arguments = (
        matrix(code, True), panel(FLOAT32), panel(INT16), read_only(np.uint32), types.int32, types.uint32,
    )  # fmt: skip
    return compiled(opening_loop, code_dtype, *arguments, returns=types.int64)


@made_once
def block_sum_driver(unroll: int, nearest: bool, scaled: bool, paired: bool) -> Driver:
    """``driver(a, b, a_scales, b_scales, sums, totals, length, span, narrow, numbers)``.

    Adds the products of opened panels to ``totals`` (rows, COLUMNS): ``a`` is (values, exponents) of (rows, depth), or of (depth, COLUMNS)
    and one row where operands are ``paired``, a pair for each column; ``b`` of (depth, COLUMNS).  Blocks of ``length`` products, a multiple of
    ``unroll``; with a ``span``, every so many blocks are summed in ``sums`` on their own.  ``narrow``: the panels' values and
    products are numbers of float32, and none is special.
    """

    def block_sum_loop(av, ae, bv, be, asv, ase, bsv, bse, sums, totals, length, span, narrow, numbers):
        block, totals_grid = _thaw_block(numbers, nearest), _thaw_grid(numbers, 6)
        rows = totals.shape[0]
        top = np.empty(COLUMNS, np.int16)
        w = np.empty(COLUMNS, np.float64)
        unit = np.empty(COLUMNS, np.float64)
        unit32 = np.empty(COLUMNS, np.float32)
        total = np.empty(COLUMNS, np.float64)
        absent = np.int16(2 * ABSENT)
        for index in range(bv.shape[0] // length):
            first = index * length
            for i in range(rows):
                cell = sums[i] if span else totals[i]
                if span and index % span == 0:
                    for j in range(COLUMNS):
                        cell[j] = 0.0
                for k0 in range(first, first + length, unroll):
                    be_k = be[k0 : k0 + unroll]
                    ae_i = ae[i, k0 : k0 + unroll] if not paired else ae[0, :unroll]
                    ae_k = ae[k0 : k0 + unroll] if paired else be_k
                    for j in range(COLUMNS):
                        largest = absent
                        for k in range(unroll):
                            e = ae_k[k, j] if paired else ae_i[k]
                            largest = max(largest, np.int16(e + be_k[k, j]))
                        top[j] = largest if k0 == first else max(largest, top[j])
                for j in range(COLUMNS):
                    c, e, factor = cell[j], np.int32(top[j]), 1.0
                    if scaled:
                        s = asv[index, j] if paired else asv[i, index]
                        se = ase[index, j] if paired else ase[i, index]
                        factor = np.float64(s) * np.float64(bsv[index, j])
                        e = np.int32(e + np.int32(se) + np.int32(bse[index, j]))
                    w[j] = top_power(e, c, block)
                    u = unit_of(w[j], block)
                    total[j] = aligned(c, u)
                    unit[j] = u * factor
                    unit32[j] = np.float32(min(u * factor, LARGEST_UNIT))
                for k0 in range(first, first + length, unroll):
                    bv_k = bv[k0 : k0 + unroll]
                    av_i = av[i, k0 : k0 + unroll] if not paired else av[0, :unroll]
                    av_k = av[k0 : k0 + unroll] if paired else bv_k
                    if narrow:
                        for j in range(COLUMNS):
                            part = np.int32(0)
                            for k in range(unroll):
                                x = np.float32((av_k[k, j] if paired else av_i[k]) * bv_k[k, j])
                                part = np.int32(part + aligned32(x, unit32[j]))
                            total[j] += np.float64(part)
                    else:
                        for j in range(COLUMNS):
                            whole = 0.0
                            for k in range(unroll):
                                x = np.float64(av_k[k, j] if paired else av_i[k]) * np.float64(bv_k[k, j])
                                whole += aligned(x, unit[j])
                            total[j] += whole
                for j in range(COLUMNS):
                    cell[j] = rounded(total[j], w[j], block)
                if span and (index + 1) % span == 0:
                    for j in range(COLUMNS):
                        totals[i, j] = nearest_even(totals[i, j] + cell[j], totals_grid)

    operand = (panel(FLOAT32), panel(INT16))
    arguments = (
        *operand, *operand, *operand, *operand, panel(FLOAT64), panel(FLOAT64), types.int64, types.int64, types.boolean,
        types.Array(FLOAT64, 1, "C", readonly=True),
    )  # fmt: skip
    return compiled(block_sum_loop, (unroll, nearest, scaled, paired), *arguments)


@made_once
def grouped_driver(paired: bool) -> Driver:
    """The same for products that are added in groups before they are scaled: blocks of ``length``, a scale for ``per_scale`` of them.

    A group's sum is exact in float32: of sixteen products of FP4 values, 144 quarters at most each.
    """

    def grouped_loop(av, ae, bv, be, asv, ase, bsv, bse, totals, length, group, per_scale, numbers):
        block = _thaw_block(numbers, False)
        rows, groups = totals.shape[0], length // group
        terms = np.empty((groups, COLUMNS), np.float64)
        exponents = np.empty((groups, COLUMNS), np.int16)
        for index in range(bv.shape[0] // length):
            for i in range(rows):
                for g in range(groups):
                    first = index * length + g * group
                    scale = first // per_scale
                    for j in range(COLUMNS):
                        exact, largest = np.float32(0), np.int16(2 * ABSENT)
                        for k in range(first, first + group):
                            p, q = (k, j) if paired else (i, k)
                            exact = np.float32(exact + np.float32(av[p, q] * bv[k, j]))
                            largest = max(largest, np.int16(ae[p, q] + be[k, j]))
                        p, q = (scale, j) if paired else (i, scale)
                        factor = np.float64(asv[p, q]) * np.float64(bsv[scale, j])
                        e = np.int16(ase[p, q] + bse[scale, j])
                        terms[g, j] = np.float64(exact) * factor
                        # (Where all products are zero; a sum that cancels to zero keeps its exponent.)
                        exponents[g, j] = np.int16(ABSENT) if largest < np.int16(ABSENT // 2) else e
                for j in range(COLUMNS):
                    c, e = totals[i, j], np.int16(2 * ABSENT)
                    for g in range(groups):
                        e = max(e, exponents[g, j])
                    w = top_power(np.int32(e), c, block)
                    u = unit_of(w, block)
                    total = aligned(c, u)
                    for g in range(groups):
                        total += aligned(terms[g, j], u)
                    totals[i, j] = rounded(total, w, block)

    operand = (panel(FLOAT32), panel(INT16))
    arguments = (
        *operand, *operand, *operand, *operand, panel(FLOAT64), types.int64, types.int64, types.int64,
        types.Array(FLOAT64, 1, "C", readonly=True),
    )  # fmt: skip
    return compiled(grouped_loop, paired, *arguments)
