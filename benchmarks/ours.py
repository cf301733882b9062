"""fpemu's own runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fpemu as fp
from benchmarks.timing import Run
from benchmarks.works import BITS, MAIN, MX_BLOCK, Array, Work, scales
from fpemu.scaling import mx
from fpemu.targets import chain, host


def in_threads(threads: int, call: Callable[[], Any]) -> Callable[[], Any]:
    """The call with that many of fpemu's threads: contenders with other numbers run in between."""

    def run() -> Any:
        fp.set_threads(threads)
        return call()

    return run


def _writing(out: Array, threads: int, call: Callable[[], object]) -> Run:
    return Run(in_threads(threads, call), lambda: out)


def encode(work: Work, x: Array, threads: int) -> Run:
    """``fp.encode`` into an array."""
    out = np.empty(x.shape, work.writes)
    return _writing(out, threads, partial(fp.encode, x, work.cast, out=out))


def quantize(work: Work, x: Array, threads: int) -> Run:
    """``fp.quantize`` into an array."""
    out = np.empty(x.shape, work.writes)
    return _writing(out, threads, partial(fp.quantize, x, work.cast, out=out))


def decode(work: Work, x: Array, threads: int) -> Run:
    """``fp.decode`` into an array."""
    out = np.empty(x.shape, work.writes)
    return _writing(out, threads, partial(fp.decode, x, work.cast.format, dtype=work.dtype, out=out))


def blocks(work: Work, x: Array, threads: int) -> Run:
    """``fpemu.scaling.mx`` into an array; its scales and flags are allocated."""
    out = np.empty(x.shape, work.writes)
    return _writing(out, threads, partial(mx, x, work.cast.format, block=MX_BLOCK, out=out))


def encode_at_run_time(work: Work, x: Array, threads: int) -> Run:
    """The kernels that take the format as run-time numbers: those of small arrays, and of a format's first use."""
    steps = host.encode_steps(chain.SOURCES[x.dtype], work.cast, False)
    out = np.empty(x.shape, work.writes)
    return _writing(out, threads, partial(host.convert, steps, x.view(BITS[x.itemsize]), out, 0, 0))


def is_main_encode(work: Work) -> bool:
    """Whether a work is float32 to one of the four main formats, rounded to nearest even."""
    return work.kind == "encode" and work.dtype == "float32" and not work.strided and work.cast in map(fp.Cast, MAIN)


def arithmetic(work: Work, x: Array, threads: int) -> Run:
    """An operation of ``fpemu.arithmetic`` on the rows of codes, into an array."""
    out = np.empty(x.shape[1:], work.writes)
    operation = getattr(fp, work.operation)
    return _writing(out, threads, partial(operation, *x, work.cast, out=out))


def matmul(work: Work, x: Array, threads: int) -> Run:
    """``fp.matmul`` of codes, into an array; from zero."""
    out = np.empty(x.shape[1:], work.writes)
    blocks: dict[str, Any] = dict(zip(("a_scales", "b_scales"), scales(work, x) or (), strict=False))
    call = partial(fp.matmul, x[0], x[1], engine=work.engine, out=out, **blocks)
    return Run(in_threads(threads, call), lambda: out.reshape(-1))


# ---- statistics: the last result is kept ----------------------------------------------------------------------------
STATS = ("sqnr_db", "cosine", "gain")
EXPONENTS = range(-149, 128)  # of float32


def stats(work: Work, x: Array, threads: int) -> Run:
    """``fp.tensor_stats``; results: newly zero and what STATS says, a row for each format."""
    kept: list[fp.TensorStats] = []

    def call() -> None:
        kept[:] = [fp.tensor_stats(x, work.casts)]

    def result() -> Array:
        return np.array([[loss.new_zero, *(getattr(loss, name) for name in STATS)] for loss in kept[0]])

    return Run(in_threads(threads, call), result)


def histogram(work: Work, x: Array, threads: int) -> Run:
    """``fp.exponent_histogram``; result: the count of every exponent of EXPONENTS."""
    kept: list[fp.ExponentHistogram] = []

    def call() -> None:
        kept[:] = [fp.exponent_histogram(x)]

    def result() -> Array:
        counts = np.zeros(len(EXPONENTS))
        counts[np.asarray(kept[0].exponents) - EXPONENTS[0]] = kept[0].counts
        return counts

    return Run(in_threads(threads, call), result)
