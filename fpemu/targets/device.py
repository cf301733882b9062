"""Conversions of arrays on a GPU: whose they are, how they lie in memory, and which grids run over them.

A result is an array of the same kind on the same GPU; the work is queued on the stream that the input is used on (the
current one of torch and CuPy).  Nothing waits for it, but for the checks that must be over before anything is written
(NaNs for a format without one, codes that are wider than their format), and where the output is used on another stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numba import cuda

from fpemu.formats import FloatFormat
from fpemu.kernels.spec import LANE32, NEAREST_EVEN, Plan
from fpemu.targets import cuda as grids
from fpemu.targets.chain import (
    TABLE_BITS,
    ExactPass,
    Pass,
    Passes,
    Source,
    Stages,
    exact_table,
    exact_values,
    is_nan_limits,
)
from fpemu.targets.cuda import SIMULATED, blocks_of, launch
from fpemu.targets.dispatch import is_torch, torch_format
from fpemu.targets.host import FIRST, as_index, seed_word
from fpemu.tensors import own_format, refuse_tensor

if TYPE_CHECKING:
    from fpemu.arrays import Conversion

CHUNK = 1 << 26  # elements of a chunk between passes, where a conversion has several


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """An array on a GPU as its owner describes it."""

    owner: Any  # a torch tensor, a CuPy or Numba array, or what else has the interface
    dtype: np.dtype[Any] | FloatFormat  # a format where NumPy has no dtype (torch's bfloat16 and FP8)
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes
    pointer: int
    writeable: bool
    stream: Any  # as Numba launches on it
    gpu: int | None  # None: the current one

    @classmethod
    def of(cls, x: Any) -> DeviceArray:
        """The array of an object on a GPU.  TypeError where it cannot be taken."""
        array = _of_torch(x) if is_torch(x) else _of_numba(x) if hasattr(x, "__cuda_ndarray__") else _of_interface(x)
        array._validate()
        return array

    def _validate(self) -> None:
        """Refuse what a kernel would read wrongly, or die of."""
        if isinstance(self.dtype, np.dtype) and not self.dtype.isnative:
            raise TypeError(f"on a GPU only native byte order is taken, not {self.dtype}: convert it first")
        if self.size and not self.pointer:
            raise TypeError(f"{type(self.owner).__name__} has no memory on a GPU")
        strides = [stride for n, stride in zip(self.shape, self.strides, strict=True) if n > 1]
        known = isinstance(self.dtype, FloatFormat) or self.dtype.kind in "fiu"  # (others are refused later)
        if self.size and known and any(place % self.itemsize for place in (self.pointer, *strides)):
            raise ValueError("elements that do not lie at multiples of their size are not taken: copy the array first")

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def ndim(self) -> int:
        """Axes."""
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.dtype.code_dtype.itemsize if isinstance(self.dtype, FloatFormat) else self.dtype.itemsize

    @property
    def plain(self) -> bool:
        """Whether the elements lie one after another in C order."""
        wanted = _c_strides(self.shape, self.itemsize)
        return self.size <= 1 or all(a == b for n, a, b in zip(self.shape, self.strides, wanted, strict=True) if n > 1)

    def view(self, bits: np.dtype[Any]) -> DeviceArray:
        """The same elements as integers of their width."""
        return replace(self, dtype=bits)

    def like(self, dtype: np.dtype[Any]) -> DeviceArray:
        """A new array of the owner's kind, shape and, where the owner's library does so, order in memory."""
        if is_torch(self.owner):
            import torch

            return self._beside(torch.empty_like(self.owner, dtype=getattr(torch, dtype.name)))
        if _is_cupy(self.owner):
            import cupy

            return self._beside(cupy.empty_like(self.owner, dtype=dtype))
        return self._beside(cuda.device_array(self.shape, dtype, stream=self.stream))

    def _beside(self, made: Any) -> DeviceArray:
        """What was made for this array, to be used on its stream."""
        return replace(DeviceArray.of(made), stream=self.stream)

    def temporary(self, size: int, dtype: np.dtype[Any]) -> DeviceArray:
        """Flat memory for what is passed on, used on this array's stream."""
        return self.new((size,), dtype)

    def new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """A new array in C order of the owner's kind, on the same GPU, used on this array's stream.

        (Of the owner's library, whose allocator keeps freed memory from the work that is still queued on it.)
        """
        if is_torch(self.owner):
            import torch

            return self._beside(torch.empty(shape, dtype=getattr(torch, dtype.name), device=self.owner.device))
        if _is_cupy(self.owner):
            import cupy

            return self._beside(cupy.empty(shape, dtype))
        return self._beside(cuda.device_array(shape, dtype, stream=self.stream))

    def memory(self) -> tuple[Any, int]:
        """All memory from the first to the last element as a flat device array, and the place of element 0 in it."""
        assert isinstance(self.dtype, np.dtype)
        lowest = sum(min((n - 1) * stride, 0) for n, stride in zip(self.shape, self.strides, strict=True))
        highest = sum(max((n - 1) * stride, 0) for n, stride in zip(self.shape, self.strides, strict=True))
        extent, first = (highest - lowest) // self.itemsize + 1, -lowest // self.itemsize
        described = {
            "shape": (extent,),
            "typestr": self.dtype.str,
            "data": (self.pointer + lowest, False),
            "strides": None,
            "version": 3,
        }
        return _device_view(described, self.owner), first

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes its GPU the current one."""
        with nullcontext() if self.gpu is None or SIMULATED else cuda.gpus[self.gpu]:
            yield


def _device_view(described: dict[str, Any], owner: Any) -> Any:
    """Memory as Numba's kernels take it; it keeps its owner alive."""
    if not SIMULATED:
        return cuda.from_cuda_array_interface(described, owner=owner, sync=False)
    fake = cuda.cudadrv.devicearray.FakeCUDAArray  # type: ignore[attr-defined]
    return fake(np.asarray(_HostMemory(described, owner)))


