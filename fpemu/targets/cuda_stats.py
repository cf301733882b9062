"""Grids of the statistics: a block of threads for a segment, each thread one column of its sums.

The columns, and the order in which each is added up, are those of cpu_stats.py, so float sums are the same numbers as on
the CPU, whatever the GPU.  Counts are integers, and have no order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, types

from fpemu.kernels.decode import decode
from fpemu.kernels.jit import kernel
from fpemu.kernels.loss import loss
from fpemu.kernels.random import random_counter, random_word
from fpemu.kernels.spec import STOCHASTIC, Lane, Plan
from fpemu.targets.cpu import TYPES, made_once
from fpemu.targets.cpu_stats import BLOCK, COLUMNS, COUNTS, HISTOGRAM_BLOCK, SEGMENT, SUMS
from fpemu.targets.cuda import SIMULATED, THREADS, Grid, array_of, compiled, spec_types

assert THREADS == COLUMNS  # a thread, a column
HISTOGRAM_GRID = 512  # at most so many blocks of threads make histograms, each over many pieces, in a fixed order
TABLE_COPIES = 8  # of a histogram of a 32-bit lane: fewer threads wait for each other at one entry
SQUARE_BITS = 46  # squares of significands are added up as integers in units of 2**-46

_F8, _I8, _U8 = (types.Array(kind, 1, "C") for kind in (types.float64, types.int64, types.uint64))


@kernel
def _product(a, b):
    return a * b


# A product that is never contracted with the sum it goes into: rounded once, as on the CPU.
product = _product if SIMULATED else cuda.libdevice.dmul_rn  # type: ignore[attr-defined]


@kernel
def exponent_of(x):
    """That of frexp(x), for x >= 0 and finite: 2**(e - 1) <= x < 2**e; 0 for zero."""
    bits = np.float64(x).view(np.uint64)
    if bits == np.uint64(0):
        return np.int64(0)
    field = np.int64(bits >> np.uint64(52))
    # A subnormal is an integer times 2**-1074.
    lowest = np.int64(np.float64(bits).view(np.uint64) >> np.uint64(52)) - 1074
    return (field if field > 0 else lowest) - 1022


@kernel
def power_of_two(exponent):
    """2.0**exponent, for a normal one."""
    return np.uint64(np.uint64(1023 + exponent) << np.uint64(52)).view(np.float64)


def elements_of(lane: Lane) -> int:
    """How many elements one block of threads takes; in 64-bit lanes each block of elements has units of its own."""
    return BLOCK if lane.bits == 64 else SEGMENT


@made_once
def loss_grid(decodes: bool, plan: Plan, lane: Lane, reads: np.dtype[Any]) -> Grid:
    """``grid(x, source, to, back, smallest_normal, source_normal, factor, key, first, units, sums, counts, worst, used)``.

    As ``cpu_stats.loss_driver``, a segment each block: ``sums`` has 9 numbers for each, ``counts`` 4, ``worst`` 1, and
    in 64-bit lanes ``units`` 3; ``used`` is 256 marks for all, or empty.  ``factor``: what inputs are multiplied by
    (64-bit lanes).
    """
    stochastic, U, value, last = plan.rounding == STOCHASTIC, lane.code, lane.value, lane.bits - 1
    scaled, span, rows = lane.bits == 64, elements_of(lane), len(SUMS)
    kinds = len(COUNTS)
    plan, threads, cells = Plan(*plan), THREADS, (len(SUMS) + 1) * THREADS

    @kernel
    def element(x, i, source, to, back, smallest_normal, source_normal, factor, key, first):
        """``(v, q, kind, code)``: the value, the result, what became of it."""
        bits = U(decode(x, source, last) if decodes else x)
        v = np.float64(U(bits).view(value))
        if scaled:
            v = product(v, factor)
            bits = np.float64(v).view(np.uint64)
        word = random_word(random_counter(key, np.uint64(first + i))) if stochastic else np.uint32(0)
        result, kind, code = loss(bits, word, smallest_normal, source_normal, to, back, plan)
        return v, np.float64(U(result).view(value)), np.uint32(kind), np.uint32(code)

    def loss_kernel(
        x, source, to, back, smallest_normal, source_normal, factor, key, first, units, sums, counts, worst, used
    ):
        partial = cuda.shared.array(cells, types.float64)
        marks = cuda.shared.array(256, types.uint8)
        tallies = cuda.shared.array(kinds, types.int64)
        scales = cuda.shared.array(6, types.float64)
        t = np.uint64(cuda.threadIdx.x)
        segment = np.uint64(cuda.blockIdx.x)
        start = np.uint64(segment * np.uint64(span))
        stop = np.uint64(min(np.uint64(x.size), np.uint64(start + np.uint64(span))))
        marks[t] = 0
        if t < np.uint64(kinds):
            tallies[t] = 0

        if scaled:
            # In these units squares are of normal size.
            x_most = result_most = error_most = 0.0
            i = np.uint64(start + t)
            while i < stop:
                v, q, kind, code = element(
                    x[i], i, source, to, back, smallest_normal, source_normal, factor, key, first
                )
                size, result_size, error = abs(v), abs(q), abs(q - v)
                x_most = size if x_most < size and size < np.inf else x_most
                if size < np.inf and result_most < result_size and result_size < np.inf:
                    result_most = result_size
                error_most = error if error_most < error and error < np.inf else error_most
                i = np.uint64(i + np.uint64(threads))
            partial[t], partial[t + np.uint64(threads)] = x_most, result_most
            partial[t + np.uint64(2 * threads)] = error_most
            cuda.syncthreads()
            if t < np.uint64(3):
                most = 0.0
                for j in range(threads):
                    most = max(most, partial[t * np.uint64(threads) + np.uint64(j)])
                unit = exponent_of(most)
                half = unit // 2
                units[segment * np.uint64(3) + t] = unit
                # (Two factors: one alone might be subnormal.)
                scales[np.uint64(2) * t] = power_of_two(-half)
                scales[np.uint64(2) * t + np.uint64(1)] = power_of_two(half - unit)
        cuda.syncthreads()

        signal = cross = result_energy = noise = error_sum = largest = 0.0
        lost_0 = lost_1 = lost_2 = lost_3 = 0.0
        n_0 = n_1 = n_2 = n_3 = 0
        i = np.uint64(start + t)
        while i < stop:
            v, q, kind, code = element(x[i], i, source, to, back, smallest_normal, source_normal, factor, key, first)
            finite = abs(v) < np.inf
            if finite and used.size > 0:
                marks[code & np.uint32(255)] = 1
            # As add_moments: what is not finite adds nothing.
            q = q if finite else 0.0
            v = v if finite else 0.0
            error = q - v
            error = error if abs(q) < np.inf else 0.0
            q = q if abs(q) < np.inf else 0.0
            relative = abs(error) / (abs(v) if v != 0.0 else np.inf)
            largest = relative if relative > largest else largest
            if scaled:
                v = product(product(v, scales[0]), scales[1])
                q = product(product(q, scales[2]), scales[3])
                error = product(product(error, scales[4]), scales[5])
            energy = product(v, v)
            signal += energy
            cross += product(q, v)
            result_energy += product(q, q)
            noise += product(error, error)
            error_sum += error
            if kind != np.uint32(0):
                if kind & np.uint32(1):
                    lost_0 += energy
                    n_0 += 1
                if kind & np.uint32(2):
                    lost_1 += energy
                    n_1 += 1
                if kind & np.uint32(4):
                    lost_2 += energy
                    n_2 += 1
                if kind & np.uint32(8):
                    lost_3 += energy
                    n_3 += 1
            i = np.uint64(i + np.uint64(threads))

        row = np.uint64(threads)
        partial[t] = signal
        partial[t + np.uint64(1) * row] = cross
        partial[t + np.uint64(2) * row] = result_energy
        partial[t + np.uint64(3) * row] = noise
        partial[t + np.uint64(4) * row] = error_sum
        partial[t + np.uint64(5) * row] = lost_0
        partial[t + np.uint64(6) * row] = lost_1
        partial[t + np.uint64(7) * row] = lost_2
        partial[t + np.uint64(8) * row] = lost_3
        partial[t + np.uint64(9) * row] = largest
        cuda.atomic.add(tallies, 0, np.int64(n_0))
        cuda.atomic.add(tallies, 1, np.int64(n_1))
        cuda.atomic.add(tallies, 2, np.int64(n_2))
        cuda.atomic.add(tallies, 3, np.int64(n_3))
        cuda.syncthreads()

        # Each row of columns by one thread, in their order.
        if t < np.uint64(rows):
            total = 0.0
            for j in range(threads):
                total += partial[t * np.uint64(threads) + np.uint64(j)]
            sums[segment * np.uint64(rows) + t] = total
        elif t == np.uint64(rows):
            total = 0.0
            for j in range(threads):
                total = max(total, partial[t * np.uint64(threads) + np.uint64(j)])
            worst[segment] = total
        if t < np.uint64(kinds):
            counts[segment * np.uint64(kinds) + t] = tallies[t]
        if used.size > 0 and marks[t] > 0:
            used[t] = 1

    number, f8, u8 = TYPES[np.dtype(lane.code)], types.float64, types.uint64
    return compiled(
        loss_kernel, array_of(reads), *spec_types(lane), number, number, f8, u8, u8, _I8, _F8, _I8, _F8,
        types.Array(types.uint8, 1, "C"),
    )  # fmt: skip


@made_once
def histogram_grid(decodes: bool, lane: Lane, reads: np.dtype[Any]) -> Grid:
    """``grid(x, source, counts, powers, squares, largest)``: an exponent histogram of a lane's binades for each block.

    Bins and the last two counts as ``cpu_stats.histogram_driver``; each block has a row of lane.bins + 2 in each array.
    Squares of significands are added up as integers (exactly in 32-bit lanes, each rounded down to 2**-46 in 64-bit
    ones): the same sum in any order.  ``largest[0]``: the largest finite magnitude bits.
    """
    U, trailing, last, bins = lane.code, lane.trailing_bits, lane.bits - 1, lane.bins
    infinity, width, narrow = U(lane.infinity), lane.bins + 2, lane.bits == 32
    copies, threads, span = TABLE_COPIES if narrow else 1, THREADS, HISTOGRAM_BLOCK
    hidden, fraction = U(1 << lane.trailing_bits), U((1 << lane.trailing_bits) - 1)
    unit, value, cells = 2.0**-SQUARE_BITS, 2.0**SQUARE_BITS, copies * width

    @kernel
    def binade(magnitude):
        """``(bin, significand)`` of a finite magnitude that is not zero; the significand with its hidden bit."""
        field = U(magnitude >> U(trailing))
        if field > U(0):
            return np.int64(field) + trailing - 1, U(U(magnitude & fraction) | hidden)
        # A subnormal: as an integer it is exact in the lane's float type, whose exponent tells the leading bit.
        if narrow:
            place = np.int64(np.float32(np.int32(magnitude)).view(np.uint32) >> np.uint32(23)) - 127
        else:
            place = np.int64(np.float64(magnitude).view(np.uint64) >> np.uint64(52)) - 1023
        return place, U(magnitude << U(trailing - place))

    def histogram_kernel(x, source, counts, powers, squares, largest):
        tally = cuda.shared.array(cells, types.int32)
        exact = cuda.shared.array(cells, types.int32)
        square = cuda.shared.array(cells, types.uint64)
        t, row = np.uint64(cuda.threadIdx.x), np.uint64(np.uint64(cuda.blockIdx.x) * np.uint64(width))
        table = (cuda.threadIdx.x // 32 % copies) * width
        top = U(0)
        piece = np.uint64(cuda.blockIdx.x)
        size = np.uint64(x.size)
        while piece * np.uint64(span) < size:
            for j in range(cuda.threadIdx.x, cells, threads):
                tally[j] = 0
                exact[j] = 0
                square[j] = 0
            cuda.syncthreads()
            i = np.uint64(piece * np.uint64(span) + t)
            stop = np.uint64(min(size, np.uint64((piece + np.uint64(1)) * np.uint64(span))))
            while i < stop:
                bits = decode(x[i], source, last) if decodes else x[i]
                magnitude = U(bits & U(U(U(1) << U(last)) - U(1)))
                if magnitude == U(0):
                    cuda.atomic.add(tally, table + bins, 1)
                elif magnitude >= infinity:
                    cuda.atomic.add(tally, table + bins + 1, 1)
                else:
                    top = U(max(top, magnitude))
                    place, significand = binade(magnitude)
                    cuda.atomic.add(tally, table + place, 1)
                    if significand == hidden:
                        cuda.atomic.add(exact, table + place, 1)
                    if narrow:
                        energy = np.uint64(np.uint64(significand) * np.uint64(significand))
                    else:
                        whole = np.float64(significand) * 2.0**-52
                        energy = np.uint64(product(product(whole, whole), value))
                    cuda.atomic.add(square, table + place, energy)
                i = np.uint64(i + np.uint64(threads))
            cuda.syncthreads()
            for j in range(cuda.threadIdx.x, width, threads):
                count = power = 0
                energy = np.uint64(0)
                for copy in range(copies):
                    count += tally[copy * width + j]
                    power += exact[copy * width + j]
                    energy = np.uint64(energy + square[copy * width + j])
                place = np.uint64(row + np.uint64(j))
                counts[place] += count
                powers[place] += power
                squares[place] += product(np.float64(energy), unit)
            cuda.syncthreads()
            piece = np.uint64(piece + np.uint64(cuda.gridDim.x))
        cuda.atomic.max(largest, 0, np.uint64(top))

    return compiled(histogram_kernel, array_of(reads), spec_types(lane)[0], _I8, _I8, _F8, _U8)
