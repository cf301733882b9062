"""Where inputs lie on the number line of a target, for whole arrays: the ladder of ``fpemu.reference`` in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fpemu import reference
from fpemu.formats import FloatFormat

Array = NDArray[Any]
Mask = NDArray[np.bool_]

#: Where an input lies; "tie" is what lies in the middle of a gap, "negative" a finite number below an unsigned format.
REGIONS = ("NaN", "infinity", "zero", "negative", "overflow", "tie", "subnormal", "normal")


@dataclass(frozen=True)
class Places:
    """Of each input the gap of the ladder in which its magnitude lies.

    Attributes
    ----------
    x: the inputs, float64. inner, outer: the ends of the gap; the ladder goes on above the largest finite value.
    position: how far up the gap, 0 to below 1, exact; NaN where x is no finite number.
    exponent: of the last place, log2 of the gap.
    """

    format: FloatFormat
    x: Array
    inner: Array
    outer: Array
    position: Array
    exponent: Array

    @classmethod
    def of(cls, x: Array, format: FloatFormat) -> Places:
        """Of float64 values."""
        with np.errstate(all="ignore"):
            magnitude = np.abs(x)
            emin = reference.smallest_normal_exponent(format)
            exponent = (
                np.where(magnitude == 0, emin, np.maximum(np.frexp(magnitude)[1] - 1, emin)) - format.trailing_bits
            )
            steps = np.floor(scaled := np.ldexp(magnitude, -exponent))
            inner, outer = np.ldexp(steps, exponent), np.ldexp(steps + 1, exponent)
            return cls(format, x, inner, outer, np.where(np.isfinite(x), scaled - steps, np.nan), exponent)

    @property
    def magnitude(self) -> Array:
        return np.abs(self.x)

    def regions(self) -> Array:
        """An index into REGIONS for each input."""
        name = {region: index for index, region in enumerate(REGIONS)}
        with np.errstate(invalid="ignore"):
            negative = np.signbit(self.x) & (not self.format.signed) & (self.x != 0)
            conditions = [
                np.isnan(self.x), np.isinf(self.x), self.x == 0, negative, self.magnitude > self.format.max,
                self.position == 0.5, self.magnitude < self.format.smallest_normal,
            ]  # fmt: skip
        return np.select(conditions, list(range(len(conditions))), name["normal"])

    def chopped(self, bits: int, *, relative: bool) -> Array:
        """The inputs without the discarded bits after so many: of the gap, or (``relative``) of a normalized significand."""
        with np.errstate(all="ignore"):
            exponent = self.exponent
            if relative:
                exponent = np.frexp(self.magnitude)[1] - 1 - self.format.trailing_bits
            unit = exponent - bits
            kept = np.copysign(np.ldexp(np.floor(np.ldexp(self.magnitude, -unit)), unit), self.x)
        return np.where(np.isfinite(self.x), kept, self.x)
