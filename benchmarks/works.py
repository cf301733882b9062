"""WORKS: what is measured, as data; and the inputs it is measured on.

A work reads one array and writes another.  Inputs are drawn from a standard normal distribution with a fixed seed:
normal and subnormal results of every format, few overflows.  Codes to decode are those of the same values.  An
operation reads its operands as the rows of one array, a matrix product its two matrices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

import fpemu as fp
from fpemu import ENGINES, Cast, Engine, FloatFormat, Rounding

Array = np.ndarray[Any, Any]

MAIN = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
BITS = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}
ELEM, MAC = "elem", "MAC"  # what a work is counted in: elements, multiply-adds
MX_BLOCK = 32  # elements that share a scale
ARITY = {"add": 2, "multiply": 2, "divide": 2, "sqrt": 1, "fma": 3}  # operands of fpemu.arithmetic's operations
LOW_HALVES = (0, 1, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF)


@dataclass(frozen=True)
class Work:
    """One thing to do to a large array."""

    group: str  #: names its targets, and its table
    kind: str  #: encode, quantize, decode, blocks, stats, histogram, arithmetic or matmul: names its contenders
    casts: tuple[Cast, ...] = ()
    dtype: str = "float32"  #: of the values, read or (decode) written
    strided: bool = False  #: reads every second element of an array
    operation: str = ""  #: of arithmetic: a key of ARITY
    engine_name: str = ""  #: of matmul: a key of ENGINES

    @property
    def cast(self) -> Cast:
        """The cast of works that have one."""
        return self.casts[0]

    @property
    def engine(self) -> Engine:
        """The engine of a matrix product."""
        return ENGINES[self.engine_name]

    @property
    def unit(self) -> str:
        """What it is counted in."""
        return MAC if self.kind == "matmul" else ELEM

    @property
    def takes_values(self) -> bool:
        """Whether the input is one array of values or codes to convert."""
        return self.kind not in ("arithmetic", "matmul")

    def units(self, x: Array) -> int:
        """How many elements, or multiply-adds, an input stands for."""
        if self.kind == "matmul":
            return int(x.shape[-1]) ** 3
        return int(x.shape[-1])

    def part(self, x: Array, units: int) -> Array:
        """The beginning of an input: so many units, or no more than that of matrices (sides: powers of two)."""
        if self.kind == "matmul":
            side = 1 << (units.bit_length() - 1) // 3
            return x[:, :side, :side]
        return x[..., :units]

    @property
    def name(self) -> str:
        """Unique among WORKS."""
        source = self.dtype + "[::2]" * self.strided
        if self.kind == "decode":
            return f"decode {self.cast.format.name} -> {self.dtype}"
        if self.kind in ("encode", "quantize"):
            rounding = "" if self.cast.rounding is Rounding.NEAREST_EVEN else f", {self.cast.rounding.value}"
            return f"{self.kind} {source} -> {self.cast.format.name}{rounding}"
        if self.kind == "arithmetic":
            return f"{self.operation} {self.cast.format.name}"
        if self.kind == "matmul":
            return f"matmul {self.engine_name}"
        if self.kind == "blocks":
            return f"scaling.mx {source} -> {self.cast.format.name}, blocks of {MX_BLOCK}"
        if self.kind == "stats":
            return f"tensor_stats {source}, {len(self.casts)} formats"
        return f"exponent_histogram {source}"

    @property
    def reads(self) -> np.dtype[Any]:
        """The dtype of the input."""
        if self.kind == "matmul":
            return self.engine.a.code_dtype
        return self.cast.format.code_dtype if self.kind in ("decode", "arithmetic") else np.dtype(self.dtype)

    @property
    def writes(self) -> np.dtype[Any] | None:
        """The dtype of the output; None where only a few numbers come out."""
        if self.kind == "matmul":
            return self.engine.accumulator.code_dtype
        if self.kind in ("encode", "blocks", "arithmetic"):
            return self.cast.format.code_dtype
        return np.dtype(self.dtype) if self.kind in ("quantize", "decode") else None


def _works(group: str, kind: str, formats: tuple[str, ...], dtype: str = "float32", **more: Any) -> tuple[Work, ...]:
    return tuple(Work(group, kind, (Cast(name),), dtype, **more) for name in formats)


def _by_width(bits: int) -> tuple[str, ...]:
    return tuple(name for name in MAIN if fp.FORMATS[name].bits == bits)


SOME_P3109 = ("binary8p3se", "binary8p4se", "binary12p6se", "binary16p8se")
NAMED = tuple(name for name, format in fp.FORMATS.items() if format.bits <= 16 and not name.startswith("binary"))
OTHER_FORMATS = (*(name for name in NAMED if name not in MAIN), *SOME_P3109)
OTHER_ROUNDINGS = tuple(one for one in Rounding if one not in (Rounding.NEAREST_EVEN, Rounding.STOCHASTIC))

TENSOR_CORES = (
    "volta.mma.fp16.fp32",
    "ampere.mma.fp16.fp32",
    "hopper.wgmma.fp16.fp32",
    "hopper.wgmma.fp16.fp16",
    "hopper.wgmma.bf16.fp32",
    "hopper.wgmma.tf32.fp32",
    "hopper.wgmma.e4m3.fp32",
    "hopper.mma.e4m3.fp32",
    "b200.tcgen05.e4m3.fp32",
    "b200.tcgen05.e4m3.mxf8f6f4.fp32",
    "b200.tcgen05.e2m1.nvf4.fp32",
)
CHAINS_16 = (
    "sequential.fma.float16.float16",
    "sequential.mul-add.float16.float16",
    "sequential.fma.bfloat16.bfloat16",
    "sequential.mul-add.bfloat16.bfloat16",
)
CHAINS_32 = ("sequential.fma.float32.float32",)

WORKS: tuple[Work, ...] = (
    *_works("encode to 16 bits", "encode", _by_width(16)),
    *_works("encode to 8 bits", "encode", _by_width(8)),
    *_works("quantize to 16 bits", "quantize", _by_width(16)),
    *_works("quantize to 8 bits", "quantize", _by_width(8)),
    *_works("decode", "decode", MAIN),
    *_works("other formats", "encode", OTHER_FORMATS),
    *(Work("other roundings", "encode", (Cast("e4m3", rounding=one),)) for one in OTHER_ROUNDINGS),
    Work("stochastic rounding", "encode", (Cast("e4m3", rounding=Rounding.STOCHASTIC),)),
    *_works("float64 input", "encode", MAIN, "float64"),
    *_works("float16 input", "encode", _by_width(8), "float16"),
    *_works("strided input", "encode", ("float8_e4m3fn",), strided=True),
    *_works("MX blocks", "blocks", ("float8_e4m3fn", "float4_e2m1fn")),
    Work("tensor_stats", "stats", tuple(Cast(name) for name in MAIN)),
    Work("exponent_histogram", "histogram"),
    *(Work("arithmetic", "arithmetic", (Cast("float16"),), operation=name) for name in ARITY),
    *(Work("matmul on tensor cores", "matmul", engine_name=name) for name in TENSOR_CORES),
    *(Work("matmul in 16 bits", "matmul", engine_name=name) for name in CHAINS_16),
    *(Work("matmul in 32 bits", "matmul", engine_name=name) for name in CHAINS_32),
)


# ---- inputs ----------------------------------------------------------------------------------------------------------
@dataclass
class Inputs:
    """Arrays of ``size`` elements for any work, each drawn once."""

    size: int
    seed: int = 0
    _doubles: Array | None = field(default=None, repr=False)

    @cached_property
    def floats(self) -> Array:
        """float32."""
        return np.random.default_rng(self.seed).standard_normal(self.size, np.float32)

    def _codes(self, format: FloatFormat, shape: tuple[int, ...]) -> Array:
        values = np.random.default_rng(self.seed).standard_normal(shape, np.float32)
        return np.asarray(fp.encode(values, format))

    def of(self, work: Work) -> Array:
        """The input of a work: values, or codes; of operations a quarter as many, of products 512 x 512 for 64 Mi."""
        if work.kind == "arithmetic":
            return self._codes(work.cast.format, (ARITY[work.operation], self.size // 4))
        if work.kind == "matmul":
            side = 1 << self.size.bit_length() // 3
            return self._codes(work.engine.a, (2, side, side))
        if work.kind == "decode":
            return np.asarray(fp.encode(self.floats, work.cast))
        if work.dtype == "float64":  # drawn, not widened: float64 inputs have bits that float32 has not
            if self._doubles is None:
                self._doubles = np.random.default_rng(self.seed).standard_normal(self.size)
            values = self._doubles
        else:
            self._doubles = None  # large, and wanted by works that follow each other
            values = self.floats if work.dtype == "float32" else self.floats.astype(work.dtype)
        return values[::2] if work.strided else values


def _random_codes(work: Work) -> Array:
    """Any codes for operations; for products values of all magnitudes, in rows of their own, and few specials."""
    rng = np.random.default_rng(2)
    if work.kind == "arithmetic":
        return rng.integers(0, 1 << work.cast.format.bits, (ARITY[work.operation], 1 << 18)).astype(work.reads)
    format, side = work.engine.a, 64
    one, width = format.bias << format.trailing_bits, 1 << format.trailing_bits
    reach = rng.integers(0, format.exponent_bits, (2, side, 1))  # binades around one, as a power of two
    low, high = (np.clip(one + sign * (width << reach), 0, format.max_code) for sign in (-1, 1))
    codes = rng.integers(low, high + 1, (2, side, side)) | rng.integers(0, 2, (2, side, side)) * format.sign_mask
    ends = (0, format.sign_mask, 1, format.max_code, format.infinity_code, format.nan_code)
    for i, code in enumerate(code for code in ends if code is not None):
        codes[0, i, i] = codes[1, side // 2 + i, side - 1 - i] = code  # each in one row, and in one column
    return codes.astype(work.reads)


def scales(work: Work, x: Array) -> tuple[Array, Array] | None:
    """Block scales for the matrices of a product, where its engine has them: codes of values around one."""
    scaling = work.engine.scaling
    if scaling is None:
        return None
    side = x.shape[-1]
    one = scaling.format.bias << scaling.format.trailing_bits
    drawn = np.random.default_rng(1).integers(one - 2, one + 3, (2, side, -(-side // scaling.block)))
    codes = drawn.astype(scaling.format.code_dtype)
    return codes[0], codes[1].T


def edges(work: Work) -> Array:
    """Where conversions go wrong: what contenders are compared on before anything is timed.

    For operations and products, codes drawn at random: some values of every magnitude, infinities and NaN among them.
    All codes; all float16; float32 with every upper half and lower halves around the ties; the same as float64, with
    the float64 neighbours on both sides.  NaN is left out where the format has none.  For statistics, some values.
    """
    if not work.takes_values:
        return _random_codes(work)
    if work.writes is None:
        return Inputs(1 << 16).of(work)
    if work.kind == "decode":
        return np.arange(1 << work.cast.format.bits).astype(work.reads)
    if work.dtype == "float16":
        values: Array = np.arange(1 << 16).astype(np.uint16).view(np.float16)
    else:
        high = np.arange(1 << 16, dtype=np.uint32) << 16
        values = (high[:, None] | np.array(LOW_HALVES, np.uint32)).reshape(-1).view(np.float32)
    if not work.cast.format.has_nan:
        values = values[~np.isnan(values)]
    if work.dtype == "float64":
        with np.errstate(all="ignore"):
            exact = values.astype(np.float64)
            values = np.concatenate([exact, np.nextafter(exact, np.inf), np.nextafter(exact, -np.inf)])
    return np.repeat(values, 2)[::2] if work.strided else values
