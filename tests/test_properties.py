"""Laws that hold for every input, each with the rows (rounding, overflow, format) for which it holds, as data.

Hypothesis draws the inputs: bit patterns of float32 and float64, near the format's values as often as anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from edges import ladder
from hypothesis import example, given, settings
from hypothesis import strategies as st
from implementations import JIT

import fpemu as fp
from fpemu import FORMATS, Cast, FloatFormat, Overflow, Rounding, Subnormals, reference

pytestmark = pytest.mark.nojit
EXAMPLES = settings(max_examples=25 if JIT else 6)

R, O = Rounding, Overflow  # noqa: E741
NEAREST = (R.NEAREST_EVEN, R.NEAREST_AWAY)
DETERMINISTIC = (*NEAREST, R.TOWARD_ZERO, R.UP, R.DOWN, R.TO_ODD)
SYMMETRIC = (*NEAREST, R.TOWARD_ZERO, R.TO_ODD)
SIGNED = ("float16", "bfloat16", "tfloat32", "float32", "float8_e4m3fn", "float8_e5m2", "float8_e4m3", "float8_e3m4",
          "float8_e5m2fnuz", "float8_e4m3fnuz", "float8_e4m3b11fnuz", "float6_e2m3fn", "float6_e3m2fn",
          "float4_e2m1fn", "binary8p3se", "binary8p4sf", "binary8p1se", "binary12p7se", "binary3p2sf")  # fmt: skip
UNSIGNED = ("float8_e8m0fnu", "binary8p4ue", "binary8p8uf", "binary6p1ue")
EVERY = (*SIGNED, *UNSIGNED)


# ---- inputs ----------------------------------------------------------------------------------------------------------
def bit_patterns(dtype: type) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """All patterns, uniformly: NaNs, infinities and subnormals as often as they are."""
    unsigned = {np.float32: np.uint32, np.float64: np.uint64}[dtype]
    top = np.iinfo(unsigned).max
    return st.lists(st.integers(0, int(top)), min_size=1, max_size=12).map(lambda b: np.array(b, unsigned).view(dtype))


def _float(x: Fraction) -> float:
    try:
        return float(x)
    except OverflowError:
        return np.inf


def near_values(format: FloatFormat, dtype: type) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Values and midpoints of the format, a few ulps of the dtype away, of both signs."""
    last = reference.last_rung(format)
    number = st.integers(0, last + 2) | st.integers(0, 8) | st.integers(max(last - 4, 0), last + 2)

    def make(parts: list[tuple[int, int, int, bool]]) -> np.ndarray[Any, Any]:
        found = []
        for n, quarters, ulps, negative in parts:
            low, high = reference.rung(n, format), reference.rung(n + 1, format)
            with np.errstate(over="ignore"):
                x = dtype(_float(low + (high - low) * Fraction(quarters, 4)))
                for _ in range(abs(ulps)):
                    x = np.nextafter(x, dtype(np.inf if ulps > 0 else -np.inf))
            found.append(-x if negative else x)
        return np.array(found, dtype)

    row = st.tuples(number, st.integers(0, 3), st.integers(-2, 2), st.booleans())
    return st.lists(row, min_size=1, max_size=12).map(make)


@st.composite
def inputs(draw: st.DrawFn, format: FloatFormat) -> np.ndarray[Any, Any]:
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    x = draw(near_values(format, dtype) | bit_patterns(dtype))
    return x if format.has_nan else x[~np.isnan(x)]


# ---- laws ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Law:
    """A law, and where it holds."""

    check: Callable[[np.ndarray[Any, Any], Cast], None]
    roundings: tuple[Rounding, ...] = DETERMINISTIC
    overflows: tuple[Overflow, ...] = tuple(Overflow)
    formats: tuple[str, ...] = EVERY
    subnormals: tuple[Subnormals, ...] = (Subnormals.KEEP,)


def exact(codes: np.ndarray[Any, Any], format: FloatFormat) -> list[Fraction | None]:
    """Finite values as rationals, others as None."""
    values = [reference.value(int(code), format) for code in codes]
    return [Fraction(v) if np.isfinite(float(v)) else None for v in values]


def monotone(x: np.ndarray[Any, Any], cast: Cast) -> None:
    """x <= y gives value(x) <= value(y); NaN results, where the policy makes them, are left out."""
    x = np.sort(x[~np.isnan(x)])
    values = fp.decode(fp.encode(x, cast), cast.format)
    values = values[~np.isnan(values)]
    assert (values[:-1] <= values[1:]).all()


