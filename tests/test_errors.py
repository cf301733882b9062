"""``fpemu.errors`` against its definition in exact rationals; edge cases; the other places that ask for an SQNR."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import naive_errors
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import fpemu as fp
from fpemu import comparison, pairs, scaling, stats

INF, NAN = math.inf, math.nan
COUNTS = ("elements", "compared", "reference_nan", "reference_infinite", "specials_lost", "nan", "infinite")
FIGURES = ("sqnr_db", "relative_rms", "bias", "bias_z", "cosine", "gain", "largest_ulp")
SIGNED = ("bias", "cosine", "gain")  # sums whose terms may cancel: right to 2^-46 of the sum of their magnitudes
TINY, HUGE = 5e-324, 1.7e308


def root(value: Fraction) -> float:
    """The square root, to 1e-15, of a number that may lie far beyond float64; with the sign of the number."""
    if not value:
        return 0.0
    shift = (value.numerator.bit_length() - value.denominator.bit_length()) // 2 * 2
    scaled = math.sqrt(abs(value) / Fraction(2) ** shift)
    return math.copysign(pairs.value((scaled, shift // 2)), value)


def check(reference: Any, x: Any, format: str | None = None, slack: float = 1e-12) -> fp.Errors:
    """Compare every attribute with the definition; ``slack``: of z, relative, for a spread that cancels (inf: leave it out)."""
    got, right = fp.errors(reference, x, format=format), naive_errors.row(reference, x, format)
    assert {name: getattr(got, name) for name in COUNTS} == {name: right[name] for name in COUNTS}
    assert got.row().keys() == {*right, "ulp_format"} - {"sizes"}
    for name, exact in right.items():
        if name not in FIGURES or (name == "bias_z" and slack == INF):
            continue
        value = getattr(got, name)
        if exact is None:
            assert math.isnan(value), name
        elif isinstance(exact, float):
            assert value == exact, name
        elif name == "sqnr_db":
            right_db = 10 * (math.log10(exact.numerator) - math.log10(exact.denominator))
            assert value == pytest.approx(right_db, abs=1e-11, rel=1e-12)
        elif name == "bias_z":
            assert abs(value - root(exact)) <= slack * abs(root(exact)) + 2.0**-46 * root(right["sizes"]["bias_z"])
        elif name in SIGNED:
            size = root(right["sizes"][name]) if name == "cosine" else right["sizes"][name]
            target = Fraction(root(exact)) if name == "cosine" else exact
            assert math.isinf(value) or abs(Fraction(value) - target) <= Fraction(2.0**-46) * Fraction(size) + Fraction(
                TINY
            ), name
            assert math.isfinite(value) or abs(target) > Fraction(HUGE), name
        else:
            target = root(exact) if name == "relative_rms" else _float(exact)
            assert value == pytest.approx(target, rel=1e-12), name
    return got


def _float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return INF if value > 0 else -INF


# ---- against the definition -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", ["e4m3", "bf16", "e2m1"])
def test_random_tensors(dtype: str, name: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((7, 30)).astype(dtype)
    q = fp.quantize(x, name, overflow="saturate", dtype=np.float64)
    check(x, q)
    check(x, q, fp.FORMATS[name].name)


@given(st.data())
def test_any_finite_values(data: st.DataObject) -> None:
    """Of float32: squares, products and differences of any range.  (z is asked for where its spread does not cancel.)"""
    size = data.draw(st.integers(1, 6))
    any_float = st.floats(width=32, allow_nan=False, allow_infinity=False)
    r, x = (data.draw(arrays.arrays(np.float32, size, elements=any_float)) for _ in range(2))
    found = x.astype(np.float64) - r
    check(r, x, slack=1e-6 if np.ptp(found) > 1e-6 * np.abs(found).max() else INF)


@given(st.data())
def test_specials_are_counted_and_kept_out(data: st.DataObject) -> None:
    some = st.sampled_from([0.0, -0.0, 1.0, -2.5, INF, -INF, NAN])
    size = data.draw(st.integers(0, 8))
    r, x = (np.array(data.draw(st.lists(some, min_size=size, max_size=size)), np.float64) for _ in range(2))
    check(r, x, slack=1e-9)


@pytest.mark.parametrize(
    ("reference", "x"),
    [
        ([HUGE, -HUGE, 1.0], [-HUGE, HUGE, 1.0]),  # the differences are beyond float64
        ([HUGE, TINY], [HUGE, 3 * TINY]),  # the only error is 2^2097 times smaller than the largest value
        ([1e300, 1e300], [1e300 * (1 - 2.0**-52), 1e300]),
        ([TINY, -TINY, 2 * TINY], [2 * TINY, -TINY, 0.0]),  # energies below float64
        ([3e-320, 1e-310], [2e-320, 1.5e-310]),
        ([1.0, 1.0, 1.0 + 2.0**-52], [1.0, 1.0 + 2.0**-52, 1.0]),
        ([1e16, 1.0, -1e16], [1e16, 1.5, -1e16]),
        ([-HUGE, HUGE, TINY], [HUGE, -HUGE, 2 * TINY]),
    ],
)
def test_values_at_the_ends_of_float64(reference: list[float], x: list[float]) -> None:
    check(np.array(reference), np.array(x), slack=1e-9)


def test_ulps_are_those_of_the_reference() -> None:
    assert fp.errors([1.0], [1.0 + 2.0**-52]).largest_ulp == 1
    assert fp.errors([1.0], [1.0 - 2.0**-53]).largest_ulp == 0.5  # of the binade of 1, not of the one below
    assert fp.errors(np.float32([1.0]), [1.0 + 2.0**-24]).largest_ulp == 0.5
    assert fp.errors([0.0], [TINY]).largest_ulp == 1 == fp.errors([TINY], [0.0]).largest_ulp
    assert fp.errors([0.0], [2.0**-9], format="e4m3").largest_ulp == 1  # the smallest subnormal
    assert fp.errors([1000.0], [448.0], format="e4m3").largest_ulp == 552 / 64  # 1000 lies in [512, 1024)
    assert fp.errors([3.0], [4.0], format="e8m0").largest_ulp == 0.5
    assert fp.errors([1.0], [1.5]).ulp_format == "float64"


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "fp16", "bf16", "e2m1", "e3m2"])
def test_rounding_to_nearest_is_within_half_an_ulp(name: str) -> None:
    limit = fp.FORMATS[name].max
    x = np.random.default_rng(2).uniform(-limit, limit, 4000) * 2.0 ** np.arange(-7, 1).repeat(500)
    found = fp.errors(x, fp.quantize(x, name), format=name)
    assert 0.49 < found.largest_ulp <= 0.5
    assert 0.9 < fp.errors(x, fp.quantize(x, name, rounding="toward-zero"), format=name).largest_ulp < 1


# ---- edge cases ------------------------------------------------------------------------------------------------------
def test_nothing_to_compare() -> None:
    for found in (fp.errors([], []), fp.errors([NAN, INF], [NAN, INF])):
        assert found.compared == 0
        assert all(math.isnan(getattr(found, name)) for name in FIGURES)


def test_zeros() -> None:
    both = fp.errors(np.zeros(3), -np.zeros(3))
    assert (both.bias, both.largest_ulp) == (0, 0)
    assert np.isnan([both.sqnr_db, both.relative_rms, both.cosine, both.gain, both.bias_z]).all()
    reference = fp.errors(np.zeros(3), np.ones(3))
    assert np.isnan([reference.sqnr_db, reference.relative_rms, reference.cosine, reference.gain]).all()
    assert (reference.bias, reference.bias_z) == (1, INF)
    gone = fp.errors(np.ones(3), np.zeros(3))
    assert (gone.sqnr_db, gone.relative_rms, gone.gain, gone.bias, gone.bias_z) == (0, 1, 0, -1, -INF)
    assert math.isnan(gone.cosine)


def test_one_element_and_no_error() -> None:
    one = fp.errors([2.0], [3.0])
    assert (one.relative_rms, one.bias, one.cosine, one.gain) == (0.5, 1, 1, 1.5) and math.isnan(one.bias_z)
    same = fp.errors([2.0, 3.0], [2.0, 3.0])
    assert (same.sqnr_db, same.relative_rms, same.bias, same.cosine, same.gain) == (INF, 0, 0, 1, 1)
    assert math.isnan(same.bias_z)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_one_result_that_is_not_finite_spoils_the_figures(bad: float) -> None:
    x = np.ones(3 * comparison.CHUNK)
    x[-1] = bad
    found = fp.errors(np.ones(x.size), x)
    assert (found.nan, found.infinite) == ((1, 0) if math.isnan(bad) else (0, 1))
    assert (found.sqnr_db, found.relative_rms, found.largest_ulp) == (-INF, INF, INF)
    assert np.isnan([found.bias, found.bias_z, found.cosine, found.gain]).all()
    assert found.compared == x.size


def test_specials_of_the_reference() -> None:
    found = fp.errors([1.0, NAN, NAN, INF, INF, -INF], [1.0, NAN, 0.0, INF, -INF, NAN])
    assert (found.reference_nan, found.reference_infinite, found.specials_lost, found.compared) == (2, 3, 3, 1)
    assert found.sqnr_db == INF  # of the one that takes part


def test_a_bias_is_seen_and_none_is_not() -> None:
    """Truncation is biased by far more than 5 sigma, rounding to nearest by less (1 false alarm in 1.7 million)."""
    x = np.random.default_rng(3).uniform(1, 2, 100_000)
    assert abs(fp.errors(x, fp.quantize(x, "e4m3")).bias_z) < 5
    assert fp.errors(x, fp.quantize(x, "e4m3", rounding="toward-zero")).bias_z < -100


@pytest.mark.parametrize(
    ("reference", "x", "error", "says"),
    [
        (np.ones(3), np.ones((3, 1)), ValueError, "one shape"),
        (np.ones(3), np.ones(1), ValueError, "one shape"),
        (np.ones(3), 1.0, ValueError, "one shape"),
        (np.ones(3, int), np.ones(3), TypeError, "int64"),
        (np.ones(3), np.ones(3, bool), TypeError, "bool"),
        (np.ones(3), [1, 2, 3], TypeError, "int64"),
        (np.ones(3), np.ones(3, complex), TypeError, "complex"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), np.ones(2), TypeError, "masked"),
        (np.ones(2), np.ma.masked_array([1.0, 2.0]), TypeError, "masked"),
        (np.ones(2), ["a", "b"], TypeError, "not taken"),
    ],
)
def test_what_is_refused(reference: Any, x: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        fp.errors(reference, x)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="e4m9"):
        fp.errors([1.0], [1.0], format="e4m9")


# ---- layouts, chunks, merging ------------------------------------------------------------------------------------------
def test_layouts_and_byte_orders_do_not_matter() -> None:
    rng = np.random.default_rng(4)
    r = rng.standard_normal((40, 5, 6))
    x = fp.quantize(r, "e4m3")
    plain = fp.errors(r, x)
    wide = np.full((40, 5, 12), 7.0)
    wide[..., ::2] = x
    for other in (np.asfortranarray(x), wide[..., ::2], x[::-1][::-1], x.astype(">f8"), x.tolist()):
        assert fp.errors(r, other) == plain
    assert fp.errors(np.moveaxis(r, 0, 2), np.moveaxis(x, 0, 2)).largest_ulp == plain.largest_ulp
    ml_dtypes = pytest.importorskip("ml_dtypes")
    codes = x.astype(ml_dtypes.float8_e4m3fn)
    assert fp.errors(r, codes) == plain
    assert fp.errors(codes, codes).ulp_format == "float8_e4m3fn"
    assert fp.errors(1.0, np.float32(1.5)).gain == 1.5  # 0-d


def test_chunks_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    r = (rng.standard_normal(1000) * 2.0 ** rng.integers(-900, 900, 1000)).reshape(10, 100)
    x = r * (1 + 0.01 * rng.standard_normal(r.shape)) + 1e-3
    whole = fp.errors(r, x)
    for chunk in (1, 7, 100, 999):
        monkeypatch.setattr(comparison, "CHUNK", chunk)
        _close(fp.errors(r, x), whole)


def test_merging_is_joining() -> None:
    rng = np.random.default_rng(6)
    r = np.concatenate([rng.standard_normal(50), [NAN, INF], 1e200 * rng.standard_normal(20), np.zeros(5)])
    x = r * 1.125
    x[:3] = 0
    parts = [fp.errors(r[a:b], x[a:b]) for a, b in ((0, 0), (0, 10), (10, 60), (60, 77))]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    _close(merged, fp.errors(r, x))
    constant = fp.errors([0.1, 0.3], [0.2, 0.4])
    assert fp.errors(np.zeros(3), np.full(3, 0.1)).merge(fp.errors(np.zeros(7), np.full(7, 0.1))).bias_z == INF
    with pytest.raises(ValueError, match="ulps of float64 and of float32"):
        constant.merge(fp.errors(np.float32([1.0]), [1.0]))
    with pytest.raises(TypeError, match="merge takes Errors"):
        constant.merge(1)  # type: ignore[arg-type]


def _close(a: fp.Errors, b: fp.Errors) -> None:
    ours, theirs = a.row(), b.row()
    assert ours.pop("ulp_format") == theirs.pop("ulp_format")
    assert ours == pytest.approx(theirs, rel=1e-11, nan_ok=True)


def test_a_large_offset_does_not_hide_the_spread() -> None:
    """Errors of 1 +- 2^-30: the spread is 2^-60 of the mean square, and sums of squares would have lost it."""
    error = 1 + 2.0**-30 * np.tile([1.0, -1.0], 100_000)
    found = fp.errors(np.zeros(error.size), error)
    assert found.bias == 1
    assert found.bias_z == pytest.approx(2.0**30 * math.sqrt(error.size - 1), rel=1e-9)


def test_the_record_is_a_row_and_says_what_it_holds() -> None:
    found = fp.errors([1.0, 2.0], [1.0, 2.5])
    assert found.row()["relative_rms"] == found.relative_rms
    assert "sqnr_db=13.01" in repr(found) and "sums" not in repr(found)
    with pytest.raises(AttributeError):
        found.elements = 3  # type: ignore[misc]


# ---- one definition ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["fp16", "e4m3", "e2m1"])
@pytest.mark.parametrize("case", ["random", "overflow", "zeros", "huge"])
def test_tensor_stats_says_the_same(name: str, case: str) -> None:
    rng = np.random.default_rng(7)
    x: Any = {"overflow": [1e30, 1.0], "zeros": [0.0, 0.0], "huge": [1e300, 1e-300]}.get(
        case, rng.standard_normal(5000)
    )
    cast = fp.Cast(name, overflow="saturate" if case == "huge" else "ieee")
    loss = fp.tensor_stats(x, cast)[cast]
    found = fp.errors(x, fp.quantize(np.float64(x), cast))
    ours = {"sqnr_db": found.sqnr_db, "cosine": found.cosine, "gain": found.gain, "mean_error": found.bias}
    for figure, value in ours.items():
        assert getattr(loss, figure) == pytest.approx(value, rel=1e-11, abs=1e-18, nan_ok=True), figure


def test_scaled_arrays_say_the_same() -> None:
    x = np.random.default_rng(8).standard_normal((8, 64)).astype(np.float32)
    for made in (scaling.mx(x, "e4m3"), scaling.nvfp4(x), scaling.per_tensor(x, "e4m3")):
        assert made.errors(x) == fp.errors(x, made.dequantize())
        assert made.errors(x, np.float64) == fp.errors(x, made.dequantize(np.float64))


def test_stats_holds_it_too() -> None:
    assert stats.errors is fp.errors and stats.Errors is fp.Errors
