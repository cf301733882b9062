"""Statistics of NumPy arrays: segments of fixed size in threads, blocks within them, merged in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, reduce
from math import frexp, fsum, ldexp
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpemu.histogram import ExponentHistogram
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
from fpemu.stats import FormatStats, Pair, Sums, TensorStats
from fpemu.targets import cpu, cpu_stats
from fpemu.targets.host import FREEZE_FROM, Bits, Source, decode_step, read_pieces, seed_word
from fpemu.targets.threads import map_parts

SEGMENT = 8 * cpu_stats.BLOCK  # what one thread takes at a time
NOTHING = np.uint64(0)


class CastPass(NamedTuple):
    """One format's pass: the lane it works in and its compiled driver with the numbers."""

    cast: Cast  # as asked for
    lane: Lane
    driver: cpu.Driver
    encode_numbers: NDArray[Any]
    decode_numbers: NDArray[Any]
    limits: NDArray[Any]  # magnitude code of the smallest normal result, bits of the smallest normal input


class Partial(NamedTuple):
    """What a segment gives: plain arrays, one row a format."""

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    largest: NDArray[np.float64]
    used: NDArray[np.uint8]
    exponents: list[int]  # the unit of each format's values
    histogram: ExponentHistogram


def collect(bits: Bits, source: Source, casts: tuple[Cast, ...], scale: float, seed: int, offset: int) -> TensorStats:
    """The statistics of an array of bits of ``source``."""
    mantissa, exponent = frexp(scale)
    shift = exponent - 1 if mantissa == 0.5 else None  # of a power of two
    freeze = bits.size >= FREEZE_FROM and scale == 1.0
    passes = [_cast_pass(cast, source, shift, freeze) for cast in casts]
    key = seed_word(seed)

    def segment(start: int, piece: Bits) -> Partial:
        return _segment(piece, source, passes, scale if shift is None else 1.0, key, offset + start)

    if bits.flags.c_contiguous and bits.dtype.isnative and bits.flags.aligned:
        flat = bits.reshape(-1)
        starts = list(range(0, flat.size, SEGMENT))
        partials = map_parts(lambda start: segment(start, flat[start : start + SEGMENT]), starts)
    else:
        partials = [segment(start, piece) for start, piece in _segments_of(bits)]
    return _merged(partials, passes, scale)


def _segments_of(bits: Bits) -> Iterator[tuple[int, Bits]]:
    """Contiguous copies of a strided array, cut at the same places as a contiguous one."""
    start, held, size = 0, [], 0
    for piece in read_pieces(bits):
        while piece.size:
            take = min(piece.size, SEGMENT - size)
            held.append(piece[:take].copy())
            size, piece = size + take, piece[take:]
            if size == SEGMENT:
                yield start, np.concatenate(held)
                start, held, size = start + size, [], 0
    if size:
        yield start, np.concatenate(held)


@lru_cache(maxsize=1024)
def _cast_pass(cast: Cast, source: Source, shift: int | None, freeze: bool) -> CastPass:
    """A power-of-two scale is a shift of the target's bias: exact, whatever the range of the source."""
    source_emin, asked = source.emin, cast
    if shift:
        cast = cast.replace(format=replace(cast.format, bias=cast.format.bias + shift))
    narrow = source is not LANE64 and shift is not None and decodes_in(source, LANE32)  # type: ignore[arg-type]
    lane = LANE32 if narrow and fits_lane(cast, LANE32) and decodes_in(cast.format, LANE32) else LANE64
    if not decodes_in(cast.format, lane):
        raise ValueError(f"the scale 2**{shift} moves {cast.format.name} beyond the range of float64")
    to = encode_spec(cast, lane, source_emin - (shift or 0))
    back = decode_spec(cast.format, lane)
    driver = cpu_stats.cast_driver(encode_plan(cast, lane), lane, (to, back) if freeze else None)
    smallest = (
        lane.code((source_emin + lane.bias) << lane.trailing_bits)
        if source_emin > lane.emin
        else lane.code(1 << lane.trailing_bits)
    )
    limits = np.array([cast.format.smallest_normal_code, smallest], lane.code)
    return CastPass(asked, lane, driver, as_array(to, lane), as_array(back, lane), limits)


