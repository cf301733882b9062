"""Anybody's conversion as a function from an array of inputs to codes, or to values, of the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu.arrays import codes_of, ml_format
from fpemu.formats import FloatFormat
from fpemu.targets.dispatch import is_torch, torch_format

Function = Callable[[Any], Any]


class NotAConversion(Exception):
    """The function cannot be called, or what it returns is no conversion; the message says why."""


def called(function: Function, x: NDArray[Any], target: FloatFormat) -> NDArray[Any]:
    """What the function makes of each element: codes of the target (unsigned integers) or values (floats).

    A function that takes no arrays is called for each element.
    Raises NotAConversion, with the function's own exception as its cause where it raised one.
    """
    if is_torch(x):
        return _settled(_call(function, x), x, target)
    return _one_by_one(function, x, target) if _is_scalar(function, x) else _settled(_call(function, x), x, target)


def _is_scalar(function: Function, x: NDArray[Any]) -> bool:
    """Whether it has to be called element by element: an array of two raises, or comes back with another shape."""
    sample = np.array([1.0, 0.5], x.dtype) if x.dtype.kind == "f" else np.zeros(2, x.dtype)
    try:
        return np.shape(function(sample)) != (2,)
    except Exception:
        return True


def _call(function: Function, x: Any) -> Any:
    try:
        with np.errstate(all="ignore"):
            return function(x)
    except Exception as error:
        kind, size = ("a tensor", x.numel()) if is_torch(x) else ("an array", np.size(x))
        shown = x if np.shape(x) == () else f"{kind} of {size:,} {x.dtype}"
        raise NotAConversion(f"it raised {type(error).__name__} for {shown}: {error}") from error


def _one_by_one(function: Function, x: NDArray[Any], target: FloatFormat) -> NDArray[Any]:
    results = [np.asarray(_call(function, value)) for value in x]
    if any(result.ndim for result in results):
        raise NotAConversion("of a scalar it makes an array")
    return _settled(np.array(results) if results else np.zeros(0), x, target)


def _settled(result: Any, x: NDArray[Any], target: FloatFormat) -> NDArray[Any]:
    """Codes in the target's dtype, or float64 values."""
    try:
        array = _from_torch(result) if is_torch(result) else np.asarray(result)
    except Exception as error:
        raise NotAConversion(f"it returns {type(result).__name__}, which is no array: {error}") from error
    if array.shape != tuple(x.shape):
        raise NotAConversion(f"of an array of shape {x.shape} it makes one of shape {array.shape}")
    own = torch_format(result) if is_torch(result) else ml_format(array.dtype)
    if own is not None and own != target:
        raise NotAConversion(f"it returns {own.name}, not {target.name}")
    if own is not None or array.dtype.kind in "iu":
        try:
            return codes_of(array, None if ml_format(array.dtype) else target)[0]
        except (TypeError, ValueError) as error:
            raise NotAConversion(f"what it returns are no codes: {error}") from None
    if array.dtype == np.float16 and target.name == "float16":
        return array.view(np.uint16)
    if array.dtype.kind == "f":
        return array.astype(np.float64)
    raise NotAConversion(f"it returns {array.dtype}: neither codes (integers) nor values (floats)")


def _from_torch(tensor: Any) -> NDArray[Any]:
    """A tensor's values, or its codes where NumPy has no dtype for them."""
    import torch

    tensor = tensor.detach().cpu()
    if torch_format(tensor) is not None:
        tensor = tensor.view({1: torch.uint8, 2: torch.uint16}[tensor.element_size()])
    return np.asarray(tensor.numpy())
