"""Loops of the statistics: one block of elements at a time, so that sums have a fixed order whatever the threads.

Float sums run in COLUMNS interleaved partial sums, element i of a block in column i mod COLUMNS, added up at the end:
the same numbers in the same order on every machine, and independent of each other, which vector units need.
"""

from __future__ import annotations

from math import frexp, ldexp

import numpy as np
from numba import njit, types

from fpemu.kernels.loss import loss
from fpemu.kernels.random import GOLDEN, random_counter, random_word
from fpemu.kernels.spec import STOCHASTIC, EncodeSpec, Lane, Plan
from fpemu.targets.chain import Stages
from fpemu.targets.cpu import (
    Driver,
    compiled,
    frozen_spec,
    made_once,
    read_only,
    thaw_decode,
    thaw_encode,
    writable,
)

BLOCK = 1 << 14  # elements of a block: with its results it stays in the nearer caches
SEGMENT = (
    32 * BLOCK
)  # elements that are added up together: what a thread, or on a GPU a block of threads, takes at a time
HISTOGRAM_BLOCK = 1 << 16  # elements that one histogram counts: its energies have no columns, and so are summed anew
COLUMNS = 256
TABLES = 4  # of a histogram, a power of two

# What became of an element; the bits of its kind.
COUNTS = ("new_zero", "new_subnormal", "saturated", "nonfinite_out")

# Columns of the float sums, and the powers of the units of x, result and error that each is in.
SUMS = {
    "signal": (2, 0, 0),
    "product": (1, 1, 0),
    "result": (0, 2, 0),
    "noise": (0, 0, 2),
    "error": (0, 0, 1),
    **dict.fromkeys(COUNTS, (2, 0, 0)),
}
KINDS, NONFINITE = len(COUNTS), COUNTS.index("nonfinite_out")
FIRST_KIND = len(SUMS) - KINDS
# Partial sums lie in rows of COLUMNS, one for each of SUMS, and one for the largest relative errors.  The six that every
# element is added to are spread over the 4096 bytes of a page: with rows that begin alike in their last 12 bits, one
# placement in memory out of three made the loop up to four times as slow (loads mistaken for what was just stored).
ROW, WORST = 424, 11  # floats from row to row; the row of the largest errors


# ---- what is added up of a block ------------------------------------------------------------------------------------
@njit
def count_kinds(kinds, counts):
    """Add how many elements are of each of the COUNTS."""
    for start in range(0, kinds.size, 128):
        # So few that a byte holds their number: the sums run in lanes of a byte.
        row = kinds[start : start + 128]
        some = np.uint8(0)
        for i in range(row.size):
            some |= row[i]
        if some == 0:
            continue
        for bit in range(KINDS):
            here = np.uint8(0)
            for i in range(row.size):
                here = np.uint8(here + np.uint8(np.uint8(row[i] >> np.uint8(bit)) & np.uint8(1)))
            counts[bit] += here


@njit
def largest_exponents(x, results, units):
    """The exponents of the largest finite input, result and error: in these units squares are of normal size."""
    x_most = result_most = error_most = 0.0
    for i in range(x.size):
        v, q = np.abs(x[i]), np.abs(results[i])
        error = np.abs(results[i] - x[i])
        x_most = v if x_most < v < np.inf else x_most
        result_most = q if v < np.inf and result_most < q < np.inf else result_most
        error_most = error if error_most < error < np.inf else error_most
    units[0], units[1], units[2] = frexp(x_most)[1], frexp(result_most)[1], frexp(error_most)[1]


@njit
def set_factors(units, factors):
    """For each unit two powers of two whose product is 2**-unit (one alone might be subnormal)."""
    for i in range(units.size):
        unit = int(units[i])
        half = unit // 2
        factors[2 * i], factors[2 * i + 1] = ldexp(1.0, -half), ldexp(1.0, half - unit)


