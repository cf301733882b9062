"""Probes: dot products whose result tells two kinds of hardware apart, with the bits predicted for Hopper.

Until a recording confirms them the bits are predictions, of the model that fits all public vectors.  A probe is a few
products in neighbouring lanes, the others being +0 times +0; it is tried with its first product in every lane (which
then goes round the end), or fills all lanes alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import fpemu
from analysis.gpu.inputs import Codes
from analysis.gpu.multiply import ACCUMULATORS, MMA, OPERANDS, WGMMA, Product
from fpemu.formats import FORMATS, FloatFormat

Factor = float | int  # a value, which must be exact, or (an int) a code

INFINITY, MINUS_ZERO = float("inf"), -0.0
NAN = {"fp32": 0x7FFFFFFF, "fp16": 0x7FFF}
WIDE = ("fp16", "bf16", "tf32")


@dataclass(frozen=True)
class Probe:
    """One dot product.

    Attributes
    ----------
    name: ``P7 k=10``; what comes before the blank is the group. question: what it tells.
    types: of the operands, which engines it is for; accumulator; families: of instructions.
    products: factors in neighbouring lanes. c, predicted: codes of the accumulator.
    otherwise: what other hardware would give, in words.
    everywhere: whether the first product fills all lanes. k: of the only instructions it is for; None: of any.
    """

    name: str
    question: str
    types: tuple[str, ...]
    accumulator: str
    products: tuple[tuple[Factor, Factor], ...]
    c: int
    predicted: int
    otherwise: str
    families: tuple[str, ...] = (MMA, WGMMA)
    everywhere: bool = False
    k: int | None = None

    @property
    def group(self) -> str:
        """``P7``."""
        return self.name.partition(" ")[0]

    def fits(self, product: Product) -> bool:
        """Whether the probe is for an instruction."""
        return (
            product.family in self.families
            and product.a == product.b
            and product.a in self.types
            and product.accumulator == self.accumulator
            and self.k in (None, product.k)
        )

    def lanes(self, k: int) -> range:
        """The lanes that the first product is tried in."""
        return range(1 if self.everywhere else k)

    def operands(self, format: FloatFormat, k: int, lane: int) -> tuple[Codes, Codes]:
        """The codes of a row of A and a column of B, with the first product in a lane."""
        a, b = np.zeros(k, format.code_dtype), np.zeros(k, format.code_dtype)
        for number, (x, y) in enumerate(self.products):
            place = slice(None) if self.everywhere else (lane + number) % k
            a[place], b[place] = code_of(x, format), code_of(y, format)
        return a, b


def code_of(factor: Factor, format: FloatFormat) -> int:
    """The code of a factor.  ValueError where a value is not exactly one of the format's."""
    if isinstance(factor, int):
        return factor
    code = fpemu.encode(np.float64(factor), format)
    if not fpemu.decode(code, format, dtype=np.float64) == factor:
        raise ValueError(f"{factor!r} is no value of {format.name}")
    return int(code)


def _power(exponent: int) -> float:
    return 2.0**exponent


