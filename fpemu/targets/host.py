"""Conversions of NumPy arrays: the passes of a conversion as compiled loops, and how arrays are walked.

A step runs over flat, contiguous arrays of bits; where there are several, in chunks that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from fpemu.formats import FloatFormat
from fpemu.kernels.random import seed_key
from fpemu.kernels.spec import LANE32, LANE64, Lane
from fpemu.policies import Cast
from fpemu.targets import chain, cpu
from fpemu.targets.chain import FLOAT32, ExactPass, Pass, Passes, Source, exact_table, exact_values
from fpemu.targets.streaming import whole_strips
from fpemu.targets.threads import map_parts, run_parts, split, useful_threads
from fpemu.targets.walk import Box, boxes, flat, is_plain

Bits = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]
Function = Callable[[Bits, Bits, np.uint64, int, bool], None]  # (input, output, key, first index, streams)

CHUNK = 1 << 17  # elements of a chunk between steps, which stays in the cache
STRIDED_CHUNK = 1 << 16  # elements of a copied piece of a strided or byte-swapped array

SCANNED: dict[Source, Lane] = {FLOAT32: LANE32, LANE64: LANE64}  # those whose NaNs a compiled loop finds

# A specialisation with the numbers of the format frozen runs about three times as fast as the general one and takes
# 0.1 s to compile, once for each machine: large arrays are worth it.
FREEZE_FROM = 1 << 20

# Conversions that read and write as many bytes write past the cache (benchmarks/threshold.py measures the crossing).
STREAM_FROM = 96 << 20


class Step(NamedTuple):
    """One pass over flat arrays, the dtype of what it writes, and whether that depends on the index too."""

    function: Function
    dtype: np.dtype[Any]
    random: bool = False


# ---- steps ----------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=4096)
def steps_of(passes: Passes, freeze: bool) -> tuple[Step, ...]:
    """The passes as steps; ``freeze``: compiled for their numbers."""
    return tuple(_exact_step(one) if isinstance(one, ExactPass) else _step(one, freeze) for one in passes)


def _step(one: Pass, freeze: bool) -> Step:
    stages = one.stages
    frozen = stages if freeze else None
    make = partial(cpu.conversion_driver, one.has, one.plan, one.lane, one.reads, one.writes, frozen)
    driver, numbers = make(), cpu.numbers_of(stages, one.lane)

    def convert(x: Bits, out: Bits, key: np.uint64, first: int, streams: bool) -> None:
        if streams:
            start, stop = whole_strips(out)
            driver(x[:start], out[:start], numbers, key, as_index(first))
            make(streams=True)(x[start:stop], out[start:stop], numbers, key, as_index(first + start))
            x, out, first = x[stop:], out[stop:], first + stop
        driver(x, out, numbers, key, as_index(first))

    return Step(convert, one.writes, one.random)


def _exact_step(one: ExactPass) -> Step:
    """Formats with values that are subnormal in the lane, or have more bits than the kernel takes: rare, not fast."""
    source, lane = one
    if source.bits > chain.TABLE_BITS:

        def compute(codes: Bits, bits: Bits, key: np.uint64, first: int, streams: bool) -> None:
            bits[...] = exact_values(codes, source, lane)

        return Step(compute, one.writes)

    table = exact_table(source, lane)
    driver = cpu.table_driver(lane, source.code_dtype)

    def look_up(codes: Bits, bits: Bits, key: np.uint64, first: int, streams: bool) -> None:
        driver(codes, bits, table)

    return Step(look_up, one.writes)


def encode_steps(source: Source, cast: Cast, freeze: bool) -> tuple[Step, ...]:
    """From values of ``source`` to codes of ``cast.format``."""
    return steps_of(chain.encode_passes(source, cast), freeze)


def decode_step(source: FloatFormat, lane: Lane, freeze: bool) -> Step:
    """From codes to the bits of a lane."""
    return steps_of((chain.decode_pass(source, lane),), freeze)[0]


@lru_cache(maxsize=256)
def seed_word(seed: int) -> np.uint64:
    """The key of a seed as the drivers take it."""
    return np.uint64(seed_key(seed))


FIRST = np.uint64(0)


def as_index(index: int) -> np.uint64:
    """An element's index as the drivers take it: modulo 2**64."""
    return np.uint64(index & 0xFFFFFFFFFFFFFFFF) if index else FIRST


