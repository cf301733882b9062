"""The names of dtypes, NumPy's, ml_dtypes' and torch's, by which formats are called too.  Imports none but NumPy."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class TorchDType(Protocol):
    """One of torch's dtypes, by what others do not have."""

    @property
    def is_floating_point(self) -> bool:
        """Whether elements are real floating-point numbers."""

    def to_complex(self) -> TorchDType:
        """The dtype of complex numbers with such parts."""


DType = np.dtype[Any] | type[np.generic] | TorchDType
PACKED = {"float4_e2m1fn_x2": "float4_e2m1fn"}  # torch's, two codes a byte, the first in its low half
_SPELLED = PACKED | {"float": "float32"}  # names that torch alone has
_MODULES = ("torch.", "numpy.", "np.", "ml_dtypes.")


def dtype_name(x: object) -> str | None:
    """The name of a format that is meant: a string without the module before it, or the name of a dtype; None for others.

    >>> dtype_name("torch.bfloat16"), dtype_name(np.float16), dtype_name(16)
    ('bfloat16', 'float16', None)
    """
    if isinstance(x, str):
        given = x.strip()
        module = next((start for start in _MODULES if given.startswith(start)), "")
        name = given[len(module) :]
        return _SPELLED.get(name, name) if module == "torch." else name
    if isinstance(x, np.dtype) or (isinstance(x, type) and issubclass(x, np.generic)):
        return np.dtype(x).name
    name_of_torch = torch_name(x)
    return None if name_of_torch is None else PACKED.get(name_of_torch, name_of_torch)


def torch_name(dtype: object) -> str | None:
    """The name of one of torch's dtypes; None for anything else."""
    kind = type(dtype)
    return str(dtype).removeprefix("torch.") if kind.__name__ == "dtype" and kind.__module__ == "torch" else None