@njit
def add_moments(x, results, finite, factors, partial):
    """Add to the partial sums of all elements, and to the largest relative errors.

    Unless all are ``finite``, non-finite x are left out; of a non-finite result only its kind counts.  With ``factors``
    x, results and errors are multiplied by them first, so that their squares neither overflow nor vanish.
    """
    for start in range(0, x.size, COLUMNS):
        # Slices, so that the inner index is plainly not negative: else loads become gathers.
        x_row, result_row = x[start : start + COLUMNS], results[start : start + COLUMNS]
        for j in range(x_row.size):
            v, q = np.float64(x_row[j]), np.float64(result_row[j])
            if not finite:
                q = q if np.abs(v) < np.inf else 0.0
                v = v if np.abs(v) < np.inf else 0.0
            error = q - v
            if not finite:
                error = error if np.abs(q) < np.inf else 0.0
                q = q if np.abs(q) < np.inf else 0.0
            relative = np.abs(error) / (np.abs(v) if v != 0.0 else np.inf)
            worst = partial[WORST * ROW + j]
            partial[WORST * ROW + j] = relative if relative > worst else worst
            if factors is not None:
                v, q = v * factors[0] * factors[1], q * factors[2] * factors[3]
                error = error * factors[4] * factors[5]
            partial[j] += v * v
            partial[ROW + j] += q * v
            partial[2 * ROW + j] += q * q
            partial[3 * ROW + j] += error * error
            partial[4 * ROW + j] += error


@njit
def add_energy(x, kinds, bit, factors, partial):
    """Add the squares of the elements of one kind."""
    total = partial[(FIRST_KIND + bit) * ROW : (FIRST_KIND + bit) * ROW + COLUMNS]
    for start in range(0, x.size, COLUMNS):
        x_row, kind_row = x[start : start + COLUMNS], kinds[start : start + COLUMNS]
        for j in range(x_row.size):
            v = np.float64(x_row[j])
            if factors is not None:
                v = v * factors[0] * factors[1]
            total[j] += v * v if (kind_row[j] >> bit) & 1 else 0.0


@njit
def close_columns(partial, sums):
    """Add up the columns, and begin anew."""
    for row in range(sums.size):
        for j in range(row * ROW, row * ROW + COLUMNS):
            sums[row] += partial[j]
            partial[j] = 0.0


@njit
def mark_used(codes, x, finite, used):
    """Mark the codes of finite values in a table of 256."""
    for i in range(codes.size):
        if finite or np.abs(x[i]) < np.inf:
            used[codes[i]] = 1


# ---- drivers --------------------------------------------------------------------------------------------------------
@made_once
def loss_driver(plan: Plan, lane: Lane, frozen: Stages | None = None) -> Driver:
    """``driver(bits, numbers, limits, key, first, finite, work..., units, sums, counts, used)``.

    Casts a segment block by block, and adds up what became of it.

    limits: magnitude code of the target's smallest normal value, bits of the smallest normal input (one that is below
        was subnormal in the source, and is not *newly* subnormal).
    finite: whether all inputs are.
    work: for the results of a block, what became of each element (bit k: COUNTS[k]; a NaN or infinity is of no kind),
        its code's low byte; and the partial sums, flat.
    units, sums, counts: a row for each block.  In 64-bit lanes each block has units of its own, in 32-bit lanes none,
        and all is in the sums of the last.
    used: 256 marks for the codes, or empty.
    """
    stochastic, step = plan.rounding == STOCHASTIC, np.uint64(GOLDEN)
    is_frozen, back_place = frozen is not None, len(EncodeSpec._fields)
    _, to_constant, back_constant = (frozen_spec(spec, lane) for spec in frozen or Stages())
    plan, value, scaled = Plan(*plan), lane.value, lane.bits == 64

    def loss_loop(bits, numbers, limits, key, first, finite, results, kinds, codes, partial, units, sums, counts, used):
        if is_frozen:
            to, back = to_constant, back_constant
        else:
            to, back = thaw_encode(numbers, 0), thaw_decode(numbers, back_place)
        smallest_normal, source_normal = limits[0], limits[1]
        counter = random_counter(key, first)
        all_finite = finite and not plan.zeroless  # (where there is no zero, zeros may become NaN)
        two_each = np.empty(6)
        factors = two_each if scaled else None
        for block in range(units.shape[0]):
            piece = bits[block * BLOCK : (block + 1) * BLOCK]
            for i in range(piece.size):
                word = random_word(counter) if stochastic else np.uint32(0)
                counter = np.uint64(counter + step)
                results[i], kinds[i], codes[i] = loss(piece[i], word, smallest_normal, source_normal, to, back, plan)

            x, q, kind_of = piece.view(value), results[: piece.size].view(value), kinds[: piece.size]
            count_kinds(kind_of, counts[block])
            if scaled:
                largest_exponents(x, q, units[block])
                set_factors(units[block], two_each)
            add_moments(x, q, all_finite and counts[block, NONFINITE] == 0, factors, partial)
            for bit in range(KINDS):
                if counts[block, bit] > 0:
                    add_energy(x, kind_of, bit, factors, partial)
            if scaled or block == units.shape[0] - 1:
                close_columns(partial, sums[block])
            if used.size > 0:
                mark_used(codes[: piece.size], x, finite, used)

    i8, f8, u1 = types.int64, types.float64, types.Array(types.uint8, 1, "C")
    read, number = read_only(lane.code), types.uint64
    work = (writable(lane.code), u1, u1, types.Array(f8, 1, "C"))
    found = (types.Array(i8, 2, "C"), types.Array(f8, 2, "C"), types.Array(i8, 2, "C"), u1)
    arguments = (read, read, read, number, number, types.boolean, *work, *found)
    return compiled(loss_loop, (plan, lane, frozen), *arguments)


