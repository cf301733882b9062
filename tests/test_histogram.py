"""The exponent histogram, and what it says about loss scales, against casting every element at every scale."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import naive_stats
import numpy as np
import pytest
from edges import NAMED
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from naive_stats import fate

import fpemu as fp
from fpemu import FORMATS, Band, ExponentHistogram, FloatFormat, Overflow, Rounding
from fpemu.reference import power_of_two
from fpemu.targets.cpu_stats import BLOCK, SEGMENT

Array = np.ndarray[Any, Any]
INF, NAN = math.inf, math.nan
FLOATS = ("float16", "float32", "float64")
BITS = {"float16": np.uint16, "float32": np.uint32, "float64": np.uint64}
WIDTHS: dict[str, Any] = {"float16": 16, "float32": 32, "float64": 64}
EXACT = (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO)
FORMATS_HERE = ("fp16", "bf16", "e4m3", "e5m2", "e4m3fnuz", "e2m1", "e2m3", "binary8p4se", "binary8p3sf", "binary6p1se")
#: One significant bit and subnormals field, ties by the significand: a tie at half of the smallest goes to zero.
ONE_BIT = FloatFormat("one bit", 5, 1, 7, infinities=False, ties="significand")
CLOSE = 1e-12


def check(x: Array) -> ExponentHistogram:
    """Every attribute is that of the definition."""
    h, right = fp.exponent_histogram(x), naive_stats.histogram(x)
    filled = sorted(right.counts)
    expected = np.arange(filled[0], filled[-1] + 1) if filled else np.zeros(0)
    np.testing.assert_array_equal(h.exponents, expected)
    assert [h.exponents.dtype, h.counts.dtype, h.powers.dtype] == [np.dtype(np.int64)] * 3
    assert h.counts.tolist() == [right.counts[e] for e in h.exponents]
    assert h.powers.tolist() == [right.powers[e] for e in h.exponents]
    for e, square, energy in zip(h.exponents.tolist(), h.squares, h.energies, strict=True):
        exact = right.energies.get(e, Fraction(0))
        assert math.isclose(square, exact / power_of_two(2 * e), rel_tol=CLOSE)
        assert math.isclose(energy, naive_stats.nearest_float(exact), rel_tol=CLOSE, abs_tol=1e-322)
    assert (h.zeros, h.nonfinite) == (right.zeros, right.nonfinite)
    assert (h.nonzero, h.size) == (right.counts.total(), x.size)
    assert Fraction(h.amax) == right.amax
    assert math.isclose(h.energy, naive_stats.nearest_float(right.energy), rel_tol=CLOSE, abs_tol=1e-322)
    return h


def ulps_around(values: Array) -> Array:
    """Values and their neighbours, of both signs."""
    near = np.concatenate([values, np.nextafter(values, np.inf), np.nextafter(values, 0)])
    return np.concatenate([near, -near]).astype(values.dtype)


# ---- the bins --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_binade(dtype: str) -> None:
    """Powers of two and their neighbours over the whole dtype, each subnormal binade among them."""
    info = np.finfo(dtype)
    exponents = np.arange(info.minexp - info.nmant, info.maxexp)
    powers = np.ldexp(np.ones(1, dtype), exponents.astype(np.int32)).astype(dtype)
    h = check(ulps_around(powers))
    assert h.exponents[0] == info.minexp - info.nmant
    assert h.exponents[-1] == info.maxexp - 1
    assert h.powers.min() >= 2  # of both signs


@pytest.mark.nojit
def test_by_hand() -> None:
    h = check(np.array([1.0, -1.0, 1.5, 4.0, -0.0, 0.0, NAN, -INF, 0.3]))
    assert h.exponents.tolist() == [-2, -1, 0, 1, 2]
    assert h.counts.tolist() == [1, 0, 3, 0, 1]
    assert h.powers.tolist() == [0, 0, 2, 0, 1]
    assert h.energies.tolist() == [pytest.approx(0.09), 0, 4.25, 0, 16]
    assert (h.zeros, h.nonfinite, h.amax, h.size) == (2, 2, 4.0, 9)


@pytest.mark.nojit
@settings(max_examples=300)
@given(st.data(), st.sampled_from(FLOATS))
def test_any_bits(data: st.DataObject, dtype: str) -> None:
    check(data.draw(hnp.arrays(BITS[dtype], st.integers(0, 30))).view(dtype))


def test_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for name in NAMED:
        if hasattr(ml_dtypes, name):
            format = FORMATS[name]
            check(np.arange(1 << min(format.bits, 12), dtype=format.code_dtype).view(getattr(ml_dtypes, name)))


@pytest.mark.parametrize("values", [[], [0.0, -0.0], [NAN, INF], [[], []]])
@pytest.mark.parametrize("dtype", FLOATS)
def test_nothing_in_the_bins(values: list[Any], dtype: str) -> None:
    h = check(np.array(values, dtype))
    assert (h.exponents.size, h.energy, h.amax) == (0, 0, 0)
    for found in (h.lost_to_zero("fp16", [-3, 0, 3]), h.subnormal_bounds("fp16", [0]), h.saturated_bounds("fp16", [0])):
        for name, numbers in found.items():
            assert np.all(numbers == 0) if name in ("count", "energy") else np.isnan(numbers).all(), name
    assert h.band("fp16") == Band(None, None)


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK + 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT + 5])
@pytest.mark.parametrize("dtype", FLOATS)
def test_large_tensors(size: int, dtype: str) -> None:
    """Blocks and segments join to what NumPy says of the whole."""
    x = (np.random.default_rng(size).standard_normal(size) * 8).astype(dtype)
    x[0], x[-1], x[size // 2] = 2.0**-20, 2.0**14, 0.0
    h = fp.exponent_histogram(x)
    mantissa, exponent = np.frexp(np.abs(x.astype(np.float64)))
    exponent, mantissa = exponent[mantissa > 0] - 1, mantissa[mantissa > 0]
    np.testing.assert_array_equal(h.counts, np.bincount(exponent + 20))
    np.testing.assert_array_equal(h.powers, np.bincount(exponent + 20, mantissa == 0.5))
    for e, square in zip(h.exponents, h.squares, strict=True):
        assert math.isclose(square, math.fsum(4 * mantissa[exponent == e] ** 2), rel_tol=CLOSE)
    assert (h.zeros, h.amax) == (x.size - mantissa.size, 2.0**14)


# ---- merging ---------------------------------------------------------------------------------------------------------
def assert_same(a: ExponentHistogram, b: ExponentHistogram) -> None:
    for name in ("exponents", "counts", "powers"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_allclose(a.squares, b.squares, rtol=CLOSE, atol=0)
    assert (a.zeros, a.nonfinite, a.amax) == (b.zeros, b.nonfinite, b.amax)


@settings(max_examples=150)
@given(hnp.arrays(np.uint64, st.integers(0, 20)), st.integers(0, 20), st.integers(0, 20))
def test_merging_parts(bits: Array, i: int, j: int) -> None:
    """Any three parts, in any order and grouping, are the whole; an empty part changes nothing."""
    x = bits.view(np.float64)
    i, j = sorted((i, j))
    a, b, c = (fp.exponent_histogram(part) for part in (x[:i], x[i:j], x[j:]))
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)):
        assert_same(merged, fp.exponent_histogram(x))


def test_merging_dtypes_and_gaps() -> None:
    """Bins between the parts are there, and empty."""
    values = [0.0, 2.0**-1074, 1.5, 2.0**14, 2.0**1023]
    parts = [np.array([v], dtype) for v, dtype in zip(values, ("f2", "f8", "f4", "f2", "f8"), strict=True)]
    merged = fp.exponent_histogram(parts[0])
    for part in parts[1:]:
        merged = merged.merge(fp.exponent_histogram(part))
    assert_same(merged, fp.exponent_histogram(np.array(values)))
    assert merged.counts.size == 1074 + 1024
    with pytest.raises(TypeError, match="takes an ExponentHistogram, not ndarray"):
        merged.merge(parts[0])  # type: ignore[arg-type]


# ---- what a scale loses to zero: exactly -----------------------------------------------------------------------------
def check_lost(x: Array, format: FloatFormat | str, ks: Any, roundings: tuple[Rounding, ...] = EXACT) -> None:
    h, whole = fp.exponent_histogram(x), naive_stats.histogram(x)
    for rounding in roundings:
        found = h.lost_to_zero(format, ks, rounding)
        for n, k in enumerate(ks):
            right = fate(x, format, int(k), rounding)
            about = f"{format} {rounding.value} k={k}"
            assert found["count"][n] == right.lost, about
            assert found["of_nonzero"][n] == right.lost / h.nonzero, about
            lost = naive_stats.nearest_float(right.lost_energy)
            assert math.isclose(found["energy"][n], lost, rel_tol=CLOSE, abs_tol=1e-322), about
            share = naive_stats.nearest_float(right.lost_energy / whole.energy)
            assert math.isclose(found["of_energy"][n], share, rel_tol=CLOSE, abs_tol=1e-322), about
            assert found["of_energy"][n] <= 1, about
            assert (found["of_energy"][n] == 1) == (share == 1), about


@pytest.mark.parametrize("format", [*FORMATS_HERE, ONE_BIT, "binary16p1se", "float32"])
def test_lost_at_the_thresholds(format: FloatFormat | str) -> None:
    """Values at half of and at the smallest subnormal, and one ulp to either side, for scales around 1."""
    target = FORMATS[format] if isinstance(format, str) else format
    s = target.finest_exponent
    ks = np.arange(-2, 3)
    for dtype in ("float32", "float64"):
        if -1000 < s - 4 < 100 and (dtype == "float64" or s > -120):
            check_lost(ulps_around(np.exp2(np.arange(s - 3, s + 3)).astype(dtype)), format, ks)
    x = np.array([1.0, 1.5, np.nextafter(1, 2), np.nextafter(1, 0), 0.75])
    check_lost(x, format, np.arange(s - 3, s + 3))
    check_lost(x.astype(np.float32), format, np.arange(s - 3, s + 3))


@pytest.mark.nojit
@pytest.mark.parametrize("dtype", FLOATS)
def test_lost_of_source_subnormals(dtype: str) -> None:
    smallest = np.finfo(dtype).smallest_subnormal
    x = (np.arange(1, 20) * smallest).astype(dtype)
    e = int(np.log2(float(smallest)))
    for format in ("e4m3", "fp16"):
        check_lost(x, format, np.arange(-6, 3) + FORMATS[format].finest_exponent - e)


@settings(max_examples=150)
@given(st.data())
def test_lost_of_any_tensor(data: st.DataObject) -> None:
    """Any tensor, any scale over the range where something and not everything is lost, and far beyond."""
    dtype = data.draw(st.sampled_from(FLOATS))
    values = st.floats(width=WIDTHS[dtype], allow_nan=False, allow_infinity=False).filter(bool)
    x = np.array(data.draw(st.lists(values, min_size=1, max_size=6)), dtype)
    format = FORMATS[data.draw(st.sampled_from(FORMATS_HERE))]
    middle = format.finest_exponent - math.frexp(float(np.abs(x).max()))[1]
    near = st.integers(-4, 4).map(lambda d: d + middle)
    ks = data.draw(st.lists(near | st.integers(-2300, 2300), min_size=3, max_size=3))
    check_lost(x, format, ks, (data.draw(st.sampled_from(EXACT)),))


@pytest.mark.parametrize("rounding", EXACT)
@pytest.mark.parametrize("name", FORMATS_HERE)
def test_lost_over_a_wide_range(name: str, rounding: Rounding) -> None:
    """Every scale from 2^-200 to 2^200, cast by fp.quantize (a float32 times such a scale is exact in float64)."""
    rng = np.random.default_rng(1)
    x = np.concatenate([np.exp2(rng.uniform(-60, 20, 200)), np.exp2(rng.integers(-60, 20, 50))]).astype(np.float32)
    h, ks = fp.exponent_histogram(x), np.arange(-200, 201)
    found = h.lost_to_zero(name, ks, rounding)
    energy = math.fsum(x.astype(np.float64) ** 2)
    for n, k in enumerate(ks):
        lost = fp.quantize(np.ldexp(x.astype(np.float64), k), name, rounding=rounding, overflow="saturate") == 0
        assert found["count"][n] == lost.sum()
        assert math.isclose(found["of_energy"][n], math.fsum(x[lost].astype(np.float64) ** 2) / energy, rel_tol=CLOSE)
    assert (found["count"][0], found["count"][-1]) == (x.size, 0)
    assert np.all(np.diff(found["count"]) <= 0)


def test_all_and_nothing_are_whole_shares() -> None:
    """However its sums round: the share of everything is 1, and a band that may lose everything has no lower end."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        x = rng.standard_normal(50) * np.exp(8 * rng.standard_normal(50))
        h = fp.exponent_histogram(x)
        assert h.lost_to_zero("fp16", [-500, 500])["of_energy"].tolist() == [1, 0]
        assert h.band("fp16", 1.0).lowest is None