ONE, LARGEST, C_LARGEST = 1.0, 65504.0, FORMATS["fp32"].max_code
_TRUNCATES = "how many bits below the largest exponent are kept"
PROBES = (
    Probe("P1", _TRUNCATES, WIDE, "fp32", ((ONE, ONE), (_power(-12), _power(-13)), (-ONE, ONE)), 0, 0x33000000,
          "24 bits would give 0"),
    Probe("P2", "whether products are normalised before they are aligned", WIDE, "fp32",
          ((1.5, 1.5), (_power(-12), _power(-13)), (-1.5, 1.5)), 0, 0x33000000, "normalised products would give 0"),
    Probe("P3", _TRUNCATES, WIDE, "fp32", ((ONE, ONE), (_power(-13), _power(-13)), (-ONE, ONE)), 0, 0,
          "26 bits would give 2^-26"),
    Probe("P4", "whether truncation is toward zero", WIDE, "fp32",
          ((ONE, ONE), (-_power(-13), _power(-13)), (-ONE, ONE)), 0, 0, "toward minus infinity would give -2^-25"),
    Probe("P5 2^104", "what overflows", ("bf16",), "fp32", ((_power(52), _power(52)),), C_LARGEST, 0x7F800000,
          "saturation would give the largest value"),
    Probe("P5 2^103", "what overflows", ("bf16",), "fp32", ((_power(52), _power(51)),), C_LARGEST, 0x7F7FFFFF,
          "rounding to nearest would give infinity"),
    Probe("P6", "whether products may overflow and cancel", ("bf16",), "fp32",
          ((_power(127), _power(127)), (-_power(127), _power(127))), 0x3F800000, 0,
          "overflowing products would give NaN, C added late 1"),
    *(
        Probe(f"P7 k={k}", "the least exponent to align to", ("bf16",), "fp32",
              ((_power(-23), _power(-126)), (-_power(-23 - k), _power(-126))), 0, int(k >= 10),
              "another limit would move the step between k = 9 and 10")
        for k in range(1, 13)
    ),
    *(
        Probe(f"P8 n={n}", "the least exponent to align to, of FP16 results", ("fp16",), "fp16",
              ((_power(-11), _power(-14)), (_power(24 - n), _power(-24))), 0, int(n == 46),
              "a limit of -133 would give 1 for all, one of -22 for 47 too")
        for n in (46, 47, 48)
    ),
    Probe("P9 tiny", "the sign of a result that vanishes", ("bf16",), "fp32", ((-_power(-24), _power(-126)),), 0, 0,
          "a kept sign would give -0"),
    *(
        Probe("P9 zeros", "the sign of a sum of zeros", types, accumulator, ((MINUS_ZERO, ONE),), minus_zero, 0,
              "IEEE 754 would give -0", everywhere=True)
        for types, accumulator, minus_zero in (
            ((*WIDE, "e4m3", "e5m2"), "fp32", 0x80000000), (("fp16", "e4m3", "e5m2"), "fp16", 0x8000),
        )
    ),
    Probe("P10 low", "whether the low 13 bits of TF32 can make a NaN", ("tf32",), "fp32", ((0x7F800001, ONE),), 0,
          0x7F800000, "23 bits looked at would give NaN"),
    Probe("P10 high", "the code of a NaN", ("tf32",), "fp32", ((0x7F802000, ONE),), 0, NAN["fp32"],
          "a kept payload would show"),
    *(
        Probe(name, "what is invalid, and the code of a NaN", types, accumulator, products, 0, NAN[accumulator],
              "the default NaN of IEEE 754 machines has a payload of its leading bit alone")
        for name, products in (
            ("P11 product", ((INFINITY, 0.0),)),
            ("P11 sum", ((INFINITY, ONE), (-INFINITY, ONE))),
        )
        for types, accumulator in ((WIDE, "fp32"), (("fp16",), "fp16"))
    ),
    Probe("P12", "how many bits of C survive", ("e4m3", "e5m2"), "fp32", ((0.0, 0.0),), 0x3F8003FF, 0x3F800000,
          "a full float32 accumulator would keep them", (WGMMA,)),
    Probe("P12", "how many bits of C survive", ("e4m3", "e5m2"), "fp32", ((0.0, 0.0),), 0x3F8003FF, 0x3F8003FF,
          "the native instruction would cut them off", (MMA,)),
    *(
        Probe(f"P13 c={c}", "where a sum gets stuck", ("e4m3", "e5m2"), "fp32", ((_power(-4), _power(-4)),),
              int(np.float32(c).view(np.uint32)), predicted, "float32 would give c + 0.125", families, True)
        for c, predicted, families in (
            (32, 0x42008000, (MMA, WGMMA)), (64, 0x42800000, (WGMMA,)), (64, 0x42804000, (MMA,)),
        )
    ),
    Probe("P14 16", "what overflows FP16", ("fp16",), "fp16", ((4.0, 4.0),), 0x7BFF, 0x7C00,
          "saturation would give 65504"),
    Probe("P14 15.99", "what overflows FP16", ("fp16",), "fp16", ((15.9921875, ONE),), 0x7BFF, 0x7BFF,
          "rounding up would give infinity"),
    Probe("P15", "whether the sum of a block is exact", ("fp16",), "fp32", ((LARGEST, LARGEST),), 0, 0x517FC004,
          "rounding to float32 after each product could give less", everywhere=True, k=16),
)  # fmt: skip


def probes_of(product: Product) -> list[Probe]:
    """The probes for an instruction that takes whole blocks."""
    return [probe for probe in PROBES if probe.fits(product)]


@dataclass(frozen=True)
class Trial:
    """A probe with its first product in a lane."""

    probe: Probe
    lane: int


def trials_of(product: Product) -> list[Trial]:
    """All trials of an instruction, in their order."""
    return [Trial(probe, lane) for probe in probes_of(product) for lane in probe.lanes(product.k)]


def cases(product: Product) -> Iterator[tuple[Trial, Codes, Codes]]:
    """Each trial with the codes of its row of A and column of B."""
    assert product.accumulator in ACCUMULATORS
    format = OPERANDS[product.a]
    for trial in trials_of(product):
        yield trial, *trial.probe.operands(format, product.k, trial.lane)
