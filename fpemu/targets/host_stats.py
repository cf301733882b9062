"""Statistics of NumPy arrays: segments of fixed size in threads, blocks within them, merged in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial, reduce
from math import frexp, fsum, ldexp
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fpemu import pairs
from fpemu.formats import FloatFormat
from fpemu.histogram import ExponentHistogram, merge_histograms
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
from fpemu.stats import FormatStats, Sums, TensorStats
from fpemu.targets import cpu, cpu_stats
from fpemu.targets.host import FLOAT32, FREEZE_FROM, Bits, Source, as_index, decode_step, read_pieces, seed_word
from fpemu.targets.threads import map_parts

SEGMENT = 4 * cpu_stats.BLOCK  # what one thread takes at a time
Units = tuple[int, int, int]  # exponents that inputs, results and errors are divided by before they are squared
NO_UNITS: Units = (0, 0, 0)


class Scale(NamedTuple):
    """A loss scale as ``factor * 2**shift``, the factor 1 or between 1/2 and 1, so that no product overflows."""

    factor: float
    shift: int

    @classmethod
    def of(cls, scale: float) -> Scale:
        """A power of two is a shift alone."""
        mantissa, exponent = frexp(scale)
        return cls(1.0, exponent - 1) if mantissa == 0.5 else cls(mantissa, exponent)


class CastPass(NamedTuple):
    """One format's pass: the lane it works in and its compiled driver with the numbers."""

    cast: Cast  # as asked for
    lane: Lane
    driver: cpu.Driver
    encode_numbers: NDArray[Any]
    decode_numbers: NDArray[Any]
    limits: NDArray[Any]  # magnitude code of the smallest normal result, bits of the smallest normal input


class FormatPart(NamedTuple):
    """One format's share of a segment."""

    sums: list[tuple[NDArray[np.float64], Units]]  # columns as cpu_stats.SUMS
    counts: NDArray[np.int64]  # as cpu_stats.COUNTS
    largest: float
    used: NDArray[np.uint8]


Part = tuple[ExponentHistogram, list[FormatPart]]


def collect(bits: Bits, source: Source, casts: tuple[Cast, ...], scale: float, seed: int, offset: int) -> TensorStats:
    """The statistics of an array of bits of ``source``."""
    by = Scale.of(scale)
    # Frozen kernels only where they may be wanted again: each scale would be a compilation of its own.
    freeze = bits.size >= FREEZE_FROM and scale == 1.0
    passes = [_cast_pass(cast, source, by, freeze) for cast in casts]
    segment = partial(_segment, source=source, passes=passes, factor=by.factor, key=seed_word(seed))

    if bits.flags.c_contiguous and bits.dtype.isnative and bits.flags.aligned:
        flat = bits.reshape(-1)
        starts = list(range(0, flat.size, SEGMENT))
        parts = map_parts(lambda start: segment(flat[start : start + SEGMENT], first=offset + start), starts)
    else:
        parts = [segment(piece, first=offset + start) for start, piece in _segments_of(bits)]

    histogram = merge_histograms([histogram for histogram, _ in parts])
    rows = [[formats[row] for _, formats in parts] for row in range(len(passes))]
    return TensorStats(scale, histogram, tuple(_joined(one.cast, row) for one, row in zip(passes, rows, strict=True)))