def test_shapes_of_scales() -> None:
    h = fp.exponent_histogram(np.array([1.0, 2.0**-30]))
    for k in (0, np.int8(0), np.array(0), np.zeros((2, 3), np.uint8), np.zeros((0,), int), [], [[0, 1]], range(3)):
        shape = np.shape(k)
        for found in (h.lost_to_zero("fp16", k), h.subnormal_bounds("fp16", k), h.saturated_bounds("fp16", k)):
            assert {np.shape(values) for values in found.values()} == {shape}
            assert all(isinstance(values, np.ndarray) for values in found.values())
    assert h.lost_to_zero("fp16", [[0, -300], [300, 3]])["count"].tolist() == [[1, 2], [0, 1]]


# ---- bounds ----------------------------------------------------------------------------------------------------------
def check_bounds(x: Array, format: FloatFormat | str, ks: Any) -> None:
    """The truth lies within, and the gap is no more than the values of the one binade that the threshold divides."""
    target = FORMATS[format] if isinstance(format, str) else format
    h = fp.exponent_histogram(x)
    subnormal, saturated = h.subnormal_bounds(format, ks), h.saturated_bounds(format, ks)
    exponents = h.exponents.tolist()
    counts = dict(zip(exponents, h.counts.tolist(), strict=True))
    inner = dict(zip(exponents, (h.counts - h.powers).tolist(), strict=True))  # 2^emax itself does not overflow
    for n, k in enumerate(ks):
        right = fate(x, format, int(k))
        for found, truth, gap in (
            (subnormal, right.subnormal, counts.get(target.emin - 1 - int(k), 0)),
            (saturated, right.saturated, inner.get(target.emax - int(k), 0)),
        ):
            lower, upper = found["lower"][n], found["upper"][n]
            assert 0 <= lower <= truth / h.nonzero <= upper <= 1, (format, k, truth / h.nonzero, lower, upper)
            assert round((upper - lower) * h.nonzero) <= gap, (format, k)


