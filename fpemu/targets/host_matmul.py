"""Matrix products of NumPy arrays of codes on engines: which tiles, in which threads, by which loops.

A task is a tile of the result: operands are opened panel by panel along k, so that memory beside the result does not grow with k.
How the work is cut never shows in a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fpemu.arrays import decode, encode, nan_refused
from fpemu.engines.model import BlockSum, Chain, Engine, Scaling, Wide
from fpemu.formats import FORMATS, FloatFormat
from fpemu.kernels.block_sum import ABSENT
from fpemu.kernels.grid import Grid
from fpemu.kernels.operand import SPECIAL
from fpemu.kernels.spec import LANE32, decode_spec
from fpemu.orders import as_order
from fpemu.policies import Cast, Rounding
from fpemu.targets import cpu_matmul as loops
from fpemu.targets import host_sums
from fpemu.targets.cpu_matmul import COLUMNS
from fpemu.targets.threads import get_threads, map_parts

Bits = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]
Array = np.ndarray[Any, Any]

ROWS = (512, 256, 128)  # of a tile: the tallest of which each thread gets two or more
DEPTH = 256  # of a panel, about
PAIRS = 32 * COLUMNS  # independent dot products of a task
SMALL = 1 << 15  # codes of ``a`` in a task, below which one thread is faster
LARGE = 1 << 14  # an exponent of nothing
FLOAT32_LARGEST, FLOAT32_SMALLEST = 125, -100  # exponents of products that are exact in float32, with some room


class Operand(NamedTuple):
    """How to open codes of a format."""

    driver: Callable[..., int]
    numbers: Bits
    emin: int
    mask: int

    @classmethod
    def of(cls, format: FloatFormat, ignored_bits: int = 0) -> Operand:
        """The opening of a format whose values float32 holds."""
        numbers = np.array(decode_spec(format, LANE32), np.uint32)
        mask = format.magnitude_mask | format.sign_mask
        return cls(loops.opening_driver(format.code_dtype), numbers, format.emin, mask & ~((1 << ignored_bits) - 1))


class Opened(NamedTuple):
    """A panel of operands: float32 values, their exponents, and the exponents' ends."""

    values: Array
    exponents: Array
    lowest: int
    highest: int

    @property
    def special(self) -> bool:
        """Whether an infinity or a NaN is among them."""
        return self.lowest == SPECIAL


def opened(codes: Bits, operand: Operand, shape: tuple[int, int]) -> Opened:
    """Open a matrix of codes, with zeros up to a shape."""
    values, exponents = np.empty(shape, np.float32), np.empty(shape, np.int16)
    codes = np.ascontiguousarray(codes, codes.dtype.newbyteorder("="))
    ends = operand.driver(codes, values, exponents, operand.numbers, np.int32(operand.emin), np.uint32(operand.mask))
    lowest, highest = divmod(ends + (1 << 15), 1 << 16)
    return Opened(values, exponents, lowest, highest - (1 << 15))


class Scales(NamedTuple):
    """The values and exponents of all codes of a format of scales (of at most 8 bits; E8M0's reach below float32's normal range)."""

    values: Array
    exponents: Array

    @classmethod
    def of(cls, scaling: Scaling) -> Scales:
        """The table of a scheme."""
        format = scaling.format
        codes = np.arange(1 << format.bits, dtype=format.code_dtype)
        if scaling.unsigned:
            codes &= np.array(format.magnitude_mask, codes.dtype)
        values = decode(codes, format)
        finite = np.isfinite(values) & (values != 0)
        exponents = np.maximum(np.frexp(values)[1] - 1, format.emin)
        return cls(values, np.where(finite, exponents, np.where(values == 0, ABSENT, SPECIAL)).astype(np.int16))

    def opened(self, codes: Bits, shape: tuple[int, int]) -> Opened:
        """Look up a matrix of codes, with zeros up to a shape."""
        values, exponents = np.zeros(shape, np.float32), np.full(shape, ABSENT, np.int16)
        part = tuple(slice(n) for n in codes.shape)
        values[part], exponents[part] = self.values[codes], self.exponents[codes]
        return Opened(values, exponents, int(exponents.min(initial=0)), int(exponents.max(initial=0)))

    def in_strips(self, codes: Bits, strips: int, count: int) -> Opened:
        """The same of the scales (n, blocks) of independent dot products, as ``_strips`` lays their operands."""
        rows = self.opened(codes, (strips * COLUMNS, count))
        values, exponents = (
            x.reshape(strips, COLUMNS, count).transpose(0, 2, 1).reshape(strips * count, COLUMNS) for x in rows[:2]
        )
        return Opened(np.ascontiguousarray(values), np.ascontiguousarray(exponents), rows.lowest, rows.highest)


