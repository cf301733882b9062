"""Loops of the CPU: each driver runs one scalar kernel over flat, contiguous arrays of bits.

Drivers are made on first use, one for each plan and pair of widths, with an explicit signature (so that read-only and
writable arrays share one compilation), and cached on disk.  They hold no lock (``nogil``): targets/threads.py runs them
on parts of an array side by side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import config, njit, types

from fpemu.kernels.decode import decode
from fpemu.kernels.encode import encode
from fpemu.kernels.jit import kernel
from fpemu.kernels.random import GOLDEN, random_counter, random_word
from fpemu.kernels.spec import STOCHASTIC, DecodeSpec, EncodeSpec, Lane, Plan

Driver = Callable[..., Any]

TYPES = {
    np.dtype(np.uint8): types.uint8,
    np.dtype(np.uint16): types.uint16,
    np.dtype(np.uint32): types.uint32,
    np.dtype(np.uint64): types.uint64,
}


def _source_digest() -> int:
    """A number that changes with the kernels."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parent.parent
    for folder in ("kernels", "targets"):
        for path in sorted((package / folder).glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return int.from_bytes(digest.digest()[:8], "little") >> 1


SOURCE_DIGEST = _source_digest()


def read_only(dtype: Any) -> Any:
    return types.Array(TYPES[np.dtype(dtype)], 1, "C", readonly=True)


def writable(dtype: Any) -> Any:
    return types.Array(TYPES[np.dtype(dtype)], 1, "C")


def compiled(function: Callable[..., Any], facts: Any, *signature: Any, returns: Any = types.void) -> Driver:
    """A driver compiled for a signature, or found in the cache; ``facts``: all that its closure was made from.

    Each specialisation gets a cache file of its own, named after its facts and the kernels' source.  Numba would keep
    them in one file, which two processes that compile different ones at a time can leave pointing at the wrong code;
    and it would not notice that a kernel in another file has changed.
    """
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        # NumPy scalars warn where they wrap around; the kernels mean it.
        return np.errstate(over="ignore")(function)
    digest = hashlib.sha256(repr((SOURCE_DIGEST, facts)).encode()).hexdigest()[:24]
    function.__qualname__ = f"{function.__name__}_{digest}"
    return njit(returns(*signature), cache=True, nogil=True)(function)  # type: ignore[no-any-return]


@kernel
def thaw_encode(a):
    """The array of ``as_array`` as an EncodeSpec."""
    return EncodeSpec(
        a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12],
        a[13], a[14], a[15], a[16], a[17], a[18], a[19], a[20], a[21],
    )  # fmt: skip


@kernel
def thaw_decode(a):
    """The array of ``as_array`` as a DecodeSpec."""
    return DecodeSpec(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12])


def frozen_spec(spec: Any, lane: Lane) -> Any:
    return None if spec is None else type(spec)(*(lane.code(field) for field in spec))


@cache
def encode_driver(plan: Plan, lane: Lane, code_dtype: np.dtype[Any], frozen: EncodeSpec | None = None) -> Driver:
    """``driver(bits, codes, spec, key, first)``: encode, element i with random word ``first + i`` of ``key``."""
    spec_constant = frozen_spec(frozen, lane)
    stochastic, step = plan.rounding == STOCHASTIC, np.uint64(GOLDEN)
    plan = Plan(*plan)

    def encode_loop(bits, codes, spec, key, first):
        fields = thaw_encode(spec)
        counter = random_counter(key, first)
        for i in range(bits.size):
            word = random_word(counter) if stochastic else np.uint64(0)
            counter = np.uint64(counter + step)
            codes[i] = encode(bits[i], word, fields, plan)

    def encode_frozen_loop(bits, codes, spec, key, first):
        counter = random_counter(key, first)
        for i in range(bits.size):
            word = random_word(counter) if stochastic else np.uint64(0)
            counter = np.uint64(counter + step)
            codes[i] = encode(bits[i], word, spec_constant, plan)

    arguments = (read_only(lane.code), writable(code_dtype), read_only(lane.code), types.uint64, types.uint64)
    return compiled(encode_loop if frozen is None else encode_frozen_loop, (plan, lane, code_dtype, frozen), *arguments)


