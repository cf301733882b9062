"""Do operations on large arrays take little memory beside their operands and their result?"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from implementations import JIT

import fpemu as fp

pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")
X, Y = np.random.default_rng(3).standard_normal((2, 1 << 20)).astype(np.float32)
CALLS: dict[str, tuple[Callable[[], Any], int]] = {  # and how many operands
    "add": (lambda: fp.add(X, Y, "fp16"), 2),
    "add, codes of e4m3": (lambda: fp.add(X, Y, "e4m3"), 2),
    "add, stochastic": (lambda: fp.add(X, Y, "fp16", rounding="stochastic"), 2),
    "add, by way of FP32": (lambda: fp.add(X, Y, "fp16", via="fp32"), 2),
    "multiply": (lambda: fp.multiply(X, Y, "fp16"), 2),
    "fma": (lambda: fp.fma(X, Y, X, "fp16"), 3),
    "negate": (lambda: fp.negate(X, "fp16"), 1),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_more_than_half_as_much_again(name: str) -> None:
    call, operands = CALLS[name]
    call()  # (compiles)
    tracemalloc.start()
    try:
        result = call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    taken = operands * X.nbytes
    assert taken + peak <= 1.5 * (taken + result.nbytes)