NO_SCALES = Opened(np.ones((1, 1), np.float32), np.zeros((1, 1), np.int16), 0, 0)


class Task(NamedTuple):
    """A tile of a product: operands with all of k, the accumulator that becomes the result, and block scales."""

    a: Bits  # (rows, k)
    b: Bits  # (k, columns)
    out: Bits  # (rows, columns)
    a_scales: Bits | None
    b_scales: Bits | None


@lru_cache(maxsize=256)
def _operands(engine: Engine) -> tuple[Operand, Operand, Scales | None]:
    scales = None if engine.scaling is None else Scales.of(engine.scaling)
    return Operand.of(engine.a, engine.ignored_bits), Operand.of(engine.b, engine.ignored_bits), scales


@lru_cache(maxsize=256)
def _numbers(engine: Engine) -> Array:
    rule = engine.arithmetic
    assert isinstance(rule, BlockSum)
    grids = Grid.of(rule.grid), Grid.of(engine.accumulator)
    return loops.block_numbers(rule.fraction_bits, rule.zero_exponent, *grids)


def _unroll(length: int, paired: bool) -> int:
    """Products that a loop takes at once: sixteen of 25 fraction bits still add up in an int32.

    (Fewer for pairs, where opening operands takes longer than adding them: one driver then serves all lengths.)
    """
    return 4 if paired else min(length, 16)


def may_be_narrow(engine: Engine) -> bool:
    """Whether float32 holds the significand of any product, and an int32 the sum of sixteen."""
    rule = engine.arithmetic
    assert isinstance(rule, BlockSum)
    return rule.fraction_bits <= 25 and engine.a.precision + engine.b.precision - 2 * engine.ignored_bits <= 24


def is_narrow(a: Opened, b: Opened, fraction_bits: int) -> bool:
    """Whether float32 holds all products of two panels, and the units they are counted in."""
    if a.special or b.special:
        return False
    lowest = max(FLOAT32_SMALLEST, fraction_bits - 100)
    return a.highest + b.highest <= FLOAT32_LARGEST and (a.lowest + b.lowest >= lowest)