@cache
def quantize_driver(plan: Plan, lane: Lane, frozen: tuple[EncodeSpec, DecodeSpec] | None = None) -> Driver:
    """``driver(bits, out, encode_spec, decode_spec, key, first)``: decode(encode(x)), bits to bits of one lane."""
    stochastic, step = plan.rounding == STOCHASTIC, np.uint64(GOLDEN)
    last = lane.bits - 1
    to_constant, from_constant = (None, None) if frozen is None else (frozen_spec(spec, lane) for spec in frozen)
    plan = Plan(*plan)

    def quantize_loop(bits, out, to_spec, from_spec, key, first):
        to, back = thaw_encode(to_spec), thaw_decode(from_spec)
        counter = random_counter(key, first)
        for i in range(bits.size):
            word = random_word(counter) if stochastic else np.uint64(0)
            counter = np.uint64(counter + step)
            out[i] = decode(encode(bits[i], word, to, plan), back, last)

    def quantize_frozen_loop(bits, out, to_spec, from_spec, key, first):
        counter = random_counter(key, first)
        for i in range(bits.size):
            word = random_word(counter) if stochastic else np.uint64(0)
            counter = np.uint64(counter + step)
            out[i] = decode(encode(bits[i], word, to_constant, plan), from_constant, last)

    spec = read_only(lane.code)
    arguments = (read_only(lane.code), writable(lane.code), spec, spec, types.uint64, types.uint64)
    return compiled(quantize_loop if frozen is None else quantize_frozen_loop, (plan, lane, frozen), *arguments)


@cache
def transcode_driver(
    plan: Plan,
    lane: Lane,
    source_dtype: np.dtype[Any],
    code_dtype: np.dtype[Any],
    frozen: tuple[EncodeSpec, DecodeSpec] | None = None,
) -> Driver:
    """``driver(source, codes, encode_spec, decode_spec, key, first)``: encode(decode(code)), through a lane."""
    stochastic, step, last = plan.rounding == STOCHASTIC, np.uint64(GOLDEN), lane.bits - 1
    to_constant, from_constant = (None, None) if frozen is None else (frozen_spec(spec, lane) for spec in frozen)
    plan = Plan(*plan)

    def transcode_loop(source, codes, to_spec, from_spec, key, first):
        to, back = thaw_encode(to_spec), thaw_decode(from_spec)
        counter = random_counter(key, first)
        for i in range(source.size):
            word = random_word(counter) if stochastic else np.uint64(0)
            counter = np.uint64(counter + step)
            codes[i] = encode(decode(source[i], back, last), word, to, plan)

    def transcode_frozen_loop(source, codes, to_spec, from_spec, key, first):
        counter = random_counter(key, first)
        for i in range(source.size):
            word = random_word(counter) if stochastic else np.uint64(0)
            counter = np.uint64(counter + step)
            codes[i] = encode(decode(source[i], from_constant, last), word, to_constant, plan)

    spec, facts = read_only(lane.code), (plan, lane, source_dtype, code_dtype, frozen)
    arguments = (read_only(source_dtype), writable(code_dtype), spec, spec, types.uint64, types.uint64)
    return compiled(transcode_loop if frozen is None else transcode_frozen_loop, facts, *arguments)


@cache
def decode_driver(lane: Lane, code_dtype: np.dtype[Any], frozen: DecodeSpec | None = None) -> Driver:
    """``driver(codes, bits, spec)``: decode."""
    spec_constant, last = frozen_spec(frozen, lane), lane.bits - 1

    def decode_loop(codes, bits, spec):
        fields = thaw_decode(spec)
        for i in range(codes.size):
            bits[i] = decode(codes[i], fields, last)

    def decode_frozen_loop(codes, bits, spec):
        for i in range(codes.size):
            bits[i] = decode(codes[i], spec_constant, last)

    arguments = (read_only(code_dtype), writable(lane.code), read_only(lane.code))
    return compiled(decode_loop if frozen is None else decode_frozen_loop, (lane, code_dtype, frozen), *arguments)


@cache
def table_driver(lane: Lane, code_dtype: np.dtype[Any]) -> Driver:
    """``driver(codes, bits, table)``: look codes up."""

    def table_loop(codes, bits, table):
        for i in range(codes.size):
            bits[i] = table[codes[i]]

    return compiled(table_loop, (lane, code_dtype), read_only(code_dtype), writable(lane.code), read_only(lane.code))


@cache
def largest_magnitude_driver(lane: Lane) -> Callable[..., int]:
    """``driver(bits)``: the largest magnitude bits, 0 for none; above those of infinity there is a NaN."""
    U, mask = lane.code, lane.code((1 << (lane.bits - 1)) - 1)

    def largest_magnitude_loop(bits):
        largest = U(0)
        for i in range(bits.size):
            largest = max(largest, U(bits[i] & mask))
        return largest

    return compiled(largest_magnitude_loop, lane, read_only(U), returns=TYPES[np.dtype(U)])
