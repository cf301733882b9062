"""Conversions of NumPy arrays: which kernels a conversion takes, one after another, and how arrays are walked.

A conversion is a chain of steps over flat, contiguous arrays of bits.  Most have one step; an intermediate format, and
formats that neither lane decodes, take several, in chunks that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fpemu.formats import FORMATS, FloatFormat
from fpemu.kernels.random import seed_key
from fpemu.kernels.spec import (
    LANE32,
    LANE64,
    Lane,
    as_array,
    decode_spec,
    decodes_in,
    encode_plan,
    encode_spec,
    fits_lane,
)
from fpemu.policies import Cast
from fpemu.targets import cpu
from fpemu.targets.threads import run_parts

Bits = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]
Source = FloatFormat | Lane  # codes of a format (float16 and float32 are codes too), or the lane of float64
Function = Callable[[Bits, Bits, np.uint64, np.uint64], None]  # (input, output, key, first index)

CHUNK = 1 << 17  # elements of a chunk between steps, which stays in the cache
STRIDED_CHUNK = 1 << 16  # elements of a copied piece of a strided or byte-swapped array

FLOAT16, FLOAT32 = FORMATS["float16"], FORMATS["float32"]
SOURCES: dict[np.dtype[Any], Source] = {
    np.dtype(np.float16): FLOAT16,
    np.dtype(np.float32): FLOAT32,
    np.dtype(np.float64): LANE64,
}

# A specialisation with the numbers of the format frozen runs about three times as fast as the general one and takes
# 0.1 s to compile, once for each machine: large arrays are worth it.
FREEZE_FROM = 1 << 20


class Step(NamedTuple):
    """One pass over flat arrays, and the dtype of what it writes."""

    function: Function
    dtype: np.dtype[Any]


# ---- steps ----------------------------------------------------------------------------------------------------------
def _encode_step(cast: Cast, lane: Lane, source_emin: int, freeze: bool) -> Step:
    plan, spec = encode_plan(cast, lane), encode_spec(cast, lane, source_emin)
    dtype = cast.format.code_dtype
    driver = cpu.encode_driver(plan, lane, dtype, spec if freeze else None)
    numbers = as_array(spec, lane)

    def encode(bits: Bits, codes: Bits, key: np.uint64, first: np.uint64) -> None:
        driver(bits, codes, numbers, key, first)

    return Step(encode, dtype)


def decode_step(source: FloatFormat, lane: Lane, freeze: bool) -> Step:
    if not decodes_in(source, lane):
        return _exact_step(source, lane)
    spec = decode_spec(source, lane)
    driver = cpu.decode_driver(lane, source.code_dtype, spec if freeze else None)
    numbers = as_array(spec, lane)

    def decode(codes: Bits, bits: Bits, key: np.uint64, first: np.uint64) -> None:
        driver(codes, bits, numbers)

    return Step(decode, np.dtype(lane.code))


def _transcode_step(source: FloatFormat, cast: Cast, lane: Lane, freeze: bool) -> Step:
    plan, to, back = encode_plan(cast, lane), encode_spec(cast, lane, source.emin), decode_spec(source, lane)
    dtype = cast.format.code_dtype
    driver = cpu.transcode_driver(plan, lane, source.code_dtype, dtype, (to, back) if freeze else None)
    to_numbers, back_numbers = as_array(to, lane), as_array(back, lane)

    def transcode(codes: Bits, out: Bits, key: np.uint64, first: np.uint64) -> None:
        driver(codes, out, to_numbers, back_numbers, key, first)

    return Step(transcode, dtype)


def _quantize_step(cast: Cast, lane: Lane, freeze: bool) -> Step:
    plan, to, back = encode_plan(cast, lane), encode_spec(cast, lane, lane.emin), decode_spec(cast.format, lane)
    driver = cpu.quantize_driver(plan, lane, (to, back) if freeze else None)
    to_numbers, back_numbers = as_array(to, lane), as_array(back, lane)

    def quantize(bits: Bits, out: Bits, key: np.uint64, first: np.uint64) -> None:
        driver(bits, out, to_numbers, back_numbers, key, first)

    return Step(quantize, np.dtype(lane.code))


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

        def compute(codes: Bits, bits: Bits, key: np.uint64, first: np.uint64) -> None:
            bits[...] = values(codes)

        return Step(compute, np.dtype(lane.code))

    table = values(np.arange(1 << source.bits, dtype=source.code_dtype))
    driver = cpu.table_driver(lane, source.code_dtype)

    def look_up(codes: Bits, bits: Bits, key: np.uint64, first: np.uint64) -> None:
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
        return (_encode_step(cast, LANE64, LANE64.emin, freeze),)
    narrow = fits_lane(cast, LANE32)
    if narrow and source == FLOAT32:
        return (_encode_step(cast, LANE32, source.emin, freeze),)
    lane = LANE32 if narrow and decodes_in(source, LANE32) else LANE64
    if decodes_in(source, lane):
        return (_transcode_step(source, cast, lane, freeze),)
    return (_exact_step(source, lane), _encode_step(cast, lane, source.emin, freeze))


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
        return (_quantize_step(cast, lane, freeze),)
    return encode_steps(source, cast, freeze) + decode_steps(cast.format, dtype, freeze)


@lru_cache(maxsize=256)
def seed_word(seed: int) -> np.uint64:
    """The key of a seed as the drivers take it."""
    return np.uint64(seed_key(seed))


def as_index(index: int) -> np.uint64:
    """An element's index as the drivers take it: modulo 2**64."""
    return np.uint64(index & 0xFFFFFFFFFFFFFFFF)


