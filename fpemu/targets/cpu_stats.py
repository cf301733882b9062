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
from fpemu.kernels.random import random_word
from fpemu.kernels.spec import STOCHASTIC, DecodeSpec, EncodeSpec, Lane, Plan
from fpemu.targets.cpu import (
    SOURCE_DIGEST,
    Driver,
    compiled,
    frozen_spec,
    read_only,
    thaw_decode,
    thaw_encode,
    writable,
)

BLOCK = 1 << 15  # elements of a block
COLUMNS = 256
TABLES = 4  # of a histogram, a power of two

# Columns of the float sums and of the counts of one format.
SUMS = ("signal", "product", "result", "noise", "error", "new_zero", "new_subnormal", "saturated", "nonfinite_out")
COUNTS = ("new_zero", "new_subnormal", "saturated", "nonfinite_out")


@cache
def cast_driver(plan: Plan, lane: Lane, frozen: tuple[EncodeSpec, DecodeSpec] | None = None) -> Driver:
    """``driver(bits, encode_spec, decode_spec, smallest_normal, key, first, results, kinds, codes)``.

    Quantizes a block: bits of the results, what became of each element (bit k: COUNTS[k]), and its code's low byte.
    ``smallest_normal``: magnitude code of the target's smallest normal value.  An element that was subnormal in the
    source is not *newly* subnormal, a NaN or infinity is of no kind.
    """
    stochastic, last = plan.rounding == STOCHASTIC, lane.bits - 1
    to_constant, from_constant = (None, None) if frozen is None else (frozen_spec(spec, lane) for spec in frozen)
    plan, U, is_frozen = Plan(*plan), lane.code, frozen is not None

    def cast_loop(bits, to_spec, from_spec, limits, key, first, results, kinds, codes):
        if is_frozen:
            to, back = to_constant, from_constant
        else:
            to, back = thaw_encode(to_spec), thaw_decode(from_spec)
        smallest_normal, source_normal = limits[0], limits[1]
        for i in range(bits.size):
            word = random_word(key, first + np.uint64(i)) if stochastic else np.uint64(0)
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
            over = U(rounded > U(limit + to.lowest))
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
    """``driver(x, results, kinds, factor, partial, counts)``: add a block to the partial sums and to the COUNTS.

    ``x``, ``results``: values as floats of the lane.  Both are multiplied by the power of two ``factor[0] * factor[1]``
    first, so that squares of float64 neither overflow nor vanish.  Non-finite x are left out.  ``partial`` is flat,
    one row of COLUMNS for each of SUMS, then two for the numerator and denominator of the largest relative error.
    """
    columns, scaled, kinds_of = COLUMNS, lane.bits == 64, len(COUNTS)

    def moments_loop(x, results, kinds, factor, partial, counts):
        a, b = factor[0], factor[1]
        for start in range(0, x.size, columns):
            # Slices, so that the inner index is plainly not negative: else loads become gathers.
            x_row, result_row = x[start : start + columns], results[start : start + columns]
            for j in range(x_row.size):
                finite = np.abs(x_row[j]) < np.inf
                v = np.float64(x_row[j]) if finite else 0.0
                q = np.float64(result_row[j]) if finite else 0.0
                # The largest |error / v| so far is kept as a fraction: products are cheaper than a quotient, but of
                # float64 values they might overflow or vanish.
                size, distance = np.abs(v), np.abs(q - v)
                if scaled:
                    distance, size = distance / size if size > 0.0 else 0.0, 1.0
                    v, q = v * a * b, q * a * b
                top, bottom = partial[9 * columns + j], partial[10 * columns + j]
                worse = distance * bottom > top * size and size > 0.0
                partial[9 * columns + j] = distance if worse else top
                partial[10 * columns + j] = size if worse else bottom
                error = q - v
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
                total = partial[(5 + kind) * columns : (6 + kind) * columns]
                for start in range(0, x.size, columns):
                    x_row, kind_row = x[start : start + columns], kinds[start : start + columns]
                    for j in range(x_row.size):
                        v = np.float64(x_row[j])
                        if scaled:
                            v = v * a * b
                        total[j] += v * v if (kind_row[j] >> kind) & 1 else 0.0

    value = types.Array(types.float32 if lane.bits == 32 else types.float64, 1, "C", readonly=True)
    kinds_in = types.Array(types.uint8, 1, "C", readonly=True)
    f8, i8 = types.Array(types.float64, 1, "C"), types.Array(types.int64, 1, "C")
    return compiled(
        moments_loop, lane, value, value, kinds_in, types.Array(types.float64, 1, "C", readonly=True), f8, i8
    )


