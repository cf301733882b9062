"""Loops of the CPU: each driver runs one scalar kernel over flat, contiguous arrays of bits.

Drivers are made on first use, one for each plan and pair of widths, with an explicit signature (so that read-only and
writable arrays share one compilation), and cached on disk.  They hold no lock (``nogil``): targets/threads.py runs them
on parts of an array side by side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, wraps
from threading import RLock
from typing import Any

import numpy as np
from numba import config, types

from fpemu.kernels.convert import convert
from fpemu.kernels.jit import kernel
from fpemu.kernels.random import GOLDEN, random_counter, random_word
from fpemu.kernels.spec import STOCHASTIC, DecodeSpec, EncodeSpec, Lane, Plan
from fpemu.targets.chain import Stages
from fpemu.targets.environment import guarded, in_default_environment
from fpemu.targets.machine_code import machine_code
from fpemu.targets.streaming import STRIP, copy_past_cache, finish_streaming
from fpemu.targets.wide import use_widest_registers

Driver = Callable[..., Any]

TYPES = {
    np.dtype(np.uint8): types.uint8,
    np.dtype(np.uint16): types.uint16,
    np.dtype(np.uint32): types.uint32,
    np.dtype(np.uint64): types.uint64,
}


_making = RLock()


def made_once(make: Callable[..., Driver]) -> Callable[..., Driver]:
    """``cache``, and of threads that want the same driver at the same time only the first makes it."""
    remembered = cache(make)

    @wraps(make)
    def look_up(*facts: Any, **more: Any) -> Driver:
        with _making:
            return remembered(*facts, **more)

    return look_up


def read_only(dtype: Any) -> Any:
    return types.Array(TYPES[np.dtype(dtype)], 1, "C", readonly=True)


def writable(dtype: Any) -> Any:
    return types.Array(TYPES[np.dtype(dtype)], 1, "C")


def compiled(function: Callable[..., Any], facts: Any, *signature: Any, returns: Any = types.void) -> Driver:
    """A driver compiled for a signature, or found in the cache; ``facts``: all that its closure was made from.

    Each specialisation has a name of its own, which carries its facts.
    """
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        # NumPy scalars warn where they wrap around, and where a signaling NaN is added to; the kernels mean it.
        return in_default_environment(np.errstate(over="ignore", invalid="ignore")(function))
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
    of = returns(*signature)
    return machine_code(guarded(function, f"{function.__name__}_{digest}", of), of)


@kernel
def thaw_encode(a, k):
    """The numbers of ``numbers_of`` from place k as an EncodeSpec."""
    return EncodeSpec(
        a[k], a[k + 1], a[k + 2], a[k + 3], a[k + 4], a[k + 5], a[k + 6], a[k + 7], a[k + 8], a[k + 9], a[k + 10],
        a[k + 11], a[k + 12], a[k + 13], a[k + 14], a[k + 15], a[k + 16], a[k + 17], a[k + 18], a[k + 19], a[k + 20],
        a[k + 21],
    )  # fmt: skip


@kernel
def thaw_decode(a, k):
    """The numbers of ``numbers_of`` from place k as a DecodeSpec."""
    return DecodeSpec(
        a[k], a[k + 1], a[k + 2], a[k + 3], a[k + 4], a[k + 5], a[k + 6], a[k + 7], a[k + 8], a[k + 9], a[k + 10],
        a[k + 11], a[k + 12],
    )  # fmt: skip


def numbers_of(stages: Stages, lane: Lane) -> np.ndarray[Any, Any]:
    """The specs, one after another, as the small array in which they are passed at run time."""
    return np.array([number for spec in stages if spec is not None for number in spec], lane.code)


def frozen_spec(spec: Any, lane: Lane) -> Any:
    return None if spec is None else type(spec)(*(lane.code(field) for field in spec))


@made_once
def conversion_driver(
    has: tuple[bool, bool, bool],
    plan: Plan,
    lane: Lane,
    reads: np.dtype[Any],
    writes: np.dtype[Any],
    frozen: Stages | None = None,
    streams: bool = False,
) -> Driver:
    """``driver(x, out, numbers, key, first)``: the stages that it ``has``; element i has random word ``first + i``.

    One that ``streams`` writes past the cache, and takes whole strips only.
    """
    decodes, encodes, decodes_back = has
    to_place = len(DecodeSpec._fields) if decodes else 0
    back_place = to_place + (len(EncodeSpec._fields) if encodes else 0)
    is_frozen = frozen is not None
    source_constant, to_constant, back_constant = (frozen_spec(spec, lane) for spec in frozen or Stages())
    stochastic, step, plan = plan.rounding == STOCHASTIC, np.uint64(GOLDEN), Plan(*plan)
    strip_size = STRIP // writes.itemsize

    def conversion_loop(x, out, numbers, key, first):
        use_widest_registers()
        if is_frozen:
            source, to, back = source_constant, to_constant, back_constant
        else:
            source = thaw_decode(numbers, 0) if decodes else None
            to = thaw_encode(numbers, to_place) if encodes else None
            back = thaw_decode(numbers, back_place) if decodes_back else None
        counter = random_counter(key, first)
        if streams:
            strip = np.empty(strip_size, out.dtype)
            for start in range(0, x.size, strip_size):
                row = x[start : start + strip_size]
                for i in range(row.size):
                    word = random_word(counter) if stochastic else np.uint32(0)
                    counter = np.uint64(counter + step)
                    strip[i] = convert(row[i], word, source, to, back, plan)
                copy_past_cache(strip, out, start)
            finish_streaming()
        else:
            for i in range(x.size):
                word = random_word(counter) if stochastic else np.uint32(0)
                counter = np.uint64(counter + step)
                out[i] = convert(x[i], word, source, to, back, plan)

    arguments = (read_only(reads), writable(writes), read_only(lane.code), types.uint64, types.uint64)
    return compiled(conversion_loop, (has, plan, lane, reads, writes, frozen, streams), *arguments)


@made_once
def table_driver(lane: Lane, code_dtype: np.dtype[Any]) -> Driver:
    """``driver(codes, bits, table)``: look codes up."""

    def table_loop(codes, bits, table):
        for i in range(codes.size):
            bits[i] = table[codes[i]]

    return compiled(table_loop, (lane, code_dtype), read_only(code_dtype), writable(lane.code), read_only(lane.code))


@made_once
def largest_magnitude_driver(lane: Lane) -> Callable[..., int]:
    """``driver(bits)``: the largest magnitude bits, 0 for none; above those of infinity there is a NaN."""
    U, mask = lane.code, lane.code((1 << (lane.bits - 1)) - 1)

    def largest_magnitude_loop(bits):
        largest = U(0)
        for i in range(bits.size):
            largest = max(largest, U(bits[i] & mask))
        return largest

    return compiled(largest_magnitude_loop, lane, read_only(U), returns=TYPES[np.dtype(U)])
