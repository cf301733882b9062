"""Arithmetic on NumPy arrays of codes: broadcast operands walked in pieces, each by one compiled loop, in threads."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fpemu.formats import FloatFormat
from fpemu.kernels import operate as operations
from fpemu.kernels.spec import Lane, Plan, check_random_bits, exact_lane, exact_plan, exact_spec, operand_spec
from fpemu.policies import Cast, Subnormals
from fpemu.targets.cpu_arithmetic import (
    GENERAL,
    Numbers,
    general_driver,
    numbers_of,
    operation_driver,
    relation_driver,
)
from fpemu.targets.host import Bits, as_index, seed_word
from fpemu.targets.threads import run_parts
from fpemu.targets.walk import apart, boxes, flat, is_plain

PIECE = 1 << 14  # elements of a copied piece of what is broadcast, strided or byte-swapped
WEIGHT = 4  # an operation takes about as long as so many conversions: how soon threads are worth it

# A loop of one operation and rounding takes seconds to compile, once for each machine, and runs about ten times as fast as
# the general one: large arrays are worth it.
SPECIALISE_FROM = 1 << 18

VIA = 1 << 17  # results that are codes of an intermediate format at one time

Operand = tuple[Bits, FloatFormat]  # codes, of a shape that broadcasts to that of the result, and their format


class Operation(NamedTuple):
    """A number of kernels/operate.py, and which operand it takes the opposite of (subtraction is addition)."""

    number: int
    opposite: int | None = None


OPERATIONS = {
    "add": Operation(operations.ADD),
    "subtract": Operation(operations.ADD, opposite=1),
    "multiply": Operation(operations.MULTIPLY),
    "divide": Operation(operations.DIVIDE),
    "divide_or_nan": Operation(operations.DIVIDE_OR_NAN),
    "sqrt": Operation(operations.SQUARE_ROOT),
    "fma": Operation(operations.MULTIPLY_ADD),
    "negate": Operation(operations.ROUND, opposite=0),
    "absolute": Operation(operations.ABSOLUTE),
    "minimum": Operation(operations.MINIMUM),
    "maximum": Operation(operations.MAXIMUM),
    "minimum_number": Operation(operations.MINIMUM_NUMBER),
    "maximum_number": Operation(operations.MAXIMUM_NUMBER),
}
ROUND = Operation(operations.ROUND)
MAKES_NAN = (operations.DIVIDE, operations.DIVIDE_OR_NAN, operations.SQUARE_ROOT)  # of finite operands


class Prepared(NamedTuple):
    """What does not depend on the codes: in which lane, by which paths and numbers."""

    lane: Lane
    plan: Plan
    numbers: Numbers


def operate(
    operation: Operation, operands: tuple[Operand, ...], cast: Cast, out: Bits, seed: int, offset: int, of: int = 0
) -> int | None:
    """Write the codes of the results; element i (in C order) has random word ``offset + i``.

    Where the cast refuses NaN and a result is one, nothing is written, and its C-order index is returned.
    ``of``: elements of the whole of which this is a part.
    """
    if cast.via is not None:
        return _operate_twice(operation, operands, cast, cast.via, out, seed, offset, max(out.size, of))

    check_random_bits(cast)
    sources = tuple(source for _, source in operands)
    arrays = tuple(apart(codes, out) for codes, _ in operands)
    if max(out.size, of) < SPECIALISE_FROM:
        return _operate_any(operation, arrays, sources, cast, out, seed, offset)
    if cast.raises_on_nan and can_make_nan(operation, sources):
        index = _first_invalid(operation, arrays, sources, cast, out.shape)
        if index is not None:
            return index

    lane, plan, numbers = prepared(operation, sources, cast, exact_lane(cast, sources))
    reads = tuple(_three([x.dtype.newbyteorder("=") for x in arrays]))
    driver = operation_driver(operation.number, plan, lane, reads, cast.format.code_dtype)
    key = seed_word(seed)

    if all(x.shape == out.shape and is_plain(x) for x in arrays) and is_plain(out):
        flats, flat_out = [x.reshape(-1) for x in arrays], out.reshape(-1)

        def part(start: int, stop: int) -> None:
            driver(
                *_three([x[start:stop] for x in flats]), flat_out[start:stop], numbers, key, as_index(offset + start)
            )

        run_parts(part, out.size, elements=WEIGHT * out.size)
        return None

    wide = [np.broadcast_to(x, out.shape) for x in arrays]
    pieces = list(boxes(out.shape, PIECE))

    def some(start: int, stop: int) -> None:
        for first, index in pieces[start:stop]:
            target = out[index]
            result = flat(target) if is_plain(target) else np.empty(target.size, target.dtype)
            inputs = _three([flat(x[index]) for x in wide])
            driver(*inputs, result, numbers, key, as_index(offset + first))
            if not is_plain(target):
                target[...] = result.reshape(target.shape)

    run_parts(some, len(pieces), 1, WEIGHT * out.size)
    return None


def _operate_twice(
    operation: Operation,
    operands: tuple[Operand, ...],
    cast: Cast,
    via: Cast,
    out: Bits,
    seed: int,
    offset: int,
    of: int,
) -> int | None:
    """The same by way of another format; box by box, where no NaN can be found after something was written."""
    last = cast.replace(via=None)
    most = max(out.size, 1) if via.raises_on_nan or cast.raises_on_nan else VIA
    wide = [(np.broadcast_to(apart(codes, out), out.shape), source) for codes, source in operands]
    for first, index in boxes(out.shape, most):
        target = out[index]
        between = np.empty(target.shape, via.format.code_dtype)
        parts = tuple((codes[index], source) for codes, source in wide)
        refused = operate(operation, parts, via, between, seed, offset + first, of)
        if refused is None:
            refused = operate(ROUND, ((between, via.format),), last, target, seed, offset + first, of)
        if refused is not None:
            return first + refused
    return None


def _operate_any(
    operation: Operation,
    arrays: tuple[Bits, ...],
    sources: tuple[FloatFormat, ...],
    cast: Cast,
    out: Bits,
    seed: int,
    offset: int,
) -> int | None:
    """The same by the general loop."""
    _, plan, numbers = prepared(operation, sources, cast, GENERAL)
    driver, modes, key = general_driver(), np.array(plan), seed_word(seed)
    wide = [x if x.shape == out.shape else np.broadcast_to(x, out.shape) for x in arrays]
    # (All at once where a NaN that is found late must leave nothing written.)
    for first, index in boxes(out.shape, max(out.size, 1) if cast.raises_on_nan else PIECE):
        target = out[index]
        inputs = _three([x[index].astype(GENERAL.code).reshape(-1) for x in wide])
        results = np.empty(target.size, GENERAL.code)
        invalid = driver(operation.number, modes, *inputs, results, numbers, key, as_index(offset + first))
        if invalid < target.size and cast.raises_on_nan:
            return first + int(invalid)
        target[...] = results.reshape(target.shape)
    return None


@lru_cache(maxsize=4096)
def prepared(operation: Operation, sources: tuple[FloatFormat, ...], cast: Cast, lane: Lane) -> Prepared:
    """The paths and numbers of an operation on codes of ``sources``."""
    flush = cast.subnormals is Subnormals.FLUSH_INPUT
    specs = [operand_spec(source, lane, flush, i == operation.opposite) for i, source in enumerate(_three(sources))]
    return Prepared(lane, exact_plan(cast, lane), numbers_of([*specs, exact_spec(cast, lane)], lane))


def relate(operands: tuple[Operand, Operand], flush: bool, out: np.ndarray[Any, np.dtype[np.int8]]) -> None:
    """Write how the values of two operands compare."""
    driver = relation_driver()
    numbers = numbers_of([operand_spec(source, GENERAL, flush) for _, source in operands], GENERAL)
    wide = [np.broadcast_to(apart(codes, out), out.shape) for codes, _ in operands]
    pieces = list(boxes(out.shape, PIECE))

    def some(start: int, stop: int) -> None:
        for _, index in pieces[start:stop]:
            result = np.empty(out[index].size, np.int8)
            driver(*(x[index].astype(GENERAL.code).reshape(-1) for x in wide), result, numbers)
            out[index] = result.reshape(out[index].shape)

    run_parts(some, len(pieces), 1, WEIGHT * out.size)


def _three(operands: Any) -> list[Any]:
    """The loops take three operands, and read as many as their operation has."""
    return [*operands, *[operands[0]] * (3 - len(operands))]


def can_make_nan(operation: Operation, sources: tuple[FloatFormat, ...]) -> bool:
    """Whether a result may be NaN: of NaN, of infinities, or of an operation like 0/0."""
    return operation.number in MAKES_NAN or any(source.has_nan or source.infinities for source in sources)


def _first_invalid(
    operation: Operation,
    arrays: tuple[Bits, ...],
    sources: tuple[FloatFormat, ...],
    cast: Cast,
    shape: tuple[int, ...],
) -> int | None:
    """The C-order index of the first result that is NaN, or None."""
    for first, index in boxes(shape, PIECE):
        pieces = tuple(np.broadcast_to(x, shape)[index] for x in arrays)
        found = _operate_any(operation, pieces, sources, cast, np.empty(pieces[0].shape, cast.format.code_dtype), 0, 0)
        if found is not None:
            return first + found
    return None
