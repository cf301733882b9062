"""Grids of matrix products: a block of threads for a tile of the result, each thread one element, whose chain along k is its own.

Panels of k are opened into shared memory by all threads of a block.  The steps of an element are those of the scalar kernels, which the loops of the
CPU take too, so the bits are the same.  Three things keep contractions (a product and a sum in one rounding) from changing them:

- of a block sum, every product is exact: of float32 values in float64, of narrow ones in float32, or with a power of two;
- so are those of accumulators on a grid, which ``chain_kind`` gives only where float64 holds them;
- of the machine's own floats, ``product32`` and ``product64`` are rounded by an instruction of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, types

from fpemu.kernels.block_sum import ABSENT, aligned, aligned32, rounded, top_power, unit_of
from fpemu.kernels.chain import accumulate, accumulate_rounded
from fpemu.kernels.decode import decode
from fpemu.kernels.encode import encode
from fpemu.kernels.fused import fused_multiply_add
from fpemu.kernels.grid import nearest_even, within
from fpemu.kernels.jit import kernel
from fpemu.kernels.operand import opened
from fpemu.kernels.short_float32 import short_step, sure_step
from fpemu.kernels.spec import DecodeSpec, EncodeSpec, Plan
from fpemu.targets.cpu import made_once
from fpemu.targets.cpu_matmul import LARGEST_UNIT, thaw_block, thaw_grid
from fpemu.targets.cuda import SIMULATED, Grid, array_of, compiled

SIDE = 8 if SIMULATED else 16  # of a tile (in the simulator a thread is one of Python's)
THREADS = SIDE * SIDE  # of a block
DEPTH = 32  # products of a panel, if a block has no more
PARTS = 16  # products that add up in an int32, of at most 25 fraction bits
PAD = 1  # a row of a panel begins in another bank of shared memory than the one before it

_U, _I = np.uint32, np.int32
_QUIET_NAN = 0x7FF8 << 48


@kernel
def _product(a, b):
    return a * b


product32 = _product if SIMULATED else cuda.libdevice.fmul_rn  # type: ignore[attr-defined]
product64 = _product if SIMULATED else cuda.libdevice.dmul_rn  # type: ignore[attr-defined]


@kernel
def _place(at, batch, row, column):
    """The place of an element in flat memory: from that of the first, and strides."""
    return np.uint64(at[0] + batch * at[1] + row * at[2] + column * at[3])


@kernel
def _own_element(m, n):
    """``(batch, row, column)`` in the result of a thread's element; beyond its ends there may be none."""
    tiles_m, tiles_n = _U((m + (SIDE - 1)) // SIDE), _U((n + (SIDE - 1)) // SIDE)
    tile, t = _U(cuda.blockIdx.x), _U(cuda.threadIdx.x)
    above = _U(tile // tiles_n)
    batch = _U(above // tiles_m)
    row = np.int64(_U(above - _U(batch * tiles_m))) * SIDE + np.int64(t // _U(SIDE))
    column = np.int64(_U(tile - _U(above * tiles_n))) * SIDE + np.int64(t % _U(SIDE))
    return np.int64(batch), row, column


_AT = types.UniTuple(
    types.int64, 4
)  # of a strided operand: the place of its first element, strides of batch, row and column
_WORD, _DOUBLE = types.uint32, types.uint64


def _spec(kind: Any, number: Any) -> Any:
    return types.NamedUniTuple(number, len(kind._fields), kind)


def panel_depth(length: int, span: int) -> int:
    """Products of a panel: whole blocks, and of a ``span`` whose products are not in their order the whole of it."""
    return span or max(DEPTH, length)


@made_once
def block_sum_grid(
    length: int, group: int, nearest: bool, promotes: bool, scaled: bool, picked: int, plan: Plan,
    reads: tuple[np.dtype[Any], np.dtype[Any]], writes: np.dtype[Any],
) -> Grid:  # fmt: skip
    """``grid(a, b, c, out, a_scales, b_scales, ..., to)``: add the products to ``c`` in blocks of ``length``; ``out`` gets codes.

    Arrays are flat memory, each with its ``at``.  ``scale_values``, ``scale_exponents``: of each code of a scale; ``per_scale``
    products share one.  ``places``: of a span of so many products as are ``picked``, in which order they enter blocks.  ``blocks``: how many;
    ``every`` so many are summed on their own, if it ``promotes``.  ``opening``: the smallest exponent and the mask of both operands, and
    between which exponents of factors products are narrow.
    """
    depth, groups = panel_depth(length, picked), length // group if group else 0
    pitch, a_cells, b_cells = depth + PAD, SIDE * (depth + PAD), SIDE * depth
    part = min(length, PARTS)
    plan = Plan(*plan)
    absent = 2 * ABSENT

    @kernel
    def largest_exponent(ae, be, p, q, first, many):
        """Of the products first to first + many."""
        largest = _I(absent)
        for j in range(many):
            k = _U(first + _U(j))
            largest = _I(max(largest, _I(ae[_U(p + k)] + be[_U(q + _U(k * _U(SIDE)))])))
        return largest

    @kernel
    def exact_sum(av, bv, p, q, first):
        """Of the products of a group, without any rounding."""
        total = np.float32(0)
        for j in range(group):
            k = _U(first + _U(j))
            total = np.float32(total + np.float32(av[_U(p + k)] * bv[_U(q + _U(k * _U(SIDE)))]))
        return total

    @kernel
    def narrow_sum(av, bv, p, q, first, unit):
        """Of a block's products in units, which are small enough for float32 and int32."""
        whole = 0.0
        for start in range(0, length, part):
            total = _I(0)
            for j in range(part):
                k = _U(first + _U(start + j))
                x = np.float32(av[_U(p + k)] * bv[_U(q + _U(k * _U(SIDE)))])
                total = _I(total + aligned32(x, unit))
            whole += np.float64(total)
        return whole

    @kernel
    def wide_sum(av, bv, p, q, first, unit):
        """The same of any products."""
        whole = 0.0
        for j in range(length):
            k = _U(first + _U(j))
            whole += aligned(np.float64(av[_U(p + k)]) * np.float64(bv[_U(q + _U(k * _U(SIDE)))]), unit)
        return whole

    @kernel
    def scale_of(scales, at, batch, row, column, exists, values, exponents):
        """``(value, exponent)`` of a block scale; zero beyond the last."""
        code = scales[_place(at, batch, row if exists else np.int64(0), column if exists else np.int64(0))]
        value = values[code] if exists else np.float32(0)
        return np.float64(value), _I(exponents[code]) if exists else _I(ABSENT)

    def block_sum_kernel(
        a, b, c, out, a_scales, b_scales, scale_values, scale_exponents, places, a_at, b_at, c_at, out_at, a_scales_at,
        b_scales_at, m, n, k, blocks, every, per_scale, opening, numbers, a_spec, b_spec, c_spec, to,
    ):  # fmt: skip
        av = cuda.shared.array(a_cells, types.float32)
        ae = cuda.shared.array(a_cells, types.int32)
        bv = cuda.shared.array(b_cells, types.float32)
        be = cuda.shared.array(b_cells, types.int32)
        block, totals_grid = thaw_block(numbers, nearest), thaw_grid(numbers, 6)
        a_emin, a_mask, b_emin, b_mask = _I(opening[0]), _U(opening[1]), _I(opening[2]), _U(opening[3])
        lowest, highest = _I(opening[4]), _I(opening[5])

        t = _U(cuda.threadIdx.x)
        batch, row, column = _own_element(m, n)
        corner_row, corner_column = row - np.int64(t // _U(SIDE)), column - np.int64(t % _U(SIDE))
        p, q = _U(_U(t // _U(SIDE)) * _U(pitch)), _U(t % _U(SIDE))
        alive = row < m and column < n
        total = 0.0
        if alive:
            total = np.uint64(decode(c[_place(c_at, batch, row, column)], c_spec, 63)).view(np.float64)
        result = total  # of all spans so far
        total = 0.0 if promotes else total

        for start in range(0, blocks * length, depth):
            # Open a panel: neighbouring threads take neighbours along k of a, and along columns of b.
            beyond = _I(0)
            for turn in range(0, SIDE * depth, THREADS):
                s = _U(_U(turn) + t)
                if s < _U(SIDE * depth):
                    i, j = _U(s // _U(depth)), _U(s % _U(depth))
                    place = start + (np.int64(places[j]) if picked else np.int64(j))
                    value, exponent = np.float32(0), _I(ABSENT)
                    if corner_row + np.int64(i) < m and place < k:
                        code = a[_place(a_at, batch, corner_row + np.int64(i), place)]
                        value, exponent = opened(code, a_mask, a_emin, a_spec)
                    av[_U(_U(i * _U(pitch)) + j)] = value
                    ae[_U(_U(i * _U(pitch)) + j)] = exponent
                    if exponent != _I(ABSENT) and (exponent < lowest or exponent > highest):
                        beyond = _I(1)
                    i, j = _U(s // _U(SIDE)), _U(s % _U(SIDE))
                    place = start + (np.int64(places[i]) if picked else np.int64(i))
                    value, exponent = np.float32(0), _I(ABSENT)
                    if corner_column + np.int64(j) < n and place < k:
                        code = b[_place(b_at, batch, place, corner_column + np.int64(j))]
                        value, exponent = opened(code, b_mask, b_emin, b_spec)
                    bv[s] = value
                    be[s] = exponent
                    if exponent != _I(ABSENT) and (exponent < lowest or exponent > highest):
                        beyond = _I(1)
            wide = cuda.syncthreads_or(beyond)

            for turn in range(depth // length):
                index = start // length + turn
                if alive and index < blocks:
                    first = _U(turn * length)
                    if group:
                        e = _I(absent)
                        for g in range(groups):
                            here = _U(first + _U(g * group))
                            scale = (index * length + g * group) // per_scale
                            exists = scale * per_scale < k
                            se = scale_of(
                                a_scales, a_scales_at, batch, row, scale, exists, scale_values, scale_exponents
                            )[1]
                            te = scale_of(
                                b_scales, b_scales_at, batch, scale, column, exists, scale_values, scale_exponents
                            )[1]
                            # (Absent where all products are zero; a sum that cancels to zero keeps its exponent.)
                            zero = largest_exponent(ae, be, p, q, here, group) < _I(ABSENT // 2)
                            e = _I(max(e, _I(ABSENT) if zero else _I(se + te)))
                        w = top_power(e, total, block)
                        unit = unit_of(w, block)
                        added = aligned(total, unit)
                        for g in range(groups):
                            here = _U(first + _U(g * group))
                            scale = (index * length + g * group) // per_scale
                            exists = scale * per_scale < k
                            sv = scale_of(
                                a_scales, a_scales_at, batch, row, scale, exists, scale_values, scale_exponents
                            )[0]
                            tv = scale_of(
                                b_scales, b_scales_at, batch, scale, column, exists, scale_values, scale_exponents
                            )[0]
                            added += aligned(np.float64(exact_sum(av, bv, p, q, here)) * (sv * tv), unit)
                    else:
                        e, factor = largest_exponent(ae, be, p, q, first, length), 1.0
                        if scaled:
                            scale = index * length // per_scale
                            exists = scale * per_scale < k
                            sv, se = scale_of(
                                a_scales, a_scales_at, batch, row, scale, exists, scale_values, scale_exponents
                            )
                            tv, te = scale_of(
                                b_scales, b_scales_at, batch, scale, column, exists, scale_values, scale_exponents
                            )
                            e, factor = _I(e + _I(se + te)), sv * tv
                        w = top_power(e, total, block)
                        unit = unit_of(w, block)
                        added = aligned(total, unit)
                        if wide == 0 and 0.0 <= factor < np.inf:
                            added += narrow_sum(av, bv, p, q, first, np.float32(min(unit * factor, LARGEST_UNIT)))
                        else:
                            added += wide_sum(av, bv, p, q, first, unit * factor)
                    total = rounded(added, w, block)
                    if promotes and (index + 1) % every == 0:
                        result = within(nearest_even(result + total, totals_grid), totals_grid)
                        total = 0.0
            cuda.syncthreads()

        if alive:
            bits = np.float64(result if promotes else total).view(np.uint64)
            out[_place(out_at, batch, row, column)] = encode(bits, _U(0), to, plan)

    byte, count, words = types.Array(types.uint8, 1, "C"), types.int64, _spec(DecodeSpec, _WORD)
    return compiled(
        block_sum_kernel, array_of(reads[0]), array_of(reads[1]), array_of(writes), array_of(writes), byte, byte,
        types.Array(types.float32, 1, "C"), types.Array(types.int16, 1, "C"), types.Array(types.int32, 1, "C"),
        _AT, _AT, _AT, _AT, _AT, _AT, count, count, count, count, count, count, types.UniTuple(types.int64, 6),
        types.UniTuple(types.float64, 10), words, words, _spec(DecodeSpec, _DOUBLE), _spec(EncodeSpec, _DOUBLE),
    )  # fmt: skip


@made_once
def chain_grid(
    kind: str, drop: int, plan: Plan, reads: tuple[np.dtype[Any], np.dtype[Any]], writes: np.dtype[Any]
) -> Grid:
    """``grid(a, b, c, out, a_at, b_at, c_at, out_at, m, n, k, opening, numbers, a_spec, b_spec, c_spec, to)``: one step after another.

    Kinds and ``drop`` are those of ``host_matmul.chain_kind``; ``numbers``: of the accumulator's grid.
    """
    in_float32, in_float64 = kind.startswith(("float32", "short")), kind.startswith("float64")
    fused, short = not kind.endswith("rounded"), kind.startswith("short")
    lane, number = (types.float32, np.float32) if in_float32 else (types.float64, np.float64)
    machine, reaches = kind.startswith("float"), kind == "reaching"
    pitch, a_cells, b_cells = DEPTH + PAD, SIDE * (DEPTH + PAD), SIDE * DEPTH
    plan = Plan(*plan)

    @kernel
    def value_of(code, mask, emin, spec):
        """An operand in the lane of the accumulators."""
        if in_float64:
            return np.uint64(code).view(np.float64)
        return number(opened(code, mask, emin, spec)[0])

    @kernel
    def step(x, a, b, grid):
        if short:
            total, doubtful = short_step(x, a, b, drop, fused)
            if doubtful:
                total = np.float32(sure_step(np.float64(x), np.float64(a), np.float64(b), grid, fused))
            return total
        if machine:
            if fused:
                return fused_multiply_add(a, b, x)
            return number(x + (product32(a, b) if in_float32 else product64(a, b)))
        y, e, f = np.float64(x), np.float64(a), np.float64(b)  # (which they are)
        return accumulate(y, e, f, grid, reaches, False) if fused else accumulate_rounded(y, e, f, grid, False)

    def chain_kernel(
        a, b, c, out, a_at, b_at, c_at, out_at, m, n, k, opening, numbers, a_spec, b_spec, c_spec, to
    ):  # fmt: skip
        av = cuda.shared.array(a_cells, lane)
        bv = cuda.shared.array(b_cells, lane)
        grid = thaw_grid(numbers, 0)
        a_mask, b_mask = _U(opening[1]), _U(opening[3])
        a_emin, b_emin = _I(opening[0]), _I(opening[2])

        t = _U(cuda.threadIdx.x)
        batch, row, column = _own_element(m, n)
        corner_row, corner_column = row - np.int64(t // _U(SIDE)), column - np.int64(t % _U(SIDE))
        p, q = _U(_U(t // _U(SIDE)) * _U(pitch)), _U(t % _U(SIDE))
        alive = row < m and column < n
        x = number(0)
        if alive:
            code = c[_place(c_at, batch, row, column)]
            bits = np.uint64(code) if in_float64 else np.uint64(decode(code, c_spec, 63))
            x = number(np.uint64(bits).view(np.float64))

        for start in range(0, k, DEPTH):
            for turn in range(0, SIDE * DEPTH, THREADS):
                s = _U(_U(turn) + t)
                i, j = _U(s // _U(DEPTH)), _U(s % _U(DEPTH))
                place, value = start + np.int64(j), number(0)
                if corner_row + np.int64(i) < m and place < k:
                    value = value_of(a[_place(a_at, batch, corner_row + np.int64(i), place)], a_mask, a_emin, a_spec)
                av[_U(_U(i * _U(pitch)) + j)] = value
                i, j = _U(s // _U(SIDE)), _U(s % _U(SIDE))
                place, value = start + np.int64(i), number(0)
                if corner_column + np.int64(j) < n and place < k:
                    value = value_of(b[_place(b_at, batch, place, corner_column + np.int64(j))], b_mask, b_emin, b_spec)
                bv[s] = value
            cuda.syncthreads()
            if alive:
                # (Not zeros beyond the last product: a sum of -0 would lose its sign.)
                for j in range(min(DEPTH, k - start)):
                    x = number(step(x, av[_U(p + _U(j))], bv[_U(q + _U(_U(j) * _U(SIDE)))], grid))
            cuda.syncthreads()

        if alive:
            place = _place(out_at, batch, row, column)
            if in_float64:
                bits = np.float64(x).view(np.uint64)
                out[place] = np.uint64(_QUIET_NAN) if x != x else bits
            else:
                out[place] = encode(np.float64(x).view(np.uint64), _U(0), to, plan)

    words, count = _spec(DecodeSpec, _WORD), types.int64
    return compiled(
        chain_kernel, array_of(reads[0]), array_of(reads[1]), array_of(writes), array_of(writes), _AT, _AT, _AT, _AT,
        count, count, count, types.UniTuple(types.int64, 6), types.UniTuple(types.float64, 4), words, words,
        _spec(DecodeSpec, _DOUBLE), _spec(EncodeSpec, _DOUBLE),
    )  # fmt: skip
