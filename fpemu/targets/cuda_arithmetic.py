"""Grids of arithmetic: an operation, rounded once, on elements of flat arrays of codes; the scalar kernels are those of the CPU.

All of it is integers but for quotients and roots, whose float results feed no sum: nothing contracts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, types

from fpemu.kernels.compare import relation
from fpemu.kernels.open_code import open_code
from fpemu.kernels.operate import operate
from fpemu.kernels.random import random_counter, random_word
from fpemu.kernels.round_exact import round_exact
from fpemu.kernels.spec import EXACT64, NOT_A_NUMBER, STOCHASTIC, EncodeSpec, Lane, OperandSpec, Plan
from fpemu.targets.cpu import TYPES, made_once
from fpemu.targets.cuda import EACH, GROUPS, THREADS, TILE, Grid, array_of, compiled


def _spec(kind: Any, lane: Lane) -> Any:
    return types.NamedUniTuple(TYPES[np.dtype(lane.code)], len(kind._fields), kind)


_STEPS = types.UniTuple(types.uint64, 3)
_FOUND = types.Array(types.int64, 1, "C")


@made_once
def operation_grid(
    operation: int, plan: Plan, lane: Lane, reads: tuple[np.dtype[Any], ...], writes: np.dtype[Any]
) -> Grid:
    """``grid(a, b, c, out, steps, spec_a, spec_b, spec_c, to, key, first, found)``: element i has random word ``first + i``.

    ``steps``: from an element of each operand to the next; 0 for one that is the same for all.  Operations of fewer operands do not read the
    others.  ``found[0]`` becomes the least index of a result that is NaN, if it was larger.
    """
    last, stochastic, plan = lane.bits - 1, plan.rounding == STOCHASTIC, Plan(*plan)
    number = np.int64(operation)

    def operation_kernel(a, b, c, out, steps, spec_a, spec_b, spec_c, to, key, first, found):
        i = np.uint64(np.uint64(cuda.blockIdx.x) * np.uint64(TILE) + np.uint64(cuda.threadIdx.x))
        for _ in range(EACH * GROUPS):
            if i < np.uint64(out.size):
                word = random_word(random_counter(key, np.uint64(first + i))) if stochastic else np.uint32(0)
                x = open_code(a[np.uint64(i * steps[0])], spec_a, last)
                y = open_code(b[np.uint64(i * steps[1])], spec_b, last)
                z = open_code(c[np.uint64(i * steps[2])], spec_c, last)
                result = operate(number, x, y, z, plan)
                if result.kind == NOT_A_NUMBER and found.size > 0:
                    cuda.atomic.min(found, 0, np.int64(i))
                out[i] = round_exact(result, word, to, plan)
            i = np.uint64(i + np.uint64(THREADS))

    operands = (_spec(OperandSpec, lane),) * 3
    return compiled(
        operation_kernel, *(array_of(dtype) for dtype in reads), array_of(writes), _STEPS, *operands,
        _spec(EncodeSpec, lane), types.uint64, types.uint64, _FOUND,
    )  # fmt: skip


@made_once
def relation_grid(reads: tuple[np.dtype[Any], ...]) -> Grid:
    """``grid(a, b, out, steps, spec_a, spec_b)``: how the values of two operands compare, as int8."""
    last, lane = EXACT64.bits - 1, EXACT64

    def relation_kernel(a, b, out, steps, spec_a, spec_b):
        i = np.uint64(np.uint64(cuda.blockIdx.x) * np.uint64(TILE) + np.uint64(cuda.threadIdx.x))
        for _ in range(EACH * GROUPS):
            if i < np.uint64(out.size):
                x = open_code(a[np.uint64(i * steps[0])], spec_a, last)
                y = open_code(b[np.uint64(i * steps[1])], spec_b, last)
                out[i] = relation(x, y)
            i = np.uint64(i + np.uint64(THREADS))

    out = types.Array(types.int8, 1, "C")
    return compiled(relation_kernel, *map(array_of, reads), out, _STEPS, *(_spec(OperandSpec, lane),) * 2)


@made_once
def signs_grid(reads: np.dtype[Any]) -> Grid:
    """``grid(x, out, step, kept, flipped, magnitude, negative_zero)``: codes whose sign bit is not ``kept``, or ``flipped``.

    Where there is no negative zero, codes without ``magnitude`` stay.
    """

    def signs_kernel(x, out, step, kept, flipped, magnitude, negative_zero):
        i = np.uint64(np.uint64(cuda.blockIdx.x) * np.uint64(TILE) + np.uint64(cuda.threadIdx.x))
        for _ in range(EACH * GROUPS):
            if i < np.uint64(out.size):
                code = x[np.uint64(i * step)]
                out[i] = (code & kept) ^ flipped if negative_zero or (code & magnitude) != 0 else code
            i = np.uint64(i + np.uint64(THREADS))

    number = TYPES[reads]
    return compiled(signs_kernel, array_of(reads), array_of(reads), types.uint64, number, number, number, types.boolean)
