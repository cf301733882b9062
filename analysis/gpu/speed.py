"""How fast: fpemu's encode on the GPU and torch's cast beside a device copy of the same number of bytes.

Times are of the device, between two events on the stream that the work is queued on, over ``CALLS`` calls; the median
of ``ROUNDS`` such rounds after a warm-up.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any, TypedDict

import numpy as np

from analysis.gpu.driver import Context
from fpemu.formats import FORMATS

ELEMENTS = 1 << 28
ROUNDS = 21
CALLS = 8
TARGETS = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")


class Timing(TypedDict):
    """One work on ``elements`` float32 inputs; ``reason`` says why there are no times."""

    target: str
    work: str
    elements: int
    bytes: int
    seconds: list[float]
    gigabytes_per_second: float | None
    of_copy: float | None
    reason: str | None


def timing(target: str, work: str, elements: int, bytes_moved: int, seconds: list[float], copy: float | None) -> Timing:
    """A row from measured seconds; ``copy``: the median of the copy."""
    middle = median(seconds)
    return {
        "target": target,
        "work": work,
        "elements": elements,
        "bytes": bytes_moved,
        "seconds": seconds,
        "gigabytes_per_second": bytes_moved / middle / 1e9,
        "of_copy": None if copy is None else copy / middle,
        "reason": None,
    }


def missing(target: str, work: str, elements: int, bytes_moved: int, error: Exception) -> Timing:
    """A row that says why there are no times."""
    return {
        "target": target,
        "work": work,
        "elements": elements,
        "bytes": bytes_moved,
        "seconds": [],
        "gigabytes_per_second": None,
        "of_copy": None,
        "reason": f"{type(error).__name__}: {' '.join(str(error).split())}",
    }


def timings(context: Context, elements: int = ELEMENTS, rounds: int = ROUNDS) -> list[Timing]:
    """A copy, ours and torch's for each of TARGETS; ``elements`` of a standard normal distribution."""
    values = np.random.default_rng(0).standard_normal(elements, np.float32)
    rows: list[Timing] = []
    for target in TARGETS:
        size = 4 + FORMATS[target].bits // 8  # bytes read and written for an element
        seconds = _copy(context, elements * size // 2, rounds)
        copy = median(seconds)
        rows.append(timing(target, "device copy", elements, elements * size, seconds, copy))
        for work, make in (("fpemu.encode", _ours), ("torch", _torch)):
            try:
                seconds = context.times(make(values, target), rounds, CALLS)
            except Exception as error:  # of a library, whatever it is
                rows.append(missing(target, work, elements, elements * size, error))
            else:
                rows.append(timing(target, work, elements, elements * size, seconds, copy))
    return rows


def _copy(context: Context, size: int, rounds: int) -> list[float]:
    """Seconds of copies that read ``size`` bytes and write as many."""
    source, target = context.allocate(size), context.allocate(size)
    try:
        return context.times(lambda: context.copy_on_device(target, source, size), rounds, CALLS)
    finally:
        context.free(source)
        context.free(target)


def _ours(values: Any, target: str) -> Callable[[], Any]:
    from numba import cuda

    import fpemu

    x = cuda.to_device(values)
    out = cuda.device_array(values.shape, FORMATS[target].code_dtype)
    return lambda: fpemu.encode(x, target, out=out)


def _torch(values: Any, target: str) -> Callable[[], Any]:
    import torch

    x = torch.from_numpy(values).cuda()
    out = torch.empty(x.shape, dtype=getattr(torch, target), device="cuda")
    return lambda: out.copy_(x)
