"""PyTorch tensors on the host as NumPy arrays, without importing torch: the one way in for every function.

An array shares the tensor's memory, with its strides, and is read-only.  The tensor's storage can be resized afterwards
(``Tensor.numpy`` would forbid it for good, and sharded training resizes storages); so no array outlives a call.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu.dtypes import PACKED, torch_name
from fpemu.formats import FORMATS, FloatFormat

_NUMPY_NAMES = ("float16", "float32", "float64", "complex64", "complex128", "bool", "int8", "int16", "int32", "int64",
                "uint8", "uint16", "uint32", "uint64")  # fmt: skip
_NUMPY: dict[str, np.dtype[Any]] = {name: np.dtype(name) for name in _NUMPY_NAMES}
# Arrays of codes in a format for which NumPy has no dtype: structures of one field, which no number is taken for.
_CODES: dict[str, np.dtype[Any]] = {
    name: np.dtype([(f"codes of {name}", FORMATS[name].code_dtype)])
    for name in FORMATS
    if name == "bfloat16" or name.startswith(("float8_", "float4_"))
}
_FORMATS: dict[np.dtype[Any], FloatFormat] = {dtype: FORMATS[name] for name, dtype in _CODES.items()}


def own_format(dtype: np.dtype[Any]) -> FloatFormat | None:
    """The format that a dtype says its elements are codes of: one of ml_dtypes, or what a tensor had; else None."""
    if dtype.isbuiltin == 1:  # NumPy's own; the quick way of most calls
        return None
    if dtype.type.__module__.startswith("ml_dtypes"):
        return FORMATS.get(dtype.name)
    return None if dtype.names is None else _FORMATS.get(dtype)


def tensor_array(x: Any, *, packed: bool = False) -> NDArray[Any]:
    """The elements of a tensor on the host; what ``x.detach()`` holds, where it requires grad.

    bfloat16 and FP8 become codes in a dtype that ``own_format`` knows, and so does ``float4_e2m1fn_x2``, unpacked: its last
    axis is twice as long, in elements.  ``packed``: its bytes instead.

    Raises TypeError for a tensor without plain memory on the host (another device, sparse, quantized, nested, wrapped by a
    transform, of a subclass, freed), and for a dtype that is not taken.
    """
    refuse_tensor(x)
    if x.device.type != "cpu":
        raise TypeError(f"a tensor on {x.device} is not taken here: copy it to the host first, x.cpu()")
    name = str(torch_name(x.dtype))
    kept = _NUMPY["uint8"] if packed and name in PACKED else _CODES.get(PACKED.get(name, name)) or _NUMPY.get(name)
    if kept is None:
        raise TypeError(f"tensors of torch.{name} are not taken: take float16, bfloat16, float32, float64, FP8 or FP4")
    if x.is_neg():
        x = x.detach().resolve_neg()  # (a copy)
    shared = _shared(x, kept)
    return _unpacked(shared, x.stride()) if name in PACKED and not packed else shared


def refuse_tensor(x: Any) -> None:
    """TypeError for a tensor that is more, or less, than strided memory of its own."""
    torch = sys.modules["torch"]
    kind = type(x)
    if kind is not torch.Tensor and kind is not torch.nn.Parameter:
        raise TypeError(
            f"a tensor of the class {kind.__module__}.{kind.__name__} is not taken, for it says more than its elements: "
            "pass a plain torch.Tensor of them"
        )
    if x.is_quantized:
        raise TypeError("a quantized tensor is not taken: pass x.dequantize(), or its codes, x.int_repr()")
    if x.is_nested:
        raise TypeError("a nested tensor is not taken: pass its parts one by one, x.unbind()")
    if x.layout is not torch.strided:
        raise TypeError(f"a tensor of layout {x.layout} is not taken: pass x.to_dense()")
    if x.is_meta:
        raise TypeError("a meta tensor has no elements")


class _Memory:
    """The memory of a tensor, which lives as long as an array of it."""

    def __init__(self, owner: Any, dtype: np.dtype[Any]) -> None:
        size = owner.element_size()
        self.owner = owner
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "shape": tuple(owner.shape),
            "strides": tuple(stride * size for stride in owner.stride()),
            "typestr": f"|V{size}" if dtype.names else dtype.str,
            "data": (owner.data_ptr(), True),
        }


def _shared(x: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The elements where they lie."""
    if not x.numel():
        return np.empty(tuple(x.shape), dtype)
    try:
        held = x.untyped_storage().nbytes()
        memory = _Memory(x, dtype)
    except (RuntimeError, NotImplementedError):
        raise TypeError("a tensor inside a transform (torch.func, torch.compile) has no elements to be read") from None
    last = x.storage_offset() + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    if not memory.__array_interface__["data"][0] or held < (last + 1) * x.element_size():
        raise TypeError(
            f"a tensor of shape {tuple(x.shape)} whose storage holds {held} bytes: it was freed, or never filled"
        )
    array = np.asarray(memory)
    return array.view(dtype) if dtype.names else array


def _unpacked(pairs: NDArray[Any], strides: tuple[int, ...]) -> NDArray[Any]:
    """Both codes of each byte, one after another along the last axis."""
    if not pairs.ndim or (pairs.shape[-1] > 1 and strides[-1] != 1):
        raise TypeError(
            f"float4_e2m1fn_x2 holds pairs along its last axis, and this tensor (shape {pairs.shape}, strides {strides}) has "
            "none whose elements lie side by side: pass it as it was before it was transposed or sliced"
        )
    both = pairs.view(np.uint8)
    codes = np.empty((*both.shape, 2), np.uint8)
    np.bitwise_and(both, 15, out=codes[..., 0])
    np.right_shift(both, 4, out=codes[..., 1])
    return codes.reshape(*both.shape[:-1], 2 * both.shape[-1]).view(pairs.dtype)