@pytest.mark.nojit
@pytest.mark.parametrize("format", [*FORMATS_HERE, ONE_BIT])
def test_bounds_at_the_thresholds(format: FloatFormat | str) -> None:
    target = FORMATS[format] if isinstance(format, str) else format
    top = target.max * (1 + 2.0 ** -(target.precision + 1))
    landmarks = [target.smallest_normal, target.smallest_subnormal, target.max, 2.0**target.emax]
    halves = [target.smallest_normal - target.smallest_subnormal / 2, target.smallest_subnormal / 2, top]
    x = ulps_around(np.array([v for v in landmarks + halves if v > 0]))
    check_bounds(x, format, np.arange(-3, 4))
    distance = target.emax - target.emin
    check_bounds(x, format, np.array([-distance - 1, -distance, -distance + 1, distance - 1, distance, distance + 1]))


@settings(max_examples=150)
@given(st.data())
def test_bounds_of_any_tensor(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(FLOATS))
    values = st.floats(width=WIDTHS[dtype], allow_nan=False, allow_infinity=False).filter(bool)
    x = np.array(data.draw(st.lists(values, min_size=1, max_size=6)), dtype)
    format = FORMATS[data.draw(st.sampled_from(FORMATS_HERE))]
    exponent = math.frexp(float(np.abs(x).max()))[1]
    ends = [end - exponent + d for end in (format.emin, format.emax) for d in (-1, 0, 1, 2)]
    check_bounds(x, format, [*ends, data.draw(st.integers(-2300, 2300))])


