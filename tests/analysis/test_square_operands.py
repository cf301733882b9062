"""Do products take the scales of square blocks row by row, and column by column, whichever side they are on?"""

from __future__ import annotations

import numpy as np
import pytest

from analysis.training.numerics import FORWARD, Numerics
from analysis.training.recipes import RECIPES, Operand
from fpemu import scaling

SQUARE = Operand("e2m1", scaling="nvfp4", block=(16, 16))
ROWS = Operand("e2m1", scaling="nvfp4", block=(1, 16))


@pytest.mark.parametrize(("activation", "weight"), [(SQUARE, ROWS), (ROWS, SQUARE), (SQUARE, SQUARE)])
def test_nvfp4(activation: Operand, weight: Operand) -> None:
    """The product of what the operands stand for. Blocks differ by powers of two: a misplaced scale is wrong by a factor."""
    rng = np.random.default_rng(5)
    rows, columns = 2.0 ** rng.integers(-3, 4, (4, 2)), 2.0 ** rng.integers(-3, 4, (2, 3))
    a = np.kron(rows, np.ones((16, 16))).astype(np.float32) * rng.choice([-1, 1], (64, 32)).astype(np.float32)
    b = np.kron(columns, np.ones((16, 16))).astype(np.float32) * rng.choice([-1, 1], (32, 48)).astype(np.float32)
    assert np.unique(rows).size > 2 and np.unique(columns).size > 2
    recipe = RECIPES["nvfp4"].but(activation=activation, weight=weight, hadamard=0)
    got = Numerics(recipe).product(FORWARD, "fc1", a, b)
    x = scaling.nvfp4(a, block=activation.block).dequantize(np.float64)  # type: ignore[arg-type]
    y = scaling.nvfp4(b, block=weight.block[::-1]).dequantize(np.float64)  # type: ignore[index]
    assert got.shape == (64, 48)
    np.testing.assert_allclose(got, x @ y, rtol=2.0**-20, atol=2.0**-10)
