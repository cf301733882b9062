"""Writing past the cache, for results that are larger than it.

An ordinary store first fetches the line it writes to.  A non-temporal one does not: a float32 copy moves a third fewer
bytes.  LLVM vectorises no loop with such stores, so drivers write strips that stay in the cache, and each strip is
copied to its place as whole lines.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

LINE = 64  # bytes stored at a time, to a multiple of as many
STRIP = 1 << 12  # bytes


def whole_strips(out: np.ndarray[Any, Any]) -> tuple[int, int]:
    """``[start, stop)`` of what can be written in strips of a flat array: from the beginning of a line, whole strips."""
    line, strip = LINE // out.itemsize, STRIP // out.itemsize
    if out.ctypes.data % out.itemsize:  # no element begins at a line
        return 0, 0
    start = min(-(out.ctypes.data // out.itemsize) % line, out.size)
    return start, start + (out.size - start) // strip * strip


def copy_past_cache(strip: Any, out: Any, start: int) -> None:
    """``out[start : start + strip.size] = strip``, for whole lines to the beginning of a line."""
    out[start : start + strip.size] = strip


def finish_streaming() -> None:
    """Let other threads see what was copied past the cache: those stores are not ordered among others."""


@overload(copy_past_cache)
def _copy_past_cache(strip, out, start):
    line = LINE // (strip.dtype.bitwidth // 8)

    def copy_lines(strip, out, start):
        for i in range(0, strip.size, line):
            _store_line(strip, i, out, start + i)

    return copy_lines


@overload(finish_streaming)
def _finish_streaming():
    return lambda: _fence()


@intrinsic
def _store_line(context: Any, strip: Any, i: Any, out: Any, j: Any) -> Any:
    """The LINE bytes from ``strip[i]`` on to ``out[j]``, which is at the beginning of a line."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        line = ir.VectorType(ir.IntType(8), LINE)

        def place(array: int, index: int) -> Any:
            data = context.make_array(signature.args[array])(context, builder, arguments[array]).data
            return builder.bitcast(builder.gep(data, [arguments[index]]), line.as_pointer())

        store = builder.store(builder.load(place(0, 1), align=1), place(2, 3), align=LINE)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(strip, types.intp, out, types.intp), generate


@intrinsic
def _fence(context: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def fetch_line(array: Any, i: Any) -> None:
    """Ask for the line of element i of a flat array to be brought near; changes nothing, wherever i lies."""


@overload(fetch_line, inline="always")
def _fetch_line(array, i):
    return lambda array, i: _prefetch(array, i)


@intrinsic
def _prefetch(context: Any, array: Any, i: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, *[ir.IntType(32)] * 3])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(
            prefetch, [place, *(ir.Constant(ir.IntType(32), fact) for fact in (0, 3, 1))]
        )  # to read, near, data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate
