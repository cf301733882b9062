"""On a GPU, or in Numba's simulator: are the results of arithmetic those of the CPU, bit by bit?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from on_device import KIND, get, put

import fpemu as fp
from fpemu import Cast, Rounding

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not KIND, reason="no GPU, and not in the simulator")]

Array = np.ndarray[Any, Any]
MANY = 60 if KIND == "simulator" else 100_000
OPERATIONS = {
    "add": 2, "subtract": 2, "multiply": 2, "divide": 2, "sqrt": 1, "fma": 3, "minimum": 2, "maximum": 2, "minimum_number": 2,
    "maximum_number": 2, "negate": 1, "absolute": 1,
}  # fmt: skip


def same(got: Any, right: Any) -> None:
    """Equal in every bit, and in dtype and shape."""
    found, right = get(got), np.asarray(right)
    assert (found.dtype, found.shape) == (right.dtype, right.shape)
    unsigned = f"u{right.dtype.itemsize}"
    np.testing.assert_array_equal(
        np.ascontiguousarray(found).view(unsigned), np.ascontiguousarray(right).view(unsigned)
    )


def codes(format: str, seed: int, size: int = MANY) -> Array:
    """Random codes, specials and zeros among them."""
    to, rng = fp.FORMATS[format], np.random.default_rng(seed)
    x = rng.integers(0, 1 << to.bits, size, np.uint64).astype(to.code_dtype)
    x[:4] = 0, to.max_code, to.max_code + 1, to.sign_mask
    return x[rng.permutation(size)]


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name: str) -> None:
    function = getattr(fp, name)
    for format, policies in (
        ("bfloat16", {}),
        ("float8_e5m2", {"rounding": "stochastic", "random_bits": 20, "seed": 5, "offset": 7}),
        ("float32", {"rounding": "down", "overflow": "saturate"}),
        ("float8_e4m3fnuz", {"subnormals": "flush-input"}),
    ):
        operands = [codes(format, seed) for seed in range(OPERATIONS[name])]
        same(function(*map(put, operands), format, **policies), function(*operands, format, **policies))


def test_division_by_zero_as_nan() -> None:
    operands = [codes("float8_e5m2", seed) for seed in range(2)]
    given = fp.divide(*map(put, operands), "e5m2", by_zero="nan")
    same(given, fp.divide(*operands, "e5m2", by_zero="nan"))
    assert (get(given) != fp.divide(*operands, "e5m2")).any()


@pytest.mark.parametrize("rounding", Rounding)
def test_roundings(rounding: Rounding) -> None:
    operands = [codes("float8_e5m2", seed) for seed in range(3)]
    more = {"random_bits": 8} if rounding is Rounding.STOCHASTIC else {}
    same(
        fp.fma(*map(put, operands), "e5m2", rounding=rounding, **more),
        fp.fma(*operands, "e5m2", rounding=rounding, **more),
    )


def test_values_other_sources_and_an_intermediate() -> None:
    x, y = np.linspace(-3, 3, 24, dtype=np.float32).reshape(4, 6), np.linspace(0.1, 2, 6)
    same(fp.multiply(put(x), put(x), "e4m3"), fp.multiply(x, x, "e4m3"))
    same(fp.divide(put(x), put(y), "bf16"), fp.divide(x, y, "bf16"))
    a, b = codes("e4m3", 0), codes("bfloat16", 1)
    same(fp.add(put(a), put(b), "fp16", source=("e4m3", "bf16")), fp.add(a, b, "fp16", source=("e4m3", "bf16")))
    same(
        fp.add(put(b), put(b[::-1]), Cast("e5m2", via="fp16"), source="bf16"),
        fp.add(b, b[::-1], Cast("e5m2", via="fp16"), source="bf16"),
    )


def test_layouts_broadcasting_and_numbers_of_python() -> None:
    x = codes("bfloat16", 2, 60).reshape(3, 4, 5)
    for a, b in ((x.T, x[:, ::-1].T), (x, x[0, 0]), (x[:, :1], x[:1, :, ::2][..., :1]), (x[1, 2, 3:4].reshape(()), x)):
        same(fp.add(put(a), put(b), "bf16"), fp.add(a, b, "bf16"))
    values = np.linspace(-3, 3, 12, dtype=np.float32)
    same(fp.multiply(put(values), 1.5, "bf16"), fp.multiply(values, 1.5, "bf16"))
    same(fp.multiply(2, put(x), "bf16"), fp.multiply(2, x, "bf16"))


def test_outputs_and_in_place() -> None:
    x = codes("bfloat16", 3, 12).reshape(3, 4)
    out = put(np.zeros((4, 6), np.uint16).T[::2])
    assert fp.add(put(x), put(x), "bf16", out=out) is out
    same(out, fp.add(x, x, "bf16"))
    there = put(x)
    assert fp.multiply(there, there, "bf16", out=there) is there
    same(there, fp.multiply(x, x, "bf16"))


def test_compare() -> None:
    a, b = codes("float8_e4m3fn", 4), codes("bfloat16", 5)
    same(fp.compare(put(a), put(b), "bf16", source=("e4m3", "bf16")), fp.compare(a, b, "bf16", source=("e4m3", "bf16")))
    out = put(np.zeros(a.shape, np.int8))
    assert fp.compare(put(a), put(a), "e4m3", out=out) is out
    same(out, fp.compare(a, a, "e4m3"))


def test_an_invalid_result_without_nan_is_refused_before_anything_is_written() -> None:
    x = np.ones((2, 5), np.float32)
    x[1, 3] = 0
    out = put(np.full((2, 5), 9, np.uint8))
    a = put(fp.encode(x, "e2m1"))
    with pytest.raises(ValueError, match=r"NaN at index \(1, 3\)"):
        fp.divide(a, a, "e2m1", out=out)
    assert (get(out) == 9).all()
    same(fp.divide(a, a, "e2m1", nan="max"), fp.divide(fp.encode(x, "e2m1"), fp.encode(x, "e2m1"), "e2m1", nan="max"))


def test_bad_input_is_told_what_to_do() -> None:
    x = np.ones(4, np.float32)
    with pytest.raises(TypeError, match="an operand lies on the host, another on a GPU: copy the ndarray there first"):
        fp.add(put(x), x, "bf16")
    with pytest.raises(ValueError, match="shape mismatch"):
        fp.add(put(x), put(x[:3]), "bf16")
    with pytest.raises(TypeError, match="on a GPU codes of bfloat16 are uint16, not int64"):
        fp.add(put(x), put(np.ones(4, np.int64)), "bf16")
    with pytest.raises(TypeError, match="out must lie on the GPU as the input does"):
        fp.add(put(x), put(x), "bf16", out=x)
    with pytest.raises(TypeError, match="arithmetic takes arrays on the host"):
        fp.sum(put(x), "bf16")