class _HostMemory:
    """Memory of the simulator: NumPy's interface and CUDA's are one dictionary."""

    def __init__(self, described: dict[str, Any], owner: Any) -> None:
        self.__array_interface__, self.owner = described, owner


def _c_strides(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    strides, step = [], itemsize
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


# ---- whose array it is ----------------------------------------------------------------------------------------------
def _of_torch(x: Any) -> DeviceArray:
    import torch

    refuse_tensor(x)
    if x.requires_grad:
        raise TypeError("a tensor that requires grad is not taken: rounding has no gradient; pass x.detach()")
    if x.is_neg() or x.is_conj():
        raise TypeError("only tensors as they lie are taken: x.resolve_neg() or x.resolve_conj() make one")
    dtype = torch_format(x) or _numpy_dtype(str(x.dtype).removeprefix("torch."))
    itemsize = x.element_size()
    return DeviceArray(
        x,
        dtype,
        tuple(x.shape),
        tuple(stride * itemsize for stride in x.stride()),
        x.data_ptr(),
        True,
        _stream(torch.cuda.current_stream(x.device).cuda_stream),
        x.device.index,
    )


def _numpy_dtype(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except TypeError:
        raise TypeError(f"tensors of torch.{name} are not taken") from None


def _of_numba(x: Any) -> DeviceArray:
    pointer = x._ary.ctypes.data if SIMULATED else int(x.device_ctypes_pointer.value or 0)
    gpu = None if SIMULATED else x.gpu_data.context.device.id
    writeable = x.flags.writeable if SIMULATED else True
    return DeviceArray(x, np.dtype(x.dtype), tuple(x.shape), tuple(x.strides), pointer, writeable, x.stream, gpu)


def _of_interface(x: Any) -> DeviceArray:
    facts = x.__cuda_array_interface__
    if facts.get("mask") is not None:
        raise TypeError("masked arrays are not taken: fill the masked elements first")
    # (CuPy's arrays of ml_dtypes say of themselves that they are of void.)
    named = getattr(x, "dtype", None)
    own = own_format(named) if isinstance(named, np.dtype) else None
    dtype, shape = np.dtype(facts["typestr"]), tuple(int(n) for n in facts["shape"])
    pointer, read_only = facts["data"] or (0, False)
    strides = facts.get("strides") or _c_strides(shape, dtype.itemsize)
    gpu = _gpu_of(pointer) if pointer else None
    stream = _stream_of_cupy(x) if _is_cupy(x) else facts.get("stream")
    return DeviceArray(x, own or dtype, shape, tuple(strides), pointer or 0, not read_only, _stream(stream), gpu)


def _is_cupy(x: Any) -> bool:
    return type(x).__module__.partition(".")[0] == "cupy"


def _stream_of_cupy(x: Any) -> int:
    """The current stream of the GPU where the array is."""
    import cupy

    with x.device:
        return int(cupy.cuda.get_current_stream().ptr)


def _gpu_of(pointer: int) -> int | None:
    """The number of the GPU that memory belongs to, from the driver."""
    if SIMULATED:
        return None
    from cuda.bindings import driver

    attribute = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    error, number = driver.cuPointerGetAttribute(attribute, pointer)
    if error != driver.CUresult.CUDA_SUCCESS:
        raise TypeError(f"its memory is no GPU's: {error.name}")
    return int(number)


@lru_cache(maxsize=64)
def _stream(handle: int | None) -> Any:
    """A stream as Numba launches on it, from the number that the CUDA array interface (version 3) gives it."""
    if handle is None or handle == 0:
        return 0
    known = {1: cuda.legacy_default_stream, 2: cuda.per_thread_default_stream}
    return known[handle]() if handle in known else cuda.external_stream(handle)


# ---- conversions ----------------------------------------------------------------------------------------------------
def convert(to: Conversion, array: DeviceArray, out: Any, seed: int, offset: int) -> Any:
    """Run a conversion; returns the result as the owner's library knows it."""
    x = array.view(to.bits)
    with x.current():
        result = x.like(to.dtype) if out is None else checked_output(out, x, to.dtype)
        if not x.size:
            return result.owner
        elsewhere = result.stream != x.stream
        if elsewhere:  # what is queued there reads or writes the output, and what comes later there will
            wait(result)
        written = replace(result, dtype=np.dtype(f"u{result.itemsize}"), stream=x.stream)
        x = _apart(x, written)
        if to.refuses_nan is not None:
            _refuse_nan(to.refuses_nan, x, to.source)
        _run(to.passes, x, written, seed_word(seed), offset)
        if elsewhere:
            wait(x)
        if out is not None and is_torch(out):
            _tell_autograd(out)
    return result.owner


def copy(x: DeviceArray, out: Any) -> Any:
    """Write the elements of an array to an output of its shape and dtype."""
    from fpemu.arrays import Conversion

    assert isinstance(x.dtype, np.dtype)
    bits = np.dtype(f"u{x.itemsize}")
    passes: Any = (_Copy(bits),)
    return convert(Conversion(LANE32, bits, x.dtype, passes, None, ()), x, out, 0, 0)


def _tell_autograd(tensor: Any) -> None:
    """That a tensor was written to, as it is by torch's own functions in place."""
    import torch

    if not tensor.is_inference():
        torch.autograd.graph.increment_version(tensor)


def checked_codes(array: DeviceArray, source: FloatFormat) -> DeviceArray:
    """Codes on a GPU, checked against the width of their format.  TypeError, ValueError as for codes on the host."""
    if array.dtype == source:
        return array.view(source.code_dtype)
    if array.dtype != source.code_dtype:
        raise TypeError(
            f"on a GPU codes of {source.name} are {source.code_dtype}, not {array.dtype}: convert them first"
        )
    limit = (1 << source.bits) - 1
    if source.bits < 8 * array.itemsize and array.size:
        with array.current():
            flat, found = plain(array), _one(-1, array)
            _launch(
                grids.largest_code_grid(source.code_dtype), flat, flat.memory()[0], source.code_dtype.type(limit), found
            )
            high = _read(found, array)
        if high >= 0:
            raise ValueError(f"{source.name} has codes 0 to {limit:#x}; found {high:#x}")
    return array


def checked_output(out: Any, x: DeviceArray, dtype: np.dtype[Any]) -> DeviceArray:
    """The array to write a result of the shape of ``x`` to.  TypeError, ValueError where it cannot be written there."""
    from fpemu.targets.dispatch import on_device

    there = on_device(out)
    if there is None:
        raise TypeError(f"out must lie on the GPU as the input does, not be a {type(out).__name__} on the host")
    if there.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype}, not {there.dtype}")
    if there.shape != x.shape:
        raise ValueError(f"out must have shape {x.shape}, not {there.shape}")
    if not there.writeable:
        raise ValueError("out is read-only")
    if there.size and _shares_memory(there):
        raise ValueError("out has elements that share memory")
    if None not in (there.gpu, x.gpu) and there.gpu != x.gpu:
        raise ValueError(f"out must lie on GPU {x.gpu}, where the input does, not on GPU {there.gpu}")
    return there


def _shares_memory(array: DeviceArray) -> bool:
    """Whether elements may overlap: an axis that steps less far than what lies within reaches."""
    reach = array.itemsize
    for stride, n in sorted((abs(stride), n) for n, stride in zip(array.shape, array.strides, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += (n - 1) * stride
    return False


def _apart(x: DeviceArray, out: DeviceArray) -> DeviceArray:
    """The input, copied where writing would change what is still to be read."""
    if x.pointer == out.pointer and x.strides == out.strides and x.itemsize == out.itemsize:
        return x  # the very same elements

    def ends(array: DeviceArray) -> tuple[int, int]:
        reach = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
        lowest = sum(min(r, 0) for r in reach)
        return array.pointer + lowest, array.pointer + sum(max(r, 0) for r in reach) + array.itemsize

    (a, b), (c, d) = ends(x), ends(out)
    return x if b <= c or d <= a else plain(x, always=True)


def _run(passes: Passes, x: DeviceArray, out: DeviceArray, key: np.uint64, first: int) -> None:
    """All passes; several run chunk by chunk over plain arrays."""
    if len(passes) == 1 and isinstance(passes[0], Pass):
        _run_pass(passes[0], x, out, key, first)
        return
    assert isinstance(out.dtype, np.dtype)
    x, result = plain(x), out if out.plain else x.temporary(out.size, out.dtype)
    flat_x, flat_out = x.memory()[0], result.memory()[0]
    buffers = [x.temporary(min(x.size, CHUNK), one.writes) for one in passes[:-1]]
    for start in range(0, x.size, CHUNK):
        stop = min(start + CHUNK, x.size)
        piece = flat_x[start:stop]
        for one, buffer in zip(passes, [*buffers, None], strict=True):
            target = flat_out[start:stop] if buffer is None else buffer.memory()[0][: stop - start]
            run_flat(one, piece, target, x, key, first + start)
            piece = target
    if result is not out:
        _run_pass(_Copy(out.dtype), replace(result, shape=out.shape, strides=_c_strides(out.shape, out.itemsize)), out)


def _run_pass(one: Pass | _Copy, x: DeviceArray, out: DeviceArray, key: np.uint64 = FIRST, first: int = 0) -> None:
    """One pass over arrays of any strides."""
    shape, x_strides, out_strides = _axes(x, out, one.random)
    (flat_x, x_first), (flat_out, out_first) = x.memory(), out.memory()
    if len(shape) == 1 and x_strides == out_strides == (1,):
        run_flat(one, flat_x[x_first:], flat_out[out_first:], x, key, first)
        return
    facts = (one.has, one.plan, one.lane, one.reads, one.writes)
    grid = grids.strided_grid(len(shape), x.size >= 1 << 32, *facts)
    _launch(
        grid, x, flat_x, flat_out, *(tuple(np.int64(n) for n in each) for each in (shape, x_strides, out_strides)),
        np.int64(x_first), np.int64(out_first), np.uint64(x.size), *grids.numbers_of(one.stages, one.lane), key,
        as_index(first),
    )  # fmt: skip


def run_flat(
    one: Pass | _Copy | ExactPass, x: Any, out: Any, of: DeviceArray, key: np.uint64 = FIRST, first: int = 0
) -> None:
    """One pass over flat device arrays, on the stream and GPU of an array."""
    if isinstance(one, ExactPass):
        _run_exact(one, x, out, of)
        return
    grid = grids.conversion_grid(one.has, one.plan, one.lane, one.reads, one.writes)
    _launch(grid, of, x, out, *grids.numbers_of(one.stages, one.lane), key, as_index(first), size=x.size)


def _run_exact(one: ExactPass, x: Any, out: Any, of: DeviceArray) -> None:
    if one.source.bits <= TABLE_BITS:
        table = _table_on(one, of.gpu)
        _launch(grids.table_grid(one.lane, one.reads), of, x, out, table, size=x.size)
        return
    # Wide formats of unusual fields: by the host.
    codes = x.copy_to_host(stream=of.stream)
    wait(of)
    out.copy_to_device(exact_values(codes, one.source, one.lane), stream=of.stream)
    wait(of)


@lru_cache(maxsize=64)
def _table_on(one: ExactPass, gpu: int | None) -> Any:
    table = cuda.to_device(exact_table(one.source, one.lane))
    cuda.synchronize()
    return table


@dataclass(frozen=True)
class _Copy:
    """The pass without a stage."""

    dtype: np.dtype[Any] | FloatFormat
    has: ClassVar = (False, False, False)
    plan: ClassVar = Plan(NEAREST_EVEN)
    lane: ClassVar = LANE32
    stages: ClassVar = Stages()
    random: ClassVar = False

    @property
    def reads(self) -> np.dtype[Any]:
        """The dtype of what it reads."""
        assert isinstance(self.dtype, np.dtype)
        return self.dtype

    @property
    def writes(self) -> np.dtype[Any]:
        """The dtype of what it writes."""
        assert isinstance(self.dtype, np.dtype)
        return self.dtype


def _axes(x: DeviceArray, out: DeviceArray, in_order: bool) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Shape and strides (in elements) of both arrays with as few axes as will do.

    Unless elements must be counted ``in_order``, axes are taken as they lie in the result, so that arrays of the same
    order in memory, whichever it is, come out flat.
    """
    rows = [
        (n, a // x.itemsize, b // out.itemsize)
        for n, a, b in zip(x.shape, x.strides, out.strides, strict=True)
        if n > 1
    ]
    if not in_order:
        rows.sort(key=lambda row: -abs(row[2]))
    joined: list[tuple[int, int, int]] = []
    for n, a, b in rows:
        if joined and joined[-1][1] == n * a and joined[-1][2] == n * b:
            joined[-1] = (joined[-1][0] * n, a, b)
        else:
            joined.append((n, a, b))
    shape, x_strides, out_strides = zip(*(joined or [(1, 1, 1)]), strict=True)
    return shape, x_strides, out_strides


def plain(x: DeviceArray, always: bool = False) -> DeviceArray:
    """The elements in C order as a flat plain array; a copy only where that is needed, or ``always``."""
    if x.plain and not always:
        return replace(x, shape=(x.size,), strides=(x.itemsize,))
    assert isinstance(x.dtype, np.dtype)
    copy = x.temporary(x.size, x.dtype)
    shaped = replace(copy, shape=x.shape, strides=_c_strides(x.shape, x.itemsize))
    _run_pass(_Copy(x.dtype), x, shaped)
    return copy


# ---- checks that wait -----------------------------------------------------------------------------------------------
def _refuse_nan(cast: Any, x: DeviceArray, source: Source) -> None:
    """Raise before anything is written."""
    from fpemu.arrays import nan_refused

    assert isinstance(x.dtype, np.dtype)
    flat, found = plain(x), _one(x.size, x)
    limits = (x.dtype.type(number) for number in is_nan_limits(source))
    _launch(grids.first_nan_grid(x.dtype), flat, flat.memory()[0], *limits, found)
    index = _read(found, x)
    if index < x.size:
        raise nan_refused(cast, index, x.shape)


def _one(number: int, of: DeviceArray) -> Any:
    """A number in device memory."""
    return cuda.to_device(np.array([number], np.int64), stream=of.stream)


def _read(found: Any, of: DeviceArray) -> int:
    result = found.copy_to_host(stream=of.stream)
    wait(of)
    return int(result[0])


def wait(of: DeviceArray) -> None:
    """Wait for what is queued on an array's stream."""
    if isinstance(of.stream, int):
        cuda.synchronize()
    else:
        of.stream.synchronize()


def _launch(grid: Any, of: DeviceArray, *arguments: Any, size: int | None = None) -> None:
    """Queue a grid with a thread for every so many elements."""
    launch(grid, blocks_of(of.size if size is None else size), of.stream, *arguments)
