"""Do the calls of PyTorch that the recorder makes multiply what they should? (Here on PyTorch's CPU.)"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import fpemu as fp
from analysis.gpu.multiply import OPERANDS
from analysis.gpu.products import PARTS, LibraryProduct, Products

SHAPES = {(16, 16, 16), (64, 64, 256)}
SMALL = [part for part in PARTS if (part.m, part.n, part.k) in SHAPES]


@pytest.mark.parametrize("part", SMALL, ids=[part.name for part in SMALL])
def test_a_call_multiplies_its_operands(part: LibraryProduct) -> None:
    """Each output is the exact product, but for the rounding of sums and of the result."""
    products = Products("cpu")
    codes = products.codes(part)
    assert codes.dtype == part.holder.code_dtype and codes.size == part.m * part.n
    given = part.operands()
    a: Any = fp.decode(given.a[0], OPERANDS[part.call.a], dtype=np.float64)
    b: Any = fp.decode(given.b[0], OPERANDS[part.call.b], dtype=np.float64)
    exact, size = a @ b.T, np.abs(a) @ np.abs(b.T)
    if part.call.scales is not None:
        of_a, of_b = part.scales()
        exact, size = exact * of_a * of_b, size * of_a * of_b
    got = fp.decode(codes, part.holder, dtype=np.float64).reshape(part.m, part.n)
    assert np.all(np.abs(got - exact) <= part.holder.eps * np.abs(exact) + 1e-5 * size)
    detail = products.detail(part)
    assert len(detail["sha256"]) == 64 and "kernels" in detail
    assert detail["flags"]["allow_tf32"] == str(part.call.a == "tf32")


def test_flags_are_put_back() -> None:
    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    Products("cpu").codes(next(part for part in SMALL if part.call.a == "tf32"))
    assert torch.backends.cuda.matmul.allow_tf32 == before
