"""Matrix products of arrays on a GPU: their codes, the result beside them, and the grids that run over both.

The work is queued on the stream that ``a`` is used on, behind what is queued on those of the others.  Nothing is copied, whatever the strides;
of leading dimensions that have no common stride, some are taken one after another.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from fpemu.arrays import decoding, encode
from fpemu.engines.model import BlockSum, Chain, Engine, Wide
from fpemu.formats import FORMATS, FloatFormat
from fpemu.kernels.grid import Grid
from fpemu.kernels.spec import LANE32, LANE64, DecodeSpec, EncodeSpec, decode_spec, decodes_in, encode_plan, encode_spec
from fpemu.policies import Cast, Rounding
from fpemu.targets import cuda_matmul as grids
from fpemu.targets import device as on
from fpemu.targets.cpu import frozen_spec
from fpemu.targets.cpu_matmul import block_numbers
from fpemu.targets.cuda import launch
from fpemu.targets.device import DeviceArray
from fpemu.targets.host_matmul import FLOAT32_LARGEST, FLOAT32_SMALLEST, Scales, chain_kind, may_be_narrow

NEVER = (1, 0)  # ends between which no exponent lies


# ---- operands -------------------------------------------------------------------------------------------------------
def codes_of(name: str, x: DeviceArray, format: FloatFormat) -> DeviceArray:
    """The codes of an operand on a GPU, rounded to its format where it holds values."""
    try:
        if isinstance(format, Wide):
            return _bits_of_float64(x)
        if x.dtype == format or (isinstance(x.dtype, np.dtype) and x.dtype.kind in "iu"):
            return on.checked_codes(x, format)
        return DeviceArray.of(encode(x.owner, format))
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def _bits_of_float64(x: DeviceArray) -> DeviceArray:
    if x.dtype in (np.dtype(np.float64), np.dtype(np.uint64)):
        return x.view(np.dtype(np.uint64))
    if x.dtype not in (np.dtype(np.float16), np.dtype(np.float32)):
        raise TypeError(f"take float64 values, or their bits as uint64, not {x.dtype}")
    format = FORMATS[str(x.dtype)]
    result = on.convert(decoding(DeviceArray, format, np.float64), x.view(format.code_dtype), None, 0, 0)
    return DeviceArray.of(result).view(np.dtype(np.uint64))


def holds_codes(x: DeviceArray) -> bool:
    """Whether an operand holds codes: integers."""
    return isinstance(x.dtype, np.dtype) and x.dtype.kind in "iu"


# ---- products -------------------------------------------------------------------------------------------------------
class Operands(NamedTuple):
    """The arrays of codes of a product."""

    a: DeviceArray
    b: DeviceArray
    c: DeviceArray | None = None
    a_scales: DeviceArray | None = None
    b_scales: DeviceArray | None = None


def check_engine(engine: Engine) -> None:
    """TypeError for an engine that GPUs have no grid for."""
    rule = engine.arithmetic
    if isinstance(rule, BlockSum) and all(decodes_in(x, LANE32) for x in (engine.a, engine.b)):
        return
    if isinstance(rule, Chain) and chain_kind(engine) is not None:
        return
    raise TypeError(f"{engine.name} does not run on a GPU: copy the operands to the host first")


def matmul(engine: Engine, operands: Operands, shape: tuple[int, ...], coded: bool, out: Any) -> Any:
    """``c + a @ b`` on an engine, of a shape that is right; codes, or values where not ``coded``."""
    a, to = operands.a, engine.accumulator
    others = [x for x in operands[1:] if x is not None]
    if any(None not in (x.gpu, a.gpu) and x.gpu != a.gpu for x in others):
        raise ValueError(f"all operands must lie on one GPU, not on {sorted({str(x.gpu) for x in (a, *others)})}")
    with a.current():
        for x in others:
            if x.stream != a.stream:
                on.wait(x)
        values = np.dtype(np.float64) if isinstance(to, Wide) else to.value_dtype
        dtype = to.code_dtype if coded or not isinstance(to, Wide) else values
        result = a.new(shape, dtype)
        if out is not None:
            on.checked_output(out, result, to.code_dtype if coded else values)
        if result.size:
            _run(engine, operands, result.view(to.code_dtype))
        if coded or isinstance(to, Wide):
            return result.owner if out is None else on.copy(result, out)
        return on.convert(decoding(DeviceArray, to, None), result, out, 0, 0)


def _run(engine: Engine, operands: Operands, out: DeviceArray) -> None:
    """Fill a plain array with the codes of a product."""
    a, b, c, a_scales, b_scales = operands
    rule, gpu = engine.arithmetic, a.gpu
    m, n, k = out.shape[-2], out.shape[-1], a.shape[-1]
    arrays = [_spread(x, out) for x in (a, b, c, out, a_scales, b_scales)]
    scale = np.dtype(np.uint8) if engine.scaling is None else engine.scaling.format.code_dtype
    to = engine.accumulator.code_dtype
    dtypes = (engine.a.code_dtype, engine.b.code_dtype, to, to, scale, scale)
    flat = [
        x.array.memory()[0] if x is not None and x.array.size else _zero_on(dtype, gpu)
        for x, dtype in zip(arrays, dtypes, strict=True)
    ]
    sizes, numbers = tuple(np.int64(x) for x in (m, n, k)), _numbers(engine)
    for count, ats in _launches(arrays, out.shape[:-2]):
        blocks = count * -(-m // grids.SIDE) * -(-n // grids.SIDE)
        if isinstance(rule, BlockSum):
            grid, counts = grids.block_sum_grid(*facts_of(engine)), _counts(engine, k)
            launch(grid, blocks, a.stream, *flat, *_tables_on(engine, gpu), *ats, *sizes, *counts, *numbers)
        else:
            grid = grids.chain_grid(*facts_of(engine))
            launch(grid, blocks, a.stream, *flat[:4], *ats[:4], *sizes, *numbers)


class Spread(NamedTuple):
    """An array seen with the leading dimensions of the result: strides in elements, 0 along those it is repeated in."""

    array: DeviceArray
    first: int
    batch: tuple[int, ...]
    matrix: tuple[int, int]


def _spread(x: DeviceArray | None, out: DeviceArray) -> Spread | None:
    if x is None:
        return None
    # (c may lack dimensions of the result, or have them with one element.)
    wanted = (*out.shape[:-2], *((1, 1) if x.ndim < 2 else x.shape[-2:]))
    missing = len(out.shape) - x.ndim
    shape, strides = (1,) * missing + x.shape, (0,) * missing + x.strides
    steps = [0 if n == 1 else stride // x.itemsize for n, stride in zip(shape, strides, strict=True)]
    assert all(n in (1, w) for n, w in zip(shape[:-2], wanted[:-2], strict=True))
    first = x.memory()[1] if x.size else 0
    return Spread(x, first, tuple(steps[:-2]), (steps[-2], steps[-1]))


def _launches(arrays: list[Spread | None], batch: tuple[int, ...]) -> Iterator[tuple[int, list[tuple[np.int64, ...]]]]:
    """How many matrices each grid takes, and where it finds them: the longest dimension, or several with common strides, in one grid."""
    strides = [(0,) * len(batch) if x is None else x.batch for x in arrays]
    axes: list[tuple[int, tuple[int, ...]]] = []
    for n, *steps in zip(batch, *strides, strict=True):
        if n == 1:
            continue
        if axes and all(outer == n * inner for outer, inner in zip(axes[-1][1], steps, strict=True)):
            axes[-1] = (axes[-1][0] * n, tuple(steps))
        else:
            axes.append((n, tuple(steps)))
    axes.sort(key=lambda axis: axis[0])
    count, along = axes.pop() if axes else (1, (0,) * len(arrays))
    for index in product(*(range(n) for n, _ in axes)):
        ats = []
        for j, x in enumerate(arrays):
            first = 0 if x is None else x.first
            first += sum(i * steps[j] for i, (_, steps) in zip(index, axes, strict=True))
            matrix = (0, 0) if x is None else x.matrix
            ats.append(tuple(np.int64(number) for number in (first, along[j], *matrix)))
        yield count, ats


# ---- what grids are given -------------------------------------------------------------------------------------------
def _ends(engine: Engine, rule: BlockSum) -> tuple[int, int]:
    """Between which exponents of factors their products are exact in float32, and the block's sums in an int32."""
    if not may_be_narrow(engine):
        return NEVER
    lowest = max(FLOAT32_SMALLEST, rule.fraction_bits - 100)
    return -(-lowest // 2), FLOAT32_LARGEST // 2


def _opening(engine: Engine) -> tuple[int, ...]:
    ignored = (1 << engine.ignored_bits) - 1
    ends = _ends(engine, engine.arithmetic) if isinstance(engine.arithmetic, BlockSum) else NEVER
    operands = ((x.emin, (x.magnitude_mask | x.sign_mask) & ~ignored) for x in (engine.a, engine.b))
    return (*(number for pair in operands for number in pair), *ends)


def _specs(engine: Engine) -> tuple[Any, ...]:
    """The specs of a grid: of both operands, of the accumulator, and of its encoding."""
    if isinstance(engine.accumulator, Wide):
        words = DecodeSpec(*[np.uint32(0)] * len(DecodeSpec._fields))
        doubles = (kind(*[np.uint64(0)] * len(kind._fields)) for kind in (DecodeSpec, EncodeSpec))
        return words, words, *doubles
    return (
        *(frozen_spec(decode_spec(x, LANE32), LANE32) for x in (engine.a, engine.b)),
        frozen_spec(decode_spec(engine.accumulator, LANE64), LANE64),
        frozen_spec(encode_spec(engine.result, LANE64, LANE64.emin), LANE64),
    )


def facts_of(engine: Engine) -> tuple[Any, ...]:
    """What the grid of an engine is made of: the arguments of ``block_sum_grid`` or ``chain_grid``."""
    rule, to = engine.arithmetic, engine.accumulator
    # (That of float64 is not looked at.)
    plan = encode_plan(Cast("float32") if isinstance(to, Wide) else engine.result, LANE64)
    codes = (plan, (engine.a.code_dtype, engine.b.code_dtype), to.code_dtype)
    if isinstance(rule, BlockSum):
        nearest, picked = rule.rounding is Rounding.NEAREST_EVEN, rule.span if rule.picks else 0
        return rule.length, rule.group, nearest, bool(rule.span), engine.scaling is not None, picked, *codes
    kind = chain_kind(engine)
    assert kind is not None
    return *kind, *codes


@lru_cache(maxsize=256)
def _numbers(engine: Engine) -> tuple[Any, ...]:
    """The arguments that an engine has, whatever the operands."""
    rule, to = engine.arithmetic, engine.accumulator
    if isinstance(rule, BlockSum):
        numbers: Any = block_numbers(rule.fraction_bits, rule.zero_exponent, Grid.of(rule.grid), Grid.of(to))
    else:
        numbers = (0.0,) * 4 if isinstance(to, Wide) else Grid.of(to)
    opening = (0,) * 6 if isinstance(to, Wide) else _opening(engine)
    return tuple(np.int64(x) for x in opening), tuple(np.float64(x) for x in numbers), *_specs(engine)


def _counts(engine: Engine, k: int) -> tuple[Any, ...]:
    """Blocks in all, in a span, and products that share a scale."""
    rule = engine.arithmetic
    assert isinstance(rule, BlockSum)
    whole = rule.span or rule.length
    blocks, every = -(-k // whole) * whole // rule.length, max(rule.span // rule.length, 1)
    per_scale = 1 if engine.scaling is None else engine.scaling.block
    return tuple(np.int64(number) for number in (blocks, every, per_scale))


@lru_cache(maxsize=256)
def _tables_on(engine: Engine, gpu: int | None) -> tuple[Any, Any, Any]:
    """Values and exponents of the codes of scales, and the order of products in a span; a zero where there is none."""
    rule = engine.arithmetic
    assert isinstance(rule, BlockSum)
    scales = (
        Scales(np.zeros(1, np.float32), np.zeros(1, np.int16)) if engine.scaling is None else Scales.of(engine.scaling)
    )
    places = np.array(rule.positions() if rule.picks else (0,), np.int32)
    there = tuple(cuda.to_device(np.ascontiguousarray(x)) for x in (*scales, places))
    cuda.synchronize()
    return there


@lru_cache(maxsize=64)
def _zero_on(dtype: np.dtype[Any], gpu: int | None) -> Any:
    """The code 0, which stands for an operand that is not there."""
    there = cuda.to_device(np.zeros(1, dtype))
    cuda.synchronize()
    return there
