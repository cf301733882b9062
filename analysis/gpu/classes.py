"""Classes of inputs, by what a conversion has to do with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import fpemu
from analysis.gpu.inputs import Codes
from fpemu.formats import FloatFormat

# The first that fits counts: a tie is a tie wherever it lies below overflow.
CLASSES = ("NaN", "infinite", "zero", "overflow", "tie", "subnormal result", "normal")
MEANING = {
    "NaN": "a NaN of any payload",
    "infinite": "an infinity",
    "zero": "+0 or -0",
    "overflow": "finite, larger than the largest finite value of the target",
    "tie": "half way between two neighbours of the target",
    "subnormal result": "smaller than the smallest normal value of the target",
    "normal": "everything else",
}


def classify(inputs: Codes, source: FloatFormat, target: FloatFormat) -> NDArray[np.uint8]:
    """The class of each bit pattern of ``source``, as its place in CLASSES."""
    x = np.abs(fpemu.decode(inputs, source, dtype=np.float64))
    with np.errstate(invalid="ignore"):  # NaN and infinities are classed before what is wrong of them
        below = _rounded(x, target, "down")
        above = _rounded(x, target, "up")
        tests = (np.isnan(x), np.isinf(x), x == 0, x > target.max, (below < x) & (x - below == above - x))
        small = x < target.smallest_normal
    return np.select([*tests, small], range(len(CLASSES) - 1), len(CLASSES) - 1).astype(np.uint8)


def _rounded(x: NDArray[Any], target: FloatFormat, rounding: str) -> NDArray[Any]:
    """Magnitudes on the target's grid, in float64, which holds differences of neighbours of x exactly."""
    return fpemu.quantize(x, target, rounding=rounding, overflow="saturate", nan="canonical")