def test_bounds_are_tight_where_they_can_be() -> None:
    """Apart from the divided binade, lower and upper are the truth."""
    x = np.array([2.0**-20, 2.0**-16, 1.0, 2.0**20], np.float32)
    h = fp.exponent_histogram(x)
    subnormal, saturated = h.subnormal_bounds("fp16", [0, 10]), h.saturated_bounds("fp16", [0, 20])
    assert subnormal["lower"].tolist() == subnormal["upper"].tolist() == [0.5, 0]
    assert saturated["lower"].tolist() == saturated["upper"].tolist() == [0.25, 0.5]
    half = fp.exponent_histogram(np.array([1.5])).saturated_bounds("fp16", 15)
    assert (float(half["lower"]), float(half["upper"])) == (0, 1)  # 1.5 * 2^15 fits, 1.9999 * 2^15 would not


# ---- bands -----------------------------------------------------------------------------------------------------------
def check_band(x: Array, format: FloatFormat | str, energy_lost: float) -> Band:
    """At the ends the cast does what the band says, one step beyond it does not."""
    band, energy = fp.exponent_histogram(x).band(format, energy_lost), naive_stats.histogram(x).energy

    def share(k: int) -> Fraction:
        return fate(x, format, k).lost_energy / energy

    slack = Fraction(1, 10**12)
    if band.lowest is None:
        assert energy_lost >= 1
    else:
        assert share(band.lowest) <= Fraction(energy_lost) * (1 + slack)
        assert share(band.lowest - 1) > Fraction(energy_lost) * (1 - slack)
    assert band.highest is not None
    assert fate(x, format, band.highest).saturated == 0
    assert fate(x, format, band.highest + 1).saturated > 0
    if not band.empty:
        assert band.recommended is not None
        assert band.recommended in band
    return band