@cache
def used_driver() -> Driver:
    """``driver(codes, used)``: mark the bytes that occur in a table of 256."""

    def used_loop(codes, used):
        for i in range(codes.size):
            used[codes[i]] = 1

    return compiled(used_loop, (), read_only(np.uint8), types.Array(types.uint8, 1, "C"))


@cache
def histogram_driver(lane: Lane) -> Driver:
    """``driver(bits, values, factor, counts, powers, energies, largest)``: add to the histogram over a lane's binades.

    Bin b holds the values whose leading bit is worth 2**(b + emin - trailing_bits) of the lane; subnormals have
    binades of their own.  The last two bins of ``counts`` are zeros and non-finite values.  ``powers``: exact powers of
    two; ``energies``: sums of squares after multiplication by factor[0] * factor[1]; ``largest[0]``: the largest finite
    magnitude bits.
    """
    U, scaled, tables = lane.code, lane.bits == 64, TABLES
    trailing, last, bins = lane.trailing_bits, lane.bits - 1, lane.bins
    fields = lane.bins - lane.trailing_bits + 2
    infinity, fraction = U(lane.infinity), U((1 << lane.trailing_bits) - 1)

    def histogram_loop(bits, values, factor, counts, powers, energies, largest):
        # By exponent field first, in several tables in turn: additions to one entry would wait for each other.
        tally = np.zeros((fields, tables), np.int64)
        exact = np.zeros((fields, tables), np.int64)
        energy = np.zeros((fields, tables))
        a, b = factor[0], factor[1]
        top = U(0)
        for i in range(bits.size):
            magnitude = U(bits[i] & U(U(U(1) << U(last)) - U(1)))
            top = max(top, magnitude if magnitude < infinity else U(0))
        largest[0] = max(largest[0], top)
        for i in range(bits.size):
            magnitude = U(bits[i] & U(U(U(1) << U(last)) - U(1)))
            field = U(magnitude >> U(trailing))
            v = np.float64(values[i])
            if scaled:
                v = v * a * b
            table = i & (tables - 1)
            tally[field, table] += 1
            exact[field, table] += U(magnitude & fraction) == U(0)
            energy[field, table] += v * v
        for field in range(1, fields - 1):
            for table in range(tables):
                counts[field + trailing - 1] += tally[field, table]
                powers[field + trailing - 1] += exact[field, table]
                energies[field + trailing - 1] += energy[field, table]
        counts[bins + 1] += tally[fields - 1].sum()

        # Zeros and subnormals share field 0; where there are more than zeros, tell them apart one by one.
        zeros = exact[0].sum()
        counts[bins] += zeros
        if tally[0].sum() > zeros:
            for i in range(bits.size):
                rest = U(bits[i] & U(U(U(1) << U(last)) - U(1)))
                if U(0) < rest and rest <= fraction:
                    power = U(rest & U(rest - U(1))) == U(0)
                    k = 0
                    while rest > U(1):
                        rest = U(rest >> U(1))
                        k += 1
                    v = np.float64(values[i])
                    if scaled:
                        v = v * a * b
                    counts[k] += 1
                    powers[k] += power
                    energies[k] += v * v

    value = types.Array(types.float32 if lane.bits == 32 else types.float64, 1, "C", readonly=True)
    f8, i8 = types.Array(types.float64, 1, "C"), types.Array(types.int64, 1, "C")
    factors = types.Array(types.float64, 1, "C", readonly=True)
    return compiled(histogram_loop, lane, read_only(U), value, factors, i8, i8, f8, writable(U))
