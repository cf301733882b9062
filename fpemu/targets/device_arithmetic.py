"""Arithmetic on arrays on a GPU: operands as codes, the grids that run over them, and results beside them.

The work is queued on the stream of the first operand on a GPU.  Arrays that do not lie in C order, or are broadcast, are copied; those of one
element are not, and numbers of Python come along as one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from fpemu.arrays import codes_of, decoding, encode, nan_refused, value_dtype_of
from fpemu.formats import FloatFormat
from fpemu.kernels.spec import (
    EXACT64,
    Lane,
    check_random_bits,
    exact_lane,
    exact_plan,
    exact_spec,
    operand_spec,
)
from fpemu.policies import Cast, Subnormals
from fpemu.targets import cuda_arithmetic as grids
from fpemu.targets import device as on
from fpemu.targets.cpu import frozen_spec
from fpemu.targets.cuda import blocks_of, launch
from fpemu.targets.device import DeviceArray
from fpemu.targets.host import as_index, seed_word
from fpemu.targets.host_arithmetic import OPERATIONS, ROUND, Operation, can_make_nan


class Operand(NamedTuple):
    """Codes on a GPU and their format."""

    codes: DeviceArray
    source: FloatFormat
    dtype: Any = None  # of the values that they were rounded from
    strong: bool = True  # whether that dtype widens the result's: a Python float's does not


def operate(
    name: str,
    operands: tuple[Any, ...],
    cast: Cast,
    sources: list[FloatFormat | None],
    seed: int,
    offset: int,
    out: Any,
) -> Any:
    """An operation on operands of which some lie on a GPU; parameters as those of ``fpemu.add``, checked."""
    check_random_bits(cast)
    home = _home(operands)
    with home.current():
        taken = _opened(operands, home, cast, sources)
        dtype = _value_dtype(taken, cast)
        shape = np.broadcast_shapes(*(one.codes.shape for one in taken))
        codes = home.new(shape, cast.format.code_dtype)
        if out is not None:
            on.checked_output(out, codes, cast.format.code_dtype if dtype is None else dtype)
        if codes.size:
            if (
                name in ("negate", "absolute")
                and taken[0].source == cast.format
                and cast.format.signed
                and cast.via is None
            ):
                _change_signs(taken[0], name == "negate", codes)
            else:
                _run(OPERATIONS[name], taken, cast, codes, seed, offset)
        if dtype is None:
            return codes.owner if out is None else on.copy(codes, out)
        return on.convert(decoding(DeviceArray, cast.format, dtype), codes, out, 0, 0)


def relate(operands: tuple[Any, Any], cast: Cast, sources: list[FloatFormat | None], out: Any) -> Any:
    """How values compare, as int8."""
    home, flush = _home(operands), cast.subnormals is Subnormals.FLUSH_INPUT
    with home.current():
        taken = _opened(operands, home, cast, sources)
        shape = np.broadcast_shapes(*(one.codes.shape for one in taken))
        result = home.new(shape, np.dtype(np.int8))
        if out is not None:
            on.checked_output(out, result, np.dtype(np.int8))
        if result.size:
            flat, steps = _flat(taken, result)
            specs = (frozen_spec(operand_spec(one.source, EXACT64, flush), EXACT64) for one in taken)
            grid = grids.relation_grid(tuple(one.source.code_dtype for one in taken))
            launch(grid, blocks_of(result.size), home.stream, *flat[:2], result.memory()[0], steps, *specs)
        return result.owner if out is None else on.copy(result, out)


# ---- operands -------------------------------------------------------------------------------------------------------
def _home(operands: tuple[Any, ...]) -> DeviceArray:
    """The first operand on a GPU; the others are made ready for its stream.  TypeError for arrays on the host."""
    there = [x for x in operands if isinstance(x, DeviceArray)]
    home = there[0]
    for x in operands:
        if isinstance(x, DeviceArray):
            if None not in (x.gpu, home.gpu) and x.gpu != home.gpu:
                raise ValueError(f"all operands must lie on one GPU, not on {home.gpu} and {x.gpu}")
            if x.stream != home.stream:
                on.wait(x)
        elif not isinstance(x, (int, float, np.integer, np.floating)) or isinstance(x, bool):
            raise TypeError(f"an operand lies on the host, another on a GPU: copy the {type(x).__name__} there first")
    return home


def _opened(
    operands: tuple[Any, ...], home: DeviceArray, cast: Cast, sources: list[FloatFormat | None]
) -> list[Operand]:
    taken = []
    for x, own in zip(operands, sources, strict=True):
        if not isinstance(x, DeviceArray):
            taken.append(_number(x, home, cast, own or cast.format))
            continue
        if isinstance(x.dtype, FloatFormat) or x.dtype.kind in "iu":
            to = own or (x.dtype if isinstance(x.dtype, FloatFormat) else cast.format)
            taken.append(Operand(on.checked_codes(x, to), to))
            continue
        to = own or cast.format
        codes = DeviceArray.of(encode(x.owner, Cast(to, overflow=cast.overflow, nan=cast.nan)))
        taken.append(Operand(replace(codes, stream=home.stream), to, x.dtype))
    return taken


def _number(x: Any, home: DeviceArray, cast: Cast, to: FloatFormat) -> Operand:
    """A number of Python's or NumPy's, which is on the host: its code on the GPU."""
    is_code = isinstance(x, (int, np.integer))
    codes = np.asarray(
        codes_of(np.asarray(x), to)[0] if is_code else encode(x, Cast(to, overflow=cast.overflow, nan=cast.nan))
    )
    there = cuda.to_device(np.atleast_1d(codes).astype(to.code_dtype), stream=home.stream)
    dtype = None if is_code else np.asarray(x).dtype
    return Operand(
        replace(DeviceArray.of(there), shape=(), strides=(), stream=home.stream), to, dtype, type(x) is not float
    )


def _value_dtype(taken: list[Operand], cast: Cast) -> np.dtype[Any] | None:
    """The dtype of a result that is values; None where it is codes."""
    if any(one.dtype is None for one in taken):
        return None
    strong = [one for one in taken if one.strong]
    return np.result_type(*{value_dtype_of(one.dtype, cast.format) for one in strong})


def _flat(taken: list[Operand], out: DeviceArray) -> tuple[list[Any], tuple[Any, ...]]:
    """The codes of three operands in the order of the result, and how far they lie apart."""
    flat, steps = [], []
    for codes, _, _, _ in [*taken, *[taken[0]] * (3 - len(taken))]:
        step = int(codes.size > 1)
        if step and codes.shape != out.shape:
            missing = len(out.shape) - codes.ndim
            shape, strides = (1,) * missing + codes.shape, (0,) * missing + codes.strides
            codes = replace(
                codes, shape=out.shape, strides=tuple(0 if n == 1 else s for n, s in zip(shape, strides, strict=True))
            )
        memory, first = on.plain(codes).memory() if step else codes.memory()
        flat.append(memory[first:])
        steps.append(np.uint64(step))
    return flat, tuple(steps)


# ---- operations -----------------------------------------------------------------------------------------------------
def _run(operation: Operation, taken: list[Operand], cast: Cast, out: DeviceArray, seed: int, offset: int) -> None:
    """Fill a plain array with codes.  ValueError where one is a NaN that the cast refuses."""
    if cast.via is not None:
        between = out.new(out.shape, cast.via.format.code_dtype)
        _run(operation, taken, cast.via, between, seed, offset)
        taken, operation, cast = [Operand(between, cast.via.format)], ROUND, cast.replace(via=None)
    sources = tuple(one.source for one in taken)
    checks = cast.raises_on_nan and can_make_nan(operation, sources)
    lane = exact_lane(cast, sources)
    flat, steps = _flat(taken, out)
    reads = tuple(one.source.code_dtype for one in [*taken, *[taken[0]] * (3 - len(taken))])
    grid = grids.operation_grid(operation.number, exact_plan(cast, lane), lane, reads, cast.format.code_dtype)
    found = cuda.to_device(np.full(int(checks), out.size, np.int64), stream=out.stream)
    launch(
        grid, blocks_of(out.size), out.stream, *flat, out.memory()[0], steps, *_specs(operation, sources, cast, lane),
        seed_word(seed), as_index(offset), found,
    )  # fmt: skip
    if checks:
        first_nan = found.copy_to_host(stream=out.stream)
        on.wait(out)
        index = int(first_nan[0])
        if index < out.size:
            raise nan_refused(cast, index, out.shape)


def _specs(operation: Operation, sources: tuple[FloatFormat, ...], cast: Cast, lane: Lane) -> tuple[Any, ...]:
    """The numbers of three operands and of the target."""
    flush = cast.subnormals is Subnormals.FLUSH_INPUT
    three = [*sources, *[sources[0]] * (3 - len(sources))]
    specs = [operand_spec(source, lane, flush, i == operation.opposite) for i, source in enumerate(three)]
    return tuple(frozen_spec(spec, lane) for spec in (*specs, exact_spec(cast, lane)))


def _change_signs(x: Operand, negate: bool, out: DeviceArray) -> None:
    """Flip or clear sign bits; where the sign bit alone is NaN, that code and zero stay as they are."""
    U, sign = x.source.code_dtype.type, x.source.sign_mask
    every = (1 << 8 * x.source.code_dtype.itemsize) - 1
    flat, steps = _flat([x], out)
    kept, flipped = (every, sign) if negate else (every & ~sign, 0)
    arguments = (steps[0], U(kept), U(flipped), U(x.source.magnitude_mask), x.source.negative_zero)
    launch(grids.signs_grid(x.source.code_dtype), blocks_of(out.size), out.stream, flat[0], out.memory()[0], *arguments)