@settings(max_examples=150)
@given(
    st.sampled_from(FLOATS),
    st.lists(st.tuples(st.integers(1, 4095), st.integers(-24, 3)), min_size=1, max_size=6),
    st.sampled_from(FORMATS_HERE),
    st.sampled_from((0.0, 1e-12, 1e-3, 0.5, 0.999, 1.0)),
)
def test_band_of_any_tensor(dtype: str, values: list[tuple[int, int]], name: str, energy_lost: float) -> None:
    x = np.array([(-1) ** m * math.ldexp(m, e) for m, e in values]).astype(dtype)
    if x.any():
        check_band(x, name, energy_lost)


# The largest magnitude that does not overflow, and the smallest that does: the tie between max and the next value.
TIES = {
    "e4m3": (464.0, np.nextafter(464, INF)),  # 448 has an even code: the tie stays
    "e5m2": (np.nextafter(61440, 0), 61440.0),
    "fp16": (np.nextafter(65520, 0), 65520.0),
    "bf16": (float.fromhex("0x1.fefffffffffffp127"), float.fromhex("0x1.ffp127")),
    "e4m3fnuz": (np.nextafter(248, 0), 248.0),  # 240 is odd
    "e2m1": (np.nextafter(7, 0), 7.0),
    "binary8p4se": (232.0, np.nextafter(232, INF)),  # 224 = 0x7E is even
    "binary8p3sf": (np.nextafter(61440, 0), 61440.0),  # 57344 = 0x7F is odd
}


@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize("name", TIES)
def test_ties_at_the_top(name: str, overflow: Overflow) -> None:
    """The band is that of rounding: the same whether the cast then saturates or not."""
    fits, overflows = TIES[name]
    for k in (-30, -1, 0, 1, 8):
        for x, highest in ((fits, 0), (overflows, -1)):
            scaled = np.array([math.ldexp(x, -k)])
            band = fp.exponent_histogram(scaled).band(name)
            assert band.highest == highest + k
            if math.isfinite(math.ldexp(fits, 2)):
                cast = fp.Cast(name, overflow=overflow)
                found = [fp.tensor_stats(scaled, cast, 2.0 ** (band.highest + j))[cast].saturated for j in (0, 1)]
                assert found == [0, 1]


