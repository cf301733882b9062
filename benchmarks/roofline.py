"""The roofline: compiled loops that only move the bytes a work moves, in the same threads.

A work reads each input element once and writes each output element once; so do the copies, which cut or widen the bits
instead of converting them.  One stores as usual, one past the cache (fpemu/targets/streaming.py): which is the faster
depends on the sizes and the machine, and the faster is the roofline.  Works that write nothing are set against a loop
that only reads, operations against one that combines the bits of their operands.  Matrix products compute more than
they move: theirs is the machine's own product of the same values in float32.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
from numba import from_dtype, types

import fpemu as fp
from benchmarks.ours import in_threads
from benchmarks.timing import Run
from benchmarks.works import BITS, Array, Work
from fpemu.targets.machine_code import machine_code
from fpemu.targets.streaming import STRIP, copy_past_cache, finish_streaming, whole_strips
from fpemu.targets.threads import run_parts

Layout = Literal["C", "A"]  # contiguous, or strided
PIECE = 1 << 14  # elements of a row that are combined at once


@cache
def copy_driver(source: np.dtype[Any], target: np.dtype[Any], layout: Layout) -> Any:
    """``driver(x, out)``: the low bits of every x."""
    cut = target.type

    def copy(x, out):  # type: ignore[no-untyped-def]
        for i in range(x.size):
            out[i] = cut(x[i])

    read = types.Array(from_dtype(source), 1, layout, readonly=True)
    return machine_code(copy, types.void(read, types.Array(from_dtype(target), 1, "C")))


@cache
def streaming_driver(source: np.dtype[Any], target: np.dtype[Any], layout: Layout) -> Any:
    """``driver(x, out)``: the same, past the cache; ``out`` takes whole strips from the beginning of a line on."""
    cut, size = target.type, STRIP // target.itemsize

    def copy(x, out):  # type: ignore[no-untyped-def]
        strip = np.empty(size, out.dtype)
        for start in range(0, x.size, size):
            row = x[start : start + size]
            for i in range(size):
                strip[i] = cut(row[i])
            copy_past_cache(strip, out, start)
        finish_streaming()

    read = types.Array(from_dtype(source), 1, layout, readonly=True)
    return machine_code(copy, types.void(read, types.Array(from_dtype(target), 1, "C")))


@cache
def read_driver(source: np.dtype[Any], layout: Layout) -> Any:
    """``driver(x)``: the bits of all x, or-ed together."""
    zero = source.type(0)

    def read(x):  # type: ignore[no-untyped-def]
        bits = zero
        for i in range(x.size):
            bits |= x[i]
        return bits

    number = from_dtype(source)
    return machine_code(read, number(types.Array(number, 1, layout, readonly=True)))


@cache
def operands_driver(number: np.dtype[Any]) -> Any:
    """``driver(x, out)``: the bits of all rows, or-ed together column by column."""

    def combine(x, out):  # type: ignore[no-untyped-def]
        for i in range(out.size):
            out[i] = x[0, i]
        for row in range(1, x.shape[0]):
            for i in range(out.size):
                out[i] |= x[row, i]

    read = types.Array(from_dtype(number), 2, "A", readonly=True)
    return machine_code(combine, types.void(read, types.Array(from_dtype(number), 1, "C")))


def _bits(x: Array) -> tuple[Array, Layout]:
    bits = x.view(BITS[x.itemsize])
    return bits, "C" if bits.flags.c_contiguous else "A"


def copy(work: Work, x: Array, threads: int) -> Run:
    """As many bytes read and written as the work reads and writes."""
    assert work.writes is not None
    bits, layout = _bits(x)
    out = np.empty(x.shape, BITS[work.writes.itemsize])
    driver = copy_driver(bits.dtype, out.dtype, layout)

    def part(start: int, stop: int) -> None:
        driver(bits[start:stop], out[start:stop])

    return Run(in_threads(threads, lambda: run_parts(part, bits.size)), lambda: out)


def copy_past(work: Work, x: Array, threads: int) -> Run:
    """The same, past the cache but for the ends."""
    assert work.writes is not None
    bits, layout = _bits(x)
    out = np.empty(x.shape, BITS[work.writes.itemsize])
    driver = copy_driver(bits.dtype, out.dtype, layout)
    past = streaming_driver(bits.dtype, out.dtype, layout)

    def part(start: int, stop: int) -> None:
        source, target = bits[start:stop], out[start:stop]
        first, last = whole_strips(target)
        driver(source[:first], target[:first])
        past(source[first:last], target[first:last])
        driver(source[last:], target[last:])

    return Run(in_threads(threads, lambda: run_parts(part, bits.size)), lambda: out)


def read(work: Work, x: Array, threads: int) -> Run:
    """As many bytes read as the work reads."""
    bits, layout = _bits(x)
    driver = read_driver(bits.dtype, layout)
    seen: list[Any] = []  # appending is safe in threads

    def part(start: int, stop: int) -> None:
        seen.append(driver(bits[start:stop]))

    def call() -> None:
        seen.clear()
        run_parts(part, bits.size)

    return Run(in_threads(threads, call), lambda: np.bitwise_or.reduce(np.array(seen, bits.dtype), keepdims=True))


def operands(work: Work, x: Array, threads: int) -> Run:
    """As many bytes read and written as an operation reads and writes, in pieces that stay in the cache."""
    out = np.empty(x.shape[1:], x.dtype)
    driver = operands_driver(x.dtype)

    def part(start: int, stop: int) -> None:
        for first in range(start, stop, PIECE):
            last = min(first + PIECE, stop)
            driver(x[:, first:last], out[first:last])

    return Run(in_threads(threads, lambda: run_parts(part, out.size)), lambda: out)


def sgemm(work: Work, x: Array, threads: int) -> Run:
    """NumPy's own float32 product of the same values: it emulates nothing, and its threads are those of its BLAS."""
    a, b = (np.ascontiguousarray(fp.decode(codes, format), np.float32) for codes, format in _matrices(work, x))
    out = np.empty(x.shape[1:], np.float32)

    def call() -> None:
        with np.errstate(all="ignore"):
            np.matmul(a, b, out=out)

    return Run(call, lambda: out.reshape(-1))


def _matrices(work: Work, x: Array) -> tuple[tuple[Array, fp.FloatFormat], ...]:
    return (x[0], work.engine.a), (x[1], work.engine.b)
