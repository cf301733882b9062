"""Policies: rows of overflow, subnormals, NaN and intermediate formats, each against the rule of its source."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from edges import DEFAULT, NARROW, around
from implementations import JIT
from test_conversion import any_nan, some

import fpemu as fp
from fpemu import FORMATS, Cast, FloatFormat, NaN, Overflow, Rounding, Stochastic, Subnormals, reference

pytestmark = pytest.mark.nojit

DETERMINISTIC = tuple(rounding for rounding in Rounding if rounding is not Rounding.STOCHASTIC)
INF, NAN = np.inf, np.nan


def check(x: Any, cast: Cast) -> None:
    """The library gives what the reference gives, for each input."""
    x = np.asarray(x)
    right = np.array([reference.encode(value, cast) for value in x], cast.format.code_dtype)
    wrong = np.flatnonzero(fp.encode(x, cast) != right)
    assert not wrong.size, f"{cast}: {[(x[i], hex(right[i]), hex(fp.encode(x[i], cast))) for i in wrong[:3]]}"


def meaning(x: float, *arguments: Any, **policies: Any) -> float:
    cast = Cast(*arguments, **policies)
    return float(fp.decode(fp.encode(x, cast), cast.format))


# ---- overflow: the rows and what a direction does to them ------------------------------------------------------------
# What 10^6 and infinity become.  Columns: e5m2 (infinity and NaN), e4m3 (NaN), e2m1 (neither), e4m3fnuz, binary8p4sf.
ROWS = {
    Overflow.IEEE: ((INF, INF), (NAN, NAN), (6, 6), (NAN, NAN), (NAN, NAN)),
    Overflow.SATURATE: ((57344, 57344), (448, 448), (6, 6), (240, 240), (240, 240)),
    Overflow.PROPAGATE: ((57344, INF), (448, NAN), (6, 6), (240, NAN), (240, NAN)),
    Overflow.P3109: ((INF, INF), (448, 448), (6, 6), (240, 240), (240, 240)),
    Overflow.NAN: ((NAN, NAN), (NAN, NAN), (6, 6), (NAN, NAN), (NAN, NAN)),
    Overflow.P3109_PROPAGATE: ((57344, INF), (448, 448), (6, 6), (240, 240), (240, 240)),
}
COLUMNS = ("e5m2", "e4m3", "e2m1", "e4m3fnuz", "binary8p4sf")


@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize("column", range(len(COLUMNS)))
def test_overflow_rows(overflow: Overflow, column: int) -> None:
    for x, right in zip((1e6, INF), ROWS[overflow][column], strict=True):
        for rounding in (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.STOCHASTIC):
            for sign in (1, -1):
                got = meaning(sign * x, COLUMNS[column], rounding, overflow)
                np.testing.assert_equal(got, sign * right, err_msg=f"{sign * x} {rounding}")


# IEEE 754, 7.4: where +10^6, -10^6 go under each direction: "out" is what the row says, "in" the largest finite value.
DIRECTIONS = {
    Rounding.TOWARD_ZERO: ("in", "in"),
    Rounding.UP: ("out", "in"),
    Rounding.DOWN: ("in", "out"),
}


@pytest.mark.parametrize("rounding", DIRECTIONS)
@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize("column", range(len(COLUMNS)))
def test_directed_overflow(rounding: Rounding, overflow: Overflow, column: int) -> None:
    largest = FORMATS[COLUMNS[column]].max
    for sign, way in zip((1, -1), DIRECTIONS[rounding], strict=True):
        finite, infinite = ROWS[overflow][column]
        got = meaning(sign * 1e6, COLUMNS[column], rounding, overflow)
        np.testing.assert_equal(got, sign * (largest if way == "in" else finite))
        # "An infinite input is exact": it goes where the row says, whatever the rounding.
        np.testing.assert_equal(meaning(sign * INF, COLUMNS[column], rounding, overflow), sign * infinite)


@pytest.mark.parametrize(
    ("name", "overflow", "right"),
    [
        ("e5m2", "ieee", 57344),  # 0x7B is odd, infinity 0x7C even
        ("fp16", "ieee", 65504),
        ("binary8p4se", "ieee", INF),  # 0x7E is even, infinity 0x7F odd
        ("binary8p4ue", "ieee", None),  # 0xFD is odd
        ("e4m3", "ieee", 448),  # never NaN, though 0x7F is odd
        ("e4m3fnuz", "ieee", 240),
        ("e8m0", "ieee", 2.0**127),
        ("binary8p4se", "saturate", 224),
        ("binary8p4sf", "p3109", 240),
        ("e5m2", "nan", 57344),
    ],
)
def test_overflow_to_odd(name: str, overflow: str, right: float | None) -> None:
    format = FORMATS[name]
    right = format.max if right is None else right
    for x in (np.nextafter(format.max, INF), format.max * 1.01, format.max * 2, 1e300):
        assert meaning(x, name, "to-odd", overflow) == right
        if format.signed:
            assert meaning(-x, name, "to-odd", overflow) == -right


# ---- formats without a sign, without zero ----------------------------------------------------------------------------
CLAMPS = {Overflow.SATURATE, Overflow.PROPAGATE, Overflow.P3109_PROPAGATE}  # finite negatives, under every rounding
INWARD = {Rounding.TOWARD_ZERO, Rounding.UP}  # P3109's SatNone clamps them too


@pytest.mark.parametrize("name", ["binary8p4ue", "binary8p4uf", "binary6p1ue", "binary5p5uf"])
@pytest.mark.parametrize("overflow", Overflow)
def test_negatives_in_unsigned_formats(name: str, overflow: Overflow) -> None:
    """P3109: NaN without saturation, the lowest value with it; what rounds to zero first is zero."""
    format = FORMATS[name]
    for rounding in DETERMINISTIC:
        clamps = overflow in CLAMPS or (overflow is Overflow.P3109 and rounding in INWARD)
        for x in (-1e300, -format.max, -format.smallest_subnormal):
            np.testing.assert_equal(meaning(x, format, rounding, overflow), 0.0 if clamps else NAN)
        np.testing.assert_equal(
            meaning(-INF, format, rounding, overflow), 0.0 if overflow in CLAMPS - {Overflow.PROPAGATE} else NAN
        )
    tiny = -format.smallest_subnormal / 4
    for rounding in (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY, Rounding.TOWARD_ZERO, Rounding.UP):
        assert fp.encode(tiny, Cast(format, rounding, overflow)) == 0
    assert fp.encode(-0.0, Cast(format, overflow=overflow)) == 0


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("overflow", Overflow)
def test_e8m0(rounding: Rounding, overflow: Overflow) -> None:
    """No sign, no zero: NaN, or 2^-127 where finite values clamp; 0 < x < 2^-127 only fails downward."""
    clamps = overflow in CLAMPS or (overflow is Overflow.P3109 and rounding in INWARD)
    smallest, nowhere = 2.0**-127, 2.0**-127 if clamps else NAN
    for x in (0.0, -0.0, -1.0, -(2.0**-200)):
        np.testing.assert_equal(meaning(x, "e8m0", rounding, overflow), nowhere)
    downward = rounding in (Rounding.DOWN, Rounding.TOWARD_ZERO)
    for x in (2.0**-128, np.nextafter(2.0**-127, 0), 5e-324):
        np.testing.assert_equal(meaning(x, "e8m0", rounding, overflow), nowhere if downward else smallest)
    x = np.concatenate([around(FORMATS["e8m0"], "float64"), np.float64(2) ** np.arange(-160, -120)])
    check(some(x, 600 if JIT else 100), Cast("e8m0", rounding, overflow))


@pytest.mark.parametrize("name", ["e4m3fnuz", "e5m2fnuz", "float8_e4m3b11fnuz"])
def test_fnuz_has_one_zero_and_one_nan(name: str) -> None:
    x = np.array([0.0, -0.0, 1e-30, -1e-30, NAN, -NAN, INF, -INF])
    assert fp.encode(x, name).tolist() == [0, 0, 0, 0, 0x80, 0x80, 0x80, 0x80]
    largest = FORMATS[name].max_code
    assert fp.encode(x[4:], name, overflow="saturate").tolist() == [0x80, 0x80, largest, largest | 0x80]


# ---- subnormals ------------------------------------------------------------------------------------------------------
SUBNORMAL_FORMATS = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float6_e2m3fn",
                     "float4_e2m1fn", "float8_e8m0fnu", "binary8p1se", "binary8p4uf", "binary16p8se")  # fmt: skip


@pytest.mark.parametrize(
    "roundings",
    [(Rounding.NEAREST_EVEN, Rounding.UP), pytest.param(DETERMINISTIC, marks=pytest.mark.exhaustive)],
    ids=["some", "all"],
)
@pytest.mark.parametrize("name", SUBNORMAL_FORMATS)
@pytest.mark.parametrize("subnormals", Subnormals)
def test_subnormal_policies(name: str, subnormals: Subnormals, roundings: tuple[Rounding, ...]) -> None:
    """Around every value below twice the smallest normal, from all three sources."""
    format = FORMATS[name]
    normal = format.smallest_normal
    points = np.concatenate([np.linspace(0, 2, 33), [0.5, 1.0, 0.999, 0.501, 0.499]]) * normal
    points = np.concatenate(
        [points, np.nextafter(points, INF), np.nextafter(points, 0)[1:], [5e-324, 2.0**-140, 2.0**-20]]
    )
    x = np.concatenate([points, -points])
    for dtype in (np.float16, np.float32, np.float64):
        for rounding in roundings:
            with np.errstate(all="ignore"):
                check(x.astype(dtype), Cast(format, rounding, "saturate", subnormals))


def test_subnormal_policies_differ() -> None:
    """Around the smallest normal of E4M3, 2^-6, and its half; the spacing there is 2^-9."""
    just_below, subnormal = 7.75 * 2.0**-9, 3 * 2.0**-9
    rows = {
        "keep": (2.0**-6, subnormal, 2.0**-7),
        "flush-output": (2.0**-6, 0, 0),  # tininess after rounding
        "flush-output-before": (0, 0, 0),
        "flush-input": (2.0**-6, subnormal, 2.0**-7),
        "round-to-min": (2.0**-6, 0, 2.0**-6),  # the half goes up, as in chop
    }
    for policy, right in rows.items():
        got = [meaning(x, "e4m3", subnormals=policy) for x in (just_below, subnormal, 2.0**-7)]
        assert tuple(got) == right, policy
        flushed = meaning(-subnormal, "e4m3", subnormals=policy)
        assert np.signbit(flushed), "a flushed value keeps its sign"


def test_flush_input_looks_at_the_source() -> None:
    """2^-15 is subnormal in float16, normal in float32; codes bring their own format."""
    policy = {"subnormals": "flush-input"}
    assert fp.encode(np.float16(2**-15), "bf16", **policy) == 0
    assert fp.encode(np.float32(2**-15), "bf16", **policy) != 0
    assert fp.encode(np.float32(2**-130), "bf16", **policy) == 0
    assert fp.encode(-(2.0**-130), "bf16", **policy) == fp.encode(-(2.0**-130), "bf16")
    assert fp.encode(np.float64(2**-1040), "binary16p5se", rounding="up", **policy) == 0
    subnormal = np.array([1, 0x81], np.uint8)
    assert fp.cast(subnormal, source="e4m3", target="fp16", **policy).tolist() == [0, 0x8000]
    assert fp.cast(subnormal, source="e4m3", target="fp16").tolist() == [0x1800, 0x9800]
    assert fp.cast(np.array([0], np.uint8), source="e8m0", target="fp32", **policy).tolist() == [0x00400000], (
        "e8m0 has none"
    )


# ---- NaN -------------------------------------------------------------------------------------------------------------
def nans(dtype: type) -> np.ndarray[Any, Any]:
    """NaNs of both signs with several payloads, quiet and signalling."""
    bits, unsigned, t = {
        np.float16: (16, np.uint16, 10),
        np.float32: (32, np.uint32, 23),
        np.float64: (64, np.uint64, 52),
    }[dtype]
    infinity = (1 << (bits - 1)) - (1 << t)
    patterns = [infinity | p for p in (1, 1 << (t - 1), (1 << t) - 1, 1 << (t - 2), (1 << (t - 1)) | 5)]
    return np.array(patterns + [p | 1 << (bits - 1) for p in patterns], unsigned).view(dtype)


CANONICAL = {"fp16": 0x7E00, "bf16": 0x7FC0, "e4m3": 0x7F, "e5m2": 0x7E, "float8_e4m3": 0x7C, "e3m4": 0x78,
             "fp32": 0x7FC00000, "tf32": 0x3FE00}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nans_become_the_canonical_one(dtype: type) -> None:
    """Quiet, payload dropped, sign kept where the format's NaN has one (IEEE 754, 6.2.1)."""
    x = nans(dtype)
    for name, code in CANONICAL.items():
        sign = FORMATS[name].sign_mask
        for rounding in (Rounding.NEAREST_EVEN, Rounding.TO_ODD, Rounding.STOCHASTIC):
            assert fp.encode(x, name, rounding=rounding).tolist() == [code] * 5 + [code | sign] * 5
        assert fp.encode(x, name, nan="unsigned").tolist() == [code] * 10
        assert fp.encode(x, name, nan="max").tolist() == [FORMATS[name].max_code] * 10
        assert fp.encode(x, name, nan="zero").tolist() == [0] * 10
    for name, code in {"e8m0": 0xFF, "binary8p3se": 0x80, "binary8p3ue": 0xFF, "e5m2fnuz": 0x80}.items():
        assert fp.encode(x, name).tolist() == [code] * 10


