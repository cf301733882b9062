"""Loops of the CPU over matrix products: operands are opened panel by panel, then summed block by block.

An *opened* operand is a float32 value and a nominal exponent (int16).  Of zeros and specials, the exponent is one below all others.
The loops over the columns of a tile are innermost, a whole block of products in each: what vectorises, and what keeps sums in registers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from fpemu.kernels.block_sum import ABSENT, aligned, aligned32, rounded, top_power, unit_of
from fpemu.kernels.chain import accumulate, accumulate_rounded
from fpemu.kernels.fused import fused_multiply_add
from fpemu.kernels.grid import Grid, nearest_even, within
from fpemu.kernels.jit import kernel
from fpemu.kernels.operand import SPECIAL, opened
from fpemu.kernels.short_float32 import short_rounded
from fpemu.targets.cpu import TYPES as CODE_TYPES
from fpemu.targets.cpu import Driver, compiled, made_once, read_only, thaw_decode
from fpemu.targets.wide import use_widest_registers

COLUMNS = 128  # of a tile
CHAINS = 4  # rows of accumulators that run side by side
LARGEST_UNIT = 2.0**100  # in float32 lanes: products that exist are not so small that they would need a larger one

FLOAT32, FLOAT64, INT16 = types.float32, types.float64, types.int16


class Block(NamedTuple):
    """The facts of a BlockSum as the kernels take them."""

    fraction_bits: int
    zero_exponent: int
    grid: Grid
    nearest: bool


@kernel
def thaw_grid(numbers, k):
    """A grid from its four numbers, from the k-th on."""
    return Grid(np.int64(numbers[k]), numbers[k + 1], numbers[k + 2], numbers[k + 3])


@kernel
def thaw_block(numbers, nearest):
    """A block from its six numbers."""
    return Block(np.int64(numbers[0]), np.int64(numbers[1]), thaw_grid(numbers, 2), nearest)


def block_numbers(
    fraction_bits: int, zero_exponent: int, grid: Grid, totals: Grid
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A block's facts, and the grid that sums of spans are added on, as the small array in which drivers take them."""
    return np.array([fraction_bits, zero_exponent, *grid, *totals], np.float64)


def panel(type_, axes=2):
    """The type of a C-ordered array."""
    return types.Array(type_, axes, "C")


@made_once
def opening_driver(code_dtype: np.dtype) -> Driver:
    """``driver(codes, values, exponents, numbers, emin, mask)``: open a matrix of codes (in C order); zeros beyond its shape.

    Returns the lowest and the highest exponent among the values that are not zero, the lowest SPECIAL where one is not finite.
    """

    def opening_loop(codes, values, exponents, numbers, emin, mask):
        spec = thaw_decode(numbers, 0)
        rows, columns = codes.shape
        for p in range(rows):
            for q in range(columns):
                value, exponent = opened(codes[p, q], mask, emin, spec)
                values[p, q] = value
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

    codes: Any = types.Array(CODE_TYPES[code_dtype], 2, "C", readonly=True)
    arguments = (
        codes, panel(FLOAT32), panel(INT16), read_only(np.uint32), types.int32, types.uint32,
    )  # fmt: skip
    return compiled(opening_loop, code_dtype, *arguments, returns=types.int64)


@made_once
def block_sum_driver(unroll: int, nearest: bool, scaled: bool, paired: bool) -> Driver:
    """``driver(a, b, a_scales, b_scales, sums, totals, length, span, narrow, numbers)``.

    Adds the products of opened panels to ``totals`` (rows, COLUMNS): ``a`` is (values, exponents) of (rows, depth), ``b`` of (depth, COLUMNS);
    where operands are ``paired``, a pair for each result, both of (rows * depth, COLUMNS), row below row.  Blocks of ``length`` products, a multiple of
    ``unroll``; with a ``span``, every so many blocks are summed in ``sums`` on their own.  ``narrow``: the panels' values and
    products are numbers of float32, and none is special.
    """

    def block_sum_loop(av, ae, bv, be, asv, ase, bsv, bse, sums, totals, length, span, narrow, numbers):
        use_widest_registers()
        block, totals_grid = thaw_block(numbers, nearest), thaw_grid(numbers, 6)
        rows = totals.shape[0]
        top = np.empty(COLUMNS, np.int16)
        w = np.empty(COLUMNS, np.float64)
        unit = np.empty(COLUMNS, np.float64)
        unit32 = np.empty(COLUMNS, np.float32)
        parts = np.empty(COLUMNS, np.int32)
        total = np.empty(COLUMNS, np.float64)
        absent = np.int16(2 * ABSENT)
        blocks = bv.shape[0] // length // (rows if paired else 1)
        for index in range(blocks):
            for i in range(rows):
                block_index = i * blocks + index if paired else index
                first = block_index * length
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
                        p, q = (block_index, j) if paired else (i, index)
                        factor = np.float64(asv[p, q]) * np.float64(bsv[block_index, j])
                        e = np.int32(e + np.int32(ase[p, q]) + np.int32(bse[block_index, j]))
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
                            parts[j] = part
                        for j in range(COLUMNS):  # (apart: with both widths in one loop, half the lanes are lost)
                            total[j] += np.float64(parts[j])
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
                        totals[i, j] = within(nearest_even(totals[i, j] + cell[j], totals_grid), totals_grid)

    operand = (panel(FLOAT32), panel(INT16))
    arguments = (
        *operand, *operand, *operand, *operand, panel(FLOAT64), panel(FLOAT64), types.int64, types.int64, types.boolean,
        types.Array(FLOAT64, 1, "C", readonly=True),
    )  # fmt: skip
    return compiled(block_sum_loop, (unroll, nearest, scaled, paired), *arguments)


