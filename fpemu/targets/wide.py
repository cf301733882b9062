"""A word to LLVM: this loop computes so much for each element that the widest registers pay.

On processors with 512-bit registers LLVM keeps to 256 bits unless it is told.  With 512, matrix products run about a third
faster there, and conversions of large arrays 1.1 (to E2M1) to 2.3 times as fast (to E4M3, toward zero).
"""

from typing import Any

from numba import types
from numba.extending import intrinsic, overload


def use_widest_registers() -> None:
    """To be called at the top of a driver; does nothing by itself, and nothing to a result."""


@intrinsic
def _prefer(context: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # llvmlite's set of attributes admits the names it knows only; LLVM itself takes any.
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


@overload(use_widest_registers, inline="always")
def _use_widest_registers():
    return lambda: _prefer()