def test_an_overflow_to_nan_keeps_its_sign() -> None:
    assert fp.encode(np.array([1e9, -1e9, INF, -INF]), "e4m3").tolist() == [0x7F, 0xFF, 0x7F, 0xFF]
    assert fp.encode(np.array([1e9, -1e9]), Cast("e4m3", nan="unsigned")).tolist() == [0x7F, 0x7F]


def test_another_nan_code() -> None:
    """torch writes 0x7F into float8_e5m2; it is one of the format's NaNs."""
    cast = Cast("e5m2", nan_code=0x7F)
    assert fp.encode(nans(np.float32), cast).tolist() == [0x7F] * 5 + [0xFF] * 5
    assert fp.encode(np.array([1e9, -1e9]), cast.replace(overflow="nan")).tolist() == [0x7F, 0xFF]
    with pytest.raises(ValueError, match="nan_code 124 is no NaN code of float8_e5m2; valid: 0x7d, 0x7e, 0x7f"):
        Cast("e5m2", nan_code=0x7C)


@pytest.mark.parametrize("name", [name for name in NARROW if not FORMATS[name].has_nan])
def test_formats_without_nan_raise(name: str) -> None:
    with pytest.raises(ValueError, match=r"NaN at index 1 cannot become .*no code for it; name a policy"):
        fp.encode(np.array([1.0, NAN]), name)
    assert fp.encode(np.array([-NAN]), name, nan="zero").tolist() == [0]
    assert fp.encode(np.array([-NAN]), name, nan="max").tolist() == [FORMATS[name].max_code]