def idempotent(x: np.ndarray[Any, Any], cast: Cast) -> None:
    """Encoding the values of codes gives the codes again (of NaNs, the canonical one)."""
    codes = fp.encode(x, cast)
    again = fp.encode(fp.decode(codes, cast.format), cast)
    np.testing.assert_array_equal(again, codes)


def sign_symmetric(x: np.ndarray[Any, Any], cast: Cast) -> None:
    """encode(-x) is encode(x) with the other sign bit, for values other than NaN and a zero without sign."""
    codes, mirrored = fp.encode(x, cast), fp.encode(-x, cast)
    flip = np.array(cast.format.sign_mask, codes.dtype)
    lone = ~np.array(cast.format.negative_zero) & ((codes & ~flip) == 0)
    np.testing.assert_array_equal(mirrored, np.where(lone, codes, codes ^ flip))


def mirrored_directions(x: np.ndarray[Any, Any], cast: Cast) -> None:
    """Down is up seen in the mirror."""
    values = fp.decode(fp.encode(x, cast), cast.format)
    opposite = cast.replace(rounding=R.DOWN if cast.rounding is R.UP else R.UP)
    np.testing.assert_array_equal(fp.decode(fp.encode(-x, opposite), cast.format), -values)


def member(x: np.ndarray[Any, Any], cast: Cast) -> None:
    """Quantized values are values of the format: their own neighbours."""
    values = fp.quantize(x, cast, dtype=np.float64)
    for value in values[~np.isnan(values)]:
        assert reference.neighbours(value, cast.format) == (value, value)


def spacing(x: float, format: FloatFormat) -> Fraction:
    """The spacing of the ladder where x lies, beyond the largest value as well."""
    if x == 0:
        return Fraction(0)
    gap = reference.place(abs(Fraction(x)), format)
    assert gap is not None
    return gap.outer - gap.inner


def _in_range(x: np.ndarray[Any, Any], format: FloatFormat) -> np.ndarray[Any, Any]:
    magnitude = np.abs(x.astype(np.float64))
    inside = magnitude <= format.max
    if not format.has_zero:
        inside &= magnitude >= format.smallest_normal
    return x[inside if format.signed else inside & ~np.signbit(x)]


def _errors(x: np.ndarray[Any, Any], cast: Cast) -> list[tuple[Fraction, Fraction]]:
    """(value - x, spacing at x) for inputs within the range of the format."""
    x = _in_range(x, cast.format)
    values = exact(fp.encode(x, cast), cast.format)
    pairs = []
    for v, value in zip(x, values, strict=True):
        assert value is not None
        pairs.append((value - Fraction(float(v)), spacing(float(v), cast.format)))
    return pairs


def half_spacing(x: np.ndarray[Any, Any], cast: Cast) -> None:
    """|error| <= half a spacing."""
    assert all(2 * abs(error) <= gap for error, gap in _errors(x, cast))


def one_spacing(x: np.ndarray[Any, Any], cast: Cast) -> None:
    """|error| < one spacing (zero where x is exact)."""
    assert all(abs(error) < gap or error == 0 for error, gap in _errors(x, cast))


def points_its_way(x: np.ndarray[Any, Any], cast: Cast) -> None:
    """Up never lowers, down never raises, toward zero never grows."""
    x = _in_range(x, cast.format)
    for v, value in zip(x, exact(fp.encode(x, cast), cast.format), strict=True):
        given = Fraction(float(v))
        assert value is not None
        assert {
            R.UP: value >= given,
            R.DOWN: value <= given,
            R.TOWARD_ZERO: abs(value) <= abs(given) and value * given >= 0,
        }[cast.rounding]


def odd_if_inexact(x: np.ndarray[Any, Any], cast: Cast) -> None:
    """An inexact result of to-odd has an odd code, unless it is the largest value."""
    x = _in_range(x, cast.format)
    codes = fp.encode(x, cast)
    for v, code, value in zip(x, codes, exact(codes, cast.format), strict=True):
        assert value == Fraction(float(v)) or code & 1 or code & cast.format.magnitude_mask == cast.format.max_code