@made_once
def grouped_driver(length: int, group: int, paired: bool) -> Driver:
    """The same for products that are added in groups before they are scaled: blocks of ``length``, a scale for ``per_scale`` of them.

    A group's sum is exact in float32: of sixteen products of FP4 values, 144 quarters at most each.
    """

    groups = length // group

    def grouped_loop(av, ae, bv, be, asv, ase, bsv, bse, totals, per_scale, numbers):
        use_widest_registers()
        block = thaw_block(numbers, False)
        rows = totals.shape[0]
        terms = np.empty((groups, COLUMNS), np.float64)
        exponents = np.empty((groups, COLUMNS), np.int16)
        sums, top = np.empty(COLUMNS, np.float32), np.empty(COLUMNS, np.int16)
        blocks = bv.shape[0] // length // (rows if paired else 1)
        for index in range(blocks):
            for i in range(rows):
                for g in range(groups):
                    first = ((i * blocks + index if paired else index) * groups + g) * group
                    scale = first // per_scale
                    bv_k, be_k = bv[first : first + group], be[first : first + group]
                    av_i, ae_i = (
                        (av[0], ae[0]) if paired else (av[i, first : first + group], ae[i, first : first + group])
                    )
                    av_k, ae_k = (av[first : first + group], ae[first : first + group]) if paired else (bv_k, be_k)
                    for j in range(COLUMNS):
                        exact = np.float32(0)
                        for k in range(group):
                            x = av_k[k, j] if paired else av_i[k]
                            exact = np.float32(exact + np.float32(x * bv_k[k, j]))
                        sums[j] = exact
                    for j in range(COLUMNS):
                        largest = np.int16(2 * ABSENT)
                        for k in range(group):
                            e = ae_k[k, j] if paired else ae_i[k]
                            largest = max(largest, np.int16(e + be_k[k, j]))
                        top[j] = largest
                    for j in range(COLUMNS):
                        p, q = (scale, j) if paired else (i, scale)
                        factor = np.float64(asv[p, q]) * np.float64(bsv[scale, j])
                        e = np.int16(ase[p, q] + bse[scale, j])
                        terms[g, j] = np.float64(sums[j]) * factor
                        # (Absent where all products are zero; a sum that cancels to zero keeps its exponent.)
                        exponents[g, j] = np.int16(ABSENT) if top[j] < np.int16(ABSENT // 2) else e
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
        *operand, *operand, *operand, *operand, panel(FLOAT64), types.int64,
        types.Array(FLOAT64, 1, "C", readonly=True),
    )  # fmt: skip
    return compiled(grouped_loop, (length, group, paired), *arguments)


# (Not closures of the drivers, which would then be found in no cache.)
@kernel
def _step(x, a, b, grid, drop, machine, fused, reaches, short, placed, bounded):
    """One step of a chain; the flags are known when a driver is compiled."""
    if machine:
        return fused_multiply_add(a, b, x) if fused else type(x)(x + type(x)(a * b))
    p, q, total = np.float64(a), np.float64(b), np.float64(x)
    if short:
        near = short_rounded(np.float32(x), np.float32(a), np.float32(b), drop, grid.smallest_normal, placed)
        return np.float64(near)
    return accumulate(total, p, q, grid, reaches, bounded) if fused else accumulate_rounded(total, p, q, grid, bounded)