def test_nan_zero_goes_where_zero_goes() -> None:
    """E8M0 has no zero."""
    for overflow in Overflow:
        cast = Cast("e8m0", overflow=overflow, nan="zero")
        assert fp.encode(NAN, cast) == reference.encode(NAN, cast) == fp.encode(0.0, cast)


def test_nan_raises_before_anything_is_written() -> None:
    out = np.full(4, 7, np.uint8)
    with pytest.raises(ValueError, match=r"NaN at index 2 .*its policy is to raise"):
        fp.encode(np.array([1.0, 2.0, NAN, 3.0]), "e4m3", nan="raise", out=out)
    assert out.tolist() == [7] * 4
    with pytest.raises(ValueError, match=r"NaN at index \(1, 0\)"):
        fp.encode(np.array([[1.0, 2.0], [NAN, 3.0]]), "e2m1")
    with pytest.raises(ValueError, match="NaN"):
        fp.encode(np.array([NAN], np.float32), Cast("e4m3", via="e2m1"))


# ---- via: rounding twice on purpose ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "bits", "once", "twice"),
    [("e4m3", 4, 1.125, 1.0), ("bf16", 8, 1.0078125, 1.0), ("fp16", 11, 1 + 2.0**-10, 1.0)],
)
def test_double_rounding(name: str, bits: int, once: float, twice: float) -> None:
    """1 + 2^-p + 2^-40 lies just above a tie; through float32 it lands on it, and the tie goes to even."""
    x = 1 + 2.0**-bits + 2.0**-40
    assert meaning(x, name) == once
    assert meaning(x, name, via="fp32") == twice
    assert meaning(x, name, via=Cast("fp32", "to-odd")) == once, "rounding to odd first is innocuous"
    below = 1 + 3 * 2.0**-bits - 2.0**-40  # just below the tie whose even neighbour is above
    assert meaning(below, name) == 1 + 2 * 2.0**-bits
    assert meaning(below, name, via="fp32") == 1 + 4 * 2.0**-bits


