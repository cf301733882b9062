"""Loops of sums and dot products: a strip of outputs at a time, so that independent sums fill the vector lanes.

The r-th rounding of output o (both from 0) has random word ``first + o * step + r``, where ``step`` is the number of
roundings of one output (``Order.roundings``), counted in the order in which they are done.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from fpemu.kernels.accumulate import accumulate, compensate
from fpemu.kernels.jit import kernel
from fpemu.kernels.multiply import multiply
from fpemu.kernels.open_code import open_code
from fpemu.kernels.random import random_counter, random_word
from fpemu.kernels.round_exact import round_exact
from fpemu.kernels.spec import NOT_A_NUMBER, STOCHASTIC, Lane, Plan
from fpemu.orders import CHUNKED, KAHAN, NAMES, PAIRWISE
from fpemu.targets.cpu import TYPES, Driver, compiled, made_once, read_only, thaw_encode
from fpemu.targets.cpu_arithmetic import GENERAL, OPERAND, TARGET, thaw_operand, thaw_plan

STRIP = 128  # outputs that are summed side by side
DEPTH = 512  # terms that are laid side by side at a time
LEVELS = 66  # partial sums of a pairwise sum of as many terms as memory could hold
SUM, DOT, CONTRACT = range(3)  # of b's rows; of rows of a and b, one with one; each with each


class Modes(NamedTuple):
    """What is done, apart from the casts; one loop takes it at run time."""

    shape: int  # SUM, DOT or CONTRACT
    order: int  # index into orders.NAMES
    has_initial: int
    rounds_product: int
    checks: int  # whether NaN results are looked for


class Facts(NamedTuple):
    """All that a loop is compiled for."""

    modes: Modes
    plan: Plan
    product_plan: Plan
    lane: Lane
    a: np.dtype[Any]
    b: np.dtype[Any]
    writes: np.dtype[Any]


@kernel
def last_merges(k, n):
    """How many partial sums end with term k when n terms are halved at n // 2, again and again."""
    merges = 0
    while n > 1:
        half = n // 2
        if k < half:
            n = half
            merges = 0
        else:
            k -= half
            n -= half
            merges += 1
    return merges


@kernel
def word_of(stochastic, key, first, step, j):
    """The random word of output j's rounding, whose word for output 0 is ``first``."""
    if stochastic:
        return random_word(random_counter(key, np.uint64(first + np.uint64(np.uint64(j) * step))))
    return np.uint32(0)


GENERAL_CODE = np.dtype(GENERAL.code)
_ANY = Facts(Modes(0, 0, 0, 0, 0), Plan(0), Plan(0), GENERAL, GENERAL_CODE, GENERAL_CODE, GENERAL_CODE)