def _segment(
    piece: Bits, source: Source, passes: Sequence[CastPass], factor: float, key: np.uint64, first: int
) -> Partial:
    """Statistics of one segment, block by block."""
    own = LANE32 if source is not LANE64 and decodes_in(source, LANE32) else LANE64  # type: ignore[arg-type]
    views = {own: _in_lane(piece, source, own)}
    if any(cast_pass.lane is not own for cast_pass in passes):
        views[LANE64] = _in_lane(piece, source, LANE64)
    if factor != 1.0:
        scaled = (views[LANE64].view(np.float64) * factor).view(np.uint64)
        histogram = _histogram(views[own], own)
        views = {own: views[own], LANE64: scaled}
    else:
        histogram = _histogram(views[own], own)

    n = len(passes)
    counts, used = np.zeros((n, len(cpu_stats.COUNTS)), np.int64), np.zeros((n, 256), np.uint8)
    partial = np.zeros((n, len(cpu_stats.SUMS) + 2, cpu_stats.COLUMNS))
    partial[:, -1] = 1.0  # denominators
    units = {lane: 0 if lane is LANE32 else _unit(view) for lane, view in views.items()}
    size = min(piece.size, cpu_stats.BLOCK)
    kinds, codes = np.empty(size, np.uint8), np.empty(size, np.uint8)
    results = {lane: np.empty(size, lane.code) for lane in views}
    for start in range(0, piece.size, cpu_stats.BLOCK):
        for row, one in enumerate(passes):
            x = views[one.lane][start : start + cpu_stats.BLOCK]
            m = x.size
            out, kind, code = results[one.lane][:m], kinds[:m], codes[:m]
            index = np.uint64(first + start)
            one.driver(x, one.encode_numbers, one.decode_numbers, one.limits, key, index, out, kind, code)
            cpu_stats.moments_driver(one.lane)(
                x.view(one.lane.value), out.view(one.lane.value), kind, _factors(units[one.lane]),
                partial[row].reshape(-1), counts[row],
            )  # fmt: skip
            if one.cast.format.bits <= 8:
                if histogram.nonfinite:
                    code = code[(x & one.lane.code((1 << (one.lane.bits - 1)) - 1)) < one.lane.code(one.lane.infinity)]
                cpu_stats.used_driver()(code, used[row])
    sums = np.ascontiguousarray(partial[:, :-2]).sum(axis=2)
    # In units of x: the error of a product with a scale that is no power of two.
    sums[:, cpu_stats.SUMS.index("error")] /= factor
    largest = (partial[:, -2] / partial[:, -1]).max(axis=1, initial=0.0)
    return Partial(sums, counts, largest, used, [units[one.lane] for one in passes], histogram)


def _in_lane(piece: Bits, source: Source, lane: Lane) -> Bits:
    """The bits of the values in a lane."""
    if piece.dtype == lane.code and (source is LANE64 or source.name == "float32"):  # type: ignore[union-attr]
        return piece
    bits = np.empty(piece.size, lane.code)
    decode_step(source, lane, False).function(piece, bits, NOTHING, NOTHING)  # type: ignore[arg-type]
    return bits


def _unit(view: Bits) -> int:
    """The exponent of the largest finite magnitude of 64-bit lanes: values in its units have squares of normal size."""
    values = np.abs(view.view(np.float64))
    amax = float(np.max(values, where=values < np.inf, initial=0.0))
    return frexp(amax)[1] if amax else 0


def _factors(unit: int) -> NDArray[np.float64]:
    """Two powers of two whose product is 2**-unit (one alone might be subnormal)."""
    return np.array([ldexp(1.0, -(unit // 2)), ldexp(1.0, -(unit - unit // 2))])


def _histogram(bits: Bits, lane: Lane) -> ExponentHistogram:
    """The exponent histogram of a segment."""
    unit = 0 if lane is LANE32 else _unit(bits)
    counts, powers = np.zeros(lane.bins + 2, np.int64), np.zeros(lane.bins, np.int64)
    energies, largest = np.zeros(lane.bins), np.zeros(1, lane.code)
    cpu_stats.histogram_driver(lane)(bits, bits.view(lane.value), _factors(unit), counts, powers, energies, largest)
    filled = np.flatnonzero(counts[: lane.bins])
    low, high = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, 0)
    amax = float(largest.view(lane.value)[0])
    return ExponentHistogram(
        np.arange(low, high, dtype=np.int64) + (lane.emin - lane.trailing_bits),
        counts[low:high].copy(), powers[low:high].copy(), energies[low:high].copy(),
        unit, int(counts[-2]), int(counts[-1]), amax,
    )  # fmt: skip


def _merged(partials: Sequence[Partial], passes: Sequence[CastPass], scale: float) -> TensorStats:
    empty = ExponentHistogram(
        np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), 0, 0, 0, 0.0
    )
    histogram = reduce(ExponentHistogram.merge, (part.histogram for part in partials), empty)
    formats = tuple(_format_stats(row, one, partials) for row, one in enumerate(passes))
    return TensorStats(scale, histogram, formats)


def _format_stats(row: int, one: CastPass, partials: Sequence[Partial]) -> FormatStats:
    def total(column: int, power: int) -> Pair:
        pairs = [(float(part.sums[row, column]), power * part.exponents[row]) for part in partials]
        unit = max((e for m, e in pairs if m), default=0)
        return fsum(ldexp(m, max(e - unit, -4000)) for m, e in pairs), unit

    return FormatStats(
        one.cast,
        Sums(*(total(column, 1 if name == "error" else 2) for column, name in enumerate(cpu_stats.SUMS))),
        sum((part.counts[row] for part in partials), np.zeros(len(cpu_stats.COUNTS), np.int64)),
        max((float(part.largest[row]) for part in partials), default=0.0),
        reduce(np.bitwise_or, (part.used[row] for part in partials), np.zeros(256, np.uint8))
        if one.cast.format.bits <= 8
        else None,
    )