def _segments_of(bits: Bits) -> Iterator[tuple[int, Bits]]:
    """Contiguous copies of a strided array, cut at the same places as a contiguous one."""
    start, size = 0, 0
    held: list[Bits] = []
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
def _cast_pass(cast: Cast, source: Source, scale: Scale, freeze: bool) -> CastPass:
    """A power-of-two scale is a shift of the target's bias: exact, whatever the range of the source."""
    shifted = cast.replace(format=replace(cast.format, bias=cast.format.bias + scale.shift)) if scale.shift else cast
    narrow = isinstance(source, FloatFormat) and scale.factor == 1.0 and decodes_in(source, LANE32)
    lane = LANE32 if narrow and fits_lane(shifted, LANE32) and decodes_in(shifted.format, LANE32) else LANE64
    if not decodes_in(shifted.format, lane):
        raise ValueError(
            f"no statistics of {cast.format.name} times 2**{-scale.shift}: it has values beyond float64, or subnormal "
            "in it, or of more than 24 significant bits"
        )
    to, back = encode_spec(shifted, lane, source.emin - scale.shift), decode_spec(shifted.format, lane)
    driver = cpu_stats.cast_driver(encode_plan(shifted, lane), lane, (to, back) if freeze else None)
    smallest_input = np.array([ldexp(scale.factor, source.emin)], lane.value).view(lane.code)[0]
    limits = np.array([shifted.format.smallest_normal_code, smallest_input], lane.code)
    return CastPass(cast, lane, driver, as_array(to, lane), as_array(back, lane), limits)


def _segment(
    piece: Bits, source: Source, passes: Sequence[CastPass], factor: float, key: np.uint64, first: int
) -> Part:
    """Statistics of one segment, block by block, each block for every format while it is in the cache."""
    own = LANE32 if isinstance(source, FloatFormat) and decodes_in(source, LANE32) else LANE64
    views = {own: _in_lane(piece, source, own)}
    histogram = _histogram(views[own], own)
    if any(one.lane is LANE64 for one in passes) and own is LANE32:
        views[LANE64] = _in_lane(piece, source, LANE64)
    if factor != 1.0:
        with np.errstate(under="ignore", invalid="ignore"):
            views[LANE64] = (views[LANE64].view(np.float64) * factor).view(np.uint64)

    working = [_Working(one, histogram.nonfinite > 0) for one in passes]
    for start in range(0, piece.size, cpu_stats.BLOCK):
        for one in working:
            one.add(views[one.cast_pass.lane][start : start + cpu_stats.BLOCK], key, as_index(first + start))
    return histogram, [one.part(factor) for one in working]


class _Working:
    """Sums of one format over the blocks of a segment."""

    def __init__(self, cast_pass: CastPass, nonfinite: bool) -> None:
        lane = cast_pass.lane
        self.cast_pass, self.nonfinite = cast_pass, nonfinite
        self.moments, self.mark_used = cpu_stats.moments_driver(lane), cpu_stats.used_driver()
        self.numbers = (cast_pass.encode_numbers, cast_pass.decode_numbers, cast_pass.limits)
        self.results = np.empty(cpu_stats.BLOCK, lane.code)
        self.rounded = self.results.view(lane.value)
        self.kinds, self.codes = np.empty(cpu_stats.BLOCK, np.uint8), np.empty(cpu_stats.BLOCK, np.uint8)
        self.counts, self.used = np.zeros(len(cpu_stats.COUNTS), np.int64), np.zeros(256, np.uint8)
        self.sums: list[tuple[NDArray[np.float64], Units]] = []
        self.largest = 0.0
        self.partial = _fresh_partial()

    def add(self, x: Bits, key: np.uint64, index: np.uint64) -> None:
        """Cast one block and add what became of it."""
        n, lane = x.size, self.cast_pass.lane
        rounded, kinds, codes = self.rounded[:n], self.kinds[:n], self.codes[:n]
        self.cast_pass.driver(x, *self.numbers, key, index, self.results[:n], kinds, codes)
        values = x.view(lane.value)
        units = _units(values, rounded) if lane is LANE64 else NO_UNITS
        self.moments(values, rounded, kinds, _factors(units), self.partial.reshape(-1), self.counts)
        if lane is LANE64:
            self.close(units)  # the next block has units of its own
        if self.cast_pass.cast.format.bits <= 8:
            finite = codes[np.isfinite(values)] if self.nonfinite else codes
            self.mark_used(finite, self.used)

    def close(self, units: Units) -> None:
        """Add up the columns."""
        self.sums.append((self.partial[:-1].sum(axis=1), units))
        self.largest = max(self.largest, float(self.partial[-1].max()))
        self.partial = _fresh_partial()

    def part(self, factor: float) -> FormatPart:
        """All blocks together; the error in units of x, where a factor was multiplied in."""
        self.close(NO_UNITS)
        error = list(cpu_stats.SUMS).index("error")
        for sums, _ in self.sums:
            sums[error] /= factor
        return FormatPart(self.sums, self.counts, self.largest, self.used)


