"""TABLE: every implementation of a conversion that can run here, by name; tests and benchmarks share it.

Each takes floating-point values and a ``Cast`` and returns codes; ``handles`` says for which dtypes and casts it claims
to be right.  Peers that are not installed have no row.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import on_device

import fpemu as fp
from fpemu import Cast, FloatFormat, NaN, Overflow, Rounding, Subnormals, reference

Array = np.ndarray[Any, Any]
FLOATS = tuple(np.dtype(name) for name in ("float16", "float32", "float64"))
UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}
JIT = not numba.config.DISABLE_JIT


@dataclass(frozen=True)
class Implementation:
    """A conversion of values to codes, and what it claims to handle."""

    name: str
    encode: Callable[[Array, Cast], Array]
    handles: Callable[[np.dtype[Any], Cast], bool] = lambda dtype, cast: True
    per_second: float = 1e7  #: elements it converts in a second, roughly: how much a test may ask of it

    def __call__(self, x: Array, cast: Cast) -> Array:
        return self.encode(x, cast)


# ---- ours -----------------------------------------------------------------------------------------------------------
def _through(host: Any, x: Array, cast: Cast, freeze: bool) -> Array:
    """The chain of steps of a targets/host module, called directly."""
    x = np.ascontiguousarray(x)
    codes = np.empty(x.shape, cast.format.code_dtype)
    host.convert(
        host.encode_steps(host.chain.SOURCES[x.dtype], cast, freeze), x.view(UNSIGNED[x.itemsize]), codes, 0, 0
    )
    return codes


def _host(x: Array, cast: Cast, freeze: bool) -> Array:
    from fpemu.targets import host

    return _through(host, x, cast, freeze)


@contextmanager
def _compiler_off() -> Iterator[None]:
    """Numba's decorators hand back the function they are given."""
    kept, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, 1
    try:
        yield
    finally:
        numba.config.DISABLE_JIT = kept


@lru_cache(maxsize=1)
def python_host() -> types.ModuleType:
    """A second targets/host, with all kernels below it, as the plain Python they are written in."""
    folders = ("fpemu.kernels", "fpemu.targets")
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(folders)}
    try:
        with _compiler_off():
            return importlib.import_module("fpemu.targets.host")
    finally:
        for name in [name for name in sys.modules if name.startswith(folders)]:
            del sys.modules[name]
        sys.modules.update(kept)
        for name in folders:
            if name in kept:
                setattr(fp, name.split(".")[1], kept[name])


def _python(x: Array, cast: Cast) -> Array:
    with _compiler_off(), np.errstate(over="ignore"):  # drivers are made on first use
        return _through(python_host(), x, cast, False)


def _quantize(x: Array, cast: Cast) -> Array:
    """quantize, then the codes of its values (exact; NaN and zero keep their sign)."""
    dtype = np.result_type(x.dtype, cast.format.value_dtype)
    values = fp.quantize(x, cast, dtype=dtype)
    back = {"nan": cast.nan, "nan_code": cast.nan_code} if cast.format.has_nan else {"nan": NaN.ZERO}
    return fp.encode(values, Cast(cast.format, **back))  # type: ignore[arg-type]


def _cuda() -> Iterator[Implementation]:
    if on_device.KIND:
        encode = on_device.through(fp.encode)
        yield Implementation("cuda", encode, per_second=1e8 if on_device.KIND == "gpu" else 1e3)


def _reference(x: Array, cast: Cast) -> Array:
    flat = [reference.encode(value, cast) for value in x.reshape(-1)]
    return np.array(flat, cast.format.code_dtype).reshape(x.shape)


# ---- peers ----------------------------------------------------------------------------------------------------------
def _plain(cast: Cast, *roundings: Rounding) -> bool:
    """Whether a cast has no policy but a rounding and an overflow row."""
    return (
        cast.rounding in (roundings or (Rounding.NEAREST_EVEN,))
        and cast.subnormals is Subnormals.KEEP
        and cast.via is None
        and cast.nan_code is None
        and (cast.nan is NaN.CANONICAL or not cast.format.has_nan)
    )


def _ml_dtypes() -> Iterator[Implementation]:
    try:
        import ml_dtypes
    except ImportError:
        return

    def encode(x: Array, cast: Cast) -> Array:
        with np.errstate(all="ignore"):
            return x.astype(getattr(ml_dtypes, cast.format.name)).view(cast.format.code_dtype)

    def handles(dtype: np.dtype[Any], cast: Cast) -> bool:  # float64 is rounded twice, through float32
        known = hasattr(ml_dtypes, cast.format.name) and cast.format == fp.FORMATS.get(cast.format.name)
        return known and dtype != np.float64 and _plain(cast) and cast.overflow is Overflow.IEEE

    yield Implementation("ml_dtypes", encode, handles, 1e8)


