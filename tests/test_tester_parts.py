"""Are the parts that reports are made of (places, hypotheses, inputs, layouts) those of their definitions, in fractions?"""

from __future__ import annotations

import inspect
from fractions import Fraction
from itertools import pairwise
from math import copysign, floor, inf, nan
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from implementations import JIT

import fpemu as fp
from fpemu import FORMATS, FloatFormat, testing
from fpemu.policies import Cast
from fpemu.testing.functions import Subject
from fpemu.testing.hypotheses import hypotheses
from fpemu.testing.inputs import Source
from fpemu.testing.layouts import LAYOUTS, LONE, tried
from fpemu.testing.places import Places

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.skipif(not JIT, reason="takes too long without the compiler")
# what becomes of numbers beyond the largest value
BEYOND = {"float8_e4m3fn": nan, "float8_e5m2": inf, "float6_e3m2fn": 28.0, "float4_e2m1fn": 6.0}
RNG = np.random.default_rng(5)


def ladder(format: FloatFormat) -> list[Fraction]:
    """The magnitudes of a format, and two steps beyond."""
    found = sorted(
        {Fraction(float(x)) for x in np.abs(fp.decode(np.arange(1 << format.bits), format)) if np.isfinite(x)}
    )
    step = found[-1] - found[-2]
    return [*found, found[-1] + step, found[-1] + 2 * step]


def middles(format: FloatFormat) -> list[tuple[Fraction, Fraction, Fraction, bool]]:
    """Of every gap the middle, its ends, and whether the outer one is even; the last gap is the one of overflow."""
    rungs = ladder(format)[:-1]
    return [((a + b) / 2, a, b, bool(i % 2)) for i, (a, b) in enumerate(pairwise(rungs))]


TIES = {
    "ties to zero": lambda negative, even: False,
    "ties up": lambda negative, even: not negative,
    "ties down": lambda negative, even: negative,
    "ties to odd": lambda negative, even: not even,
    "ties away": lambda negative, even: True,
}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("format", BEYOND)
@pytest.mark.parametrize("name", TIES)
def test_hypotheses_of_ties(name: str, format: str, sign: int) -> None:
    """Every tie, the one between the largest value and overflow too, and what lies a little beside each."""
    cast = Cast(format)
    (mode,) = [one for one in hypotheses(cast, FORMATS["float32"]) if one.names == ((name, ""),)]
    for middle, inner, outer, even in middles(cast.format):
        ends = [copysign(BEYOND[format] if end > cast.format.max else float(end), sign) for end in (inner, outer)]
        right = ends[TIES[name](sign < 0, even)]
        near = (outer - inner) / 1024
        x = sign * np.array([float(middle), float(middle - near), float(middle + near)])
        np.testing.assert_array_equal(mode.results(x), [right, *ends], err_msg=f"{name}, {x[0]}")


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("format", ["float8_e4m3fn", "float16"])
def test_chopped_bits(format: str, relative: bool) -> None:
    """Of the gap, or of the significand as if there were no subnormals: what lies so many places further down is gone."""
    of = FORMATS[format]
    emin = 1 - of.bias
    x = np.concatenate([np.exp2(RNG.uniform(emin - 8, emin + 12, 200)) * RNG.choice([1, -1], 200), [0.0, 1.0, -3.75]])
    places = Places.of(x, of)
    for bits in (1, 2, 5):
        right = []
        for value in map(Fraction, x.tolist()):
            exponent = floor_log2(abs(value)) if value else emin
            top = exponent if relative else max(exponent, emin)
            unit = Fraction(2) ** (top - of.trailing_bits - bits)
            right.append(float(floor(abs(value) / unit) * unit) * (-1 if value < 0 else 1))
        np.testing.assert_array_equal(places.chopped(bits, relative=relative), right, err_msg=f"{bits} bits")


def floor_log2(value: Fraction) -> int:
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return exponent if Fraction(2) ** exponent <= value else exponent - 1


@pytest.mark.parametrize("source", [None, *(FORMATS[name] for name in ("float32", "float16", "bfloat16"))], ids=str)
def test_inputs_are_flushed_below_their_own_smallest_normal_number(source: FloatFormat | None) -> None:
    smallest = 2.0**-1022 if source is None else source.smallest_normal
    found = [one for one in hypotheses(Cast("e4m3"), source) if one.names == (("flushes subnormal inputs", ""),)]
    assert [one.smallest_input for one in found] == [smallest]
    flushing = testing.hypotheses.policy(Cast("e4m3", subnormals="flush-input"), source)
    others = hypotheses(Cast("e4m3", subnormals="flush-input"), source)
    assert {one.smallest_input for one in others if "subnormal" not in str(one.names)} == {smallest}
    assert flushing.smallest_input == smallest and testing.hypotheses.policy(Cast("e4m3"), source).smallest_input == 0


# ---- inputs ------------------------------------------------------------------------------------------------------------
def test_inputs_come_as_they_are_asked_for() -> None:
    bits = np.arange(256, dtype=np.uint16) << 7
    right = (bits.astype(np.uint32) << 16).view(np.float32)
    given = {takes: Source.of("bfloat16", takes).given(bits) for takes in ("values", "codes", "ml_dtypes")}
    assert {takes: x.dtype for takes, x in given.items()} == {
        "values": np.float32, "codes": np.uint16, "ml_dtypes": ml_dtypes.bfloat16,
    }  # fmt: skip
    np.testing.assert_array_equal(given["values"], right)
    np.testing.assert_array_equal(given["codes"], bits)
    np.testing.assert_array_equal(given["ml_dtypes"].astype(np.float32), right)
    doubles = np.arange(4, dtype=np.uint64) << 60
    assert all(Source.of("float64", takes).given(doubles).dtype == np.float64 for takes in ("values", "ml_dtypes"))


def test_inputs_are_those_of_seed_0_unless_told() -> None:
    """So that a report can be had again by the next who calls."""
    assert inspect.signature(testing.check_conversion).parameters["seed"].default == 0


# ---- layouts -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("source", "takes"), [("float32", "values"), ("e4m3", "codes"), ("fp16", "codes"), ("bf16", "ml_dtypes")]
)
def test_every_layout_is_tried_of_everything_that_can_lie_so(source: str, takes: str) -> None:
    """Bytes are the same bytes when they are swapped, and ml_dtypes' own dtypes have one order."""
    of = Source.of(source, takes)
    bits = np.arange(200).astype(
        of.dtype.str.replace("f", "u") if takes == "values" else fp.FORMATS[of.name].code_dtype
    )
    target = FORMATS["float32"]
    back = (
        (lambda x: fp.decode(x, of.name, dtype=np.float32))
        if takes == "codes"
        else (lambda x: np.asarray(x, np.float32))
    )
    found = list(tried(Subject(back, target), of, bits))
    swapped = of.given(bits).dtype.itemsize > 1 and takes != "ml_dtypes"
    names = [layout.name for layout in LAYOUTS if layout.name != "byte-swapped" or swapped]
    assert [one.layout for one in found] == [*names, "0-d"]
    for one in found:
        assert one.results is not None and not one.refusal
        np.testing.assert_array_equal(one.results, back(of.given(one.bits)), err_msg=one.layout)
    assert LONE <= found[-1].bits.size <= 2 * LONE and found[-1].bits[0] == bits[0]
