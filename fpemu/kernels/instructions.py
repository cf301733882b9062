"""What every machine does in one instruction, and NumPy has by names that numba.cuda does not know.

Each is rounded as IEEE 754 says, to nearest even, where it rounds at all.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic, overload


def whole(x: Any) -> Any:
    """The integer part of a float; the sign stays, of a zero too, and infinities and NaNs pass."""
    return np.trunc(x)


def float_root(x: Any) -> Any:
    """The square root of a float that is not negative."""
    return np.sqrt(x)


def float_quotient(a: Any, b: Any) -> Any:
    """a / b of floats, without a look whether b is zero."""
    return np.true_divide(a, b)


def _unary(name: str) -> Any:
    @intrinsic
    def instruction(context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            (value,) = arguments
            return builder.call(builder.module.declare_intrinsic(name, [value.type]), arguments)

        return x(x), generate

    return instruction


_trunc, _sqrt = _unary("llvm.trunc"), _unary("llvm.sqrt")


@intrinsic
def _divide(context: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fdiv(*arguments)

    return a(a, b), generate


@overload(whole, inline="always")
def _whole(x):
    return (lambda x: _trunc(x)) if isinstance(x, types.Float) else None


@overload(float_root, inline="always")
def _root(x):
    return (lambda x: _sqrt(x)) if isinstance(x, types.Float) else None


@overload(float_quotient, inline="always")
def _quotient(a, b):
    return (lambda a, b: _divide(a, b)) if isinstance(a, types.Float) and a == b else None
