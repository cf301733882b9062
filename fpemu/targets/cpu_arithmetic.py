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
from fpemu.kernels.spec import NOT_A_NUMBER, STOCHASTIC, EncodeSpec, Lane, OperandSpec, Plan
from fpemu.targets.cpu import Driver, compiled, made_once, read_only, thaw_encode, writable

Numbers = np.ndarray[Any, Any]
OPERAND = len(OperandSpec._fields)  # how many numbers an operand has
TARGET = len(EncodeSpec._fields)


@kernel
def thaw_operand(a, k):
    """The numbers from place k as an OperandSpec."""
    return OperandSpec(a[k], a[k + 1], a[k + 2], a[k + 3], a[k + 4], a[k + 5], a[k + 6], a[k + 7], a[k + 8], a[k + 9])


def numbers_of(specs: list[OperandSpec | EncodeSpec], lane: Lane) -> Numbers:
    """Specs one after another, as the small array in which they are passed."""
    return np.array([number for spec in specs for number in spec], lane.code)


@made_once
def operation_driver(operation: int, plan: Plan, lane: Lane, reads: tuple[np.dtype[Any], ...], writes: Any) -> Driver:
    """``driver(a, b, c, out, numbers, key, first)``: codes of the rounded results; element i has word ``first + i``.

    ``numbers``: of three operands and the target.  Operations of fewer operands do not read the others.
    """
    last, stochastic, step, plan = lane.bits - 1, plan.rounding == STOCHASTIC, np.uint64(GOLDEN), Plan(*plan)

    def operation_loop(a, b, c, out, numbers, key, first):
        spec_a, spec_b = thaw_operand(numbers, 0), thaw_operand(numbers, OPERAND)
        spec_c, to = thaw_operand(numbers, 2 * OPERAND), thaw_encode(numbers, 3 * OPERAND)
        counter = random_counter(key, first)
        for i in range(out.size):
            word = random_word(counter) if stochastic else np.uint32(0)
            counter = np.uint64(counter + step)
            x, y, z = open_code(a[i], spec_a, last), open_code(b[i], spec_b, last), open_code(c[i], spec_c, last)
            out[i] = round_exact(operate(operation, x, y, z, plan), word, to, plan)

    inputs = (read_only(dtype) for dtype in reads)
    signature = (*inputs, writable(writes), read_only(lane.code), types.uint64, types.uint64)
    return compiled(operation_loop, (operation, plan, lane, reads, writes), *signature)


@made_once
def invalid_driver(operation: int, plan: Plan, lane: Lane, reads: tuple[np.dtype[Any], ...]) -> Driver:
    """``driver(a, b, c, numbers)``: the index of the first result that is NaN, or the size where none is."""
    last, plan = lane.bits - 1, Plan(*plan)

    def invalid_loop(a, b, c, numbers):
        spec_a, spec_b = thaw_operand(numbers, 0), thaw_operand(numbers, OPERAND)
        spec_c = thaw_operand(numbers, 2 * OPERAND)
        for i in range(a.size):
            x, y, z = open_code(a[i], spec_a, last), open_code(b[i], spec_b, last), open_code(c[i], spec_c, last)
            if operate(operation, x, y, z, plan).kind == NOT_A_NUMBER:
                return i
        return a.size

    inputs = (read_only(dtype) for dtype in reads)
    facts = (operation, plan, lane, reads)
    return compiled(invalid_loop, facts, *inputs, read_only(lane.code), returns=types.intp)


@made_once
def relation_driver(lane: Lane, reads: tuple[np.dtype[Any], ...]) -> Driver:
    """``driver(a, b, out, numbers)``: how the values of two operands compare, as int8."""
    last = lane.bits - 1

    def relation_loop(a, b, out, numbers):
        spec_a, spec_b = thaw_operand(numbers, 0), thaw_operand(numbers, OPERAND)
        for i in range(out.size):
            out[i] = relation(open_code(a[i], spec_a, last), open_code(b[i], spec_b, last))

    inputs = (read_only(dtype) for dtype in reads)
    return compiled(relation_loop, (lane, reads), *inputs, types.Array(types.int8, 1, "C"), read_only(lane.code))
