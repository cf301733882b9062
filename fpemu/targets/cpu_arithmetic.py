"""Loops of arithmetic: each driver runs one operation over flat arrays of codes; the formats are run-time numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from fpemu.kernels.compare import relation
from fpemu.kernels.jit import kernel
from fpemu.kernels.open_code import open_code
from fpemu.kernels.operate import operate
from fpemu.kernels.random import GOLDEN, random_counter, random_word
from fpemu.kernels.round_exact import round_exact
from fpemu.kernels.spec import EXACT64, NOT_A_NUMBER, STOCHASTIC, EncodeSpec, Lane, OperandSpec, Plan
from fpemu.targets.cpu import Driver, compiled, made_once, read_only, thaw_encode, writable

Numbers = np.ndarray[Any, Any]
OPERAND = len(OperandSpec._fields)  # how many numbers an operand has
TARGET = len(EncodeSpec._fields)
GENERAL = EXACT64  # the lane of the loops whose code paths are chosen at run time


@kernel
def thaw_operand(a, k):
    """The numbers from place k as an OperandSpec."""
    return OperandSpec(
        a[k], a[k + 1], a[k + 2], a[k + 3], a[k + 4], a[k + 5], a[k + 6], a[k + 7], a[k + 8], a[k + 9], a[k + 10],
        a[k + 11],
    )  # fmt: skip


@kernel
def thaw_plan(a, k):
    """The numbers from place k as a Plan whose code paths are chosen at run time, for GENERAL."""
    return Plan(a[k], a[k + 1], a[k + 2], a[k + 3], a[k + 4], a[k + 5], a[k + 6], 61, 63, a[k + 9])


def numbers_of(specs: list[OperandSpec | EncodeSpec], lane: Lane) -> Numbers:
    """Specs one after another, as the small array in which they are passed."""
    return np.array([number for spec in specs for number in spec], lane.code)


@made_once
def operation_driver(operation: int, plan: Plan, lane: Lane, reads: tuple[np.dtype[Any], ...], writes: Any) -> Driver:
    """``driver(a, b, c, out, numbers, key, first)``: codes of the rounded results; element i has word ``first + i``.

    ``numbers``: of three operands and the target.  Operations of fewer operands do not read the others.
    """
    last, stochastic, step, plan = lane.bits - 1, plan.rounding == STOCHASTIC, np.uint64(GOLDEN), Plan(*plan)
    number = np.int64(
        operation
    )  # (of an int Numba would make a type of its own, and compile ``operate`` anew for each)

    def operation_loop(a, b, c, out, numbers, key, first):
        spec_a, spec_b = thaw_operand(numbers, 0), thaw_operand(numbers, OPERAND)
        spec_c, to = thaw_operand(numbers, 2 * OPERAND), thaw_encode(numbers, 3 * OPERAND)
        counter = random_counter(key, first)
        for i in range(out.size):
            word = random_word(counter) if stochastic else np.uint32(0)
            counter = np.uint64(counter + step)
            x, y, z = open_code(a[i], spec_a, last), open_code(b[i], spec_b, last), open_code(c[i], spec_c, last)
            out[i] = round_exact(operate(number, x, y, z, plan), word, to, plan)

    inputs = (read_only(dtype) for dtype in reads)
    signature = (*inputs, writable(writes), read_only(lane.code), types.uint64, types.uint64)
    return compiled(operation_loop, (operation, plan, lane, reads, writes), *signature)


@made_once
def general_driver() -> Driver:
    """``driver(operation, modes, a, b, c, out, numbers, key, first)``: any operation, by any plan, on uint64 codes.

    ``modes``: a plan as int64.  Returns the index of the first result that is NaN, or the size where none is.  It takes
    several times as long as a loop of one operation, but nothing has to be compiled for the next one.
    """
    step, last, lane = np.uint64(GOLDEN), GENERAL.bits - 1, GENERAL

    def general_loop(operation, modes, a, b, c, out, numbers, key, first):
        spec_a, spec_b = thaw_operand(numbers, 0), thaw_operand(numbers, OPERAND)
        spec_c, to = thaw_operand(numbers, 2 * OPERAND), thaw_encode(numbers, 3 * OPERAND)
        plan = thaw_plan(modes, 0)
        counter = random_counter(key, first)
        invalid = out.size
        for i in range(out.size):
            word = random_word(counter)
            counter = np.uint64(counter + step)
            x, y, z = open_code(a[i], spec_a, last), open_code(b[i], spec_b, last), open_code(c[i], spec_c, last)
            result = operate(operation, x, y, z, plan)
            if result.kind == NOT_A_NUMBER:
                invalid = min(invalid, i)
            out[i] = round_exact(result, word, to, plan)
        return invalid

    codes = read_only(lane.code)
    modes = types.Array(types.int64, 1, "C", readonly=True)
    signature = (types.intp, modes, codes, codes, codes, writable(lane.code), codes, types.uint64, types.uint64)
    return compiled(general_loop, lane, *signature, returns=types.intp)


@made_once
def relation_driver() -> Driver:
    """``driver(a, b, out, numbers)``: how the values of two operands compare, of uint64 codes, as int8."""
    last, lane = GENERAL.bits - 1, GENERAL

    def relation_loop(a, b, out, numbers):
        spec_a, spec_b = thaw_operand(numbers, 0), thaw_operand(numbers, OPERAND)
        for i in range(out.size):
            out[i] = relation(open_code(a[i], spec_a, last), open_code(b[i], spec_b, last))

    codes = read_only(lane.code)
    return compiled(relation_loop, lane, codes, codes, types.Array(types.int8, 1, "C"), codes)