@pytest.mark.nojit
def test_band_ends_at_the_threshold_itself() -> None:
    """Energies 1 and 2^-10: a share of exactly 2^-10 / (1 + 2^-10) may be lost where that is the limit."""
    x = np.array([1.0, 2.0**-5])
    share = 2.0**-10 / (1 + 2.0**-10)
    h = fp.exponent_histogram(x)
    lost_at = h.lost_to_zero("fp16", [0])["of_energy"][0]
    assert lost_at == 0
    assert h.band("fp16", share).lowest == -24  # 2^-5 is lost, 2^-24 is not
    assert h.band("fp16", np.nextafter(share, 0)).lowest == -19  # 2^-5 is just kept: 2^-24
    assert h.band("fp16", 0).lowest == -19
    assert h.band("fp16", 1) == Band(None, 15)


def test_losing_no_energy_is_losing_nothing() -> None:
    x = np.array([1e300, 1e-300, 1.0])
    assert check_band(x, "bf16", 0.0).lowest == -134 + 997  # 1e-300 is 1.07 * 2^-997; bfloat16 loses up to 2^-134
    assert check_band(x, "bf16", 1e-300).lowest is not None
    assert check_band(x, "bf16", 0.0).empty


@pytest.mark.parametrize("name", ["binary16p1se", "binary16p2se", "binary12p1se"])
def test_formats_beyond_float64(name: str) -> None:
    """Scales need no value of the format: its thresholds are enough."""
    x = np.array([1.0, 1.5, 1e-300, 3e200])
    check_band(x, name, 1e-3)
    check_band(x, name, 0.0)
    check_bounds(x, name, [-40000, -8000, 0, 8000, 40000])


def test_nonfinite_inputs_do_not_count() -> None:
    x = np.array([1.0, 3.0, 2.0**-20], np.float32)
    dirty = np.concatenate([x, np.array([NAN, INF, -INF, 0, -0.0], np.float32)])
    for name in ("fp16", "e4m3"):
        assert fp.exponent_histogram(dirty).band(name) == fp.exponent_histogram(x).band(name)
        a, b = (fp.exponent_histogram(v).lost_to_zero(name, np.arange(-40, 40)) for v in (x, dirty))
        assert all(np.array_equal(a[key], b[key]) for key in a)


def test_bands_of_the_whole_range_of_float64() -> None:
    for x in (np.array([5e-324]), np.array([1.7e308, 5e-324]), np.array([np.finfo(np.float64).max])):
        for name in ("fp16", "e4m3", "bf16"):
            check_band(x, name, 1e-3)
            check_band(x, name, 0.0)


@pytest.mark.parametrize(
    ("band", "empty", "recommended", "inside", "outside"),
    [
        (Band(2, 8), False, 5, [2, 5, 8], [1, 9]),
        (Band(2, 7), False, 5, [2, 7], [8]),
        (Band(-8, -3), False, -5, [-8, -3], [-9, -2]),
        (Band(4, 4), False, 4, [4], [3, 5]),
        (Band(5, 4), True, None, [], [4, 5]),
        (Band(None, -3), False, -3, [-3, -1000], [-2]),
        (Band(7, None), False, 7, [7, 1000], [6]),
        (Band(None, None), False, 0, [0, -5000, 5000], []),
    ],
)
def test_bands(band: Band, empty: bool, recommended: int | None, inside: list[int], outside: list[int]) -> None:
    assert (band.empty, band.recommended) == (empty, recommended)
    assert all(k in band for k in inside)
    assert not any(k in band for k in outside)


