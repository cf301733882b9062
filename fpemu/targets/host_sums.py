"""Sums and dot products of NumPy arrays of codes: the casts as numbers, and the outputs in threads."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fpemu.formats import FloatFormat
from fpemu.kernels.spec import (
    EncodeSpec,
    OperandSpec,
    check_random_bits,
    exact_lane,
    exact_plan,
    exact_spec,
    operand_spec,
)
from fpemu.orders import NAMES, Order
from fpemu.policies import Cast, Subnormals
from fpemu.targets.cpu import Driver
from fpemu.targets.cpu_arithmetic import GENERAL, Numbers, numbers_of
from fpemu.targets.cpu_sums import CONTRACT, DOT, GENERAL_CODE, STRIP, SUM, Facts, Modes, reduction_driver
from fpemu.targets.host import Bits, as_index, seed_word
from fpemu.targets.threads import get_threads, run_parts

WEIGHT = 8  # a step of a sum takes about as long as so many conversions

# As in host_arithmetic.py: a loop compiled for one kind of sum is worth it from so many steps on.
SPECIALISE_FROM = 1 << 20


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


class Prepared(NamedTuple):
    """What does not depend on the codes."""

    driver: Driver
    modes: Numbers
    numbers: Numbers
    zero: Any  # code of a sum of nothing
    dtypes: tuple[np.dtype[Any], ...]  # of a, b and the accumulator's codes as the loop takes them


@lru_cache(maxsize=1024)
def _prepared(modes: Modes, how: Reduction, reads: tuple[np.dtype[Any], ...], specialise: bool) -> Prepared:
    accumulator, product = how.accumulator, how.product or how.accumulator
    for cast in (accumulator, product):
        check_random_bits(cast)
    lane = GENERAL
    if specialise:
        lanes = [exact_lane(cast, (how.a, how.b, accumulator.format)) for cast in (accumulator, product)]
        lane = max(lanes, key=lambda lane: lane.bits)
    plans = [exact_plan(cast, lane) for cast in (accumulator, product)]
    dtypes = (*reads, accumulator.format.code_dtype) if specialise else (GENERAL_CODE,) * 3
    driver = reduction_driver(Facts(modes, plans[0], plans[1], lane, *dtypes) if specialise else None)

    flush = accumulator.subnormals is Subnormals.FLUSH_INPUT
    flush_factors = product.subnormals is Subnormals.FLUSH_INPUT
    specs: list[OperandSpec | EncodeSpec] = [
        operand_spec(how.a, lane, flush_factors),
        operand_spec(how.b, lane, flush_factors),
        operand_spec(accumulator.format, lane, flush),
        exact_spec(accumulator, lane),
        operand_spec(product.format, lane, flush),
        exact_spec(product, lane),
    ]
    zero = 0 if accumulator.format.has_zero else accumulator.zero_code()
    numbers = np.array([*modes, *plans[0], *plans[1]], np.int64)
    return Prepared(driver, numbers, numbers_of(specs, lane), lane.code(zero), dtypes)


def _run(shape: int, a: Bits, b: Bits, c: Bits | None, out: Bits, how: Reduction, seed: int, offset: int) -> int | None:
    refuses = how.accumulator.raises_on_nan or (how.product is not None and how.product.raises_on_nan)
    rounds_product = how.product is not None and shape != SUM
    modes = Modes(shape, NAMES.index(how.order.name), int(c is not None), int(rounds_product), int(refuses))
    rows, columns = out.shape
    terms = b.shape[1]
    steps = rows * columns * max(terms, 1)
    native = tuple(x.dtype.newbyteorder("=") for x in (a, b))
    driver, mode_numbers, numbers, zero, dtypes = _prepared(modes, how, native, steps >= SPECIALISE_FROM)
    a, b = a.astype(dtypes[0], copy=False), b.astype(dtypes[1], copy=False)
    start = None if c is None else c.astype(dtypes[2], copy=False)
    apart = (
        not refuses
        and dtypes[2] == out.dtype
        and not any(np.may_share_memory(x, out) for x in (a, b, start) if x is not None)
    )
    result = out if apart else np.empty(out.shape, dtypes[2])
    invalid = np.zeros(out.shape if refuses else (1, 1), np.uint8)
    begin = result if start is None else start
    step, key = how.order.roundings(terms, rounds_product, c is not None), seed_word(seed)

    def run(i0: int, i1: int, j0: int, j1: int) -> None:
        driver(
            mode_numbers,
            a[i0:i1] if shape == CONTRACT else a[j0:j1] if shape == DOT else a,
            b[j0:j1],
            begin[i0:i1, j0:j1],
            result[i0:i1, j0:j1],
            invalid[i0:i1, j0:j1] if refuses else invalid,
            numbers,
            how.order.chunk or 1,
            zero,
            key,
            as_index(offset + (i0 * columns + j0) * step),
            as_index(columns * step),
            as_index(step),
        )

    if rows >= get_threads():
        run_parts(lambda i0, i1: run(i0, i1, 0, columns), rows, 1, WEIGHT * steps)
    else:
        unit = STRIP if columns > 2 * STRIP else 1
        run_parts(lambda j0, j1: run(0, rows, j0, j1), columns, unit, WEIGHT * steps)
    if refuses and invalid.any():
        return int(np.argmax(invalid.reshape(-1)))
    if result is not out:
        out[...] = result
    return None
