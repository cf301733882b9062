"""Elements so far below their block's scale that float64 cannot hold the quotient: they are not zero to any rounding."""

from __future__ import annotations

import numpy as np
import pytest

from fpemu.scaling import mx

LARGE, LEAST = 2.0**100, 5e-324  # under the scale of the first, 2**92 in E4M3, the second is 2**-1166

# codes of the second and of its negative: the smallest subnormal, or a zero that keeps its sign
CODES = {
    "up": (0x01, 0x80),
    "down": (0x00, 0x81),
    "to-odd": (0x01, 0x81),
    "toward-zero": (0x00, 0x80),
    "nearest-even": (0x00, 0x80),
    "nearest-away": (0x00, 0x80),
}


@pytest.mark.parametrize("rounding", CODES)
@pytest.mark.parametrize("small", [LEAST, 3e-310, 2.0**-1022, 1e-300])
def test_mx(rounding: str, small: float) -> None:
    result = mx(np.array([LARGE, small, -small, 0.0, -0.0]), "e4m3", block=5, rounding=rounding)
    assert result.codes.tolist() == [0x78, *CODES[rounding], 0x00, 0x80]
