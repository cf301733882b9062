"""A stand-in for a GPU, for tests alone: it makes the codes of every part with NumPy, ml_dtypes, gfloat and integers.

What it records says that no GPU took part.  Only fpemu's own parts come from fpemu.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from implementations import TABLE

import fpemu as fp
from analysis.gpu.inputs import Codes, Coverage, patterns
from analysis.gpu.part import Unavailable
from analysis.gpu.parts import FPEMU, PTX, TORCH, Conversion
from analysis.gpu.speed import Timing, timing

# A few chunks from every region: zero and subnormals, subnormal results, around 1 with ties, the overflows of E4M3, E5M2,
# FP16 and BF16, infinity and NaNs; in both signs.
_POSITIVE = (0x0000, 0x0001, 0x3380, 0x3381, 0x3798, 0x3B90, 0x3F80, 0x3F81, 0x3F88, 0x3F90, 0x43E0, 0x43E8)
_LARGE = (0x4760, 0x4770, 0x477F, 0x4780, 0x7F7F, 0x7F80, 0x7F81)
_NEGATIVE = (0x8000, 0xB391, 0xBF81, 0xC3E8, 0xFF7F, 0xFF80, 0xFFFF)
SOME = Coverage(tuple((chunk, chunk + 1) for chunk in (*_POSITIVE, *_LARGE, *_NEGATIVE)))
LARGEST = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}
Fault = Callable[[Codes, Codes], Codes]


class StandIn:
    """A Device without a GPU. ``faults``: by name of a part, what is done to its codes; ``missing``: what is Unavailable."""

    block_chunks = 8

    def __init__(
        self, faults: dict[str, Fault] | None = None, missing: tuple[str, ...] = (), gpu: bool = False
    ) -> None:
        self.faults, self.missing, self.gpu = faults or {}, missing, gpu
        self.asked: list[str] = []

    def facts(self) -> dict[str, Any]:
        return {"is_gpu": self.gpu, "name": "CPU stand-in (no GPU)"}

    def software(self) -> dict[str, str]:
        return {"numpy": np.__version__, "ml_dtypes": ml_dtypes.__version__, "torch": "2.11.0+cu130"}

    def detail(self, part: Conversion) -> dict[str, Any]:
        return {}

    def timings(self) -> list[Timing]:
        return [timing("float16", "device copy", 4, 24, [1e-9, 3e-9, 2e-9], 2e-9)]

    def codes(self, part: Conversion, first: int, stop: int) -> Codes:
        self.asked.append(part.name)
        if part.name in self.missing:
            raise Unavailable("not here")
        inputs = patterns(part.source, np.arange(first, stop))
        with np.errstate(all="ignore"):
            codes = MAKERS[part.stack](part, inputs)
        assert codes.dtype == part.holder.code_dtype
        return self.faults.get(part.name, lambda inputs, codes: codes)(inputs, codes)


def as_float32(inputs: Codes, part: Conversion) -> np.ndarray[Any, Any]:
    dtype = np.dtype(getattr(ml_dtypes, part.source.name, part.source.name))
    return inputs.view(dtype).astype(np.float32)


def hardware(part: Conversion, inputs: Codes) -> Codes:
    """What tensor-core hardware is documented to do."""
    words = part.how.split(".")
    if part.target.name == "tfloat32":
        return tf32(inputs, words)
    if part.target.name == "float32":
        return widened(part, inputs)
    x = as_float32(inputs, part)
    saturates, mode = "satfinite" in words, words[1]
    if mode in ("rz", "rm", "rp"):
        rounding = {"rz": "toward-zero", "rm": "down", "rp": "up"}[mode]
        codes = TABLE["gfloat"](x, fp.Cast(part.target, rounding))
    else:
        limit = LARGEST.get(part.target.name)
        dtype = getattr(ml_dtypes, part.target.name, np.float16)
        codes = (np.clip(x, -limit, limit) if limit and saturates else x).astype(dtype).view(part.target.code_dtype)
    unsigned = codes & codes.dtype.type(part.target.magnitude_mask)
    if saturates and part.target.infinity_code is not None:  # the code below infinity
        codes = np.where(unsigned == part.target.infinity_code, codes - codes.dtype.type(1), codes)
    return np.where(np.isnan(x), codes.dtype.type(part.target.magnitude_mask), codes)


def tf32(bits: Codes, words: list[str]) -> Codes:
    """The machine code that ``cvt.rna`` becomes on compute capability 9.0; ``rn`` and ``rz`` as documented."""
    mask = np.uint32(0xFFFFE000)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    finite, nan = magnitude < 0x7F800000, magnitude > 0x7F800000
    if words[1] == "rna":
        out = np.where(finite, bits + np.uint32(0x1000), bits) & mask
        if "satfinite" in words:
            out = np.where((out & np.uint32(0x7FFFFFFF)) >= 0x7F800000, out - np.uint32(0x2000), out)
        return out
    odd = bits >> np.uint32(13) & np.uint32(1)
    near = np.where(finite, bits + np.uint32(0xFFF) + odd, bits) if words[1] == "rn" else bits
    return np.where(nan, np.uint32(0x7FFFE000), near & mask)


def widened(part: Conversion, inputs: Codes) -> Codes:
    if part.source.name == "bfloat16":
        return inputs.astype(np.uint32) << np.uint32(16)
    x = as_float32(inputs, part)
    return np.where(np.isnan(x), np.uint32(0x7FFFFFFF), x.view(np.uint32))


def torch(part: Conversion, inputs: Codes) -> Codes:
    """PyTorch up to 2.12 on a GPU."""
    x = as_float32(inputs, part)
    codes = x.astype(getattr(ml_dtypes, part.target.name, np.float16)).view(part.target.code_dtype)
    ones = codes.dtype.type(part.target.magnitude_mask)
    sign = codes.dtype.type(part.target.sign_mask) if part.target.bits == 8 else codes.dtype.type(0)
    return np.where(np.isnan(x), (codes & sign) | ones, codes)


def ours(part: Conversion, inputs: Codes) -> Codes:
    codes = fp.cast(inputs, source=part.source, target=part.target)
    return codes if part.holder == part.target else codes.astype(np.uint32) << np.uint32(13)


MAKERS = {PTX: hardware, TORCH: torch, FPEMU: ours}