@pytest.mark.parametrize(
    "name", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "binary8p3se"]
)
def test_via_is_two_conversions(name: str) -> None:
    x = some(around(FORMATS[name], "float64"), 3000 if JIT else 60)
    for via in ("fp32", "fp16", Cast("bf16", "toward-zero", "saturate"), Cast("e5m2", subnormals="flush-output")):
        for rounding in (Rounding.NEAREST_EVEN, Rounding.UP):
            cast = Cast(name, rounding, via=via)
            assert cast.via is not None
            first = fp.encode(x, cast.via)
            then = fp.cast(first, source=cast.via.format, target=cast.replace(via=None))
            np.testing.assert_array_equal(fp.encode(x, cast), then)
            check(x[:: max(x.size // 100, 1)], cast)


def test_via_float32_is_what_ml_dtypes_does_with_float64() -> None:
    """The bug of a peer as a policy: all midpoints of E4M3 and E5M2, one ulp of float64 to either side."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for name in ("float8_e4m3fn", "float8_e5m2"):
        x = around(FORMATS[name], "float64")
        with np.errstate(all="ignore"):
            theirs = x.astype(getattr(ml_dtypes, name)).view(np.uint8)
        same = fp.encode(x, Cast(name, via="fp32")) == theirs
        once = fp.encode(x, name) == theirs
        number = ~np.isnan(x)
        assert same[number].all()
        assert not once[number].all()


# ---- parsing ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("policy", "wrong", "message"),
    [
        ("rounding", "nearest", "unknown rounding 'nearest'; valid: nearest-even, nearest-away, toward-zero, up, down"),
        (
            "overflow",
            "clamp",
            "unknown overflow 'clamp'; valid: ieee, saturate, propagate, p3109, nan, p3109-propagate",
        ),
        ("subnormals", "ftz", "unknown subnormals 'ftz'; valid: keep, flush-output, flush-output-before, flush-input"),
        ("nan", "keep", "unknown nan 'keep'; valid: canonical, unsigned, raise, max, zero"),
        ("stochastic", "D", "unknown stochastic 'D'; valid: A, B, C"),
        ("random_bits", 0, "random_bits must be 1 to 32, not 0"),
        ("random_bits", 33, "random_bits must be 1 to 32, not 33"),
        ("via", "fp9", "unknown format 'fp9'"),
    ],
)
def test_wrong_policies_list_what_is_valid(policy: str, wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cast("e4m3", **{policy: wrong})
    with pytest.raises(ValueError, match=message):
        fp.encode(1.0, "e4m3", **{policy: wrong})


def test_policies_are_parsed_once_and_loosely() -> None:
    assert Rounding("Nearest_Even") is Rounding.NEAREST_EVEN
    assert Cast("e4m3", "up") == Cast(FORMATS["e4m3"], Rounding.UP)
    assert hash(Cast("e4m3", "up")) == hash(Cast("float8_e4m3fn", Rounding.UP))
    for enum in (Rounding, Overflow, Subnormals, NaN, Stochastic):
        assert all(enum(member.value) is member for member in enum)
    with pytest.raises(TypeError, match="random_bits must be an int, not float"):
        Cast("e4m3", random_bits=8.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes at most 31 random bits, not 32"):
        Cast(FloatFormat("long", 32, 31, 0, signed=True, infinities=False), "stochastic")


def test_a_cast_stands_wherever_a_format_does() -> None:
    cast = Cast("e4m3", "up", "saturate")
    assert fp.encode(1.01, cast) == cast.encode(1.01) == fp.encode(1.01, "e4m3", rounding="up")
    assert fp.quantize(1.01, cast) == cast.quantize(1.01) == 1.125
    assert fp.encode(1.01, cast, rounding="down") == fp.encode(1.0, "e4m3"), "keywords replace"
    assert cast.decode(np.uint8(56)) == 1.0
    assert cast.replace(rounding="down").rounding is Rounding.DOWN


# ---- all together ----------------------------------------------------------------------------------------------------
def test_random_mixtures_of_policies() -> None:
    """Casts drawn at random from the whole space of policies and formats, against the reference."""
    rng = np.random.default_rng(20)
    names = list(DEFAULT)
    for _ in range(250 if JIT else 60):
        format = FORMATS[rng.choice(names)]
        nan = any_nan(format) if not format.has_nan else rng.choice(["canonical", "unsigned", "max", "zero"])
        cast = Cast(
            format,
            rng.choice(np.array(DETERMINISTIC)),
            rng.choice(np.array(list(Overflow))),
            rng.choice(np.array(list(Subnormals))),
            nan,
        )
        x = around(format, rng.choice(["float32", "float64"]))
        check(np.concatenate([x[rng.integers(x.size, size=25)], x[-14:]]), cast)


def test_every_pair_of_overflow_and_subnormal_policies() -> None:
    for overflow, subnormals in itertools.product(Overflow, Subnormals):
        for name in ("float8_e4m3fn", "float8_e5m2", "binary8p3ue"):
            for rounding in DETERMINISTIC if JIT else DETERMINISTIC[:1]:
                check(some(around(FORMATS[name], "float32"), 60), Cast(name, rounding, overflow, subnormals))


@pytest.mark.parametrize("wrong", [True, 1.0, np.float32(1), "1", np.True_])
def test_random_bits_are_judged_by_their_own_type_each_time(wrong: object) -> None:
    """1 == True == 1.0: a result that was worked out for one must not be given for another."""
    codes = np.array([0x38], np.uint8)
    calls = [
        lambda bits: fp.encode(1.5, "e4m3", rounding="stochastic", random_bits=bits),
        lambda bits: fp.quantize(1.5, "e4m3", rounding="stochastic", random_bits=bits),
        lambda bits: fp.cast(codes, source="e4m3", target="e2m1", rounding="stochastic", random_bits=bits),
        lambda bits: fp.add(1.5, 1.5, "e4m3", random_bits=bits),
        lambda bits: fp.sum(np.ones(3), "e4m3", random_bits=bits),
        lambda bits: fp.scaling.mx(np.ones(32), "e4m3", random_bits=bits),
        lambda bits: fp.Cast("e4m3", random_bits=bits),
    ]
    for call in calls:
        for _ in range(2):
            with pytest.raises(TypeError, match="random_bits must be an int"):
                call(wrong)
            call(1)
            call(np.int64(1))


def test_a_nan_code_is_an_int() -> None:
    assert fp.Cast("e4m3", nan_code=np.uint8(0x7F)).nan_code == 0x7F
    for wrong in (127.0, True):
        with pytest.raises(TypeError, match="nan_code must be an int"):
            fp.Cast("e4m3", nan_code=wrong)  # type: ignore[arg-type]
