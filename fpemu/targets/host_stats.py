"""Statistics of NumPy arrays: segments of fixed size in threads, blocks within them, merged in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial, reduce
from math import frexp, fsum, ldexp
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fpemu import pairs
from fpemu.formats import FloatFormat
from fpemu.histogram import ExponentHistogram, merge_histograms
from fpemu.kernels.spec import (
    LANE32,
    LANE64,
    Lane,
    Plan,
    decode_spec,
    decodes_in,
    encode_plan,
    encode_spec,
    fits_lane,
)
from fpemu.policies import Cast
from fpemu.stats import FormatStats, Sums, TensorStats
from fpemu.targets import cpu, cpu_stats
from fpemu.targets.chain import FLOAT32, Source, Stages
from fpemu.targets.host import FREEZE_FROM, STRIDED_CHUNK, Bits, as_index, decode_step, seed_word
from fpemu.targets.streaming import LINE
from fpemu.targets.threads import map_parts
from fpemu.targets.walk import boxes, flat, is_plain

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


class CastWork(NamedTuple):
    """What is done to an element for one format: the same on every machine."""

    cast: Cast  # as asked for
    lane: Lane
    plan: Plan
    stages: Stages
    limits: NDArray[Any]  # magnitude code of the smallest normal result, bits of the smallest normal input


class CastPass(NamedTuple):
    """One format's pass: the lane it works in and its compiled driver with the numbers."""

    cast: Cast
    lane: Lane
    driver: cpu.Driver
    numbers: NDArray[Any]
    limits: NDArray[Any]


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

    if is_plain(bits):
        plain = bits.reshape(-1)
        starts = list(range(0, plain.size, cpu_stats.SEGMENT))
        parts = map_parts(lambda start: segment(plain[start : start + cpu_stats.SEGMENT], first=offset + start), starts)
    else:
        parts = [segment(piece, first=offset + start) for start, piece in _segments_of(bits)]

    histogram = merge_histograms([histogram for histogram, _ in parts])
    rows = [[formats[row] for _, formats in parts] for row in range(len(passes))]
    return TensorStats(scale, histogram, tuple(joined(one.cast, row) for one, row in zip(passes, rows, strict=True)))


def _segments_of(bits: Bits) -> Iterator[tuple[int, Bits]]:
    """Contiguous copies of a strided array, cut at the same places as a contiguous one."""
    start, size = 0, 0
    held: list[Bits] = []
    for _, index in boxes(bits.shape, STRIDED_CHUNK):
        piece = flat(bits[index])
        while piece.size:
            take = min(piece.size, cpu_stats.SEGMENT - size)
            held.append(piece[:take])
            size, piece = size + take, piece[take:]
            if size == cpu_stats.SEGMENT:
                yield start, np.concatenate(held)
                start, held, size = start + size, [], 0
    if size:
        yield start, np.concatenate(held)


@lru_cache(maxsize=1024)
def cast_work(cast: Cast, source: Source, scale: Scale) -> CastWork:
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
    smallest_input = np.array([ldexp(scale.factor, source.emin)], lane.value).view(lane.code)[0]
    limits = np.array([shifted.format.smallest_normal_code, smallest_input], lane.code)
    return CastWork(cast, lane, encode_plan(shifted, lane), Stages(to=to, back=back), limits)


@lru_cache(maxsize=1024)
def _cast_pass(cast: Cast, source: Source, scale: Scale, freeze: bool) -> CastPass:
    work = cast_work(cast, source, scale)
    driver = cpu_stats.loss_driver(work.plan, work.lane, work.stages if freeze else None)
    return CastPass(cast, work.lane, driver, cpu.numbers_of(work.stages, work.lane), work.limits)


def _segment(
    piece: Bits, source: Source, passes: Sequence[CastPass], factor: float, key: np.uint64, first: int
) -> Part:
    """Statistics of one segment: its histogram, then one format after another."""
    own = LANE32 if isinstance(source, FloatFormat) and decodes_in(source, LANE32) else LANE64
    views = {own: _in_lane(piece, source, own)}
    histogram = _histogram(views[own], own)
    if any(one.lane is LANE64 for one in passes) and own is LANE32:
        views[LANE64] = _in_lane(piece, source, LANE64)
    if factor != 1.0:
        with np.errstate(under="ignore", invalid="ignore"):
            views[LANE64] = (views[LANE64].view(np.float64) * factor).view(np.uint64)

    return histogram, [
        _cast_segment(views[one.lane], one, key, first, histogram.nonfinite == 0, factor) for one in passes
    ]


