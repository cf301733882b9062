"""Do the rows of STACKS say what each stack does: the published cases, and the libraries that are installed?"""

from __future__ import annotations

import math

import numpy as np
import pytest

import fpemu as fp
from fpemu import STACKS, reference
from fpemu.stacks import _name

NAN, INF = math.nan, math.inf
E4M3 = {  # what 464, 465, 10^5 and infinity become; 464 is the tie between 448 and 480
    "ml_dtypes": (448, NAN, NAN, NAN),
    "xla": (448, NAN, NAN, NAN),
    "gfloat": (448, NAN, NAN, NAN),
    "torch<=2.12": (448, NAN, NAN, NAN),
    "onnx-nosat": (448, NAN, NAN, NAN),
    "cuda-nosat": (448, NAN, NAN, NAN),
    "torch>=2.13": (448, 448, 448, 448),
    "onnx-saturate": (448, 448, 448, 448),
    "cuda-satfinite": (448, 448, 448, 448),
    "transformer-engine": (448, 448, 448, 448),
    "gfloat-saturate": (448, 448, 448, 448),
    "cpfloat": (448, 480, NAN, NAN),
    "qpytorch": (480, 480, 480, 480),
    "microxcaling-even": (448, INF, INF, INF),
    "chop": (INF, INF, INF, INF),
}


def value(x: float, stack: str, target: str, source: str = "float32") -> float:
    cast = STACKS[stack].cast(target, source=source)
    ours = fp.decode(fp.encode(np.array([x], source), cast), cast.format, dtype=np.float64)[0]
    assert np.array_equal(ours, float(reference.value(reference.encode(x, cast), cast.format)), equal_nan=True)
    return float(ours)


@pytest.mark.parametrize("stack", E4M3)
def test_overflow_to_e4m3(stack: str) -> None:
    for x, right in zip((464.0, 465.0, 1e5, INF), E4M3[stack], strict=True):
        assert np.array_equal(value(x, stack, "e4m3"), right, equal_nan=True), x
    assert np.isnan(value(NAN, stack, "e4m3")) or stack == "qpytorch"


CASES = [  # stack, target, source, x, right
    ("ml_dtypes", "e4m3", "float64", 464.0000001, 448),  # through float32
    ("torch>=2.13", "e4m3", "float64", 1 + 2**-4 + 2**-40, 1.0),
    ("torch>=2.13", "e5m2", "float32", 61440.0, INF),  # E5M2 never saturates
    ("torch>=2.13", "e4m3fnuz", "float32", INF, NAN),
    ("onnx-saturate", "e4m3fnuz", "float32", 1e5, 240),
    ("onnx-saturate", "e4m3fnuz", "float32", INF, NAN),  # even when saturating
    ("onnx-saturate", "e5m2", "float32", INF, 57344),
    ("onnx-nosat", "e5m2", "float32", 61440.0, INF),
    ("xla", "e4m3", "float64", 1 + 2**-4 + 2**-40, 1.125),
    ("xla", "bfloat16", "float64", 1 + 2**-8 + 2**-40, 1.0),
    ("xla", "bfloat16", "float64", 2.0**-127, 0.0),  # a float32 subnormal on the way
    ("gfloat", "e4m3", "float64", 464.0000001, NAN),
    ("numpy", "float16", "float64", 1 + 2**-11 + 2**-40, 1 + 2**-10),
    ("qpytorch", "e4m3", "float32", -NAN, -480),
    ("qpytorch", "fp16", "float32", 1e9, 131008),
    ("microxcaling", "e4m3", "float32", 2.0**-10, 2.0**-9),  # ties away
    ("microxcaling-even", "e4m3", "float32", 2.0**-10, 0.0),
    ("microxcaling", "e2m1", "float32", 100.0, INF),
    ("ml_dtypes", "e2m1", "float32", 100.0, 6),
    ("cuda-satfinite", "e2m1", "float32", NAN, 6),
    ("ml_dtypes", "e8m0", "float32", 3.0, 4),
    ("ml_dtypes", "e8m0", "float32", -3.0, NAN),
    ("ml_dtypes", "e8m0", "float32", 0.0, NAN),
    ("chop", "bf16", "float32", 2.0**-127, 2.0**-126),  # half of the smallest normal goes up
    ("p3109", "binary8p4sf", "float32", 1e5, 224 + 16),
    ("p3109", "binary8p4se", "float32", 1e5, INF),
    ("p3109-satpropagate", "binary8p4se", "float32", 1e5, 224),
    ("p3109-satpropagate", "binary8p4se", "float32", INF, INF),
    ("p3109-satfinite", "binary8p4se", "float32", INF, 224),
]


@pytest.mark.parametrize(("stack", "target", "source", "x", "right"), CASES)
def test_published_cases(stack: str, target: str, source: str, x: float, right: float) -> None:
    assert np.array_equal(value(x, stack, target, source), right, equal_nan=True)


def test_codes_of_nan_and_lost_signs() -> None:
    nans = np.array([NAN, -NAN], np.float32)
    codes = {("torch", "e5m2"): [0x7F, 0xFF], ("cuda", "e4m3"): [0x7F, 0x7F], ("cuda", "fp16"): [0x7FFF, 0x7FFF],
             ("ml_dtypes", "e5m2"): [0x7E, 0xFE], ("ml_dtypes", "e2m1"): [0x8, 0x0], ("qpytorch", "e4m3"): [0x7F, 0xFF]}  # fmt: skip
    for (stack, target), right in codes.items():
        assert fp.encode(nans, STACKS[stack].cast(target)).tolist() == right, (stack, target)
    for stack in ("qpytorch", "microxcaling", "chop"):
        assert not np.signbit(value(-0.0, stack, "e4m3"))


def test_every_row_is_a_cast_or_says_why_not() -> None:
    for stack in STACKS.values():
        assert stack.what and stack.references and len(stack) == len(list(stack)) > 0
        for source, target in stack:
            row = stack.row(target, source=source)
            if row.policies is not None:
                assert stack.cast(target, source=source).format.holds_in_float64
                continue
            assert row.note
            with pytest.raises(ValueError, match="no Cast describes"):
                stack.cast(target, source=source)


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(KeyError, match="unknown stack 'tensorflow'; valid: numpy, ml_dtypes"):
        STACKS["tensorflow"]
    with pytest.raises(ValueError, match="numpy has no float8_e4m3fn; its targets: float16, float32"):
        STACKS["numpy"].cast("e4m3")
    with pytest.raises(ValueError, match="qpytorch takes float8_e4m3fn from float32, not from float64"):
        STACKS["qpytorch"].cast("e4m3", source="float64")
    assert STACKS["jax"] is STACKS["xla"] and _name("fp64") == "float64"