# ---- walking --------------------------------------------------------------------------------------------------------
def _run_chain(steps: tuple[Step, ...], x: Bits, out: Bits, key: np.uint64, first: int, streams: bool = False) -> None:
    """All steps over flat contiguous arrays, chunk by chunk where there are several; the last may stream."""
    if len(steps) == 1:
        steps[0].function(x, out, key, first, streams)
        return
    buffers = [np.empty(min(x.size, CHUNK), step.dtype) for step in steps[:-1]]
    for start in range(0, x.size, CHUNK):
        stop = min(start + CHUNK, x.size)
        piece: Bits = x[start:stop]
        for step, buffer in zip(steps, [*buffers, None], strict=True):
            target = out[start:stop] if buffer is None else buffer[: stop - start]
            step.function(piece, target, key, first + start, streams and buffer is None)
            piece = target


def convert(steps: tuple[Step, ...], x: Bits, out: Bits, seed: int, offset: int) -> None:
    """Run a chain over arrays of bits of equal shape; element i (in C order) has random word ``offset + i``."""
    key = seed_word(seed)
    plain = is_plain(x) and is_plain(out)
    if not plain and is_plain(x.T) and is_plain(out.T) and not any(step.random for step in steps):
        x, out, plain = x.T, out.T, True  # any order of the elements serves
    if plain:
        flat_x, flat_out = (x, out) if x.ndim == 1 else (x.reshape(-1), out.reshape(-1))
        if flat_x.size < CHUNK:
            _run_chain(steps, flat_x, flat_out, key, offset)
            return
        streams = flat_x.nbytes + flat_out.nbytes >= STREAM_FROM and not np.may_share_memory(flat_x, flat_out)

        def part(start: int, stop: int) -> None:
            _run_chain(steps, flat_x[start:stop], flat_out[start:stop], key, offset + start, streams)

        run_parts(part, flat_x.size)
        return

    pieces = list(boxes(x.shape, STRIDED_CHUNK))

    def some(start: int, stop: int) -> None:
        for first, index in pieces[start:stop]:
            piece, target = flat(x[index]), out[index]
            result = flat(target) if is_plain(target) else np.empty(target.size, target.dtype)
            _run_chain(steps, piece, result, key, offset + first)
            if not is_plain(target):
                target[...] = result.reshape(target.shape)

    run_parts(some, len(pieces), 1, x.size)


def first_nan(x: Bits, source: Source) -> int | None:
    """The C-order index of the first NaN, or None."""

    def find(box: Box) -> int | None:
        piece = flat(x[box[1]])
        return box[0] + int(np.argmax(_nan_mask(piece, source))) if _piece_has_nan(piece, source) else None

    if is_plain(x):
        x = x.reshape(-1)
        pieces: list[Box] = [(start, (slice(start, stop),)) for start, stop in split(x.size, _scanners(x.size, source))]
    else:
        pieces = list(boxes(x.shape, STRIDED_CHUNK))
    return next((index for index in map_parts(find, pieces) if index is not None), None)


def _scanners(size: int, source: Source) -> int:
    """How many pieces to search: one a thread, or as many as keep the masks of other sources small."""
    if source not in SCANNED:
        return -(-size // STRIDED_CHUNK)
    return useful_threads(size)


def _piece_has_nan(piece: Bits, source: Source) -> bool:
    lane = SCANNED.get(source)
    if lane is not None:
        return bool(cpu.largest_magnitude_driver(lane)(piece) > lane.infinity)
    return bool(_nan_mask(piece, source).any())


def _nan_mask(piece: Bits, source: Source) -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask, largest, alone = (np.array(number, piece.dtype) for number in chain.is_nan_limits(source))
    nan = (piece & mask) > largest
    return np.asarray(nan | (piece == alone) if alone else nan)
