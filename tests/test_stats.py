"""What a cast loses: every number of a row against the definition in naive_stats.py, and rules against literals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from edges import NAMED
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from naive_stats import large_row, random_word, row

import fpemu as fp
from fpemu import FORMATS, Cast, CastLoss, FloatFormat, Overflow, Rounding, Stochastic, Subnormals
from fpemu.policies import as_cast
from fpemu.targets.cpu_stats import BLOCK, COLUMNS, SEGMENT
from fpemu.targets.host import FREEZE_FROM

Array = np.ndarray[Any, Any]
INF, NAN = math.inf, math.nan
FLOATS = ("float16", "float32", "float64")
USUAL = (Rounding.NEAREST_EVEN, Rounding.STOCHASTIC)
P3109 = ("binary8p4se", "binary8p3sf", "binary8p4ue", "binary8p1uf", "binary6p1ue", "binary4p2se", "binary12p5se")
ATTRIBUTES = tuple(field.name for field in fields(CastLoss))
COUNTED = ("new_zero", "new_subnormal", "saturated", "nonfinite_out")
#: Float sums of one tensor are fixed; against an exact sum, or that of another split, they are right to this.
CLOSE = 1e-12
DECIBELS = 10 * CLOSE


# ---- comparing -------------------------------------------------------------------------------------------------------
def same(name: str, got: Any, right: Any, error_size: float) -> bool:
    """Counts and texts are equal; floats too, or they are as close as sums can be."""
    if not isinstance(right, float):
        return type(got) is type(right) and got == right
    if math.isnan(right) or math.isinf(right):
        return np.array_equal(got, right, equal_nan=True)
    if name == "mean_error":  # errors of both signs cancel
        return math.isclose(got, right, rel_tol=0, abs_tol=CLOSE * error_size)
    if name == "sqnr_db":
        return math.isclose(got, right, rel_tol=0, abs_tol=DECIBELS)
    return math.isclose(got, right, rel_tol=4e-16 if name == "max_relative_error" else CLOSE, abs_tol=1e-300)


def assert_same(got: dict[str, Any], right: dict[str, Any], about: object = "") -> None:
    right = dict(right)
    error_size = right.pop("error_size", NAN)
    wrong = [f"{name}: {got[name]!r}, not {value!r}" for name, value in right.items()
             if not same(name, got[name], value, error_size)]  # fmt: skip
    assert not wrong, f"{about}: {'; '.join(wrong)}"


def check(x: Array, cast: Any, scale: float = 1.0, **options: int) -> dict[str, Any]:
    """Every attribute is that of the definition."""
    right = row(x, cast, scale, **options)
    (got,) = fp.tensor_stats(x, cast, scale, **options).rows()
    assert tuple(got) == ATTRIBUTES
    assert set(right) == {*ATTRIBUTES, "error_size"}
    assert_same(got, right, (cast, scale, x.dtype))
    return got


def some(dtype: str, low: int = -30, high: int = 18, size: int = 40, seed: int = 0) -> Array:
    """Values of both signs spread evenly over binades, exact powers of two, zeros of both signs."""
    rng = np.random.default_rng([seed, size, high - low])
    sign = rng.choice([-1.0, 1.0], size)
    spread = sign * np.exp2(rng.uniform(low, high, size))
    powers = np.exp2(rng.integers(low, high, 8))
    with np.errstate(over="ignore"):
        x = np.concatenate([spread, powers, [0.0, -0.0]]).astype(dtype)
    return x[np.isfinite(x)]


def reaching(format: FloatFormat, dtype: str, **options: Any) -> Array:
    """Values from below the smallest of the format to above its largest, as far as the dtype goes."""
    info = np.finfo(dtype)
    low = max(format.finest_exponent - 3, int(info.minexp) - info.nmant)
    x = some(dtype, low, min(format.emax + 3, int(info.maxexp) - 1), **options)
    smallest = 2.0**format.finest_exponent
    ends = np.array([format.max * 2, -format.max * 2, smallest / 4, -smallest / 2, format.smallest_normal * 0.75])
    with np.errstate(over="ignore"):
        return np.concatenate([x, [end for end in ends.astype(dtype) if 0 < abs(end) < INF]]).astype(dtype)


@pytest.mark.nojit
# ---- the definition itself -------------------------------------------------------------------------------------------
def test_definition_by_hand() -> None:
    """e4m3 of 2^-11, 3 * 2^-9, 1, 1.0625 (a tie to 1), 500: worked out on paper."""
    x = np.array([2.0**-11, 3 * 2.0**-9, 0.0, 1.0, 1.0625, 500.0])
    found = row(x, Cast("e4m3", overflow="saturate"))
    energy = 2.0**-22 + 9 * 2.0**-18 + 1 + 1.0625**2 + 250000
    assert (found["zeros"], found["nonzero"], found["codes_used"]) == (1, 5, 4)
    assert [found[kind] for kind in COUNTED] == [1, 1, 1, 0]
    assert found["new_zero_of_energy"] == pytest.approx(2.0**-22 / energy, rel=1e-15)
    assert found["saturated_of_energy"] == pytest.approx(250000 / energy, rel=1e-15)
    assert found["mean_error"] == pytest.approx((-(2.0**-11) - 0.0625 - 52) / 6, rel=1e-15)
    assert found["sqnr_db"] == pytest.approx(10 * math.log10(energy / (2.0**-22 + 0.0625**2 + 2704)), rel=1e-15)
    assert found["gain"] == pytest.approx((9 * 2.0**-18 + 1 + 1.0625 + 224000) / energy, rel=1e-15)
    assert found["max_relative_error"] == 1.0
    norms = (9 * 2.0**-18 + 2 + 448**2) * energy
    assert found["cosine"] == pytest.approx((9 * 2.0**-18 + 2.0625 + 224000) / math.sqrt(norms), rel=1e-15)


@pytest.mark.parametrize("cast", [Cast("e4m3"), Cast("e4m3", overflow="saturate"), Cast("fp16", "toward-zero")])
def test_definitions_agree(cast: Cast) -> None:
    """The definition for large tensors is that for small ones."""
    for x in (some("float32"), some("float32", -30, 5), some("float32", -149, -110)):
        exact, quick = row(x, cast), large_row(x, cast)
        assert_same(exact, quick, cast)
        assert {"new_subnormal", "saturated", "saturated_of_energy", "size"} <= set(quick)


def test_words_of_the_definition_are_those_of_encode() -> None:
    """Of a tie, half of the words go up: the words that the definition uses tell which."""
    x, cast = np.full(64, 2.5), Cast("binary5p2sf", "stochastic", random_bits=1)
    up = fp.decode(fp.encode(x, cast, seed=99, offset=7), cast.format) > 2.5
    assert up.tolist() == [random_word(99, 7 + i, cast) == 1 for i in range(64)]
    assert 10 < up.sum() < 54


# ---- every attribute, over formats, dtypes and policies --------------------------------------------------------------
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [*NAMED, *P3109])
def test_formats(name: str, dtype: str) -> None:
    """Default policies: losses at both ends.  Saturating too, where the moments are finite."""
    format = FORMATS[name]
    x = reaching(format, dtype)
    if name == "float32" and dtype == "float64":
        x = np.concatenate([x, [2.0**128 - 2.0**103, np.nextafter(2.0**128 - 2.0**103, 0)]])
    got = check(x, name)
    check(x, Cast(name, overflow="saturate"))
    if format.has_zero and dtype == "float64":
        assert min(got["new_zero"], got["saturated"]) > 0  # the inputs reach both ends
        assert got["new_subnormal"] > 0 or format.precision == 1
    check(x[(np.abs(x) <= format.max) & (x != 0) & (x > 0)], name)


@pytest.mark.nojit
@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize("name", ["fp16", "e5m2", "e4m3", "e4m3fnuz", "e2m1", "e8m0", "binary8p4ue", "binary8p4sf"])
def test_overflow(name: str, overflow: Overflow) -> None:
    """``saturated`` is a matter of rounding alone; the policy decides what is finite."""
    x = reaching(FORMATS[name], "float32")
    got = check(x, Cast(name, overflow=overflow))
    assert got["saturated"] == fp.tensor_stats(x, name)[name].saturated > 0


@pytest.mark.nojit
@pytest.mark.parametrize(
    ("name", "rounding"),
    [
        # (Every rounding is a loop of its own, and every kind of format.)
        pytest.param(name, rounding, marks=[pytest.mark.exhaustive] * (name != "fp16" and rounding not in USUAL))
        for name in ("fp16", "e4m3", "e3m2", "e8m0", "binary8p4ue")
        for rounding in Rounding
    ],
)
def test_roundings(name: str, rounding: Rounding) -> None:
    format = FORMATS[name]
    x = np.concatenate([reaching(format, "float64", size=30), np.array([1, 1.01, 1.99]) * format.max])
    check(x, Cast(format, rounding, "saturate"), seed=3)
    check(x.astype(np.float32), Cast(format, rounding), seed=3)


@pytest.mark.nojit
@pytest.mark.parametrize("subnormals", Subnormals)
@pytest.mark.parametrize("name", ["fp16", "bf16", "e5m2", "binary8p4se"])
def test_subnormal_policies(name: str, subnormals: Subnormals) -> None:
    """Around the smallest normal numbers of the target and of the source."""
    format = FORMATS[name]
    for dtype in FLOATS:
        emin = int(np.finfo(dtype).minexp)
        for low in {emin - 8, max(format.emin - format.precision - 1, emin - 8)}:
            check(some(dtype, low, low + format.precision + 10, 30), Cast(format, subnormals=subnormals))


@pytest.mark.parametrize("variant", Stochastic)
@pytest.mark.parametrize("random_bits", [1, 4, 32])
def test_stochastic(variant: Stochastic, random_bits: int) -> None:
    """The words are those of ``encode`` for the same seed and index, scaled or not."""
    cast = Cast("e4m3", "stochastic", "saturate", random_bits=random_bits, stochastic=variant)
    x = some("float32", -14, 10)
    rows = [check(x, cast, scale, seed=seed, offset=offset)
            for scale, seed, offset in [(1.0, 0, 0), (1.0, 2**64 - 1, 0), (1.0, 0, 2**40), (4.0, 5, 9)]]  # fmt: skip
    assert len({got["mean_error"] for got in rows}) == len(rows)
    a = fp.tensor_stats(x, cast, seed=5)["e4m3"]
    b = fp.tensor_stats(x[:17], cast, seed=5).merge(fp.tensor_stats(x[17:], cast, seed=5, offset=17))["e4m3"]
    assert (a.codes_used, a.new_zero, a.max_relative_error) == (b.codes_used, b.new_zero, b.max_relative_error)


@pytest.mark.parametrize("nan", ["canonical", "unsigned", "max", "zero", "raise"])
@pytest.mark.parametrize("name", ["fp16", "e4m3", "e4m3fnuz", "e2m1", "e3m2", "e8m0"])
def test_nonfinite_inputs(name: str, nan: str) -> None:
    """Infinities and NaNs among the inputs are counted, and in nothing else, whatever becomes of them."""
    x = reaching(FORMATS[name], "float32", size=20)
    dirty = np.concatenate([[NAN, INF], x, [-INF, NAN], -x[:3], [np.copysign(NAN, -1)]]).astype(np.float32)
    clean = np.concatenate([x, -x[:3]])
    got = check(dirty, Cast(name, nan=nan))
    (right,) = fp.tensor_stats(clean, Cast(name, nan=nan)).rows()
    differing = {"size", "nonfinite_in", "nonfinite_in_of_size", "zeros_of_size"}
    assert_same({k: v for k, v in got.items() if k not in differing} | dict.fromkeys(differing),
                {k: v for k, v in right.items() if k not in differing} | {"error_size": FORMATS[name].max})  # fmt: skip
    assert got["nonfinite_in"] == 5
    assert got["nonfinite_in_of_size"] == 5 / dirty.size


def test_ml_dtypes_inputs() -> None:
    """Every dtype of ml_dtypes as a source: all codes of the narrow ones, NaNs and infinities among them."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for name in NAMED:
        if not hasattr(ml_dtypes, name):
            continue
        format = FORMATS[name]
        codes = np.arange(1 << min(format.bits, 16), dtype=format.code_dtype)[:: 1 << max(format.bits - 7, 0)]
        x = codes.view(getattr(ml_dtypes, name))
        for target in ("e4m3", "e5m2", "fp16", "e2m1"):
            check(x, Cast(target, overflow="saturate"))
        check(x, Cast("e4m3", subnormals="flush-input"), 2.0**-3)


