"""Operands of arithmetic: codes, or values and what they are rounded to; as codes whole, or slab by slab."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu.arrays import Codes, as_values, codes_of, encode_part, first_refused, refuse_subclass, value_dtype_of
from fpemu.formats import FORMATS, FloatFormat, FormatName, as_format, is_format
from fpemu.policies import Cast, NaN, Overflow
from fpemu.targets.dispatch import on_device
from fpemu.targets.walk import Box, apart, boxes
from fpemu.tensors import own_format

Source = FormatName | None
Sources = Source | Sequence[Source]

SLAB = 1 << 17  # elements of values that are codes at one time


class Operand(NamedTuple):
    """Codes and their format."""

    codes: Codes
    source: FloatFormat


class Given(NamedTuple):
    """An operand as it was given: ``array`` holds codes of ``source``, or values, which ``to`` rounds to it."""

    array: NDArray[Any]
    source: FloatFormat
    to: Cast | None

    def opened(self, of: int = 0, any_nan: bool = True) -> Operand:
        """Its codes.  ``of``: elements of what this is a part of.  ``any_nan``: whether all NaNs are the same to the reader."""
        if self.to is None:
            return Operand(self.array, self.source)
        if any_nan and _are_their_codes(self.array, self.to):
            return Operand(self.array.view(self.source.code_dtype), self.source)
        return Operand(encode_part(self.array, self.to, of), self.source)


def given(
    operands: tuple[ArrayLike, ...], cast: Cast, source: Sources
) -> tuple[tuple[Given, ...], np.dtype[Any] | None]:
    """The operands, and the dtype of a result that is values; None where it is codes."""
    sources = formats_of(source, len(operands))
    arrays = [as_operand(x) for x in operands]
    are_codes = [array.dtype.kind in "iu" or own_format(array.dtype) is not None for array in arrays]
    taken = []
    for array, is_code, named in zip(arrays, are_codes, sources, strict=True):
        own = named if named is not None else own_format(array.dtype) or cast.format
        if is_code:
            taken.append(Given(*codes_of(array, own), None))
        else:
            to = Cast(own, overflow=cast.overflow, nan=cast.nan)
            taken.append(Given(array, to.format, to))
    if any(are_codes):
        return tuple(taken), None
    # (Python floats take part as NumPy lets them: they do not widen an array.)
    strong = [array for array, x in zip(arrays, operands, strict=True) if type(x) is not float] or arrays
    dtypes = {value_dtype_of(array.dtype, cast.format) for array in strong}
    return tuple(taken), np.result_type(*dtypes)


def opened(
    operands: tuple[ArrayLike, ...], cast: Cast, source: Sources
) -> tuple[tuple[Operand, ...], np.dtype[Any] | None]:
    """The operands as codes, and the dtype of a result that is values; None where it is codes."""
    taken, dtype = given(operands, cast, source)
    return tuple(one.opened() for one in taken), dtype


def slabs(
    taken: tuple[Given, ...], out: NDArray[Any], most: int, any_nan: bool = True
) -> Iterator[tuple[Box, tuple[Operand, ...]]]:
    """The operands as codes, box by box of the result, of at most ``most`` elements; what is broadcast is opened once.

    Of several boxes, an operand that writing to ``out`` would change before it is read is copied, and ValueError is raised for a NaN
    that an operand's format does not take before there is a first one.
    """
    size, shape = out.size, out.shape
    if size <= most:
        yield (0, (...,)), tuple(one.opened(0, any_nan) for one in taken)
        return
    kept = [one._replace(array=apart(one.array, out)) for one in taken]
    for one in kept:
        if one.to is not None:
            first_refused(one.array, one.to)
    whole = [one.opened(0, any_nan) if one.array.size < size else None for one in kept]
    for first, index in boxes(shape, most):
        parts = []
        for one, ready in zip(kept, whole, strict=True):
            if ready is None:
                part = one._replace(array=np.broadcast_to(one.array, shape)[index])
                parts.append(part.opened(size, any_nan))
            else:
                parts.append(Operand(np.broadcast_to(ready.codes, shape)[index], ready.source))
        yield (first, index), tuple(parts)


def _are_their_codes(array: NDArray[Any], to: Cast) -> bool:
    """Whether the bits of values are their codes already, but for those of NaNs."""
    kept = to.overflow is Overflow.IEEE and to.nan is NaN.CANONICAL
    return kept and to.format in (FORMATS["float16"], FORMATS["float32"]) and array.dtype == np.dtype(to.format.name)


def as_operand(x: ArrayLike) -> NDArray[Any]:
    """A NumPy array of codes or of values."""
    if type(x) is np.ndarray:
        return x
    if on_device(x) is not None:
        raise TypeError("arithmetic takes arrays on the host: copy those on a GPU first")
    if isinstance(x, (int, np.integer)) and not isinstance(x, bool):
        return np.asarray(x)  # one code
    array: NDArray[Any] = as_values(x)
    return array


def formats_of(source: Sources, count: int) -> list[FloatFormat | None]:
    """The format of each operand, None for the default."""
    if source is None or is_format(source):
        return [None if source is None else as_format(source)] * count
    if not isinstance(source, (tuple, list)):
        raise TypeError(f"source must be a format or a sequence of formats, not {type(source).__name__}")
    if len(source) != count:
        raise ValueError(f"source must be one format or {count}, one for each operand, not {len(source)}")
    return [None if one is None else as_format(one) for one in source]


def output(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The array to write to."""
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, not {type(out).__name__}")
    refuse_subclass(out, "out")
    if out.dtype != dtype or not out.dtype.isnative:
        raise TypeError(f"out must have dtype {dtype}, not {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, not {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    return out
