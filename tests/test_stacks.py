"""Do the rows of STACKS say what each stack does: the published cases, and the libraries that are installed?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from edges import Array, around

import fpemu as fp
from fpemu import FORMATS, STACKS, reference
from fpemu.stacks import FP6, _name

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
    "onnx-saturate<=23": (448, 448, 448, 448),
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
    ("onnx-saturate<=23", "e4m3fnuz", "float32", INF, NAN),  # even when saturating
    ("onnx-saturate", "e4m3fnuz", "float32", INF, 240),
    ("onnx-saturate", "e8m0", "float32", 1.001, 2),
    ("onnx-saturate-down", "e8m0", "float32", 1.999, 1),
    ("onnx-saturate-nearest", "e8m0", "float32", 3.0, 4),
    ("onnx-nosat-nearest", "e8m0", "float32", 1.25 * 2.0**127, NAN),  # out of range, though 2^127 is the nearest
    ("onnx-nosat", "e8m0", "float32", 2.0**-128, NAN),
    ("onnx-nosat", "e8m0", "float32", 2.0**-127, 2.0**-127),
    ("onnx-nosat-down", "e8m0", "float32", 2.0**127 * (1 + 2.0**-23), NAN),  # out by as little as can be
    ("onnx-nosat", "e8m0", "float32", 2.0**-127 * (1 - 2.0**-22), NAN),
    ("onnx-nosat", "e8m0", "float64", 2.0**-127 * (1 - 2.0**-40), 2.0**-127),  # through float32
    ("onnx-saturate", "e8m0", "float64", 1 + 2.0**-40, 1),
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
    ("p3109-satpropagate", "binary8p4sf", "float32", INF, 240),
    ("p3109-satpropagate", "binary8p4uf", "float32", -INF, 0),
    ("p3109", "binary8p4ue", "float32", -1.0, NAN),
    ("p3109", "fp16", "float64", 1e9, INF),
    ("p3109-satfinite", "bf16", "float32", -INF, float(np.float32(-(2.0**127) * (2 - 2.0**-7)))),
    ("p3109-satfinite", "binary8p4se", "float32", INF, 224),
]


@pytest.mark.parametrize(("stack", "target", "source", "x", "right"), CASES)
def test_published_cases(stack: str, target: str, source: str, x: float, right: float) -> None:
    assert np.array_equal(value(x, stack, target, source), right, equal_nan=True)


# ONNX, the tables of Cast: what becomes of 0, -0, NaN, infinity, -infinity, and values beyond the largest and the lowest.
ONNX_INPUTS = (0.0, -0.0, NAN, INF, -INF, 1e6, -1e6)
FUL, FNUZ_SAT, E2M1 = (
    (0.0, -0.0, NAN, 448, -448, 448, -448),
    (0.0, 0.0, NAN, 240, -240, 240, -240),
    (0.0, -0.0, 6, 6, -6, 6, -6),
)
ONNX = {
    ("onnx-saturate", "e4m3"): FUL,
    ("onnx-saturate<=23", "e4m3"): FUL,
    ("onnx-nosat", "e4m3"): (0.0, -0.0, NAN, NAN, NAN, NAN, NAN),
    ("onnx-saturate", "e5m2"): (0.0, -0.0, NAN, 57344, -57344, 57344, -57344),
    ("onnx-saturate<=23", "e5m2"): (0.0, -0.0, NAN, 57344, -57344, 57344, -57344),
    ("onnx-nosat", "e5m2"): (0.0, -0.0, NAN, INF, -INF, INF, -INF),
    ("onnx-saturate", "e4m3fnuz"): FNUZ_SAT,
    ("onnx-saturate<=23", "e4m3fnuz"): (0.0, 0.0, NAN, NAN, NAN, 240, -240),
    ("onnx-nosat", "e4m3fnuz"): (0.0, 0.0, NAN, NAN, NAN, NAN, NAN),
    ("onnx-saturate", "e5m2fnuz"): (0.0, 0.0, NAN, 57344, -57344, 57344, -57344),
    ("onnx-saturate<=23", "e5m2fnuz"): (0.0, 0.0, NAN, NAN, NAN, 57344, -57344),
    ("onnx-saturate", "e2m1"): E2M1,
    ("onnx-saturate<=23", "e2m1"): E2M1,
    ("onnx-nosat", "e2m1"): E2M1,
    ("onnx-saturate", "e2m3"): (0.0, -0.0, -0.0, 7.5, -7.5, 7.5, -7.5),
    ("onnx-nosat", "e3m2"): (0.0, -0.0, -0.0, 28, -28, 28, -28),
}


@pytest.mark.parametrize(("stack", "target"), ONNX)
def test_the_tables_of_onnx(stack: str, target: str) -> None:
    for source in ("float32", "float64"):
        for x, right in zip(ONNX_INPUTS, ONNX[stack, target], strict=True):
            np.testing.assert_equal(value(x, stack, target, source), right, err_msg=f"{x} {source}")


# E8M0: of NaN, infinity, beyond 2^127, 0, below 2^-127; then 1.25, 1.5 (a tie), 1.75, and the ends.
E8M0_INPUTS = (NAN, INF, 1.25 * 2.0**127, 0.0, 2.0**-128, 2.0**-140, 1.25, 1.5, 1.75, 2.0**127, 2.0**-127)
E8M0_ENDS = {"saturate": (NAN, 2.0**127, 2.0**127, 2.0**-127, 2.0**-127, 2.0**-127), "nosat": (NAN,) * 6}
E8M0_ROUNDED = {"": (2, 2, 2), "-down": (1, 1, 1), "-nearest": (1, 2, 2)}


@pytest.mark.parametrize("mode", E8M0_ROUNDED)
@pytest.mark.parametrize("kind", E8M0_ENDS)
def test_the_table_of_onnx_for_e8m0(kind: str, mode: str) -> None:
    right = (*E8M0_ENDS[kind], *E8M0_ROUNDED[mode], 2.0**127, 2.0**-127)
    for source in ("float32", "float64"):
        for x, to in zip(E8M0_INPUTS, right, strict=True):
            np.testing.assert_equal(value(x, f"onnx-{kind}{mode}", "e8m0", source), to, err_msg=f"{x} {source}")


def test_codes_of_nan_and_lost_signs() -> None:
    nans = np.array([NAN, -NAN], np.float32)
    codes = {("torch", "e5m2"): [0x7F, 0xFF], ("cuda", "e4m3"): [0x7F, 0x7F], ("cuda", "fp16"): [0x7FFF, 0x7FFF],
             ("ml_dtypes", "e5m2"): [0x7E, 0xFE], ("ml_dtypes", "e2m1"): [0x8, 0x0], ("qpytorch", "e4m3"): [0x7F, 0xFF]}  # fmt: skip
    for (stack, target), right in codes.items():
        assert fp.encode(nans, STACKS[stack].cast(target)).tolist() == right, (stack, target)
    for tiny in (-0.0, -1e-40):  # external formats of P3109: no result is -0
        assert fp.encode(np.float32(tiny), STACKS["p3109"].cast("fp16")) == 0
    assert np.signbit(value(-1e-30, "microxcaling", "e4m3")), "-0 itself becomes +0 there"
    for stack in ("qpytorch", "chop"):
        assert not np.signbit(value(-0.0, stack, "e4m3"))


def by_logarithm(x: Array, target: str, even: bool) -> Array:
    """How microxcaling rounds, in float32: the exponent by a logarithm, the significand by adding one half."""
    format = FORMATS[target]
    with np.errstate(all="ignore"):
        exponent = np.floor(np.log2(np.abs(x) + (x == 0)), dtype=np.float32)
        unit = np.exp2(np.maximum(exponent, np.float32(format.emin)), dtype=np.float32)
        steps = np.abs(x) / unit * np.float32(2**format.trailing_bits)
        whole = np.floor(steps + np.float32(0.5)) - (even & (np.mod(steps - np.float32(0.5), 2) == 0))
        value = np.sign(x) * whole / np.float32(2**format.trailing_bits) * unit
    value = np.where(np.abs(value) > format.max, np.copysign(np.float32(INF), value), value)
    return np.where(np.isinf(x), x, value)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("target", ["float8_e4m3fn", "float8_e5m2", *FP6, "float4_e2m1fn"])
def test_microxcaling_differs_from_its_rows_where_the_note_says(target: str, even: bool) -> None:
    format = FORMATS[target]
    below_half = np.nextafter(np.float32(format.smallest_subnormal / 2), np.float32(0))
    last = (0x7F800000 - np.arange(1, 400, dtype=np.uint32)).view(np.float32)
    x = np.concatenate([around(format, "float32"), -last, last, [below_half, -below_half]]).astype(np.float32)
    theirs = by_logarithm(x, target, even)
    cast = STACKS["microxcaling-even" if even else "microxcaling"].cast(target)
    ours = fp.decode(fp.encode(x, cast), cast.format, dtype=np.float32)
    differ = np.unique(np.abs(x[~((ours == theirs) | (np.isnan(ours) & np.isnan(theirs)))]))
    assert below_half in differ and np.finfo(np.float32).max in differ
    assert all(one == below_half or one >= float.fromhex("0x1.ffffa8p127") for one in differ), differ
    assert (
        np.isnan(theirs[x == np.finfo(np.float32).max]).all()
        and (theirs[x == below_half] == format.smallest_subnormal).all()
    )


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