def _tile(engine: Engine, task: Task, paired: bool) -> None:
    """Run a tile on a tensor core's model.

    ``paired``: the task is a list of independent dot products: ``a`` and ``b`` are (n, k), the result (n,), scales (n, blocks).  They
    run in strips of COLUMNS, each a row of accumulators.
    """
    rule = engine.arithmetic
    assert isinstance(rule, BlockSum)
    left, right, scaling = _operands(engine)
    start_values = decode(task.out, engine.accumulator, dtype=np.float64)
    if paired:
        rows, k = -(-len(task.out) // COLUMNS), task.b.shape[1]
        totals = np.zeros((rows, COLUMNS))
        totals.reshape(-1)[: len(task.out)] = start_values
    else:
        rows, k = len(task.out), len(task.b)
        totals = np.zeros((rows, COLUMNS))
        totals[:, : task.out.shape[1]] = start_values
    sums = np.empty((rows if rule.span else 1, COLUMNS))
    unit = rule.span or rule.length
    depth = unit * max(DEPTH // unit, 1)
    places = np.array(rule.positions()) if rule.picks else None
    numbers = _numbers(engine)
    a_scales = b_scales = NO_SCALES
    for start in range(0, k, depth):
        part = slice(start, min(start + depth, k))
        whole = -(-(part.stop - start) // unit) * unit
        a, b = task.a[:, part], (task.b[:, part] if paired else task.b[part])
        if places is not None:
            a, b = _permuted(a, 1, places, whole), _permuted(b, int(paired), places, whole)
        first = opened(_strips(a, whole), left, (rows * whole, COLUMNS)) if paired else opened(a, left, (rows, whole))
        second = opened(_strips(b, whole) if paired else b, right, (rows * whole if paired else whole, COLUMNS))
        narrow = may_be_narrow(engine) and is_narrow(first, second, rule.fraction_bits)
        if scaling is not None:
            assert engine.scaling is not None and task.a_scales is not None and task.b_scales is not None
            per = engine.scaling.block
            some, count = slice(start // per, -(-part.stop // per)), whole // per
            a_codes, b_codes = task.a_scales[:, some], (task.b_scales[:, some] if paired else task.b_scales[some])
            if paired:
                a_scales, b_scales = (scaling.in_strips(x, rows, count) for x in (a_codes, b_codes))
            else:
                a_scales, b_scales = scaling.opened(a_codes, (rows, count)), scaling.opened(b_codes, (count, COLUMNS))
            narrow = narrow and not a_scales.special and not b_scales.special
        operands = (*first[:2], *second[:2], *a_scales[:2], *b_scales[:2])
        if rule.group:
            assert engine.scaling is not None
            driver = loops.grouped_driver(rule.length, rule.group, paired)
            driver(*operands, totals, engine.scaling.block, numbers)
        else:
            driver = loops.block_sum_driver(
                _unroll(rule.length, paired), rule.rounding is Rounding.NEAREST_EVEN, scaling is not None, paired
            )
            driver(*operands, sums, totals, rule.length, rule.span // rule.length, narrow, numbers)
    result = totals.reshape(-1)[: len(task.out)] if paired else totals[:, : task.out.shape[1]]
    task.out[...] = encode(result, engine.result)


def _strips(codes: Bits, whole: int) -> Bits:
    """Codes (n, k) of independent dot products as strips below each other, each (whole, COLUMNS), with zeros where there are none."""
    n, k = codes.shape
    count = -(-n // COLUMNS)
    padded = np.zeros((count * COLUMNS, whole), codes.dtype.newbyteorder("="))
    padded[:n, :k] = codes
    return padded.reshape(count, COLUMNS, whole).transpose(0, 2, 1).reshape(count * whole, COLUMNS)


def _permuted(codes: Bits, axis: int, places: Array, whole: int) -> Bits:
    """The codes of a panel in the order in which they enter blocks, with zeros up to whole spans."""
    k = codes.shape[axis]
    span = len(places)
    order = (np.arange(0, whole, span)[:, None] + places).reshape(-1)
    padded = np.zeros((whole, codes.shape[1]) if axis == 0 else (codes.shape[0], whole), codes.dtype)
    if axis == 0:
        padded[:k] = codes
        return padded[order]
    padded[:, :k] = codes
    return padded[:, order]


# ---- ordinary accumulators ------------------------------------------------------------------------------------------
class ChainKind(NamedTuple):
    """How a Chain runs where it runs fast, whatever its operands are.

    Attributes
    ----------
    name: a kind of ``cpu_matmul.chain_driver``, or ``short fused``, ``short rounded``: in float32, where no step is in doubt.
    drop: of short kinds, the bits of float32 that the accumulator lacks.
    """

    name: str
    drop: int = 0


@lru_cache(maxsize=256)
def chain_kind(engine: Engine) -> ChainKind | None:
    """The kind of an engine with an accumulator, where it is a fast one: those to nearest even, in order."""
    rule, to = engine.arithmetic, engine.accumulator
    assert isinstance(rule, Chain)
    kind = "fused" if rule.fused else "rounded"
    if any(isinstance(x, Wide) for x in (engine.a, engine.b, to)):
        if rule.order != "sequential" or rule.cast != Cast(to) or engine.a != to or engine.b != to:
            raise ValueError(f"{engine.name}: float64 is added in order, to nearest even, of float64 operands only")
        return ChainKind(f"float64 {kind}")
    factors = engine.a.precision + engine.b.precision
    if rule.order != "sequential" or rule.cast != Cast(to) or not _is_ieee(to) or to.emax < 0:
        return None
    if not all(isinstance(x, FloatFormat) and FORMATS["float32"].holds(x) for x in (engine.a, engine.b, to)):
        return None
    if to == FORMATS["float32"]:
        return ChainKind(f"float32 {kind}")
    drop = 24 - to.precision
    if _has_range_of_float32(to) and max(engine.a.precision, engine.b.precision, to.precision) <= 12:
        # A product that float32 does not hold, being too small, must be no midpoint there: it is none with so few bits.
        held = engine.a.finest_exponent + engine.b.finest_exponent >= FORMATS["float32"].finest_exponent
        if held or factors <= drop or not rule.fused:
            return ChainKind(f"short {kind}", drop)
    if to.precision + factors > 51:
        return None
    if rule.fused and to.emax + 2 - to.finest_exponent > 52:
        kind = "reaching"
    return ChainKind(kind)


class Panels(NamedTuple):
    """What is known of two opened panels, and of the sums that their products are added to."""

    lowest: int  #: exponents of operands, added up
    highest: int
    special: bool
    finest: int  #: all sums are multiples of two to this
    top: int  #: no product has a higher exponent
    largest: float  #: no sum is beyond this


def chain_kind_of(engine: Engine, panels: Panels) -> tuple[str, bool]:
    """The kind of ``chain_driver`` that is fastest for two panels, and whether their sums are bounded."""
    general, to = chain_kind(engine), engine.accumulator
    assert general is not None
    if isinstance(to, Wide) or to == FORMATS["float32"]:
        return general.name, False
    assert (
        isinstance(engine.arithmetic, Chain) and isinstance(engine.a, FloatFormat) and isinstance(engine.b, FloatFormat)
    )
    bounded = not panels.special and bool(panels.largest < 2.0**to.emax)
    if not engine.arithmetic.fused:
        factors = engine.a.precision + engine.b.precision
        held = panels.lowest >= FLOAT32_SMALLEST and panels.highest <= FLOAT32_LARGEST and factors <= 24
        if to.precision <= 11 and held and not panels.special:
            if _has_range_of_float32(to):
                return "short rounded", False
            if bounded and to.emin >= FLOAT32_SMALLEST and to.emax <= FLOAT32_LARGEST - 24:
                return "placed rounded", True
        return "rounded", bounded
    # No sum but zero is so small that float64 would lose it beside a product (chain.py), unless the sum overflows anyway.
    reaches = max(panels.finest, to.finest_exponent) < min(panels.top, to.emax + 1) - 52
    return "reaching" if reaches else "fused", bounded


def _has_range_of_float32(format: FloatFormat) -> bool:
    return (format.emin, format.emax) == (FORMATS["float32"].emin, FORMATS["float32"].emax)


def _is_ieee(format: FloatFormat) -> bool:
    """Whether the finite values fill their last binade, and infinity follows."""
    pattern = FloatFormat.ieee(format.exponent_bits, format.trailing_bits, bias=format.bias)
    return pattern == replace(format, name=pattern.name)


def _chain_tile(engine: Engine, task: Task) -> None:
    rows, columns, k = task.out.shape[0], task.out.shape[1], task.b.shape[0]
    totals = np.zeros((-(-rows // loops.CHAINS) * loops.CHAINS, COLUMNS))
    if isinstance(engine.accumulator, Wide):
        totals[:rows, :columns] = task.out.view(np.float64)
        _add_float64(engine, task, totals)
        result = totals[:rows, :columns]
        task.out[...] = np.where(np.isnan(result), np.nan, result).view(np.uint64)
        return
    totals[:rows, :columns] = decode(task.out, engine.accumulator, dtype=np.float64)
    numbers = np.array(Grid.of(engine.accumulator))
    finest = int(np.frexp(totals[totals != 0])[1].min(initial=LARGE)) - engine.accumulator.precision
    for start in range(0, k, DEPTH):
        part = slice(start, min(start + DEPTH, k))
        depth = part.stop - start
        a = opened(task.a[:, part], Operand.of(engine.a, engine.ignored_bits), (len(totals), depth))
        b = opened(task.b[part], Operand.of(engine.b, engine.ignored_bits), (depth, COLUMNS))
        total, least, most = loops.ends_driver()(a.values, b.values)
        # A rounded sum is a multiple of what its terms are multiples of.
        finest = min(finest, exponent_of(least) + 1 - engine.a.precision - engine.b.precision)
        # A rounded product is twice the product at most, and moves the rounded sum by twice as much at most.
        largest = np.abs(totals).max() + 4 * total
        lowest, highest = a.lowest + b.lowest, a.highest + b.highest
        panels = Panels(lowest, highest, a.special or b.special, finest, exponent_of(most), largest)
        kind, bounded = chain_kind_of(engine, panels)
        left, right, totals = (x.astype(loops.lane_of(kind), copy=False) for x in (a.values, b.values, totals))
        loops.chain_driver(kind, bounded)(left, right, totals, numbers)
    task.out[...] = encode(totals[:rows, :columns], engine.result)


def exponent_of(x: float) -> int:
    """Of a magnitude; LARGE of zero and infinity, which stand for none."""
    return math.frexp(x)[1] - 1 if 0 < x < math.inf else LARGE


def _add_float64(engine: Engine, task: Task, totals: Array) -> None:
    kind = chain_kind(engine)
    assert kind is not None
    k, (rows, columns) = len(task.b), task.out.shape
    for start in range(0, k, DEPTH):
        part = slice(start, min(start + DEPTH, k))
        left, right = np.zeros((len(totals), part.stop - start)), np.zeros((part.stop - start, COLUMNS))
        left[:rows], right[:, :columns] = task.a[:, part].view(np.float64), task.b[part].view(np.float64)
        loops.chain_driver(kind.name)(left, right, totals, np.zeros(4))


def chain(engine: Engine, a: Bits, b: Bits, out: Bits, seed: int) -> None:
    """Add ``a @ b`` to the accumulators ``out`` (contiguous), in an ordinary accumulator."""
    if chain_kind(engine) is None:
        _any_chain(engine, a, b, out, seed)
        return
    with _side_by_side((a, b, None, None), out) as (operands, result):
        _run(lambda task: _chain_tile(engine, task), list(_matrices(operands, result)))


def _any_chain(engine: Engine, a: Bits, b: Bits, out: Bits, seed: int) -> None:
    """Any format, rounding and order, by the kernels of arithmetic.  Outputs, in C order, take random words one after another."""
    rule = engine.arithmetic
    assert isinstance(rule, Chain)
    cast, order = engine.result, as_order(rule.order)
    how = host_sums.Reduction(cast, engine.a, engine.b, order, None if rule.fused else cast)
    batch, (rows, columns) = out.shape[:-2], out.shape[-2:]
    words = rows * columns * order.roundings(a.shape[-1], not rule.fused, True)
    left, right = (np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
    for number, index in enumerate(np.ndindex(batch)):
        found = host_sums.contract(
            left[index], right[index].T, out[index].copy(), out[index], how, seed, number * words
        )
        if found is not None:
            raise nan_refused(cast, number * rows * columns + found, out.shape)


# ---- how work is cut ------------------------------------------------------------------------------------------------
def _tiles(task: Task, height: int) -> Iterator[Task]:
    """Cut a product into tiles."""
    rows, columns = task.out.shape
    for i in range(0, rows, height):
        for j in range(0, columns, COLUMNS):
            p, q = slice(i, i + height), slice(j, j + COLUMNS)
            yield Task(
                task.a[p], task.b[:, q], task.out[p, q],
                None if task.a_scales is None else task.a_scales[p],
                None if task.b_scales is None else task.b_scales[:, q],
            )  # fmt: skip


def _height(shape: tuple[int, ...]) -> int:
    """Rows of a tile: between the loops of tiles threads wait for each other, so tall ones, but enough for all threads."""
    *batch, rows, columns = shape
    strips = int(np.prod(batch)) * -(-columns // COLUMNS)
    return next((height for height in ROWS if strips * -(-rows // height) >= 2 * get_threads()), ROWS[-1])


def _matrices(operands: tuple[Bits | None, ...], out: Bits) -> Iterator[Task]:
    """The tiles of a stack of products."""
    batch, height = out.shape[:-2], _height(out.shape)
    spread = [None if x is None else np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in operands]
    for index in np.ndindex(batch):
        a, b, a_scales, b_scales = (None if x is None else x[index] for x in spread)
        assert a is not None and b is not None
        yield from _tiles(Task(a, b, out[index], a_scales, b_scales), height)


@contextmanager
def _side_by_side(operands: tuple[Bits | None, ...], out: Bits) -> Iterator[tuple[tuple[Bits | None, ...], Bits]]:
    """Products of a stack so narrow that several fit into a tile, as the diagonal blocks of fewer and larger products.

    A tile is computed in all its columns anyway; what lies beside the diagonal is thrown away.
    """
    *batch, rows, columns = out.shape
    side = min(COLUMNS // columns, int(np.prod(batch)))
    if side < 2:
        yield operands, out
        return
    count = -(-int(np.prod(batch)) // side)
    flat, places = out.reshape(-1, rows, columns), np.arange(side)
    packed = tuple(
        None if x is None else _packed(x, tuple(batch), count, side, bool(place % 2))
        for place, x in enumerate(operands)
    )
    blocks = np.zeros((count * side, side, rows, columns), out.dtype)
    blocks[np.arange(len(flat)), np.arange(len(flat)) % side] = flat
    result = np.ascontiguousarray(blocks.reshape(count, side, side, rows, columns).transpose(0, 1, 3, 2, 4))
    yield packed, result.reshape(count, side * rows, side * columns)
    diagonal = result[:, places, :, places, :].swapaxes(0, 1).reshape(-1, rows, columns)
    flat[...] = diagonal[: len(flat)]


def _packed(x: Bits, batch: tuple[int, ...], count: int, side: int, across: bool) -> Bits:
    """A stack of matrices, ``side`` of them below or beside each other, with zeros where there are none."""
    stack = np.broadcast_to(x, (*batch, *x.shape[-2:])).reshape(-1, *x.shape[-2:])
    padded = np.zeros((count * side, *x.shape[-2:]), x.dtype)
    padded[: len(stack)] = stack
    if not across:
        return padded.reshape(count, -1, x.shape[-1])
    apart = padded.reshape(count, side, *x.shape[-2:]).transpose(0, 2, 1, 3)
    return apart.reshape(count, x.shape[-2], -1)


def _pairs(operands: tuple[Bits | None, ...], out: Bits) -> Iterator[Task]:
    """The dot products of a large stack of small matrices."""
    batch = out.shape[:-2]
    spread = [None if x is None else np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in operands]
    flat = out.reshape(-1, *out.shape[-2:])
    stacks = [None if x is None else x.reshape(-1, *x.shape[-2:]) for x in spread]
    for m, n in np.ndindex(out.shape[-2:]):
        for start in range(0, len(flat), PAIRS):
            part = slice(start, start + PAIRS)
            a, b, a_scales, b_scales = (
                None if x is None else x[part, m, :] if first else x[part, :, n]
                for x, first in zip(stacks, (True, False, True, False), strict=True)
            )
            assert a is not None and b is not None
            yield Task(a, b, flat[part, m, n], a_scales, b_scales)


def _is_paired(shape: tuple[int, ...]) -> bool:
    """Whether so small matrices, so many of them, are faster as independent dot products, a lane each."""
    batch, columns = int(np.prod(shape[:-2])), shape[-1]
    return 8 * columns * -(-batch // COLUMNS) < batch * -(-columns // COLUMNS)


def block_sums(engine: Engine, a: Bits, b: Bits, out: Bits, scales: tuple[Bits, Bits] | None) -> None:
    """Add ``a @ b`` to the accumulators ``out`` (contiguous), on a tensor core's model."""
    operands = (a, b, *(scales or (None, None)))
    paired = _is_paired(out.shape)
    if paired:
        _run(lambda task: _tile(engine, task, True), list(_pairs(operands, out)))
        return
    with _side_by_side(operands, out) as (operands, result):
        _run(lambda task: _tile(engine, task, False), list(_matrices(operands, result)))


def _run(work: Callable[[Task], None], tasks: list[Task]) -> None:
    """All tasks, in threads if they are large: between their loops, threads wait for each other."""
    if tasks[0].a.size < SMALL:
        for task in tasks:
            work(task)
    else:
        map_parts(work, tasks)
