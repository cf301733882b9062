"""Arrays on a GPU, or in Numba's simulator of one (``NUMBA_ENABLE_CUDASIM=1``): ``put`` them there, ``get`` them back.

``KIND`` says which there is: "gpu", "simulator", or "" where numba-cuda is not installed or finds no GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numba
import numpy as np

Array = np.ndarray[Any, Any]


def _kind() -> str:
    if find_spec("numba_cuda") is None:
        return ""
    if numba.config.ENABLE_CUDASIM:
        return "simulator"
    if numba.config.DISABLE_JIT:
        return ""
    from numba import cuda

    return "gpu" if cuda.is_available() else ""


KIND = _kind()


class Interface:
    """Device memory with a shape and strides of its own: what any library's array looks like from outside."""

    def __init__(self, memory: Any, x: Array, first: int, read_only: bool = False) -> None:
        pointer = memory.device_ctypes_pointer.value + first if KIND == "gpu" else memory._ary.ctypes.data + first
        self.memory = memory
        self.__cuda_array_interface__ = {
            "shape": x.shape,
            "strides": x.strides,
            "typestr": x.dtype.str,
            "data": (pointer, read_only),
            "version": 3,
        }


def put(x: Array, read_only: bool = False) -> Interface:
    """An array on the device that lies there as it does here: the same strides, and what is between the elements."""
    from numba import cuda

    reach = [(n - 1) * stride for n, stride in zip(x.shape, x.strides, strict=True)] if x.size else []
    low, high = sum(min(r, 0) for r in reach), sum(max(r, 0) for r in reach) + x.itemsize
    corner = x[tuple(slice(n - 1, None) if s < 0 else slice(None) for n, s in zip(x.shape, x.strides, strict=True))]
    size = (high - low) // x.itemsize
    between = np.lib.stride_tricks.as_strided(corner, (size,), (x.itemsize,)) if x.size else np.zeros(1, x.dtype)
    return Interface(cuda.to_device(np.ascontiguousarray(between).view(np.uint8)), x, -low, read_only)


def get(x: Any) -> Array:
    """The elements of a device array as a NumPy array."""
    if isinstance(x, Interface):
        facts = x.__cuda_array_interface__
        start = facts["data"][0] - Interface(x.memory, np.zeros(0), 0).__cuda_array_interface__["data"][0]
        host = x.memory.copy_to_host()
        dtype = np.dtype(facts["typestr"])
        return np.ndarray(facts["shape"], dtype, host, start, facts["strides"])
    return np.asarray(x.copy_to_host())


def through(function: Callable[..., Any]) -> Callable[..., Array]:
    """A function of arrays that runs it on the device."""

    def on_the_device(x: Array, *arguments: Any, **more: Any) -> Array:
        return get(function(put(x), *arguments, **more))

    return on_the_device
