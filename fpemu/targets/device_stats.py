"""Statistics of arrays on a GPU: grids over segments, whose sums come to the host and are put together there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from fpemu.formats import FloatFormat
from fpemu.histogram import ExponentHistogram
from fpemu.kernels.spec import LANE32, LANE64, Lane, decode_spec, decodes_in
from fpemu.policies import Cast
from fpemu.stats import TensorStats
from fpemu.targets import cuda_stats
from fpemu.targets import device as on
from fpemu.targets.chain import FLOAT32, ExactPass, Source, Stages
from fpemu.targets.cpu_stats import COUNTS, HISTOGRAM_BLOCK, SUMS
from fpemu.targets.cuda import launch, numbers_of
from fpemu.targets.device import DeviceArray
from fpemu.targets.host import as_index, seed_word
from fpemu.targets.host_stats import NO_UNITS, CastWork, FormatPart, Scale, Units, cast_work, histogram_of, joined


class Values(NamedTuple):
    """Flat device memory, what must be done to read it as values of a lane, and the array whose stream it is on."""

    memory: Any
    reads: np.dtype[Any]
    source: FloatFormat | None  # whose codes they are; None: bits of the lane
    lane: Lane
    of: DeviceArray


def collect(
    x: DeviceArray, source: Source, casts: tuple[Cast, ...], scale: float, seed: int, offset: int
) -> TensorStats:
    """The statistics of an array of bits of ``source`` on a GPU."""
    by = Scale.of(scale)
    works = [cast_work(cast, source, by) for cast in casts]
    with x.current():
        plain = on.plain(x)
        own = LANE32 if isinstance(source, FloatFormat) and decodes_in(source, LANE32) else LANE64
        views = {lane: _values(plain, source, lane) for lane in {own, *(work.lane for work in works)}}
        histogram = _histogram(views[own])
        parts = [_losses(views[work.lane], work, by.factor, seed_word(seed), offset) for work in works]
    rows = zip(works, parts, strict=True)
    return TensorStats(scale, histogram, tuple(joined(work.cast, [part] if x.size else []) for work, part in rows))


def _values(x: DeviceArray, source: Source, lane: Lane) -> Values:
    """A plain array as values of a lane."""
    memory = x.memory()[0] if x.size else None
    if source == (FLOAT32 if lane is LANE32 else LANE64):
        return Values(memory, np.dtype(lane.code), None, lane, x)
    assert isinstance(source, FloatFormat)
    if decodes_in(source, lane):
        return Values(memory, source.code_dtype, source, lane, x)
    bits = x.temporary(x.size, np.dtype(lane.code))
    decoded = bits.memory()[0] if x.size else None
    if x.size:
        on.run_flat(ExactPass(source, lane), memory, decoded, x)
    return Values(decoded, np.dtype(lane.code), None, lane, replace(x, owner=(x.owner, bits.owner)))


def _numbers(values: Values, stages: Stages) -> tuple[Any, ...]:
    source = None if values.source is None else decode_spec(values.source, values.lane)
    return numbers_of(stages._replace(source=source), values.lane)


def _losses(values: Values, work: CastWork, factor: float, key: np.uint64, first: int) -> FormatPart:
    """One format's statistics."""
    lane, size, scaled = work.lane, values.of.size, work.lane.bits == 64
    segments = -(-size // cuda_stats.elements_of(lane))
    found: list[NDArray[Any]] = [
        np.zeros(3 * segments if scaled else 3, np.int64),
        np.zeros(len(SUMS) * segments),
        np.zeros(len(COUNTS) * segments, np.int64),
        np.zeros(segments),
        np.zeros(256 if work.cast.format.bits <= 8 else 0, np.uint8),
    ]
    if size:
        grid = cuda_stats.loss_grid(values.source is not None, work.plan, lane, values.reads)
        factors = np.float64(factor), key, as_index(first)
        found = _filled(grid, segments, values, found, *_numbers(values, work.stages), *work.limits, *factors)
    units, sums, counts, worst, used = found
    rows: NDArray[np.float64] = sums.reshape(-1, len(SUMS))
    rows[:, list(SUMS).index("error")] /= factor  # in units of x
    of: list[Units] = [(a, b, c) for a, b, c in units.reshape(-1, 3).tolist()] if scaled else [NO_UNITS] * segments
    return FormatPart(
        list(zip(rows, of, strict=True)),
        counts.reshape(-1, len(COUNTS)).sum(axis=0),
        float(worst.max(initial=0.0)),
        used,
    )


def _filled(grid: Any, blocks: int, values: Values, found: list[NDArray[Any]], *numbers: Any) -> list[NDArray[Any]]:
    """Run a grid that fills arrays, and bring them to the host."""
    stream = values.of.stream
    there = [cuda.to_device(array, stream=stream) for array in found]
    launch(grid, blocks, stream, values.memory, *numbers, *there)
    here = [array.copy_to_host(stream=stream) for array in there]
    on.wait(values.of)
    return here


def _histogram(values: Values) -> ExponentHistogram:
    """The exponent histogram of all elements."""
    lane, width, size = values.lane, values.lane.bins + 2, values.of.size
    blocks = min(-(-size // HISTOGRAM_BLOCK), cuda_stats.HISTOGRAM_GRID)
    found: list[NDArray[Any]] = [
        np.zeros(blocks * width, np.int64),
        np.zeros(blocks * width, np.int64),
        np.zeros(blocks * width),
        np.zeros(1, np.uint64),
    ]
    if size:
        grid = cuda_stats.histogram_grid(values.source is not None, lane, values.reads)
        found = _filled(grid, blocks, values, found, _numbers(values, Stages())[0])
    counts, powers, squares = (array.reshape(-1, width).sum(axis=0) for array in found[:3])
    return histogram_of(lane, counts, powers, squares, found[3].astype(lane.code))