@made_once
def histogram_driver(lane: Lane) -> Driver:
    """``driver(bits, counts, powers, squares, largest)``: add a block to the histogram over a lane's binades.

    Bin b holds the values whose leading bit is worth 2**e, e = b + emin - trailing_bits of the lane; subnormals have
    binades of their own.  The last two bins of ``counts`` are zeros and non-finite values.  ``powers``: exact powers of
    two; ``squares``: sums of (x / 2**e)**2; ``largest[0]``: the largest finite magnitude bits.
    """
    U, tables = lane.code, TABLES
    trailing, last, bins = lane.trailing_bits, lane.bits - 1, lane.bins
    fields = lane.bins - lane.trailing_bits + 2
    infinity, fraction, spacing = U(lane.infinity), U((1 << lane.trailing_bits) - 1), 2.0**-lane.trailing_bits

    def histogram_loop(bits, counts, powers, squares, largest):
        top = U(0)
        for i in range(bits.size):
            magnitude = U(bits[i] & U(U(U(1) << U(last)) - U(1)))
            top = max(top, magnitude if magnitude < infinity else U(0))
        largest[0] = max(largest[0], top)

        # By exponent field first, in several tables in turn: additions to one entry would wait for each other.
        tally = np.zeros((fields, tables), np.int64)
        exact = np.zeros((fields, tables), np.int64)
        square = np.zeros((fields, tables))
        for i in range(bits.size):
            magnitude = U(bits[i] & U(U(U(1) << U(last)) - U(1)))
            field, rest = U(magnitude >> U(trailing)), U(magnitude & fraction)
            significand = 1.0 + np.float64(rest) * spacing
            table = i & (tables - 1)
            tally[field, table] += 1
            if rest == U(0):  # seldom, and a branch is cheaper than a third table entry
                exact[field, table] += 1
            square[field, table] += significand * significand
        for field in range(1, fields - 1):
            for table in range(tables):
                counts[field + trailing - 1] += tally[field, table]
                powers[field + trailing - 1] += exact[field, table]
                squares[field + trailing - 1] += square[field, table]
        counts[bins + 1] += tally[fields - 1].sum()

        # Zeros and subnormals share field 0; where there are more than zeros, tell them apart one by one.
        zeros = exact[0].sum()
        counts[bins] += zeros
        if tally[0].sum() > zeros:
            for i in range(bits.size):
                magnitude = U(bits[i] & U(U(U(1) << U(last)) - U(1)))
                if U(0) < magnitude and magnitude <= fraction:
                    k, unit = 0, 1.0
                    while magnitude >> U(k + 1) > U(0):
                        k += 1
                        unit *= 0.5
                    significand = np.float64(magnitude) * unit
                    counts[k] += 1
                    powers[k] += significand == 1.0
                    squares[k] += significand * significand

    f8, i8 = types.Array(types.float64, 1, "C"), types.Array(types.int64, 1, "C")
    return compiled(histogram_loop, lane, read_only(U), i8, i8, f8, writable(U))
