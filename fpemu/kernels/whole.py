"""The integer part of a float64: ``np.trunc``, which numba.cuda does not have, on every machine as its own instruction."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload


def whole(x: Any) -> Any:
    """Toward zero; the sign stays, of a zero too, and infinities and NaNs pass."""
    return np.trunc(x)


@intrinsic
def _trunc(context: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = builder.module.declare_intrinsic("llvm.trunc", [ir.DoubleType()])
        return builder.call(function, arguments)

    return types.float64(types.float64), generate


@overload(whole, inline="always")
def _whole(x):
    if x == types.float64:
        return lambda x: _trunc(x)
    return None
