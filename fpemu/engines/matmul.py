"""``matmul``: matrix products as a tensor core, or another accumulator, adds them up."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu.arrays import as_plain, codes_of, decode, encode, refuse_subclass
from fpemu.engines.catalogue import as_engine
from fpemu.engines.model import BlockSum, Chain, Engine, Library, Scaling, Wide, promoted
from fpemu.formats import FloatFormat
from fpemu.targets.dispatch import on_device
from fpemu.targets.environment import in_default_environment
from fpemu.tensors import own_format

Array = NDArray[Any]


@in_default_environment
def matmul(
    a: ArrayLike,
    b: ArrayLike,
    c: ArrayLike | None = None,
    *,
    engine: Engine | str,
    promote_every: int | None = None,
    a_scales: ArrayLike | None = None,
    b_scales: ArrayLike | None = None,
    seed: int = 0,
    out: Array | None = None,
) -> Array:
    """``c + a @ b`` on an engine.

    Parameters
    ----------
    a: (..., M, K), b: (..., K, N): codes of the engine's formats (unsigned integers), or values (floating point), which are rounded to these
        formats first, to nearest even.  Leading dimensions broadcast; any strides (a transposed view is not copied); any K: a ragged
        end counts as zeros, as the hardware is given them.  TF32 engines take float32, whose low 13 bits they ignore.
    c: (..., M, N): codes or values of the accumulator's format, added first; default +0.
    engine: a name from ENGINES, or an Engine (``fpemu.engines.chain`` makes ordinary accumulators).
    promote_every: move the sum of so many products along k into a second accumulator, rounding to nearest even.
    a_scales: (..., M, ceil(K / block)), b_scales: (..., ceil(K / block), N): codes of block scales, or values, for engines that have them.
    seed: of stochastic rounding in ordinary accumulators.
    out: array of the result's dtype and shape to write to.

    Returns
    -------
    (..., M, N): codes of the accumulator's format (``code_dtype``) where ``a`` or ``b`` holds codes, else their values (float32, or float64
    where it must be).  The result depends on no layout and no number of threads.  Of operands on a GPU, all of them: an array of their kind
    there, with the same bits.

    Raises
    ------
    TypeError: operands that are neither codes nor values; scales where the engine has none, or none where it has; operands on a GPU for an
        engine that does not run there (stochastic rounding, other orders than the sequential one, a library's), or beside others on the host.
    ValueError: an unknown engine; shapes that do not fit; codes beyond their format; a wrong ``promote_every``, ``out``.
    """
    to = as_engine(engine)
    if promote_every is not None:
        to = promoted(to, promote_every)
    given = {"a": a, "b": b, "c": c, "a_scales": a_scales, "b_scales": b_scales}
    there = {name: on_device(x) for name, x in given.items() if x is not None}
    if any(x is not None for x in there.values()):
        result: Array = _on_gpu(to, there, out)
        return result
    a, b = _opened(a), _opened(b)
    coded = _is_codes(a) or _is_codes(b)
    left, right = _codes("a", a, to.a), _codes("b", b, to.b)
    start = None if c is None else _codes("c", c, to.accumulator)
    scales = _scales(to, a_scales, b_scales)
    shape = _shape(to, left, right, start, scales)
    codes = _result(shape, start, to.accumulator)
    if shape[-1] and shape[-2] and left.shape[-1] and codes.size:
        _RUN[type(to.arithmetic)](to, left, right, codes, scales, seed)
    elif codes.size:
        codes = _own_nan(codes, to)  # (nothing is added)
    result = codes if coded else _values(codes, to.accumulator)
    return result if out is None else _write(result, out)


def _opened(x: ArrayLike) -> ArrayLike:
    """An operand as an array, once for all; numbers of Python as they are."""
    return x if isinstance(x, (int, float)) else as_plain(x, "codes or values")


def _is_codes(x: ArrayLike) -> bool:
    """Whether an operand holds codes: integers, and no ml_dtypes values."""
    return np.asarray(x).dtype.kind in "iu"


def _codes(name: str, x: ArrayLike, format: FloatFormat) -> Array:
    """Codes of an operand."""
    array = as_plain(x, "codes or values")
    if isinstance(format, Wide):
        native = array.dtype.newbyteorder("=")
        if native == np.uint64:
            return array.astype(native, copy=False)
        if native not in (np.float16, np.float32, np.float64):
            given = own_format(array.dtype) or array.dtype
            raise TypeError(f"{name}: take float64 values, or their bits as uint64, not {given}")
        return np.ascontiguousarray(array, np.float64).view(np.uint64)
    if array.dtype.kind in "iu" and not isinstance(x, int):
        return codes_of(array, format)[0]
    try:
        return np.asarray(encode(x if isinstance(x, int) else array, format))
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def _own_nan(codes: Array, engine: Engine) -> Array:
    """Accumulators with the engine's own NaN for any other."""
    if isinstance(engine.accumulator, Wide):
        values = codes.view(np.float64)
        return np.where(np.isnan(values), np.nan, values).view(np.uint64)
    return encode(decode(codes, engine.accumulator), engine.result)


def _values(codes: Array, format: FloatFormat) -> Array:
    return codes.view(np.float64) if isinstance(format, Wide) else decode(codes, format)


def _scaling(engine: Engine, a: Any, b: Any) -> Scaling | None:
    """The scheme of block scales; TypeError where scales are missing, or not taken."""
    scaling = engine.scaling
    if scaling is None:
        if a is not None or b is not None:
            raise TypeError(f"{engine.name} takes no block scales")
        return None
    if a is None or b is None:
        raise TypeError(
            f"{engine.name} needs a_scales and b_scales: {scaling.format.name}, one for {scaling.block} values"
        )
    return scaling


def _scales(engine: Engine, a: Any, b: Any) -> tuple[Array, Array] | None:
    scaling = _scaling(engine, a, b)
    if scaling is None:
        return None
    return _codes("a_scales", a, scaling.format), _codes("b_scales", b, scaling.format)


def _shape(engine: Engine, a: Any, b: Any, c: Any, scales: tuple[Any, Any] | None) -> tuple[int, ...]:
    """The result's shape; ValueError where operands do not fit."""
    for name, x in (("a", a), ("b", b)):
        if x.ndim < 2:
            raise ValueError(f"{name} must have at least two dimensions, not shape {x.shape}")
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"a {a.shape} and b {b.shape} differ in K: {a.shape[-1]} and {b.shape[-2]}")
    wanted = [("a", a.shape[:-2]), ("b", b.shape[:-2])]
    if scales is not None and engine.scaling is not None:
        count = -(-a.shape[-1] // engine.scaling.block)
        for name, x, end in (
            ("a_scales", scales[0], (a.shape[-2], count)),
            ("b_scales", scales[1], (count, b.shape[-1])),
        ):
            if x.shape[-2:] != end:
                raise ValueError(
                    f"{name} must end in {end}, one scale for {engine.scaling.block} values, not {x.shape}"
                )
            wanted.append((name, x.shape[:-2]))
    try:
        batch = np.broadcast_shapes(*(shape for _, shape in wanted))
    except ValueError:
        raise ValueError(f"leading dimensions do not broadcast: {dict(wanted)}") from None
    shape = (*batch, a.shape[-2], b.shape[-1])
    if c is not None:
        try:
            shape = np.broadcast_shapes(shape, c.shape)
        except ValueError:
            raise ValueError(f"c {c.shape} does not broadcast to the result's {shape}") from None
        if shape[-2:] != (a.shape[-2], b.shape[-1]):
            raise ValueError(f"c {c.shape} does not broadcast to the result's {(*batch, a.shape[-2], b.shape[-1])}")
    return shape


def _result(shape: tuple[int, ...], c: Array | None, accumulator: FloatFormat) -> Array:
    """The accumulators before anything is added."""
    result = np.zeros(shape, accumulator.code_dtype)
    if c is not None:
        result[...] = c
    return result


def _write(result: Array, out: Array) -> Array:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, not {type(out).__name__}")
    refuse_subclass(out, "out")
    if out.dtype != result.dtype:
        raise TypeError(f"out must have dtype {result.dtype}, not {out.dtype}")
    if out.shape != result.shape:
        raise ValueError(f"out must have shape {result.shape}, not {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    out[...] = result
    return out


def _on_gpu(engine: Engine, operands: dict[str, Any], out: Any) -> Any:
    """The same of operands on a GPU."""
    from fpemu.targets import device_matmul

    for name, x in operands.items():
        if x is None:
            raise TypeError(f"{name} lies on the host, but another operand on a GPU: copy one of them")
    device_matmul.check_engine(engine)
    a, b = operands["a"], operands["b"]
    coded = device_matmul.holds_codes(a) or device_matmul.holds_codes(b)
    formats = {"a": engine.a, "b": engine.b, "c": engine.accumulator}
    scaling = _scaling(engine, operands.get("a_scales"), operands.get("b_scales"))
    if scaling is not None:
        formats |= {"a_scales": scaling.format, "b_scales": scaling.format}
    codes = {name: device_matmul.codes_of(name, x, formats[name]) for name, x in operands.items()}
    scales = None if scaling is None else (codes["a_scales"], codes["b_scales"])
    shape = _shape(engine, codes["a"], codes["b"], codes.get("c"), scales)
    return device_matmul.matmul(engine, device_matmul.Operands(**codes), shape, coded, out)


# ---- the kinds of arithmetic ----------------------------------------------------------------------------------------
Scales = tuple[Array, Array] | None


def _block_sums(engine: Engine, a: Array, b: Array, out: Array, scales: Scales, seed: int) -> None:
    from fpemu.targets import host_matmul

    host_matmul.block_sums(engine, a, b, out, scales)


def _chain(engine: Engine, a: Array, b: Array, out: Array, scales: Scales, seed: int) -> None:
    from fpemu.targets import host_matmul

    host_matmul.chain(engine, a, b, out, seed)


def _library(engine: Engine, a: Array, b: Array, out: Array, scales: Scales, seed: int) -> None:
    """A product of NumPy's, and the accumulator added to it."""
    with np.errstate(all="ignore"):
        left, right = decode(a, engine.a), decode(b, engine.b)
        product = np.matmul(left, right) if _library_is_default() else np.einsum("...ij,...jk->...ik", left, right)
        out[...] = encode(product + decode(out, engine.accumulator), engine.accumulator)


@cache
def _library_is_default() -> bool:
    """Whether the threads of NumPy's BLAS round to nearest and keep subnormals.

    They are not ours, and keep the modes in which they were started: a library that was loaded before may have set them.  Without them
    einsum multiplies, in this thread.
    """
    small = np.float32(2.0**-140)
    one = np.array([[1, 1.5 * 2.0**-25], [-1, -1.5 * 2.0**-25], [1, -1.5 * 2.0**-26], [small, 0]], np.float32)
    # Enough rows that every thread gets some, and enough work that there are several.
    rows, ones = np.tile(one, (256, 1)), np.zeros((256, 256), np.float32)
    ones[:2] = 1
    padded = np.zeros((len(rows), 256), np.float32)
    padded[:, :2] = rows
    expected = np.tile(np.array([1, -1, 1, small], np.float32), 256)[:, None]
    return bool((np.matmul(padded, ones) == expected).all())


_RUN = {BlockSum: _block_sums, Chain: _chain, Library: _library}