def test_intersections() -> None:
    bands = [Band(None, 10), Band(-3, None), Band(2, 12), Band(None, None)]
    for order in itertools.permutations(bands):
        assert fp.intersect_bands(order) == Band(2, 10)
    assert fp.intersect_bands([]) == Band(None, None)
    assert fp.intersect_bands(iter([Band(3, 5)])) == Band(3, 5)
    assert fp.intersect_bands([Band(0, 3), Band(4, 9)]).empty
    for k in range(-5, 15):
        assert (k in fp.intersect_bands(bands)) == all(k in band for band in bands)


def test_a_band_serves_every_layer() -> None:
    """The intersection is where each tensor loses little and none overflows."""
    rng = np.random.default_rng(2)
    layers = [(rng.standard_normal(40) * s).astype(np.float32) for s in (1.0, 1e-3, 30.0)]
    both = fp.intersect_bands(fp.exponent_histogram(x).band("fp16", 1e-3) for x in layers)
    assert not both.empty
    assert both.highest is not None
    assert both.lowest is not None
    for k in (both.lowest, both.recommended, both.highest):
        for x in layers:
            right = fate(x, "fp16", int(k or 0))
            assert right.saturated == 0
            assert right.lost_energy <= Fraction(1e-3) * naive_stats.histogram(x).energy
    lost = [fate(x, "fp16", both.lowest - 1).lost_energy / naive_stats.histogram(x).energy for x in layers]
    assert max(lost) > 1e-3
    assert sum(fate(x, "fp16", both.highest + 1).saturated for x in layers) > 0


# ---- errors ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def h() -> ExponentHistogram:
    return fp.exponent_histogram(np.array([1.0, -2.0, 0.1]))


@pytest.mark.parametrize("rounding", [r for r in Rounding if r not in EXACT])
def test_roundings_without_a_threshold(h: ExponentHistogram, rounding: Rounding) -> None:
    with pytest.raises(ValueError, match=r"valid: nearest-even, nearest-away, toward-zero$"):
        h.lost_to_zero("fp16", [0], rounding)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda h: h.lost_to_zero("fp16", [0], "nonsense"), ValueError, "valid: nearest-even"),
        (lambda h: h.lost_to_zero("fp99", [0]), ValueError, "valid: float32"),
        (lambda h: h.band("fp99"), ValueError, "valid: float32"),
        (lambda h: h.band("e8m0"), ValueError, "no zero"),
        (lambda h: h.lost_to_zero("e8m0", [0]), ValueError, "no zero"),
        (lambda h: h.lost_to_zero("fp16", [0.5]), TypeError, "integers"),
        (lambda h: h.lost_to_zero("fp16", 1.0), TypeError, "integers"),
        (lambda h: h.lost_to_zero("fp16", ["a"]), TypeError, "integers"),
        (lambda h: h.lost_to_zero("fp16", True), TypeError, "integers"),
        (lambda h: h.subnormal_bounds("fp16", [0.5]), TypeError, "integers"),
        (lambda h: h.saturated_bounds("fp16", [0.5]), TypeError, "integers"),
        (lambda h: h.band("fp16", -0.1), ValueError, "0 to 1"),
        (lambda h: h.band("fp16", 1.1), ValueError, "0 to 1"),
        (lambda h: h.band("fp16", NAN), ValueError, "0 to 1"),
        (lambda h: h.band("fp16", "a"), TypeError, "energy_lost"),
        (lambda h: h.band("fp16", None), TypeError, "energy_lost"),
        (lambda h: fp.intersect_bands([3]), TypeError, "Band"),
        (lambda h: fp.exponent_histogram(np.arange(3)), TypeError, "int64 are not taken"),
    ],
)
def test_bad_input(h: ExponentHistogram, call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(h)


@pytest.mark.parametrize("name", ["binary8p4ue", "binary6p1uf"])
def test_unsigned_formats(h: ExponentHistogram, name: str) -> None:
    """The histogram knows no signs, and a negative overflows an unsigned format whatever its magnitude."""
    for call in (h.lost_to_zero, h.subnormal_bounds, h.saturated_bounds):
        with pytest.raises(ValueError, match=f"{name} is unsigned"):
            call(name, 0)
    with pytest.raises(ValueError, match=f"{name} is unsigned"):
        h.band(name)
