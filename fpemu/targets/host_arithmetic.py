"""Arithmetic on NumPy arrays of codes: broadcast operands walked in pieces, each by one compiled loop, in threads."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fpemu.formats import FloatFormat
from fpemu.kernels.operate import ROUND
from fpemu.kernels.spec import (
    EXACT32,
    EXACT64,
    check_random_bits,
    exact_lane,
    exact_plan,
    exact_spec,
    fits_exact32,
    operand_spec,
)
from fpemu.policies import Cast, Subnormals
from fpemu.targets import cpu_arithmetic
from fpemu.targets.cpu import Driver
from fpemu.targets.cpu_arithmetic import Numbers
from fpemu.targets.host import Bits, as_index, seed_word
from fpemu.targets.threads import run_parts
from fpemu.targets.walk import boxes, flat, is_plain

PIECE = 1 << 14  # elements of a copied piece of what is broadcast, strided or byte-swapped
WEIGHT = 4  # an operation takes about as long as so many conversions: how soon threads are worth it


Operand = tuple[Bits, FloatFormat]  # codes, of a shape that broadcasts to that of the result, and their format


class Prepared(NamedTuple):
    """What does not depend on the codes: the loop and its numbers."""

    driver: Driver
    numbers: Numbers


def operate(operation: int, operands: tuple[Operand, ...], cast: Cast, out: Bits, seed: int, offset: int) -> int | None:
    """Write the codes of the results; element i (in C order) has random word ``offset + i``.

    Where the cast refuses NaN and a result is one, nothing is written, and its C-order index is returned.
    """
    if cast.via is not None:
        between = np.empty(out.shape, cast.via.format.code_dtype)
        refused = operate(operation, operands, cast.via, between, seed, offset)
        if refused is not None:
            return refused
        then = cast.replace(via=None)
        return operate(ROUND, ((between, cast.via.format),), then, out, seed, offset)

    check_random_bits(cast)
    sources = tuple(source for _, source in operands)
    arrays = tuple(_apart(codes, out) for codes, _ in operands)
    if cast.raises_on_nan:
        index = _first_invalid(operation, arrays, sources, cast, out.shape)
        if index is not None:
            return index
    reads = tuple(codes.dtype.newbyteorder("=") for codes, _ in operands)
    driver, numbers = prepared(operation, sources, reads, cast)
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


@lru_cache(maxsize=4096)
def prepared(
    operation: int, sources: tuple[FloatFormat, ...], reads: tuple[np.dtype[Any], ...], cast: Cast
) -> Prepared:
    """The loop of an operation on codes of ``sources``, and its numbers."""
    lane = exact_lane(cast, sources)
    flush = cast.subnormals is Subnormals.FLUSH_INPUT
    specs = [operand_spec(source, lane, flush) for source in _three(sources)]
    numbers = cpu_arithmetic.numbers_of([*specs, exact_spec(cast, lane)], lane)
    plan, writes = exact_plan(cast, lane), cast.format.code_dtype
    return Prepared(cpu_arithmetic.operation_driver(operation, plan, lane, tuple(_three(reads)), writes), numbers)


def relate(operands: tuple[Operand, Operand], flush: bool, out: np.ndarray[Any, np.dtype[np.int8]]) -> None:
    """Write how the values of two operands compare."""
    narrow = all(fits_exact32(source) for _, source in operands)
    lane = EXACT32 if narrow else EXACT64
    specs = [operand_spec(source, lane, flush) for _, source in operands]
    driver = cpu_arithmetic.relation_driver(lane, tuple(codes.dtype.newbyteorder("=") for codes, _ in operands))
    numbers = cpu_arithmetic.numbers_of([*specs], lane)
    wide = [np.broadcast_to(_apart(codes, out), out.shape) for codes, _ in operands]
    pieces = list(boxes(out.shape, PIECE))

    def some(start: int, stop: int) -> None:
        for _, index in pieces[start:stop]:
            result = np.empty(out[index].size, np.int8)
            driver(*(flat(x[index]) for x in wide), result, numbers)
            out[index] = result.reshape(out[index].shape)

    run_parts(some, len(pieces), 1, WEIGHT * out.size)


def _three(operands: Any) -> list[Any]:
    """The loops take three operands, and read as many as their operation has."""
    return [*operands, *[operands[0]] * (3 - len(operands))]


def _apart(x: Bits, out: np.ndarray[Any, Any]) -> Bits:
    """The codes, copied where writing would change what is still to be read."""
    if not np.may_share_memory(x, out):
        return x
    # Elementwise in place is safe for the very same elements only.
    same = x.itemsize == out.itemsize and x.ctypes.data == out.ctypes.data and x.strides == out.strides
    return x if same and x.shape == out.shape else x.copy()


def _first_invalid(
    operation: int, arrays: tuple[Bits, ...], sources: tuple[FloatFormat, ...], cast: Cast, shape: tuple[int, ...]
) -> int | None:
    """The C-order index of the first result that is NaN, or None."""
    lane = exact_lane(cast, sources)
    reads = tuple(x.dtype.newbyteorder("=") for x in _three(arrays))
    driver = cpu_arithmetic.invalid_driver(operation, exact_plan(cast, lane), lane, reads)
    _, numbers = prepared(operation, sources, reads[: len(sources)], cast)
    wide = [np.broadcast_to(x, shape) for x in arrays]
    for first, index in boxes(shape, PIECE):
        inputs = _three([flat(x[index]) for x in wide])
        found = int(driver(*inputs, numbers))
        if found < inputs[0].size:
            return first + found
    return None