def _numpy() -> Iterator[Implementation]:
    def encode(x: Array, cast: Cast) -> Array:
        with np.errstate(all="ignore"):
            return x.astype(cast.format.name).view(cast.format.code_dtype)

    def handles(dtype: np.dtype[Any], cast: Cast) -> bool:
        known = cast.format in (fp.FORMATS["float16"], fp.FORMATS["float32"])
        return known and _plain(cast) and cast.overflow is Overflow.IEEE

    yield Implementation("numpy", encode, handles, 1e9)


def _torch() -> Iterator[Implementation]:
    try:
        import torch
    except ImportError:
        return
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    rows = {  # since 2.13 e4m3fn saturates on the CPU; before, it gave NaN
        "float16": Overflow.IEEE,
        "bfloat16": Overflow.IEEE,
        "float8_e5m2": Overflow.IEEE,
        "float8_e4m3fn": Overflow.SATURATE if release >= (2, 13) else Overflow.IEEE,
    }
    views = {8: torch.uint8, 16: torch.uint16}

    def encode(x: Array, cast: Cast) -> Array:
        narrow = torch.from_numpy(np.ascontiguousarray(x)).to(getattr(torch, cast.format.name))
        return narrow.view(views[cast.format.bits]).numpy()

    def handles(dtype: np.dtype[Any], cast: Cast) -> bool:
        known = rows.get(cast.format.name) is cast.overflow and cast.format == fp.FORMATS.get(cast.format.name)
        return known and dtype != np.float64 and _plain(cast)

    yield Implementation("torch", encode, handles, 1e9)


def gfloat_info(format: FloatFormat) -> Any:
    """A format's facts as gfloat writes them."""
    import gfloat

    return gfloat.FormatInfo(
        name=format.name,
        k=format.bits,
        precision=format.precision,
        bias=format.bias,
        is_signed=format.signed,
        domain=gfloat.Domain.Extended if format.infinities else gfloat.Domain.Finite,
        has_nz=format.negative_zero and format.signed,
        num_high_nans=format.high_nans,
        has_subnormals=format.subnormals,
        is_twos_complement=False,
    )


def _gfloat() -> Iterator[Implementation]:
    try:
        import gfloat
    except ImportError:
        return
    modes = {
        Rounding.NEAREST_EVEN: gfloat.RoundMode.TiesToEven,
        Rounding.NEAREST_AWAY: gfloat.RoundMode.TiesToAway,
        Rounding.TOWARD_ZERO: gfloat.RoundMode.TowardZero,
        Rounding.UP: gfloat.RoundMode.TowardPositive,
        Rounding.DOWN: gfloat.RoundMode.TowardNegative,
    }

    def encode(x: Array, cast: Cast) -> Array:
        info, saturate = gfloat_info(cast.format), cast.overflow is Overflow.SATURATE
        with np.errstate(all="ignore"):
            values = gfloat.round_ndarray(info, x.astype(np.float64), modes[cast.rounding], sat=saturate)
            return gfloat.encode_ndarray(info, values).astype(cast.format.code_dtype)

    def handles(dtype: np.dtype[Any], cast: Cast) -> bool:
        format = cast.format
        rows = {Overflow.SATURATE} | ({Overflow.IEEE} if format.infinities or format.high_nans else set())
        # Unsigned formats take negatives and E8M0 has values outside itself in gfloat 0.5.2.
        simple = format.signed and format.subnormals and format.bits <= 16 and format.holds_in_float64
        return simple and cast.overflow in rows and _plain(cast, *modes)

    yield Implementation("gfloat", encode, handles, 2e7)


TABLE: dict[str, Implementation] = {
    row.name: row
    for row in (
        Implementation("runtime", lambda x, cast: _host(x, cast, False), per_second=1e8 if JIT else 3e4),
        Implementation("frozen", lambda x, cast: _host(x, cast, True), per_second=1e8 if JIT else 3e4),
        Implementation("python", _python, per_second=3e4),
        Implementation("encode", fp.encode, per_second=1e8 if JIT else 3e4),
        Implementation("quantize", _quantize, lambda dtype, cast: cast.format.holds_in_float64, 1e8 if JIT else 3e4),
        *_cuda(),
        Implementation("reference", _reference, per_second=4e4),
        *_ml_dtypes(),
        *_numpy(),
        *_torch(),
        *_gfloat(),
    )
}
OURS = tuple(name for name in ("runtime", "frozen", "python", "encode", "quantize", "cuda") if name in TABLE)
