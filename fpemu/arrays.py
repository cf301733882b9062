"""Conversions over arrays: ``encode``, ``decode``, ``quantize``, ``cast``.

Inputs are float16, float32, float64 (each rounded once, never through a narrower format), Python floats and lists of
them, and arrays of ml_dtypes where that package is installed; of any shape, stride and byte order, read-only, empty
or 0-d.  Integers, longdouble, complex and object inputs are a TypeError.

PyTorch's tensors on the host are arrays too, wherever an array is taken: float16, bfloat16, float32, float64, the FP8 dtypes and
``float4_e2m1fn_x2`` (two elements a byte along the last axis), as values or codes as those of ml_dtypes, and integers as codes.
Their memory is shared, read only for the time of the call, and can be resized after it.  One that requires grad is taken as
``x.detach()`` is: results are NumPy's, without a gradient.  (``fpemu.tensors`` says which are refused.)

Arrays on a CUDA GPU (torch, CuPy, Numba, and others with ``__cuda_array_interface__``) are converted there, on their own
stream, and give arrays of their own kind on the same GPU, with the same bits; torch's bfloat16 and FP8 dtypes are
taken too.  That needs the extra ``cuda`` (numba-cuda).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fpemu.formats import FORMATS, FloatFormat, FormatName, as_format
from fpemu.naming import formats_by_name
from fpemu.policies import Cast, NaN, Overflow, Rounding, Stochastic, Subnormals, as_cast, as_random_bits
from fpemu.targets.dispatch import is_torch, on_device
from fpemu.targets.environment import in_default_environment
from fpemu.tensors import own_format, tensor_array

if TYPE_CHECKING:
    from fpemu.targets.chain import Passes, Source
    from fpemu.targets.host import Step

Codes = NDArray[np.unsignedinteger[Any]]
Values = NDArray[np.floating[Any]]
FormatLike = Cast | FormatName
SourceType = np.dtype[Any] | FloatFormat  # of inputs: a NumPy dtype, or the format of a dtype NumPy does not have


def encode(
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
    seed: int = 0,
    offset: int = 0,
    out: Codes | None = None,
) -> Codes:
    """Bit codes of the values of ``x`` in a format.

    Parameters
    ----------
    x: values, any shape; see the module.
    format: a name, a FloatFormat, or a Cast (whose policies the keywords below replace).
    rounding, overflow, subnormals, nan, random_bits, stochastic, via: policies, see ``fpemu.Cast``.
    seed, offset: of stochastic rounding.  Element i in C order uses random word ``offset + i`` of the seed, whatever
        the layout, chunk or thread; the same seed and offset give the same result again.
    out: array of the format's ``code_dtype`` and the shape of ``x`` to write to.

    Returns
    -------
    Codes: uint8, uint16 or uint32 as the format's ``code_dtype`` says, of the shape of ``x`` (a scalar for a scalar).

    Raises
    ------
    TypeError: ``x`` is not floating point, ``out`` not an array of the right dtype.
    ValueError: an unknown format or policy; ``out`` of another shape or read-only; a NaN for a format without one,
        before anything is written.
    """
    array = x if type(x) is np.ndarray else as_values(x)
    if random_bits is not None and type(random_bits) is not int:
        random_bits = as_random_bits(random_bits)
    policies = (rounding, overflow, subnormals, nan, random_bits, stochastic, via)
    result: Codes = _convert(_encoding(type(array), array.dtype, format, policies), array, out, seed, offset)
    return result


def quantize(
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
    seed: int = 0,
    offset: int = 0,
    dtype: DTypeLike | None = None,
    out: Values | None = None,
) -> Values:
    """The values of ``x`` rounded to a format: ``decode(encode(x))`` in one pass.

    Parameters are those of ``encode``; ``out`` has the dtype of the result.

    Returns
    -------
    Values of ``dtype`` (default: that of ``x``), of the shape of ``x``.  ``out=x`` rounds in place.

    Raises
    ------
    TypeError, ValueError: as ``encode``; ValueError too where the dtype cannot hold every finite value of the format.
    """
    array = x if type(x) is np.ndarray else as_values(x)
    if random_bits is not None and type(random_bits) is not int:
        random_bits = as_random_bits(random_bits)
    policies = (rounding, overflow, subnormals, nan, random_bits, stochastic, via)
    result: Values = _convert(_quantizing(type(array), array.dtype, format, policies, dtype), array, out, seed, offset)
    return result


def decode(
    codes: ArrayLike,
    format: FormatName | None = None,
    *,
    dtype: DTypeLike | None = None,
    out: Values | None = None,
) -> Values:
    """The values of codes; always exact.

    Parameters
    ----------
    codes: unsigned integers of any shape (an ml_dtypes array brings its own format).
    format: what they are codes of.
    dtype: float16, float32 or float64; default the format's ``value_dtype``: float32, or float64 where it must be.
    out: array of that dtype and of the shape of ``codes`` to write to.

    Raises
    ------
    TypeError: codes that are not integers.
    ValueError: codes beyond the format's width; a dtype that cannot hold every finite value of the format.
    """
    bits, source = _codes(codes, format)
    result: Values = _convert(decoding(type(bits), source, dtype), bits, out, 0, 0)
    return result


@formats_by_name('fp.cast(codes, source="e4m3", target="e5m2")', 1)
def cast(
    codes: ArrayLike,
    *,
    target: FormatLike,
    source: FormatName | None = None,
    rounding: Rounding | str | None = None,
    overflow: Overflow | str | None = None,
    subnormals: Subnormals | str | None = None,
    nan: NaN | str | None = None,
    random_bits: int | None = None,
    stochastic: Stochastic | str | None = None,
    via: FormatLike | None = None,
    seed: int = 0,
    offset: int = 0,
    out: Codes | None = None,
) -> Codes:
    """Codes of one format to codes of another: ``fp.cast(codes, source="e4m3", target="e5m2")``.

    Parameters
    ----------
    codes: as for ``decode``.
    target: as ``format`` of ``encode``, whose policies, ``seed``, ``offset`` and ``out`` it takes too.
    source: what they are codes of; may be left out for ml_dtypes arrays.

    Raises
    ------
    TypeError, ValueError: as ``encode`` and ``decode``; a format by position; a source with finite values that float64
        cannot hold.
    """
    bits, from_format = _codes(codes, source)
    if random_bits is not None and type(random_bits) is not int:
        random_bits = as_random_bits(random_bits)
    policies = (rounding, overflow, subnormals, nan, random_bits, stochastic, via)
    result: Codes = _convert(_casting(type(bits), from_format, target, policies), bits, out, seed, offset)
    return result


# ---- what is worked out once for a combination of arguments ---------------------------------------------------------
_POLICIES = ("rounding", "overflow", "subnormals", "nan", "random_bits", "stochastic", "via")
_UNSIGNED: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.uint8),
    2: np.dtype(np.uint16),
    4: np.dtype(np.uint32),
    8: np.dtype(np.uint64),
}
_FLOATS = tuple(np.dtype(name) for name in ("float16", "float32", "float64"))


class Conversion(NamedTuple):
    """A conversion between dtypes: everything that does not depend on the data."""

    source: Source
    bits: np.dtype[Any]  # the input is viewed as
    dtype: np.dtype[Any]  # of the result
    passes: Passes
    refuses_nan: Cast | None  # the cast whose policy it is to raise
    small: tuple[Step, ...]  # the passes of small arrays on the host


def _cached(function: Callable[..., Conversion]) -> Callable[..., Conversion]:
    """Work out each combination of arguments once; one that cannot be hashed cannot be valid, and says why.

    (Arguments that are equal are taken for the same: an int must be one when it comes here, for 1 == True == 1.0.)
    """
    function = in_default_environment(function)
    remembered = lru_cache(maxsize=4096)(function)

    @wraps(function)
    def look_up(*arguments: Any) -> Conversion:
        try:
            return remembered(*arguments)
        except TypeError:
            return function(*arguments)

    return look_up


def _conversion(
    place: type, source: Source, bits: np.dtype[Any], dtype: np.dtype[Any], to: Cast | None, passes: Passes
) -> Conversion:
    from fpemu.targets import host

    casts = () if to is None else (to.via, to)
    refusing = next((one for one in casts if one is not None and one.raises_on_nan), None)
    small = host.steps_of(passes, False) if place is np.ndarray else ()
    return Conversion(source, bits, dtype, passes, refusing, small)


@_cached
def _encoding(place: type, dtype: SourceType, format: FormatLike, policies: tuple[Any, ...]) -> Conversion:
    from fpemu.targets.chain import encode_passes

    to, (source, bits) = _cast_of(format, policies), _source_of(dtype)
    return _conversion(place, source, bits, to.format.code_dtype, to, encode_passes(source, to))


@_cached
def _quantizing(
    place: type, dtype: SourceType, format: FormatLike, policies: tuple[Any, ...], wanted: DTypeLike | None
) -> Conversion:
    from fpemu.targets.chain import quantize_passes

    to, (source, bits) = _cast_of(format, policies), _source_of(dtype)
    result = _value_dtype(wanted, source, to.format)
    return _conversion(place, source, bits, result, to, quantize_passes(source, to, result))


@_cached
def decoding(place: type, source: FloatFormat, wanted: DTypeLike | None) -> Conversion:
    from fpemu.targets.chain import decode_passes

    result = np.dtype(wanted) if wanted is not None else source.value_dtype
    _check_dtype(result, source)
    return _conversion(place, source, source.code_dtype, result, None, decode_passes(source, result))


@_cached
def _casting(place: type, source: FloatFormat, target: FormatLike, policies: tuple[Any, ...]) -> Conversion:
    from fpemu.targets.chain import encode_passes

    to = _cast_of(target, policies)
    source.value_dtype  # noqa: B018  (raises where float64 cannot hold the values)
    return _conversion(place, source, source.code_dtype, to.format.code_dtype, to, encode_passes(source, to))


def _cast_of(format: FormatLike, policies: tuple[Any, ...]) -> Cast:
    return as_cast(format, **dict(zip(_POLICIES, policies, strict=True)))


def _convert(to: Conversion, array: Any, out: Any, seed: int, offset: int, of: int = 0) -> Any:
    """Run a conversion; a 0-d result on the host is returned as a scalar, as NumPy's functions do.

    ``of``: elements of the whole of which this is a part.
    """
    from fpemu.targets import host

    if type(seed) is not int or type(offset) is not int or seed >> 64 or offset >> 64:
        seed, offset = as_counter("seed", seed), as_counter("offset", offset)
    if type(array) is not np.ndarray:
        from fpemu.targets import device

        return device.convert(to, array, out, seed, offset)
    bits = array.view(to.bits)
    if out is None:
        # In the order of the input; np.empty is the faster by a tenth of a small call.
        out = np.empty(bits.shape, to.dtype) if bits.flags.c_contiguous else np.empty_like(bits, to.dtype)
    else:
        bits = _checked_output(out, bits, to.dtype)
    if to.refuses_nan is not None:
        index = host.first_nan(bits, to.source)
        if index is not None:
            raise nan_refused(to.refuses_nan, index, bits.shape)
    steps = to.small if max(bits.size, of) < host.FREEZE_FROM else host.steps_of(to.passes, True)
    host.convert(steps, bits, out.view(_UNSIGNED[out.itemsize]), seed, offset)
    return out if out.ndim else out[()]


_NONE_GIVEN = (None,) * len(_POLICIES)


def encode_part(array: NDArray[Any], cast: Cast, of: int) -> Codes:
    """``encode`` of a part of ``of`` elements, whose NaNs have been looked at; 0: of all of them."""
    to = _encoding(np.ndarray, array.dtype, cast, _NONE_GIVEN)
    if of and to.refuses_nan is not None:
        to = to._replace(refuses_nan=None)
    return np.asarray(_convert(to, array, None, 0, 0, of))


def decode_part(codes: Codes, format: FloatFormat, out: Values, of: int) -> None:
    """``decode`` of a part of ``of`` elements."""
    _convert(decoding(np.ndarray, format, out.dtype), codes, out, 0, 0, of)


def first_refused(array: NDArray[Any], cast: Cast) -> None:
    """ValueError for the first NaN that a cast does not take."""
    from fpemu.targets import host

    to = _encoding(np.ndarray, array.dtype, cast, _NONE_GIVEN)
    index = None if to.refuses_nan is None else host.first_nan(array.view(to.bits), to.source)
    if index is not None:
        raise nan_refused(cast, index, array.shape)


def as_counter(name: str, number: Any) -> int:
    if not isinstance(number, (int, np.integer)) or isinstance(number, bool):
        raise TypeError(f"{name} must be an int, not {type(number).__name__}")
    if not 0 <= number < 2**64:
        raise ValueError(f"{name} must be 0 to 2**64 - 1, not {number}")
    return int(number)


# ---- inputs and outputs ---------------------------------------------------------------------------------------------
def bits_of(x: ArrayLike) -> tuple[Any, Source]:
    """The bits of floating-point values, a NumPy or a device array, and what they are codes of."""
    array = x if type(x) is np.ndarray else as_values(x)
    source, bits = _source_of(array.dtype)
    return array.view(bits), source


@lru_cache(maxsize=256)
def _source_of(dtype: SourceType) -> tuple[Source, np.dtype[Any]]:
    """What values of a dtype are codes of, and the dtype of their bits."""
    from fpemu.targets.chain import SOURCES

    if isinstance(dtype, FloatFormat):
        return dtype, dtype.code_dtype
    source = SOURCES.get(dtype if dtype.isnative else dtype.newbyteorder("=")) or own_format(dtype)
    if source is None:
        raise TypeError(_no_float(dtype))
    return source, _UNSIGNED[dtype.itemsize].newbyteorder(dtype.byteorder)


def as_values(x: ArrayLike) -> Any:
    """A NumPy array, or a device array for what lies on a GPU."""
    if type(x) is int:
        raise TypeError("an int is not taken as a value: write it as a float, or decode() it if it is a code")
    there = on_device(x)
    return as_plain(x, "floating-point values") if there is None else there


def as_plain(x: ArrayLike, what: str) -> NDArray[Any]:
    """A plain NumPy array of what is given on the host; of a tensor as ``tensor_array`` has it.

    A subclass says more of its elements than their values (which of them are masked, in which unit they are); a result could not,
    so it is a TypeError.  (A memory map says where they lie, no more.)
    """
    x = _element(x)
    try:
        return np.asarray(x)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{type(x).__name__} is not an array of {what}: {error}") from None


def _element(x: Any) -> Any:
    """A number, an array or a tensor, alone or in lists: arrays of tensors, and no subclass."""
    if type(x) is float:
        return x
    if isinstance(x, (list, tuple)):
        return [_element(one) for one in x]
    if is_torch(x):
        return tensor_array(x)
    refuse_subclass(x)
    return x


def refuse_subclass(x: object, name: str = "x") -> None:
    """TypeError for an array of a subclass other than ``numpy.memmap``."""
    if not isinstance(x, np.ndarray) or type(x) in (np.ndarray, np.memmap):
        return
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"masked arrays are not taken: fill the masked elements first, {name}.filled(value)")
    kind = f"{type(x).__module__}.{type(x).__name__}"
    raise TypeError(
        f"{name} is a {kind}, and its result would be a plain array: pass numpy.asarray({name}) if that is meant"
    )


def _no_float(dtype: np.dtype[Any]) -> str:
    advice = "take float16, float32, float64 or an ml_dtypes dtype"
    if dtype.kind in "iu":
        advice = "convert with x.astype(np.float64) if these are values, or use decode() if they are codes"
    elif dtype.kind == "f":
        advice = "round it to float64 yourself, so that the first rounding is yours to see"
    elif dtype.kind == "c":
        advice = "convert x.real and x.imag"
    return f"values of dtype {dtype} are not taken: {advice}"


def as_ml_dtype(codes: Codes, format: FormatName) -> NDArray[Any]:
    """A view of codes as the ml_dtypes dtype (or NumPy's float16 or float32) of their format, sharing memory.

    (Of a tensor, and of elements whose bytes are swapped, it is a copy.)

    Raises
    ------
    TypeError: integers of another width than the format's ``code_dtype``, of which there is no such view.
    ValueError: a format that has none, or ml_dtypes is not installed (``pip install ml_dtypes``).

    Examples
    --------
    >>> import numpy as np
    >>> as_ml_dtype(np.array([0x38, 0xB8], np.uint8), "e4m3").astype(np.float32).tolist()
    [1.0, -1.0]
    """
    array = codes if type(codes) is np.ndarray else _code_array(codes)
    bits, source = codes_of(array, format)
    if array.dtype.itemsize != bits.dtype.itemsize:
        raise TypeError(
            f"a view of {array.dtype} as codes of {source.name} would be a copy: pass codes.astype(np.{source.code_dtype})"
        )
    if is_torch(codes):
        bits = bits.copy()  # (what outlives the call must not depend on a storage that can be resized)
    if source.name in ("float16", "float32"):
        return bits.view(source.name)
    try:
        import ml_dtypes
    except ImportError:
        raise ValueError("ml_dtypes is not installed: pip install ml_dtypes") from None
    dtype = getattr(ml_dtypes, source.name, None)
    if dtype is None:
        raise ValueError(f"ml_dtypes has no dtype for {source.name}")
    return bits.view(dtype)


def _codes(codes: ArrayLike, format: FormatName | None) -> tuple[Any, FloatFormat]:
    """``codes_of``, and the same of arrays on a GPU."""
    there = None if type(codes) is np.ndarray else on_device(codes)
    if there is None:
        return codes_of(codes, format)
    from fpemu.targets.device import checked_codes

    own = there.dtype if isinstance(there.dtype, FloatFormat) else None
    source = _format_of_codes(own, format)
    return checked_codes(there, source), source


def _format_of_codes(own: FloatFormat | None, format: FormatName | None) -> FloatFormat:
    """The format of codes from that of their dtype, if it has one, and the one that is named, if any."""
    if own is not None:
        if format is not None and as_format(format) != own:
            raise ValueError(f"the array holds codes of {own.name}, not of {as_format(format).name}")
        return own
    if format is None:
        raise TypeError("format is needed: only ml_dtypes arrays and torch's FP8 and bfloat16 tensors bring their own")
    return as_format(format)


def codes_of(codes: ArrayLike, format: FormatName | None) -> tuple[Codes, FloatFormat]:
    """Codes in the dtype of their format, checked against its width."""
    array = codes if type(codes) is np.ndarray else _code_array(codes)
    own = own_format(array.dtype)
    source = _format_of_codes(own, format)
    if own is not None:
        bits = array.view(_UNSIGNED[array.dtype.itemsize].newbyteorder(array.dtype.byteorder))
        return bits.astype(own.code_dtype, copy=False), own
    if array.dtype.kind not in "iu" and not (array.size == 0 and array.dtype == np.float64):
        raise TypeError(
            f"codes of {source.name} are {source.code_dtype} integers, not {array.dtype}; encode() makes them"
        )
    if array.dtype == source.code_dtype and source.bits == 8 * array.dtype.itemsize:
        return array, source
    if array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >> source.bits:
            raise ValueError(f"{source.name} has codes 0 to {(1 << source.bits) - 1:#x}; found {low} to {high:#x}")
    if array.dtype.itemsize == source.code_dtype.itemsize and array.dtype.isnative:
        return array.view(source.code_dtype), source
    return array.astype(source.code_dtype, copy=False), source


def _code_array(codes: ArrayLike) -> NDArray[Any]:
    if on_device(codes) is not None:
        raise TypeError("codes on a GPU are not taken here: copy them to the host first")
    return as_plain(codes, "codes")


def value_dtype_of(dtype: np.dtype[Any], target: FloatFormat) -> np.dtype[Any]:
    """The dtype of values of a format that come from values of a dtype."""
    return _value_dtype(None, _source_of(dtype)[0], target)


def _value_dtype(dtype: DTypeLike | None, source: Source, target: FloatFormat) -> np.dtype[Any]:
    """The dtype quantize() returns."""
    wanted: np.dtype[Any]
    if dtype is None:
        if not isinstance(source, FloatFormat):
            wanted = np.dtype(np.float64)
        elif source.name in ("float16", "float32"):
            wanted = np.dtype(source.name)
        else:
            wanted = np.result_type(source.value_dtype, target.value_dtype)
    else:
        wanted = np.dtype(dtype)
    _check_dtype(wanted, target)
    return wanted


@lru_cache(maxsize=4096)
def _check_dtype(dtype: np.dtype[Any], format: FloatFormat) -> None:
    """Whether a NumPy dtype can hold every finite value of a format."""
    if dtype not in _FLOATS:
        raise TypeError(f"dtype must be float16, float32 or float64 in native byte order, not {dtype}")
    needed = format.value_dtype
    if dtype == np.float16 and FORMATS["float16"].holds(format):
        return
    if dtype.itemsize < needed.itemsize or dtype == np.float16:
        raise ValueError(f"{dtype} cannot hold every finite value of {format.name}: pass dtype=np.{needed}")


def _checked_output(out: NDArray[Any], bits: Codes, dtype: np.dtype[Any]) -> Codes:
    """Check the array to write to; returns the input, copied where writing would change what is still to be read."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, not {type(out).__name__}")
    refuse_subclass(out, "out")
    if out.dtype != dtype or not out.dtype.isnative:
        raise TypeError(f"out must have dtype {dtype}, not {out.dtype}")
    if out.shape != bits.shape:
        raise ValueError(f"out must have shape {bits.shape}, not {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    if not np.may_share_memory(bits, out):
        return bits
    # Elementwise in place is safe for the very same elements only.
    same = bits.itemsize == out.itemsize and bits.ctypes.data == out.ctypes.data and bits.strides == out.strides
    return bits if same else bits.copy()


def nan_refused(cast: Cast, index: int, shape: tuple[int, ...]) -> ValueError:
    """The error for a NaN, at a C-order index, that a cast does not take."""
    place = tuple(int(i) for i in np.unravel_index(index, shape))
    why = "its policy is to raise" if cast.format.has_nan else "it has no code for it"
    return ValueError(
        f"NaN at index {place if len(shape) != 1 else place[0]} cannot become {cast.format.name}: {why}; "
        "name a policy: nan='max' or nan='zero'"
    )
