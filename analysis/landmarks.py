"""Where formats lie on the axis of exponents, from exact integers: float64 need not hold the values themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fpemu.formats import FloatFormat, as_format


@dataclass(frozen=True)
class Window:
    """Where a format lives, in exponents of two: smallest positive value, smallest normal, largest finite."""

    smallest: float
    normal: float
    largest: float


def log2_of(format: FloatFormat, code: int) -> float:
    """log2 of a positive magnitude code's value."""
    significand, exponent = format.scientific(code)
    return math.log2(significand) + exponent


def window(format: FloatFormat | str) -> Window:
    """The landmarks of a format, whichever its size."""
    f = as_format(format)
    return Window(log2_of(f, f.smallest_code), log2_of(f, f.smallest_normal_code), log2_of(f, f.max_code))
