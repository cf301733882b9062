"""MX blocks of NumPy arrays by the loops: which arrays they take, and the blocks that they leave."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fpemu.kernels.spec import LANE32, EncodeSpec, Plan, encode_plan, encode_spec, fits_lane
from fpemu.policies import Cast, Rounding
from fpemu.targets.cpu_scaling import LATER, block_driver, recount_driver
from fpemu.targets.threads import run_parts

Array = np.ndarray[Any, Any]
BLOCKS = (16, 32, 64, 128, 256)  # whole registers
CHUNK = 1 << 18  # elements of a chunk between the two loops
FROM = 1 << 12  # elements from which a compiled loop is worth it


class Quantised(NamedTuple):
    """Codes, scales and flags of blocks, flat; ``later``: the blocks that the loops have left."""

    codes: Array
    scales: Array
    fates: Array
    later: Array


def takes(x: Array, cast: Cast, block: int, last: bool) -> bool:
    """Whether the loops serve: float32, whole blocks one after another, rounding to nearest even, a format that reaches 2."""
    return (
        x.dtype == np.float32 and x.size >= FROM and last and block in BLOCKS and x.shape[-1] % block == 0
        and cast.rounding is Rounding.NEAREST_EVEN and cast.format.emax >= 1 and fits_lane(cast, LANE32)
        and encode_plan(cast, LANE32).fixed_shift != 0
    )  # fmt: skip


def quantise(x: Array, cast: Cast, block: int, raised: int, lower: int, out: Array | None = None) -> Quantised:
    """Blocks of a float32 array; ``out``: a contiguous array for the codes."""
    bits = np.ascontiguousarray(x).reshape(-1).view(np.uint32)
    plan: Plan = encode_plan(cast, LANE32)
    spec: EncodeSpec = encode_spec(cast, LANE32, LANE32.emin)
    least, most = (
        int(np.float32(value).view(np.uint32)) for value in (cast.format.smallest_subnormal / 2, cast.format.max)
    )
    driver = block_driver(plan, spec, block, cast.format.code_dtype)
    # An input below 2**-126 is below 2**(1 - code) once scaled: zero, if that is at most half of the smallest value.
    lowest = max(3 - int(np.frexp(cast.format.smallest_subnormal)[1]), 0)
    numbers = np.array([raised, lower, least, most, lowest], np.uint32)
    codes = np.empty(bits.size, cast.format.code_dtype) if out is None else out.reshape(-1)
    scales, fates = np.zeros(bits.size // block, np.uint8), np.empty(bits.size // block, np.uint8)

    recount = recount_driver(block, codes.dtype)

    def part(first: int, stop: int) -> None:
        for start in range(first, stop, CHUNK // block):
            end = min(start + CHUNK // block, stop)
            some, flags = slice(start * block, end * block), fates[start:end]
            driver(bits[some], codes[some], scales[start:end], flags, numbers)
            recount(bits[some], codes[some], flags)  # while they are in the cache

    run_parts(part, len(scales), 64, bits.size)
    return Quantised(codes, scales, fates, np.flatnonzero(fates == LATER))
