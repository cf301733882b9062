"""Sums and dot products of NumPy arrays of codes: the casts as numbers, and the outputs in threads."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fpemu.formats import FloatFormat
from fpemu.kernels.spec import check_random_bits, exact_lane, exact_plan, exact_spec, operand_spec
from fpemu.orders import NAMES, Order
from fpemu.policies import Cast, Subnormals
from fpemu.targets.cpu import Driver
from fpemu.targets.cpu_arithmetic import Numbers, numbers_of
from fpemu.targets.cpu_sums import CONTRACT, DOT, STRIP, SUM, Facts, reduction_driver
from fpemu.targets.host import Bits, as_index, seed_word
from fpemu.targets.threads import get_threads, run_parts

WEIGHT = 8  # a step of a sum takes about as long as so many conversions


class Reduction(NamedTuple):
    """How terms are added up: all that does not depend on the codes."""

    accumulator: Cast
    a: FloatFormat
    b: FloatFormat
    order: Order = Order()
    product: Cast | None = None  # what products are rounded to first; None: they are exact (FMA)


def total(x: Bits, c: Bits | None, out: Bits, how: Reduction, seed: int, offset: int) -> int | None:
    """out (N,) = the sums of the rows of x (N, K)."""
    return _run(SUM, x[:1], x, _row(c), out[None], how, seed, offset)


def dot(a: Bits, b: Bits, c: Bits | None, out: Bits, how: Reduction, seed: int, offset: int) -> int | None:
    """out (N,) = the dot products of the rows of a (N, K) with those of b (N, K)."""
    return _run(DOT, a, b, _row(c), out[None], how, seed, offset)


def contract(a: Bits, b: Bits, c: Bits | None, out: Bits, how: Reduction, seed: int = 0, offset: int = 0) -> int | None:
    """out (M, N) = c + the dot products of each row of a (M, K) with each row of b (N, K), all codes, of any strides.

    c: initial codes of the accumulator, (M, N); None: sums begin with their first term.  The r-th rounding of output o
    (both from 0, outputs in C order) has random word ``offset + o * R + r``, R the roundings of one output.  Returns the
    index of the first output that met NaN where the accumulator (or the products) refuse it; then nothing is written.
    """
    return _run(CONTRACT, a, b, c, out, how, seed, offset)


def _row(c: Bits | None) -> Bits | None:
    return None if c is None else c[None]


@lru_cache(maxsize=1024)
def _prepared(
    shape: int, how: Reduction, reads: tuple[np.dtype[Any], ...], has_initial: bool
) -> tuple[Driver, Numbers, int, np.unsignedinteger[Any], bool]:
    accumulator = how.accumulator
    product = how.product or accumulator
    check_random_bits(accumulator)
    check_random_bits(product)
    lane = max(exact_lane(accumulator, (how.a, how.b)), exact_lane(product, (how.a, how.b)), key=lambda lane: lane.bits)
    refuses = accumulator.raises_on_nan or (how.product is not None and product.raises_on_nan)
    rounds_product = how.product is not None and shape != SUM
    flush = accumulator.subnormals is Subnormals.FLUSH_INPUT
    flush_factors = product.subnormals is Subnormals.FLUSH_INPUT
    facts = Facts(
        shape,
        NAMES.index(how.order.name),
        has_initial,
        rounds_product,
        refuses,
        exact_plan(accumulator, lane),
        exact_plan(product, lane),
        lane,
        reads[0],
        reads[1],
        accumulator.format.code_dtype,
    )
    numbers = numbers_of(
        [
            operand_spec(how.a, lane, flush_factors),
            operand_spec(how.b, lane, flush_factors),
            operand_spec(accumulator.format, lane, flush),
            exact_spec(accumulator, lane),
            operand_spec(product.format, lane, flush),
            exact_spec(product, lane),
        ],
        lane,
    )
    zero = 0 if accumulator.format.has_zero else accumulator.zero_code()
    return reduction_driver(facts), numbers, how.order.chunk or 1, lane.code(zero), refuses


def _run(shape: int, a: Bits, b: Bits, c: Bits | None, out: Bits, how: Reduction, seed: int, offset: int) -> int | None:
    a, b = _native(a), _native(b)
    driver, numbers, chunk, zero, refuses = _prepared(shape, how, (a.dtype, b.dtype), c is not None)
    rows, columns = out.shape
    terms = b.shape[1]
    step = how.order.roundings(terms, how.product is not None and shape != SUM, c is not None)
    key = seed_word(seed)
    inputs = [a, b] if c is None else [a, b, c]
    apart = not refuses and not any(np.may_share_memory(x, out) for x in inputs)
    result = out if apart else np.empty_like(out)
    invalid = np.zeros(out.shape if refuses else (rows, 1), np.uint8)
    start = result if c is None else _native(c)

    def run(i0: int, i1: int, j0: int, j1: int) -> None:
        index = as_index(offset + (i0 * columns + j0) * step)
        driver(
            a[i0:i1] if shape == CONTRACT else a[j0:j1] if shape == DOT else a,
            b[j0:j1],
            start[i0:i1, j0:j1],
            result[i0:i1, j0:j1],
            invalid[i0:i1, j0:j1] if refuses else invalid,
            numbers,
            chunk,
            zero,
            key,
            index,
            as_index(columns * step),
            as_index(step),
        )

    work = WEIGHT * rows * columns * max(terms, 1)
    if rows >= get_threads():
        run_parts(lambda i0, i1: run(i0, i1, 0, columns), rows, 1, work)
    else:
        run_parts(lambda j0, j1: run(0, rows, j0, j1), columns, STRIP if columns > 2 * STRIP else 1, work)
    if refuses and invalid.any():
        return int(np.argmax(invalid.reshape(-1)))
    if result is not out:
        out[...] = result
    return None


def _native(x: Bits) -> Bits:
    return x if x.dtype.isnative and x.flags.aligned else x.astype(x.dtype.newbyteorder("="))