def _fresh_partial() -> NDArray[np.float64]:
    return np.zeros((len(cpu_stats.SUMS) + 1, cpu_stats.COLUMNS))


def _in_lane(piece: Bits, source: Source, lane: Lane) -> Bits:
    """The bits of the values in a lane."""
    if source == (FLOAT32 if lane is LANE32 else LANE64):
        return piece
    assert isinstance(source, FloatFormat)
    bits = np.empty(piece.size, lane.code)
    decode_step(source, lane, False).function(piece, bits, np.uint64(0), np.uint64(0))
    return bits


def _units(x: NDArray[Any], results: NDArray[Any]) -> Units:
    """Exponents of the largest finite input, result and error of a block: in these units squares are of normal size."""
    kept = np.isfinite(x) & np.isfinite(results)
    with np.errstate(invalid="ignore", over="ignore"):
        columns = ((x, np.isfinite(x)), (results, kept), (results - x, kept))
        x_unit, result_unit, error_unit = (
            frexp(float(np.max(np.abs(column), where=where, initial=0.0)))[1] for column, where in columns
        )
    return x_unit, result_unit, error_unit


@lru_cache(maxsize=4096)
def _factors(units: Units) -> NDArray[np.float64]:
    """For each unit two powers of two whose product is 2**-unit (one alone might be subnormal)."""
    return np.array([ldexp(1.0, -half) for unit in units for half in (unit // 2, unit - unit // 2)])


def _histogram(bits: Bits, lane: Lane) -> ExponentHistogram:
    """The exponent histogram of a segment."""
    counts, powers = np.zeros(lane.bins + 2, np.int64), np.zeros(lane.bins, np.int64)
    squares, largest = np.zeros(lane.bins), np.zeros(1, lane.code)
    for start in range(0, bits.size, cpu_stats.BLOCK):
        cpu_stats.histogram_driver(lane)(bits[start : start + cpu_stats.BLOCK], counts, powers, squares, largest)
    filled = np.flatnonzero(counts[: lane.bins])
    low, high = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, 0)
    exponents = np.arange(low, high, dtype=np.int64) + (lane.emin - lane.trailing_bits)
    zeros, nonfinite, amax = int(counts[-2]), int(counts[-1]), float(largest.view(lane.value)[0])
    bins = (counts[low:high], powers[low:high], squares[low:high])
    return ExponentHistogram(exponents, *bins, zeros=zeros, nonfinite=nonfinite, amax=amax)


def _joined(cast: Cast, parts: Sequence[FormatPart]) -> FormatStats:
    """All segments of one format."""
    sums = [item for part in parts for item in part.sums]
    units = {unit for _, unit in sums} or {NO_UNITS}
    rows = {unit: np.array([row for row, of in sums if of == unit]).reshape(-1, len(cpu_stats.SUMS)) for unit in units}

    def total(column: int, powers: tuple[int, int, int]) -> pairs.Pair:
        return pairs.add(
            (fsum(rows[unit][:, column]), sum(p * u for p, u in zip(powers, unit, strict=True))) for unit in units
        )

    used = reduce(np.bitwise_or, (part.used for part in parts), np.zeros(256, np.uint8))
    return FormatStats(
        cast,
        Sums(*(total(column, powers) for column, powers in enumerate(cpu_stats.SUMS.values()))),
        sum((part.counts for part in parts), np.zeros(len(cpu_stats.COUNTS), np.int64)),
        max((part.largest for part in parts), default=0.0),
        used if cast.format.bits <= 8 else None,
    )
