"""Conversions of NumPy arrays: which kernels a conversion takes, one after another, and how arrays are walked.

A conversion is a chain of steps over flat, contiguous arrays of bits.  Most have one step; an intermediate format, and
formats that neither lane decodes, take several, in chunks that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from fpemu.formats import FORMATS, FloatFormat
from fpemu.kernels.random import seed_key
from fpemu.kernels.spec import (
    LANE32,
    LANE64,
    NEAREST_EVEN,
    STOCHASTIC,
    Lane,
    Plan,
    decode_spec,
    decodes_in,
    encode_plan,
    encode_spec,
    fits_lane,
)
from fpemu.policies import Cast
from fpemu.targets import cpu
from fpemu.targets.streaming import whole_strips
from fpemu.targets.threads import map_parts, run_parts, split, useful_threads
from fpemu.targets.walk import Box, boxes, flat, is_plain

Bits = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]
Source = FloatFormat | Lane  # codes of a format (float16 and float32 are codes too), or the lane of float64
Function = Callable[[Bits, Bits, np.uint64, int, bool], None]  # (input, output, key, first index, streams)

CHUNK = 1 << 17  # elements of a chunk between steps, which stays in the cache
STRIDED_CHUNK = 1 << 16  # elements of a copied piece of a strided or byte-swapped array

FLOAT16, FLOAT32 = FORMATS["float16"], FORMATS["float32"]
SOURCES: dict[np.dtype[Any], Source] = {
    np.dtype(np.float16): FLOAT16,
    np.dtype(np.float32): FLOAT32,
    np.dtype(np.float64): LANE64,
}

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
def _step(
    lane: Lane,
    freeze: bool,
    source: FloatFormat | None = None,
    cast: Cast | None = None,
    back: FloatFormat | None = None,
    source_emin: int | None = None,
) -> Step:
    """Decode codes of ``source``, encode by ``cast``, decode codes of ``back``: those stages that are given.

    ``source_emin``: exponent of the smallest normal value of what the inputs come from, if not of ``source`` or the lane.
    """
    if source_emin is None:
        source_emin = lane.emin if source is None else source.emin
    stages = cpu.Stages(
        None if source is None else decode_spec(source, lane),
        None if cast is None else encode_spec(cast, lane, source_emin),
        None if back is None else decode_spec(back, lane),
    )
    of_lane = {"source_trailing": lane.trailing_bits, "source_sign": lane.bits - 1}
    plan = Plan(NEAREST_EVEN, **of_lane) if cast is None else encode_plan(cast, lane)
    reads = np.dtype(lane.code) if source is None else source.code_dtype
    writes = np.dtype(lane.code) if cast is None or back is not None else cast.format.code_dtype
    has = (source is not None, cast is not None, back is not None)
    make = partial(cpu.conversion_driver, has, plan, lane, reads, writes, stages if freeze else None)
    driver, numbers = make(), cpu.numbers_of(stages, lane)

    def convert(x: Bits, out: Bits, key: np.uint64, first: int, streams: bool) -> None:
        if streams:
            start, stop = whole_strips(out)
            driver(x[:start], out[:start], numbers, key, as_index(first))
            make(streams=True)(x[start:stop], out[start:stop], numbers, key, as_index(first + start))
            x, out, first = x[stop:], out[stop:], first + stop
        driver(x, out, numbers, key, as_index(first))

    return Step(convert, writes, plan.rounding == STOCHASTIC)


def decode_step(source: FloatFormat, lane: Lane, freeze: bool) -> Step:
    return _step(lane, freeze, source) if decodes_in(source, lane) else _exact_step(source, lane)


def _exact_step(source: FloatFormat, lane: Lane) -> Step:
    """Formats with values that are subnormal in the lane, or have more bits than the kernel takes: rare, not fast."""
    source.value_dtype  # noqa: B018  (raises where float64 cannot hold the values)

    def values(codes: Bits) -> Bits:
        magnitude = (codes & np.array(source.magnitude_mask, codes.dtype)).astype(np.int64)
        field, trailing = magnitude >> source.trailing_bits, magnitude & ((1 << source.trailing_bits) - 1)
        normal = (field > 0) | (not source.subnormals)
        significand = np.where(normal, trailing | (1 << source.trailing_bits), trailing)
        exponent = np.where(normal, field - source.bias, source.emin) - source.trailing_bits
        # ldexp of an integer below 2**53 is exact wherever the value is one of the lane's.
        value = np.ldexp(significand.astype(np.float64), exponent.astype(np.int32))
        value = np.where(magnitude > source.max_code, np.nan, value)
        if source.infinity_code is not None:
            value = np.where(magnitude == source.infinity_code, np.inf, value)
        bits = value.astype(lane.value).view(lane.code)
        if source.sign_mask:
            minus = (codes & np.array(source.sign_mask, codes.dtype)) != 0
            bits = np.where(minus, bits | lane.code(1 << (lane.bits - 1)), bits)
            if not source.negative_zero:
                bits = np.where(codes == source.sign_mask, np.array(np.nan, lane.value).view(lane.code), bits)
        return bits

    if source.bits > 16:

        def compute(codes: Bits, bits: Bits, key: np.uint64, first: int, streams: bool) -> None:
            bits[...] = values(codes)

        return Step(compute, np.dtype(lane.code))

    table = values(np.arange(1 << source.bits, dtype=source.code_dtype))
    driver = cpu.table_driver(lane, source.code_dtype)

    def look_up(codes: Bits, bits: Bits, key: np.uint64, first: int, streams: bool) -> None:
        driver(codes, bits, table)

    return Step(look_up, np.dtype(lane.code))


# ---- chains ---------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=4096)
def encode_steps(source: Source, cast: Cast, freeze: bool) -> tuple[Step, ...]:
    """From values of ``source`` to codes of ``cast.format``."""
    if cast.via is not None:
        first, then = cast.via, cast.replace(via=None)
        return encode_steps(source, first, freeze) + encode_steps(first.format, then, freeze)
    if isinstance(source, Lane):
        return (_step(LANE64, freeze, cast=cast),)
    narrow = fits_lane(cast, LANE32)
    if narrow and source == FLOAT32:
        return (_step(LANE32, freeze, cast=cast),)
    lane = LANE32 if narrow and decodes_in(source, LANE32) else LANE64
    if decodes_in(source, lane):
        return (_step(lane, freeze, source, cast),)
    return (_exact_step(source, lane), _step(lane, freeze, cast=cast, source_emin=source.emin))


@lru_cache(maxsize=4096)
def decode_steps(source: FloatFormat, dtype: np.dtype[Any], freeze: bool) -> tuple[Step, ...]:
    """From codes of ``source`` to the bits of a NumPy dtype that holds its values."""
    if dtype == np.float16:
        return encode_steps(source, Cast(FLOAT16), freeze)
    return (decode_step(source, LANE32 if dtype == np.float32 else LANE64, freeze),)


@lru_cache(maxsize=4096)
def quantize_steps(source: Source, cast: Cast, dtype: np.dtype[Any], freeze: bool) -> tuple[Step, ...]:
    """From values of ``source`` to the nearest of ``cast.format``, as bits of ``dtype``."""
    lane = {np.dtype(np.float32): LANE32, np.dtype(np.float64): LANE64}.get(dtype)
    same = SOURCES[dtype] == source
    if same and lane is not None and cast.via is None and fits_lane(cast, lane) and decodes_in(cast.format, lane):
        return (_step(lane, freeze, cast=cast, back=cast.format),)
    return encode_steps(source, cast, freeze) + decode_steps(cast.format, dtype, freeze)


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
    if isinstance(source, Lane):
        return (piece & source.code((1 << (source.bits - 1)) - 1)) > source.infinity
    magnitude = piece & np.array(source.magnitude_mask, piece.dtype)
    mask = magnitude > source.max_code + source.infinities
    if source.signed and not source.negative_zero:
        mask |= piece == source.sign_mask
    return np.asarray(mask)