BITS = {"float32": np.uint32, "float64": np.uint64, "float16": np.uint16}


@st.composite
def tensors(draw: st.DrawFn) -> Array:
    """Any bits of a dtype, or values near the edges of some format."""
    dtype = draw(st.sampled_from(FLOATS))
    size = draw(st.integers(0, 12))
    if draw(st.booleans()):
        return draw(hnp.arrays(BITS[dtype], size)).view(dtype)
    format = FORMATS[draw(st.sampled_from(("fp16", "e4m3", "e5m2", "e2m1", "e8m0", "binary8p4ue")))]
    landmarks = [format.max, format.max * 1.0625, format.smallest_normal, format.smallest_subnormal, 1.0]
    factors = [1.0, 0.5, 1.5, 2.0, 1 - 2.0**-11, 1 + 2.0**-10, -1.0]
    values = [draw(st.sampled_from(landmarks)) * draw(st.sampled_from(factors)) for _ in range(size)]
    with np.errstate(over="ignore"):
        return np.array(values, np.float64).astype(dtype)


@settings(max_examples=150)
@given(
    tensors(),
    st.sampled_from(("fp16", "bf16", "e4m3", "e5m2", "e4m3fnuz", "e2m1", "e8m0", "binary8p4ue")),
    st.sampled_from((Rounding.NEAREST_EVEN, Rounding.TOWARD_ZERO, Rounding.STOCHASTIC)),
    st.sampled_from(Overflow),
    st.sampled_from((Subnormals.KEEP, Subnormals.FLUSH_INPUT)),
    st.integers(-100, 100),
)
def test_any_tensor(
    x: Array, name: str, rounding: Rounding, overflow: Overflow, subnormals: Subnormals, k: int
) -> None:
    check(x, Cast(name, rounding, overflow, subnormals), 2.0**k, seed=1)


