"""The peers' runs, each as its users would write it, into memory that is already there where the peer can.

Packages are imported inside: contenders.py asks first whether they are installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fpemu as fp
from benchmarks.ours import EXPONENTS
from benchmarks.shared import followed, implementations
from benchmarks.timing import Run
from benchmarks.works import BITS, Array, Work
from fpemu import FloatFormat, Rounding
from fpemu.engines import Chain


def _nearest(work: Work) -> bool:
    return all(cast.rounding is Rounding.NEAREST_EVEN for cast in work.casts)


def _ieee(format: FloatFormat) -> bool:
    """Whether a format has the specials of IEEE 754."""
    return format == FloatFormat.ieee(format.exponent_bits, format.trailing_bits, format.name)


class Kept:
    """The last result of a peer that allocates a new one at each call."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self.value: Any = None

    def __call__(self) -> None:
        self.value = None  # freed before, as in a loop that keeps one
        self.value = self._call()


# ---- NumPy and ml_dtypes: dtypes that NumPy casts to and from -------------------------------------------------------
def _numpy_dtype(package: str, format: FloatFormat) -> np.dtype[Any] | None:
    if package == "numpy":
        return np.dtype(np.float16) if format == fp.FORMATS["float16"] else None
    import ml_dtypes

    known = format == fp.FORMATS.get(format.name) and hasattr(ml_dtypes, format.name)
    return np.dtype(getattr(ml_dtypes, format.name)) if known else None


def _dtype(package: str, format: FloatFormat) -> np.dtype[Any]:
    dtype = _numpy_dtype(package, format)
    assert dtype is not None  # it handles the work
    return dtype


def numpy_handles(package: str, work: Work) -> bool:
    """Whether NumPy has a dtype for the format."""
    return _nearest(work) and _numpy_dtype(package, work.cast.format) is not None


def numpy_encode(package: str, work: Work, x: Array, threads: int) -> Run:
    """``np.copyto`` into an array of the narrow dtype."""
    out = np.empty(x.shape, _dtype(package, work.cast.format))
    return Run(_quiet(lambda: np.copyto(out, x, casting="unsafe")), lambda: out.view(BITS[out.itemsize]))


def numpy_decode(package: str, work: Work, x: Array, threads: int) -> Run:
    """``np.copyto`` from an array of the narrow dtype."""
    narrow, out = x.view(_dtype(package, work.cast.format)), np.empty(x.shape, work.writes)
    return Run(_quiet(lambda: np.copyto(out, narrow, casting="unsafe")), lambda: out)


def numpy_quantize(package: str, work: Work, x: Array, threads: int) -> Run:
    """There and back: two passes."""
    narrow, out = np.empty(x.shape, _dtype(package, work.cast.format)), np.empty(x.shape, work.writes)

    def call() -> None:
        np.copyto(narrow, x, casting="unsafe")
        np.copyto(out, narrow, casting="unsafe")

    return Run(_quiet(call), lambda: out)


