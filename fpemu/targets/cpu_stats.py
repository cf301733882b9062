"""Loops of the statistics: one block of elements at a time, so that sums have a fixed order whatever the threads.

Float sums run in COLUMNS interleaved partial sums, element i of a block in column i mod COLUMNS, added up at the end:
the same numbers in the same order on every machine, and independent of each other, which vector units need.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import types

from fpemu.kernels.decode import decode
from fpemu.kernels.encode import round_magnitude
from fpemu.kernels.pack import pack
from fpemu.kernels.random import GOLDEN, random_counter, random_word
from fpemu.kernels.spec import STOCHASTIC, DecodeSpec, EncodeSpec, Lane, Plan
from fpemu.targets.cpu import (
    Driver,
    compiled,
    frozen_spec,
    read_only,
    thaw_decode,
    thaw_encode,
    writable,
)

BLOCK = 1 << 16  # elements of a block: with its results it stays in the cache for all formats
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


@cache
def cast_driver(plan: Plan, lane: Lane, frozen: tuple[EncodeSpec, DecodeSpec] | None = None) -> Driver:
    """``driver(bits, encode_spec, decode_spec, smallest_normal, key, first, results, kinds, codes)``.

    Quantizes a block: bits of the results, what became of each element (bit k: COUNTS[k]), and its code's low byte.
    ``smallest_normal``: magnitude code of the target's smallest normal value.  An element that was subnormal in the
    source is not *newly* subnormal, a NaN or infinity is of no kind.
    """
    stochastic, step, last = plan.rounding == STOCHASTIC, np.uint64(GOLDEN), lane.bits - 1
    to_constant, from_constant = (None, None) if frozen is None else (frozen_spec(spec, lane) for spec in frozen)
    plan, U, is_frozen = Plan(*plan), lane.code, frozen is not None

    def cast_loop(bits, to_spec, from_spec, limits, key, first, results, kinds, codes):
        if is_frozen:
            to, back = to_constant, from_constant
        else:
            to, back = thaw_encode(to_spec), thaw_decode(from_spec)
        smallest_normal, source_normal = limits[0], limits[1]
        counter = random_counter(key, first)
        for i in range(bits.size):
            word = random_word(counter) if stochastic else np.uint64(0)
            counter = np.uint64(counter + step)
            negative, magnitude, rounded = round_magnitude(bits[i], word, to, plan)
            code = pack(negative, magnitude, rounded, to, plan)
            result = decode(code, back, last)
            results[i] = result

            source = U(bits[i] & U(U(U(1) << U(last)) - U(1)))
            size = U(result & U(U(U(1) << U(last)) - U(1)))
            limit = to.max_negative if negative != U(0) else to.max_positive
            nonzero = U(source - U(1)) < U(to.source_infinity - U(1))  # finite, and not zero
            place = U(code & back.magnitude)
            zero = U(size == U(0))
            nonfinite = U(size >= to.source_infinity)
            subnormal = U(U(place < smallest_normal) & U(source >= source_normal) & U(U(zero | nonfinite) ^ U(1)))
            over = U(rounded > U(limit + to.lowest)) & U(rounded >= to.output_floor)
            if plan.zeroless:
                over = U(over | negative)
            kind = U(zero | U(subnormal << U(1)) | U(over << U(2)) | U(nonfinite << U(3)))
            kinds[i] = kind if nonzero else U(0)
            codes[i] = code

    bytes_out = types.Array(types.uint8, 1, "C")
    words = types.Array(types.uint32 if lane.bits == 32 else types.uint64, 1, "C")
    read = read_only(lane.code)
    return compiled(
        cast_loop, (plan, lane, frozen), read, read, read, read, types.uint64, types.uint64, words, bytes_out, bytes_out
    )


@cache
def moments_driver(lane: Lane) -> Driver:
    """``driver(x, results, kinds, factors, partial, counts)``: add a block to the partial sums and to the COUNTS.

    ``x``, ``results``: values as floats of the lane.  Non-finite x are left out; of a non-finite result only its
    kind counts.  In 64-bit lanes x, results and errors are first multiplied by powers of two, ``factors[0] *
    factors[1]`` and so on, so that their squares neither overflow nor vanish; 32-bit lanes need none.  ``partial`` is
    flat, one row of COLUMNS for each of SUMS, then one for the largest relative error of a non-zero x.
    """
    columns, scaled, kinds_of, first_kind = COLUMNS, lane.bits == 64, len(COUNTS), len(SUMS) - len(COUNTS)
    n_sums = len(SUMS)

    def moments_loop(x, results, kinds, factors, partial, counts):
        for start in range(0, x.size, columns):
            # Slices, so that the inner index is plainly not negative: else loads become gathers.
            x_row, result_row = x[start : start + columns], results[start : start + columns]
            for j in range(x_row.size):
                v = np.float64(x_row[j]) if np.abs(x_row[j]) < np.inf else 0.0
                q = np.float64(result_row[j]) if np.abs(x_row[j]) < np.inf else 0.0
                # Of a result that is not finite only its kind counts.
                error = q - v if np.abs(q) < np.inf else 0.0
                q = q if np.abs(q) < np.inf else 0.0
                relative = np.abs(error) / (np.abs(v) if v != 0.0 else np.inf)
                worst = partial[n_sums * columns + j]
                partial[n_sums * columns + j] = relative if relative > worst else worst
                if scaled:
                    v, q = v * factors[0] * factors[1], q * factors[2] * factors[3]
                    error = error * factors[4] * factors[5]
                partial[j] += v * v
                partial[columns + j] += q * v
                partial[2 * columns + j] += q * q
                partial[3 * columns + j] += error * error
                partial[4 * columns + j] += error
        zero = subnormal = over = nonfinite = 0
        for i in range(kinds.size):
            zero += kinds[i] & 1
            subnormal += (kinds[i] >> 1) & 1
            over += (kinds[i] >> 2) & 1
            nonfinite += kinds[i] >> 3
        here = (zero, subnormal, over, nonfinite)
        for kind in range(kinds_of):
            counts[kind] += here[kind]
            if here[kind] > 0:
                total = partial[(first_kind + kind) * columns : (first_kind + kind + 1) * columns]
                for start in range(0, x.size, columns):
                    x_row, kind_row = x[start : start + columns], kinds[start : start + columns]
                    for j in range(x_row.size):
                        v = np.float64(x_row[j])
                        if scaled:
                            v = v * factors[0] * factors[1]
                        total[j] += v * v if (kind_row[j] >> kind) & 1 else 0.0

    value = types.Array(types.float32 if lane.bits == 32 else types.float64, 1, "C", readonly=True)
    kinds_in = types.Array(types.uint8, 1, "C", readonly=True)
    factors_in = types.Array(types.float64, 1, "C", readonly=True)
    f8, i8 = types.Array(types.float64, 1, "C"), types.Array(types.int64, 1, "C")
    return compiled(moments_loop, lane, value, value, kinds_in, factors_in, f8, i8)


@cache
def used_driver() -> Driver:
    """``driver(codes, used)``: mark the bytes that occur in a table of 256."""

    def used_loop(codes, used):
        for i in range(codes.size):
            used[codes[i]] = 1

    return compiled(used_loop, (), read_only(np.uint8), types.Array(types.uint8, 1, "C"))


@cache
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
            exact[field, table] += rest == U(0)
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
