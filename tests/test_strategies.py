"""Do the strategies draw from every region they name, and shrink to what is easy to read?"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from syrupy.assertion import SnapshotAssertion

import fpemu as fp
from fpemu import FORMATS, FloatFormat, reference
from fpemu.testing import REGIONS, points, strategies
from fpemu.testing.regions import SAMPLED, ladder

pytestmark = pytest.mark.nojit
QUIET = settings(
    max_examples=400, database=None, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
TARGETS = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn", "binary8p3se",
           "binary8p1uf", "float8_e8m0fnu", "tfloat32")  # fmt: skip
DTYPES = ("float16", "float32", "float64")


# ---- what lies where, from the definition ----------------------------------------------------------------------------
def position(x: Any, format: FloatFormat) -> Fraction:
    """How far up its gap a number lies; -1 for zero and below the first value of a format without zero."""
    gap = reference.place(Fraction(float(x)), format) if x else None
    return Fraction(-1) if gap is None else gap.position


def middle_beyond(format: FloatFormat) -> Fraction:
    last = reference.last_rung(format)
    return (reference.rung(last, format) + reference.rung(last + 1, format)) / 2


def smallest(format: FloatFormat) -> Fraction:
    return reference.rung(1 if format.subnormals else 0, format)


def bits_of(x: Any) -> int:
    return int(np.asarray(x).view(f"u{np.asarray(x).itemsize}"))


def beside(x: Any) -> list[Any]:
    """The finite numbers one and two steps of the dtype away."""
    unsigned = np.dtype(f"u{x.itemsize}")
    bits = [bits_of(x) + step for step in (-2, -1, 1, 2) if bits_of(x) + step >= 0]
    return [y for y in np.array(bits, unsigned).view(x.dtype) if np.isfinite(y) and y > 0]


def about(point: Callable[[FloatFormat], Fraction]) -> Callable[[Any, FloatFormat], bool]:
    return lambda x, format: abs(bits_of(x) - bits_of(x.dtype.type(float(point(format))))) <= 2


LIES: dict[str, Callable[[Any, FloatFormat], bool]] = {
    "value": lambda x, format: position(x, format) == 0,
    "tie": lambda x, format: position(x, format) == Fraction(1, 2),
    "near tie": lambda x, format: any(position(y, format) == Fraction(1, 2) for y in beside(x)),
    "near value": lambda x, format: any(position(y, format) == 0 for y in beside(x)),
    "smallest normal": about(lambda f: reference.power_of_two(reference.smallest_normal_exponent(f))),
    "smallest subnormal": about(smallest),
    "half of the smallest subnormal": about(lambda f: smallest(f) / 2),
    "largest finite": about(lambda f: reference.rung(reference.last_rung(f), f)),
    "overflow threshold": about(middle_beyond),
    "beyond the largest finite": lambda x, f: Fraction(float(x)) > reference.rung(reference.last_rung(f), f),
    "below a power of two": lambda x, format: any(y > x and math.frexp(float(y))[0] == 0.5 for y in beside(x)),
    "zero": lambda x, format: bool(x == 0),
    "extreme of the dtype": lambda x, format: bool(
        x == np.finfo(x.dtype).max or x <= np.finfo(x.dtype).smallest_normal
    ),
    "infinity": lambda x, format: bool(np.isinf(x)),
    "NaN": lambda x, format: bool(np.isnan(x)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TARGETS)
def test_regions_hold_what_they_are_named_after(name: str, dtype: str) -> None:
    format = FORMATS[name]
    assert set(LIES) == set(REGIONS)
    for region in REGIONS:
        found = points(region, format, dtype)
        assert found.dtype == dtype and not np.signbit(found[~np.isnan(found)]).any()
        some = found[:: max(found.size // 50, 1)]
        assert all(LIES[region](x, format) for x in some), region
        if dtype == "float64":
            assert found.size, region


def test_ties_are_all_ties_and_only_they() -> None:
    """Of a small format by hand: 0.25, 0.75, 1.25, 1.75, 2.5, 3.5 and 5 lie between the values of E2M1; 7 is beyond."""
    assert points("tie", "e2m1", "float32").tolist() == [0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 7.0]
    assert points("value", "e2m1", "float32").tolist() == [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    assert 0.25 in points("half of the smallest subnormal", "e2m1", "float32")
    assert 7.0 in points("overflow threshold", "e2m1", "float32")
    below = np.float32(1) - np.float32(2.0**-24)
    assert below in points("below a power of two", "e2m1", "float32")


@pytest.mark.parametrize(("name", "dtype"), [("e2m1", "float16"), ("e3m2", "float32"), ("e2m1", "float64")])
def test_every_point_of_a_small_format(name: str, dtype: str, snapshot: SnapshotAssertion) -> None:
    """As it was read before; float16 has few of them far out."""
    lines = [
        f"{region}: {' '.join(hex(bits_of(x)) if np.isnan(x) else float(x).hex() for x in points(region, name, dtype))}"
        for region in REGIONS
    ]
    assert "\n".join(lines) == snapshot


def test_what_lies_far_out_ends_with_the_dtype() -> None:
    format = FloatFormat("e11m2", 14, 3, 1040)
    found = points("beyond the largest finite", format, "float64")
    assert (
        found[0] > format.max
        and found[-1] == 2.0**1023
        and found.size == 1023 - format.emax + (np.frexp(found[0])[0] != 0.5)
    )


def test_powers_of_two_begin_with_the_dtype() -> None:
    """Two ulps of float64 below 2^-1073 lies 0, one below it the smallest number."""
    format = FloatFormat("e11m3", 15, 4, 1071)
    assert format.finest_exponent == -1073
    assert points("below a power of two", format, "float64")[:3].tolist() == [0.0, 5e-324, 2 * 5e-324]


def test_a_wide_format_is_sampled_by_neighbours_and_whole_at_its_ends() -> None:
    format = FORMATS["float32"]
    found = ladder(format)
    assert (np.diff(found) > 0).all() and found[-1] == 2.0**128
    codes = set(found[:-1].astype(np.float32).view(np.uint32).tolist())
    for start in (1, format.max_code - SAMPLED + 1, format.smallest_normal_code - 64):
        assert set(range(start, start + (128 if start == format.smallest_normal_code - 64 else SAMPLED))) <= codes
    ends = format.smallest_normal_code + np.array([-65, -64, 63, 64])
    assert [int(code) in codes for code in ends] == [False, True, True, False]
    middle = [code for code in codes if 2 * SAMPLED < code < format.max_code - 2 * SAMPLED
              and abs(code - format.smallest_normal_code) > 128]  # fmt: skip
    assert 1.98 * SAMPLED < len(middle) <= 2 * SAMPLED  # few are drawn twice
    assert all(code + 1 in codes or code - 1 in codes for code in middle)
    between = points("tie", "float32", "float64")
    assert between.size > 3 * SAMPLED and set(between.tolist()).isdisjoint(found.tolist())


def test_nans_are_quiet_and_signaling_with_payloads() -> None:
    bits = points("NaN", "e4m3", "float32").view(np.uint32)
    assert {0x7FC00000, 0x7F800001, 0x7FFFFFFF} <= set(bits.tolist())


def test_a_dtype_without_such_numbers_has_none() -> None:
    assert points("smallest subnormal", "bf16", "float16").size == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: points("edge", "e4m3"), ValueError, "no region 'edge'; there are: value, tie"),
        (lambda: points("tie", "e4m3", "int8"), TypeError, "float16, float32 or float64, not int8"),
        (lambda: points("tie", "e9m9"), ValueError, "unknown format 'e9m9'"),
        (lambda: strategies.values("e4m3", regions=()), ValueError, "no number of float32"),
        (lambda: strategies.values("bf16", "float16", regions=["smallest subnormal"]), ValueError, "no number of float16"),
        (lambda: strategies.formats(min_bits=40, max_bits=50), ValueError, "no format of the catalogue has 40 to 50 bits"),
    ],
)  # fmt: skip
def test_bad_input_is_told_what_is_valid(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# ---- strategies -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("negative", [False, True])
def test_values_come_from_every_region(region: str, negative: bool) -> None:
    members = points(region, "e4m3", "float32").view(np.uint32)
    found = find(
        strategies.values("e4m3"),
        lambda x: bool(np.signbit(x)) == negative and (x.view(np.uint32) & np.uint32(0x7FFFFFFF)) in members,
        settings=QUIET,
    )
    assert found.dtype == np.float32


def test_values_shrink_to_what_is_easy_to_read() -> None:
    values = strategies.values("e4m3")
    assert find(values, lambda x: True, settings=QUIET) == 1.0
    held = strategies.values("e4m3", regions=["value"])
    assert find(held, lambda x: bool(x > 100), settings=QUIET) == 128.0
    assert find(values, lambda x: bool(x < 0), settings=QUIET) == -1.0
    assert find(strategies.values("e4m3", signs=False), lambda x: bool(np.isnan(x)), settings=QUIET).view(np.uint32) > 0


def test_codes_shrink_to_zero_and_finite_ones_are() -> None:
    assert find(strategies.codes("e4m3"), lambda code: True, settings=QUIET) == 0
    assert find(strategies.codes("e4m3"), lambda code: math.isnan(fp.decode(code, "e4m3")), settings=QUIET) == 0x7F
    lone = find(strategies.codes("e4m3fnuz"), lambda code: math.isnan(fp.decode(code, "e4m3fnuz")), settings=QUIET)
    assert lone == 0x80


@given(st.data())
@settings(max_examples=60)
def test_finite_codes_decode_to_finite_values(data: st.DataObject) -> None:
    format = data.draw(strategies.formats())
    code = data.draw(strategies.codes(format, finite=True))
    real = reference.value(code, format)
    assert not isinstance(real, float) or math.isfinite(real)


@given(strategies.formats())
@settings(max_examples=60)
def test_formats_are_valid_and_held_by_float64(format: FloatFormat) -> None:
    assert 2 <= format.bits <= 16
    assert format.holds_in_float64


def test_formats_of_every_kind_come() -> None:
    for wanted in (lambda f: not f.signed, lambda f: f.precision == 1, lambda f: not f.infinities and f.high_nans == 3,
                   lambda f: f.name not in FORMATS, lambda f: not f.negative_zero and f.signed,
                   lambda f: f.name not in FORMATS and f.infinities and not f.high_nans):  # fmt: skip
        assert wanted(find(strategies.formats(), wanted, settings=QUIET))
    assert find(strategies.formats(named=True, min_bits=16), lambda f: True, settings=QUIET).bits == 16


@pytest.mark.parametrize("least", [3, 5, 9])
def test_formats_shrink_to_the_shortest_with_a_name(least: int) -> None:
    """And those to the ones of the P3109 family."""
    found = [find(strategies.formats(min_bits=least), lambda f, p=p: p(f.name), settings=QUIET) for p in
             (lambda name: True, lambda name: name.startswith("binary"))]  # fmt: skip
    named = [f.bits for name, f in FORMATS.items() if not name.startswith("binary") and f.bits >= least]
    assert not found[0].name.startswith("binary") and found[0].bits == min(named) and found[1].bits == least


def _middle_bias(format: FloatFormat) -> int:
    exponent_bits = format.bits - format.signed - format.precision + 1
    return 2 ** (min(exponent_bits, 9) - 1) - 1


@pytest.mark.parametrize("offset", [-8, 8])
def test_biases_of_other_formats_lie_around_the_middle(offset: int) -> None:
    found = find(
        strategies.formats(), lambda f: f.name not in FORMATS and f.bias - _middle_bias(f) == offset, settings=QUIET
    )
    assert found.holds_in_float64


@given(strategies.formats())
@settings(max_examples=200)
def test_formats_of_three_bits_and_more_with_a_bias_near_the_middle(format: FloatFormat) -> None:
    assert format.bits >= 3
    assert format.name in FORMATS or abs(format.bias - _middle_bias(format)) <= 8


@given(strategies.arrays("e4m3", "float64"))
@settings(max_examples=30)
def test_arrays_are_arrays_of_such_values(x: np.ndarray[Any, Any]) -> None:
    assert x.dtype == np.float64 and x.ndim <= 2


def test_formats_of_32_bits_come() -> None:
    found = find(
        strategies.formats(min_bits=32, max_bits=32), lambda format: format.name not in FORMATS, settings=QUIET
    )
    assert found.bits == 32


@given(strategies.formats(min_bits=3, max_bits=3))
@settings(max_examples=300)
def test_formats_of_three_bits(format: FloatFormat) -> None:
    """Few have room for what is asked for beside numbers."""
    assert format.bits == 3 or format.name == "float16"


def test_arrays_are_of_six_a_side_at_most() -> None:
    longest = lambda x: max(x.shape, default=0)  # noqa: E731
    assert longest(find(strategies.arrays("e4m3"), lambda x: longest(x) == 6, settings=QUIET)) == 6
    with pytest.raises(NoSuchExample):
        find(strategies.arrays("e4m3"), lambda x: longest(x) > 6, settings=QUIET)


def test_arrays_of_every_number_of_axes_come() -> None:
    for axes in range(3):
        found = find(strategies.arrays("e4m3"), lambda x, n=axes: x.ndim == n and x.size > 0, settings=QUIET)  # type: ignore[misc]
        assert found.ndim == axes


def test_they_find_a_conversion_that_rounds_ties_away() -> None:
    """What they are for: a wrong input of the commonest fault, and a simple one."""

    def wrong(x: Any) -> bool:
        return not np.isnan(x) and fp.encode(x, "e4m3") != fp.encode(x, "e4m3", rounding="nearest-away")

    assert find(strategies.values("e4m3"), wrong, settings=QUIET) == 2.0**-10