# ---- walking --------------------------------------------------------------------------------------------------------
def _run_chain(steps: tuple[Step, ...], x: Bits, out: Bits, key: np.uint64, first: int) -> None:
    """All steps over flat contiguous arrays, chunk by chunk where there are several."""
    if len(steps) == 1:
        steps[0].function(x, out, key, as_index(first))
        return
    buffers = [np.empty(min(x.size, CHUNK), step.dtype) for step in steps[:-1]]
    for start in range(0, x.size, CHUNK):
        stop = min(start + CHUNK, x.size)
        piece: Bits = x[start:stop]
        for step, buffer in zip(steps, [*buffers, None], strict=True):
            target = out[start:stop] if buffer is None else buffer[: stop - start]
            step.function(piece, target, key, as_index(first + start))
            piece = target


def convert(steps: tuple[Step, ...], x: Bits, out: Bits, seed: int, offset: int) -> None:
    """Run a chain over arrays of bits of equal shape; element i (in C order) has random word ``offset + i``."""
    key = seed_word(seed)
    if x.flags.c_contiguous and out.flags.c_contiguous and x.dtype.isnative and x.flags.aligned and out.flags.aligned:
        flat_x, flat_out = x.reshape(-1), out.reshape(-1)
        if flat_x.size < CHUNK:
            _run_chain(steps, flat_x, flat_out, key, offset)
            return

        def part(start: int, stop: int) -> None:
            _run_chain(steps, flat_x[start:stop], flat_out[start:stop], key, offset + start)

        run_parts(part, flat_x.size)
        return
    for start, piece, target in _pieces(x, out):
        _run_chain(steps, piece, target, key, offset + start)


def _pieces(x: Bits, out: Bits) -> Any:
    """Strided or byte-swapped arrays as contiguous native pieces of bounded size, in C order: (start, x, out)."""
    walk = np.nditer(  # type: ignore[call-overload]
        [x, out],
        flags=["external_loop", "buffered", "zerosize_ok", "copy_if_overlap"],
        op_flags=[["readonly", "nbo", "aligned", "contig"], ["writeonly", "nbo", "aligned", "contig"]],
        op_dtypes=[x.dtype.newbyteorder("="), out.dtype.newbyteorder("=")],
        order="C",
        casting="equiv",
        buffersize=STRIDED_CHUNK,
    )
    start = 0
    with walk:
        for piece, target in walk:
            if piece.size:
                yield start, piece, target
            start += piece.size


def first_nan(x: Bits, source: Source) -> int | None:
    """The C-order index of the first NaN, or None."""
    start = 0
    for piece in read_pieces(x):
        if _piece_has_nan(piece, source):
            return start + int(np.argmax(_nan_mask(piece, source)))
        start += piece.size
    return None


def read_pieces(x: Bits) -> Any:
    if x.flags.c_contiguous and x.dtype.isnative and x.flags.aligned:
        flat = x.reshape(-1)
        for start in range(0, flat.size, 1 << 20):
            yield flat[start : start + (1 << 20)]
        return
    walk = np.nditer(  # type: ignore[call-overload]
        x,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[["readonly", "nbo", "aligned", "contig"]],
        op_dtypes=[x.dtype.newbyteorder("=")],
        order="C",
        casting="equiv",
        buffersize=STRIDED_CHUNK,
    )
    with walk:
        yield from walk


def _piece_has_nan(piece: Bits, source: Source) -> bool:
    for lane, of in ((LANE32, FLOAT32), (LANE64, LANE64)):
        if source == of:
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