def _cast_segment(x: Bits, one: CastPass, key: np.uint64, first: int, finite: bool, factor: float) -> FormatPart:
    """One format's statistics of a segment."""
    blocks, work = -(-x.size // cpu_stats.BLOCK), _workspaces.of(one.lane)
    partial = _aligned((cpu_stats.WORST + 1) * cpu_stats.ROW, np.float64)
    worst = partial[cpu_stats.WORST * cpu_stats.ROW :]
    units, sums = np.zeros((blocks, 3), np.int64), np.zeros((blocks, len(cpu_stats.SUMS)))
    counts = np.zeros((blocks, len(cpu_stats.COUNTS)), np.int64)
    used = np.zeros(256 if one.cast.format.bits <= 8 else 0, np.uint8)
    one.driver(
        x, one.numbers, one.limits, key, as_index(first), finite,
        *work, partial, units, sums, counts, used,
    )  # fmt: skip
    sums[:, list(cpu_stats.SUMS).index("error")] /= factor  # in units of x
    rows = [(row, (a, b, c)) for row, (a, b, c) in zip(sums, units.tolist(), strict=True)]
    return FormatPart(rows, counts.sum(axis=0), float(worst.max()), used)


class _Workspace(NamedTuple):
    """What a driver needs of memory for a block; nobody reads it afterwards."""

    results: Bits
    kinds: NDArray[np.uint8]
    codes: NDArray[np.uint8]


class _Workspaces(threading.local):
    """Those of a thread: fresh memory for every segment would cost more than what is done in it."""

    def __init__(self) -> None:
        self.kept: dict[Lane, _Workspace] = {}

    def of(self, lane: Lane) -> _Workspace:
        if lane not in self.kept:
            self.kept[lane] = _Workspace(
                *(_aligned(cpu_stats.BLOCK, dtype) for dtype in (lane.code, np.uint8, np.uint8))
            )
        return self.kept[lane]


_workspaces = _Workspaces()


def _aligned(size: int, dtype: DTypeLike) -> NDArray[Any]:
    """Zeros from the beginning of a cache line on: vectors that straddle lines take half as long again."""
    nbytes = size * np.dtype(dtype).itemsize
    memory = np.zeros(nbytes + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + nbytes].view(dtype)


def _in_lane(piece: Bits, source: Source, lane: Lane) -> Bits:
    """The bits of the values in a lane."""
    if source == (FLOAT32 if lane is LANE32 else LANE64):
        return piece
    assert isinstance(source, FloatFormat)
    bits = np.empty(piece.size, lane.code)
    decode_step(source, lane, False).function(piece, bits, np.uint64(0), 0, False)
    return bits


def _histogram(bits: Bits, lane: Lane) -> ExponentHistogram:
    """The exponent histogram of a segment."""
    counts, powers = np.zeros(lane.bins + 2, np.int64), np.zeros(lane.bins, np.int64)
    squares, largest = np.zeros(lane.bins), np.zeros(1, lane.code)
    for start in range(0, bits.size, cpu_stats.HISTOGRAM_BLOCK):
        piece = bits[start : start + cpu_stats.HISTOGRAM_BLOCK]
        cpu_stats.histogram_driver(lane)(piece, counts, powers, squares, largest)
    return histogram_of(lane, counts, powers, squares, largest)


def histogram_of(
    lane: Lane, counts: NDArray[Any], powers: NDArray[Any], squares: NDArray[Any], largest: NDArray[Any]
) -> ExponentHistogram:
    """A histogram from the arrays of ``cpu_stats.histogram_driver``."""
    filled = np.flatnonzero(counts[: lane.bins])
    low, high = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, 0)
    exponents = np.arange(low, high, dtype=np.int64) + (lane.emin - lane.trailing_bits)
    zeros, nonfinite, amax = int(counts[-2]), int(counts[-1]), float(largest.view(lane.value)[0])
    bins = (counts[low:high], powers[low:high], squares[low:high])
    return ExponentHistogram(exponents, *bins, zeros=zeros, nonfinite=nonfinite, amax=amax)


def joined(cast: Cast, parts: Sequence[FormatPart]) -> FormatStats:
    """All segments of one format."""
    sums = [item for part in parts for item in part.sums]
    units = {unit for _, unit in sums} or {NO_UNITS}
    rows = {unit: np.array([row for row, of in sums if of == unit]).reshape(-1, len(cpu_stats.SUMS)) for unit in units}

    def total(column: int, powers: tuple[int, int, int]) -> pairs.Pair:
        return pairs.add(
            (fsum(rows[unit][:, column]), sum(p * u for p, u in zip(powers, unit, strict=True))) for unit in units
        )

    used = reduce(np.bitwise_or, (part.used for part in parts)) if parts else np.zeros(256, np.uint8)
    return FormatStats(
        cast,
        Sums(*(total(column, powers) for column, powers in enumerate(cpu_stats.SUMS.values()))),
        sum((part.counts for part in parts), np.zeros(len(cpu_stats.COUNTS), np.int64)),
        max((part.largest for part in parts), default=0.0),
        used if cast.format.bits <= 8 else None,
    )
