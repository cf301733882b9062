"""Casts of libraries on the GPU, as functions from a range of inputs to codes on the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.gpu.inputs import Codes, chunk_inputs, patterns
from analysis.gpu.parts import TF32_SHIFT, Conversion
from fpemu.formats import FloatFormat

_SIGNED = {8: "int8", 16: "int16", 32: "int32"}  # torch views bits as signed integers


def torch_codes(part: Conversion, first: int, stop: int, device: str = "cuda") -> Codes:
    """PyTorch's ``tensor.to`` over the inputs of chunks ``[first, stop)``; they are made and cast on the device."""
    import torch

    size = chunk_inputs(part.source)
    bits = torch.arange(first * size, stop * size, dtype=torch.int64, device=device)  # narrowed modulo 2**bits below
    values = bits.to(getattr(torch, _SIGNED[part.source.bits])).view(_torch_dtype(part.source))
    cast = values.to(_torch_dtype(part.target))
    codes = cast.view(getattr(torch, _SIGNED[part.target.bits])).cpu().numpy()
    return np.asarray(codes.view(part.target.code_dtype))


def _torch_dtype(format: FloatFormat) -> Any:
    import torch

    return getattr(torch, format.name)


def fpemu_codes(part: Conversion, first: int, stop: int) -> Codes:
    """``fpemu.encode`` of values on the device, and ``fpemu.cast`` of codes where NumPy has no dtype for the values."""
    from numba import cuda

    import fpemu

    inputs = patterns(part.source, np.arange(first, stop))
    if part.source.name in ("float32", "float16"):
        codes = fpemu.encode(cuda.to_device(inputs.view(part.source.name)), part.target)
    else:
        codes = fpemu.cast(cuda.to_device(inputs), source=part.source, target=part.target)
    host = to_host(codes)
    if part.holder != part.target:
        host = host.astype(part.holder.code_dtype) << part.holder.code_dtype.type(TF32_SHIFT)
    return host


def to_host(array: Any) -> Codes:
    """A device array of numba, CuPy or PyTorch as a NumPy array."""
    if isinstance(array, np.ndarray):
        raise TypeError("the result is on the host: nothing ran on the GPU")
    for name in ("copy_to_host", "get"):
        if hasattr(array, name):
            return np.asarray(getattr(array, name)())
    return np.asarray(array.cpu().numpy())