@made_once
def reduction_driver(given: Facts | None) -> Driver:
    """``driver(modes, a, b, c, out, invalid, numbers, chunk, zero, key, first, row_step, step)``.

    ``given``: what it is compiled for; None: ``modes`` says at run time (Modes, then both plans, as int64), and codes are
    uint64.  That takes several times as long, but nothing has to be compiled for the next sum of another kind.

    a (M, K) and b (N, K) are codes of any strides, c (initial codes of the accumulator) and out (M, N), invalid (M, N)
    bytes, set to 1 where a rounding met NaN.  For SUM a is not read, and M is 1; for DOT a is (N, K), and M is 1.
    ``numbers``: operands a, b, accumulator, its target, operand product, its target.  ``zero``: what a sum of nothing is.
    """
    facts, is_general = given or _ANY, given is None
    frozen = tuple(np.int64(mode) for mode in facts.modes)
    frozen_plan, frozen_product_plan, lane = Plan(*facts.plan), Plan(*facts.product_plan), facts.lane
    last, U, b_type, a_type = lane.bits - 1, lane.code, facts.b.type, facts.a.type
    pairwise_number, chunked_number, kahan_number = NAMES.index(PAIRWISE), NAMES.index(CHUNKED), NAMES.index(KAHAN)
    plan_place, product_plan_place = len(Modes._fields), len(Modes._fields) + len(Plan._fields)

    def reduction_loop(modes, a, b, c, out, invalid, numbers, chunk, zero, key, first, row_step, step):
        if is_general:
            shape, order, has_initial, rounds_product, checks = modes[0], modes[1], modes[2], modes[3], modes[4]
            plan, product_plan = thaw_plan(modes, plan_place), thaw_plan(modes, product_plan_place)
        else:
            shape, order, has_initial, rounds_product, checks = frozen
            plan, product_plan = frozen_plan, frozen_product_plan
        is_sum, is_dot, is_contract = shape == SUM, shape == DOT, shape == CONTRACT
        pairwise, chunked, kahan = order == pairwise_number, order == chunked_number, order == kahan_number
        sequential = not (pairwise or chunked or kahan)
        stochastic = plan.rounding == STOCHASTIC or product_plan.rounding == STOCHASTIC
        spec_a, spec_b = thaw_operand(numbers, 0), thaw_operand(numbers, OPERAND)
        spec_sum, to_sum = thaw_operand(numbers, 2 * OPERAND), thaw_encode(numbers, 3 * OPERAND)
        spec_product = thaw_operand(numbers, 3 * OPERAND + TARGET)
        to_product = thaw_encode(numbers, 4 * OPERAND + TARGET)
        rows, columns, terms = out.shape[0], out.shape[1], b.shape[1]
        panel = np.empty((DEPTH, STRIP), b_type)
        other = np.empty((DEPTH if is_dot else 1, STRIP), a_type)
        state = np.empty((LEVELS if pairwise else 2, STRIP), U)
        term = np.empty(STRIP, U)
        bad = np.zeros(STRIP, np.uint8)

        for j0 in range(0, columns, STRIP):
            width = min(STRIP, columns - j0)
            for i in range(rows):
                base = np.uint64(first + np.uint64(np.uint64(i) * row_step + np.uint64(j0) * step))
                started, top = False, 0
                bad[:] = 0
                for j in range(width):
                    state[0, j] = U(c[i, j0 + j]) if has_initial != 0 else zero
                    state[1, j] = U(0)
                if has_initial:
                    started = True
                for k in range(terms):
                    kk = k % DEPTH
                    if kk == 0 and (i == 0 or terms > DEPTH):
                        # Terms that are added side by side come to lie side by side.
                        for j in range(width):
                            for d in range(min(DEPTH, terms - k)):
                                panel[d, j] = b[j0 + j, k + d]
                                if is_dot:
                                    other[d, j] = a[j0 + j, k + d]
                    x = open_code(a[i, k], spec_a, last) if is_contract else open_code(U(0), spec_a, last)

                    if rounds_product:
                        # The products are rounded first; what is added are their codes.
                        for j in range(width):
                            left = open_code(other[kk, j], spec_a, last) if is_dot else x
                            product = multiply(left, open_code(panel[kk, j], spec_b, last), product_plan)
                            term[j] = round_exact(
                                product, word_of(stochastic, key, base, step, j), to_product, product_plan
                            )
                            if checks:
                                bad[j] |= np.uint8(product.kind == U(NOT_A_NUMBER))
                        base = np.uint64(base + np.uint64(1))

                    in_chunk = k % chunk if chunked else k
                    if pairwise or (chunked and in_chunk == 0) or (not chunked and not started):
                        # A first term: rounded as it is.
                        into = top + (1 if has_initial != 0 else 0) if pairwise else (1 if chunked else 0)
                        for j in range(width):
                            if is_sum:
                                value = open_code(panel[kk, j], spec_b, last)
                            elif rounds_product:
                                value = open_code(term[j], spec_product, last)
                            else:
                                left = open_code(other[kk, j], spec_a, last) if is_dot else x
                                value = multiply(left, open_code(panel[kk, j], spec_b, last), plan)
                            state[into, j] = round_exact(value, word_of(stochastic, key, base, step, j), to_sum, plan)
                            if checks:
                                bad[j] |= np.uint8(value.kind == U(NOT_A_NUMBER))
                        base = np.uint64(base + np.uint64(1))
                        top += 1
                    elif sequential or chunked:
                        into = 1 if chunked else 0
                        for j in range(width):
                            if is_sum:
                                value = open_code(panel[kk, j], spec_b, last)
                            elif rounds_product:
                                value = open_code(term[j], spec_product, last)
                            else:
                                left = open_code(other[kk, j], spec_a, last) if is_dot else x
                                value = multiply(left, open_code(panel[kk, j], spec_b, last), plan)
                            word = word_of(stochastic, key, base, step, j)
                            state[into, j], kind = accumulate(state[into, j], value, word, spec_sum, to_sum, plan)
                            if checks:
                                bad[j] |= np.uint8(kind == U(NOT_A_NUMBER))
                        base = np.uint64(base + np.uint64(1))
                    elif kahan:
                        for j in range(width):
                            if is_sum:
                                value = open_code(panel[kk, j], spec_b, last)
                            elif rounds_product:
                                value = open_code(term[j], spec_product, last)
                            else:
                                left = open_code(other[kk, j], spec_a, last) if is_dot else x
                                value = multiply(left, open_code(panel[kk, j], spec_b, last), plan)
                            words = (
                                word_of(stochastic, key, base, step, j),
                                word_of(stochastic, key, np.uint64(base + np.uint64(1)), step, j),
                                word_of(stochastic, key, np.uint64(base + np.uint64(2)), step, j),
                                word_of(stochastic, key, np.uint64(base + np.uint64(3)), step, j),
                            )
                            state[0, j], state[1, j], kind = compensate(
                                state[0, j], state[1, j], value, words, spec_sum, to_sum, plan
                            )
                            if checks:
                                bad[j] |= np.uint8(kind == U(NOT_A_NUMBER))
                        base = np.uint64(base + np.uint64(4))
                    started = True

                    # Partial sums that end here join the one before them.
                    merges, lower = 0, 0
                    if pairwise:
                        merges = last_merges(k, terms)
                        if has_initial and k == terms - 1:
                            merges += 1
                    elif chunked and (in_chunk == chunk - 1 or k == terms - 1):
                        if has_initial or k >= chunk:
                            merges = 1
                        else:
                            for j in range(width):
                                state[0, j] = state[1, j]
                    for _ in range(merges):
                        if pairwise:
                            top -= 1
                            lower = top - 1 + (1 if has_initial != 0 else 0)
                        for j in range(width):
                            word = word_of(stochastic, key, base, step, j)
                            value = open_code(state[lower + 1, j], spec_sum, last)
                            state[lower, j], kind = accumulate(state[lower, j], value, word, spec_sum, to_sum, plan)
                            if checks:
                                bad[j] |= np.uint8(kind == U(NOT_A_NUMBER))
                        base = np.uint64(base + np.uint64(1))
                for j in range(width):
                    out[i, j0 + j] = state[0, j]
                    if checks:
                        invalid[i, j0 + j] = bad[j]

    reads_a: Any = TYPES[facts.a]
    reads_b: Any = TYPES[facts.b]
    codes: Any = TYPES[facts.writes]
    signature = (
        types.Array(types.int64, 1, "C", readonly=True),
        types.Array(reads_a, 2, "A", readonly=True),
        types.Array(reads_b, 2, "A", readonly=True),
        types.Array(codes, 2, "A", readonly=True),
        types.Array(codes, 2, "A"),
        types.Array(types.uint8, 2, "A"),
        read_only(lane.code),
        types.intp,
        TYPES[np.dtype(lane.code)],
        types.uint64,
        types.uint64,
        types.uint64,
        types.uint64,
    )
    return compiled(reduction_loop, given, *signature)