# ---- rules, one by one -----------------------------------------------------------------------------------------------
def test_minus_zero_is_a_zero() -> None:
    got = fp.tensor_stats(np.array([-0.0, 0.0, -0.0, 1.0], np.float32), "e4m3")
    assert (got.zeros, got.nonzero, got["e4m3"].new_zero, got["e4m3"].zeros_of_size) == (3, 1, 0, 0.75)
    assert got["e4m3"].codes_used == 3  # 0x00 and 0x80 are two codes


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
@pytest.mark.parametrize("order", ["C", "strided"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_empty(shape: tuple[int, ...], order: str, dtype: str) -> None:
    """A share of nothing is NaN."""
    x = np.zeros(shape, dtype) if order == "C" else np.zeros((*shape, 4), dtype)[..., ::2]
    got = check(x, "e4m3")
    assert (got["size"], got["codes_used"]) == (0, 0)
    for name in ATTRIBUTES:
        if isinstance(got[name], float) and name != "scale":
            assert math.isnan(got[name]), name


@pytest.mark.parametrize("size", [1, 5])
def test_all_zero(size: int) -> None:
    got = check(np.zeros(size, np.float32), "fp16")
    assert (got["zeros_of_size"], got["mean_error"], got["nonfinite_in_of_size"]) == (1, 0, 0)
    for name in ("sqnr_db", "cosine", "gain", "max_relative_error", "new_zero_of_nonzero", "saturated_of_energy"):
        assert math.isnan(got[name]), name


def test_only_nonfinite() -> None:
    got = check(np.array([INF, NAN, -INF], np.float32), "e4m3")
    assert (got["nonzero"], got["nonfinite_in"], got["codes_used"]) == (0, 3, 0)
    assert math.isnan(got["mean_error"])


@pytest.mark.nojit
@pytest.mark.parametrize("dtype", FLOATS)
def test_single_elements(dtype: str) -> None:
    exact = check(np.array([1.5], dtype), "e4m3")
    assert (exact["sqnr_db"], exact["cosine"], exact["gain"], exact["max_relative_error"]) == (INF, 1, 1, 0)
    gone = check(np.array([2.0**-11], dtype), "e4m3")
    assert (gone["sqnr_db"], gone["gain"], gone["max_relative_error"], gone["new_zero_of_energy"]) == (0, 0, 1, 1)
    assert math.isnan(gone["cosine"])  # of a vector and nothing
    (shaped,) = fp.tensor_stats(np.array(1.5, dtype), "e4m3").rows()
    assert shaped == exact


@pytest.mark.nojit
def test_newly_subnormal() -> None:
    """Subnormal results of inputs that were normal in their own dtype."""
    for dtype, new in (("float16", 0), ("float32", 1), ("float64", 1)):
        got = check(np.array([2.0**-15], dtype), "fp16")  # subnormal as float16, normal as the others
        assert (got["new_subnormal"], got["new_zero"]) == (new, 0)
    tiny = np.array([2.0**-130, 2.0**-126, 1.0], np.float32)
    assert check(tiny, "bf16")["new_subnormal"] == 0
    assert check(tiny.astype(np.float64), "bf16")["new_subnormal"] == 1
    # The dtype of the input is what matters, not the product.
    half = np.array([1.5 * 2.0**-14, 1.5 * 2.0**-15], np.float16)
    for scale in (0.25, 0.3):
        assert check(half, "fp16", scale)["new_subnormal"] == 1
    assert check(half[1:], "fp16", 0.9)["new_subnormal"] == 0
    assert check(half[1:], "binary8p4ue", 1.4)["new_subnormal"] == 0
    # What becomes subnormal by rounding: 2^-14 (1 - 2^-12) rounds to normal, 2^-14 (1 - 2^-11) is a tie to it.
    edge = 2.0**-14 * np.array([1 - 2.0**-12, 1 - 2.0**-11, 1 - 2.0**-10])
    assert check(edge, "fp16")["new_subnormal"] == 1


@pytest.mark.nojit
def test_saturated() -> None:
    """Rounded beyond the largest finite value: first rounding, then the test; policies do not matter."""
    for overflow, rounding in itertools.product(Overflow, ("nearest-even", "toward-zero", "up", "down")):
        x = np.array([65504, 65519.9, 65520, 65535.9, 65536, -65519.9, -65520, -65536])
        right = {"nearest-even": 5, "toward-zero": 2, "up": 5, "down": 4}[rounding]
        assert check(x, Cast("fp16", rounding, overflow))["saturated"] == right
    assert check(np.array([464.0, 464.1, 448.0, 480.0]), "e4m3")["saturated"] == 2  # 464 is a tie to 448
    assert check(np.array([61440.0, 61439.9]), "e5m2")["saturated"] == 1
    negatives = np.array([-1.0, -(2.0**-30), 1.0])
    assert check(negatives, "binary8p4ue")["saturated"] == 1  # the second rounds to zero
    assert check(negatives, Cast("binary8p4ue", overflow="saturate"))["new_zero"] == 2
    assert check(negatives, "e8m0")["saturated"] == 2
    flushed = check(np.array([-(2.0**-17)]), Cast("binary8p4ue", subnormals="flush-output"))
    assert (flushed["new_zero"], flushed["saturated"]) == (1, 0)  # it is rounded to zero


@pytest.mark.parametrize("signs", [(1, 1), (1, -1)])
@pytest.mark.parametrize("gap", [0, COLUMNS, SEGMENT])
def test_nonfinite_results(signs: tuple[int, int], gap: int) -> None:
    """Infinite or NaN results: no SQNR, no moments; overflows of opposite signs, wherever they are, cancel nothing."""
    x = np.zeros(gap + 2, np.float32)
    x[0], x[-1] = signs[0] * 1e6, signs[1] * 1e6
    for name in ("fp16", "e4m3"):
        got = fp.tensor_stats(x, name)[name]
        assert (got.nonfinite_out, got.saturated, got.sqnr_db, got.max_relative_error) == (2, 2, -INF, INF)
        assert all(math.isnan(v) for v in (got.cosine, got.gain, got.mean_error))
        assert (got.nonfinite_out_of_nonzero, got.nonfinite_out_of_energy) == (1, 1)
        parts = fp.tensor_stats(x[:1], name).merge(fp.tensor_stats(x[1:], name))
        assert_same(parts.rows()[0], fp.tensor_stats(x, name).rows()[0])


@pytest.mark.nojit
def test_zero_where_there_is_none() -> None:
    """Zero becomes NaN in E8M0: that is a result which is not finite, though of no non-zero."""
    got = check(np.array([0.0, 1.0, 2.0], np.float32), "e8m0")
    assert (got["nonfinite_out"], got["sqnr_db"], got["max_relative_error"]) == (0, -INF, INF)
    assert check(np.array([0.0, 1.0], np.float32), Cast("e8m0", overflow="saturate"))["sqnr_db"] > 700


def test_zero_where_there_is_none_and_two_nans() -> None:
    """The NaN that zero becomes may be any of the format's."""
    format = FloatFormat("two NaNs", 8, 1, 127, signed=False, infinities=False, high_nans=2, subnormals=False)
    for nan_code in (None, 0xFE, 0xFF):
        assert check(np.array([0.0, 1.0]), Cast(format, nan_code=nan_code))["max_relative_error"] == INF


def test_cosine_is_no_more_than_one() -> None:
    """Of a single value it is 1, and nothing else, however the sums round."""
    stats = [fp.tensor_stats(np.array([x]), "e4m3")["e4m3"] for x in np.random.default_rng(0).uniform(-2, 2, 400)]
    assert all(1 - 2.0**-51 <= loss.cosine <= 1 for loss in stats if loss.gain)
    assert min(loss.gain for loss in stats if loss.gain) < 0.97


# ---- float64 beyond the squares of float64 ---------------------------------------------------------------------------
@pytest.mark.parametrize("magnitude", [1e300, 1e-300, 1e160, 1e-160, 5e-324, 1.7e308])
def test_energies_beyond_float64(magnitude: float) -> None:
    """Shares, SQNR, cosine and gain are told although the sums of squares are beyond float64 on either side."""
    x = magnitude * np.array([1.0, -0.75, 0.3, 2.0**-9]) if magnitude > 1e-323 else np.array([5e-324, -1e-323, 0.0])
    for name in ("fp16", "bf16", "e4m3", "float32"):
        check(x, Cast(name, overflow="saturate"))
        check(x, name)
    wide = FloatFormat.ieee(11, 9)
    got = check(x, Cast(wide, overflow="saturate")) if wide.holds_in_float64 and magnitude > 1e-290 else None
    assert got is None or 40 < got["sqnr_db"] < 80
    stats = fp.tensor_stats(x, [])
    assert stats.energy == (INF if magnitude > 1e150 else 0.0 if magnitude < 1e-161 else stats.energy)


@pytest.mark.nojit
@pytest.mark.parametrize("cast", [Cast("e8m0", overflow="saturate"), Cast("fp16", "up"), Cast("e5m2", "to-odd")])
@pytest.mark.parametrize("magnitude", [1e-300, 1e-150, 3e-160, 1e-320])
def test_results_far_above_the_inputs(cast: Cast, magnitude: float) -> None:
    """A tiny value that becomes the smallest of its format: the error is 10^260 times the value, and is told."""
    check(np.array([magnitude, magnitude * 3]), cast)
    check(np.array([magnitude, magnitude * 3, 1.0]), cast)


def test_both_extremes() -> None:
    check(np.array([1e300, 1e-300, 1.0, -1e-200]), Cast("bf16", overflow="saturate"))
    a, b = np.array([1e300, 3e299]), np.array([1e-300, 3e-301])
    merged = fp.tensor_stats(a, "bf16").merge(fp.tensor_stats(b, "bf16")).rows()[0]
    assert_same(merged, fp.tensor_stats(np.concatenate([a, b]), "bf16").rows()[0])


# ---- scales ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("k", [-140, -30, -9, -1, 1, 12, 40, 126, 200])
def test_power_of_two_scales(k: int, dtype: str) -> None:
    """Exact, whatever the range of the dtype: 2^k x may be beyond float16 or float32."""
    info = np.finfo(dtype)
    for name in ("fp16", "e4m3", "bf16"):
        format = FORMATS[name]
        low = max(format.finest_exponent - 2 - k, int(info.minexp) - info.nmant)
        high = min(format.emax + 2 - k, int(info.maxexp) - 1)
        if low < high:
            check(some(dtype, low, high, 24), Cast(name, overflow="saturate"), 2.0**k)
            check(some(dtype, low, high, 24), Cast(name, subnormals="flush-input"), 2.0**k)


@pytest.mark.parametrize("k", [-990, -700, 700, 1006])
def test_huge_power_of_two_scales(k: int) -> None:
    check(some("float64", -20 - k, min(17 - k, 1022), 24), Cast("e4m3", overflow="saturate"), 2.0**k)
    check(some("float64", max(-20 - k, -1074), 10 - k, 24), "e5m2", 2.0**k)


def test_a_power_of_two_scale_is_a_shift() -> None:
    """x times 2^k under scale 2^-k is x: the same row, but for the scale."""
    x = some("float32", -20, 12)
    for k in (-40, -3, 5, 60):
        (a,), (b,) = (fp.tensor_stats(*args).rows() for args in ((x, "e4m3"), (np.ldexp(x, k), "e4m3", 2.0**-k)))
        ignored = {"scale": 1.0, "mean_error": np.ldexp(b["mean_error"], -k)}
        assert a == b | ignored or _equal_but_nan(a, b | ignored)


def _equal_but_nan(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(v == b[k] or (v != v and b[k] != b[k]) for k, v in a.items())


@pytest.mark.parametrize("scale", [3.0, 0.1, 1000.0, 1e-5, 1 + 2.0**-52, 2.0 / 3, 7e20])
@pytest.mark.parametrize("dtype", FLOATS)
def test_other_scales(scale: float, dtype: str) -> None:
    """The product is rounded once; errors are measured after unscaling."""
    for name in ("e4m3", "fp16", "bf16"):
        check(some(dtype, -20, 12, 24), Cast(name, overflow="saturate"), scale)
    check(some(dtype, -20, 12, 24), Cast("e4m3", "stochastic", "saturate"), scale, seed=2)


@pytest.mark.parametrize(
    ("x", "scale", "kinds"),
    [
        ([1e300], 1e10, (0, 0, 1, 1)),  # a product beyond float64 overflows e5m2 all the same
        ([1e300, 1.0], 1e10, (0, 0, 2, 2)),
        ([1e-300, 1.0], 1e-30, (2, 0, 0, 0)),  # one below float64 is lost all the same
        ([5e-324], 0.7, (1, 0, 0, 0)),
        ([5e-324, 1.7e308], 1e-30, (1, 0, 1, 1)),
    ],
)
def test_products_beyond_float64(x: list[float], scale: float, kinds: tuple[int, ...]) -> None:
    got = fp.tensor_stats(np.array(x), "e5m2", scale)["e5m2"]
    assert tuple(getattr(got, kind) for kind in COUNTED) == kinds
    assert got.sqnr_db == (-INF if kinds[3] else 0.0)
    assert (got.new_zero_of_energy, got.saturated_of_energy) == ((0.0, 1.0) if kinds[2] else (1.0, 0.0))
    check(np.array(x), Cast("e5m2", overflow="saturate"), scale)


def test_products_beyond_float32() -> None:
    got = check(np.array([1e30], np.float32), "e5m2", 1e300)
    assert (got["saturated"], got["nonfinite_out"]) == (1, 1)


@pytest.mark.parametrize("scale", [0, 0.0, -1.0, INF, -INF, NAN, 10**400])
def test_scales_that_are_none(scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be positive and finite"):
        fp.tensor_stats(np.ones(3), "fp16", scale)


@pytest.mark.parametrize("scale", ["2", None, 1j, True, [2.0]])
def test_scales_of_other_types(scale: Any) -> None:
    with pytest.raises(TypeError, match="scale must be a number"):
        fp.tensor_stats(np.ones(3), "fp16", scale)


def test_scales_may_be_of_any_number_type() -> None:
    numbers: tuple[Any, ...]
    x, numbers = some("float32"), (4, 4.0, np.float32(4), np.int64(4))
    rows = [repr(fp.tensor_stats(x, "fp16", s).rows()) for s in numbers]
    assert len(set(rows)) == 1


def test_scale_beyond_the_range() -> None:
    with pytest.raises(ValueError, match="no statistics of float16 times"):
        fp.tensor_stats(np.ones(3), "fp16", 2.0**1020)


# ---- merging ---------------------------------------------------------------------------------------------------------
def assert_merged(merged: fp.TensorStats, whole: fp.TensorStats) -> None:
    a, b = merged.histogram, whole.histogram
    for name in ("exponents", "counts", "powers"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.zeros, a.nonfinite, a.amax) == (b.zeros, b.nonfinite, b.amax)
    assert (merged.size, merged.nonzero, merged.amax) == (whole.size, whole.nonzero, whole.amax)
    assert math.isclose(merged.energy, whole.energy, rel_tol=CLOSE)
    for one, other in zip(merged.rows(), whole.rows(), strict=True):
        error_size = other["max_relative_error"] * whole.amax if other["nonzero"] else 0.0
        assert_same(one, other | {"error_size": error_size})
        np.testing.assert_equal(one["max_relative_error"], other["max_relative_error"])  # exactly


@settings(max_examples=150)
@given(tensors(), st.lists(st.integers(0, 12), max_size=4))
def test_any_split_is_the_whole(x: Array, cuts: list[int]) -> None:
    casts = [Cast("e4m3", overflow="saturate"), Cast("fp16")]
    whole = fp.tensor_stats(x, casts)
    merged = fp.tensor_stats(x[:0], casts)
    for start, stop in itertools.pairwise([0, *sorted(min(cut, x.size) for cut in cuts), x.size]):
        merged = merged.merge(fp.tensor_stats(x[start:stop], casts))
    assert_merged(merged, whole)


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_splits(dtype: str) -> None:
    rng = np.random.default_rng(5)
    size = SEGMENT + 5 * BLOCK + 17
    x = (rng.standard_normal(size) * np.exp(3 * rng.standard_normal(size))).astype(dtype)
    casts: list[Any] = ["fp16", "e4m3", Cast("e5m2", overflow="saturate")]
    whole = fp.tensor_stats(x, casts)
    for cut in (1, BLOCK - 1, SEGMENT, SEGMENT + 1, x.size // 2):
        assert_merged(fp.tensor_stats(x[:cut], casts).merge(fp.tensor_stats(x[cut:], casts)), whole)


@pytest.mark.parametrize("value", [1 / 3, 0.1, 0.7, 1.1, 1e-30, 3.0])
def test_constant_tensors(value: float) -> None:
    """Sums of equal terms round the same way each time: the worst case of a long sum."""
    x = np.full(SEGMENT, value, np.float32)
    stats = fp.tensor_stats(x, "e4m3")
    exact = float(x[0]) ** 2 * SEGMENT
    assert math.isclose(stats.energy, exact, rel_tol=CLOSE)
    assert math.isclose(float(stats.histogram.energies.sum()), exact, rel_tol=CLOSE)
    assert_same(stats.rows()[0], large_row(x, "e4m3") if value > 1e-20 else {})


def test_merge_is_associative_and_commutes() -> None:
    rng = np.random.default_rng(6)
    casts: list[Any] = ["fp16", Cast("e4m3", overflow="saturate")]
    parts = [fp.tensor_stats(rng.standard_normal(1000) * 10.0**e, casts) for e in (-8, 0, 7)]
    a, b, c = parts
    left, right, other = a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)
    assert_merged(left, right)
    assert_merged(left, other)
    nothing = fp.tensor_stats(np.zeros(0), casts)
    assert_merged(a.merge(nothing), a)
    assert_merged(nothing.merge(a), a)


def test_the_largest_error_merges_exactly() -> None:
    """Two errors whose quotients differ by one ulp, while products of theirs round to the same."""
    rng = np.random.default_rng(7)
    cast = Cast("e4m3", overflow="saturate")
    for start in 2.0 ** rng.uniform(34, 44, 300):
        x = np.zeros(COLUMNS + 1, np.float32)
        x[0], x[-1] = start, np.nextafter(np.float32(start), np.float32(INF))
        whole = fp.tensor_stats(x, cast)
        merged = fp.tensor_stats(x[:COLUMNS], cast).merge(fp.tensor_stats(x[COLUMNS:], cast))
        assert merged["e4m3"].max_relative_error == whole["e4m3"].max_relative_error


@pytest.mark.parametrize(
    ("formats", "scale"),
    [(["e4m3"], 1.0), (["e4m3", "fp16", "bf16"], 1.0), (["fp16", "e4m3"], 1.0), (["e4m3", "fp16"], 2.0), ([], 1.0),
     (["e4m3", Cast("fp16", overflow="saturate")], 1.0), ([Cast("e4m3", "up"), "fp16"], 1.0)],
)  # fmt: skip
def test_merging_what_does_not_match(formats: list[Any], scale: float) -> None:
    x = np.ones(3)
    with pytest.raises(ValueError, match="same casts and scale"):
        fp.tensor_stats(x, ["e4m3", "fp16"]).merge(fp.tensor_stats(x, formats, scale))


def test_merging_something_else() -> None:
    stats = fp.tensor_stats(np.ones(3), "fp16")
    with pytest.raises(TypeError, match="takes TensorStats, not int"):
        stats.merge(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes an ExponentHistogram, not TensorStats"):
        stats.histogram.merge(stats)  # type: ignore[arg-type]


# ---- the same bits whatever the threads and the layout ---------------------------------------------------------------
def signature(stats: fp.TensorStats) -> bytes:
    """Every bit of the result."""
    h = stats.histogram
    parts = [repr(stats.rows()), repr((h.zeros, h.nonfinite, h.amax, stats.energy))]
    arrays = [h.exponents, h.counts, h.powers, h.squares]
    return "".join(parts).encode() + b"".join(array.tobytes() for array in arrays)


@pytest.fixture(scope="module")
def large() -> Iterator[dict[str, Array]]:
    rng = np.random.default_rng(8)
    size = 2 * SEGMENT + BLOCK + COLUMNS + 3
    x = rng.standard_normal(size) * np.exp(4 * rng.standard_normal(size))
    x[::1001], x[5::2003], x[7::5003] = 0.0, NAN, INF
    with np.errstate(over="ignore"):
        yield {dtype: x.astype(dtype) for dtype in FLOATS}


CASTS: tuple[Any, ...] = ("fp16", "e4m3", Cast("e5m2", "stochastic", "saturate"))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.usefixtures("threads")
def test_threads_change_nothing(large: dict[str, Array], dtype: str) -> None:
    for scale in (1.0, 3.0):
        found = set()
        for count in (1, 2, 3, 4):
            fp.set_threads(count)
            found.add(signature(fp.tensor_stats(large[dtype], CASTS, scale, seed=4, offset=77)))
        assert len(found) == 1


@pytest.mark.parametrize("dtype", FLOATS)
def test_layout_changes_nothing(large: dict[str, Array], dtype: str) -> None:
    x = large[dtype]
    x = x[: x.size // 6 * 6]
    right = signature(fp.tensor_stats(x, CASTS, seed=4, offset=77))
    spread = np.zeros(2 * x.size, dtype)
    spread[::2] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + x.tobytes(), dtype=np.uint8)[1:].view(dtype)
    layouts = {
        "strided": spread[::2],
        "reversed": x[::-1].copy()[::-1],
        "Fortran": np.asfortranarray(x.reshape(-1, 6)),
        "shaped": x.reshape(2, -1, 3),
        "transposed": x.reshape(-1, 6).T.copy().T,
        "big-endian": x.astype(x.dtype.newbyteorder(">")),
        "big-endian, strided": spread.astype(x.dtype.newbyteorder(">"))[::2],
        "read-only": read_only,
        "unaligned": unaligned,
    }
    for name, layout in layouts.items():
        assert signature(fp.tensor_stats(layout, CASTS, seed=4, offset=77)) == right, name


def test_inputs_stay_as_they_are(large: dict[str, Array]) -> None:
    for x in large.values():
        before = x.tobytes()
        for scale in (1.0, 0.25, 3.0):
            fp.tensor_stats(x, CASTS, scale)
        assert x.tobytes() == before


def test_a_format_beside_others_is_as_alone(large: dict[str, Array]) -> None:
    x = large["float32"][: BLOCK + 100]
    casts: list[Any] = ["fp16", "bf16", "float32", "e4m3", "e8m0", "e2m1", Cast("e4m3", "up")]
    together = fp.tensor_stats(x, casts)
    assert [repr(loss) for loss in together] == [repr(next(iter(fp.tensor_stats(x, cast)))) for cast in casts]


EDGES = (COLUMNS, BLOCK, 2 * BLOCK, SEGMENT, SEGMENT + COLUMNS, SEGMENT + BLOCK)


@pytest.mark.parametrize("size", [edge + d for edge in EDGES for d in (-1, 0, 1)])
def test_sizes_around_blocks_and_segments(size: int) -> None:
    x = np.random.default_rng(size).standard_normal(size).astype(np.float32) * np.float32(100)
    x[-1] = 2.0**-20  # the last one counts
    for cast in (Cast("e4m3", overflow="saturate"), Cast("fp16")):
        (got,) = fp.tensor_stats(x, cast).rows()
        assert_same(got, large_row(x, cast), (size, cast))


@pytest.mark.parametrize("size", [FREEZE_FROM - 1, FREEZE_FROM, FREEZE_FROM + 1])
def test_frozen_kernels(size: int) -> None:
    """From a million elements on, other compiled code does the work."""
    x = np.random.default_rng(9).standard_normal(size).astype(np.float32) * np.float32(100)
    x[-1] = 2.0**-20
    (got,) = fp.tensor_stats(x, "e4m3").rows()
    right = {name: value for name, value in large_row(x, "e4m3").items() if value == value}
    assert_same(got, right)


# ---- the table -------------------------------------------------------------------------------------------------------
def test_one_or_several_formats() -> None:
    x = some("float32")
    stats = fp.tensor_stats(x, ("fp16", FORMATS["e4m3"], Cast("e5m2", overflow="saturate")))
    assert len(stats) == 3
    assert [loss.format for loss in stats] == ["float16", "float8_e4m3fn", "float8_e5m2"]
    assert [r["format"] for r in stats.rows()] == [loss.format for loss in stats]
    for key in ("fp16", "float16", FORMATS["fp16"], Cast("fp16")):
        assert repr(stats[key]) == repr(fp.tensor_stats(x, key)[key])
    assert repr(stats["e5m2"]) == repr(stats[Cast("e5m2", overflow="saturate")])
    assert stats["fp16"].codes_used is None
    two = fp.tensor_stats(x, [Cast("e4m3", "up"), Cast("e4m3", overflow="saturate")])
    told = [(r["format"], r["rounding"], r["overflow"], r["subnormals"]) for r in two.rows()]
    assert told == [("float8_e4m3fn", "up", "ieee", "keep"), ("float8_e4m3fn", "nearest-even", "saturate", "keep")]
    assert two[Cast("e4m3", "up")].rounding == "up"
    with pytest.raises(KeyError, match="2 casts to float8_e4m3fn"):
        two["e4m3"]
    for missing in ("bf16", Cast("e5m2"), Cast("fp16", "up")):
        with pytest.raises(KeyError, match=as_cast(missing).format.name):
            stats[missing]
    with pytest.raises(ValueError, match="valid: float32"):
        stats["nonsense"]


def test_facts_of_the_tensor() -> None:
    """They are of the tensor as given, not of the scaled one."""
    stats = fp.tensor_stats(np.array([3.0, -4.0, 0.0, NAN, INF]), "fp16", 2.0**10)
    assert (stats.size, stats.zeros, stats.nonzero, stats.nonfinite) == (5, 1, 2, 2)
    assert (stats.amax, stats.energy, stats.scale) == (4.0, 25.0, 1024.0)
    assert stats["fp16"].scale == 1024.0


@pytest.mark.parametrize("name", ["binary16p5se", FloatFormat("long", 32, 26, 15)])
def test_formats_without_statistics(name: Any) -> None:
    """Values that are subnormal in float64, or of more than 24 significant bits: refused, and it says so."""
    assert np.isfinite(fp.quantize(1.1, name))
    with pytest.raises(ValueError, match="subnormal in it, or of more than 24 significant bits"):
        fp.tensor_stats(np.array([1.1]), name)


def test_no_nan_in_the_way() -> None:
    """A format without NaN refuses to encode one, and still has statistics: NaN inputs are counted and left out."""
    x = np.array([1.1, NAN], np.float32)
    with pytest.raises(ValueError, match="NaN"):
        fp.encode(x, "e2m1")
    assert (check(x, "e2m1")["nonfinite_in"], check(x, Cast("fp16", nan="raise"))["nonfinite_in"]) == (1, 1)


# ---- errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("x", "formats", "error", "message"),
    [
        (np.arange(3), "fp16", TypeError, "int64 are not taken"),
        ([1, 2], "fp16", TypeError, "int64 are not taken"),
        (np.ones(2, complex), "fp16", TypeError, "complex128 are not taken"),
        (np.ones(2, np.longdouble), "fp16", TypeError, "not taken"),
        (np.ma.masked_array([1.0], [True]), "fp16", TypeError, "masked"),
        (["a"], "fp16", TypeError, "not taken"),
        (np.ones(2), "fp99", ValueError, "valid: float32"),
        (np.ones(2), ["fp16", "fp99"], ValueError, "valid: float32"),
        (np.ones(2), [5], TypeError, "a format is a name, a FloatFormat or a dtype"),
        (np.ones(2), 5, TypeError, "format"),
        (np.ones(2), None, TypeError, "format"),
        (np.ones(2), "binary16p2se", ValueError, "float64 cannot hold"),
        (np.ones(2), Cast("e4m3", via="fp16"), ValueError, "via"),
    ],
)
def test_bad_input(x: Any, formats: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fp.tensor_stats(x, formats)


@pytest.mark.parametrize("name", ["seed", "offset"])
@pytest.mark.parametrize("value", [-1, 2**64, "a", 1.0])
def test_bad_counters(name: str, value: Any) -> None:
    error = ValueError if isinstance(value, int) else TypeError
    for function in (fp.tensor_stats, fp.encode):
        with pytest.raises(error, match=name):
            function(np.ones(3), Cast("fp16", "stochastic"), **{name: value})


def test_offsets_wrap_as_those_of_encode() -> None:
    x, cast = np.full(BLOCK + 10, 1.1, np.float32), Cast("e4m3", "stochastic")
    for offset in (2**64 - 5, 2**63):
        codes = fp.encode(x, cast, offset=offset)
        up = np.mean(fp.decode(codes, "e4m3").astype(np.float64) - x.astype(np.float64))
        assert fp.tensor_stats(x, cast, offset=offset)["e4m3"].mean_error == pytest.approx(up, rel=1e-9)


# ---- inside the loops -----------------------------------------------------------------------------------------------
@pytest.mark.nojit
def test_statistics_taken_in_between_do_not_matter() -> None:
    """A signal handler that takes statistics itself, just when a segment is done."""
    from fpemu.targets import host_stats

    x = 1 + np.random.default_rng(0).random(300, np.float32)
    one = host_stats._cast_pass(Cast("e4m3"), host_stats.FLOAT32, host_stats.Scale.of(1.0), False)

    def interrupted(*arguments: Any) -> None:
        one.driver(*arguments)
        fp.tensor_stats(np.full(10, 1e-30, np.float32), "e4m3")

    parts = [
        host_stats._cast_segment(x.view(np.uint32), one._replace(driver=driver), np.uint64(0), 0, True, 1.0)
        for driver in (one.driver, interrupted)
    ]
    assert parts[0].largest == parts[1].largest < 0.1


@pytest.mark.nojit
def test_zeros_that_become_nan_stay_out_of_the_sums() -> None:
    part = fp.tensor_stats(np.array([0.0, 1.0, 3.0, 5.0], np.float32), "e8m0").formats[0]
    assert all(math.isfinite(mantissa) for mantissa, _ in part.sums)
