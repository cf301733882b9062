"""Sums and dot products with a chosen accumulator: its format, its rounding, the order of the terms, FMA or not."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu.arithmetic import POLICIES
from fpemu.arrays import Codes, FormatLike, Values, as_counter, decode, nan_refused
from fpemu.operands import Operand, Source, Sources, opened, output
from fpemu.orders import KAHAN, Order, as_order
from fpemu.policies import Cast, NaN, Overflow, Rounding, Stochastic, Subnormals, as_cast
from fpemu.targets.environment import in_default_environment


@in_default_environment
def sum(
    x: ArrayLike,
    accumulator: FormatLike,
    axis: int | None = -1,
    order: Order | str = "sequential",
    *,
    initial: ArrayLike | None = None,
    rounding: Rounding | str | None = None,
    overflow: Overflow | str | None = None,
    subnormals: Subnormals | str | None = None,
    nan: NaN | str | None = None,
    random_bits: int | None = None,
    stochastic: Stochastic | str | None = None,
    source: Source = None,
    seed: int = 0,
    offset: int = 0,
    out: Codes | Values | None = None,
) -> Any:
    """The sum of x along an axis, every addition rounded to the accumulator once.

    Parameters
    ----------
    x: codes or floating-point values; as an operand of ``fpemu.add``.
    accumulator: the format of all partial sums and of the result: a name, a FloatFormat, or a Cast (whose policies the
        keywords replace; one with ``via`` is refused).
    axis: along which; None: all elements in C order.
    order: ``sequential``, ``pairwise``, ``chunked(n)``, ``kahan``: see ``fpemu.Order``.
    initial: what the sums begin with, codes or values of the accumulator's format, of a shape that broadcasts to that of
        the result.  Default: they begin with their first term, and a sum of nothing is +0.
    rounding ... stochastic: policies, see ``fpemu.Cast``.
    source: the format of x; default: the accumulator's, or that of an ml_dtypes array.  Its terms are added exactly: what
        the accumulator cannot hold is rounded with the sum.
    seed, offset: of stochastic rounding.  The r-th rounding of output o (both counted from 0, o in C order) uses random
        word ``offset + o * R + r``, where R is the number of roundings of one output: ``Order.roundings``.
    out: array to write to, of the shape and dtype of the result.

    Returns
    -------
    Codes of the accumulator's format where x or ``initial`` is codes, else values; a scalar for a single sum.

    Raises
    ------
    TypeError, ValueError: as ``fpemu.add``; an unknown order; an axis that x does not have; a sum that meets NaN in an
        accumulator without one (nothing is written then); a cast with ``via``.
    """
    cast = _accumulator(accumulator, (rounding, overflow, subnormals, nan, random_bits, stochastic, None))
    operands, dtype = opened((x,), cast, source)
    codes = operands[0].codes
    if axis is None:
        codes, axis = codes.reshape(-1), 0
    if not -codes.ndim <= axis < codes.ndim:
        raise ValueError(f"axis {axis} is not one of an array of {codes.ndim} dimensions; axis=None sums all elements")
    return _reduce(
        (Operand(np.moveaxis(codes, axis, -1), operands[0].source),),
        dtype,
        cast,
        None,
        order,
        initial,
        seed,
        offset,
        out,
    )


@in_default_environment
def dot(
    a: ArrayLike,
    b: ArrayLike,
    accumulator: FormatLike,
    order: Order | str = "sequential",
    *,
    fma: bool = True,
    product: FormatLike | None = None,
    initial: ArrayLike | None = None,
    rounding: Rounding | str | None = None,
    overflow: Overflow | str | None = None,
    subnormals: Subnormals | str | None = None,
    nan: NaN | str | None = None,
    random_bits: int | None = None,
    stochastic: Stochastic | str | None = None,
    source: Sources = None,
    seed: int = 0,
    offset: int = 0,
    out: Codes | Values | None = None,
) -> Any:
    """The dot products of a and b along their last axes: of shapes (..., K) that broadcast, a result of shape (...).

    Parameters (the others are those of ``sum``)
    ----------
    a, b: codes or floating-point values; ``source``: their format, or one for each.
    fma: True: each product is exact, and rounded once with the sum it is added to (a first one, and one of a pairwise sum,
        as it is).  False: it is rounded to the format ``product`` first (default: the accumulator), which counts as one
        more rounding of random words, before that of the sum.

    Result and errors as for ``sum``; ValueError too for a ``product`` with ``fma=True``, and for 0-d operands.
    """
    cast = _accumulator(accumulator, (rounding, overflow, subnormals, nan, random_bits, stochastic, None))
    if fma and product is not None:
        raise ValueError("with fma=True products are not rounded: pass fma=False to round them to a format")
    rounded = None if fma else cast if product is None else _accumulator(product, (None,) * len(POLICIES))
    operands, dtype = opened((a, b), cast, source)
    if min(one.codes.ndim for one in operands) == 0:
        raise ValueError("dot takes operands of at least one dimension")
    return _reduce(operands, dtype, cast, rounded, order, initial, seed, offset, out)


def _accumulator(format: FormatLike, policies: tuple[Any, ...]) -> Cast:
    cast = as_cast(format, **dict(zip(POLICIES, policies, strict=True)))
    if cast.via is not None:
        raise ValueError("an accumulator is rounded once: a Cast with via= is not taken")
    return cast


def _reduce(
    operands: tuple[Operand, ...],
    dtype: np.dtype[Any] | None,
    cast: Cast,
    product: Cast | None,
    order: Order | str,
    initial: ArrayLike | None,
    seed: int,
    offset: int,
    out: Any,
) -> Any:
    from fpemu.targets import host_sums as host

    if not cast.format.has_zero and as_order(order).name == KAHAN:
        raise ValueError(f"a Kahan sum begins with the compensation zero, which {cast.format.name} does not have")
    order, seed, offset = as_order(order), as_counter("seed", seed), as_counter("offset", offset)
    whole = np.broadcast_shapes(*(one.codes.shape for one in operands))
    shape, terms = whole[:-1], whole[-1]
    c: NDArray[Any] | None = None
    if initial is not None:
        begin, initial_dtype = opened((initial,), cast, cast.format)
        dtype = None if initial_dtype is None else dtype
        c = np.broadcast_to(begin[0].codes, shape).reshape(-1)
    result = output(out, shape, cast.format.code_dtype if dtype is None else dtype)
    codes = result if dtype is None and result.flags.c_contiguous else np.empty(shape, cast.format.code_dtype)

    rows = [np.broadcast_to(one.codes, whole).reshape(prod(shape), terms) for one in operands]
    how = host.Reduction(cast, operands[0].source, operands[-1].source, order, product)
    flat = codes.reshape(-1)
    if len(rows) == 1:
        refused = host.total(rows[0], c, flat, how, seed, offset)
    else:
        refused = host.dot(rows[0], rows[1], c, flat, how, seed, offset)
    if refused is not None:
        raise nan_refused(cast if product is None or cast.raises_on_nan else product, refused, shape)
    if dtype is not None:
        decode(codes, cast.format, dtype=dtype, out=result)
    elif codes is not result:
        result[...] = codes
    return result if result.ndim else result[()]
