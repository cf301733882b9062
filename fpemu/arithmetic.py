"""Arithmetic in any format: the exact result, rounded once (IEEE 754-2019, clause 5.4, formatOf operations).

Operands are arrays of codes (unsigned integers, or ml_dtypes arrays, which bring their own format) or of floating-point
values, of shapes that broadcast as NumPy's do.  Values are first rounded to the format of their operand: to nearest even,
with the overflow and NaN policies of the operation.  Where any operand is codes, the result is codes; of values alone it is
values.  Operands may be of other formats than the result (``source``): the exact result is rounded to the latter once.

Zeros and NaN go by IEEE 754-2019, clauses 6.2, 6.3 and 7: exact zero sums are +0 (-0 rounding downward), a sum of zeros
of one sign keeps it, the sign of a product or quotient is the exclusive or of the signs, sqrt(-0) is -0.  x/0 is an exact
infinity, and goes where the overflow policy sends infinities; with ``by_zero="nan"`` it is NaN (P3109 v4.0, 4.10.5).
0/0, inf/inf, 0*inf, inf-inf, the square root of a negative number, and every operation on a NaN but ``minimum_number``
and ``maximum_number`` give the canonical NaN, positive; in a format without NaN that is a ValueError unless ``nan`` names
another result, and then nothing is written.

Arrays on a CUDA GPU are worked on there, with the same bits; they may meet numbers of Python, but no arrays on the host.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu.arrays import Codes, FormatLike, Values, as_counter, decode_part, nan_refused
from fpemu.formats import FloatFormat
from fpemu.operands import SLAB, Given, Operand, Sources, formats_of, given, output, slabs
from fpemu.policies import ByZero, Cast, NaN, Overflow, Rounding, Stochastic, Subnormals, as_cast
from fpemu.targets.dispatch import on_device
from fpemu.targets.environment import in_default_environment


class Relation(IntEnum):
    """How two values compare: exactly one holds (IEEE 754-2019, 5.11)."""

    LESS = -1
    EQUAL = 0
    GREATER = 1
    UNORDERED = 2


@in_default_environment
def add(
    a: ArrayLike,
    b: ArrayLike,
    format: FormatLike,
    *,
    rounding: Rounding | str | None = None,
    overflow: Overflow | str | None = None,
    subnormals: Subnormals | str | None = None,
    nan: NaN | str | None = None,
    random_bits: int | None = None,
    stochastic: Stochastic | str | None = None,
    via: FormatLike | None = None,
    source: Sources = None,
    seed: int = 0,
    offset: int = 0,
    out: Codes | Values | None = None,
) -> Any:
    """a + b, rounded once.

    Parameters (those of all operations)
    ----------
    a, b: codes or floating-point values, of shapes that broadcast; see the module.
    format: of the result: a name, a FloatFormat, or a Cast (whose policies the keywords below replace).
    rounding, overflow, subnormals, nan, random_bits, stochastic, via: policies, see ``fpemu.Cast``.  ``flush-input``
        takes subnormal operands for zeros.  ``via``: the result is computed in that format, then converted.
    source: the format of the operands, or a sequence of one for each; default: that of the result.  None in a sequence:
        the default; ml_dtypes arrays have their own.
    seed, offset: of stochastic rounding: element i of the result, in C order, uses random word ``offset + i``.
    out: array to write to, of the shape and dtype of the result.  It may be an operand.

    Returns
    -------
    Codes in the format's ``code_dtype`` where any operand is codes; else values, of the dtype that ``quantize`` gives
    (the widest of the operands'; Python floats do not count beside arrays).  A scalar for scalars.

    Raises
    ------
    TypeError: an operand that is neither codes nor floating point, or an array on the host beside one on a GPU; ``out`` not an array of the right
        dtype.
    ValueError: shapes that do not broadcast; codes beyond their format; an unknown format or policy; a NaN result in a
        format without NaN; ``out`` of another shape or read-only; values that the dtype cannot hold; stochastic rounding
        with more than 58 - precision random bits.
    """
    policies = (rounding, overflow, subnormals, nan, random_bits, stochastic, via)
    return _operate("add", (a, b), format, policies, source, seed, offset, out)


@in_default_environment
def subtract(
    a: ArrayLike,
    b: ArrayLike,
    format: FormatLike,
    *,
    rounding: Rounding | str | None = None,
    overflow: Overflow | str | None = None,
    subnormals: Subnormals | str | None = None,
    nan: NaN | str | None = None,
    random_bits: int | None = None,
    stochastic: Stochastic | str | None = None,
    via: FormatLike | None = None,
    source: Sources = None,
    seed: int = 0,
    offset: int = 0,
    out: Codes | Values | None = None,
) -> Any:
    """a - b, rounded once; parameters, result and errors as for ``add``."""
    policies = (rounding, overflow, subnormals, nan, random_bits, stochastic, via)
    return _operate("subtract", (a, b), format, policies, source, seed, offset, out)


@in_default_environment
def multiply(
    a: ArrayLike,
    b: ArrayLike,
    format: FormatLike,
    *,
    rounding: Rounding | str | None = None,
    overflow: Overflow | str | None = None,
    subnormals: Subnormals | str | None = None,
    nan: NaN | str | None = None,
    random_bits: int | None = None,
    stochastic: Stochastic | str | None = None,
    via: FormatLike | None = None,
    source: Sources = None,
    seed: int = 0,
    offset: int = 0,
    out: Codes | Values | None = None,
) -> Any:
    """a * b, rounded once; parameters, result and errors as for ``add``."""
    policies = (rounding, overflow, subnormals, nan, random_bits, stochastic, via)
    return _operate("multiply", (a, b), format, policies, source, seed, offset, out)


@in_default_environment
def divide(
    a: ArrayLike,
    b: ArrayLike,
    format: FormatLike,
    *,
    rounding: Rounding | str | None = None,
    overflow: Overflow | str | None = None,
    subnormals: Subnormals | str | None = None,
    nan: NaN | str | None = None,
    random_bits: int | None = None,
    stochastic: Stochastic | str | None = None,
    via: FormatLike | None = None,
    source: Sources = None,
    seed: int = 0,
    offset: int = 0,
    out: Codes | Values | None = None,
    by_zero: ByZero | str = ByZero.INFINITY,
) -> Any:
    """a / b, rounded once; parameters, result and errors as for ``add``.

    by_zero: what x/0 is, where x is neither zero nor NaN: ``infinity`` (IEEE 754-2019, 7.3) or ``nan`` (P3109 v4.0, 4.10.5).
    """
    policies = (rounding, overflow, subnormals, nan, random_bits, stochastic, via)
    name = {ByZero.INFINITY: "divide", ByZero.NAN: "divide_or_nan"}[ByZero(by_zero)]
    return _operate(name, (a, b), format, policies, source, seed, offset, out)


@in_default_environment
def sqrt(
    x: ArrayLike,
    format: FormatLike,
    *,
    rounding: Rounding | str | None = None,
    overflow: Overflow | str | None = None,
    subnormals: Subnormals | str | None = None,
    nan: NaN | str | None = None,
    random_bits: int | None = None,
    stochastic: Stochastic | str | None = None,
    via: FormatLike | None = None,
    source: Sources = None,
    seed: int = 0,
    offset: int = 0,
    out: Codes | Values | None = None,
) -> Any:
    """The square root of x, rounded once; parameters, result and errors as for ``add``."""
    policies = (rounding, overflow, subnormals, nan, random_bits, stochastic, via)
    return _operate("sqrt", (x,), format, policies, source, seed, offset, out)


@in_default_environment
def fma(
    a: ArrayLike,
    b: ArrayLike,
    c: ArrayLike,
    format: FormatLike,
    *,
    rounding: Rounding | str | None = None,
    overflow: Overflow | str | None = None,
    subnormals: Subnormals | str | None = None,
    nan: NaN | str | None = None,
    random_bits: int | None = None,
    stochastic: Stochastic | str | None = None,
    via: FormatLike | None = None,
    source: Sources = None,
    seed: int = 0,
    offset: int = 0,
    out: Codes | Values | None = None,
) -> Any:
    """a * b + c (fusedMultiplyAdd), rounded once; parameters, result and errors as for ``add``.

    0 * inf + NaN is NaN, and raises where a format has none (IEEE 754-2019, 7.2 c, leaves the exception open).
    """
    policies = (rounding, overflow, subnormals, nan, random_bits, stochastic, via)
    return _operate("fma", (a, b, c), format, policies, source, seed, offset, out)


@in_default_environment
def minimum(
    a: ArrayLike,
    b: ArrayLike,
    format: FormatLike,
    *,
    rounding: Rounding | str | None = None,
    overflow: Overflow | str | None = None,
    subnormals: Subnormals | str | None = None,
    nan: NaN | str | None = None,
    random_bits: int | None = None,
    stochastic: Stochastic | str | None = None,
    via: FormatLike | None = None,
    source: Sources = None,
    seed: int = 0,
    offset: int = 0,
    out: Codes | Values | None = None,
) -> Any:
    """The smaller of a and b; NaN if either is; -0 is smaller than +0 (IEEE 754-2019, 9.6).

    Parameters, result and errors as for ``add``.  It is exact where the operands have the format of the result.
    """
    policies = (rounding, overflow, subnormals, nan, random_bits, stochastic, via)
    return _operate("minimum", (a, b), format, policies, source, seed, offset, out)


@in_default_environment
def maximum(
    a: ArrayLike,
    b: ArrayLike,
    format: FormatLike,
    *,
    rounding: Rounding | str | None = None,
    overflow: Overflow | str | None = None,
    subnormals: Subnormals | str | None = None,
    nan: NaN | str | None = None,
    random_bits: int | None = None,
    stochastic: Stochastic | str | None = None,
    via: FormatLike | None = None,
    source: Sources = None,
    seed: int = 0,
    offset: int = 0,
    out: Codes | Values | None = None,
) -> Any:
    """The larger of a and b; NaN if either is; +0 is larger than -0.  As ``minimum`` else."""
    policies = (rounding, overflow, subnormals, nan, random_bits, stochastic, via)
    return _operate("maximum", (a, b), format, policies, source, seed, offset, out)


@in_default_environment
def minimum_number(
    a: ArrayLike,
    b: ArrayLike,
    format: FormatLike,
    *,
    rounding: Rounding | str | None = None,
    overflow: Overflow | str | None = None,
    subnormals: Subnormals | str | None = None,
    nan: NaN | str | None = None,
    random_bits: int | None = None,
    stochastic: Stochastic | str | None = None,
    via: FormatLike | None = None,
    source: Sources = None,
    seed: int = 0,
    offset: int = 0,
    out: Codes | Values | None = None,
) -> Any:
    """The smaller of a and b, or the one that is a number (minimumNumber).  As ``minimum`` else."""
    policies = (rounding, overflow, subnormals, nan, random_bits, stochastic, via)
    return _operate("minimum_number", (a, b), format, policies, source, seed, offset, out)


@in_default_environment
def maximum_number(
    a: ArrayLike,
    b: ArrayLike,
    format: FormatLike,
    *,
    rounding: Rounding | str | None = None,
    overflow: Overflow | str | None = None,
    subnormals: Subnormals | str | None = None,
    nan: NaN | str | None = None,
    random_bits: int | None = None,
    stochastic: Stochastic | str | None = None,
    via: FormatLike | None = None,
    source: Sources = None,
    seed: int = 0,
    offset: int = 0,
    out: Codes | Values | None = None,
) -> Any:
    """The larger of a and b, or the one that is a number (maximumNumber).  As ``minimum`` else."""
    policies = (rounding, overflow, subnormals, nan, random_bits, stochastic, via)
    return _operate("maximum_number", (a, b), format, policies, source, seed, offset, out)


@in_default_environment
def negate(
    x: ArrayLike,
    format: FormatLike,
    *,
    rounding: Rounding | str | None = None,
    overflow: Overflow | str | None = None,
    subnormals: Subnormals | str | None = None,
    nan: NaN | str | None = None,
    random_bits: int | None = None,
    stochastic: Stochastic | str | None = None,
    via: FormatLike | None = None,
    source: Sources = None,
    seed: int = 0,
    offset: int = 0,
    out: Codes | Values | None = None,
) -> Any:
    """-x.  Where x has the format of the result and that has a sign, only the sign bit changes, of NaN too (5.5.1).

    Otherwise the exact negative is rounded: in an unsigned format what is not zero goes where the overflow policy sends
    negatives.  Parameters, result and errors as for ``add``.  P3109 (v4.0, 4.10.1) projects always: there SatFinite clamps
    an infinity, which stays here.
    """
    policies = (rounding, overflow, subnormals, nan, random_bits, stochastic, via)
    return _operate("negate", (x,), format, policies, source, seed, offset, out)


@in_default_environment
def absolute(
    x: ArrayLike,
    format: FormatLike,
    *,
    rounding: Rounding | str | None = None,
    overflow: Overflow | str | None = None,
    subnormals: Subnormals | str | None = None,
    nan: NaN | str | None = None,
    random_bits: int | None = None,
    stochastic: Stochastic | str | None = None,
    via: FormatLike | None = None,
    source: Sources = None,
    seed: int = 0,
    offset: int = 0,
    out: Codes | Values | None = None,
) -> Any:
    """|x|.  Where x has the format of the result, only the sign bit changes; otherwise as ``negate``."""
    policies = (rounding, overflow, subnormals, nan, random_bits, stochastic, via)
    return _operate("absolute", (x,), format, policies, source, seed, offset, out)


abs = absolute


@in_default_environment
def compare(
    a: ArrayLike,
    b: ArrayLike,
    format: FormatLike,
    *,
    subnormals: Subnormals | str | None = None,
    source: Sources = None,
    out: NDArray[np.int8] | None = None,
) -> Any:
    """How a compares with b, exactly: int8 of the broadcast shape, with the numbers of ``Relation``.

    ``format`` is that of operands for which ``source`` names none.  Zeros are equal; NaN is unordered, to itself too.
    Errors as for ``add``.
    """
    cast = as_cast(format, subnormals=subnormals)
    there = _on_gpu((a, b))
    if there is not None:
        from fpemu.targets import device_arithmetic

        return device_arithmetic.relate(there, cast, formats_of(source, 2), out)
    taken, _ = given((a, b), cast, source)
    result = output(out, np.broadcast_shapes(*(one.array.shape for one in taken)), np.dtype(np.int8))
    from fpemu.targets.host_arithmetic import relate

    for (_, index), (left, right) in slabs(taken, result, SLAB):
        relate((left, right), cast.subnormals is Subnormals.FLUSH_INPUT, result[index])
    return result if result.ndim else result[()]


# ---- operands and results -------------------------------------------------------------------------------------------
POLICIES = ("rounding", "overflow", "subnormals", "nan", "random_bits", "stochastic", "via")


def _operate(
    name: str,
    operands: tuple[ArrayLike, ...],
    format: FormatLike,
    policies: tuple[Any, ...],
    source: Sources,
    seed: int,
    offset: int,
    out: Any,
) -> Any:
    cast = as_cast(format, **dict(zip(POLICIES, policies, strict=True)))
    seed, offset = as_counter("seed", seed), as_counter("offset", offset)
    there = _on_gpu(operands)
    if there is not None:
        from fpemu.targets import device_arithmetic

        return device_arithmetic.operate(name, there, cast, formats_of(source, len(there)), seed, offset, out)
    taken, dtype = given(operands, cast, source)
    shape = np.broadcast_shapes(*(one.array.shape for one in taken))
    result = output(out, shape, cast.format.code_dtype if dtype is None else dtype)
    signs = name in ("negate", "absolute")
    most = SLAB if signs or any(one.to is not None for one in taken) else max(result.size, 1)
    if out is not None and result.size > most and refuses_nan(cast):
        # Nothing is written where a NaN is found: what is to be written waits as codes.
        codes = np.empty(shape, cast.format.code_dtype)
        _write_slabs(name, taken, cast, codes, None, most, seed, offset)
        _settle(codes, cast.format, dtype, result, 0)
    else:
        _write_slabs(name, taken, cast, result, dtype, most, seed, offset)
    return result if result.ndim else result[()]


def _write_slabs(
    name: str,
    taken: tuple[Given, ...],
    cast: Cast,
    result: NDArray[Any],
    dtype: np.dtype[Any] | None,
    most: int,
    seed: int,
    offset: int,
) -> None:
    """Write the results of an operation, at most so many at one time, as codes or as values of a dtype."""
    from fpemu.targets import host_arithmetic as host

    first_source = taken[0].source
    signs = name in ("negate", "absolute")
    alone = signs and first_source == cast.format and cast.format.signed and cast.via is None
    for (first, index), parts in slabs(taken, result, most, any_nan=not signs):
        target = result[index]
        codes = target if dtype is None else np.empty(target.shape, cast.format.code_dtype)
        if alone:
            _change_signs(parts[0], name == "negate", codes)
        else:
            refused = host.operate(host.OPERATIONS[name], parts, cast, codes, seed, offset + first, result.size)
            if refused is not None:
                whose = cast if cast.raises_on_nan else cast.via or cast
                raise nan_refused(whose, first + refused, result.shape)
        if dtype is not None:
            _settle(codes, cast.format, dtype, target, result.size)


def _settle(codes: Codes, format: FloatFormat, dtype: np.dtype[Any] | None, out: NDArray[Any], of: int) -> None:
    """Write codes, or their values, where they are wanted."""
    if dtype is None:
        out[...] = codes
    else:
        decode_part(codes, format, out, of)


def refuses_nan(cast: Cast) -> bool:
    """Whether a NaN result is an error, on the way or at the end."""
    return cast.raises_on_nan or (cast.via is not None and cast.via.raises_on_nan)


def _on_gpu(operands: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The operands with device arrays for those on a GPU; None where there are none."""
    if all(type(x) is np.ndarray for x in operands):
        return None
    there = tuple(on_device(x) for x in operands)
    if all(x is None for x in there):
        return None
    return tuple(x if one is None else one for x, one in zip(operands, there, strict=True))


def _change_signs(x: Operand, negate: bool, out: Codes) -> None:
    """Flip or clear sign bits; where the sign bit alone is NaN, that code and zero stay as they are."""
    codes, source = x
    sign = codes.dtype.type(source.sign_mask)
    changed = codes ^ sign if negate else codes & ~sign
    if not source.negative_zero:
        changed = np.where(codes & ~sign == 0, codes, changed)
    out[...] = changed