@made_once
def chain_driver(kind: str, bounded: bool = False) -> Driver:
    """``driver(a, b, totals, numbers)``: add the products of opened panels to accumulators, one after another along k.

    Kinds: ``fused`` and ``rounded`` products on the grid of ``numbers``, in float64; ``reaching``: fused where accumulators may be tiny beside
    a product; ``short rounded`` and ``placed rounded``: in float32 (short_float32.py); ``float32 fused``, ``float32 rounded``, ``float64 fused``: the
    machine's own numbers.  All arrays are of ``lane_of(kind)``, with a multiple of CHAINS rows.  ``bounded``: no sum can overflow.
    """
    unroll = 2
    machine, fused, reaches = kind.startswith("float"), not kind.endswith("rounded"), kind == "reaching"
    placed, short = kind.startswith("placed"), kind.startswith(("short", "placed"))
    number = lane_of(kind)
    lane = FLOAT32 if number is np.float32 else FLOAT64

    def chain_loop(av, bv, totals, numbers):
        use_widest_registers()
        grid = thaw_grid(numbers, 0)
        drop = np.uint32(23 - grid.trailing)
        depth = av.shape[1]
        whole = depth // unroll * unroll
        # Four rows at a time: a step waits for the one before it, but rows do not wait for each other.
        for i in range(0, totals.shape[0], CHAINS):
            p, q, r, s = totals[i], totals[i + 1], totals[i + 2], totals[i + 3]
            for k0 in range(0, depth, unroll):
                if k0 < whole:
                    rows, panel = av[i : i + CHAINS, k0 : k0 + unroll], bv[k0 : k0 + unroll]
                    for j in range(COLUMNS):
                        w, x, y, z = p[j], q[j], r[j], s[j]
                        for k in range(unroll):
                            b = panel[k, j]
                            w = number(
                                _step(w, rows[0, k], b, grid, drop, machine, fused, reaches, short, placed, bounded)
                            )
                            x = number(
                                _step(x, rows[1, k], b, grid, drop, machine, fused, reaches, short, placed, bounded)
                            )
                            y = number(
                                _step(y, rows[2, k], b, grid, drop, machine, fused, reaches, short, placed, bounded)
                            )
                            z = number(
                                _step(z, rows[3, k], b, grid, drop, machine, fused, reaches, short, placed, bounded)
                            )
                        p[j], q[j], r[j], s[j] = w, x, y, z
                else:
                    for k in range(k0, depth):
                        for row in range(i, i + CHAINS):
                            for j in range(COLUMNS):
                                x, a, b = totals[row, j], av[row, k], bv[k, j]
                                totals[row, j] = _step(
                                    x, a, b, grid, drop, machine, fused, reaches, short, placed, bounded
                                )

    numbers = types.Array(FLOAT64, 1, "C", readonly=True)
    return compiled(chain_loop, (kind, bounded), panel(lane), panel(lane), panel(lane), numbers)


def lane_of(kind: str) -> type[np.float32] | type[np.float64]:
    """The numbers in which ``chain_driver(kind)`` takes its operands and accumulators."""
    return np.float32 if kind.startswith(("float32", "short", "placed")) else np.float64


@made_once
def ends_driver() -> Driver:
    """``driver(a, b) -> (sum, least, largest)`` of the magnitudes of the products of opened panels (rows, depth) and (depth, COLUMNS).

    Taken from the ends of the operands of each step: the sum and the largest are no less than what they are, the least (but zero) no more.
    """

    def ends_loop(av, bv):
        low, high = np.full(av.shape[1], np.float32(np.inf)), np.zeros(av.shape[1], np.float32)
        for i in range(av.shape[0]):
            for k in range(av.shape[1]):
                x = abs(av[i, k])
                high[k] = max(high[k], x)
                low[k] = min(low[k], x if x > 0 else np.float32(np.inf))
        total, least, largest = 0.0, np.inf, 0.0
        for k in range(bv.shape[0]):
            bottom, top = np.float32(np.inf), np.float32(0)
            for j in range(COLUMNS):
                x = abs(bv[k, j])
                top = max(top, x)
                bottom = min(bottom, x if x > 0 else np.float32(np.inf))
            product = np.float64(high[k]) * np.float64(top)
            total += product
            largest = max(largest, product)
            least = min(least, np.float64(low[k]) * np.float64(bottom))
        return total, least, largest

    return compiled(ends_loop, (), panel(FLOAT32), panel(FLOAT32), returns=types.UniTuple(types.float64, 3))
