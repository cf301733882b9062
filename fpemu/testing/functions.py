"""Anybody's conversion as a function from an array of inputs to codes, or to values, of the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu.arrays import codes_of
from fpemu.formats import FloatFormat
from fpemu.targets.dispatch import is_torch
from fpemu.targets.environment import callers_environment
from fpemu.tensors import own_format, tensor_array

Function = Callable[[Any], Any]


class NotAConversion(Exception):
    """The function cannot be called, or what it returns is no conversion; the message says why."""


class Subject:
    """A function under test.

    Each call gets a writable copy of its own, and what comes back is copied at once, as it may be a buffer that is used
    again, a view of the argument or the argument itself.  So nothing that the function writes to reaches what its results
    are held against.

    Attributes
    ----------
    name: of the function. target: the format of its codes.
    changed: whether it has written to an argument.
    """

    def __init__(self, function: Function, target: FloatFormat) -> None:
        self.function, self.target = function, target
        self.name = name_of(function)
        self.changed = False
        self._one_by_one: bool | None = None

    def __call__(self, x: Any) -> NDArray[Any]:
        """What the function makes of each element: codes of the target (unsigned integers) or values (floats).

        A function that takes no arrays is called for each element.
        Raises NotAConversion, with the function's own exception as its cause where it raised one.
        """
        return self.settled(self.returned(x), x)

    def returned(self, x: Any) -> Any:
        """What the function returns of all elements, in its own dtype: a copy."""
        if self.takes_one(x):
            results = [self._call(value) for value in x]
            if any(result.ndim for result in results):
                raise NotAConversion("of a scalar it makes an array")
            return np.array(results) if results else np.zeros(0)
        given = copied(x)
        found = self._call(given)
        self.changed |= not np.array_equal(_raw(given), _raw(x))
        return found

    def handed(self, x: Any) -> NDArray[Any]:
        """The result of one call with this very array, which nobody else may need."""
        return self.settled(self._call(x), x)

    def takes_one(self, x: Any) -> bool:
        """Whether it has to be called element by element: an array of two raises, or comes back with another shape."""
        if is_torch(x):
            return False
        if self._one_by_one is None:
            sample = np.ones(2, x.dtype)  # (a zero is more often a case of its own)
            try:
                with np.errstate(all="ignore"), callers_environment():
                    self._one_by_one = np.shape(self.function(sample)) != (2,)
            except Exception:
                self._one_by_one = True
        return self._one_by_one

    def _call(self, x: Any) -> Any:
        """A copy of what one call returns."""
        try:
            with np.errstate(all="ignore"), callers_environment():
                found = self.function(x)
        except Exception as error:
            kind, size = ("a tensor", x.numel()) if is_torch(x) else ("an array", np.size(x))
            shown = x if np.shape(x) == () else f"{kind} of {size:,} {x.dtype}"
            raise NotAConversion(f"it raised {type(error).__name__} for {shown}: {error}") from error
        try:
            return copied(found)
        except Exception as error:
            raise NotAConversion(f"it returns {type(found).__name__}, which is no array: {error}") from error

    def settled(self, result: Any, x: Any) -> NDArray[Any]:
        """What it returned of x as codes in the target's dtype, or as float64 values."""
        array = _from_torch(result) if is_torch(result) else np.asarray(result)
        if array.shape != tuple(x.shape):
            raise NotAConversion(f"of an array of shape {tuple(x.shape)} it makes one of shape {array.shape}")
        own = own_format(array.dtype)
        if own is not None and own != self.target:
            raise NotAConversion(f"it returns {own.name}, not {self.target.name}")
        if own is not None or array.dtype.kind in "iu":
            try:
                return codes_of(array, None if own is not None else self.target)[0]
            except (TypeError, ValueError) as error:
                raise NotAConversion(f"what it returns are no codes: {error}") from None
        if array.dtype == np.float16 and self.target.name == "float16":
            return array.view(np.uint16)
        if array.dtype.kind == "f":
            with np.errstate(invalid="ignore"):  # signaling NaNs
                return array.astype(np.float64)
        raise NotAConversion(f"it returns {array.dtype}: neither codes (integers) nor values (floats)")


def name_of(function: Function) -> str:
    return getattr(function, "__qualname__", None) or type(function).__name__


def copied(x: Any) -> Any:
    """A writable copy in memory of its own: a tensor of a tensor, an array of anything else."""
    return x.detach().clone() if is_torch(x) else np.array(x)


def _raw(x: Any) -> NDArray[Any]:
    """The bytes of an array or a tensor."""
    if is_torch(x):
        import torch

        x = np.asarray(x.reshape(-1).view(torch.uint8).cpu().numpy())
    return np.asarray(np.atleast_1d(x).view(np.uint8))


def _from_torch(tensor: Any) -> NDArray[Any]:
    """A tensor's elements, wherever it lies."""
    try:
        return tensor_array(tensor.detach().cpu())
    except TypeError as error:
        raise NotAConversion(f"it returns {error}") from None