def _quiet(call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with np.errstate(all="ignore"):
            return call()

    return run


def numpy_stats(work: Work, x: Array, threads: int) -> Run:
    """The same facts from whole-array expressions over ml_dtypes casts."""
    dtypes = [_numpy_dtype("ml_dtypes", c.format) or _numpy_dtype("numpy", c.format) for c in work.casts]

    def row(dtype: np.dtype[Any] | None) -> list[float]:
        wide = x.astype(np.float64)
        result = x.astype(dtype).astype(np.float64)
        signal, product = float(np.sum(wide * wide)), float(np.sum(wide * result))
        new_zero = np.count_nonzero((result == 0) & (x != 0))
        noise, power = float(np.sum((wide - result) ** 2)), float(np.sum(result * result))
        return [new_zero, 10 * np.log10(signal / noise), product / np.sqrt(signal * power), product / signal]

    kept = Kept(lambda: np.array([row(dtype) for dtype in dtypes]))
    return Run(kept, lambda: kept.value)


def numpy_histogram(work: Work, x: Array, threads: int) -> Run:
    """``frexp`` and ``bincount``: counts alone, without energies."""

    def call() -> Array:
        # frexp's significand is in [1/2, 1); exponents below the smallest stand for no finite non-zero number.
        exponents = np.frexp(x[x != 0])[1] - (EXPONENTS[0] + 1)
        return np.bincount(exponents, minlength=len(EXPONENTS))

    kept = Kept(call)
    return Run(kept, lambda: kept.value.astype(np.float64))


# ---- torch -----------------------------------------------------------------------------------------------------------
def torch_handles(work: Work) -> bool:
    """Whether torch has a dtype for the format."""
    import torch

    format = work.cast.format
    return _nearest(work) and format == fp.FORMATS.get(format.name) and hasattr(torch, format.name)


def _torch_pair(x: Array, dtype: Any, threads: int) -> tuple[Array, Any]:
    """Memory as NumPy sees it and as torch does, so that all contenders write to memory of one kind."""
    import torch

    torch.set_num_threads(threads)
    memory = np.empty(x.shape, BITS[dtype.itemsize])
    views = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    signed = memory.view(f"i{memory.itemsize}") if memory.itemsize > 1 else memory
    return memory, torch.from_numpy(signed).view(views[memory.itemsize]).view(dtype)


def torch_encode(work: Work, x: Array, threads: int) -> Run:
    """``copy_`` into a tensor of the narrow dtype."""
    import torch

    codes, out = _torch_pair(x, getattr(torch, work.cast.format.name), threads)
    values = torch.from_numpy(x)
    return Run(lambda: out.copy_(values), lambda: codes)


def torch_decode(work: Work, x: Array, threads: int) -> Run:
    """``copy_`` from a tensor of the narrow dtype."""
    import torch

    codes, narrow = _torch_pair(x, getattr(torch, work.cast.format.name), threads)
    codes[...] = x
    memory, out = _torch_pair(x, getattr(torch, work.dtype), threads)
    return Run(lambda: out.copy_(narrow), lambda: memory.view(work.dtype))


def torch_quantize(work: Work, x: Array, threads: int) -> Run:
    """There and back: two passes."""
    import torch

    _, narrow = _torch_pair(x, getattr(torch, work.cast.format.name), threads)
    memory, out = _torch_pair(x, getattr(torch, work.dtype), threads)
    values = torch.from_numpy(x)
    return Run(lambda: out.copy_(narrow.copy_(values)), lambda: memory.view(work.dtype))


# ---- gfloat ----------------------------------------------------------------------------------------------------------
def gfloat_handles(work: Work) -> bool:
    """What tests/implementations.py says that it handles, under the overflow policy it follows."""
    return bool(implementations().TABLE["gfloat"].handles(work.reads, followed("gfloat", work.reads, work.cast)))


def gfloat_encode(work: Work, x: Array, threads: int) -> Run:
    """``round_ndarray`` and ``encode_ndarray`` on float64."""
    cast = followed("gfloat", work.reads, work.cast)
    encode = implementations().TABLE["gfloat"].encode
    kept = Kept(lambda: encode(x, cast))
    return Run(kept, lambda: kept.value)


def gfloat_quantize(work: Work, x: Array, threads: int) -> Run:
    """``round_ndarray`` on float64."""
    import gfloat

    info = implementations().gfloat_info(work.cast.format)
    kept = Kept(_quiet(lambda: gfloat.round_ndarray(info, x.astype(np.float64)).astype(work.dtype)))
    return Run(kept, lambda: kept.value)


def gfloat_decode(work: Work, x: Array, threads: int) -> Run:
    """``decode_ndarray``, which makes float64."""
    import gfloat

    info = implementations().gfloat_info(work.cast.format)
    kept = Kept(_quiet(lambda: gfloat.decode_ndarray(info, x).astype(work.dtype)))
    return Run(kept, lambda: kept.value)


# ---- apytypes --------------------------------------------------------------------------------------------------------
def apytypes_handles(work: Work) -> bool:
    """Formats with the specials of IEEE 754."""
    return _nearest(work) and _ieee(work.cast.format)


def _taken(x: Array) -> Array:
    """What apytypes takes: it has no float16."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def apytypes_encode(work: Work, x: Array, threads: int) -> Run:
    """``from_array``; the codes are asked for outside the clock."""
    import apytypes

    format = work.cast.format
    kept = Kept(lambda: apytypes.APyFloatArray.from_array(_taken(x), format.exponent_bits, format.trailing_bits))
    return Run(kept, lambda: kept.value.to_bits(True))


def apytypes_quantize(work: Work, x: Array, threads: int) -> Run:
    """``from_array`` and ``to_numpy``, which makes float64."""
    import apytypes

    format = work.cast.format

    def call() -> Array:
        narrow = apytypes.APyFloatArray.from_array(_taken(x), format.exponent_bits, format.trailing_bits)
        return np.asarray(narrow.to_numpy().astype(work.dtype))

    kept = Kept(_quiet(call))
    return Run(kept, lambda: kept.value)


def apytypes_decode(work: Work, x: Array, threads: int) -> Run:
    """``to_numpy``, which makes float64; the array is made outside the clock."""
    import apytypes

    format = work.cast.format
    narrow = apytypes.APyFloatArray.from_bits(x, format.exponent_bits, format.trailing_bits)
    kept = Kept(_quiet(lambda: narrow.to_numpy().astype(work.dtype)))
    return Run(kept, lambda: kept.value)


# ---- operations ------------------------------------------------------------------------------------------------------
NUMPY = {"add": "add", "multiply": "multiply", "divide": "divide", "sqrt": "sqrt"}
TORCH = {**NUMPY, "divide": "div", "multiply": "mul", "fma": "addcmul"}


def numpy_operates(work: Work) -> bool:
    """Whether NumPy has the operation: all but the fused one."""
    return work.operation in NUMPY and numpy_handles("numpy", work)


def numpy_arithmetic(work: Work, x: Array, threads: int) -> Run:
    """The ufunc on float16, into an array."""
    values, out = x.view(np.float16), np.empty(x.shape[1:], np.float16)
    call = getattr(np, NUMPY[work.operation])
    return Run(_quiet(lambda: call(*values, out=out)), lambda: out.view(np.uint16))


def torch_arithmetic(work: Work, x: Array, threads: int) -> Run:
    """torch's operation, into a tensor; ``addcmul`` in place of the fused one that torch has not."""
    import torch

    torch.set_num_threads(threads)
    values = [torch.from_numpy(row.view(np.int16)).view(getattr(torch, work.cast.format.name)) for row in x]
    if work.operation == "fma":
        values = [values[2], *values[:2]]
    codes = np.empty(x.shape[1:], work.reads)
    out = torch.from_numpy(codes.view(np.int16)).view(values[0].dtype)
    call = getattr(torch, TORCH[work.operation])
    return Run(lambda: call(*values, out=out), lambda: codes)


def apytypes_operates(work: Work) -> bool:
    """What apytypes has operators for."""
    return work.operation in ("add", "multiply", "divide") and apytypes_handles(work)


def apytypes_arithmetic(work: Work, x: Array, threads: int) -> Run:
    """The operator, which makes a new array; the codes are asked for outside the clock."""
    import apytypes

    format = work.cast.format
    a, b = (apytypes.APyFloatArray.from_bits(row, format.exponent_bits, format.trailing_bits) for row in x)
    calls = {"add": lambda: a + b, "multiply": lambda: a * b, "divide": lambda: a / b}
    kept = Kept(calls[work.operation])
    return Run(kept, lambda: kept.value.to_bits(True))


# ---- matrix products -------------------------------------------------------------------------------------------------
def torch_multiplies(work: Work) -> bool:
    """Products in float16 and bfloat16 whose result has the format of the operands (torch sums in float32)."""
    engine = work.engine
    return engine.a == engine.b == engine.accumulator and engine.a.bits == 16


def torch_matmul(work: Work, x: Array, threads: int) -> Run:
    """``torch.matmul`` of the narrow tensors: it emulates nothing, and sums in float32."""
    import torch

    torch.set_num_threads(threads)
    a, b = (torch.from_numpy(one.view(np.int16)).view(getattr(torch, work.engine.a.name)) for one in x)
    codes = np.empty(x.shape[1:], work.reads)
    out = torch.from_numpy(codes.view(np.int16)).view(a.dtype)
    return Run(lambda: torch.matmul(a, b, out=out), lambda: codes.reshape(-1))


def apytypes_multiplies(work: Work) -> bool:
    """Accumulators of the operands' format that round each product, then each sum."""
    engine = work.engine
    rule = engine.arithmetic
    simple = isinstance(rule, Chain) and rule.order == "sequential" and not rule.fused
    return simple and engine.a == engine.b == engine.accumulator and _ieee(engine.a)


def apytypes_matmul(work: Work, x: Array, threads: int) -> Run:
    """``a @ b`` in an accumulator context; the codes are asked for outside the clock."""
    import apytypes

    format = work.engine.accumulator
    fields = format.exponent_bits, format.trailing_bits
    a, b = (apytypes.APyFloatArray.from_bits(one, *fields) for one in x)

    def call() -> Any:
        with apytypes.APyFloatAccumulatorContext(*fields):
            return a @ b

    kept = Kept(call)
    return Run(kept, lambda: kept.value.to_bits(True).reshape(-1))


MMASIM = {  # engine: its class, chip and instruction in MMA-Sim
    "volta.mma.fp16.fp32": ("MMA", "Volta", "m8n8k4.f32.f16.f16.f32"),
    "ampere.mma.fp16.fp32": ("MMA", "Ampere", "m16n8k16.f32.f16.f16.f32"),
    "hopper.wgmma.fp16.fp32": ("WGMMA", "Hopper", "m64n8k16.f32.f16.f16"),
    "hopper.wgmma.fp16.fp16": ("WGMMA", "Hopper", "m64n8k16.f16.f16.f16"),
    "hopper.wgmma.bf16.fp32": ("WGMMA", "Hopper", "m64n8k16.f32.bf16.bf16"),
    "hopper.wgmma.tf32.fp32": ("WGMMA", "Hopper", "m64n8k8.f32.tf32.tf32"),
    "hopper.wgmma.e4m3.fp32": ("WGMMA", "Hopper", "m64n8k32.f32.e4m3.e4m3"),
}


def mmasim_matmul(work: Work, x: Array, threads: int) -> Run:
    """``dpa``: a row of a and a column of b for each element of the result, laid out outside the clock."""
    import torch
    from mmasim.nv_ptx import sim

    torch.set_num_threads(threads)
    kind, chip, instruction = MMASIM[work.engine_name]
    model = getattr(sim, kind)(chip, instruction)
    side, engine = x.shape[-1], work.engine
    signed = {1: np.uint8, 2: np.int16, 4: np.int32}

    def tensor(codes: Array, name: str) -> Any:
        return torch.from_numpy(np.ascontiguousarray(codes).view(signed[codes.itemsize])).view(getattr(torch, name))

    a = tensor(np.repeat(x[0], side, axis=0), engine.a.name)
    b = tensor(np.tile(x[1].T, (side, 1)), engine.b.name)
    c = tensor(np.zeros(side * side, engine.accumulator.code_dtype), engine.accumulator.name)
    kept = Kept(lambda: model.dpa(a, b, c))

    def result() -> Array:
        codes = kept.value.view({2: torch.int16, 4: torch.int32}[kept.value.element_size()]).numpy()
        return np.asarray(codes.view(engine.accumulator.code_dtype))

    return Run(kept, result)