def nothing_subnormal(x: np.ndarray[Any, Any], cast: Cast) -> None:
    """Results are zero or at least the smallest normal value."""
    values = np.abs(fp.decode(fp.encode(x, cast), cast.format))
    assert not ((values > 0) & (values < cast.format.smallest_normal)).any()


def finite(x: np.ndarray[Any, Any], cast: Cast) -> None:
    """Saturation: whatever is no NaN stays finite."""
    x = x[~np.isnan(x)]
    assert np.isfinite(fp.decode(fp.encode(x, cast), cast.format)).all()


def widening_is_exact(x: np.ndarray[Any, Any], cast: Cast) -> None:
    """Codes cast to float32 keep their value, and come back."""
    codes = fp.encode(x, cast)
    wide = fp.cast(codes, source=cast.format, target="fp32")
    np.testing.assert_array_equal(fp.decode(wide, "fp32"), fp.decode(codes, cast.format))
    np.testing.assert_array_equal(fp.cast(wide, source="fp32", target=cast.format), codes)


CLAMPING = (O.SATURATE, O.PROPAGATE)
ZEROED = tuple(name for name in EVERY if FORMATS[name].has_zero)
KEPT = {"overflows": (O.SATURATE,), "subnormals": (Subnormals.KEEP,)}
LAWS: dict[str, Law] = {
    # Where every overflow is a NaN, order among the others still holds.
    "monotone": Law(monotone, subnormals=tuple(Subnormals)),
    # Down and up of an exact value never move it; flush-input has its own view of the values read back.
    "idempotent": Law(idempotent, subnormals=tuple(s for s in Subnormals if s is not Subnormals.FLUSH_INPUT)),
    "sign-symmetric": Law(sign_symmetric, SYMMETRIC, formats=SIGNED, subnormals=tuple(Subnormals)),
    "mirrored directions": Law(mirrored_directions, (R.UP, R.DOWN), formats=SIGNED, subnormals=tuple(Subnormals)),
    "member of the format": Law(member, subnormals=tuple(Subnormals)),
    "half a spacing": Law(half_spacing, NEAREST),
    "one spacing": Law(one_spacing, (R.TOWARD_ZERO, R.UP, R.DOWN, R.TO_ODD)),
    "points its way": Law(points_its_way, (R.UP, R.DOWN, R.TOWARD_ZERO)),
    "odd if inexact": Law(odd_if_inexact, (R.TO_ODD,)),
    "nothing subnormal": Law(
        nothing_subnormal, subnormals=(Subnormals.FLUSH_OUTPUT, Subnormals.FLUSH_OUTPUT_BEFORE, Subnormals.ROUND_TO_MIN)
    ),
    "finite": Law(finite, overflows=(O.SATURATE,)),
    "widening is exact": Law(
        widening_is_exact, (R.NEAREST_EVEN, R.TO_ODD), overflows=(O.IEEE,),
        formats=tuple(name for name in EVERY if name not in ("float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("examples", [12 if JIT else 6, pytest.param(60, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(("law", "name"), [(law, name) for law, rule in LAWS.items() for name in rule.formats])
def test_law(law: str, name: str, examples: int) -> None:
    """One law on one format: Hypothesis draws the row and the inputs."""
    rule, format = LAWS[law], FORMATS[name]

    @settings(max_examples=examples)
    @given(
        inputs(format),
        st.sampled_from(rule.roundings),
        st.sampled_from(rule.overflows),
        st.sampled_from(rule.subnormals),
    )
    def holds(x: np.ndarray[Any, Any], rounding: Rounding, overflow: Overflow, subnormals: Subnormals) -> None:
        nan = "canonical" if format.has_nan else "zero"
        with np.errstate(all="ignore"):
            rule.check(x, Cast(format, rounding, overflow, subnormals, nan))

    holds()


@pytest.mark.parametrize("name", EVERY)
def test_library_is_the_reference(name: str) -> None:
    """Any input, any row of policies: the definition itself."""
    format = FORMATS[name]

    @EXAMPLES
    @given(inputs(format), st.sampled_from(DETERMINISTIC), st.sampled_from(list(O)), st.sampled_from(list(Subnormals)))
    def holds(x: np.ndarray[Any, Any], rounding: Rounding, overflow: Overflow, subnormals: Subnormals) -> None:
        cast = Cast(format, rounding, overflow, subnormals, "canonical" if format.has_nan else "zero")
        right = [reference.encode(value, cast) for value in x]
        np.testing.assert_array_equal(fp.encode(x, cast), right)

    holds()


@EXAMPLES
@given(
    bits=st.integers(3, 18),
    precision=st.integers(1, 12),
    bias=st.integers(-40, 150),
    signed=st.booleans(),
    infinities=st.booleans(),
    high_nans=st.integers(0, 9),
    negative_zero=st.booleans(),
    ties=st.sampled_from(["code", "significand"]),
    data=st.data(),
)
@example(8, 3, 15, True, False, 4, True, "code", None)
def test_any_format_is_the_reference(
    bits: int, precision: int, bias: int, signed: bool, infinities: bool, high_nans: int, negative_zero: bool,
    ties: str, data: st.DataObject | None,
) -> None:  # fmt: skip
    """Formats nobody has named: any width, precision, bias and specials."""
    try:
        format = FloatFormat("mine", bits, precision, bias, signed, infinities, high_nans, True, negative_zero, ties)  # type: ignore[arg-type]
    except ValueError:
        return
    x = np.array([0.0, -0.0, 1.0, 1e300, -1e300, np.inf, -np.inf])
    rounding, overflow = R.NEAREST_EVEN, O.IEEE
    if data is not None:
        x = np.concatenate([x, data.draw(inputs(format)).astype(np.float64)])
        rounding, overflow = data.draw(st.sampled_from(DETERMINISTIC)), data.draw(st.sampled_from(list(O)))
    if format.has_nan:
        x = np.append(x, [np.nan, -np.nan])
    cast = Cast(format, rounding, overflow)
    right = [reference.encode(value, cast) for value in x]
    np.testing.assert_array_equal(fp.encode(x, cast), right)
    if format.holds_in_float64:
        values = [reference.as_float(reference.value(code, format)) for code in right]
        np.testing.assert_array_equal(fp.decode(np.array(right, format.code_dtype), format), values)


# A fault of the library that each law must see: which function, and what becomes of its result.
Fault = Callable[[Any, Any], Any]
FLIP: tuple[str, Fault] = (
    "encode",
    lambda x, codes: np.where(np.asarray(x) > 1.055, codes ^ 5, codes).astype(np.uint8),
)
FAULTS: dict[str, tuple[str, Fault]] = {
    "member of the format": ("quantize", lambda x, values: np.asarray(x, np.float64)),
    "nothing subnormal": ("encode", lambda x, codes: np.where(codes < 8, 3, codes).astype(np.uint8)),
    "finite": ("encode", lambda x, codes: np.where(codes == 0x7E, 0x7F, codes).astype(np.uint8)),
    "widening is exact": ("cast", lambda x, codes: codes + 1),
}


@pytest.mark.parametrize("law", LAWS)
def test_every_law_can_fail(law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = LAWS[law]
    x = np.array([1.0, 1.01, 1.05, 1.06, 1.07, 1.1, 2.0**-8, 1e-3, 500.0, -1.01, -1.06, 3.1, np.inf])
    cast = Cast("e4m3", rule.roundings[0], rule.overflows[0], rule.subnormals[-1])
    rule.check(x, cast)
    name, fault = FAULTS.get(law, FLIP)
    genuine = getattr(fp, name)
    monkeypatch.setattr(fp, name, lambda values, *rest, **options: fault(values, genuine(values, *rest, **options)))
    with pytest.raises(AssertionError):
        rule.check(x, cast)


def test_near_values_are_near() -> None:
    """The strategy reaches what it says: values, midpoints and their neighbours."""
    low, values = ladder(FORMATS["e4m3"])
    assert low == 0
    seen: set[str] = set()

    @settings(max_examples=300, database=None, derandomize=True)
    @given(near_values(FORMATS["e4m3"], np.float32))
    def look(x: np.ndarray[Any, Any]) -> None:
        for v in np.abs(x.astype(np.float64)):
            index = int(np.searchsorted(values, v))
            if index < values.size and values[index] == v:
                seen.add("value")
            elif 0 < index < values.size:
                middle = (values[index] + values[index - 1]) / 2
                seen.add("midpoint" if v == middle else "beside" if abs(v - middle) < 1e-5 * middle else "else")
            seen.add("beyond" if v > 448 else "within")

    look()
    assert seen >= {"value", "midpoint", "beside", "beyond", "within"}
